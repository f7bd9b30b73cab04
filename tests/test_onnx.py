"Models as ONNX: the same outputs as the model, what the file says about itself, saves that fail, and compiled models"
import hashlib, json, logging, os, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np, onnx, onnxruntime, pytest, torch
from conftest import full_disk, names, needs_mnist, one_sentence, root, same_weights, sh
from safetensors.torch import load as st_load, save as st_save
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mnist_fast import cli
from mnist_fast.inference.onnx import export_onnx
from mnist_fast.inference.saved import DigitModel, load_model, save_model
from mnist_fast.model import linear, mnist_model, model_registry, plain_model

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit')
needs_script = pytest.mark.skipif(sys.version_info>=(3,14), reason='TorchScript does not support this Python')

def _model(name='simple_net', n_out=10, seed=0, **kw):
    "A model in evaluation mode, whose batch normalisation has seen some pixels"
    torch.manual_seed(seed)
    m = mnist_model(name, n_out=n_out, **kw)
    for _ in range(3): m(torch.rand(32,784))
    return m.eval()

def _session(path): return onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
def _run(path, x): return torch.tensor(_session(path).run(['logits'], {'pixels': x.numpy()})[0])
def _texts(path): return _session(path).get_modelmeta().custom_metadata_map
def _images(n, seed=0): return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))

@torch.no_grad()
def _close(path, model, n):
    """The file gives the outputs of `model` for `n` images. An output is a sum of up to 2,048 products, added up in another order: its rounding
    error grows with the size of the products, not with what is left after they have cancelled each other. Random weights give outputs of any
    size, so the tolerance is 1e-5 of the largest one, and 1e-5 where all are below 1."""
    x = _images(n, seed=n)
    want = model(x)
    got = _run(path, x)
    assert got.shape==want.shape and (got-want).abs().max()<=1e-5*max(1, want.abs().max())

@pytest.fixture(scope='module')
def simple(tmp_path_factory):
    "A small model and its file"
    path,m = tmp_path_factory.mktemp('onnx')/'simple.onnx',_model()
    export_onnx(m, path)
    return m,path

@pytest.fixture
def recorded(simple, monkeypatch):
    "The small model is recorded already, which lasts seconds: for what comes afterwards"
    def export(m, *args, **kwargs):
        same_weights(m, simple[0])
        return SimpleNamespace(model_proto=onnx.load(simple[1]))
    monkeypatch.setattr(torch.onnx, 'export', export)

# The file

@each('n_out', [1,10])
@each('name', model_registry)
def test_each_model(tmp_path, name, n_out):
    m,path = _model(name, n_out),tmp_path/'a.onnx'
    res = export_onnx(m, path)
    for n in (1,3,64): _close(path, m, n)
    assert [o.name for o in tmp_path.iterdir()]==['a.onnx']
    assert res==dict(path=str(path), opset=18, size=path.stat().st_size, difference=res['difference'])
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain,o.version) for o in proto.opset_import]==[('',18)] and not proto.functions
    assert [(o.name,o.type,o.shape) for o in _session(path).get_inputs()]==[('pixels','tensor(float)',['N',1,28,28])]
    assert [(o.name,o.type,o.shape) for o in _session(path).get_outputs()]==[('logits','tensor(float)',['N',n_out])]

def test_other_sizes(tmp_path):
    m = _model('deep_cnn', widths=(8,12,13))
    export_onnx(m, tmp_path/'a.onnx')
    _close(tmp_path/'a.onnx', m, 5)

@each('name', ['full','3v7'])
def test_models_of_the_package(tmp_path, name):
    "Trained weights: outputs of a few units, so that 1e-5 holds without a scale; and the probabilities follow from what the metadata says"
    path,saved = tmp_path/'a.onnx',load_model(name)
    assert export_onnx(name, path)['difference']<1e-5
    x = _images(20)
    out,p = _run(path, x).double(),saved.probabilities(x)
    q = torch.cat([out.sigmoid(),1-out.sigmoid()], 1) if name=='3v7' else out.softmax(1)
    torch.testing.assert_close(q.float(), p, atol=1e-5, rtol=0)

@needs_mnist
def test_mnist_has_the_same_predictions(tmp_path):
    from mnist_fast.data.source import get_digits
    export_onnx('full', tmp_path/'a.onnx')
    x = get_digits(os.environ['MNIST_FAST_DATA']).x_test[:1000,None]/255
    assert torch.equal(_run(tmp_path/'a.onnx', x).argmax(1), load_model().probabilities(x).argmax(1))

@each('n_out', [1,10])
def test_metadata(tmp_path, n_out):
    m,path = _model(n_out=n_out, n_hidden=7),tmp_path/'a.onnx'
    export_onnx(m, path, task='some', source='a set', accuracy=.5, recipe=dict(lr=.1), note='is not kept')
    t = _texts(path)
    assert json.loads(t['classes'])==([3,7] if n_out==1 else list(range(10)))
    assert t['name']=='simple_net' and mnist_model(**json.loads(t['model'])).config==m.config
    assert (t['task'],t['source'],float(t['accuracy']),json.loads(t['recipe']))==('some','a set',.5,dict(lr=.1))
    assert ('sigmoid' if n_out==1 else 'softmax') in t['outputs']
    assert re.search(r'\[N,1,28,28\].*0 .*1 ', t['pixels']) and '20 pixels' in t['framing'] and 'centre of mass' in t['framing']
    assert 'note' not in t and t['format'].startswith('mnist_fast ONNX')

def test_what_a_run_knows(recorded, tmp_path):
    "The source of the digits comes from the loaders, or from the saved model; the checksum is that of model.safetensors"
    m = _model()
    export_onnx(SimpleNamespace(model=m, dls=SimpleNamespace(source='loaders')), tmp_path/'a.onnx')
    assert _texts(tmp_path/'a.onnx')['source']=='loaders'
    save_model(m, tmp_path/'run', source='kept', task='full', plots=3)
    for o in (tmp_path/'run',load_model(tmp_path/'run')):
        export_onnx(o, tmp_path/'a.onnx')
        t = _texts(tmp_path/'a.onnx')
        assert (t['source'],t['task'])==('kept','full') and 'plots' not in t
        assert t['weights_sha256']==hashlib.sha256((tmp_path/'run'/'model.safetensors').read_bytes()).hexdigest()
    export_onnx(load_model(tmp_path/'run'), tmp_path/'a.onnx', source='other')
    assert _texts(tmp_path/'a.onnx')['source']=='other'

def test_names_no_folder(simple, tmp_path):
    "The exporter notes where the code is on this machine; the file does not"
    data = simple[1].read_bytes()
    assert not re.search(rb'site-packages|[.]py\b|stack_trace', data)
    assert not [o for o in (root,Path.home(),tmp_path) if bytes(o) in data]

def test_same_bytes(simple, tmp_path):
    export_onnx(_model(), tmp_path/'a.onnx')
    assert (tmp_path/'a.onnx').read_bytes()==simple[1].read_bytes()

def test_without_torch(simple, tmp_path):
    np.save(tmp_path/'x.npy', _images(2).numpy())
    code = ("import sys, numpy as np, onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1]); "
        "print(s.run(None, {'pixels': np.load(sys.argv[2])})[0].shape, {'torch','mnist_fast'} & {*sys.modules})")
    assert sh(sys.executable, '-c', code, simple[1], tmp_path/'x.npy')=='(2, 10) set()\n'

# The model stays as it was

def test_model_is_left_alone(tmp_path):
    "Modes of all its layers, weights, the check of its pixels and the random numbers, also if the export fails"
    m = _model('cnn')
    m.train()[2].eval()
    modes,old,rng = [o.training for o in m.modules()],{k: v.clone() for k,v in m.state_dict().items()},torch.get_rng_state()
    export_onnx(m, tmp_path/'a.onnx')
    with pytest.raises(OSError): export_onnx(m, tmp_path)
    assert [o.training for o in m.modules()]==modes and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, old[k]) for k,v in m.state_dict().items()) and all(o.requires_grad for o in m.parameters())
    with pytest.raises(ValueError, match='Divide by 255'): m(torch.full((1,784), 255.))
    saved = DigitModel(m)
    export_onnx(saved, tmp_path/'a.onnx')
    with pytest.raises(ValueError, match='Divide by 255'): saved.model(torch.full((1,784), 255.))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_model_on_a_gpu(tmp_path):
    m = _model('cnn').cuda()
    export_onnx(m, tmp_path/'a.onnx')
    assert {o.device.type for o in m.parameters()}=={'cuda'}
    _close(tmp_path/'a.onnx', m.cpu(), 5)

# Exports that fail

def _wrong(add):
    "ONNX Runtime whose outputs are wrong"
    class Session(onnxruntime.InferenceSession):
        def run(self, *args): return [o+add for o in super().run(*args)]
    return Session

@each('add', [1e-4, float('nan')])
def test_failed_check(recorded, tmp_path, monkeypatch, add):
    "No file, and one that is there stays"
    monkeypatch.setattr(onnxruntime, 'InferenceSession', _wrong(add))
    (tmp_path/'old.onnx').write_text('mine')
    for o in ('old','new'):
        with pytest.raises(ValueError) as e: export_onnx(_model(), tmp_path/f'{o}.onnx')
        names(e, f'{o}.onnx', 'Nothing was written', 'differ')
    assert {o.name: o.read_text() for o in tmp_path.iterdir()}=={'old.onnx': 'mine'}

def test_cannot_run(recorded, tmp_path, monkeypatch):
    "ONNX Runtime that is too old for the file, or the like"
    def no(*args, **kwargs): raise RuntimeError('[ONNXRuntimeError]\nunsupported')
    monkeypatch.setattr(onnxruntime, 'InferenceSession', no)
    with pytest.raises(ValueError) as e: export_onnx(_model(), tmp_path/'a.onnx')
    names(e, 'a.onnx', 'cannot run', 'Nothing was written')
    assert not list(tmp_path.iterdir())

def test_difference_is_measured(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, 'InferenceSession', _wrong(5e-6))
    assert 4e-6<export_onnx(_model(), tmp_path/'a.onnx')['difference']<6e-6

@each('n', [0,5000])
def test_full_disk(recorded, tmp_path, n):
    (tmp_path/'a.onnx').write_text('mine')
    with full_disk(n), pytest.raises(OSError) as e: export_onnx(_model(), tmp_path/'a.onnx')
    names(e, 'a.onnx')
    assert {o.name: o.read_text() for o in tmp_path.iterdir()}=={'a.onnx': 'mine'}

def test_replaced(simple, recorded, tmp_path):
    (tmp_path/'sub').mkdir()
    for o in ('a.onnx','sub/b.onnx','new/folder/c.onnx'):
        if o!='new/folder/c.onnx': (tmp_path/o).write_text('old')
        export_onnx(_model(), str(tmp_path/o))
        assert (tmp_path/o).read_bytes()==simple[1].read_bytes()

@each('where', ['file/below.onnx','/proc/no/such/a.onnx','folder'])
def test_no_place(recorded, tmp_path, where):
    (tmp_path/'file').write_text('mine')
    (tmp_path/'folder').mkdir()
    with pytest.raises(OSError) as e: export_onnx(_model(), tmp_path/where)
    names(e, re.escape(str((tmp_path/where).parent)))
    assert (tmp_path/'file').read_text()=='mine' and not list((tmp_path/'folder').iterdir())

@each('name', ['onnx','onnxscript','onnxruntime'])
def test_missing_package(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as e: export_onnx(_model(), tmp_path/'a.onnx')
    names(e, name, r"pip install 'mnist_fast\[onnx\]'")
    assert not list(tmp_path.iterdir())

def test_no_model(tmp_path):
    for o in (tmp_path,tmp_path/'none'):
        with pytest.raises(ValueError) as e: export_onnx(o, tmp_path/'a.onnx')
        names(e, 'no model here', 'config.json')
    nan = _model()
    nan[1].weight.data[0,0] = float('nan')
    for m,word in ((nan,'not numbers'), (_model(n_out=3),'n_out=3'), (nn.Linear(784, 10),'mnist_model')):
        with pytest.raises(ValueError) as e: export_onnx(m, tmp_path/'a.onnx')
        names(e, word)
    assert not list(tmp_path.iterdir())

def test_cannot_be_recorded(tmp_path, monkeypatch):
    "A model of one's own whose way depends on the pixels: one sentence, and all that was switched off is on again"
    class Depends(nn.Module):
        def forward(self, x): return x if x.mean()>.5 else -x
    monkeypatch.setitem(model_registry, 'depends', lambda n_out=10: nn.Sequential(nn.Flatten(), Depends(), nn.Linear(784, n_out)))
    with pytest.raises(ValueError) as e: export_onnx(mnist_model('depends'), tmp_path/'a.onnx')
    names(e, 'cannot be recorded', r'torch\.onnx\.export')
    assert logging.root.manager.disable==0 and not list(tmp_path.iterdir())

@each('error', [KeyboardInterrupt,SystemExit])
def test_stopped(tmp_path, monkeypatch, error):
    def stop(*args, **kwargs): raise error
    monkeypatch.setattr(torch.onnx, 'export', stop)
    out = sys.stdout,sys.stderr
    with pytest.raises(error): export_onnx(_model(), tmp_path/'a.onnx')
    assert (sys.stdout,sys.stderr)==out and logging.root.manager.disable==0 and not list(tmp_path.iterdir())

# Compiled models

def _compile_layer(m):
    m[1] = torch.compile(m[1], backend='eager')
    return m

_x = torch.rand(2, 784, generator=torch.Generator().manual_seed(1))
_ways = dict(compiled=lambda m: torch.compile(m, backend='eager'), layer=_compile_layer, average=lambda m: AveragedModel(torch.compile(m, backend='eager')),
    in_place=lambda m: m.compile(backend='eager') or m, scripted=torch.jit.script, traced=lambda m: torch.jit.trace(m, _x),
    average_of_script=lambda m: AveragedModel(torch.jit.script(m)))
_scripts = {k: pytest.param(f, marks=needs_script, id=k) for k,f in _ways.items() if 'script' in k or 'trace' in k}
_all_ways = [_scripts.get(k, pytest.param(f, id=k)) for k,f in _ways.items()]

@each('wrap', _all_ways)
def test_compiled(simple, tmp_path, wrap):
    "A compiled model, alone or in a `Learner`, gives the same files as the model before"
    m,path = simple
    save_model(m, tmp_path/'plain')
    wrapped = wrap(_model())
    for k,o in dict(model=wrapped, learn=SimpleNamespace(model=wrapped)).items():
        save_model(o, tmp_path/k)
        for f in ('config.json','model.safetensors'): assert (tmp_path/k/f).read_bytes()==(tmp_path/'plain'/f).read_bytes()
    export_onnx(o, tmp_path/'a.onnx')
    assert (tmp_path/'a.onnx').read_bytes()==path.read_bytes()

@needs_script
@each('n_out', [1,10])
@each('name', model_registry)
def test_torchscript(name, n_out):
    "Each model can be scripted and traced, gives the same outputs, and comes back"
    m = _model(name, n_out)
    for s in (torch.jit.script(m),torch.jit.trace(m, _x)):
        for n in (0,1,5): torch.testing.assert_close(s(_images(n)), m(_images(n)))
        back = plain_model(s)
        same_weights(back, m)
        assert repr(back)==repr(m) and back.config==m.config and not back.training

@needs_script
def test_script_knows_its_config(tmp_path):
    "Sizes of one's own: a script has kept the config, a trace or a file needs it again"
    m = _model(n_hidden=7)
    assert plain_model(torch.jit.script(m)).config==m.config
    torch.jit.script(m).save(tmp_path/'m.pt')
    for s in (torch.jit.trace(m, _x),torch.jit.load(tmp_path/'m.pt')):
        with pytest.raises(ValueError) as e: save_model(s, tmp_path/'a')
        names(e, 'compiled', r'compiled\.config = model\.config')
        s.config = m.config
        same_weights(plain_model(s), m)
    assert plain_model(torch.jit.trace(linear(10), _x)).config==dict(name='linear', n_out=10)

@needs_script
def test_script_of_another_model(tmp_path):
    "Weights that fit are not enough: another activation, or a trace in training mode"
    other = _model()
    other[2] = nn.GELU()
    for s,name in ((torch.jit.script(other),'simple_net'), (torch.jit.trace(_model('cnn').train(), _x, check_trace=False),'cnn')):
        for f in (save_model,export_onnx):
            with pytest.raises(ValueError) as e: f(s, tmp_path/'a')
            names(e, 'other outputs', name, r'model\.eval\(\)')
    assert not list(tmp_path.iterdir())

def test_plain_is_the_model_itself():
    m = _model()
    assert plain_model(m) is m and plain_model(torch.compile(m, backend='eager')) is m

@each('prefix', ['_orig_mod.','inner'])
def test_prefix_of_compile(tmp_path, prefix):
    "A folder whose weights have the names of a compiled model loads and is exported"
    m = _model()
    save_model(m, tmp_path)
    file,cfg = tmp_path/'model.safetensors',tmp_path/'config.json'
    rename = (lambda k: prefix+k) if prefix!='inner' else lambda k: k.replace('.', '._orig_mod.')
    data = st_save({rename(k): v for k,v in st_load(file.read_bytes()).items()})
    assert b'_orig_mod.' in data
    file.write_bytes(data)
    cfg.write_text(json.dumps({**json.loads(cfg.read_text()), 'sha256': hashlib.sha256(data).hexdigest()}))
    same_weights(load_model(tmp_path).model, m)
    export_onnx(tmp_path, tmp_path/'a.onnx')
    _close(tmp_path/'a.onnx', m, 3)

def test_learner(tmp_path):
    "A `Learner` that trains compiled exports what it has learned"
    from conftest import quiet
    from mnist_fast.all import Digits, get_digits, mnist_dls, mnist_learner
    d = get_digits('digits')
    dls = mnist_dls(Digits(*(o[:200] for o in d[:4]), d.source), bs=50, seed=1)
    learn = mnist_learner(dls, 'linear', torch.compile(mnist_model('linear', n_out=10), backend='eager'), seed=1)
    with quiet(learn): learn.fit(1)
    training = learn.model.training
    export_onnx(learn, tmp_path/'a.onnx')
    assert _texts(tmp_path/'a.onnx')['source']=='scikit-learn digits' and learn.model.training==training
    save_model(learn, tmp_path/'m')
    _close(tmp_path/'a.onnx', load_model(tmp_path/'m').model, 5)

# The command

def test_command(tmp_path):
    "One line, and nothing from the exporter; it takes no fastai"
    code = "import sys; from mnist_fast.cli import main; rc = main(['export','3v7']); assert 'fastai' not in sys.modules; sys.exit(rc)"
    res = subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, cwd=tmp_path)
    assert (res.returncode,res.stderr)==(0,'') and [o.name for o in tmp_path.iterdir()]==['model.onnx']
    size = (tmp_path/'model.onnx').stat().st_size
    assert re.fullmatch(rf'model\.onnx: ONNX, opset 18, {size:,} bytes; largest difference from the model \d\.\de-\d\d\n', res.stdout)

def _main(capsys, *args):
    rc = cli.main(['export',*map(str, args)])
    return rc,*capsys.readouterr()

def test_json(recorded, tmp_path, capsys):
    save_model(_model(), tmp_path)
    rc,out,err = _main(capsys, tmp_path, '--out', tmp_path/'b.onnx', '--json')
    res = json.loads(out)
    assert (rc,err,[*res])==(0,'',['path','opset','size','difference']) and res['path']==str(tmp_path/'b.onnx')

def test_command_refuses(tmp_path, capsys, monkeypatch):
    for args,words in (((tmp_path,'--out',tmp_path/'a.onnx'),['no model here']), (('3v7','--out',tmp_path),['cannot be written'])):
        rc,out,err = _main(capsys, *args)
        assert (rc,out)==(1,'')
        one_sentence(err, re.escape(str(tmp_path)), *words)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    rc,out,err = _main(capsys, '3v7', '--out', tmp_path/'a.onnx')
    assert (rc,out)==(1,'')
    one_sentence(err, r"pip install 'mnist_fast\[onnx\]'")
    assert not list(tmp_path.iterdir())
