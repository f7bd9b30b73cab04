"Training in several processes: which rank gets which items, the results that one process would give, and what happens when a process dies"
import json, os, pytest, signal, subprocess, sys, time, torch
from collections import Counter
from contextlib import contextmanager
from hypothesis import given, settings, strategies as st
import ranks
from conftest import bin, names, quiet, root
from mnist_fast.bench.peers import scaling_rows
from mnist_fast.data.loader import TensorDL
from mnist_fast.run.distributed import ShardDL, distrib_fit, init_distributed

torchrun = [bin/'torchrun','--standalone','--nproc-per-node','2']
accelerate = [bin/'accelerate','launch','--multi_gpu','--num_processes','2','--main_process_port','0']

@contextmanager
def launched(launcher, out, *names):
    "Start `ranks.py`; `wait()` then gives its exit status, its output and its seconds"
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}
    p = subprocess.Popen([*map(str, launcher), str(root/'tests/ranks.py'), str(out), *names], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    start = time.monotonic()
    def wait():
        text = p.communicate(timeout=240)[0]
        return p.returncode,text,time.monotonic()-start
    try: yield wait
    finally:
        p.terminate()
        p.wait(60)

def result(out, *names): return json.loads((out/f"{'-'.join(names)}.json").read_text())

checks = 'stock fast callbacks poison whole'.split()

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Two runs at a time on one machine, one from each launcher. One succeeds, in the other a process is killed; then this one is resumed, and in another run a process hangs"
    out = tmp_path_factory.mktemp('runs')
    with launched(torchrun, out, *checks) as a, launched(accelerate, out, 'dying') as b: good,dead = a(),b()
    left = sorted(o.name for o in (out/'cut').iterdir())
    with launched(accelerate, out, 'again') as a, launched(torchrun, out, 'hanging') as b: again,hung = a(),b()
    return dict(out=out, good=good, dead=dead, left=left, again=again, hung=hung)

@pytest.fixture(scope='module')
def good(runs):
    status,text,_ = runs['good']
    assert status==0, text
    return result(runs['out'], *checks)
def shards(n, bs, w, **kwargs):
    "Each rank's batches of positions; the items are in order"
    even = kwargs.pop('even', True)
    dl = TensorDL(torch.zeros(n, 1), torch.arange(n), bs=bs, **kwargs)
    ranks = [ShardDL(dl, even, r, w) for r in range(w)]
    res = [[yb.tolist() for _,yb in o] for o in ranks]
    assert [len(o) for o in ranks]==[len(o) for o in res]
    return res

sizes = st.integers(1,200),st.integers(1,40),st.integers(1,9)

@given(*sizes)
@settings(deadline=None)
def test_training_shards(n, bs, w):
    "All ranks have batches of the same sizes; each item is seen once, but for less than `w` of the first ones, which come again in the last batch"
    parts = shards(n, bs, w)
    assert len({tuple(map(len, o)) for o in parts})==1
    steps = [sum(o, []) for o in zip(*parts)]
    *others,last = [Counter(o) for o in steps]
    assert all(set(o.values())=={1} for o in others)
    again = sum((Counter(o) for o in steps), Counter())-Counter(range(n))
    assert sum(again.values())<w and set(again)<=set(range(w)) and all(last[k] for k in again)
    share = -(-bs//w)
    assert {len(o) for o in parts[0][:-1]}<={share} and 1<=len(parts[0][-1])<=share+1
    assert share==1 or len(parts[0])==1 or len(parts[0][-1])>1

@given(*sizes)
@settings(deadline=None)
def test_batches_of_one_process(n, bs, w):
    "Where the batch size can be divided, the ranks' parts are the batches that one process has"
    whole,steps = [o.tolist() for o in torch.arange(n).split(bs*w)],[sorted(sum(o, [])) for o in zip(*shards(n, bs*w, w))]
    k = len(steps)-1
    assert steps[:k]==whole[:k] and set(steps[k])-set(range(w))==set(sum(whole[k:], []))-set(range(w))

@given(*sizes)
@settings(deadline=None)
def test_validation_shards(n, bs, w):
    "Each item once; there may be ranks without any"
    parts = shards(n, bs, w, even=False)
    assert sorted(i for o in parts for b in o for i in b)==list(range(n))
    assert max(map(len, parts))-min(map(len, parts))<=1

@given(*sizes)
@settings(deadline=None)
def test_drop_last(n, bs, w):
    parts = shards(n, bs, w, drop_last=True)
    share = -(-bs//w)
    assert {len(o) for o in parts}=={n//(share*w)} and {len(b) for o in parts for b in o}<={share}
    assert Counter(i for o in parts for b in o for i in b)==Counter(range(n//(share*w)*share*w))

def test_new_keeps_the_part():
    dl = ShardDL(TensorDL(torch.zeros(20, 1), torch.arange(20), bs=8), False, 1, 2)
    new = dl.new(get_idxs=lambda: torch.tensor([5,7,9,11]), n=4, bs=2)
    assert [b[1].tolist() for b in new]==[[7],[11]] and len(new)==2

def test_other_loaders():
    with pytest.raises(ValueError) as e: ShardDL(torch.utils.data.DataLoader([1,2]), True, 0, 2)
    names(e, 'loader is a DataLoader', 'Give a TensorDL')
    x,y = torch.zeros(20, 1),torch.arange(20)
    with pytest.raises(ValueError) as e: ShardDL(TensorDL(x, y, after_item=lambda o: o), True, 0, 2)
    names(e, 'method for single items', 'after_batch')
    with pytest.raises(ValueError) as e: [*ShardDL(TensorDL(x, y, get_idxs=lambda: torch.arange(30)%20), True, 0, 2)]
    names(e, '30 positions', 'n=30')

def alone(cls):
    "One process, with the item that comes again for two processes in the order"
    dls = ranks.loaders()
    gen = torch.Generator().manual_seed(1)
    def order():
        o = torch.randperm(1499, generator=gen)
        return torch.cat([o, o[:1]])
    dls.loaders = [dls.train.new(get_idxs=order, n=1500),dls.valid]
    learn = ranks.learner64(cls, dls)
    with quiet(learn): learn.fit(2, .1)
    return learn

@pytest.mark.parametrize('name,cls', [('stock',ranks.Learner),('fast',ranks.FastLearner)])
def test_as_one_process(good, name, cls):
    """Weights, losses of each batch, and metrics of the whole validation set. The weights are float64: a sum of 784 terms is exact to
    784*2**-52 = 2e-13 of its size, and 1e-8 leaves a factor of 50,000 for what 48 steps make of that. The losses are float32: a step of
    their running mean has five roundings of at most 2**-24 each, so 48 steps differ by less than 4*48*2**-23 of the loss"""
    learn,res,rel = alone(cls),good[name],4*48*2**-23
    a,b = torch.tensor(res['weights'], dtype=torch.float64)
    assert torch.equal(a, b) and torch.allclose(a, ranks.weights(learn), rtol=0, atol=1e-8)
    assert res['losses']==pytest.approx([o.item() for o in learn.recorder.losses], rel=rel)
    for x,y in zip(res['values'], learn.recorder.values): assert x==pytest.approx(list(y), rel=rel)

@pytest.mark.parametrize('name', ['stock','fast'])
def test_items_of_an_epoch(good, name):
    seen = good[name]['seen']
    assert [[len(b) for b in o] for o in seen]==[[32]*23+[14]]*2
    times = Counter(i for o in seen for b in o for i in b)
    assert set(times)==set(range(1499)) and Counter(times.values())=={1: 1498, 2: 1}
    twice, = (k for k,v in times.items() if v==2)
    assert twice==seen[0][0][0]==seen[1][-1][-1]

def test_same_on_all(good):
    """Weights, decisions, gradients and choices are equal, and random numbers are not. Loss and metrics of a validation differ from those
    of one process by rounding alone: sums of up to 784 float32 terms, 784*2**-23 (1e-4) of their size, which is below 10; one digit counts 1/293"""
    res = good['callbacks']
    for k in ('weights','values','norms','idxs','scores'): assert res[k][0]==res[k][1], k
    assert res['draws'][0]!=res['draws'][1] and len(res['idxs'][0])==int(.4*1499)+int(.2*1499)
    assert res['together']==pytest.approx(res['alone'], abs=1e-3) and max(o[2] for o in res['values'][0])==pytest.approx(res['alone'][1], abs=1e-3)
    assert res['preds']==293
    names(res['refused'].split('\t')[-1], 'part', 'get_preds', 'distrib_fit')

def test_nan_in_one(good): assert good['poison']==[5,5]

def test_one_dies(runs):
    "The run ends by itself, says why, and leaves checkpoints to resume from"
    status,text,seconds = runs['dead']
    assert status not in (0,None) and 'Process 0 of 2 ends: another process has ended' in text and seconds<120
    assert runs['left'] and not (runs['out']/'dying.json').exists()

def test_resumed(runs, good):
    "With augmentation, averages and chosen items: the same bits as the run that was not interrupted"
    status,text,_ = runs['again']
    assert status==0, text
    assert result(runs['out'], 'again')['again']==good['whole']

def test_one_hangs(runs):
    status,text,_ = runs['hung']
    assert status not in (0,None) and 'did not answer in time' in text

a_rank = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', LOCAL_WORLD_SIZE='1', MASTER_ADDR='localhost', MASTER_PORT='29500')

@pytest.mark.parametrize('start', [lambda: init_distributed(), lambda: distrib_fit(ranks.learner()).__enter__()], ids=['init','fit'])
def test_left_over(start, monkeypatch):
    "Variables of a launcher that is gone are an error in Python too"
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(ValueError) as e: start()
    names(e, 'RANK=1', 'torchrun', 'unset RANK')

def test_more_processes_than_gpus(monkeypatch):
    for k,v in dict(a_rank, WORLD_SIZE='2', LOCAL_WORLD_SIZE='2').items(): monkeypatch.setenv(k, v)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError) as e:
        with distrib_fit(ranks.learner()): pass
    names(e, '2 processes', '1 GPUs', 'CUDA_VISIBLE_DEVICES')

def test_errors_pass():
    "In one process no error is replaced, and SIGTERM keeps its handler"
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match='mine'):
        with distrib_fit(ranks.learner()): raise RuntimeError('mine')
    assert signal.getsignal(signal.SIGTERM)==old

def test_no_scaling(tmp_path):
    "An error in the processes stands in the row"
    row, = scaling_rows(tmp_path/'none', processes=(2,))
    assert row['processes']==2 and 'no such file or folder' in row['error']

def test_without_accelerate():
    "Only this module needs it"
    code = "import sys; sys.modules['accelerate'] = None; import mnist_fast.run.distributed"
    assert "needs accelerate. Install it: pip install 'mnist_fast[distributed]'" in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr
