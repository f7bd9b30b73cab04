"A page about a run and the comparison of runs: the figures are right, hostile files do no harm, what is missing is said"
import json, math, matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, random, re, shutil, struct, torch
from html.parser import HTMLParser
from mnist_fast.files import crc32
from mnist_fast.data.source import embedded_digits
from mnist_fast.inference.saved import load_model, save_model
from mnist_fast.learner import fit_recipe, recipe_learner
from mnist_fast.model import mnist_model, model_registry
from mnist_fast.stats import calibration_error, class_table, wilson
from mnist_fast.run.compare import compare_report, compare_runs
from mnist_fast.interpret.predictions import plot_calibration
from mnist_fast.interpret.weights import plot_filters
from mnist_fast.run.report import run_report
from scipy.stats import binomtest

each = pytest.mark.parametrize
digits = embedded_digits()
tasks = [('full','linear'),('full','simple_net'),('full','cnn'),('3v7','linear'),('3v7','speed')]

def epoch_row(i): return dict(epoch=i, train_loss=1/(i+1), valid_loss=1.1/(i+1), accuracy=1-.5/(i+1), lr=.1, seconds=.5)
def batch_row(i): return dict(epoch=i//4, batch=i%4*10+9, step=10*i, loss=2/(i+1), lr=.1, mom=.9)

def metrics(**kw):
    "What `mnist_fast train` writes"
    return dict(dict(task='full', source=digits.source, recipe='linear', model='linear', params=7850, seed=42, epochs=3, lr=.1, bs=64, n_train=1500, n_valid=297,
        n_test=297, seconds=dict(data=.5, train=2., test=.1, total=3.), versions=dict(mnist_fast='0', python='3'), command='mnist_fast train --seed 42', threads=1, cores=2,
        git='abc', data=dict(source=digits.source, crc32=_crc(digits[:4])), stopped=None), **kw)

def write(run, metrics=None, history=True):
    "The files beside the model"
    if metrics is not None: (run/'metrics.json').write_text(json.dumps(metrics))
    if history: (run/'history.jsonl').write_text(''.join(json.dumps(o)+'\n' for i in range(3) for o in [*(batch_row(4*i+j) for j in range(4)),epoch_row(i)]))
    return run

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Folders of runs that were trained for a little, by task and recipe"
    def make(task, recipe):
        learn = recipe_learner(digits, task, recipe, seed=0)
        with learn.no_bar(), learn.no_logging(): fit_recipe(learn, 1)
        save_model(learn, out := tmp_path_factory.mktemp('run'), source=digits.source)
        return write(out, metrics(task=task, recipe=recipe, seed=0))
    return {o: make(*o) for o in tasks}

@pytest.fixture
def run(tmp_path):
    "A run whose model was never trained"
    torch.manual_seed(0)
    save_model(mnist_model('cnn', n_out=10, width=4), tmp_path/'run', source=digits.source)
    return write(tmp_path/'run', metrics())

class Page(HTMLParser):
    "Elements of a page, their attributes and the text; tags that do not fit each other raise"
    void = 'meta img br hr'.split()
    def __init__(self, text):
        super().__init__()
        self.open,self.tags,self.attrs,self.text,self.kept = [],[],[],'',False
        self.feed(text)
        assert self.open==[]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += [(tag,k,v) for k,v in attrs]
        if tag not in self.void: self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void: self.open.pop()

    def handle_endtag(self, tag): assert self.open.pop()==tag
    def handle_data(self, o): self.text += '' if self.open and self.open[-1]=='style' else o+' '

def page(run, *args): return Page(run_report(run, *args).read_text())

@each('name', tasks, ids=str)
def test_page(trained, name):
    "Whole, in one file, with a text for each image; the same again for the same run"
    run = trained[name]
    before = {o.name for o in run.iterdir()}
    path = run_report(str(run))
    first = path.read_bytes()
    o = Page(first.decode())
    assert path==run/'report.html' and {o.name for o in run.iterdir()}==before|{'report.html'} and run_report(run, digits).read_bytes()==first
    assert len(first)<1_000_000 and o.tags.count('h1')==o.tags.count('title')==o.tags.count('main')==1
    assert ('html','lang','en') in o.attrs and not {'script','link','iframe','object','a'}&{*o.tags}
    urls = [v for _,k,v in o.attrs if k in ('src','href','xlink:href')]
    assert urls and all(v.startswith(('data:image/png;base64,','#')) for v in urls) and not re.findall(r'url\((?!#)|@import', first.decode())
    ids = [v for _,k,v in o.attrs if k=='id']
    assert len(ids)==len({*ids}) and {v[1:] for v in urls if v[0]=='#'} <= {*ids}
    assert o.tags.count('img')==sum(1 for t,k,v in o.attrs if (t,k)==('img','alt') and v)==20
    assert sum((k,v)==('role','img') for _,k,v in o.attrs)==o.tags.count('svg')==6

@each('name', tasks, ids=str)
def test_figures(trained, name):
    "Against the model asked directly"
    run,o = trained[name],page(trained[name])
    saved = load_model(run)
    keep = torch.isin(digits.y_test.long(), torch.tensor(saved.classes))
    x,y = digits.x_test[keep]/255,digits.y_test[keep].long()
    p = saved.probabilities(x)
    said = torch.tensor(saved.classes)[p.argmax(1)]
    k,n = (said==y).sum().item(),len(y)
    low,high = binomtest(k, n).proportion_ci(method='wilson')
    for text in f'{k/n:.2%}',f'95% interval: {low:.2%} to {high:.2%}',f'of {n} test digits',f'{sum(q.numel() for q in saved.model.parameters()):,}':
        assert text in o.text
    loss = -p.gather(1, torch.searchsorted(torch.tensor(saved.classes), y)[:,None]).log().mean().item()
    assert abs(float(re.search(r'loss\s+([\d.]+)\s+cross-entropy', o.text)[1])-loss)<1e-4
    cells = re.search('Confusion matrix.*?taken for.(.*?)Most confused', o.text, re.S)[1].split()
    c = len(saved.classes)
    assert cells[:c]==[str(i) for i in saved.classes]
    rows = [cells[c+i*(c+1):][:c+1] for i in range(c)]
    for label,*row in rows:
        assert [int(v.replace('·', '0')) for v in row]==[((y==int(label))&(said==s)).sum().item() for s in saved.classes]
    top = (-p.gather(1, torch.searchsorted(torch.tensor(saved.classes), y)[:,None])[:,0].log()).argsort(descending=True, stable=True)[:20].tolist()
    drawn = [re.match(r'Test digit (\d+): a (\d), taken for a (\d)', v).groups() for t,key,v in o.attrs if (t,key)==('img','alt')]
    assert [tuple(map(int, v)) for v in drawn]==[(i,y[i].item(),said[i].item()) for i in top]

def test_perfect(tmp_path):
    "No mistakes: the hardest digits are right ones"
    torch.manual_seed(0)
    save_model(mnist_model('linear', n_out=10), tmp_path)
    said = load_model(tmp_path).probabilities(digits.x_test/255).argmax(1)
    d = digits._replace(y_test=said.byte())
    o = page(tmp_path, d)
    assert '100.00%' in o.text and 'No mistakes.' in o.text
    assert all(v!='wrong' for _,k,v in o.attrs if k=='class')

@each('name', registry)
def test_any_model(tmp_path, name):
    "Never trained, and without any figures"
    torch.manual_seed(0)
    save_model(mnist_model(name, n_out=10), tmp_path)
    o = page(tmp_path, digits)
    assert 'There is no metrics.json here' in o.text and f'{sum(p.numel() for p in load_model(tmp_path).model.parameters()):,}' in o.text

def test_leaves_things_alone(run):
    "Neither random numbers nor settings nor figures in memory are touched"
    state = lambda: (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), dict(plt.rcParams), plt.get_fignums())
    before = state()
    run_report(run)
    compare_runs([run,run])
    assert state()==before

bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>\'&amp;<!--$\\frac$\ud800\x00\u202e'

def test_hostile_texts(run):
    "Every text, key and name of the files is text on the page"
    tags,n = page(run).tags,{k for _,k,_ in page(run).attrs}
    m = {k: bad if isinstance(v, str) else v for k,v in metrics(stopped=bad, git=bad, seed=bad, cores=bad).items()}
    write(run, dict(m, versions={bad: bad, 'x': '<b>'}, data=dict(crc32=bad, source=bad)))
    rows = (run/'history.jsonl').read_text().replace('"accuracy"', json.dumps(bad[:20])).replace('"valid_loss"', json.dumps('<i>$x$</i>'))
    (run/'history.jsonl').write_text(rows)
    path = run_report(run, digits)
    o = Page(path.read_text(encoding='utf-8'))
    assert {*o.tags}<={*tags} and {k for _,k,_ in o.attrs}<=n and '<script>alert(1)</script>' in o.text and '$x$' in o.text
    save_model(load_model(run).model, run, source=bad, recipe={bad: bad})
    assert page(run, digits).text

values = [None, '', True, -1, 0, 1e308, 10**400, float('nan'), [[{}]], 'y'*10**5]

@each('v', values, ids=lambda o: f'{o!r:.20}')
def test_hostile_values(run, v):
    "Any value in the place of any other"
    write(run, {k: v for k in metrics()})
    (run/'history.jsonl').write_text(''.join(json.dumps({k: v for k in o})+'\n' for o in [epoch_row(0),batch_row(0),epoch_row(1),batch_row(1)]))
    assert page(run, digits).text
    for k in 'seconds','data','versions': write(run, metrics(**{k: dict.fromkeys(('data','train','total','source','crc32'), v)}), False)
    assert page(run, digits).text
    assert len(compare_runs([run,run], digits)[0])==2

def test_history_of_any_kind(run):
    "Of an earlier version, half a row at the end, no rows, not even text"
    path = run/'history.jsonl'
    whole = path.read_text()
    path.write_text(whole+'{"epoch": 3, "tra')
    assert page(run).tags.count('svg')==6
    path.write_text('\n'.join(o for o in whole.splitlines() if 'batch' not in o))
    o = page(run)
    assert 'history.jsonl has no rows of batches' in o.text and o.tags.count('svg')==5
    path.unlink()
    (run/'history.csv').write_text('epoch,train_loss,valid_loss,accuracy,time\n0,.5,.4,.9,00:14\n1,.3,.2,.95,00:14\n')
    o = page(run)
    assert 'history.csv has no rows of batches' in o.text and o.tags.count('svg')==4 and '0.95' in o.text
    for name,text in ('history.csv',b'a,b\n"'),('history.csv',b'\xff\xfe\x00'),('history.jsonl',b'[1,2]\n<html>\n\xff'):
        (run/name).write_bytes(text)
        assert 'There is no history that can be read' in page(run).text

def test_one_epoch(run):
    "One epoch has no curve, but its row, and batches have"
    (run/'history.jsonl').write_text('\n'.join(json.dumps(o) for o in [*map(batch_row, range(4)),epoch_row(0)]))
    assert page(run).tags.count('svg')==4

def test_long_history(run):
    (run/'history.jsonl').write_text('\n'.join(json.dumps(o) for i in range(300) for o in [*(batch_row(100*i+j) for j in range(100)),epoch_row(i)]))
    assert run_report(run).stat().st_size<1_000_000

def test_what_is_missing(run):
    "Of an earlier version, and with nothing but a model"
    old = {k: v for k,v in metrics().items() if k not in ('command','threads','cores','git','data','stopped')}
    o = page(write(run, old))
    assert 'Not recorded: command, threads, cores, git revision, CRC-32 of the digits.' in o.text
    (run/'metrics.json').unlink()
    (run/'history.jsonl').unlink()
    o = page(run)
    for text in 'There is no metrics.json','There is no history','recorded no times','command, seed, epochs': assert text in o.text

def test_time(run):
    "Parts and the rest add up; without some of them the rest is larger; speed counts each digit of each epoch"
    text = page(run).text
    for part in 'reading the digits 0.50 17%','training 2.00 67%','testing 0.10 3%','the rest 0.40 13%','2,250 digits a second': assert part in ' '.join(text.split())
    assert 'the rest 3.00 100%' in ' '.join(page(write(run, metrics(seconds=dict(total=3)))).text.split())

def test_notes(run):
    "Stopped early, other digits, another accuracy than recorded: each is said, and nothing of it where it is not so"
    acc = float(re.search(r'([\d.]+)%', page(run).text)[1])/100
    say = 'stopped early','checksum','The run recorded an accuracy of'
    assert not any(t in page(write(run, metrics(accuracy=acc))).text for t in say)
    assert 'stopped early: no better for 3 epochs.' in page(write(run, metrics(stopped='no better for 3 epochs'))).text
    assert say[2]+' 99.00%' in page(write(run, metrics(accuracy=.99))).text
    other = digits._replace(x=digits.x.flip(0), source='elsewhere')
    assert 'the checksum of elsewhere is not the one recorded' in page(write(run, metrics()), other).text

def broken(run, name, text):
    (run/name).write_bytes(text)
    return run

@each('spoil,says', [
    (lambda run: run/'nowhere', 'nowhere: no such folder'),
    (lambda run: run/'metrics.json', 'metrics.json: no such folder'),
    (lambda run: (run/'config.json').unlink() or run, 'no model here'),
    (lambda run: (run/'model.safetensors').unlink() or run, 'model.safetensors: cannot be read'),
    (lambda run: broken(run, 'model.safetensors', b'x'), 'model.safetensors: broken'),
    (lambda run: broken(run, 'config.json', b'{'), 'config.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'{"task": "full",'), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'\xff\xfe\x00'), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'['*100_000), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'[1]'), 'metrics.json: holds no figures'),
    (lambda run: broken(run, 'metrics.json', b'{"source": "/nowhere/at/all"}'), '/nowhere/at/all: no such folder')])
def test_broken(run, spoil, says):
    "One sentence or two that name the file; an earlier page stays"
    (run/'report.html').write_text('earlier')
    spoiled = spoil(run)
    with pytest.raises(ValueError, match=re.escape(says)) as e: run_report(spoiled)
    assert '\n' not in str(e.value) and (run/'report.html').read_text()=='earlier'
    with pytest.raises(ValueError, match=re.escape(says)): compare_runs([spoiled,spoiled])

@each('d,says', [(5,'no source of digits'), ('nowhere','no such folder'), (digits._replace(x_test=digits.x_test[:5]),'but 297 labels'),
    (digits._replace(x_test=digits.x_test[:,:20]),'Scale them'), (digits._replace(x_test=digits.x_test[:0], y_test=digits.y_test[:0]),'Give images')], ids=str)
def test_digits_of_the_wrong_kind(run, d, says):
    with pytest.raises(ValueError, match=says): run_report(run, d)
    assert not (run/'report.html').exists()

def test_no_threes(tmp_path):
    save_model(mnist_model('linear'), tmp_path)
    ones = digits._replace(x_test=digits.x_test[digits.y_test==1], y_test=digits.y_test[digits.y_test==1])
    with pytest.raises(ValueError, match='no images'): run_report(tmp_path, ones)

def test_page_in_the_way(run):
    (run/'report.html').mkdir()
    with pytest.raises(OSError, match='report.html: cannot be written'): run_report(run)
    assert sorted(o.name for o in run.iterdir())==['config.json','history.jsonl','metrics.json','model.safetensors','report.html']

@each('k,n', [(0,10), (10,10), (1,1), (9902,10000), (3,7)])
def test_wilson(k, n):
    "The textbook's formula"
    z,p = 1.959963984540054,k/n
    mid,half = (p+z*z/(2*n))/(1+z*z/n),z*math.sqrt(p*(1-p)/n+z*z/(4*n*n))/(1+z*z/n)
    assert wilson(k, n)==pytest.approx((mid-half,mid+half), abs=1e-9)

def test_class_table():
    "By hand; a class that is not there, and one that is never said"
    df = class_table(list('aabbbc'), list('abbbab'), list('abcd'))
    assert df.n.tolist()==[2,3,1,0] and df.correct.tolist()==[1,2,0,0]
    for k,v in dict(precision=[1/2,2/4,math.nan,math.nan], recall=[1/2,2/3,0,math.nan], f1=[.5,2*.5*(2/3)/(.5+2/3),0,math.nan]).items():
        assert df[k].tolist()==pytest.approx(v, nan_ok=True)
    assert df.loc['b',['low','high']].tolist()==pytest.approx(wilson(2, 3)) and df.loc['d'].iloc[2:].isna().all()

@each('n_bins', [1,7,10])
@each('seed', range(5))
def test_calibration(seed, n_bins):
    "Against loops; also with probabilities that lie on the edges of bins"
    rng = np.random.default_rng(seed)
    p = rng.random(200) if seed%2 else rng.integers(0, 2*n_bins+1, 200)/(2*n_bins)
    right = rng.random(200)<p
    edges = np.linspace(0, 1, n_bins+1)
    where = [sum(o>e for e in edges[1:-1]) for o in p]
    groups = [[i for i,w in enumerate(where) if w==b] for b in range(n_bins)]
    ece = sum(abs(right[g].mean()-p[g].mean())*len(g)/200 for g in groups if g)
    assert calibration_error(p, right, n_bins)==pytest.approx(ece)
    top,low = plot_calibration(torch.tensor(p), torch.tensor(right), n_bins).axes
    assert [o.get_height() for o in low.patches]==[len(g) for g in groups if g]
    assert list(top.lines[1].get_ydata())==pytest.approx([right[g].mean() for g in groups if g])

@each('p,right,n_bins', [([],[],10), ([.5],[1,0],10), ([.5],[1],0)])
def test_bad_calibration(p, right, n_bins):
    for f in calibration_error,plot_calibration:
        with pytest.raises(ValueError, match='Give one or more'): f(p, right, n_bins)

def drawn(model, n):
    "Images drawn, and their scale"
    ims = [ax.images[0] for ax in plot_filters(model, n).axes if ax.images and ax.get_label()!='<colorbar>']
    return [o.get_array() for o in ims],{o.get_clim() for o in ims}

def test_filters():
    "The weights themselves, on one scale, and no more than asked for"
    model = mnist_model('cnn')
    w = model[1].weight.detach()[:,0]
    for n,rows in (3,1),(9,2),(50,2):
        (im,),clim = drawn(model, n)
        k,top = min(n, 16),w[:n].abs().max().item()
        assert im.shape==(6*rows-1,6*min(8, k)-1) and clim=={(-top,top)} and im.count()==25*k
        for i in range(k): assert np.array_equal(im[i//8*6:][:5,i%8*6:][:,:5], w[i])
    for model,k in (mnist_model('simple_net', n_out=10, n_hidden=60),60),(mnist_model('linear', n_out=10),10),(mnist_model('linear'),1):
        for n in 3,50: assert len(drawn(model, n)[0])==min(n, k)
    model[1].weight.data.zero_()
    assert drawn(model, 1)[1]=={(-1.,1.)}
    with pytest.raises(ValueError, match='784 inputs'): plot_filters(torch.nn.Linear(3, 3))

def test_compare(trained, run):
    "Against the models asked directly, scipy, and items that are drawn one by one"
    runs = [trained['full','linear'],trained['full','simple_net'],trained['full','cnn'],run]
    df,pairs = compare_runs(runs)
    right = np.array([load_model(o).probabilities(digits.x_test/255).argmax(1).numpy()==digits.y_test.numpy() for o in runs])
    assert df.run.tolist()==[str(o) for o in runs] and df.accuracy.tolist()==pytest.approx(right.mean(1)) and df.errors.tolist()==(~right).sum(1).tolist()
    assert df[['low','high']].values.tolist()==[pytest.approx(wilson(int(o.sum()), 297)) for o in right]
    assert df.seed.tolist()==[0,0,0,42] and df.recipe.tolist()==['linear','simple_net','cnn','linear'] and df.seconds.tolist()==[2.]*4
    which = [(i,j) for i in range(4) for j in range(i+1, 4)]
    assert [(o.a,o.b) for o in pairs.itertuples()]==[(str(runs[i]),str(runs[j])) for i,j in which]
    rng = np.random.default_rng(1)
    for (i,j),o in zip(which, pairs.itertuples()):
        d = right[i]*1.-right[j]
        b,c = (d>0).sum(),(d<0).sum()
        assert (o.only_a,o.only_b)==(b,c) and o.difference==pytest.approx(d.mean()) and o.p==binomtest(b, b+c).pvalue
        draws = d[rng.integers(0, 297, (10_000,297))].mean(1)
        assert (o.low,o.high)==pytest.approx(np.quantile(draws, [.025,.975]), abs=.006)
    ps = pairs.p.tolist()
    holm = [min(1, max((6-sum(q<r for q in ps))*r for r in ps if r<=p)) for p in ps]
    assert pairs.p_holm.tolist()==pytest.approx(holm) and (pairs.beyond_chance==(pairs.p_holm<.05)).all() and pairs.beyond_chance.nunique()==2
    pd.testing.assert_frame_equal(pairs, compare_runs(runs, 'digits')[1])
    assert any(not pairs.equals(compare_runs(runs, digits, seed)[1]) for seed in range(1, 5))

def test_same_run_twice(run):
    _,pairs = compare_runs([run,run])
    assert pairs.iloc[0, 2:].tolist()==[0,0,0,0,0,1,1,False]

def test_compare_3v7(trained):
    df,pairs = compare_runs([trained['3v7','linear'],trained['3v7','speed']])
    assert df.task.tolist()==['3v7']*2 and len(pairs)==1

def idx_folder(path, d):
    path.mkdir()
    for k,o in zip(('train-images-idx3','train-labels-idx1','t10k-images-idx3','t10k-labels-idx1'), d):
        (path/f'{k}-ubyte').write_bytes(struct.pack(f'>4B{o.dim()}I', 0, 0, 8, o.dim(), *o.shape)+o.numpy().tobytes())
    return str(path)

def test_not_to_be_compared(trained, run, tmp_path):
    for runs in [run],run,str(run),[]:
        with pytest.raises(ValueError, match='two or more folders'): compare_runs(runs)
    with pytest.raises(ValueError, match='task full.*of 3v7. Compare runs of one task'): compare_runs([run,trained['3v7','linear']])
    other = shutil.copytree(run, tmp_path/'other')
    for m in metrics(n_test=10),metrics(data=dict(crc32='1')),metrics(data=dict(source=idx_folder(tmp_path/'digits', digits._replace(y_test=digits.y_test.flip(0))))):
        write(other, m)
        with pytest.raises(ValueError, match='not tested on the same digits'): compare_runs([run,other])
        with pytest.raises(ValueError, match='not tested on the same digits'): compare_report([run,other], tmp_path/'page.html')
    write(other, metrics(data=dict(source=idx_folder(tmp_path/'same', digits[:4]))))
    assert compare_runs([run,other])[1].p[0]==1 and not (tmp_path/'page.html').exists()

def test_compare_report(trained, run, tmp_path):
    "A page of its own, whatever the folders are called; nothing beside it"
    odd = shutil.copytree(run, tmp_path/'<img src=x> $\\frac$ \x1b')
    o = Page(compare_report([odd,trained['full','cnn'],trained['full','linear']], tmp_path/'new'/'page.html').read_text())
    assert o.tags.count('svg')==1 and 'img' not in o.tags and str(odd) in o.text and o.text.count(' yes ')+o.text.count(' no ')==3
    assert [o.name for o in (tmp_path/'new').iterdir()]==['page.html']
