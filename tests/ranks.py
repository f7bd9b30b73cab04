"What each process of `test_run_distributed` does: the functions named on the command line; rank 0 then writes their results"
import json, os, signal, sys, time, torch, warnings
from pathlib import Path
from conftest import quiet
from fastai.basics import *
from fastai.callback.progress import ProgressCallback
from fastai.metrics import F1Score, accuracy
from fastcore.xtras import modified_env
from mnist_fast.callback.augment import BatchAugment
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.callback.training import EMA, HardExamples, KeepBest, StopAt
from mnist_fast.data.loader import TensorDL
from mnist_fast.data.source import embedded_digits
from mnist_fast.learner import FastLearner
from mnist_fast.loss import cross_entropy
from mnist_fast.model import mnist_model
from mnist_fast.optimizer import FastSGD
from mnist_fast.run.checkpoint import Checkpoint
from mnist_fast.run.distributed import distrib_fit

def loaders(n=1499, bs=64, **kwargs):
    "Sizes that no number of processes above 1 divides"
    d = embedded_digits()
    train = TensorDL(d.x[:n,None], d.y[:n].long(), bs=bs, shuffle=True, seed=1, **kwargs)
    return DataLoaders(train, TensorDL(d.x_test[:293,None], d.y_test[:293].long(), bs=64))

def learner(model='simple_net', cls=FastLearner, dls=None, cbs=None, loss_func=cross_entropy, seed=0):
    set_seed(seed)
    model,opt_func = mnist_model(model, n_out=10),partial(FastSGD, mom=.9, wd=1e-3)
    learn = cls(dls or loaders(), model, loss_func, opt_func=opt_func, metrics=[accuracy,F1Score(average='macro')], cbs=cbs)
    learn.logger = noop
    return learn

class Double(Module):
    def forward(self, x): return x.double()

def learner64(cls, dls=None, cbs=None):
    "A model in float64, in which rounding is far smaller than any mistake; fastai needs a loss in float32"
    learn = learner(cls=cls, dls=dls, cbs=cbs, loss_func=lambda out,y: cross_entropy(out, y).float())
    learn.model = nn.Sequential(Double(), learn.model).double()
    return learn

def weights(learn): return torch.cat([o.flatten().double() for o in learn.model.state_dict().values()])

class Items(Callback):
    "The items of each batch"
    order,run_valid = 20,False
    def before_train(self): self.seen = []
    def before_batch(self): self.seen.append(self.dl.positions.tolist())

class Die(Callback):
    "The last process is killed"
    def __init__(self, step): self.step = step
    def after_batch(self):
        if self.training and self.train_iter==self.step and rank_distrib()==1: os.kill(os.getpid(), signal.SIGKILL)

class Hang(Callback):
    "The last process no longer answers"
    def after_batch(self):
        if self.training and self.train_iter==5 and rank_distrib()==1: time.sleep(600)

def all_cbs(): return [BatchAugment(), EMA(.9), KeepBest('accuracy'), StopAt('accuracy', 1.), NaNGuard(), GradNorm(), HardExamples(.5, .4, .2)]

def gathered(o):
    from torch import distributed as dist
    res = [None]*num_distrib()
    dist.all_gather_object(res, o)
    return res

def plain(cls):
    "Nothing random but the order: one process must give the same"
    learn = learner64(cls, cbs=Items())
    was = learn.model,learn.dls.loaders,sorted(o.name for o in learn.cbs)
    with distrib_fit(learn), quiet(learn): learn.fit(2, .1)
    assert (learn.model,learn.dls.loaders,sorted(o.name for o in learn.cbs))==was
    values,losses = [[*o] for o in learn.recorder.values],[o.item() for o in learn.recorder.losses]
    return dict(weights=gathered(weights(learn).tolist()), values=values, losses=losses, seen=gathered(learn.items.seen))

def stock(): return plain(Learner)
def fast(): return plain(FastLearner)

def callbacks():
    "All callbacks: the same weights and decisions on all ranks, other random numbers, and a Learner that one process can use afterwards"
    learn = learner('cnn', cbs=all_cbs())
    learn.remove_cb(ProgressCallback)
    with distrib_fit(learn):
        learn.fit(4, .1)
        values,draws = [[*o] for o in learn.recorder.values],gathered(torch.rand(1).item())
        norms,idxs,scores = (gathered(o.tolist()) for o in (learn.grad_norm.kept[-1],learn.hard_examples.idxs,learn.hard_examples.scores))
        together = learn.validate()
        try: learn.get_preds()
        except ValueError as e: refused = str(e)
    assert not hasattr(learn, 'progress') and type(learn.model) is nn.Sequential
    with modified_env('WORLD_SIZE'): alone,preds = learn.validate(),learn.get_preds()[0]
    return dict(weights=gathered(weights(learn).tolist()), values=gathered(values), draws=draws, norms=norms, idxs=idxs, scores=scores,
        together=[*together], alone=[*alone], preds=len(preds), refused=refused)

def poison():
    "A NaN in one process stops both"
    class Poison(Callback):
        def before_batch(self):
            if self.train_iter==5 and rank_distrib()==1: self.learn.xb = (self.x*float('nan'),)
    learn = learner(cbs=[Poison(), NaNGuard()])
    with distrib_fit(learn), quiet(learn), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.fit(1, .1)
    return gathered(learn.train_iter)

def resumed(folder, *cbs, resume=False):
    learn = learner('cnn', cbs=[*all_cbs(), Checkpoint(folder, every=5, resume=resume), *cbs])
    with distrib_fit(learn), quiet(learn): learn.fit_one_cycle(3, .1)
    return dict(weights=gathered(weights(learn).tolist()), values=[[*o] for o in learn.recorder.values])

def hanging():
    learn = learner(cbs=Hang())
    with distrib_fit(learn, timeout=5), quiet(learn): learn.fit(1, .1)

def whole(out): return resumed(out/'whole')
def dying(out): return resumed(out/'cut', Die(30))
def again(out): return resumed(out/'cut', resume=True)

if __name__=='__main__':
    out,*names = sys.argv[1:]
    torch.set_num_threads(1)
    try: res = {o: f(Path(out)) if (f := globals()[o]).__code__.co_argcount else f() for o in names}
    except ValueError as e: sys.exit(f'ended: {e}')
    if not rank_distrib(): Path(out, f"{'-'.join(names)}.json").write_text(json.dumps(res))
