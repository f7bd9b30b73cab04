"The Learner from scratch against fastai's, with models, optimizers and callbacks that the notebooks do not use"
import json, pytest, torch
from functools import partial
from torch import nn
from tqdm import std
from fastai import learner as fl
from fastai.callback.core import (Callback as FastaiCallback, CancelBatchException, CancelFitException, CancelStepException,
    CancelTrainException, CancelValidException, TrainEvalCallback)
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.data.core import DataLoaders
from fastai.metrics import F1Score, Perplexity, RocAuc, accuracy, error_rate, top_k_accuracy
from fastai.optimizer import Adam, OptimWrapper, RMSProp, SGD
from mnist_fast.callback.augment import BatchAugment
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.callback.training import EMA, HardExamples, KeepBest, SkipValidation
from mnist_fast.data.loader import mnist_dls, three_seven_dls
from mnist_fast.loss import batch_accuracy, cross_entropy, mnist_loss
from mnist_fast.optimizer import FastSGD
from mnist_fast.run.history import History
from mnist_fast.scratch import Callback, Learner

fl.defaults.callbacks = [TrainEvalCallback, fl.Recorder]
eps = 2**-23 # of float32

def net(n_out, norm=nn.BatchNorm1d):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), norm(20), nn.ReLU(), nn.Dropout(.2), nn.Linear(20, n_out))

def fitted(cls, task, opt_func, cbs=(), n=2, norm=nn.BatchNorm1d, own=None):
    torch.manual_seed(5)
    if task=='3v7': dls,args,metrics = three_seven_dls('digits', bs=50, seed=2),(net(1, norm),mnist_loss),[batch_accuracy]
    else: dls,args,metrics = mnist_dls('digits', bs=100, seed=2),(net(10, norm),cross_entropy),[accuracy,error_rate]
    learn = cls(dls, *args, opt_func=opt_func, lr=.05, metrics=metrics if own is None else own, cbs=cbs)
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

classes = [EMA, KeepBest, HardExamples, GradNorm, NaNGuard, BatchAugment, SkipValidation, CSVLogger, EarlyStoppingCallback, ReduceLROnPlateau,
    SaveModelCallback, MixUp, BnFreeze, GradientClip, TerminateOnNaNCallback]

@pytest.mark.parametrize('cb', classes, ids=lambda o: o.__name__)
def test_classes(cb, tmp_path, monkeypatch, capsys):
    "A class stands for its object, in the constructor and in `fit`; weights as fastai's with any callback, after a second fit too"
    monkeypatch.chdir(tmp_path)
    pair = [fitted(cls, 'full', opts['momentum'], cbs=cb) for cls in (Learner, fl.Learner)]
    for learn in pair:
        torch.manual_seed(6)
        learn.fit(1, cbs=Count)
        assert not hasattr(learn, 'count')
    for p,q in zip(*(o.model.state_dict().values() for o in pair)): assert torch.equal(p, q)

def test_short_epochs():
    a,b = (fitted(cls, 'full', SGD, cbs=ShortEpochCallback(pct=.1)) for cls in (Learner, fl.Learner))
    for p,q in zip(a.model.state_dict().values(), b.model.state_dict().values()): assert torch.equal(p, q)

metrics = dict(partial=partial(top_k_accuracy, k=3), f1=F1Score(average='macro'), roc=RocAuc(), perplexity=Perplexity(), cls=Perplexity,
    several=[accuracy, F1Score(average='micro')])

@pytest.mark.parametrize('m', metrics)
def test_metrics(m):
    "Objects, classes and partials, under fastai's names"
    a,b = check('full', SGD, own=metrics[m])
    assert a.recorder.metric_names==[o for o in b.recorder.metric_names if o!='time']
    assert a.validate()==pytest.approx(list(b.validate()), **rounding(len(a.dls.valid)))

@pytest.mark.parametrize('every', [None, 2])
def test_history(every, tmp_path):
    "`History` writes what it writes for fastai's Learner, but for the seconds"
    for name,cls in dict(a=Learner, b=fl.Learner).items(): fitted(cls, 'full', opts['momentum'], cbs=History(tmp_path/name, every))
    rows = [[{k: v for k,v in json.loads(o).items() if k!='seconds'} for o in (tmp_path/n/'history.jsonl').read_text().splitlines()] for n in 'ab']
    assert len(rows[0])==len(rows[1])
    for a,b in zip(*rows): assert a==pytest.approx(b, **rounding(20))

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

@pytest.mark.parametrize('task', ['3v7','full'])
def test_predictions(task):
    "As fastai's, of both sets and of one item; `get_preds` sees each item once, in order, and leaves neither callback nor history"
    a,b = (fitted(cls, task, SGD) for cls in (Learner, fl.Learner))
    for i in (0,1):
        for p,q in zip(a.get_preds(i), b.get_preds(i)): assert torch.equal(p, q)
    for p,q in zip(a.get_preds(dl=a.dls.valid), b.get_preds(dl=b.dls.valid)): assert torch.equal(p, q)
    label,n,probs = a.predict(a.dls.valid_ds[0][0])
    theirs = b.predict(b.dls.valid_ds[0][0])
    assert label==theirs[0] and torch.equal(n, theirs[1]) and torch.allclose(probs, theirs[2])
    assert len(a.cbs)==2 and len(a.recorder.values)==2

def test_predictions_before_a_fit():
    learn = Learner(three_seven_dls('digits'), net(1))
    preds,targs = learn.get_preds()
    assert len(preds)==len(targs)==len(learn.dls.valid_ds) and learn.opt is None

def test_added_and_removed():
    "`added_cbs` gives back what it took, also after an error; a class removes all callbacks of its kind"
    learn = fitted(Learner, '3v7', SGD)
    n,cb = len(learn.cbs),Count()
    with pytest.raises(KeyError):
        with learn.added_cbs([cb, Halve]):
            assert len(learn.cbs)==n+2 and learn.count is cb and cb.learn is learn
            raise KeyError('broken')
    assert len(learn.cbs)==n and cb.learn is None and not {'count','halve'} & vars(learn).keys()
    assert len(learn.add_cb(Count).add_cbs([Count()]).cbs)==n+2
    assert len(learn.remove_cb(Count).cbs)==n

def test_a_gradient_that_is_left_does_not_enter_the_next_fit():
    class Stop(Callback):
        def after_backward(self): raise KeyboardInterrupt
    a,b = (fitted(Learner, 'full', opts['momentum']) for _ in range(2))
    with pytest.raises(KeyboardInterrupt): a.fit(1, cbs=Stop)
    assert any(p.grad is not None and p.grad.any() for p in a.model.parameters())
    a.model.load_state_dict(b.model.state_dict())
    a.dls,b.dls = (mnist_dls('digits', bs=100, seed=2) for _ in range(2))
    for o in (a,b): torch.manual_seed(0), o.fit(1)
    for p,q in zip(a.model.parameters(), b.model.parameters()): assert torch.equal(p, q)

def test_one_cycle_as_fastais():
    a,b = (fitted(cls, 'full', SGD, n=0) for cls in (Learner, fl.Learner))
    for o in (a,b): o.fit_one_cycle(3, .1, div=10., pct_start=.4)
    assert a.recorder.lrs==pytest.approx([float(o) for o in b.recorder.lrs], abs=8*eps*.1) # fastai's schedule is float32

@pytest.mark.parametrize('opt', ['momentum','adam','fast'])
def test_files_of_both_learners(opt, tmp_path):
    "Each Learner loads what the other saved, and goes on with the same bits"
    for cls,other in ((Learner,fl.Learner), (fl.Learner,Learner)):
        a,b = fitted(cls, 'full', opts[opt]),fitted(other, 'full', opts[opt], n=0)
        a.path = b.path = tmp_path
        assert a.save('m')==tmp_path/'models/m.pth' and b.load('m') is b
        a.dls,b.dls = (mnist_dls('digits', bs=100, seed=3) for _ in range(2))
        for o in (a,b): torch.manual_seed(0), o.fit(1)
        for p,q in zip(a.model.state_dict().values(), b.model.state_dict().values()): assert torch.equal(p, q)

def test_basic_optim_is_saved(tmp_path, recwarn):
    a,b = (Learner(three_seven_dls('digits'), net(1), lr=o) for o in (.1,.2))
    a.path = b.path = tmp_path
    a.create_opt(), a.save('m'), b.load('m')
    assert b.opt.lr==.1 and not [o for o in recwarn if 'optimizer' in str(o.message)]

def test_bars(capsys, monkeypatch):
    "A bar in a terminal only, none with `no_bar`; the plain tqdm, which asks for no widgets; both contexts give back what they took"
    from mnist_fast.scratch import learner as m
    seen = []
    assert m.tqdm is std.tqdm
    monkeypatch.setattr(m, 'tqdm', lambda dl, **kwargs: seen.append(kwargs['disable']) or dl)
    learn = Learner(three_seven_dls('digits'), net(1))
    with learn.no_logging(), learn.no_bar(): learn.fit(1)
    with pytest.raises(KeyError):
        with learn.no_bar(), learn.no_logging(): raise KeyError
    learn.fit(1)
    assert seen==[True,True,None,None] and len(capsys.readouterr().out.splitlines())==1

def test_package():
    "`mnist_fast.scratch` offers all public names of its two modules"
    from mnist_fast import scratch
    from mnist_fast.scratch import learner, loop
    for m in (loop, learner):
        for n in m.__all__: assert getattr(scratch, n) is getattr(m, n), n
