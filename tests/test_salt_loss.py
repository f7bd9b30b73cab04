"Losses for masks: against slow programs, their gradients, and what they must be for masks that are empty, full or right"
import pytest, torch
from conftest import names
from math import log, exp
from torch.autograd import gradcheck

from mnist_fast.loss import binary_cross_entropy
from mnist_fast.salt.loss import bce_dice, bce_lovasz, dice_loss, lovasz_hinge

losses = pytest.mark.parametrize('f', [dice_loss, bce_dice, lovasz_hinge, bce_lovasz])

def batch(n=4, side=5, seed=0, dtype=torch.double):
    gen = torch.Generator().manual_seed(seed)
    targ = torch.rand(n, 1, side, side, generator=gen)<torch.linspace(0, 1, n)[:,None,None,None]
    return torch.randn(n, 1, side, side, generator=gen, dtype=dtype)*2,targ.byte()

def slow_dice(p, t):
    p,t = [1/(1+exp(-o)) for o in p.flatten().tolist()],t.flatten().tolist()
    return 1-(2*sum(a*b for a,b in zip(p, t))+1)/(sum(p)+sum(t)+1)

def slow_lovasz(p, t):
    "Pixels become wrong one after the other, the one with the largest error first"
    items = sorted(((1-a*(2*b-1), i) for i,(a,b) in enumerate(zip(p.flatten().tolist(), t.flatten().tolist()))), reverse=True)
    true = {i for i,b in enumerate(t.flatten().tolist()) if b}
    def jaccard_loss(wrong):
        pred = true^wrong
        return 1-len(pred&true)/len(pred|true) if pred|true else 0.
    wrong,total,last = set(),0.,0.
    for error,i in items:
        wrong.add(i)
        now = jaccard_loss(wrong)
        total += max(error, 0)*(now-last)
        last = now
    return total

def slow_bce(p, t): return sum(log(1+exp(-a*(2*b-1))) for a,b in zip(p.flatten().tolist(), t.flatten().tolist()))/p.numel()

slow = {dice_loss: slow_dice, lovasz_hinge: slow_lovasz,
    bce_dice: lambda p,t: slow_bce(p, t)+slow_dice(p, t), bce_lovasz: lambda p,t: slow_bce(p, t)+slow_lovasz(p, t)}

@losses
@pytest.mark.parametrize('seed', range(5))
def test_against_a_slow_program(f, seed):
    p,t = batch(seed=seed)
    want = [slow[f](a, b) for a,b in zip(p, t)]
    assert f(p, t, 'none').tolist()==pytest.approx(want, abs=1e-9)
    assert f(p, t).item()==pytest.approx(sum(want)/4, abs=1e-9) and f(p, t, 'sum').item()==pytest.approx(sum(want), abs=1e-9)

@losses
def test_gradient(f):
    p,t = batch(3, 3)
    assert gradcheck(lambda o: f(o, t), p.requires_grad_())

@losses
@pytest.mark.parametrize('value', [0, 1])
def test_empty_and_full(f, value):
    t = torch.full((2, 1, 6, 6), value)
    right,wrong = (torch.full((2, 1, 6, 6), s*(20.*value-10)) for s in (1,-1))
    assert f(right, t)<.01 and f(wrong, t)>f(right, t)+.9

@losses
@pytest.mark.parametrize('dtype', [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_types(f, dtype):
    p,t = batch(dtype=torch.float)
    t = t.to(dtype)
    assert f(p, t).item()==pytest.approx(f(p.double(), t).item(), rel=1e-4) and f(p, t).dtype==torch.float

@losses
def test_better_is_lower(f):
    "From all wrong to all right, in steps"
    _,t = batch()
    sign = 2*t.double()-1
    values = [f(sign*k, t).item() for k in (-4,-2,-.5,.5,2,4)]
    assert values==sorted(values, reverse=True) and values[0]>values[-1]+.5

@losses
def test_images_are_independent(f):
    p,t = batch()
    order = torch.tensor([2,0,3,1])
    assert torch.allclose(f(p, t, 'none')[order], f(p[order], t[order], 'none'))

def test_lovasz_is_the_jaccard_loss_of_masks():
    "For logits of 1 and -1 the hinge is twice one minus the IoU"
    p,t = batch(seed=3)
    pred = p>0
    iou = [(a&b).sum().item()/max(1, (a|b).sum().item()) if (a|b).any() else 1 for a,b in zip(pred, t.bool())]
    assert lovasz_hinge(2*pred.double()-1, t, 'none').tolist()==pytest.approx([2*(1-o) for o in iou])

def test_mean_of_both():
    p,t = batch()
    assert bce_dice(p, t).item()==pytest.approx((binary_cross_entropy(p, t)+dice_loss(p, t)).item())

@losses
def test_refuses(f):
    p,t = batch()
    for a,b,word in ((p,t[:1],'shape'), (p[:,0],t,'shape'), (p,t*255,'value 255'), (p,t*.5,'value 0.5')):
        with pytest.raises(ValueError) as e: f(a, b)
        names(e, word)

@losses
def test_half_precision(f):
    "Thousands of pixels are counted exactly, as with float32"
    p,t = batch(2, 101, dtype=torch.float)
    p = p.half()
    assert f(p, t).item()==pytest.approx(f(p.float(), t).item(), rel=1e-5)
