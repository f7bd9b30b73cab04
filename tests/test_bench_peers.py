"Peers really run, a broken one is reported, and results are kept whole. No time is tested here"
import json, numpy as np, os, pytest
from contextlib import nullcontext
from functools import cache
from conftest import bin, names, root, sh
from mnist_fast.bench.peers import _figures, bench_text, growth_rows, peer_row, run_bench, run_script, scaling_rows, start_row
from mnist_fast.cli import main
from mnist_fast.data.source import get_digits
from mnist_fast.threads import thread_settings

digits = get_digits('digits')

@pytest.fixture(scope='module')
def file(tmp_path_factory):
    f = tmp_path_factory.mktemp('digits')/'digits.npz'
    np.savez(f, **dict(zip(digits._fields, digits[:4])))
    return f

@pytest.fixture(scope='module')
def ours_once():
    "Our side of each pair is the same training, so one process serves all pairs"
    with pytest.MonkeyPatch.context() as m:
        m.setattr('mnist_fast.bench.peers._figures', cache(_figures))
        yield

@pytest.mark.parametrize('name', 'sklearn_mlp pytorch_loop pytorch_example fastai_memory fastai_png'.split())
def test_peer(name, file, ours_once):
    "Each of those that need no more than the package learns, and is set beside ours"
    options = () if name=='sklearn_mlp' else ('--bs','32') if name!='pytorch_example' else ()
    row = peer_row(root/'bench/peers'/f'{name}.py', file, 'digits', options=('--epochs','3',*options))
    assert 'error' not in row, row
    assert row['peer_accuracy']>.5 and row['accuracy']>.3 and row['peer_s']>0
    assert row['ratio']==pytest.approx(row['peer_s']/row['ours_s'])

def test_broken_peer(file, tmp_path, ours_once):
    (tmp_path/'p.py').write_text("raise OSError('no such backend')")
    assert peer_row(tmp_path/'p.py', file, 'digits')['error']=='OSError: no such backend'

def test_run_script():
    "The last line of the output; the memory of the process alone, in MB; the error of a process that fails"
    line,seconds,mb = run_script('-c', 'x = bytearray(300*2**20); print(1); print(len(x))')
    assert line==str(300*2**20) and seconds>0 and 300<=mb<400
    assert run_script('-c', '')[0]==''
    with pytest.raises(RuntimeError, match='^KeyError: 1$'): run_script('-c', '{}[1]')
    with pytest.raises(RuntimeError, match='printed no error'): run_script('-c', 'raise SystemExit(3)')

def test_growth():
    rows = growth_rows('digits', (1000,50_000))
    assert [r['n'] for r in rows]==[1000,50_000] and rows[1]['peak_mb']>rows[0]['peak_mb'] and rows[1]['train_s']>rows[0]['train_s']

def test_start(): assert start_row('digits', 1)['command_s']>0

def test_command(tmp_path):
    out = json.loads(sh(bin/'mnist_fast', 'bench', '--quick', '--source', 'digits', '--out', tmp_path, '--json'))
    assert json.loads((tmp_path/'quick.json').read_text())==out
    assert out['command']=='mnist_fast bench --quick --source digits' and out['system']['cores']>0
    assert {r['task'] for r in out['pairs']}>={'a pass, bs 256','an epoch of cnn, 1,500 images'}

def test_one_recipe(tmp_path):
    "Its row for each task, kept under its name; a name that is not there keeps nothing"
    out = json.loads(sh(bin/'mnist_fast', 'bench', '--recipe', 'linear', '--source', 'digits', '--out', tmp_path/'a', '--json'))
    assert json.loads((tmp_path/'a'/'linear.json').read_text())==out
    assert out['command']=='mnist_fast bench --recipe linear --source digits'
    assert [(r['task'],len(r['accuracies'])) for r in out['recipes']]==[('3v7',5),('full',5)] and 'pairs' not in out
    assert main(['bench','--recipe','bset','--source','digits','--out',str(tmp_path/'b')])==1
    assert not (tmp_path/'b').exists()

def test_run_bench(tmp_path):
    "`run_bench` returns what it keeps, and measures what the command measures: the same accuracies, in a file of the same name"
    res,path = run_bench('digits', recipe='linear', out=tmp_path/'a')
    assert path==tmp_path/'a'/'linear.json' and json.loads(path.read_text())==res and [*path.parent.iterdir()]==[path]
    main(['bench','--recipe','linear','--source','digits','--out',str(tmp_path/'b')])
    kept = json.loads((tmp_path/'b'/'linear.json').read_text())
    same = 'command','system'
    assert {k: kept[k] for k in same}=={k: res[k] for k in same} and kept.keys()==res.keys()
    assert [{**r, 'seconds': None} for r in kept['recipes']]==[{**r, 'seconds': None} for r in res['recipes']]
    assert all(o in bench_text(res) for o in (res['system']['processor'],'recipe','linear',f"{res['recipes'][0]['accuracy']:.4g}"))

@pytest.mark.parametrize('options', [dict(quick=True, full=True),dict(quick=True, recipe='cnn'),dict(full=True, recipe='cnn')])
def test_bad_options(options, tmp_path, capsys):
    "Options that exclude each other are named, and nothing is kept, from Python and from the command"
    with pytest.raises(ValueError) as e: run_bench('digits', out=tmp_path/'out', **options)
    names(e, *options, 'Choose one of them')
    words = [o for k,v in options.items() for o in ([f'--{k}'] if v is True else [f'--{k}',v])]
    assert main(['bench',*words,'--out',str(tmp_path/'out')])==1
    assert 'Choose one of them' in capsys.readouterr().err and not (tmp_path/'out').exists()

def test_no_peers(capsys, tmp_path):
    "A folder without scripts is named, with what to do"
    with pytest.raises(ValueError) as e: run_bench('digits', peers=tmp_path/'p', out=tmp_path/'out')
    names(e, str(tmp_path/'p'), 'no scripts here', '--peers', '--quick')
    assert main(['bench','--peers',str(tmp_path)])==1
    assert 'there are no scripts here' in capsys.readouterr().err

def test_scaling_error():
    "A recipe that fails in its processes gives a row with the reason"
    row, = scaling_rows('digits', recipe='no such recipe', processes=(1,))
    assert row['processes']==1 and 'no such recipe' in row['error'] and 'seconds' not in row

@pytest.mark.parametrize('before,after', [(.1,2.),(1.5,2.),(.1,4.),(None,None)])
def test_load(before, after, tmp_path, monkeypatch):
    "The load before and after is kept and printed, and there is a warning where other programs were at work"
    monkeypatch.setattr('torch.get_num_threads', lambda: 2)
    monkeypatch.setattr('mnist_fast.bench.peers.bench_rows', lambda *args: {})
    loads = iter([(before,0,0),(after,0,0)])
    monkeypatch.setattr(os, 'getloadavg', lambda: next(loads))
    if before is None: monkeypatch.delattr(os, 'getloadavg')
    busy = before is not None and (before,after)!=(.1,2.)
    with pytest.warns(UserWarning, match=f'load was {before} before the start and {after} at the end') if busy else nullcontext():
        res,_ = run_bench('digits', quick=True, out=tmp_path)
    assert res['load']==dict(before=before, after=after)
    assert ('load' in bench_text(res)) is (f'load {before} before the start, {after} at the end' in bench_text(res)) is (before is not None)

def test_script_threads(monkeypatch):
    "A script binds its threads as `mnist_fast` does, and one that uses fewer threads than cores does not"
    for k in [*os.environ]:
        if k.startswith(('OMP_','GOMP_','LOCAL_RANK')): monkeypatch.delenv(k)
    show = '-c', "import os; print(os.environ.get('OMP_PROC_BIND'))"
    assert run_script(*show)[0]==str(thread_settings().get('OMP_PROC_BIND'))
    assert run_script(*show, threads=1)[0]==str(thread_settings(1).get('OMP_PROC_BIND'))
