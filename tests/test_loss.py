"The losses over random shapes, against PyTorch's own formulas"
import math, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from mnist_fast.loss import batch_accuracy, binary_cross_entropy, class_probs, cross_entropy, mnist_loss, mnist_loss10, sigmoid

eps = 2**-23
few = settings(max_examples=40, deadline=None)
n,seed,scale = st.integers(1, 33),st.integers(0, 99),st.sampled_from([.1,1.,5.])
reduction,ls = st.sampled_from(['mean','sum','none']),st.sampled_from([0.,.1,.5,1.])
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)

def randn(*shape, seed, scale=1.): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))*scale
def labels(*shape, seed, n=2): return torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))
def reduce(x, how): return x.flatten() if how=='none' else getattr(x, how)()

def close(got, want, terms=1, each=4.):
    "Equal up to the rounding of `terms` additions of numbers of at most `each`, computed in float64 for `want`"
    torch.testing.assert_close(got.double(), want, rtol=0, atol=8*eps*terms*each)

@few
@given(shapes, seed, scale)
def test_sigmoid(shape, seed, scale):
    x = randn(*shape, seed=seed, scale=scale)
    close(sigmoid(x), 1/(1+(-x.double()).exp()), each=1.)
    assert sigmoid(torch.tensor([-1e4,0.,1e4])).tolist()==[0,.5,1]

@few
@given(shapes, seed, scale, reduction)
def test_mnist_loss(shape, seed, scale, how):
    "The L1 distance of the sigmoid from the targets"
    x,y = randn(*shape, seed=seed, scale=scale),labels(*shape, seed=seed)
    want = reduce((x.double().sigmoid()-y).abs(), how)
    close(mnist_loss(x, y, how), want, x.numel() if how=='sum' else 1, 1.)
    assert torch.equal(mnist_loss(x, y, how), mnist_loss(x, y.float(), how)) and torch.equal(mnist_loss(x, y), mnist_loss(x, y, 'mean'))

@few
@given(shapes, seed, scale)
def test_gradients(shape, seed, scale):
    "The gradients of the sums are σ(1-σ) towards the wrong side, and σ-y"
    x,y = randn(*shape, seed=seed, scale=scale).requires_grad_(),labels(*shape, seed=seed)
    p = x.detach().double().sigmoid()
    for f,want in ((mnist_loss,p*(1-p)*(1-2*y)),(binary_cross_entropy,p-y)): close(torch.autograd.grad(f(x, y, 'sum'), x)[0], want, each=1.)

@few
@given(shapes, seed, scale)
def test_batch_accuracy(shape, seed, scale):
    x,y = randn(*shape, seed=seed, scale=scale),labels(*shape, seed=seed)
    x[x.abs()<1e-6] = 1. # sigmoid(x) rounds to 0.5 next to 0
    right = sum((a>0)==(b==1) for a,b in zip(x.flatten().tolist(), y.flatten().tolist()))
    close(batch_accuracy(x, y), torch.tensor(right/x.numel(), dtype=torch.double), each=1.)

@few
@given(n, seed, scale, reduction)
def test_mnist_loss10(n, seed, scale, how):
    x,y = randn(n, 10, seed=seed, scale=scale),labels(n, seed=seed, n=10)
    want = reduce(1-(x.double().softmax(1)*F.one_hot(y, 10)).sum(1), how)
    close(mnist_loss10(x, y, how), want, n if how=='sum' else 1, 10.)

@few
@given(n, seed, scale, reduction, ls)
def test_cross_entropy(n, seed, scale, how, ls):
    "Minus the logarithm of the softmax, weighted by the smoothed targets"
    x,y = randn(n, 10, seed=seed, scale=scale),labels(n, seed=seed, n=10)
    target = F.one_hot(y, 10).double()*(1-ls)+ls/10
    want = reduce(-(target*x.double().log_softmax(1)).sum(1), how)
    top = x.abs().max().item()*2+math.log(10)
    close(cross_entropy(x, y, how, ls), want, 10*(n if how=='sum' else 1), top)
    assert torch.equal(cross_entropy(x, y, how, ls), F.cross_entropy(x, y, reduction=how, label_smoothing=ls))

@few
@given(shapes, seed, scale, reduction, ls)
def test_binary_cross_entropy(shape, seed, scale, how, ls):
    x,y = randn(*shape, seed=seed, scale=scale),labels(*shape, seed=seed)
    target,z = y*(1-ls)+ls/2,x.double()
    want = reduce(-(target*F.logsigmoid(z)+(1-target)*F.logsigmoid(-z)), how)
    close(binary_cross_entropy(x, y, how, ls), want, x.numel() if how=='sum' else 1, x.abs().max().item()+1)

@few
@given(n, seed, scale)
def test_two_of_ten(n, seed, scale):
    "The outputs -x/2 and x/2 of two classes have the probabilities of one output x, so the losses for two and for ten classes agree"
    x,y = randn(n, 1, seed=seed, scale=scale),labels(n, 1, seed=seed)
    two = torch.cat([-x/2,x/2, torch.full((n,8), -torch.inf)], 1)
    close(mnist_loss10(two, y[:,0]), mnist_loss(x, y).double(), each=1.)
    close(cross_entropy(two, y[:,0]), binary_cross_entropy(x, y).double(), each=x.abs().max().item()+1)

@few
@given(n, st.integers(1, 12), seed, scale, st.sampled_from([torch.float32,torch.float64,torch.bfloat16,torch.float16]))
def test_class_probs(n, c, seed, scale, dtype):
    "One output: the sigmoid, three first, then seven; more: the softmax. Always float32, a row for each item"
    out = randn(n, c, seed=seed, scale=scale).to(dtype)
    p,z = class_probs(out),out.double()
    want = torch.cat([z.sigmoid(),1-z.sigmoid()], 1) if c==1 else z.softmax(1)
    assert p.dtype==torch.float32 and p.shape==(n,max(c, 2))
    close(p, want, c, z.abs().max().item()+1)
    close(p.sum(1), torch.ones(n, dtype=torch.double), max(c, 2), 1.)
    if c==1: assert torch.equal(class_probs(out[:,0]), p) and torch.equal((p.argmax(1)==0)[out[:,0].abs()>.01], (out[:,0]>0)[out[:,0].abs()>.01])

def test_class_probs_of_nothing(): assert class_probs(torch.zeros(0,1)).shape==(0,2) and class_probs(torch.zeros(0,10)).shape==(0,10)

binary = pytest.mark.parametrize('f', [mnist_loss, binary_cross_entropy, batch_accuracy], ids=lambda f: f.__name__)
ten = pytest.mark.parametrize('f', [mnist_loss10, cross_entropy], ids=lambda f: f.__name__)

@binary
@settings(max_examples=20, deadline=None)
@given(st.tuples(shapes, shapes).filter(lambda o: o[0]!=o[1]))
def test_binary_shapes(f, o):
    a,b = o
    with pytest.raises(ValueError) as e: f(torch.zeros(a), torch.zeros(b))
    assert str(tuple(a)) in str(e.value) and str(tuple(b)) in str(e.value)

@binary
@pytest.mark.parametrize('bad', [2, -1, 7, .5, math.nan])
def test_binary_labels(f, bad):
    with pytest.raises(ValueError, match='only 0 and 1'): f(torch.zeros(3,1), torch.tensor([[0],[bad],[1]]))

@ten
@pytest.mark.parametrize('x,y', [((3,10),(3,1)),((3,10),(4,)),((3,9),(3,)),((3,1),(3,)),((10,),(10,)),((3,10),(3,10)),((1,3,10),(3,))], ids=str)
def test_ten_shapes(f, x, y):
    with pytest.raises(ValueError) as e: f(torch.zeros(x), torch.zeros(y, dtype=torch.long))
    assert str(y) in str(e.value)

@ten
@pytest.mark.parametrize('bad', [-1, 10, 255])
def test_ten_labels(f, bad):
    with pytest.raises(ValueError, match=str(bad)): f(torch.zeros(3,10), torch.tensor([0,bad,9]))

@pytest.mark.parametrize('f', [mnist_loss, binary_cross_entropy, mnist_loss10, cross_entropy], ids=lambda f: f.__name__)
def test_for_fastai(f):
    "`activation` and `decodes` agree with `class_probs`"
    two = f in (mnist_loss,binary_cross_entropy)
    out = randn(9, 1 if two else 10, seed=0)
    p,probs = f.activation(out),class_probs(out)
    torch.testing.assert_close(p, probs[:,:1] if two else probs, rtol=8*eps, atol=0)
    assert f.y_int is True and f.decodes(p).dtype==torch.int64
    assert torch.equal(f.decodes(p).flatten(), (probs.argmax(1)==0).long() if two else probs.argmax(1))
