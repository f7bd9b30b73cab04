"Threads are bound where that helps, the user's own settings stay, and forked processes are free"
import os, pytest, subprocess, sys
from conftest import names
from fastcore.xtras import modified_env
from mnist_fast.threads import check_launcher, pin_threads, thread_settings

linux = pytest.mark.skipif(sys.platform!='linux', reason='only Linux binds threads')
pin = 'import os; from mnist_fast.threads import pin_threads; res = pin_threads({}); import torch'

def python(code, **env):
    clean = {k: o for k,o in os.environ.items() if not k.startswith(('OMP_','GOMP_','LOCAL_RANK'))}
    return subprocess.run([sys.executable, '-c', code], env=clean|env, capture_output=True, text=True, check=True).stdout.strip()

@linux
@pytest.mark.parametrize('var', ['OMP_NUM_THREADS','OMP_PROC_BIND','GOMP_SPINCOUNT','LOCAL_RANK'])
def test_users_settings(var):
    "Whoever has set something for OpenMP keeps exactly that, and so does a process of a launcher"
    code = f"{pin.format('')}; print(res, sorted(k for k in os.environ if k.startswith(('OMP_','GOMP_','LOCAL_RANK'))))"
    assert python(code, **{var: '1'})==f"False {[var]}"

@linux
def test_number(monkeypatch):
    "Fewer threads than cores stay free; as many as cores, or more, are bound"
    for k in [*os.environ]:
        if k.startswith(('OMP_','GOMP_','LOCAL_RANK')): monkeypatch.delenv(k)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0,1,2})
    assert not thread_settings(1) and not thread_settings(2)
    assert thread_settings(3)==thread_settings(4)==thread_settings()==dict(OMP_PROC_BIND='spread', OMP_PLACES='cores')
    monkeypatch.delattr(os, 'sched_getaffinity')
    assert not thread_settings()

@linux
def test_forked():
    "PyTorch keeps its number of threads, the first one has one core, and a forked process has all of them"
    fork = """
if not (pid := os.fork()): os._exit(len(os.sched_getaffinity(0)))
print(res, torch.get_num_threads(), len(os.sched_getaffinity(0)), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"""
    n = python('import torch; print(torch.get_num_threads())')
    assert python(pin.format('')+fork)==f'True {n} 1 {len(os.sched_getaffinity(0))}'

def test_same_bits():
    "A bound process computes the same bits as a free one"
    train = """
from mnist_fast.files import crc32
from mnist_fast.learner import run_recipe
from mnist_fast.data.source import get_digits
print(crc32(run_recipe(get_digits('digits'), 'full', 'linear', 0)['learn'].model.state_dict().values()))"""
    assert python(pin.format('')+train)==python('import torch'+train)

a_rank = dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', LOCAL_WORLD_SIZE='2', MASTER_ADDR='localhost', MASTER_PORT='29500')
wrong = [*({k: v for k,v in a_rank.items() if k!=o} for o in a_rank), *({**a_rank, k: v} for k in a_rank if k!='MASTER_ADDR' for v in ('','x','-1')),
    {**a_rank, 'RANK': '2'}, {**a_rank, 'LOCAL_RANK': '2'}, {**a_rank, 'LOCAL_WORLD_SIZE': '3'}, {**a_rank, 'MASTER_PORT': '65536'}]

@pytest.mark.parametrize('env', wrong, ids=str)
def test_launcher(env):
    "All variables of a launcher, and numbers that fit each other; otherwise each is named"
    with modified_env(*a_rank.keys()-env.keys(), **env), pytest.raises(ValueError) as e: check_launcher()
    names(e, *(f'{k}={v}' for k,v in env.items()), 'unset')

@pytest.mark.parametrize('env', [{}, a_rank, dict(RANK='0', WORLD_SIZE='1'), dict(MASTER_ADDR='localhost', MASTER_PORT='x')], ids=str)
def test_no_left_over(env):
    with modified_env(*a_rank.keys()-env.keys(), **env): check_launcher()

def test_too_late(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(RuntimeError) as e: pin_threads()
    names(e, 'already imported', 'pin_threads before the first import', 'torch.set_num_threads.1')
