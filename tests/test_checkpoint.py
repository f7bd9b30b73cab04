"Runs that are killed, in real processes and at any moment, end as if nothing had been; what cannot go on says why"
import hashlib, json, multiprocessing, os, pytest, random, signal, time, torch
from conftest import full_disk
from functools import cache, partial
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.callback.tracker import ReduceLROnPlateau, SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import AvgSmoothLoss, Learner
from fastai.metrics import F1Score, accuracy
from fastai.optimizer import Adam, OptimWrapper
from fastai.torch_core import set_seed
from mnist_fast.callback.training import EMA, HardExamples, KeepBest, StopAt
from mnist_fast.callback.augment import BatchAugment
from mnist_fast.callback.monitor import GradNorm, NaNGuard
from mnist_fast.run.checkpoint import Checkpoint
from mnist_fast.run.history import History
from mnist_fast.checkpoint import _read
from mnist_fast.data.loader import mnist_dls
from mnist_fast.learner import mnist_learner
from safetensors import safe_open
from torch import nn

kills = int(os.environ.get('MNIST_FAST_KILLS', 3))

def quiet(learn):
    learn.logger = lambda *_: None
    learn.remove_cb(ProgressCallback)
    return learn

def ours(cbs):
    "Our loader, optimizer and callbacks"
    cbs = [BatchAugment(), EMA(.9), HardExamples(.3, .3, .2), KeepBest('accuracy'), NaNGuard(), GradNorm(), *cbs]
    learn = mnist_learner(mnist_dls('digits', bs=32, seed=1), 'cnn', seed=1, cbs=cbs)
    quiet(learn).fit_one_cycle(5, .1)
    return learn

def stock(cbs):
    "fastai's loader, optimizer and callbacks, and dropout; chance in the items"
    set_seed(2)
    x,y = mnist_dls('digits', seed=2).train_ds[:400]
    noisy = lambda o: (o[0]+.1*torch.rand(())*random.random(), o[1])
    dls = DataLoaders(*(DataLoader([*zip(x, y)], bs=16, shuffle=s, after_item=noisy) for s in (True,False)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(.3), nn.Linear(30, 10))
    learn = Learner(dls, model, torch.nn.functional.cross_entropy, opt_func=Adam, metrics=[accuracy, F1Score(average='macro')], cbs=cbs)
    quiet(learn).fit_flat_cos(4, .003, cbs=[GradientAccumulation(40), GradientClip(.5), ReduceLROnPlateau(patience=1)])
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
    quiet(learn).freeze()
    learn.fit(2, 1e-3)
    learn.unfreeze()
    learn.fit_one_cycle(2, 1e-3)
    return learn

def digest(learn):
    "What must be the same, in words"
    sha = hashlib.sha256(b''.join(o.detach().contiguous().numpy().tobytes() for o in learn.model.state_dict().values())).hexdigest()
    rec = learn.recorder
    return json.dumps([sha, [[*o] for o in rec.values], [float(o) for o in rec.losses], [float(o) for o in rec.lrs], rec.iters, getattr(rec, 'hps', None)])

def seen(folder):
    "The history without its seconds"
    rows = [json.loads(o) for o in (folder/'history.jsonl').read_text().splitlines()]
    return [{k: v for k,v in o.items() if k!='seconds'} for o in rows],[o.rsplit(',', 1)[0] for o in (folder/'history.csv').read_text().splitlines()]

def run(kind, folder, patch=None):
    "What a process does: go on, or begin; its end goes into a file"
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
        ctx.set_forkserver_preload(['mnist_fast.all','mnist_fast.checkpoint'])
        yield ctx.Process

@pytest.fixture(scope='module')
def whole(processes, tmp_path_factory):
    "The end and the history of a run that went through, and its seconds"
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
    "SIGKILL at random moments, again and again; MNIST_FAST_KILLS says how often"
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
    "The process is gone at the `n`-th call of a function of `os`"
    real,calls = getattr(os, name),[]
    def f(*args, **kwargs):
        calls.append(1)
        if len(calls)==n: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, f)

@pytest.mark.parametrize('name', ['fsync','replace','unlink'])
def test_killed_while_writing(name, processes, whole, tmp_path):
    "In the middle of a checkpoint: before it is whole, before it has its name, before the old one is gone"
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
    learn = quiet(mnist_learner(mnist_dls('digits', bs=bs, seed=1), name, seed=1, cbs=cbs, **kwargs))
    try: learn.fit(epochs, .1)
    except KeyboardInterrupt: pass
    return learn

def test_each_step(tmp_path):
    "Cut off after any step of the first epoch, its last and the second's first: the same end"
    end = digest(short(EMA(.9)))
    for step in (1,23,24,25,48):
        folder = tmp_path/str(step)
        short(EMA(.9), Checkpoint(folder, every=1, keep=1), StopHere(step))
        assert len([*folder.iterdir()])==1
        assert digest(short(EMA(.9), Checkpoint(folder, resume=True)))==end, step

def test_validation_between(tmp_path):
    "`validate` and `get_preds` neither save nor resume"
    learn = short(cp := Checkpoint(tmp_path/'a', every=5))
    files = sorted(o.name for o in (tmp_path/'a').iterdir())
    learn.validate()
    learn.get_preds()
    assert sorted(o.name for o in (tmp_path/'a').iterdir())==files and '_with_events' not in vars(learn) and cp.fits==1

def test_no_pickle(tmp_path):
    "The file is safetensors, and its header JSON"
    short(Checkpoint(tmp_path, every=5))
    for path in tmp_path.iterdir():
        with safe_open(path, 'pt') as f: json.loads(f.metadata()['state'])

def test_full_disk(tmp_path):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    with full_disk(20_000), pytest.raises(OSError, match='cannot be written.*Free some space'): short(Checkpoint(tmp_path, every=5, resume=True))
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()}==before
    assert digest(short(Checkpoint(tmp_path, every=5, resume=True)))==digest(short())

def test_folder_that_is_none(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='cannot be written'): short(Checkpoint(tmp_path/'file'/'x', every=5))

changed = dict(model=dict(name='simple_net'), epochs=dict(epochs=3), batches=dict(bs=32), optimizer=dict(opt_func=Adam))

@pytest.mark.parametrize('what', changed)
def test_of_another_run(what, tmp_path):
    "Refused, and left as it was"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    word = {'model': 'the shape of', 'optimizer': 'optimizer'}.get(what, what)
    with pytest.raises(ValueError, match=f'{word}.* was .* there, and is .* here.*begin anew'): short(Checkpoint(tmp_path, every=5, resume=True), **changed[what])
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()}==before

def test_of_another_version(tmp_path, monkeypatch):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    monkeypatch.setattr('mnist_fast.checkpoint.__version__', '99.0')
    with pytest.raises(ValueError, match='mnist_fast was .* there, and is 99.0 here'): short(Checkpoint(tmp_path, resume=True))
    monkeypatch.setattr('mnist_fast.checkpoint._format', 'mnist_fast checkpoint, version 2')
    with pytest.raises(ValueError, match='version 1, but mnist_fast checkpoint, version 2 is read here'): short(Checkpoint(tmp_path, resume=True))

def harmed(data, how):
    if how=='cut': return data[:len(data)//2]
    if how=='empty': return b''
    if how=='text': return b'weights'*100
    return data[:-9]+bytes([data[-9]^1])+data[-8:]

@pytest.mark.parametrize('how', ['cut','empty','text','bit'])
def test_damaged(how, tmp_path):
    "The one before takes its place; without one, a sentence says so"
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    old,new = sorted(tmp_path.iterdir())
    new.write_bytes(harmed(new.read_bytes(), how))
    with pytest.warns(UserWarning, match='damaged.*Going on from the one before'): learn = short(Checkpoint(tmp_path, resume=True))
    assert digest(learn)==digest(short())
    for o in tmp_path.iterdir(): o.unlink()
    new.write_bytes(harmed(b'x'*100, how))
    with pytest.raises(ValueError, match='damaged.*Delete it'): short(Checkpoint(tmp_path, resume=True))

def test_not_asked_to_resume(tmp_path):
    short(Checkpoint(tmp_path, every=5), StopHere(12))
    with pytest.raises(ValueError, match='resume=True'): short(Checkpoint(tmp_path))

@pytest.mark.parametrize('kw', [dict(every=0), dict(keep=0)])
def test_refuses(kw, tmp_path):
    with pytest.raises(ValueError, match='Give 1 or more'): Checkpoint(tmp_path, **kw)

def test_seconds(tmp_path):
    "By the clock: none within the time, one at the end"
    short(Checkpoint(tmp_path/'a', seconds=1000))
    assert [o.name for o in (tmp_path/'a').iterdir()]==['checkpoint-01-00002-0000000.safetensors']
    short(Checkpoint(tmp_path/'b', seconds=0, keep=100))
    assert len([*(tmp_path/'b').iterdir()])==50

def test_strides_and_kinds(tmp_path):
    "Tensors come back as they lay in memory"
    short(Checkpoint(tmp_path, every=5), StopHere(12), name='speed')
    saved = _read(max(tmp_path.iterdir()))
    assert saved['model']['1.weight'].is_contiguous(memory_format=torch.channels_last)
    assert saved['own'][0]['cbs']['recorder']['smooth_loss']['count']==10 and AvgSmoothLoss().beta==.98

def test_history_says_why(tmp_path):
    learn = short(History(tmp_path), StopAt('accuracy', .2), SaveModelCallback(), epochs=5, path=tmp_path)
    assert json.loads((tmp_path/'history.jsonl').read_text().splitlines()[-1])==dict(stopped=learn.recorder.stopped)
    learn.fit(1, .1)
    rows = [json.loads(o) for o in (tmp_path/'history.jsonl').read_text().splitlines()]
    assert [o.get('epoch') for o in rows]==[0,None]
    learn.validate()
    assert [json.loads(o) for o in (tmp_path/'history.jsonl').read_text().splitlines()]==rows
