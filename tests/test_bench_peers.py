"The benchmark: peers really run, a broken one is told, results are kept whole. No time is tested here"
import json, numpy as np, pytest
from conftest import bin, root, sh
from mnist_fast.bench.peers import growth_rows, peer_row, start_row
from mnist_fast.bench.timing import recipe_row
from mnist_fast.learner import run_recipe
from mnist_fast.cli import main
from mnist_fast.data.source import get_digits

digits = get_digits('digits')

@pytest.fixture(scope='module')
def file(tmp_path_factory):
    f = tmp_path_factory.mktemp('digits')/'digits.npz'
    np.savez(f, **dict(zip(digits._fields, digits[:4])))
    return f

@pytest.mark.parametrize('name', 'sklearn_mlp pytorch_loop pytorch_example fastai_memory fastai_png'.split())
def test_peer(name, file):
    "Each of those that need no more than the package learns, and is set beside ours"
    options = () if name=='sklearn_mlp' else ('--bs','32') if name!='pytorch_example' else ()
    row = peer_row(root/'bench/peers'/f'{name}.py', file, 'digits', options=('--epochs','3',*options))
    assert 'error' not in row, row
    assert row['peer_accuracy']>.5 and row['accuracy']>.3 and row['peer_s']>0
    assert row['ratio']==pytest.approx(row['peer_s']/row['ours_s'])

def test_broken_peer(file, tmp_path):
    (tmp_path/'p.py').write_text("raise OSError('no such backend')")
    assert peer_row(tmp_path/'p.py', file, 'digits')['error']=='OSError: no such backend'

def test_recipe_row():
    "The same seed gives the same accuracy; the mean is that of the runs"
    a,b = (recipe_row(digits, '3v7', 'speed', range(3)) for _ in range(2))
    assert a['accuracies']==b['accuracies'] and a['accuracy']==pytest.approx(np.mean(a['accuracies']))
    assert a['deviation']==pytest.approx(np.std(a['accuracies'], ddof=1))
    assert run_recipe(digits, '3v7', 'speed', 1)['accuracy']==a['accuracies'][1]

def test_growth():
    rows = growth_rows('digits', (1000,50_000))
    assert [r['n'] for r in rows]==[1000,50_000] and rows[1]['peak_mb']>rows[0]['peak_mb'] and rows[1]['train_s']>rows[0]['train_s']

def test_start(): assert start_row('digits', 1)['command_s']>0

def test_command(tmp_path):
    out = json.loads(sh(bin/'mnist_fast', 'bench', '--quick', '--source', 'digits', '--out', tmp_path, '--json'))
    assert json.loads((tmp_path/'quick.json').read_text())==out
    assert out['command']=='mnist_fast bench --quick --source digits' and out['about']['cores']>0
    assert {r['task'] for r in out['pairs']}>={'a pass, bs 256','an epoch of cnn, 1,500 images'}

def test_one_recipe(tmp_path):
    "Its row for each task, kept under its name; a name that is not there keeps nothing"
    out = json.loads(sh(bin/'mnist_fast', 'bench', '--recipe', 'linear', '--source', 'digits', '--out', tmp_path/'a', '--json'))
    assert json.loads((tmp_path/'a'/'linear.json').read_text())==out
    assert out['command']=='mnist_fast bench --recipe linear --source digits'
    assert [(r['task'],len(r['accuracies'])) for r in out['recipes']]==[('3v7',5),('full',5)] and 'pairs' not in out
    assert main(['bench','--recipe','bset','--source','digits','--out',str(tmp_path/'b')])==1
    assert not (tmp_path/'b').exists()

def test_bad_command(capsys):
    for o in (['--full'],['--recipe','cnn']):
        assert main(['bench','--quick',*o])==1
        assert 'Choose one of them' in capsys.readouterr().err

def test_no_peers(capsys, tmp_path):
    assert main(['bench','--peers',str(tmp_path)])==1
    assert 'there are no scripts here' in capsys.readouterr().err
