"Salt runs: files, resuming, submissions, the models of the other task, and the command"
import json, pytest, shutil, signal, subprocess, time
import pandas as pd, torch
from conftest import bin, names, one_sentence
from fastai.basics import nn

from mnist_fast import cli
from mnist_fast.inference.saved import load_model
from mnist_fast.run.train import evaluate_run, resume_run, train_run
from mnist_fast.salt.data import read_salt
from mnist_fast.salt.learner import best_threshold, load_salt_model, salt_probs, save_salt_model, threshold_scores
from mnist_fast.salt.make import make_salt
from mnist_fast.salt.metric import salt_scores
from mnist_fast.salt.model import salt_model
from mnist_fast.salt.rle import rle_decode
from mnist_fast.salt.run import evaluate_salt, predict_salt, resume_salt, submission_csv, train_salt

cmd = str(bin/'mnist_fast')
quiet = dict(on_epoch=lambda text: None)

@pytest.fixture(scope='module')
def tiles(tmp_path_factory): return make_salt(tmp_path_factory.mktemp('salt')/'tiles', n=100, n_test=7, seed=4)

@pytest.fixture(scope='module')
def run(tiles): return train_salt(tiles, tiles.parent/'run', epochs=2, threads=1, **quiet)

def main(capsys, *args):
    status = cli.main([str(o) for o in args])
    out = capsys.readouterr()
    return status,out.out,out.err

def test_files(run, tiles):
    assert {'config.json','history.csv','history.jsonl','metrics.json','model.safetensors','report.html','run.json','submission.csv'}=={o.name for o in run.folder.iterdir()}
    m = json.loads((run.folder/'metrics.json').read_text())
    assert m==run.metrics and (m['task'],m['n_train'],m['n_valid'],m['n_test'],m['epochs'])==('salt',80,20,7,2)
    assert m['command']==f'mnist_fast salt train --recipe speed --source {tiles} --epochs 2 --valid 0.2 --threads 1'
    assert not {*'accuracy'.split()}&{*m} and 0<=m['score']<=1

def test_score(run, tiles):
    "The recorded score is that of the saved model on the held-out tiles, whose ids nobody else has"
    from mnist_fast.salt.data import salt_dls
    dls = salt_dls(tiles, valid=.2, seed=42)
    saved,ds = load_salt_model(run.folder),dls.valid_ds
    assert not {*dls.train.ids}&{*dls.valid.ids} and len({*dls.train.ids,*dls.valid.ids})==100
    assert salt_scores(saved.masks(ds.x), ds.y).mean().item()==pytest.approx(run.metrics['score'])
    page = (run.folder/'report.html').read_text()
    assert f"{run.metrics['score']:.3f}" in page and page.count('<img')<=24 and 'http' not in page.replace('http-equiv', '').replace('http://www.w3.org', '')

def test_submission(run, tiles):
    df,data = pd.read_csv(run.folder/'submission.csv', keep_default_na=False),read_salt(tiles)
    assert sorted(df.id)==sorted(data.test_ids) and [*df]==['id','rle_mask']
    masks = load_salt_model(run.folder).masks(torch.as_tensor(data.x_test))
    for i,code in zip(df.id, df.rle_mask): assert (rle_decode(code)==masks[[*data.test_ids].index(i),0].numpy()).all()

def test_flip(run, tiles, tmp_path):
    "The average of both answers is the same for a tile and its mirror image"
    model,x = load_salt_model(run.folder).model,torch.as_tensor(read_salt(tiles).x[:5])
    p = salt_probs(model, x, flip=True)
    assert torch.allclose(p, salt_probs(model, x.flip(-1), flip=True).flip(-1), atol=1e-5)
    assert torch.allclose(p, (salt_probs(model, x)+salt_probs(model, x.flip(-1)).flip(-1))/2, atol=1e-6) and (p-salt_probs(model, x)).abs().max()>1e-4

def test_modes_are_given_back(run):
    "Also those of a layer that is frozen in a model that trains, and after an error"
    model = load_salt_model(run.folder).model.train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    salt_probs(model, torch.rand(2, 1, 16, 16))
    with pytest.raises(RuntimeError): salt_probs(model, torch.rand(2, 1, 8, 0))
    assert model.training and [m for m in model.modules() if not m.training]==[frozen]

def test_loss_of_the_kept_model(tiles, tmp_path):
    "With `keep_best`, score and loss are those of the saved weights"
    from mnist_fast.salt.data import salt_dls
    from mnist_fast.salt.loss import bce_lovasz
    kept = train_salt(tiles, tmp_path/'run', epochs=3, keep_best=True, threads=1, **quiet)
    ds,model = salt_dls(tiles, valid=.2, seed=42).valid_ds,load_salt_model(kept.folder).model
    with torch.no_grad(): want = bce_lovasz(model(ds.x.float()/255), ds.y).item()
    assert kept.metrics['loss']==pytest.approx(want, rel=1e-4)

def test_threshold():
    "The only pixel that is salt has a probability of 0.7, the others at most 0.3"
    masks = torch.zeros(2, 1, 4, 4).byte()
    masks[0,0,1,1] = 1
    probs = torch.full((2, 1, 4, 4), .3)
    probs[0,0,1,1] = .7
    assert best_threshold(probs, masks)==.5 and threshold_scores(probs, masks)[.5]==1
    assert threshold_scores(probs, masks)[.25]==0 and threshold_scores(probs, masks)[.8]==.5

def test_killed_and_resumed(tiles, tmp_path):
    "The same bits as without, through the command"
    settings = f'salt train --source {tiles} --epochs 3 --every 2 --threads 1 --json --out'.split()
    whole = json.loads(subprocess.run([cmd, *settings, 'whole'], cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    p = subprocess.Popen([cmd, *settings, 'k'], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while p.poll() is None and len([*tmp_path.glob('k/checkpoints/*.safetensors')])<2: time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    assert p.wait()==-9
    res = subprocess.run([cmd, 'salt', 'train', '--resume', 'k', '--json'], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    k = json.loads(res.stdout)
    for o in ('seconds',): assert whole.pop(o) and k.pop(o)
    assert whole==k and not (tmp_path/'k'/'checkpoints').exists()
    for f in ('model.safetensors','submission.csv'): assert (tmp_path/'whole'/f).read_bytes()==(tmp_path/'k'/f).read_bytes()

def test_other_tiles(run, tiles, tmp_path):
    "A run goes on with its own tiles only"
    shutil.copytree(run.folder, tmp_path/'run')
    (tmp_path/'run'/'metrics.json').unlink()
    info = json.loads((tmp_path/'run'/'run.json').read_text())
    (tmp_path/'run'/'run.json').write_text(json.dumps(info|dict(data=dict(info['data'], crc32='1'))))
    with pytest.raises(ValueError) as e: resume_salt(tmp_path/'run')
    names(e, 'Put the same data in its place')

def test_evaluate(run, tiles, tmp_path):
    other = make_salt(tmp_path/'other', n=20, n_test=1, seed=9)
    res,data = evaluate_salt(run.folder, other),read_salt(other)
    want = salt_scores(load_salt_model(run.folder).masks(torch.as_tensor(data.x)), torch.as_tensor(data.y)[:,None]).mean().item()
    assert res['score']==pytest.approx(want) and res['n_test']==20
    with pytest.raises(ValueError) as e: evaluate_salt(run.folder, tiles)
    names(e, 'trained on these tiles', 'other tiles')

# What does not fit together

def test_model_of_the_other_task(run, tiles, tmp_path):
    digits = train_run(tmp_path/'digits', task='3v7', recipe='linear', source='digits', epochs=1, **quiet)
    wrong = [(load_model,run,'save_model'), (evaluate_run,run,'save_model'), (load_salt_model,digits,'mnist_fast salt train'),
        (lambda o: predict_salt(o, tiles, tmp_path/'s.csv'),digits,'mnist_fast salt train')]
    for f,o,word in wrong:
        with pytest.raises(ValueError) as e: f(o.folder)
        names(e, 'config.json', word)
    for f,folder,word in ((resume_run,run.folder,'mnist_fast salt train --resume'),(resume_salt,digits.folder,'mnist_fast train --resume')):
        with pytest.raises(ValueError) as e: f(folder)
        names(e, 'run of the task', word)
    assert not (tmp_path/'s.csv').exists()

def test_command_refuses(run, tiles, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {'salt train': '--source', 'salt train --source nowhere': 'nowhere', f'salt train --source {tiles} --valid 0': 'valid',
        f'salt train --source {tiles} --recipe best': 'linear, speed, standard', f'salt train --source {tiles} --out {run.folder}': 'holds a run',
        f'salt train --resume {run.folder} --epochs 3': '--epochs', f'salt train --resume {run.folder} --source {tiles}': '--source',
        f'salt predict nowhere {tiles}': 'nowhere', f'salt predict {run.folder} nowhere': 'nowhere', f'evaluate {run.folder}': 'salt model',
        f'predict {tiles}/test/images --model {run.folder}': 'salt model', f'salt evaluate {run.folder} {tiles}': 'trained on these tiles',
        f'salt make {tiles}': 'empty', 'salt make new --n 0': 'n is 0', 'salt ladder nowhere': 'nowhere'}
    for args,word in wrong.items():
        status,out,err = main(capsys, *args.split())
        assert status==1 and not out, (args, out)
        one_sentence(err, word)
    assert not [*tmp_path.iterdir()]

def test_command_words(capsys):
    for args in ('salt','salt fly','salt train --flip'):
        with pytest.raises(SystemExit) as e: cli.main(args.split())
        assert e.value.code==2
        one_sentence(capsys.readouterr().err, '--help')

def test_command(run, tiles, tmp_path, capsys):
    assert main(capsys, 'salt', 'train', '--resume', run.folder)[1].startswith(f"salt, recipe speed, 20 held-out tiles ({tiles}): score {run.metrics['score']:.4f}")
    status,out,_ = main(capsys, 'salt', 'predict', run.folder, tiles, '--out', tmp_path/'s.csv', '--json')
    assert status==0 and json.loads(out)['tiles']==7 and (tmp_path/'s.csv').read_bytes()==(run.folder/'submission.csv').read_bytes()
    assert main(capsys, 'salt', 'predict', run.folder, tiles, '--flip', '--out', tmp_path/'f.csv')[0]==0

def test_submission_has_each_tile_once():
    with pytest.raises(ValueError): submission_csv(['a'], torch.zeros(2, 1, 3, 3).byte())
    assert submission_csv(['b','a'], torch.ones(2, 1, 2, 2).byte()).decode()=='id,rle_mask\nb,1 4\na,1 4\n'

def test_saved_model(tmp_path):
    model = salt_model('unet', widths=(4,8))
    save_salt_model(torch.compile(model, backend='eager'), tmp_path, .3, recipe='mine')
    saved = load_salt_model(tmp_path)
    assert saved.threshold==.3 and saved.config['recipe']=='mine' and all(torch.equal(a, b) for a,b in zip(saved.model.state_dict().values(), model.state_dict().values()))
    config = json.loads((tmp_path/'config.json').read_text())
    for wrong in (None, 'half', 2, True):
        (tmp_path/'config.json').write_text(json.dumps(dict(config, threshold=wrong)))
        with pytest.raises(ValueError) as e: load_salt_model(tmp_path)
        names(e, 'threshold', 'Save the model again')
    with pytest.raises(ValueError): save_salt_model(nn.Conv2d(1, 1, 3), tmp_path/'other')
    assert not (tmp_path/'other').exists()
