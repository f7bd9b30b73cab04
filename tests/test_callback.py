"Augmentation: a function of the seed and its arguments, for every shape that the loaders give. Callbacks: alike in each kind of Learner, harmless after the fit"
import numpy as np, pytest, torch, warnings
from conftest import names, quiet, same_weights
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial, update_wrapper
from hypothesis import given, settings, strategies as st
from itertools import count
from fastai.callback.core import *
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from mnist_fast import scratch
from mnist_fast.callback.augment import BatchAugment, NotDigits, augment, random_strokes
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.callback.training import EMA, HardExamples, KeepBest, SkipValidation, StopAt
from mnist_fast.data.loader import TensorDL, mnist_dls
from mnist_fast.data.source import get_digits
from mnist_fast.learner import FastLearner
from mnist_fast.loss import binary_cross_entropy, class_probs, cross_entropy
from mnist_fast.model import linear, mnist_model
from mnist_fast.run.checkpoint import Checkpoint
from mnist_fast.run.history import History

still = dict(rotate=0, scale=0, shear=0, shift=0, warp=0)
eps = 2**-23
place = 8*14*2*eps # error of a pixel: eight operations on numbers up to 1, 14 pixels a unit, two axes

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
    assert y.shape==x.shape and y.dtype==x.dtype and 0<=y.min() and y.max()<=1+16*eps # four weights that add up to 1, each with a few rounding errors

@pytest.mark.parametrize('shape', [(64,784),(64,1,28,28)])
def test_strengths(shape):
    "Each strength does its own work, as far as it says, and no other"
    torch.manual_seed(0)
    x = blob(*shape)
    at,size = middle(x)
    assert torch.allclose(augment(x, **still), x, rtol=0, atol=place)
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

@given(st.integers(1, 8), st.floats(.01, 1))
@settings(max_examples=20, deadline=None)
def test_pen(n, pen):
    "A stroke gets no thicker than `pen` says and half as much thinner; without a pen the numbers that are drawn are the same as before"
    x = torch.rand(n,1,28,28)
    near = x.new_zeros(n,9,30,30)
    for i in range(9): near[:,i,i//3:i//3+28,i%3:i%3+28] = x[:,0]
    near = near[:,:,1:-1,1:-1]
    inside = np.s_[...,1:-1,1:-1]
    y,thick,thin = augment(x, **still, pen=pen)[inside],near.amax(1, keepdim=True)[inside],near.amin(1, keepdim=True)[inside]
    x = x[inside]
    assert (y<=x+pen*(thick-x)+place).all() and (y>=x+pen/2*(thin-x)-place).all() and not torch.allclose(y, x, atol=1e-4)
    change = (y-x).flatten(1)
    assert (((change>=-place).all(1)) | ((change<=place).all(1))).all()

def test_strokes():
    "Framed like digits, of many kinds, and the same for the same seed"
    torch.manual_seed(1)
    x = random_strokes(500)
    at,_ = middle(x)
    wide,high = (x[:,0].amax(d)>.5 for d in (1,2))
    assert x.shape==(500,1,28,28) and x.dtype==torch.float32 and 0<=x.min() and x.max()==1
    assert (at-13.5).abs().mean()<1.5 and (torch.maximum(wide.sum(1), high.sum(1)).float().mean()-20.5).abs()<2
    assert 40<x.sum((1,2,3)).min() and x.sum((1,2,3)).max()<450
    torch.manual_seed(1)
    assert torch.equal(x, random_strokes(500))

@pytest.mark.parametrize('shape,n_out', [((784,),10),((1,28,28),10),((784,),1)])
def test_not_digits(shape, n_out):
    "The gradient of the loss that is meant; what is shown, scored and validated knows only the digits"
    x,y = torch.rand(16, *shape),torch.arange(16)[:,None]%2 if n_out==1 else torch.arange(16)%10
    loss,seen = binary_cross_entropy if n_out==1 else cross_entropy,[]
    class See(Callback):
        def after_loss(self): seen.append((self.training,len(self.pred),self.loss.item()))
        def before_step(self): self.learn.grads = [p.grad.clone() for p in self.model.parameters()]
    dl = TensorDL(x, y, bs=16)
    for cls in Learner,FastLearner:
        seen.clear()
        learn = cls(DataLoaders(dl, dl), linear(n_out), loss, opt_func=SGD, lr=0., cbs=[NotDigits(.25),See()])
        torch.manual_seed(7)
        with learn.no_logging(): learn.fit(1)
        torch.manual_seed(7)
        none = class_probs(learn.model(random_strokes(4).view(4, *shape)))
        alone = loss(learn.model(x), y)
        want = torch.autograd.grad(alone-.25*none.log().mean(), learn.model.parameters())
        for a,b in zip(learn.grads, want): torch.testing.assert_close(a, b)
        assert [o[:2] for o in seen]==[(True,16),(False,16)] and seen[0][2]==pytest.approx(alone.item(), rel=1e-6)

def test_not_digits_beside_others():
    "With hard examples and augmentation: every item keeps its own score, and strokes are augmented too"
    set_seed(3)
    digits = get_digits('digits')
    dl,kept = TensorDL(digits.x[:200,None], digits.y[:200], bs=50, shuffle=True, seed=1),[]
    class Keep(Callback):
        order = BatchAugment.order+1
        def before_batch(self): kept.append(self.x)
    cbs = [HardExamples(.5, .2, .1),NotDigits(),BatchAugment(shift=0.),Keep()]
    learn = Learner(DataLoaders(dl, dl), linear(10), cross_entropy, opt_func=SGD, lr=.1, cbs=cbs)
    with learn.no_logging(): learn.fit(2)
    assert len(learn.hard_examples.scores)==200 and (learn.hard_examples.scores>0).all()
    assert len(kept[0])==62 and len(kept[4])==50 # a training batch with 12 strokes, and a batch of the validation
    bent = kept[0][50:]
    assert ((bent>.02)&(bent<.98)).sum()>((random_strokes(12)>.02)&(random_strokes(12)<.98)).sum()

@pytest.mark.parametrize('part', [0, -1., float('nan')])
def test_not_digits_refuses(part):
    with pytest.raises(ValueError) as e: NotDigits(part)
    names(e, 'part', 'above 0')

def test_batch_augment():
    "The callback passes its arguments on, for images in either shape, and to training batches only"
    for shape in (784,),(1,28,28):
        x,kw = torch.rand(8, *shape),dict(rotate=3., scale=.2, shear=.3, shift=2., warp=.4, pen=.5)
        class Keep(Callback):
            order = BatchAugment.order+1
            def before_batch(self): self.learn.got[self.training] = self.x
        dl = TensorDL(x, torch.arange(8), bs=8)
        learn = Learner(DataLoaders(dl, dl), linear(10), cross_entropy, opt_func=SGD, lr=0., cbs=[BatchAugment(**kw), Keep()])
        learn.got = {}
        torch.manual_seed(7)
        with learn.no_logging(): learn.fit(1)
        torch.manual_seed(7)
        assert torch.equal(learn.got[True], augment(x, **kw)) and torch.equal(learn.got[False], x)

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
    with pytest.raises(ValueError) as e: HardExamples(**kw)
    names(e, *map(str, kw.values()), 'parts of the whole')

def learner(cls=Learner, recipe='cnn', seed=0, **kwargs):
    set_seed(seed)
    learn = cls(mnist_dls('digits', bs=64, seed=seed), mnist_model(recipe, n_out=10), cross_entropy, opt_func=SGD, lr=.1, metrics=accuracy, **kwargs)
    learn.logger = lambda *_: None
    return learn

def weights(learn): return {k: o.clone() for k,o in learn.model.state_dict().items()}

def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

mks = dict(stop=lambda: StopAt('accuracy', .9), best=lambda: KeepBest('accuracy'), ema=lambda: EMA(.9), guard=NaNGuard, norm=GradNorm, hard=lambda: HardExamples(.3, .3, .1))

@pytest.mark.parametrize('cb', mks)
def test_in_each_learner(cb):
    "fastai's Learner, the faster one and the one from scratch end with the same weights"
    def fitted(cls):
        learn = learner(cls, cbs=mks[cb]())
        learn.fit(3)
        return learn
    learns = [fitted(o) for o in (Learner, FastLearner, scratch.Learner)]
    for o in learns[1:]: same_weights(learns[0].model, o.model)
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
    assert learn.model[2].num_batches_tracked>0 and learn.validate()[1]>.9

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
    with pytest.raises(ValueError) as e: EMA(decay)
    names(e, str(decay), 'from 0 to 1')

@pytest.mark.parametrize('cb', [StopAt,KeepBest])
def test_unknown_column(cb):
    "The message lists the columns that there are"
    learn = learner(cbs=cb('f1', 1.) if cb is StopAt else cb('f1'))
    with pytest.raises(ValueError) as e: learn.fit(1)
    for o in "'f1'",'train_loss','valid_loss','accuracy': assert o in str(e.value)
    assert 'time' not in str(e.value)

@pytest.mark.parametrize('value,comp,n', [(1e9,None,1), (-1.,None,3), (-1.,np.greater,1)])
def test_stop_at(value, comp, n):
    "The fit ends with the first epoch that reaches the value: lower for a loss, unless `comp` says otherwise"
    learn = learner(recipe='linear', cbs=StopAt('valid_loss', value, comp))
    learn.fit(3)
    assert len(learn.recorder.values)==n and bool(learn.recorder.stopped)==(n<3)

def test_skip_validation():
    "The same weights as with validation, and no validation loss in the history"
    a,b = learner(),learner()
    a.fit(2)
    with b.added_cbs(SkipValidation()): b.fit(2)
    same_weights(a.model, b.model)
    assert [len(o) for o in a.recorder.values]==[3,3] and [len(o) for o in b.recorder.values]==[1,1]
    assert len(b.validate())==2

def test_nan_in_a_layer():
    "The layer is named, and the weights are those of the step before"
    class Poison(Callback):
        def before_batch(self):
            if self.train_iter==3: self.good,self.model[4].weight.data[0] = weights(self.learn),float('nan')
    learn = learner(cbs=[Poison(), NaNGuard()])
    with pytest.warns(UserWarning, match=r'Batch 3 of epoch 0: the loss is nan; the first layer with an output that is not finite is 4 \(Conv2d\)'): learn.fit(2)
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

# A fit that ends in an unplanned way, and the next fit of the same Learner

cancels = [CancelFitException, CancelEpochException, CancelTrainException, CancelValidException, CancelBatchException, CancelBackwardException,
    CancelStepException]
in_batch = 'before_batch after_pred after_loss before_backward after_backward before_step after_step after_batch'.split()
outside = 'before_fit before_epoch before_train after_train before_validate after_validate after_epoch after_fit'.split()
points = [*((o,None) for o in outside), *((o,True) for o in in_batch), *((o,False) for o in in_batch if 'step' not in o and 'backward' not in o)]
ways = [(*point,how) for point in points for how in (*cancels,ValueError,KeyboardInterrupt)]

@contextmanager
def ignored_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

class Break(Callback):
    "Raises `how` at an event of the second epoch, or in `before_fit`; in training or in validation"
    def __init__(self, at, training, how, order):
        self.at,self.when,self.how,self.order = at,training,how,order
        setattr(self, at, self.end)
    def end(self):
        if self.at!='before_fit' and self.epoch<1 or self.when not in (None,self.learn.training): return
        raise self.how()

n_folder = count()
ends = dict(stop=lambda _: StopAt('valid_loss', -1.), best=lambda _: KeepBest(), ema=lambda _: EMA(.9), guard=lambda _: NaNGuard(), norm=lambda _: GradNorm(),
    hard=lambda _: HardExamples(.3, .5, .25), augment=lambda _: BatchAugment(), skip=lambda _: SkipValidation(), none=lambda _: Callback(),
    checkpoint=lambda o: Checkpoint(o/f'{next(n_folder)}'), history=lambda o: History(o/f'{next(n_folder)}', every=1))

def tiny(cls, *cbs):
    set_seed(0)
    dls = DataLoaders(*(TensorDL(torch.rand(8,1,28,28), torch.arange(8)%2, bs=8, shuffle=o) for o in (True,False)))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    return cls(dls, model, torch.nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=.9), lr=.1, cbs=cbs)

def second_fit(learn):
    set_seed(1)
    learn.fit(1)
    return learn.model.state_dict(),learn.opt.state_dict(),[*map(list, getattr(learn.recorder, 'values', []))]

def equal(a, b):
    "Nested data with the same bits"
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)) or hasattr(a, 'map'): return len(a)==len(b) and all(map(equal, a, b))
    return a==b

def check_second_fit(learn, new, msg):
    "The second fit is that of a new Learner with the same weights and the same state of the optimizer"
    new.model.load_state_dict(deepcopy(learn.model.state_dict()))
    if not new.opt: new.create_opt()
    new.opt.load_state_dict(deepcopy(learn.opt.state_dict()))
    old = [o.clone() for o in learn.model.parameters()]
    assert equal(second_fit(learn), second_fit(new)), msg
    assert any(not torch.equal(a, b) for a,b in zip(old, learn.model.parameters())), msg

@pytest.mark.parametrize('cb', ends)
def test_broken_fit(cb, tmp_path):
    "Each event, each kind of end, before and after the callback, which belongs to the Learner or to the fit"
    for i,(at,training,how) in enumerate(ways):
        mk,passed = lambda: ends[cb](tmp_path),i%4>1
        learn,new,end = tiny(FastLearner),tiny(FastLearner),Break(at, training, how, -100 if i%2 else 100)
        if not passed: [o.add_cb(mk()) for o in (learn,new)]
        with quiet(learn), quiet(new), ignored_warnings():
            with suppress(Exception, KeyboardInterrupt): learn.fit(2, cbs=[end, *([mk()] if passed else [])])
            if not learn.opt: learn.create_opt()
            check_second_fit(learn, new, (at,training,how,end.order))

@pytest.mark.parametrize('cb', ['ema','guard','checkpoint'])
def test_broken_fit_of_fastais_learner(cb, tmp_path):
    "It calls no `cleanup_fit`, and only the guard clears gradients"
    for at,training,how in ways[::3]:
        learn,new,end = tiny(Learner),tiny(Learner),Break(at, training, how, -100)
        if cb=='guard': [o.add_cb(NaNGuard()) for o in (learn,new)]
        with quiet(learn), quiet(new), ignored_warnings():
            with suppress(Exception, KeyboardInterrupt): learn.fit(2, cbs=[end] if cb=='guard' else [end,ends[cb](tmp_path)])
            if cb!='guard': learn.opt.zero_grad()
            check_second_fit(learn, new, (at,training,how))

@pytest.mark.parametrize('order', [-100,-9,100])
@pytest.mark.parametrize('cb', ends)
def test_cancelled_before_it_begins(cb, order, tmp_path):
    "Neither an error nor anything of the fit before, also if an exception ended that one"
    learn = tiny(FastLearner, ends[cb](tmp_path))
    def cancelled():
        with torch.no_grad(): learn.model[1].weight.fill_(7.)
        before = weights(learn)
        learn.fit(1, cbs=Break('before_fit', None, CancelFitException, order))
        assert same(before, weights(learn))
    with quiet(learn):
        cancelled()
        learn.fit(2)
        cancelled()
        with pytest.raises(KeyboardInterrupt): learn.fit(2, cbs=Break('after_step', None, KeyboardInterrupt, 100))
        if order>-100: cancelled()

@pytest.mark.parametrize('cls', [Learner,FastLearner])
@pytest.mark.parametrize('guarded', [True,False])
def test_nan_does_not_enter_the_next_fit(cls, guarded):
    class Poison(Callback):
        def after_loss(self):
            if self.training and self.train_iter==1: self.learn.loss_grad = self.loss_grad*float('nan')
    learn,new = tiny(cls),tiny(cls)
    with quiet(learn), quiet(new):
        with pytest.warns(UserWarning, match='gradient of'): learn.fit(2, cbs=[Poison(),NaNGuard()])
        if guarded: [o.add_cb(NaNGuard()) for o in (learn,new)]
        check_second_fit(learn, new, None)
    assert all(o.isfinite().all() for o in learn.model.parameters())

@pytest.mark.parametrize('how', [CancelEpochException,CancelFitException,KeyboardInterrupt])
def test_ema_gives_the_weights_back(how):
    "However validation ends: the weights of the training, or the average if the fit ends as planned; the model is the same object"
    class Last(Callback):
        def after_step(self): self.weights,self.mean = weights(self.learn),None
        def after_batch(self):
            if self.training: self.mean = {k: o.clone() for k,o in self.learn.ema.average.module.state_dict().items()}
    learn = tiny(FastLearner, EMA(.9), last := Last())
    model,params = learn.model,[*learn.model.parameters()]
    with quiet(learn), suppress(KeyboardInterrupt): learn.fit(2, cbs=Break('after_pred', False, how, 100))
    assert learn.model is model and all(a is b for a,b in zip(params, model.parameters()))
    assert same(weights(learn), last.weights if how is KeyboardInterrupt else last.mean)
