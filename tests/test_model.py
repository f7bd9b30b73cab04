"Each model in `model_registry`: shapes, parameters, the way through `config`, pixels that are refused"
import pytest, torch, torch.nn.functional as F
from functools import cache
from hypothesis import given, settings, strategies as st
from torch import nn
from mnist_fast.model import FlattenNHWC, NormalizePixels, SummedHeads, count_params, mnist_model, model_registry

eps = 2**-23
few = settings(max_examples=12, deadline=None)
each = pytest.mark.parametrize('name', model_registry)
seed = st.integers(0, 99)

def pixels(n, seed=0, shape=(784,)): return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))

@cache
def model(name, n_out=10):
    torch.manual_seed(0)
    return mnist_model(name, n_out=n_out)

@torch.no_grad()
def rel_close(a, b, terms):
    "Equal up to the rounding of sums of `terms` numbers, relative to the largest output"
    assert (a-b).abs().max()<=terms*eps*max(1, b.abs().max().item())

@each
@few
@given(st.integers(1, 9), st.sampled_from([(784,),(1,28,28),(28,28)]), st.sampled_from([1,2,10,26]), seed)
def test_output(name, n, shape, n_out, seed):
    "A row of `n_out` for each item, the same for rows and for images"
    net,x = model(name, n_out).eval(),pixels(n, seed)
    with torch.no_grad(): out,same = net(x),net(x.reshape(-1,*shape))
    assert out.shape==(n,n_out) and out.dtype==torch.float32 and out.isfinite().all() and torch.equal(out, same)

@each
def test_gradients(name):
    "Each parameter gets a gradient"
    net = mnist_model(name, n_out=10).train()
    F.cross_entropy(net(pixels(16)), torch.arange(16)%10).backward()
    assert [k for k,p in net.named_parameters() if p.grad is None or not p.grad.any()]==[]

@each
@few
@given(st.integers(2, 20), seed, st.randoms())
def test_batch_independence(name, n, seed, rnd):
    "In eval mode the output of an item does not depend on the other items of its batch"
    net,x = model(name).eval(),pixels(n, seed)
    some = rnd.sample(range(n), rnd.randint(1, n))
    terms = sum(p[0].numel() for p in net.parameters() if p.dim()>1) # of one output, over all layers
    with torch.no_grad(): rel_close(net(x[some]), net(x)[some], terms)

def _conv(ni, nf, ks): return ni*nf*ks*ks+2*nf # and its batch normalisation
def _lin(ni, nf): return ni*nf+nf

counts = dict(linear=lambda o: _lin(784, o), simple_net=lambda o, n_hidden: _lin(784, n_hidden)+_lin(n_hidden, o),
    cnn=lambda o, width: _conv(1, width, 5)+_conv(width, 2*width, 3)+_conv(2*width, 4*width, 3)+_lin(64*width, o),
    fast_cnn=lambda o, width, n_hidden: _conv(1, width, 5)+36*width*n_hidden+2*n_hidden+_lin(n_hidden, o),
    deep_cnn=lambda o, widths: _deep(o, *widths), branch_cnn=lambda o, widths: _branch(o, *widths))

def _deep(o, a, b, c): return _conv(1, a, 5)+_conv(a, b, 3)+_conv(b, b, 3)+_conv(b, c, 3)+_conv(c, c, 3)+_lin(9*c, o)
def _branch(o, a, b, c): return _deep(o, a, b, c)+_conv(c, c, 3)-9*c*o+16*b*o+16*c*o+4*c*o+2*o

small = st.integers(1, 12)
widths = st.tuples(small, small, small)
sizes = dict(linear={}, simple_net=dict(n_hidden=small), cnn=dict(width=small), fast_cnn=dict(width=small, n_hidden=small), deep_cnn=dict(widths=widths),
    branch_cnn=dict(widths=widths))

def test_all_models_are_counted(): assert counts.keys()==sizes.keys()==model_registry.keys()

@each
@few
@given(st.integers(1, 12), st.data())
def test_sizes(name, n_out, data):
    "The number of parameters by hand, and the same model again from `config`"
    kw = data.draw(st.fixed_dictionaries(sizes[name]))
    net = mnist_model(name, n_out=n_out, **kw)
    assert count_params(net)==counts[name](n_out, **kw)==sum(w.numel() for k,w in net.state_dict().items() if k.endswith(('weight','bias')))
    assert net.config==dict(name=name, n_out=n_out, **kw)
    again = mnist_model(**net.config)
    again.load_state_dict(net.state_dict())
    x = pixels(3)
    with torch.no_grad(): assert torch.equal(net.eval()(x), again.eval()(x))

@each
def test_seed(name):
    "The same seed gives the same weights, and the defaults stand in `config`"
    def make():
        torch.manual_seed(3)
        return mnist_model(name)
    a,b = make(),make()
    assert all(torch.equal(p, q) for p,q in zip(a.state_dict().values(), b.state_dict().values()))
    assert a.config['n_out'] in (1,10) and count_params(mnist_model(**a.config))==count_params(a)

@each
@pytest.mark.parametrize('bad,why', [(pixels(2)*255,'255'), (torch.ones(2,784, dtype=torch.uint8),'uint8'), (pixels(2, shape=(783,)),'783'),
    (pixels(2, shape=(3,28,28)),'28'), (torch.ones(784),'784')], ids=['scale','bytes','short','rgb','one'])
def test_bad_pixels(name, bad, why):
    with pytest.raises(ValueError, match=why): model(name)(bad)

@few
@given(st.integers(0, 9), st.sampled_from([(784,),(1,28,28),(28,28)]), st.floats(-1, 1), st.floats(.1, 2), seed)
def test_normalize(n, shape, mean, std, seed):
    x = pixels(n, seed)
    before,out = x.clone(),NormalizePixels(*shape, mean=mean, std=std)(x)
    want = ((x.double()-mean)/std).reshape(n, *shape)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=8*eps*2/std) # two operations on numbers of at most 2
    assert torch.equal(x, before) and torch.equal(NormalizePixels(*shape)(x), x.reshape(n, *shape)) and count_params(NormalizePixels(784))==0

@few
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), seed, st.booleans())
def test_flatten(b, c, h, w, seed, last):
    "The values are in the order row, column, channel; `channels_last` is not copied"
    x = pixels(b, seed, (c,h,w))
    if last: x = x.contiguous(memory_format=torch.channels_last)
    out = FlattenNHWC()(x)
    assert out.shape==(b,h*w*c) and torch.equal(out.reshape(b,h,w,c).permute(0,3,1,2), x)
    if last: assert out.data_ptr()==x.data_ptr()

@few
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), seed)
def test_summed_heads(n, n_out, depth, seed):
    "The output is the sum of the heads, each on the output of its stage"
    torch.manual_seed(seed)
    stages = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(depth)]
    net,x,want = SummedHeads(stages, [32]*depth, n_out),pixels(n, seed, (2,4,4)),0
    out = net(x)
    for stage,head in zip(stages, net.heads):
        x = stage(x)
        want = want+x.permute(0,2,3,1).flatten(1)@head.weight.T+head.bias
    rel_close(out, want, 33*depth)
    assert {k.split('.')[0] for k in net.state_dict()}=={'stages','heads'}

def test_count_params():
    assert count_params(nn.ReLU())==0 and count_params(nn.Linear(3, 2))==8
    assert count_params(nn.BatchNorm2d(5))==10, 'running statistics are no parameters'

@pytest.mark.parametrize('name,kw,why', [('resnet',{},'resnet'), ('',{},'linear'), ('linear',dict(width=3),'width'), ('cnn',dict(n_out=-1),'cnn'),
    ('deep_cnn',dict(widths=(1,2)),'widths'), ('simple_net',dict(n_hidden='many'),'many')], ids=str)
def test_unknown(name, kw, why):
    with pytest.raises(ValueError, match=why): mnist_model(name, **kw)

def test_own_model(monkeypatch):
    def mine(n_out=10, k=2): return nn.Sequential(NormalizePixels(784), nn.Linear(784, n_out*k), nn.Linear(n_out*k, n_out))
    monkeypatch.setitem(model_registry, 'mine', mine)
    assert mnist_model('mine', k=3).config==dict(name='mine', n_out=10, k=3)
