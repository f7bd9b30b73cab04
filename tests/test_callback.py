"Augmentation: a function of the seed and its strengths, for every shape that the loaders give. Hard examples: chosen by their loss"
import pytest, torch
from functools import partial, update_wrapper
from hypothesis import given, settings, strategies as st
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from mnist_fast.callback import HardExamples, augment
from mnist_fast.data import TensorDL, get_digits
from mnist_fast.loss import cross_entropy
from mnist_fast.model import linear

still = dict(rotate=0, scale=0, shear=0, shift=0, warp=0)

def blob(*shape):
    x = torch.zeros(shape).view(-1,28,28)
    x[:,10:18,10:18] = 1
    return x.view(shape)

def middle(x):
    "Centre of the ink, in pixels, and its size along both axes"
    x,i = x.view(-1,28,28),torch.arange(28.)
    m = [x.sum(d).mul(i).sum(1)/x.sum((1,2)) for d in (2,1)]
    return torch.stack(m, 1),torch.stack([(x.sum(d)*(i-c[:,None])**2).sum(1)/x.sum((1,2)) for d,c in zip((2,1), m)], 1)**.5

@given(st.integers(1,9), st.sampled_from([(784,),(1,28,28)]), st.floats(0,30), st.floats(0,.3), st.floats(0,.3), st.floats(0,4), st.floats(0,1))
@settings(max_examples=40, deadline=None)
def test_shape_and_range(n, shape, rotate, scale, shear, shift, warp):
    x = torch.rand(n, *shape)
    y = augment(x, rotate, scale, shear, shift, warp)
    assert y.shape==x.shape and y.dtype==x.dtype and 0<=y.min() and y.max()<=1+1e-6

@pytest.mark.parametrize('shape', [(64,784),(64,1,28,28)])
def test_strengths(shape):
    "Each strength does its own work, as far as it says, and no other"
    torch.manual_seed(0)
    x = blob(*shape)
    at,size = middle(x)
    assert torch.allclose(augment(x, **still), x, atol=1e-4)
    moved,_ = middle(augment(x, **still|dict(shift=3)))
    assert 2<(moved-at).abs().max()<=3.01 and (moved-at).mean().abs()<1
    c,s = middle(augment(x, **still|dict(scale=.2)))
    assert (c-at).abs().max()<.1 and .7<(s/size).min()<.95 and 1.05<(s/size).max()<1.35
    c,_ = middle(augment(x, **still|dict(rotate=45)))
    assert (c-at).abs().max()<.1
    assert not torch.allclose(augment(x, **still|dict(warp=1)), x, atol=.1)

def test_each_image_for_itself():
    torch.manual_seed(0)
    y = augment(blob(8,1,28,28))
    assert len({o.numpy().tobytes() for o in y})==8

def test_gradient():
    x = torch.rand(2,1,28,28, requires_grad=True)
    augment(x).sum().backward()
    assert x.grad.abs().sum()>0

@pytest.mark.parametrize('start', [0.,.5])
def test_hard_examples_on_tensors(start):
    "Our own loader, a loss of ours with smoothing, two runs alike: the wrongly labelled items come up in each later epoch"
    def run():
        set_seed(3)
        digits = get_digits('digits')
        x,y = digits.x[:500,None],digits.y[:500].clone()
        y[:20] = (y[:20]+1)%10
        dl = TensorDL(x, y, bs=64, shuffle=True, seed=1)
        loss = update_wrapper(partial(cross_entropy, ls=.1), cross_entropy)
        learn = Learner(DataLoaders(dl, dl), linear(10), loss, opt_func=SGD, lr=.1, cbs=HardExamples(start, .2, .1))
        with learn.no_logging(): learn.fit(6)
        return learn
    a,b = run(),run()
    assert torch.equal(a.model[1].weight, b.model[1].weight) and torch.equal(a.hard_examples.scores, b.hard_examples.scores)
    assert len(a.hard_examples.idxs)==150 and len(set(a.hard_examples.idxs.tolist()))==150
    assert set(a.hard_examples.scores.topk(60).indices.tolist())>=set(range(15)) or start==0
    assert len(a.dls.train)==8 and a.recorder.iters[-1]==(sum([8]*3+[3]*3) if start else 18)

@pytest.mark.parametrize('kw', [dict(hard=0), dict(easy=-.1), dict(start=2), dict(hard=.7, easy=.4)])
def test_hard_examples_refuses(kw):
    with pytest.raises(ValueError, match='parts of the whole'): HardExamples(**kw)
