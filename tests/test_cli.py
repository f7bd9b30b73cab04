"The command as a user meets it: what it prints, keeps and refuses, and how it ends when it is stopped"
import json, os, pty, re, signal, statistics, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest, torch
from conftest import bin, needs_mnist, one_sentence, sh
from PIL import Image, ImageDraw

from mnist_fast import cli

from mnist_fast.data.source import embedded_digits
from mnist_fast.files import crc32
from mnist_fast.inference.saved import load_model

each = pytest.mark.parametrize
t = 'train --source digits --task 3v7 --recipe linear --epochs 1'
cmd = str(bin/'mnist_fast')
mnist = os.environ.get('MNIST_FAST_DATA')
hide = 'MNIST_FAST_DATA MPLBACKEND PYTHONUNBUFFERED PYTHONIOENCODING PYTHONUTF8 COLUMNS'.split()
env = {**{k: v for k,v in os.environ.items() if k not in hide}, 'OMP_NUM_THREADS': '1'}
keys = 'task source recipe model params seed epochs lr bs n_train n_valid n_test accuracy loss seconds versions'.split()
files = 'config.json confusion.png curves.png history.csv history.jsonl metrics.json mistakes.png model.safetensors report.html run.json'.split()

def sure(s):
    "JSON of the strict kind: one document, no NaN"
    def no(o): raise ValueError(o)
    return json.loads(s, parse_constant=no)

def snap(folder): return {o.name: o.read_bytes() for o in Path(folder).iterdir() if o.is_file()}

def ended(res, rc=0):
    "Ended as it should, with neither a traceback nor the characters of a progress bar"
    assert res.returncode==rc, (res.stdout, res.stderr)
    assert not re.search(r'Traceback|Exception ignored|Warning|[\r\x1b█]|\d%\|', res.stdout+res.stderr), res.stderr
    return res

# Runs that the tests share: all started at once, two at a time

def go(*args, pre=(), **kw):
    kw = {**dict(stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600), **kw, 'env': {**env, **kw.get('env', {})}}
    return subprocess.run([*pre, cmd, *args], **kw)

def run(args, *more, need=None, **kw):
    def f(d, job):
        if need: job(need)
        return go(*args.split(), *more, cwd=d, **kw)
    return f

def in_pty(d, job):
    "What a terminal gets, and the exit status"
    main,side = pty.openpty()
    args = 'train --task 3v7 --recipe linear --epochs 3 --valid .2 --source digits --out tty'.split()
    p = subprocess.Popen([cmd, *args], stdin=side, stdout=side, stderr=side, cwd=d, env=env)
    os.close(side)
    res = b''
    while True:
        try: data = os.read(main, 65536)
        except OSError: break # Linux says so when the last writer has gone
        if not data: break
        res += data
    os.close(main)
    return p.wait(), res.decode()

def mute(kind, args):
    "With a stdout that takes nothing: a reader who has left, or a full disk"
    def f(d, job):
        job('a')
        r,w = os.pipe() if kind=='pipe' else (os.open('/dev/null', os.O_RDONLY),os.open('/dev/full', os.O_WRONLY))
        os.close(r)
        try: return go(*args.split(), cwd=d, capture_output=False, stdout=w, stderr=-1)
        finally: os.close(w)
    return f

def stop(when, wait=0.):
    "Ctrl-C, `wait` seconds after `when`: a library in the process's map, a file in its run folder, or a line on stdout"
    def f(d, job):
        job('a')
        before,out = snap(d/'a'),d/f'stop-{when}-{wait}'
        args = f'train --task 3v7 --recipe linear --epochs {3 if when.endswith("json") else 2000} --source digits --out {out}'.split()
        p = subprocess.Popen(['env', '--default-signal=INT', cmd, *args], stdout=-1, stderr=-1, text=True, cwd=d, env=env)
        def there():
            if when.endswith('json'): return (out/when).exists()
            try: return when in Path(f'/proc/{p.pid}/maps').read_text()
            except OSError: return True
        if when=='line': p.stdout.readline()
        else:
            while p.poll() is None and not there(): time.sleep(.002)
        time.sleep(wait)
        p.send_signal(signal.SIGINT)
        o,e = p.communicate(timeout=60)
        return subprocess.CompletedProcess(args, p.returncode, o, e),out,snap(d/'a')==before
    return f

def killed(d, job):
    "Killed three times on the way, in a process each, and gone on with"
    args = f'{c} k'.split()
    for i in range(4):
        p = subprocess.Popen([cmd, *args], stdout=-1, stderr=-1, text=True, cwd=d, env=env)
        args = 'train --resume k'.split()
        n = lambda: max([0, *(int(o.stem[-13:].replace('-', '')) for o in (d/'k').glob('checkpoints/*.safetensors'))])
        while i<3 and p.poll() is None and n()<(0,10**7,2*10**7)[i]+5: time.sleep(.002)
        if i<3: p.kill()
        o,e = p.communicate(timeout=600)
        assert p.returncode==(-9 if i<3 else 0), e
    return subprocess.CompletedProcess(args, 0, o, e)

def two(d, job):
    "Ended by SIGTERM while a second program asks for the same run"
    p = subprocess.Popen([cmd, *f'{a} t --epochs 3000'.split()], stdout=-1, stderr=-1, text=True, cwd=d, env=env)
    p.stdout.readline()
    second = go('train', '--resume', 't', cwd=d)
    p.terminate()
    o,e = p.communicate(timeout=60)
    return subprocess.CompletedProcess(p.args, p.returncode, o, e),second

stops = [('_ssl',0.), ('libtorch_python',.2), ('libtorch_python',.9), ('sklearn',0.), ('line',.1), ('metrics.json',0.)]
a = 'train --source digits --task 3v7 --recipe linear --epochs 2 --seed 1 --out'
b = 'train --source digits --task full --recipe cnn --epochs 1 --seed 1 --out'
c = f'train --source digits --task full --recipe cnn --epochs 3 --every 5 --seed 1 --valid 0.2 --keep-best --ema 0.9 --nan-guard --bs 25 --out'
ask = 'predict --model a seven.png é.png'
muted = dict(pipe_help=('pipe','--help'), full_help=('full','--help'), pipe_predict=('pipe',ask), pipe_train=('pipe',f'{a} p'))
muted |= dict(full_predict=('full',f'{ask} --json'))
jobs = dict(a=run(f'{a} a'), b=run(f'{b} b --json'), tty=in_pty)
jobs |= dict(a2=run(f'{a} a2 --json', env=dict(MPLBACKEND='module://no_such_backend')), b2=run(f'{b} b2'))
jobs |= dict(whole=run(f'{c} whole --json'), killed=killed, two=two)
jobs |= dict(rep=run('report a', need='a'), cmp=run('compare a a2 --json --out cmp.html', need='a2'))
jobs |= dict(eval_a=run('evaluate a --source digits --json', need='a'))
jobs |= dict(ascii=run(ask, b'\xff.png', 'none.png', 'text.png', 'blank.png', 'cut.tif', need='a', env=dict(PYTHONIOENCODING='ascii')))
jobs |= dict(full=run(f'{a} full', pre=('bash', '-c', 'ulimit -f 20; exec "$0" "$@"')), disk=run(f'{a} disk', pre=('sh', '-c', 'mkdir -p disk/report.html; exec "$0" "$@"')))
jobs |= {k: mute(*o) for k,o in muted.items()} | {f'stop-{w}-{t}': stop(w, t) for w,t in stops}
if mnist: jobs['mnist'] = run('train --task 3v7 --recipe linear --source mnist --out mnist', env=dict(MNIST_FAST_DATA=mnist))

@pytest.fixture(scope='module')
def dir(tmp_path_factory):
    d = tmp_path_factory.mktemp('cli')
    im = Image.new('L', (90,90), 255)
    ImageDraw.Draw(im).line([(25,20),(65,20),(40,75)], 0, 8)
    for o in ('seven.png', 'é.png', b'\xff.png'): im.save(os.path.join(os.fsencode(d), os.fsencode(o)))
    Image.new('L', (90,90), 255).save(d/'blank.png')
    (d/'text.png').write_text('not a picture')
    (d/'empty').mkdir()
    im.save(d/'cut.tif')
    os.truncate(d/'cut.tif', 50)
    return d

@pytest.fixture(scope='module')
def job(dir):
    "Result of a job by its name"
    res = {}
    def get(k): return res[k].result()
    with ThreadPoolExecutor(2) as pool:
        res.update({k: pool.submit(f, dir, get) for k,f in jobs.items()})
        yield get

@contextmanager
def one_thread():
    "Two runs go on beside it"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try: yield
    finally: torch.set_num_threads(n)

@pytest.fixture
def at(monkeypatch, capsys):
    "What the command gives in this process: for what a process of its own is not needed to see, and its start lasts seconds"
    def f(folder, *args):
        monkeypatch.chdir(folder)
        with one_thread(): rc = cli.main([*map(str, args)])
        return subprocess.CompletedProcess(args, rc, *capsys.readouterr())
    return f

# Help

@pytest.mark.alone
def test_help_is_quick():
    "In seconds of the processor, which do not depend on what else runs"
    def used(): return sum(os.times()[2:4])
    def once():
        start = used()
        ended(go('--help'))
        return used()-start
    assert statistics.median(once() for _ in range(5))<.5

@each('args', [['--help'], ['--version'], *([o,'--help'] for o in cli.commands)], ids=' '.join)
def test_help(args):
    code = 'import sys; from mnist_fast.cli import main; main(sys.argv[1:])'
    res = subprocess.run([sys.executable, '-X', 'importtime', '-c', code, *args], capture_output=True, text=True, env=env)
    assert res.returncode==0 and 'mnist_fast' in res.stdout
    loaded = {o.split('|')[-1].strip().split('.')[0] for o in res.stderr.splitlines()}
    assert 'argparse' in loaded and not loaded & {'torch','fastai','numpy','matplotlib','pandas','PIL','sklearn'}
    if args[0]=='--help': assert all(o in res.stdout for o in cli.commands)
    if args[0] in cli.commands: assert '--json' in res.stdout

# Training

@each('k,task,name', [('a','3v7','linear'), ('b','full','cnn')])
def test_run_folder(job, dir, k, task, name):
    ended(job(k))
    assert sorted(snap(dir/k))==files
    m = sure((dir/k/'metrics.json').read_text())
    assert set(keys)<=set(m) and (m['task'],m['recipe'],m['model'],m['seed'])==(task,name,name,1)
    assert set(m['seconds'])=={'data','train','test','total'} and m['seconds']['total']>m['seconds']['train']>0
    assert {'mnist_fast','python','fastai','torch'}<=set(m['versions'])
    assert m['n_valid']==m['n_test'] and m['n_train']==dict(a=302, b=1500)[k] and .8<m['accuracy']<=1 and 0<m['loss']<1
    saved = load_model(dir/k)
    assert m['params']==sum(p.numel() for p in saved.model.parameters()) and saved.config['task']==task
    rows = (dir/k/'history.csv').read_text().splitlines()
    assert rows[0].startswith('epoch,train_loss,valid_loss,') and len(rows)==1+m['epochs']
    assert float(rows[-1].split(',')[3])==pytest.approx(m['accuracy'], abs=1e-6)
    for o in (dir/k).glob('*.png'):
        im = Image.open(o)
        im.load()
        assert min(im.size)>=200 and len(im.convert('L').getcolors())>9

def test_killed(job, dir):
    "The same bits, history and metrics as without"
    whole,k = json.loads(ended(job('whole')).stdout),json.loads((dir/'k'/'metrics.json').read_text()) if job('killed') else None
    for o in ('seconds',): assert whole.pop(o) and k.pop(o)
    assert whole==k and not (dir/'k'/'checkpoints').exists()
    assert (dir/'whole'/'model.safetensors').read_bytes()==(dir/'k'/'model.safetensors').read_bytes()
    rows = [[{n: v for n,v in json.loads(o).items() if n!='seconds'} for o in (dir/d/'history.jsonl').read_text().splitlines()] for d in ('whole','k')]
    assert rows[0]==rows[1] and len(rows[0])==3+3*48//10

def test_two_programs(job, dir):
    first,second = job('two')
    assert first.returncode==130 and re.fullmatch(r'mnist_fast: stopped.*Go on with mnist_fast train --resume t\n', first.stderr)
    assert second.returncode==1 and re.fullmatch('mnist_fast: t: another program is at work on this run.*\n', second.stderr)

def test_stop_at(at, tmp_path):
    m = json.loads(ended(at(tmp_path, *f'{a} s --epochs 30 --valid 0.2 --stop-at 0.95 --json'.split())).stdout)
    assert m['stopped'].startswith('batch_accuracy reached 0.9') and 0<len((tmp_path/'s'/'history.csv').read_text().splitlines())<30

def test_tensorboard(at, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    ended(at(tmp_path, *f'{a} tb --tensorboard'.split()))
    events = EventAccumulator(str(tmp_path/'tb'/'tensorboard')).Reload()
    assert {'train_loss','valid_loss','batch_accuracy','lr_0'}<=set(events.Tags()['scalars']) and len(events.Scalars('valid_loss'))==2

def test_report_and_compare(job, dir):
    "The page is the one that train wrote; a run and its twin do not differ"
    before = (dir/'a'/'report.html').read_bytes() if job('a') else None
    assert 'a/report.html' in ended(job('rep')).stdout and (dir/'a'/'report.html').read_bytes()==before
    both = sure(ended(job('cmp')).stdout)
    assert len(both['runs'])==2 and [(o['difference'],o['p_holm'],o['beyond_chance']) for o in both['pairs']]==[(0,1,False)]
    assert '<title>2 runs compared' in (dir/'cmp.html').read_text()

def test_origin(job, dir):
    "What a result depends on"
    m = json.loads((dir/'a'/'metrics.json').read_text()) if job('a') else None
    assert m['data']==dict(source='scikit-learn digits', crc32=crc32(embedded_digits()[:4])) and m['threads']>0 and m['cores']>0
    assert m['git'] is None or re.fullmatch('[0-9a-f]{40}(-dirty)?', m['git'])
    assert m['command']=='mnist_fast train --task 3v7 --recipe linear --source digits --epochs 2 --seed 1' and m['stopped'] is None

@pytest.mark.parametrize('argv,says', [('--resume nowhere', 'no run.json'), ('--resume a --epochs 3 --ema 0.9', 'Leave out --epochs and --ema'),
    ('--keep-best', 'test set'), ('--stop-at 0.9', 'test set'), ('--stop-at 2', 'above 0'), ('--ema 0', 'above 0'), ('--every 0', '1 or more'), ('--checkpoint -1', '0 or more')])
def test_not_this_way(job, dir, argv, says, monkeypatch, capsys):
    job('a')
    monkeypatch.chdir(dir)
    assert cli.main(['train', *argv.split()])==1 and says in capsys.readouterr().err

def test_finished(job, dir, monkeypatch, capsys):
    "A run that is finished gives its result again, and changes nothing"
    job('a')
    monkeypatch.chdir(dir)
    before = snap(dir/'a')
    assert cli.main(['train','--resume','a'])==0 and snap(dir/'a')==before
    assert capsys.readouterr().out.splitlines()[-1]==job('a').stdout.splitlines()[-1]
    assert cli.main(['train','--resume','a','--json'])==0 and sure(capsys.readouterr().out)==sure((dir/'a'/'metrics.json').read_text())

def test_other_digits(job, dir, tmp_path, monkeypatch, capsys):
    "A run is not resumed with other digits, or with settings that are broken"
    job('a')
    run = json.loads((dir/'a'/'run.json').read_text())
    (tmp_path/'checkpoints').mkdir()
    for change,says in (dict(data=dict(run['data'], crc32='1')),'differs from it'), (dict(settings=dict(x=1)),'not the settings of this version'), (dict(settings=3),'not the settings'):
        (tmp_path/'run.json').write_text(json.dumps(run|change))
        assert cli.main(['train','--resume',str(tmp_path)])==1 and says in capsys.readouterr().err
    (tmp_path/'run.json').write_text('{')
    assert cli.main(['train','--resume',str(tmp_path)])==1 and 'cannot be read' in capsys.readouterr().err

@each('k', ['a','b2'])
def test_text(job, dir, k):
    "A line an epoch, and the result last"
    *lines,last = job(k).stdout.splitlines()
    m = sure((dir/k/'metrics.json').read_text())
    assert len(lines)==m['epochs'] and all(re.match(rf'epoch {i} .*loss \d\.\d', o) for i,o in enumerate(lines))
    assert all(o in last for o in (m['task'], m['recipe'], f"{m['accuracy']:.4f}", f"{m['loss']:.4f}", str(m['n_test']), 'scikit-learn', k))
    assert job(k).stderr==''

@each('k', ['a2','b'])
def test_json(job, dir, k):
    res = ended(job(k))
    assert res.stdout.count('\n')==1 and sure(res.stdout)==sure((dir/k/'metrics.json').read_text())
    assert all(o.startswith('epoch ') for o in res.stderr.splitlines())

@each('x,y', [('a','a2'), ('b','b2')])
def test_same_seed(job, dir, x, y):
    ended(job(x)), ended(job(y))
    m,n = (sure((dir/o/'metrics.json').read_text()) for o in (x,y))
    assert (m['accuracy'],m['loss'])==(n['accuracy'],n['loss'])
    assert (dir/x/'model.safetensors').read_bytes()==(dir/y/'model.safetensors').read_bytes()

def screen_of(s):
    "What is left to read when each `\\r` has gone back to the start of its line"
    def row(o):
        res = ''
        for part in o.split('\r'): res = part+res[len(part):]
        return res.rstrip()
    return [row(o) for o in s.split('\n')]

def test_terminal(job, dir):
    "A line an epoch stays on the screen, bars are wiped away, the result comes last"
    rc,s = job('tty')
    *screen,end = screen_of(s)
    assert rc==0 and end=='' and '\x1b' not in s and s.count('\r')>30
    assert sum(bool(re.match(r'(epoch )?[012]\s', o)) for o in screen)==3, screen
    assert 'kept in tty' in screen[-1] and not any('%' in o for o in screen)
    m = sure((dir/'tty'/'metrics.json').read_text())
    assert (m['n_train'],m['n_valid'],m['n_test'])==(241,61,60)

@needs_mnist
def test_mnist(job, dir):
    ended(job('mnist'))
    m = sure((dir/'mnist'/'metrics.json').read_text())
    assert m['accuracy']>=.967 and (m['n_train'],m['n_test'])==(12396,2038)

# Asking

def test_evaluate(job, dir):
    m,res = sure((dir/'a'/'metrics.json').read_text()),sure(ended(job('eval_a')).stdout)
    assert (res['run'],res['task'],res['n_test'],res['source'])==('a','3v7',60,m['source'])
    assert res['accuracy']==pytest.approx(m['accuracy'], abs=1e-6) and res['loss']==pytest.approx(m['loss'], abs=1e-6)

def test_evaluate_text(job, dir, at):
    job('b')
    assert f"{sure((dir/'b'/'metrics.json').read_text())['accuracy']:.4f}" in ended(at(dir, *'evaluate b --source digits'.split())).stdout

def test_predict_json(job, dir, at):
    "One object a line, in the order given"
    job('a')
    res = ended(at(dir, *ask.split(), '\udcff.png', 'none.png', 'text.png', 'empty', 'blank.png', '--json'), 1)
    rows = [sure(o) for o in res.stdout.splitlines()]
    assert [r['image'] for r in rows]==['seven.png','é.png','\udcff.png','none.png','text.png','empty','blank.png'] and res.stderr==''
    for r in rows[:3]: assert r['label']==7 and sum(r['probabilities'])==pytest.approx(1, abs=1e-5) and r['probabilities'][1]>.5
    for r in rows[3:]: assert set(r)=={'image','error'} and r['error'].endswith('.')

def test_predict_ascii(job):
    "Names that the terminal cannot show cost no answer"
    res = ended(job('ascii'), 1)
    assert len(re.findall(r': 7 \(\d+\.\d%\)', res.stdout))==3
    errs = res.stderr.splitlines()
    assert [re.match(r'mnist_fast: ([^:]*): ', o+': ')[1] for o in errs]==['none.png','text.png','blank.png','cut.tif'], errs

# Pictures

def test_predict_all(tmp_path, at):
    "Every digit, a folder, and a drawing of what was seen; a picture of several digits is refused without --all"
    im = Image.new('L', (180,90), 255)
    for x in (0,90): ImageDraw.Draw(im).line([(25+x,20),(65+x,20),(40+x,75)], 0, 8)
    (tmp_path/'in').mkdir()
    im.save(tmp_path/'in'/'two.png')
    row = sure(ended(go('predict', '--all', 'in', '--json', '--show', 'seen.png', cwd=tmp_path)).stdout)
    assert [o['label'] for o in row['digits']]==[7,7] and row['image']==os.path.join('in', 'two.png')
    with Image.open(tmp_path/'seen.png') as seen: assert seen.size==(180,90)
    assert re.fullmatch(r'\S+two.png: 7 \(\d+\.\d%\), 7 \(\d+\.\d%\)\n', ended(at(tmp_path, 'predict', '--all', 'in')).stdout)
    one_sentence(ended(at(tmp_path, 'predict', 'in'), 1).stderr, '2 digits', '--all')
    one_sentence(ended(at(tmp_path, 'predict', 'in', 'in', '--show', 'a.png'), 1).stderr, '--show')

def test_page(tmp_path, at):
    "A file that a browser opens; nothing where it can't be written or there is no model"
    res = sure(ended(go('page', '--model', '3v7', '--out', 'p.html', '--json', cwd=tmp_path)).stdout)
    text = (tmp_path/'p.html').read_text()
    assert res['size']==len(text.encode())<3e6 and 'Content-Security-Policy' in text
    one_sentence(ended(at(tmp_path, 'page', '--model', 'nothing'), 1).stderr, 'no model')
    one_sentence(ended(at(tmp_path, 'page', '--out', 'p.html/q.html'), 1).stderr, 'p.html')
    assert os.listdir(tmp_path)==['p.html']

# Being stopped

@each('w,t', stops)
def test_ctrl_c(job, w, t):
    "Ends at once with one line and leaves the run before it alone"
    res,out,same = job(f'stop-{w}-{t}')
    assert res.returncode==130 and same, res.stderr
    one_sentence(res.stderr, 'stopped')
    if (out/'config.json').exists(): load_model(out)
    assert not out.exists() or set(snap(out))<=set(files)

@each('k', muted)
def test_closed_pipe(job, k):
    res = job(k)
    assert not re.search('Traceback|Exception|Errno', res.stderr), res.stderr
    assert res.stderr.count('\n')<=1 and res.returncode!=120
    if k.startswith('full'): assert res.returncode==1 and res.stderr.startswith('mnist_fast: ')

def test_full_disk(job, dir):
    "A checkpoint or a report that can't be written costs nothing that was there, and leaves no half"
    one_sentence(job('full').stderr, 'full/checkpoints', 'Free some space')
    assert job('full').returncode==1 and set(snap(dir/'full'))=={'run.json','history.csv','history.jsonl'} and not [*(dir/'full'/'checkpoints').glob('*.*')][1:]
    res = job('disk')
    assert res.returncode==1
    one_sentence(res.stderr, 'disk')
    assert load_model(dir/'disk').n_out==1 and 'metrics.json' in snap(dir/'disk')
    for o in (dir/'disk').glob('*.png'): Image.open(o).load()
    assert set(snap(dir/'disk'))<=set(files)

# Tables of pixels

def test_predict_table(tmp_path, at):
    "Each row of a CSV file, with labels or without, is a picture; a row without a digit does not end the others"
    d = embedded_digits()
    x = d.x_test[:4].clone()
    x[1] = 0
    rows = x.flatten(1).tolist()
    for name,head,o in ('test',[f'pixel{i}' for i in range(784)],rows),('train',['label',*(f'pixel{i}' for i in range(784))],[[9,*r] for r in rows]):
        (tmp_path/f'{name}.csv').write_text('\n'.join(','.join(map(str, r)) for r in (head,*o)))
    alone = [load_model().predict(o)[0] for o in x[[0,2,3]]]
    for name in 'test.csv','train.csv':
        res = ended(at(tmp_path, 'predict', name, 'none.csv', '--json'), 1)
        found = [json.loads(o) for o in res.stdout.splitlines()]
        assert [o['image'] for o in found]==[*(f'{name}, row {i}' for i in range(4)),'none.csv']
        assert [o['label'] for o in found if 'label' in o]==alone and 'no digit' in found[1]['error'] and 'No such file' in found[4]['error']
    res = ended(at(tmp_path, 'predict', 'test.csv'), 1)
    assert [o.split(' (')[0] for o in res.stdout.splitlines()]==[f'test.csv, row {i}: {k}' for i,k in zip((0,2,3), alone)]
    one_sentence(res.stderr, 'test.csv, row 1: ')

# The surroundings of the process

@each('var', ['RANK=1','RANK=x','RANK=','WORLD_SIZE=2','WORLD_SIZE=abc','LOCAL_RANK=1','RANK=-1','LOCAL_WORLD_SIZE=2'])
@each('command', ['train --recipe linear --source digits --out run','evaluate full --source digits','data'])
def test_left_over_variables(var, command, tmp_path):
    "What a launcher left behind ends every command at once, with a sentence, and nothing is written"
    res = ended(go(*command.split(), cwd=tmp_path, env=dict([var.split('=')])), 1)
    one_sentence(res.stderr, f'has {var}', 'torchrun', f"unset {var.split('=')[0]}")
    assert not res.stdout and not [*tmp_path.iterdir()]

def test_launcher_of_one(tmp_path):
    "Variables that describe a single process are harmless"
    ended(go(*t.split(), '--out', 'run', cwd=tmp_path, env=dict(RANK='0', WORLD_SIZE='1')))
    assert (tmp_path/'run'/'metrics.json').exists()

def test_module(tmp_path):
    assert sh(sys.executable, '-m', 'mnist_fast', '--version')==ended(go('--version')).stdout
    res = subprocess.run([sys.executable, '-m', 'mnist_fast', 'evaluate', 'none'], capture_output=True, text=True)
    one_sentence(ended(res, 1).stderr, 'none')

show_threads = """import json, os, sys
from mnist_fast.cli import main
status = main(sys.argv[1:])
import torch
print(json.dumps([status,os.environ.get('OMP_PROC_BIND'),len(os.sched_getaffinity(0)),torch.get_num_threads()]))"""

free = {k: v for k,v in env.items() if k!='OMP_NUM_THREADS'}

@pytest.fixture(scope='module')
def default_threads(): return int(sh(sys.executable, '-c', 'import torch; print(torch.get_num_threads())', env=free))

@pytest.mark.skipif(sys.platform!='linux', reason='only Linux binds threads')
@each('options,bound', [((),True), (('--threads','1'),len(os.sched_getaffinity(0))==1), (('--threads','99'),True)])
def test_threads(options, bound, tmp_path, default_threads):
    "The command binds as many threads as there are cores; it keeps their number, and a run that goes on has it again"
    def status(*args): return json.loads(sh(sys.executable, '-c', show_threads, *args, cwd=tmp_path, env=free).splitlines()[-1])
    n_cores,default = len(os.sched_getaffinity(0)),default_threads
    first = status(*t.split(), '--out', 'run', *options)
    assert first==[0,'spread' if bound else None,1 if bound else n_cores,default]
    assert sure((tmp_path/'run'/'metrics.json').read_text())['threads']==(int(options[1]) if options else default)
    assert status('train','--resume','run')==first

# What is refused: in this process, as nothing is started

@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MNIST_FAST_DATA', raising=False)
    with one_thread(): yield tmp_path

def status(*args):
    try: return cli.main([str(o) for o in args])
    except SystemExit as e: return e.code

wrong = '''
train --source digits --recipe nope; nope; linear, simple_net, cnn
train --source digits --model nope; nope; linear, simple_net, cnn
train --source digits --task nope; nope; 3v7; full
train --source /none; /none; no such file or folder
TRAIN --epochs 0; epochs; 0; 1 or more
TRAIN --epochs -1; epochs; -1
TRAIN --epochs x; epochs; x
TRAIN --lr -1; lr; -1; above 0
TRAIN --lr 0; lr; 0
TRAIN --lr nan; lr; nan
TRAIN --lr inf; lr; inf
TRAIN --bs 0; bs|batch size; 0; 1 or more
TRAIN --bs -8; bs|batch size; -8
TRAIN --valid 2; valid; 2; between 0 and 1
TRAIN --valid 0; valid; 0
TRAIN --valid 1; valid; 1
TRAIN --valid nan; valid; nan
TRAIN --valid x; valid; x
TRAIN --valid .001; valid; 0.001
TRAIN --seed 99999999999999999999999; seed
TRAIN --seed x; seed; x
TRAIN --out file; file
TRAIN --out file/below; file/below
TRAIN --out /proc/none; /proc/none
TRAIN --no-such; no-such
evaluate; run
evaluate none; none; no model|no such
evaluate file; file; not a folder|no model
evaluate .; no model
predict --model .; images
predict x.png --model none; none; no model|no such
ladder --source digits --seeds 0; seeds; 0; 1 or more
ladder --source digits --seeds -3; seeds; -3
ladder --source digits --out file; file
ladder --source /none; /none
data x; x
nope; nope; train
; command
'''.replace('TRAIN', t)
wrong = {k: w for k,*w in (o.split('; ') for o in wrong.strip('\n').split('\n'))}

@each('args,words', wrong.items(), ids=wrong)
def test_wrong(here, capsys, args, words):
    "Exit status, one line on stderr, nothing on stdout, no folder left behind"
    (here/'file').write_text('mine')
    assert status(*args.split()) in (1,2)
    out,err = capsys.readouterr()
    one_sentence(err, *words)
    assert out=='' and snap(here)=={'file': b'mine'}

some = ['train --source digits --task nope','nope','']
@each('args,words', [(o,wrong[o]) for o in some], ids=some)
def test_wrong_as_process(dir, args, words):
    res = ended(go(*args.split(), cwd=dir), 2)
    one_sentence(res.stderr, *words)

def test_astray(here, capsys):
    "A loss that is no number is no success, and no model that can't be loaded is kept"
    assert status(*t.replace('linear', 'cnn').split(), '--lr', 1e30, '--out', 'o')==1
    one_sentence(capsys.readouterr().err, 'nan', '--lr|learning rate')
    assert not (here/'o'/'config.json').exists() and not (here/'o'/'model.safetensors').exists()

@each('args', [t, 'ladder --source digits --seeds 1'])
@each('name', files[:1]+['metrics.json','model.safetensors','ladder.json'])
def test_never_over_a_run(here, capsys, args, name):
    if name=='ladder.json' and args==t: return
    (here/'o').mkdir()
    (here/'o'/name).write_text('{}')
    assert status(*args.split(), '--out', 'o')==1
    one_sentence(capsys.readouterr().err, r'\bo\b', '--out')
    assert snap(here/'o')=={name: b'{}'}

def test_default_folder_and_seed(here, capsys, job, dir):
    job('a')
    assert status(*t.split(), '--epochs', 2, '--seed', 2)==0
    run, = (here/'runs').iterdir()
    assert re.fullmatch(r'3v7-linear-\d{8}-\d{6}', run.name) and f'runs/{run.name}' in capsys.readouterr().out
    assert (run/'model.safetensors').read_bytes()!=(dir/'a'/'model.safetensors').read_bytes()

def test_no_stdout(here, monkeypatch):
    "As a daemon, with stdout and stderr closed"
    for o in ('stdout','stderr'): monkeypatch.setattr(sys, o, None)
    assert status(*t.split(), '--out', 'o')==0
    assert sorted(snap(here/'o'))==files

@each('model', ['linear','simple_net','cnn'])
def test_model_option(here, capsys, model):
    "A model in another model's recipe; and the model alone"
    assert status(*t.split(), '--model', model, '--out', 'o', '--json')==0
    m = sure(capsys.readouterr().out)
    assert m['model']==model==load_model('o').config['model']['name'] and m['recipe']=='linear'
    assert status(*'train --source digits --task 3v7 --epochs 1 --json --out p --model'.split(), model)==0
    assert sure(capsys.readouterr().out)['recipe']==model

@each('value,word', [(None,'not set'), ('/none','/none'), ('file','file')])
def test_data(here, capsys, monkeypatch, value, word):
    "Says what it finds, and that is no failure"
    (here/'file').write_text('mine')
    if value: monkeypatch.setenv('MNIST_FAST_DATA', value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(here/'cache'))
    (here/'cache'/'mnist_fast').mkdir(parents=True)
    (here/'cache'/'mnist_fast'/'mnist.safetensors').write_bytes(b'broken')
    assert status('data')==0
    text = capsys.readouterr().out
    assert word in text and str(here/'cache') in text and 'damaged' in text
    assert status('data', '--json')==0
    assert word in sure(capsys.readouterr().out)['MNIST_FAST_DATA']

@needs_mnist
def test_data_there(here, capsys, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(here))
    monkeypatch.setenv('MNIST_FAST_DATA', mnist)
    assert status('data')==0
    assert '60000 train, 10000 test' in capsys.readouterr().out

def test_data_check(here, capsys):
    "Says what a source is, counts its digits and shows ten; a warning is among the facts; what is no source is one sentence"
    d = embedded_digits()
    import numpy as np
    np.savez('mine', x_train=255-d.x.numpy(), y_train=d.y.numpy(), x_test=d.x_test.numpy(), y_test=d.y_test.numpy())
    assert status('data', '--check', 'mine.npz')==0
    text = capsys.readouterr().out
    for o in 'arrays (npz)', '1500 digits (149', '297 digits (29', 'dark', '\u2588': assert o in text
    assert status('data', '--check', 'mine.npz', '--json')==0
    facts = sure(capsys.readouterr().out)
    assert facts['crc32']==crc32([255-d.x, *d[1:4]]) and len(facts['picture'])==14 and sum(facts['train'])==1500
    (here/'notes').write_text('milk')
    assert status('data', '--check', 'notes')==1
    one_sentence(capsys.readouterr().err, 'notes', 'not a form', 'mnist.npz', 'parquet')
