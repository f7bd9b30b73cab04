"Augmentation: a function of the seed and its strengths, for every shape that the loaders give. Hard examples: chosen by their loss. The others: in every Learner"
import pytest, torch
from functools import partial, update_wrapper
from hypothesis import given, settings, strategies as st
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from mnist_fast import scratch
from mnist_fast.callback.training import EMA, HardExamples, KeepBest, StopAt
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.callback.augment import augment
from mnist_fast.data.loader import TensorDL, mnist_dls
from mnist_fast.data.source import get_digits
from mnist_fast.learner import FastLearner
from mnist_fast.loss import cross_entropy
from mnist_fast.model import linear, mnist_model

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

def learner(cls=Learner, recipe='cnn', seed=0, **kwargs):
    set_seed(seed)
    learn = cls(mnist_dls('digits', bs=64, seed=seed), mnist_model(recipe, n_out=10), cross_entropy, opt_func=SGD, lr=.1, metrics=accuracy, **kwargs)
    learn.logger = lambda *_: None
    return learn

def weights(learn): return {k: o.clone() for k,o in learn.model.state_dict().items()}

def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)

mks = dict(stop=lambda: StopAt('accuracy', .9), best=lambda: KeepBest('accuracy'), ema=lambda: EMA(.9), guard=NaNGuard, norm=GradNorm, hard=lambda: HardExamples(.3, .3, .1))

@pytest.mark.parametrize('cb', mks)
def test_in_each_learner(cb):
    "fastai's Learner, the faster one and the one from scratch end with the same weights"
    def fitted(cls):
        learn = learner(cls, cbs=mks[cb]())
        learn.fit(3)
        return learn
    learns = [fitted(o) for o in (Learner, FastLearner, scratch.Learner)]
    assert same(weights(learns[0]), weights(learns[1])) and same(weights(learns[0]), weights(learns[2]))
    assert [list(o) for o in learns[0].recorder.values]==[list(o) for o in learns[1].recorder.values]

def test_validate_leaves_them_alone():
    "Validation and prediction after the fit change nothing and end nothing"
    learn = learner(cbs=[StopAt('accuracy', .5), KeepBest('accuracy'), EMA(.9), NaNGuard(), HardExamples()])
    learn.fit(4)
    assert len(learn.recorder.values)<4 and learn.recorder.stopped.startswith('accuracy reached 0.')
    before,model = weights(learn),learn.model
    a,b = learn.validate(),learn.validate()
    learn.get_preds()
    assert a==b and same(before, weights(learn)) and learn.model is model
    learn.fit(1)
    assert not same(before, weights(learn))

def test_ema_batch_norm():
    "The buffers are averaged as the weights are, and the model stays the model"
    learn = learner(cbs=EMA(.95))
    learn.fit(4)
    assert learn.ema.raw is None and learn.model[2].num_batches_tracked>0
    for p,q in zip(learn.model.state_dict().values(), learn.ema.average.module.state_dict().values()): assert torch.equal(p, q)
    assert learn.validate()[1]>.9

def test_the_best_average():
    "KeepBest keeps what was validated, which is EMA's average"
    class Seen(Callback):
        order,seen = 5,()
        def before_validate(self): self.seen = [*self.seen, {k: o.clone() for k,o in self.model.state_dict().items()}]
    learn = learner(cbs=[EMA(.95), KeepBest('accuracy'), seen := Seen()])
    learn.fit_one_cycle(4, 2.)
    accs = [o[2] for o in learn.recorder.values]
    assert same(weights(learn), seen.seen[accs.index(max(accs))])

@pytest.mark.parametrize('decay', [-.1,1.1,float('nan')])
def test_ema_refuses(decay):
    with pytest.raises(ValueError, match='from 0 to 1'): EMA(decay)

def test_nan_in_a_layer():
    "The layer is named, and the weights are those of the step before"
    class Poison(Callback):
        def before_batch(self):
            if self.train_iter==3: self.good,self.model[4].weight.data[0] = weights(self.learn),float('nan')
    learn = learner(cbs=[Poison(), NaNGuard()])
    with pytest.warns(UserWarning, match=r'Batch 3 of epoch 0: the loss is nan; the first layer that gives such numbers is 4 \(Conv2d\)'): learn.fit(2)
    assert learn.train_iter==3

def test_nan_in_a_gradient():
    class Root(torch.nn.Module):
        def forward(self, x): return (x*0).sum(1, keepdim=True).sqrt()+x
    set_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), Root())
    learn = Learner(mnist_dls('digits', bs=64), model, cross_entropy, opt_func=SGD, lr=.1, cbs=NaNGuard())
    learn.logger = lambda *_: None
    before = weights(learn)
    with pytest.warns(UserWarning, match='gradient of 1.weight, 1.bias is not finite'): learn.fit(1)
    assert same(before, weights(learn))

def test_a_rate_too_high():
    "Whatever goes wrong, what is left are finite weights"
    learn = learner(recipe='simple_net', cbs=NaNGuard())
    with pytest.warns(UserWarning, match='Batch'): learn.fit(3, 1e25)
    assert all(o.isfinite().all() for o in learn.model.parameters())
