"A page about a run: the numbers are right, hostile files do no harm, the page says what is missing"
import base64, io, json, matplotlib.pyplot as plt, numpy as np, pytest, random, re, torch
from conftest import names
from mnist_fast.inference.saved import DigitModel, load_model, save_model
from mnist_fast.model import mnist_model, model_registry
from mnist_fast.run.compare import compare_runs
from mnist_fast.run.report import Run, run_report
from PIL import Image
from run_files import *
from scipy.stats import binomtest

each = pytest.mark.parametrize

def n_filters(model): return min(50, next(o for o in model.parameters() if o.dim()>1).shape[0])

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
    assert o.tags.count('img')==sum(map(bool, o.attr('img', 'alt')))==20+n_filters(load_model(run).model)
    assert sum((k,v)==('role','img') for _,k,v in o.attrs)==o.tags.count('svg')==5

@each('name', tasks, ids=str)
def test_figures(trained, name):
    "Against the model asked directly"
    run,o = trained[name],page(trained[name])
    saved = load_model(run)
    keep = torch.isin(digits.y_test.long(), torch.tensor(saved.classes))
    x,y = digits.x_test[keep]/255,digits.y_test[keep].long()
    p = saved.probabilities(x)
    pred = torch.tensor(saved.classes)[p.argmax(1)]
    k,n = (pred==y).sum().item(),len(y)
    low,high = binomtest(k, n).proportion_ci(method='wilson')
    for text in f'{k/n:.2%}',f'95% interval: {low:.2%} to {high:.2%}',f'of {n} test digits',f'{sum(q.numel() for q in saved.model.parameters()):,}':
        assert text in o.text
    loss = -p.gather(1, torch.searchsorted(torch.tensor(saved.classes), y)[:,None]).log().mean().item()
    assert abs(float(re.search(r'loss\s+([\d.]+)\s+cross-entropy', o.text)[1])-loss)<1e-4
    cells = re.search('Confusion matrix.*?predicted[.](.*?)Most confused', o.text, re.S)[1].split()
    c = len(saved.classes)
    assert cells[:c]==[str(i) for i in saved.classes]
    rows = [cells[c+i*(c+1):][:c+1] for i in range(c)]
    for label,*row in rows:
        assert [int(v.replace('·', '0')) for v in row]==[((y==int(label))&(pred==s)).sum().item() for s in saved.classes]
    top = (-p.gather(1, torch.searchsorted(torch.tensor(saved.classes), y)[:,None])[:,0].log()).argsort(descending=True, stable=True)[:20].tolist()
    drawn = [re.match(r'Test digit (\d+): a (\d), predicted as (\d)', v).groups() for v in o.attr('img', 'alt') if v.startswith('Test')]
    assert [tuple(map(int, v)) for v in drawn]==[(i,y[i].item(),pred[i].item()) for i in top]

@each('name', tasks, ids=str)
def test_predicted_once(trained, name, monkeypatch):
    "Probabilities that are handed over make the same page, and the model is not asked again"
    run = trained[name]
    first,probs = run_report(run).read_bytes(),Run(run)._probabilities()
    def fail(*args): raise AssertionError('the model was asked')
    monkeypatch.setattr(DigitModel, 'probabilities', fail)
    assert run_report(run, digits, probs).read_bytes()==first
    for wrong in probs[1:],probs[:,1:]:
        with pytest.raises(ValueError) as e: run_report(run, digits, wrong)
        names(e, re.escape(f'{tuple(wrong.shape)}'), re.escape(f'{tuple(probs.shape)}'))

@each('name', tasks, ids=str)
def test_first_layer(trained, name):
    "An image for each filter or neuron: as large as the weights, red for those above 0, blue for those below"
    o,w = page(trained[name]),next(p for p in load_model(trained[name]).model.parameters() if p.dim()>1).detach()
    w = (w[:,0] if w.dim()==4 else w.view(-1,28,28))[:50]
    images = [v for v,alt in zip(o.attr('img', 'src'), o.attr('img', 'alt')) if alt.startswith('weights')]
    x = np.stack([Image.open(io.BytesIO(base64.b64decode(v.split(',')[1]))) for v in images]).astype(int)
    large = w.abs()>w.abs().max()/20
    assert x.shape==(*w.shape,3) and ((x[...,0]>x[...,2])==(w>0).numpy())[large.numpy()].all()
    assert f'weight of {w.abs().max():.3g}' in o.text

def test_no_weights(run):
    "All weights 0: white, no division by zero"
    model = load_model(run).model
    for p in model.parameters(): torch.nn.init.zeros_(p)
    save_model(model, run)
    assert 'weight of 1,' in page(run, digits).text

def test_perfect(tmp_path):
    "No mistakes: the top losses are correct predictions"
    torch.manual_seed(0)
    save_model(mnist_model('linear', n_out=10), tmp_path)
    pred = load_model(tmp_path).probabilities(digits.x_test/255).argmax(1)
    d = digits._replace(y_test=pred.byte())
    o = page(tmp_path, d)
    assert '100.00%' in o.text and 'No mistakes.' in o.text
    assert all(v!='wrong' for _,k,v in o.attrs if k=='class')

@each('name', model_registry)
def test_any_model(tmp_path, name):
    "Never trained, and without any figures"
    torch.manual_seed(0)
    save_model(mnist_model(name, n_out=10), tmp_path)
    o = page(tmp_path, digits)
    assert 'no metrics.json' in o.text and f'{sum(p.numel() for p in load_model(tmp_path).model.parameters()):,}' in o.text

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
    assert page(run).tags.count('svg')==5
    path.write_text('\n'.join(o for o in whole.splitlines() if 'batch' not in o))
    o = page(run)
    assert 'history.jsonl has no rows of batches' in o.text and o.tags.count('svg')==4
    path.unlink()
    (run/'history.csv').write_text('epoch,train_loss,valid_loss,accuracy,time\n0,.5,.4,.9,00:14\n1,.3,.2,.95,00:14\n')
    o = page(run)
    assert 'history.csv has no rows of batches' in o.text and o.tags.count('svg')==3 and '0.95' in o.text
    for name,text in ('history.csv',b'a,b\n"'),('history.csv',b'\xff\xfe\x00'),('history.jsonl',b'[1,2]\n<html>\n\xff'):
        (run/name).write_bytes(text)
        assert 'There is no history that can be read' in page(run).text

def test_one_epoch(run):
    "One epoch has no curve, but its row, and batches have"
    (run/'history.jsonl').write_text('\n'.join(json.dumps(o) for o in [*map(batch_row, range(4)),epoch_row(0)]))
    assert page(run).tags.count('svg')==3

def test_long_history(run):
    (run/'history.jsonl').write_text('\n'.join(json.dumps(o) for i in range(300) for o in [*(batch_row(100*i+j) for j in range(100)),epoch_row(i)]))
    assert run_report(run).stat().st_size<1_000_000

def test_what_is_missing(run):
    "Of an earlier version, and with nothing but a model"
    old = {k: v for k,v in metrics().items() if k not in ('command','threads','cores','git','data','stopped')}
    o = page(write(run, old))
    assert 'Not recorded: command, threads, cores, git revision, CRC-32 of the data.' in o.text
    (run/'metrics.json').unlink()
    (run/'history.jsonl').unlink()
    o = page(run)
    for text in 'no metrics.json','no history','recorded no times','command, seed, epochs': assert text in o.text

def test_time(run):
    "Parts and the rest add up; without some of them the rest is larger; speed counts each digit of each epoch"
    text = page(run).text
    for part in 'reading the data 0.50 17%','training 2.00 67%','testing 0.10 3%','the rest 0.40 13%','2,250 items a second': assert part in ' '.join(text.split())
    assert 'the rest 3.00 100%' in ' '.join(page(write(run, metrics(seconds=dict(total=3)))).text.split())

def test_notes(run):
    "The page has a note if the run stopped early, if the digits or the accuracy differ from the recorded ones, and no note otherwise"
    acc = float(re.search(r'([\d.]+)%', page(run).text)[1])/100
    say = 'stopped early','checksum','The run recorded an accuracy of'
    assert not any(t in page(write(run, metrics(accuracy=acc))).text for t in say)
    assert 'stopped early: no better for 3 epochs.' in page(write(run, metrics(stopped='no better for 3 epochs'))).text
    assert say[2]+' 99.00%' in page(write(run, metrics(accuracy=.99))).text
    other = digits._replace(x=digits.x.flip(0), source='elsewhere')
    assert 'the checksum of elsewhere is not the recorded one' in page(write(run, metrics()), other).text

def broken(run, name, text):
    (run/name).write_bytes(text)
    return run

@each('spoil,says', [
    (lambda run: run/'nowhere', 'nowhere: no such folder'),
    (lambda run: run/'metrics.json', 'metrics.json: no such folder'),
    (lambda run: (run/'config.json').unlink() or run, 'config.json'),
    (lambda run: (run/'model.safetensors').unlink() or run, 'model.safetensors: cannot be read'),
    (lambda run: broken(run, 'model.safetensors', b'x'), 'model.safetensors'),
    (lambda run: broken(run, 'config.json', b'{'), 'config.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'{"task": "full",'), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'\xff\xfe\x00'), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'['*100_000), 'metrics.json: cannot be read'),
    (lambda run: broken(run, 'metrics.json', b'[1]'), 'metrics.json: '),
    (lambda run: broken(run, 'metrics.json', b'{"source": "/nowhere/at/all"}'), '/nowhere/at/all')])
def test_broken(run, spoil, says):
    "One sentence or two that name the file; an earlier page stays"
    (run/'report.html').write_text('earlier')
    spoiled = spoil(run)
    for f in run_report,lambda o: compare_runs([o,o]):
        with pytest.raises(ValueError) as e: f(spoiled)
        names(e, re.escape(says))
    assert (run/'report.html').read_text()=='earlier'

@each('d,says', [(5,'source'), ('nowhere','nowhere: no such'), (digits._replace(x_test=digits.x_test[:5]),'5 images.*297 labels'),
    (digits._replace(x_test=digits.x_test[:,:20]),'28 by 20 pixels'), (digits._replace(x_test=digits.x_test[:0], y_test=digits.y_test[:0]),'Give images')], ids=str)
def test_digits_of_the_wrong_kind(run, d, says):
    with pytest.raises(ValueError) as e: run_report(run, d)
    names(e, says)
    assert not (run/'report.html').exists()

def test_no_threes(tmp_path):
    save_model(mnist_model('linear'), tmp_path)
    ones = digits._replace(x_test=digits.x_test[digits.y_test==1], y_test=digits.y_test[digits.y_test==1])
    with pytest.raises(ValueError) as e: run_report(tmp_path, ones)
    names(e, 'no images')

def test_page_in_the_way(run):
    (run/'report.html').mkdir()
    with pytest.raises(OSError) as e: run_report(run)
    names(e, 'report.html: cannot be written')
    assert sorted(o.name for o in run.iterdir())==['config.json','history.jsonl','metrics.json','model.safetensors','report.html']
