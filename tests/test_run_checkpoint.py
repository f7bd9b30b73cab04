"Runs that are killed, in real processes and at any moment, resume and end with the same bits; what cannot be resumed says why"
import hashlib, json, multiprocessing, os, pytest, random, signal, time, torch
from conftest import damaged, full_disk, names, quiet
from contextlib import suppress
from functools import cache, partial
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.callback.tracker import ReduceLROnPlateau
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import AvgSmoothLoss, Learner
from fastai.metrics import F1Score, accuracy
from fastai.optimizer import Adam, OptimWrapper, SGD
from fastai.torch_core import set_seed
from mnist_fast.callback.augment import BatchAugment
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.callback.training import EMA, HardExamples, KeepBest
from mnist_fast.data.loader import mnist_dls
from mnist_fast.learner import FastLearner, mnist_learner
from mnist_fast.loss import cross_entropy
from mnist_fast.model import mnist_model
from mnist_fast.run.checkpoint import Checkpoint
from mnist_fast.run.history import History
from mnist_fast.run.state import load_state
from safetensors import safe_open
from torch import nn

kills = int(os.environ.get('MNIST_FAST_KILLS', 3))

def ours(cbs):
    "Our loader, optimizer and callbacks"
    cbs = [BatchAugment(), EMA(.9), HardExamples(.3, .3, .2), KeepBest('accuracy'), NaNGuard(), GradNorm(), *cbs]
    learn = mnist_learner(mnist_dls('digits', bs=32, seed=1), 'cnn', seed=1, cbs=cbs)
    with quiet(learn): learn.fit_one_cycle(5, .1)
    return learn

def stock(cbs):
    "fastai's loader, optimizer and callbacks, dropout, and random noise in the items"
    set_seed(2)
    x,y = mnist_dls('digits', seed=2).train_ds[:400]
    noisy = lambda o: (o[0]+.1*torch.rand(())*random.random(), o[1])
    dls = DataLoaders(*(DataLoader([*zip(x, y)], bs=16, shuffle=s, after_item=noisy) for s in (True,False)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(.3), nn.Linear(30, 10))
    learn = Learner(dls, model, torch.nn.functional.cross_entropy, opt_func=Adam, metrics=[accuracy, F1Score(average='macro')], cbs=cbs)
    with quiet(learn): learn.fit_flat_cos(4, .003, cbs=[GradientAccumulation(40), GradientClip(.5), ReduceLROnPlateau(patience=1)])
    return learn

def torches(cbs):
    "PyTorch's loader and optimizer, train metrics, two fits with the first layer frozen in one of them"
    set_seed(3)
    ds = torch.utils.data.TensorDataset(*mnist_dls('digits', seed=2).train_ds[:600])
    dls = DataLoaders(*(torch.utils.data.DataLoader(ds, 32, shuffle=s) for s in (True,False)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.Dropout(.2), nn.ReLU(), nn.Linear(20, 10))
    learn = Learner(dls, model, torch.nn.functional.cross_entropy, opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), metrics=accuracy, cbs=cbs,
        splitter=lambda m: [[*m[1].parameters()],[*m[4].parameters()]])
    learn.recorder.train_metrics = True
    learn.freeze()
    with quiet(learn):
        learn.fit(2, 1e-3)
        learn.unfreeze()
        learn.fit_one_cycle(2, 1e-3)
    return learn

def digest(learn):
    "All that must be the same, as text"
    sha = hashlib.sha256(b''.join(o.detach().contiguous().numpy().tobytes() for o in learn.model.state_dict().values())).hexdigest()
    rec = learn.recorder
    return json.dumps([sha, [[*o] for o in rec.values], [float(o) for o in rec.losses], [float(o) for o in rec.lrs], rec.iters, getattr(rec, 'hps', None)])

def seen(folder):
    "The history without its seconds"
    rows = [json.loads(o) for o in (folder/'history.jsonl').read_text().splitlines()]
    return [{k: v for k,v in o.items() if k!='seconds'} for o in rows],[o.rsplit(',', 1)[0] for o in (folder/'history.csv').read_text().splitlines()]

def run(kind, folder, patch=None):
    "What a process does: resume or start, and write its result into a file"
    torch.set_num_threads(1)
    if patch: patch()
    learn = kind([History(folder, every=5), Checkpoint(folder/'checkpoints', every=3, resume=True)])
    (folder/'end.tmp').write_text(digest(learn))
    (folder/'end.tmp').rename(folder/'end')

@pytest.fixture(scope='module')
def processes():
    "Processes that have everything imported already"
    with pytest.MonkeyPatch.context() as m:
        m.setenv('OMP_NUM_THREADS', '1')
        ctx = multiprocessing.get_context('forkserver')
        ctx.set_forkserver_preload(['mnist_fast.all','mnist_fast.run.checkpoint'])
        yield ctx.Process

@pytest.fixture(scope='module')
def whole(processes, tmp_path_factory):
    "Result and history of a run that was not interrupted, and its seconds"
    @cache
    def f(kind):
        folder,start = tmp_path_factory.mktemp('whole'),time.monotonic()
        p = processes(target=run, args=(kind,folder))
        p.start()
        p.join(120)
        assert p.exitcode==0
        return (folder/'end').read_text(),seen(folder),time.monotonic()-start
    return f

@pytest.mark.parametrize('kind', [ours,stock,torches])
def test_killed_at_random(kind, processes, whole, tmp_path):
    "SIGKILL at random moments; MNIST_FAST_KILLS says how often"
    (end,history,took),folder,rng = whole(kind),tmp_path/'killed',random.Random(0)
    folder.mkdir()
    for left in reversed(range(kills+1)):
        p = processes(target=run, args=(kind,folder))
        p.start()
        p.join(rng.uniform(.1, .9)*took if left else 120)
        alive = p.is_alive()
        p.kill()
        p.join()
        if alive: continue
        assert p.exitcode==0 and (folder/'end').read_text()==end and seen(folder)==history
        for o in ('end','history.csv','history.jsonl'): (folder/o).unlink()
        for o in (folder/'checkpoints').iterdir(): o.unlink()
        if not left: return
    raise AssertionError('the last one did not end')

def killed_at(name, n):
    "The process kills itself at the `n`-th call of a function of `os`"
    real,calls = getattr(os, name),[]
    def f(*args, **kwargs):
        calls.append(1)
        if len(calls)==n: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, f)

@pytest.mark.parametrize('name', ['fsync','replace','unlink'])
def test_killed_while_writing(name, processes, whole, tmp_path):
    "Killed before a checkpoint is complete, before it has its name, and before the oldest one is deleted"
    (end,history,_),folder = whole(torches),tmp_path/'killed'
    folder.mkdir()
    for n in (3,4):
        p = processes(target=run, args=(torches,folder,partial(killed_at, name, n)))
        p.start()
        p.join(120)
        assert p.exitcode==-signal.SIGKILL
    p = processes(target=run, args=(torches,folder))
    p.start()
    p.join(120)
    assert (folder/'end').read_text()==end and seen(folder)==history
    assert not [*(folder/'checkpoints').glob('.*')] and len([*(folder/'checkpoints').iterdir()])==2

class StopHere(Callback):
    order = 100
    def __init__(self, step): self.step = step
    def after_batch(self):
        if self.train_iter==self.step: raise KeyboardInterrupt

def short(*cbs, name='linear', epochs=2, bs=64, **kwargs):
    learn = mnist_learner(mnist_dls('digits', bs=bs, seed=1), name, seed=1, cbs=cbs, **kwargs)
    with quiet(learn), suppress(KeyboardInterrupt): learn.fit(epochs, .1)
    return learn

def test_each_step(tmp_path):
    "Interrupted within the first epoch, at its end, and at the second's first and last step: the same result"
    end = digest(short(EMA(.9)))
    for step in (1,23,24,25,48):
        folder = tmp_path/str(step)
        short(EMA(.9), Checkpoint(folder, every=1, keep=1), StopHere(step))
        assert len([*folder.iterdir()])==1
        assert digest(short(EMA(.9), Checkpoint(folder, resume=True)))==end, step

class CancelOnce(Callback):
    "Cancels at the first event of a name"
    order = 100
    def __init__(self, at, how):
        self.left,self.how = 1,how
        setattr(self, at, self.cancel)
    def cancel(self):
        self.left,left = 0,self.left
        if left: raise self.how()

@pytest.mark.parametrize('at,how', [('before_epoch',CancelEpochException), ('before_train',CancelTrainException), ('before_train',CancelEpochException),
    ('before_epoch',CancelFitException), ('before_epoch',KeyboardInterrupt), ('before_batch',KeyboardInterrupt)])
def test_a_resume_that_is_cancelled(at, how, tmp_path):
    "The state of the checkpoint is there nevertheless, and the Learner validates and fits on"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    saved = load_state(max(tmp_path.iterdir()))['model']
    learn = short(Checkpoint(tmp_path, resume=True), CancelOnce(at, how), StopHere(11))
    if how in (CancelFitException,KeyboardInterrupt): assert all(torch.equal(saved[k], v) for k,v in learn.model.state_dict().items())
    else: assert learn.epoch==1 and learn.train_iter==11
    assert not {'_with_events','all_batches'}&vars(learn).keys()
    assert learn.checkpoint.saved is None
    with quiet(learn):
        learn.validate()
        learn.get_preds()

@pytest.mark.parametrize('cls', [Learner,FastLearner])
def test_after_an_exception(cls, tmp_path):
    "`validate`, `get_preds`, another fit and a resume, where the callback was given to `fit`"
    def learner():
        set_seed(1)
        learn = cls(mnist_dls('digits', bs=64, seed=1), mnist_model('linear', n_out=10), cross_entropy, opt_func=SGD, metrics=accuracy)
        learn.logger = lambda *_: None
        return learn
    learn,whole = learner(),learner()
    whole.fit(2, .1)
    with pytest.raises(KeyboardInterrupt): learn.fit(2, .1, cbs=[Checkpoint(tmp_path, every=5), StopHere(12)])
    learn.validate()
    learn.get_preds()
    with pytest.raises(ValueError, match='resume=True'): learn.fit(2, .1, cbs=Checkpoint(tmp_path))
    learn.fit(2, .1, cbs=Checkpoint(tmp_path, resume=True))
    assert digest(learn)==digest(whole) and '_with_events' not in vars(learn)

def test_refused_twice(tmp_path):
    "A fit that was refused is not counted: the next try looks into the folder again"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    learn = mnist_learner(mnist_dls('digits', bs=64, seed=1), 'linear', seed=1, cbs=Checkpoint(tmp_path, resume=True))
    with quiet(learn):
        for _ in range(2):
            with pytest.raises(ValueError, match='epochs was 2 there, and is 3 here'): learn.fit(3, .1)
        learn.fit(2, .1)
    assert digest(learn)==digest(short())

def test_validation_between(tmp_path):
    "`validate` and `get_preds` neither save nor resume"
    learn = short(cp := Checkpoint(tmp_path/'a', every=5))
    files = sorted(o.name for o in (tmp_path/'a').iterdir())
    with quiet(learn):
        learn.validate()
        learn.get_preds()
    assert sorted(o.name for o in (tmp_path/'a').iterdir())==files and '_with_events' not in vars(learn) and cp.n_fits==1

def test_no_pickle(tmp_path):
    "The file is safetensors, and its header JSON"
    short(Checkpoint(tmp_path, every=5))
    for path in tmp_path.iterdir():
        with safe_open(path, 'pt') as f: json.loads(f.metadata()['state'])

def test_full_disk(tmp_path):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    with full_disk(20_000), pytest.raises(OSError, match='checkpoint-.*cannot be written.*space'): short(Checkpoint(tmp_path, every=5, resume=True))
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()}==before
    assert digest(short(Checkpoint(tmp_path, every=5, resume=True)))==digest(short())

def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='file/x.*cannot be written'): short(Checkpoint(tmp_path/'file'/'x', every=5))

changed = dict(model=dict(name='simple_net'), epochs=dict(epochs=3), batches=dict(bs=32), optimizer=dict(opt_func=Adam))

@pytest.mark.parametrize('what', changed)
def test_of_another_run(what, tmp_path):
    "Refused, and left as it was"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    with pytest.raises(ValueError) as e: short(Checkpoint(tmp_path, every=5, resume=True), **changed[what])
    names(e, max(before), f"{'shape of' if what=='model' else what}.* was .* there, and is .* here", 'another folder')
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()}==before

def test_of_another_version(tmp_path, monkeypatch):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    monkeypatch.setattr('mnist_fast.run.checkpoint.__version__', '99.0')
    with pytest.raises(ValueError) as e: short(Checkpoint(tmp_path, resume=True))
    names(e, 'mnist_fast was .* there, and is 99.0 here')

def test_of_another_format(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr('mnist_fast.run.state._format', 'mnist_fast checkpoint, version 1')
        short(Checkpoint(tmp_path, every=5), StopHere(12))
    with pytest.warns(UserWarning, match='version 1'), pytest.raises(ValueError) as e: short(Checkpoint(tmp_path, resume=True))
    names(e, 'version 1', 'version 2', 'another folder')

@pytest.mark.parametrize('how', damaged(b'xx'))
def test_damaged(how, tmp_path):
    "The one before takes its place; if there is none, the message says so"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    old,new = sorted(tmp_path.iterdir())
    data = damaged(new.read_bytes())[how]
    new.write_bytes(data)
    with pytest.warns(UserWarning) as warned: learn = short(Checkpoint(tmp_path, resume=True))
    names(next(str(o.message) for o in warned if 'damaged' in str(o.message)), str(new), 'damaged', 'one before')
    assert digest(learn)==digest(short())
    for o in tmp_path.iterdir(): o.unlink()
    new.write_bytes(data)
    with pytest.raises(ValueError) as e: short(Checkpoint(tmp_path, resume=True))
    names(e, str(new), 'damaged', 'Delete it')

def test_not_asked_to_resume(tmp_path):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    with pytest.raises(ValueError) as e: short(Checkpoint(tmp_path))
    names(e, str(tmp_path), 'resume=True', 'another folder')

@pytest.mark.parametrize('kw', [dict(every=0), dict(keep=0)])
def test_refuses(kw, tmp_path):
    with pytest.raises(ValueError) as e: Checkpoint(tmp_path, **kw)
    names(e, *(f'{k} is {v}' for k,v in kw.items()), 'Give 1 or more')

def test_seconds(tmp_path):
    "Without `every` the clock decides; a checkpoint at the end is always saved"
    short(Checkpoint(tmp_path/'a', seconds=1000))
    assert [o.name for o in (tmp_path/'a').iterdir()]==['checkpoint-01-00002-0000000.safetensors']
    short(Checkpoint(tmp_path/'b', seconds=0, keep=100))
    assert len([*(tmp_path/'b').iterdir()])==50

def test_strides_and_settings(tmp_path):
    "Tensors keep their strides; settings such as `beta` are not part of the state"
    short(Checkpoint(tmp_path, every=5), StopHere(12), name='speed')
    saved = load_state(max(tmp_path.iterdir()))
    assert saved['model']['1.weight'].is_contiguous(memory_format=torch.channels_last)
    smooth = saved['ranks'][0]['cbs']['recorder']['smooth_loss']
    assert smooth['count']==10 and 'beta' not in smooth and AvgSmoothLoss().beta==.98

@pytest.mark.parametrize('compiled', [(True,False),(False,True)])
def test_compiled(compiled, tmp_path):
    "A checkpoint holds the model without `torch.compile`, so a fit may go on with it or without it, to the same bits"
    def fit(compiled, *cbs):
        set_seed(1)
        model = mnist_model('linear', n_out=10)
        learn = mnist_learner(mnist_dls('digits', bs=64, seed=1), 'linear', torch.compile(model, backend='eager') if compiled else model, seed=1, cbs=cbs)
        with quiet(learn), suppress(KeyboardInterrupt): learn.fit(2, .1)
        return learn
    fit(compiled[0], EMA(.9), Checkpoint(tmp_path, every=5), StopHere(30))
    assert digest(fit(compiled[1], EMA(.9), Checkpoint(tmp_path, resume=True)))==digest(fit(compiled[1], EMA(.9)))
