"The ladder from Python and from the command: the same rows, the same file, means over seeds. No time is tested here"
import json, numpy as np, pytest, subprocess
from conftest import bin, names, sh
from mnist_fast.bench.ladder import ladder_rows, ladder_text, plot_ladder, run_ladder
from mnist_fast.cli import main
from mnist_fast.data.idx import Digits
from mnist_fast.data.source import get_digits
from mnist_fast.learner import run_recipe

digits = get_digits('digits')
columns = {'what','by_hand','library','difference','correlation','by_hand_s','library_s','ratio'}

def strict(text): return json.loads(text, parse_constant=lambda o: pytest.fail(f'{o} is not JSON'))

def timeless(o): return {k: v for k,v in o.items() if k not in ('seconds','by_hand_s','library_s','ratio')}

@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "`run_ladder` with one seed, and its folder"
    folder = tmp_path_factory.mktemp('ladder')/'out'
    return run_ladder('digits', seeds=1, seed=1, out=folder),folder

@pytest.fixture(scope='module')
def two(): return ladder_rows(digits, seeds=2, seed=1)

def test_rows(one):
    "Every rung of both tasks, each with what programs rely on"
    rows = one[0]['rows']
    pixels,nets = ['pixel similarity L1','pixel similarity L2'],['linear','simple_net','cnn','speed']
    assert [(r['task'],r['rung']) for r in rows]==[*(('3v7',o) for o in [*pixels,'linear by hand',*nets]),*(('full',o) for o in pixels+nets)]
    assert all(0<r['accuracy']<=1 and r['seconds']>0 and r['params']>=785 and r['n']==1 and r['source']==digits.source for r in rows)
    assert all((r['loss'] is None)==('pixel' in r['rung']) and r['accuracy_sd'] is None for r in rows)

def test_learns(two):
    "On the small set too each rung is far above chance"
    assert not [(r['task'],r['rung'],r['accuracies']) for r in two if min(r['accuracies'])<.85]

def test_file(one):
    "What is returned is what is kept, with the command and the machine, and the pictures are there"
    res,folder = one
    assert strict((folder/'ladder.json').read_text())==res
    assert res['command']=='mnist_fast ladder --source digits --seeds 1 --seed 1' and res['source']==digits.source
    assert res['cores']>0 and {'mnist_fast','python','torch','fastai'}<=res['versions'].keys()
    assert sorted(o.name for o in folder.iterdir())==['ideals.png','ladder.json','ladder.png']
    assert all((folder/o).read_bytes().startswith(b'\x89PNG') for o in ('ideals.png','ladder.png'))

def test_command_gives_the_same(one, tmp_path):
    "The command prints the rows that `run_ladder` gives, and keeps the same file, but for times"
    res,_ = one
    args = [bin/'mnist_fast', *'ladder --source digits --seeds 1 --seed 1 --json --out'.split(), tmp_path/'out']
    ended = subprocess.run(args, capture_output=True, text=True)
    assert ended.returncode==0 and ended.stderr=='' and ended.stdout.count('\n')==1
    rows,kept = strict(ended.stdout),strict((tmp_path/'out'/'ladder.json').read_text())
    assert sorted(o.name for o in (tmp_path/'out').iterdir())==['ideals.png','ladder.json','ladder.png']
    assert kept['rows']==rows and {k: v for k,v in kept.items() if k!='rows'}=={k: v for k,v in res.items() if k!='rows'}
    assert [*map(timeless, rows)]==[*map(timeless, res['rows'])]

def test_means(one, two):
    "Two seeds give the means over both; what is not random runs once, whatever the seeds"
    for a,b in zip(one[0]['rows'], two):
        accs = b['accuracies']
        assert (a['task'],a['rung'],a['params'])==(b['task'],b['rung'],b['params'])
        assert b['n']==len(accs)==(1 if 'pixel' in b['rung'] else 2) and a['accuracies']==accs[:1]
        assert b['accuracy']==pytest.approx(np.mean(accs))
        assert b['accuracy_sd'] is None if len(accs)==1 else b['accuracy_sd']==pytest.approx(np.std(accs, ddof=1))

def test_seeds(two):
    "A rung's runs are those of `run_recipe` with `seed` and the seeds after it, and the loss is their mean"
    row = next(r for r in two if (r['task'],r['rung'])==('full','linear'))
    runs = [run_recipe(digits, 'full', 'linear', s) for s in (1,2)]
    assert row['accuracies']==[r['accuracy'] for r in runs]
    assert row['loss']==pytest.approx(np.mean([r['loss'] for r in runs]))

def test_digits_given(tmp_path):
    "Digits that are loaded already can be given; the command names where they came from"
    few = Digits(*[o[:400] for o in digits[:4]], 'a few digits')
    res = run_ladder(few, seeds=1, out=tmp_path/'a', by_hand=True)
    assert res['source']=='a few digits' and 'a few digits' in res['command'] and 'tensor' not in res['command']

def test_text(one):
    "A line for each rung, and nothing where there is no loss or deviation"
    rows = one[0]['rows']
    head,*lines = ladder_text(rows).splitlines()
    assert head.split()=='task rung accuracy accuracy_sd n loss seconds params'.split() and len(lines)==len(rows)
    for line,r in zip(lines, rows):
        assert r['rung'] in line and f"{r['accuracy']:.4f}" in line and f"{r['params']:,}" in line and 'None' not in line

def test_plot(one):
    "A bar for each rung, as long as its error in percent, the first rung on top"
    rows = one[0]['rows']
    for ax,task in zip(plot_ladder(rows), ('3v7','full')):
        errors = [100*(1-r['accuracy']) for r in rows if r['task']==task]
        assert ax.get_title()==task and [o.get_width() for o in ax.patches][::-1]==pytest.approx(errors)
        assert [o.get_text() for o in ax.get_yticklabels()][::-1]==[r['rung'] for r in rows if r['task']==task]

@pytest.mark.parametrize('seeds', [0,-3])
def test_bad_seeds(seeds, tmp_path):
    "Fewer than one seed is refused before anything is written"
    with pytest.raises(ValueError) as e: run_ladder('digits', seeds=seeds, out=tmp_path/'out')
    names(e, 'seeds', str(seeds), '1 or more')
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('name', ['metrics.json','model.safetensors','ladder.json'])
def test_used_folder(name, tmp_path):
    "A folder with a run or with another ladder stays as it is"
    (tmp_path/name).write_text('mine')
    with pytest.raises(ValueError) as e: run_ladder('digits', seeds=1, out=tmp_path)
    names(e, tmp_path.name, 'run', 'another folder')
    assert [o.name for o in tmp_path.iterdir()]==[name] and (tmp_path/name).read_text()=='mine'

# The table by hand

def check_by_hand(rows):
    assert len(rows)==29 and all(columns==r.keys() for r in rows)
    assert all(r['correlation']>.9999 and r['by_hand_s']>0 and r['library_s']>0 for r in rows)
    assert all(r['ratio']==pytest.approx(r['by_hand_s']/r['library_s']) for r in rows)

def test_by_hand(tmp_path):
    "`by_hand` gives the table of `by_hand_table` in place of the rungs, keeps it, and can be printed"
    res = run_ladder('digits', seeds=1, by_hand=True, out=tmp_path/'out')
    check_by_hand(res['rows'])
    assert strict((tmp_path/'out'/'ladder.json').read_text())==res and res['command'].endswith(' --by-hand')
    assert [o.name for o in (tmp_path/'out').iterdir()]==['ladder.json']
    head,*lines = ladder_text(res['rows']).splitlines()
    assert head.split()==['what','by_hand','library','difference','correlation','ratio','by_hand_ms','library_ms'] and len(lines)==29

def test_by_hand_command(capsys):
    "The command prints the same table, as JSON and as text"
    args = 'ladder --by-hand --source digits --seeds 1'.split()
    rows = strict(sh(bin/'mnist_fast', *args, '--json'))
    check_by_hand(rows)
    main(args)
    text = capsys.readouterr().out
    assert all(r['what'] in text and r['library'] in text for r in rows) and f'Test digits: {digits.source}' in text
