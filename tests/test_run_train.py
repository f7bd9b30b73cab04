"A run made from Python: the result that the command prints, the same folder, and the test digits predicted once"
import json, os, pytest, torch
from conftest import bin, names, sh
from fastcore.basics import noop
from PIL import Image
from mnist_fast.inference.saved import load_model, save_model
from mnist_fast.model import NormalizePixels
from mnist_fast.run.compare import compare_runs
from mnist_fast.run.folder import read_settings
from mnist_fast.run.report import run_report
from mnist_fast.run.train import evaluate_run, resume_run, train_run

settings = dict(task='3v7', recipe='linear', source='digits', epochs=2, seed=1)

@pytest.fixture
def run(tmp_path): return train_run(tmp_path/'run', on_epoch=noop, **settings)

def test_as_the_command(run, tmp_path):
    "The same files, the same model bit by bit, the same result"
    sh(bin/'mnist_fast', 'train', '--task', '3v7', '--recipe', 'linear', '--source', 'digits', '--epochs', 2, '--seed', 1, '--out', tmp_path/'cmd',
        env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())})
    assert {o.name for o in run.folder.iterdir()}=={o.name for o in (tmp_path/'cmd').iterdir()}
    assert (run.folder/'model.safetensors').read_bytes()==(tmp_path/'cmd'/'model.safetensors').read_bytes()
    theirs = json.loads((tmp_path/'cmd'/'metrics.json').read_text())
    assert {k: v for k,v in theirs.items() if k!='seconds'}=={k: v for k,v in run.metrics.items() if k!='seconds'}
    assert (run.folder/'report.html').exists() and json.loads((run.folder/'metrics.json').read_text())==run.metrics

def test_page(tmp_path):
    "`page` writes the model as a page, which says how often it is right; without it there is none"
    run = train_run(tmp_path/'run', on_epoch=noop, page=True, **settings)
    text = (run.folder/'page.html').read_text()
    assert f"{run.metrics['accuracy']:.2%}" in text and 'default-src' in text
    assert run.metrics['command'].endswith('--page') and read_settings(run.folder).page
    assert not (train_run(tmp_path/'other', on_epoch=noop, **settings).folder/'page.html').exists()

def test_order(tmp_path):
    "A line an epoch, then the result, and only then pictures and report; the model and the result are kept before they are shown"
    seen = []
    def result(run): seen.append(sorted(o.name for o in run.folder.iterdir() if o.suffix in ('.png','.html','.json','.safetensors')))
    train_run(tmp_path/'run', on_epoch=seen.append, on_result=result, **settings)
    assert [o[:7] for o in seen[:2]]==['epoch 0','epoch 1'] and seen[2:]==[['config.json','metrics.json','model.safetensors','run.json']]

def test_tested_once(tmp_path, monkeypatch):
    "The test digits go through the network once after training: metrics, pictures and report share the predictions"
    n,forward = [],NormalizePixels.forward
    def count(self, x):
        if not self.training: n.append(len(x))
        return forward(self, x)
    monkeypatch.setattr(NormalizePixels, 'forward', count)
    m = train_run(tmp_path/'run', on_epoch=noop, **{**settings, 'valid': .2}).metrics
    assert sum(n)==m['n_valid']*m['epochs']+m['n_test']

def test_report_again(run):
    "A report that is made later, from the files, is the same page"
    before = (run.folder/'report.html').read_bytes()
    assert run_report(run.folder).read_bytes()==before

def test_resume_finished(run):
    "Gives the result again and changes no file"
    before,seen = {o.name: o.stat().st_mtime_ns for o in run.folder.iterdir()},[]
    assert resume_run(run.folder, on_result=seen.append)==run and seen==[run]
    assert {o.name: o.stat().st_mtime_ns for o in run.folder.iterdir()}==before

@pytest.mark.parametrize('begun', [1,2])
def test_threads(begun, tmp_path):
    "A run has the threads that its settings say, goes on with the same number, and gives PyTorch its own number back"
    def stop(text): raise KeyboardInterrupt
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/'run', on_epoch=stop, threads=begun, **settings)
    assert torch.get_num_threads()==before
    torch.set_num_threads(3-begun)
    try:
        assert resume_run(tmp_path/'run', on_epoch=noop).metrics['threads']==begun
        assert torch.get_num_threads()==3-begun
    finally: torch.set_num_threads(before)

def test_left_over(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(ValueError) as e: train_run(tmp_path/'run', **settings)
    names(e, 'RANK=1', 'unset RANK')
    assert not (tmp_path/'run').exists()

def test_home(tmp_path, monkeypatch):
    "`~` is the home folder in each path"
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = train_run('~/run', on_epoch=noop, **settings)
    assert run.folder==tmp_path/'run' and not (tmp_path/'~').exists()
    assert resume_run('~/run')==run and evaluate_run('~/run', 'digits')['accuracy']==run.metrics['accuracy']
    run_report('~/run')
    compare_runs(['~/run','~/run'], out='~/a/page.html')
    assert (tmp_path/'a'/'page.html').exists()
    save_model(load_model('~/run').model, '~/model')
    Image.new('L', (28,28)).save(tmp_path/'x.png')
    with pytest.raises(ValueError, match='no digit|empty|blank|one colour'): load_model('~/model').predict('~/x.png')

def test_interrupted_between(tmp_path):
    "A run that is stopped after the test and before the report can be resumed, and writes all files"
    def stop(run): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match='--resume'): train_run(tmp_path/'run', on_epoch=noop, on_result=stop, **settings)
    assert not (tmp_path/'run'/'report.html').exists()
    run = resume_run(tmp_path/'run', on_epoch=noop)
    assert (run.folder/'report.html').exists() and not (run.folder/'checkpoints').exists()

def test_evaluate(run):
    res = evaluate_run(run.folder, 'digits')
    assert res['accuracy']==run.metrics['accuracy'] and res['loss']==pytest.approx(run.metrics['loss'], abs=1e-6)
    assert evaluate_run('3v7', 'digits')['n_test']==run.metrics['n_test']
    with pytest.raises(ValueError) as e: evaluate_run(run.folder/'none')
    names(e, 'none')

def test_recipe_that_was_used(tmp_path):
    "A model without a recipe of its name is trained by the recipe cnn, and the result says so"
    m = train_run(tmp_path/'run', on_epoch=noop, task='3v7', model='fast_cnn', source='digits', epochs=1).metrics
    assert (m['model'],m['recipe'])==('fast_cnn','cnn') and load_model(tmp_path/'run').config['model']['name']=='fast_cnn'

def test_no_folder_without_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError): train_run(source='nowhere')
    with pytest.raises(ValueError, match='resnet'): train_run(recipe='resnet', source='digits')
    assert not [*tmp_path.iterdir()]
