"The Learner from scratch against fastai's, with models, optimizers and callbacks that the notebooks do not use"
import pytest, torch
from functools import partial
from torch import nn
from fastai import learner as fl
from fastai.callback.core import (Callback as FastaiCallback, CancelBatchException, CancelFitException, CancelStepException,
    CancelTrainException, CancelValidException, TrainEvalCallback)
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.callback.tracker import EarlyStoppingCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.metrics import accuracy, error_rate
from fastai.optimizer import Adam, OptimWrapper, RMSProp, SGD
from mnist_fast.data.loader import mnist_dls, three_seven_dls
from mnist_fast.loss import batch_accuracy, cross_entropy, mnist_loss
from mnist_fast.optimizer import FastSGD
from mnist_fast.scratch import Callback, Learner

fl.defaults.callbacks = [TrainEvalCallback, fl.Recorder]
eps = 2**-23 # of float32

def net(n_out, norm=nn.BatchNorm1d):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), norm(20), nn.ReLU(), nn.Dropout(.2), nn.Linear(20, n_out))

def fitted(cls, task, opt_func, cbs=(), n=2, norm=nn.BatchNorm1d):
    torch.manual_seed(5)
    if task=='3v7': dls,args,metrics = three_seven_dls('digits', bs=50, seed=2),(net(1, norm),mnist_loss),[batch_accuracy]
    else: dls,args,metrics = mnist_dls('digits', bs=100, seed=2),(net(10, norm),cross_entropy),[accuracy,error_rate]
    learn = cls(dls, *args, opt_func=opt_func, lr=.05, metrics=metrics, cbs=cbs)
    learn.logger = lambda *_: None
    learn.fit(n)
    return learn

def rounding(n): return dict(rel=2*n*eps, abs=eps) # of a mean over `n` positive terms: a product and a sum for each

def check(*args, **kwargs):
    "Weights and learning rates equal to the last bit, history equal but for rounding"
    a,b = (fitted(cls, *args, **kwargs) for cls in (Learner,fl.Learner))
    for (k,p),q in zip(a.model.state_dict().items(), b.model.state_dict().values()): assert torch.equal(p, q), k
    assert len(a.recorder.values)==len(b.recorder.values)
    for v,w in zip(a.recorder.values, b.recorder.values): assert v==pytest.approx(list(w), **rounding(len(a.dls.valid)))
    assert [float(o) for o in a.recorder.losses]==pytest.approx([float(o) for o in b.recorder.losses], **rounding(len(a.recorder.losses)))
    assert a.recorder.lrs==b.recorder.lrs and a.train_iter==b.train_iter
    return a,b

opts = dict(sgd=SGD, momentum=partial(SGD, mom=.9, wd=.1), adam=partial(Adam, wd=.1), rmsprop=partial(RMSProp, mom=.5),
    fast=partial(FastSGD, mom=.9, wd=.1, nesterov=True), own_rate=partial(SGD, lr=.2),
    torch=lambda ps, lr: OptimWrapper(ps, torch.optim.AdamW, lr=lr))

@pytest.mark.parametrize('task', ['3v7','full'])
@pytest.mark.parametrize('opt', opts)
def test_optimizers(task, opt): check(task, opts[opt])

@pytest.mark.parametrize('norm', [nn.LayerNorm, nn.BatchNorm1d, lambda n: nn.Identity()])
def test_norms(norm): check('full', opts['momentum'], norm=norm)

class Halve(FastaiCallback):
    "Changes images and loss, and reads gradients"
    order = 3
    def before_batch(self): self.learn.xb = (self.x/2,)
    def before_backward(self): self.learn.loss_grad = self.loss_grad*.5
    def after_backward(self): self.seen = [p.grad.norm().item() for p in self.model.parameters()]

class Skip(FastaiCallback):
    "Raises `ex` at the event `event`; at `before_batch` and `before_step` only for every third batch"
    def __init__(self, event, ex): self.at,self.ex = event,ex
    def __call__(self, event):
        if event==self.at and (event!='before_batch' or self.iter%3==0) and (event!='before_step' or self.train_iter%3==0): raise self.ex

class Count(FastaiCallback):
    "Records the counters after each batch"
    def before_fit(self): self.seen = []
    def after_batch(self): self.seen.append((self.training, self.epoch, self.iter, self.train_iter))

one_cycle = lambda: ParamScheduler(dict(lr=combined_cos(.25, .01, .1, 1e-5), mom=combined_cos(.25, .95, .85, .95)))
cbs = dict(halve=Halve, clip=lambda: GradientClip(.1), accumulate=lambda: GradientAccumulation(120),
    early=lambda: EarlyStoppingCallback(patience=1, min_delta=9.), nan=TerminateOnNaNCallback, one_cycle=one_cycle,
    no_step=lambda: Skip('before_step', CancelStepException), no_batch=lambda: Skip('before_batch', CancelBatchException))

@pytest.mark.parametrize('cb', cbs)
def test_fastais_callbacks(cb, capsys): check('full', opts['momentum'], cbs=cbs[cb](), n=3)

@pytest.mark.parametrize('event,ex', [('before_backward',CancelTrainException), ('before_validate',CancelValidException),
    ('before_epoch',CancelFitException)])
def test_cancelled(event, ex):
    a,b = (fitted(cls, 'full', SGD, cbs=Skip(event, ex)) for cls in (Learner,fl.Learner))
    for p,q in zip(a.model.state_dict().values(), b.model.state_dict().values()): assert torch.equal(p, q)
    assert len(a.recorder.values)==len(b.recorder.values)==(0 if ex is CancelFitException else 2)

def test_counters():
    a,b = check('full', SGD, cbs=Count())
    assert a.count.seen==b.count.seen and a.pct_train<=1

def test_callbacks_for_one_fit():
    "`fit` removes its callbacks at the end, also after an error"
    class Broken(Callback):
        def after_loss(self): raise KeyError('broken')
    learn = fitted(Learner, '3v7', SGD)
    n = len(learn.cbs)
    with pytest.raises(KeyError): learn.fit(1, cbs=Broken())
    assert len(learn.cbs)==n
    learn.fit(1)

def test_no_device_and_second_fit():
    "PyTorch's loaders have no device; the second fit keeps the optimizer"
    ds = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.randint(3, (40,)))
    dls = DataLoaders(*(torch.utils.data.DataLoader(ds, 16) for _ in range(2)))
    learn = Learner(dls, nn.Linear(4, 3), nn.CrossEntropyLoss(), partial(SGD, mom=.9), metrics=accuracy)
    learn.logger = lambda *_: None
    learn.fit(1, .1)
    opt = learn.opt
    learn.fit(1, .1)
    assert learn.opt is opt and len(learn.recorder.values)==1
    loss,acc = learn.validate()
    assert loss==pytest.approx(nn.functional.cross_entropy(learn.model(ds.tensors[0]), ds.tensors[1]).item(), **rounding(len(ds)))

def test_package():
    "`mnist_fast.scratch` offers all public names of its two modules"
    from mnist_fast import scratch
    from mnist_fast.scratch import learner, loop
    for m in (loop, learner):
        for n in m.__all__: assert getattr(scratch, n) is getattr(m, n), n
