"The learners: deterministic, at home in fastai, and as accurate as the book says"
import pytest, torch
from conftest import names, needs_mnist, quiet, same_weights
from fastai.basics import Callback, CancelEpochException, Learner
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders
from fastai.metrics import F1Score, F1ScoreMulti, PrecisionMulti, RecallMulti, RocAuc, RocAucBinary, RocAucMulti, accuracy, accuracy_multi, error_rate
from functools import partial
from sklearn import metrics as skm
from statistics import mean
from mnist_fast.bench.ladder import ladder_rows
from mnist_fast.data.source import get_digits
from mnist_fast.data.loader import mnist_dls, three_seven_dls
from mnist_fast.learner import FastLearner, ablate, fit_recipe, mnist_learner, recipe_learner, run_recipe, tasks, three_seven_learner
from mnist_fast.recipe import recipes, scaled_bs
from mnist_fast.loss import batch_accuracy, binary_cross_entropy, cross_entropy, mnist_loss
from mnist_fast.model import mnist_model
from mnist_fast.optimizer import BasicOptim, FastSGD

digits = get_digits('digits')
make = {'3v7': lambda **kw: three_seven_learner(three_seven_dls(digits, bs=32, seed=1), **kw),
    'full': lambda **kw: mnist_learner(mnist_dls(digits, bs=32, seed=1), **kw)}

def quiet_fit(learn, **kwargs):
    with quiet(learn): fit_recipe(learn, **kwargs)
    return learn

@pytest.mark.parametrize('task,name', [(t,n) for t in recipes for n in recipes[t]])
def test_recipes(task, name):
    "Each recipe learns, and the same seed gives the same weights and history"
    r = recipes[task][name]
    lr = .3*r['lr']*32/r['bs'] # small, as two epochs of a few digits have no time for a warm-up
    a,b = (quiet_fit(make[task](recipe=name, seed=3), epochs=2, lr=lr) for _ in range(2))
    assert a.recorder.values[-1][1] < make[task](recipe=name, seed=3).validate()[0]
    same_weights(a.model, b.model)
    assert a.recorder.values==b.recorder.values

@pytest.mark.parametrize('task', recipes)
def test_restarts(task):
    "However often the loader was begun before, the same seed gives the same weights"
    def weights(n):
        mk_dls,mk_learner = tasks[task]
        dls = mk_dls(digits, bs=32, seed=1)
        for i in range(n): dls.show_batch() if i%2 else [*dls.train]
        learn = mk_learner(dls, 'simple_net', seed=3)
        dls.train.one_batch()
        return quiet_fit(learn, epochs=1).model[1].weight
    assert torch.equal(weights(0), weights(1)) and torch.equal(weights(0), weights(4))

@pytest.mark.parametrize('kw', [dict(epochs=0), dict(lr=-1.), dict(lr=float('nan')), dict(lr=float('inf'))])
def test_bad_numbers(kw):
    (name,value), = kw.items()
    with pytest.raises(ValueError) as e: fit_recipe(make['3v7'](), **kw)
    names(e, name, str(value), 'Give')

@pytest.mark.parametrize('opt_func', [BasicOptim, FastSGD])
def test_book_learner(opt_func, tmp_path):
    "The book's own call, and saving, freezing and scheduling on top of it"
    dls = three_seven_dls(digits, bs=32, seed=1)
    learn = Learner(dls, mnist_model('simple_net'), opt_func=opt_func, loss_func=mnist_loss, metrics=batch_accuracy, path=tmp_path,
        splitter=lambda m: [list(m[1].parameters()),list(m[3].parameters())])
    with quiet(learn):
        learn.fit(2, slice(.01,.1))
        learn.freeze()
        before = learn.model[1].weight.clone()
        learn.fit_one_cycle(1, .1)
        assert torch.equal(learn.model[1].weight, before)
        learn.unfreeze()
        learn.fit(1, .1)
        assert not torch.equal(learn.model[1].weight, before)
        learn.save('m')
        preds = learn.get_preds()[0]
        learn.fit(1, .1)
        learn.load('m')
        assert torch.equal(learn.get_preds()[0], preds)

least = {('3v7','pixel similarity L1'): .951, ('3v7','linear by hand'): .965, ('3v7','linear'): .967, ('3v7','simple_net'): .982,
    ('full','pixel similarity L2'): .80, ('full','linear'): .91, ('full','simple_net'): .965, ('full','cnn'): .988}

@pytest.fixture(scope='module')
def ladder():
    "Accuracies of five seeds as in `ladder_rows`, but for rungs that no book has (`test_bench_ladder` finds the same runs in both)"
    d = get_digits('mnist')
    rows = {(r['task'],r['rung']): r['accuracies'] for r in ladder_rows(d, with_recipes=False)}
    return rows | {(task,name): [run_recipe(d, task, name, seed)['accuracy'] for seed in range(5)] for task,name in least if name in recipes[task]}

@needs_mnist
@pytest.mark.parametrize('task,rung', least)
def test_the_books_results(ladder, task, rung):
    "Means of five seeds on the official test set"
    accs = ladder[task,rung]
    assert mean(accs)>=least[task,rung]
    assert len(accs)==(1 if 'pixel' in rung else 5)

class Once(Callback):
    "Adds another callback in mid-epoch, and takes itself away"
    def after_step(self):
        self.learn.add_cb(Count())
        self.learn.remove_cb(self)

class Count(Callback):
    def after_batch(self): self.learn.n += self.training

class Stop(Callback):
    def before_batch(self):
        if self.training and self.iter==2: raise CancelEpochException

@pytest.mark.parametrize('cls', [Learner,FastLearner])
def test_fast_learner(cls):
    "Callbacks that come, go, rest and cancel within an epoch do under `FastLearner` what they do under `Learner`"
    dls = mnist_dls(digits, bs=100, seed=1)
    learn = cls(dls, mnist_model('linear', n_out=10), cross_entropy, opt_func=FastSGD, lr=.1, cbs=Once)
    learn.n = 0
    with quiet(learn):
        learn.fit(1)
        assert learn.n==len(dls.train) and not learn._grab_cbs(Once)
        learn.count.run = False
        learn.fit(1)
        assert learn.n==len(dls.train) and learn.count.run
        learn.fit(1, cbs=Stop())
    assert learn.n==len(dls.train)+2

class Verbose(Callback):
    "Overrides `__call__`, as fastai's VerboseCallback does"
    def __init__(self, seen): self.seen = seen
    def __call__(self, event_name):
        self.seen.append(event_name)
        super().__call__(event_name)

class Rearrange(Callback):
    "In mid-epoch: another order, a callback behind `add_cb`'s back, a new list, a method for a callback that had none"
    def __init__(self, seen): self.seen,self.step = seen,0
    def after_pred(self):
        self.step += 1
        if self.step==1: self.order = 7
        if self.step==2: self.learn.cbs.append(Named('late', self.seen, 3))
        if self.step==3: self.learn.cbs = self.learn.cbs.sorted('order', reverse=True)
        if self.step==4: self.learn.first.after_loss = lambda: self.seen.append('new')
        if self.step==5: self.learn.first.order = 100
        self.seen.append('rearrange')

class Named(Callback):
    def __init__(self, name, seen, order): self.name_,self.seen,self.order = name,seen,order
    name = property(lambda self: self.name_)
    def after_pred(self): self.seen.append(self.name_)
    after_backward = after_pred

def test_fast_learner_hears_what_fastais_hears():
    "`__call__` of a callback, and changes within a pass, event for event"
    def seen(cls):
        res,dls = [],mnist_dls(digits, bs=200, seed=1)
        learn = cls(dls, mnist_model('linear', n_out=10), cross_entropy, opt_func=FastSGD, lr=.1,
            cbs=[Verbose(res), Named('first', res, 5), Rearrange(res), Named('last', res, 6)])
        with quiet(learn): learn.fit(1)
        return res
    fast = seen(FastLearner)
    assert fast==seen(Learner) and {'late','new','rearrange'}<=set(fast)
    assert fast.count('before_batch')==fast.count('after_batch')>8

def torch_dls(dls, **kwargs):
    "The same items in PyTorch's loaders, which have no device"
    sets = [torch.utils.data.TensorDataset(*o[:len(o)]) for o in (dls.train_ds,dls.valid_ds)]
    return DataLoaders(*(torch.utils.data.DataLoader(o, 32, **kwargs) for o in sets))

@pytest.mark.parametrize('task', tasks)
def test_torch_loaders(task):
    "PyTorch's loaders in the same order give the same weights and metrics as ours"
    mk_dls,mk_learner = tasks[task]
    ours = mk_dls(digits, bs=32, shuffle=False)
    learns = [quiet_fit(mk_learner(o, 'speed', seed=0), epochs=1) for o in (ours, torch_dls(ours))]
    same_weights(*(o.model for o in learns))
    assert learns[0].recorder.values==learns[1].recorder.values

def test_torch_loader_and_hard_examples():
    "The recipe `best` needs a loader that takes the items it is told"
    learn = mnist_learner(torch_dls(mnist_dls(digits)), dict(recipes['full']['linear'], hard=dict(hard=.5)))
    with quiet(learn), pytest.raises(ValueError) as e: learn.fit(1)
    names(e, 'HardExamples', 'DataLoader', 'Give a TensorDL')

@pytest.mark.parametrize('metric', [accuracy, error_rate, partial(accuracy, axis=1), F1Score(), RocAuc(), RocAucBinary(),
    lambda p,t: (p.argmax(1)==t[:,0]).float().mean()])
def test_metrics_that_ignore_the_predictions(metric):
    "Refused at once, and also when they are set later"
    with pytest.raises(ValueError) as e: make['3v7'](metrics=[batch_accuracy, metric])
    names(e, 'ignores the predictions', 'accuracy_multi', 'F1ScoreMulti')
    learn = make['3v7']()
    with pytest.raises(ValueError): learn.metrics = metric
    with pytest.raises(ValueError): learn.metrics += [metric]
    assert [o.name for o in learn.metrics]==['batch_accuracy']

def test_right_metrics():
    "The ones that the docs name give what scikit-learn gives"
    binary = dict(average='binary')
    learn = make['3v7'](seed=0, metrics=[batch_accuracy, accuracy_multi, F1ScoreMulti(**binary), PrecisionMulti(**binary), RecallMulti(**binary), RocAucMulti()])
    quiet_fit(learn, epochs=2)
    with quiet(learn):
        out,targ = learn.get_preds(act=lambda o: o)
        got = [*learn.validate()[1:]]
    pred = out>0
    expected = [skm.accuracy_score(targ, pred)]*2+[f(targ, pred) for f in (skm.f1_score,skm.precision_score,skm.recall_score)]+[skm.roc_auc_score(targ, out)]
    assert got==pytest.approx(expected, abs=2**-22)

def test_fast_learner_moves_batches():
    "A batch that is no tensor, or is elsewhere, goes the usual way"
    learn = make['full'](recipe='linear')
    b = [{'a': torch.zeros(2)},torch.zeros(2)]
    assert learn._set_device(b)[0]['a'].device==torch.device('cpu')

def test_recipe_for_both():
    "Augmentation, losses and numbers of a row reach the learner, for rows of 784 too"
    learn = make['3v7'](recipe=dict(recipes['3v7']['speed'], augment=dict(rotate=5.), wd=.1), seed=0)
    assert learn.batch_augment.rotate==5 and learn.loss_func.keywords=={'ls': .1} and learn.loss_func.decodes is binary_cross_entropy.decodes
    quiet_fit(learn, epochs=1)
    assert learn.opt.hypers[0]['wd']==.1

@pytest.mark.parametrize('task,recipe', [('3v7','simple_net'), ('3v7','speed'), ('full','speed'), ('full','linear')])
def test_mixup(task, recipe):
    "fastai's MixUp mixes the losses of whole-numbered labels"
    learn = recipe_learner(digits, task, recipe, seed=0)
    with learn.no_logging(): learn.fit(3, learn.lr if recipe!='linear' else .1, cbs=MixUp(.2))
    assert learn.validate()[1]>.6

@pytest.mark.parametrize('task,recipe', [('3v7','speed'), ('full','linear')])
def test_recipe_learner(task, recipe):
    "A set of few digits gets smaller batches and the rate that goes with them; a batch size that is given changes neither"
    r,learn = recipes[task][recipe],recipe_learner(digits, task, recipe, seed=0)
    bs = scaled_bs(r, len(learn.dls.train_ds))
    assert learn.dls.train.bs==learn.recipe['bs']==bs<r['bs'] and learn.task==task
    assert learn.recipe['lr']==learn.lr==r['lr']*(bs/r['bs'])**.5
    learn = recipe_learner(digits, task, recipe, bs=50, seed=0)
    assert learn.dls.train.bs==50 and learn.lr==r['lr'] and recipes[task][recipe] is r

def test_run_recipe():
    "Test accuracy and the loss without smoothing, the same for the same seed; training and test are in the given context"
    seen = []
    def context(learn):
        seen.append(learn)
        return quiet(learn)
    a,b = run_recipe(digits, '3v7', 'speed', 1),run_recipe(digits, '3v7', 'speed', 1, context)
    same_weights(a['learn'].model, b['learn'].model)
    assert (a['accuracy'],a['loss'])==(b['accuracy'],b['loss']) and seen==[b['learn']]
    out = b['learn'].get_preds(dl=b['learn'].dls.test, act=lambda o: o)
    assert a['accuracy']==batch_accuracy(*out).item() and b['learn'].loss_func is binary_cross_entropy

def test_ablate():
    "A row for the recipe and one for each change; the means and differences are those of the runs"
    r = dict(recipes['full']['linear'], epochs=1)
    res = ablate(digits, r, dict(lower=dict(lr=1e-4)), seeds=range(2))
    accs = [quiet_fit(recipe_learner(digits, 'full', r, 1/6, seed=s)).recorder.values[-1][2] for s in range(2)]
    assert [*res.index]==['as it is','lower'] and res.accuracy['as it is']==round(sum(accs)/2, 4)
    assert res.change['as it is']==0 and abs(res.change['lower']-(res.accuracy['lower']-res.accuracy['as it is']))<=1.5e-4+1e-9
