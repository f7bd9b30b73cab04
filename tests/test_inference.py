"Models on disk and pictures of digits: hostile files, saves that fail, framing, and errors that say what to do"
import hashlib, io, json, multiprocessing, os, pickle, random, re, shutil, sys, time, zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
from conftest import full_disk, names, needs_mnist, same_weights, sh
from PIL import Image, ImageDraw, ImageOps
from safetensors.torch import load as st_load, save as st_save
from torch.optim.swa_utils import AveragedModel

from mnist_fast.inference.saved import DigitModel, load_model, save_model
from mnist_fast.inference.image import digit_image
from mnist_fast.model import mnist_model, model_registry

each = pytest.mark.parametrize
procs = multiprocessing.get_context('forkserver')
procs.set_forkserver_preload(['mnist_fast.inference.saved'])

def _says(e, *words):
    "The error is one line of whole sentences, not a long one, and holds `words`"
    s = str(e.value if hasattr(e, 'value') else e)
    names(s.replace('the object at pos', ''), *(re.escape(str(w)) for w in words)) # PyTorch's words for an argument
    assert s.endswith('.') and not re.search(r'Error\(s\)|0x[0-9a-f]{6}', s) and len(s)<600, s

def _model(name='simple_net', n_out=10, seed=0, **kw):
    torch.manual_seed(seed)
    return mnist_model(name, n_out=n_out, **kw)

def _bytes(folder): return {o.name: o.read_bytes() for o in folder.iterdir()}

def _put(folder, weights=None, data=None, text=None, **changes):
    "A saved model with other weights, bytes or configuration, whose `sha256` is right"
    save_model(_model(), folder)
    file,cfg = folder/'model.safetensors',folder/'config.json'
    if weights is not None: data = st_save(weights)
    if data is not None: file.write_bytes(data)
    config = {**json.loads(cfg.read_text()), 'sha256': hashlib.sha256(file.read_bytes()).hexdigest(), **changes}
    cfg.write_bytes(json.dumps(config).encode() if text is None else text)

def draw(size=(120,120), box=(40,20,80,100)):
    "A 7 in black on white, within `box`"
    l,t,r,b = (4*o for o in box)
    im = Image.new('L', (4*size[0],4*size[1]), 255)
    w = (b-t)//8
    ImageDraw.Draw(im).line([(l+w,t+w),(r-w,t+w),((l+r)//2-w,b-w)], 0, w, 'curve')
    return im.resize(size, Image.Resampling.BOX)

seven = draw()
ref = digit_image(seven)
def _far(a, b=ref): return (a-b).abs().mean().item()

def _file(im, fmt='PNG', **kw):
    f = io.BytesIO()
    im.save(f, fmt, **kw)
    return f.getvalue()

def _framed(x):
    "What every picture becomes: ink in 20 by 20, its centre of mass in the middle"
    assert x.shape==(28,28) and x.dtype==torch.float32 and x.isfinite().all() and x.min()==0 and .9<x.max()<=1
    (t,b),(l,r) = ((o[0],o[-1]+1) for o in (np.flatnonzero((x>0).any(a)) for a in (1,0)))
    assert 18<=max(b-t, r-l)<=20
    com = [(x.sum(1-a)*torch.arange(28)).sum()/x.sum() for a in (0,1)]
    assert all(abs(c-14)<=.75 for c in com), com

# Saving and loading

def test_no_fastai():
    "Reading a model takes no fastai, and neither does asking it"
    code = ("import sys, numpy as np; from mnist_fast.inference.saved import load_model; x = np.zeros((40,40)); x[5:30,20:23] = 1; load_model().predict(x); "
        "assert 'torch' in sys.modules and not {'fastai','matplotlib','pandas'} & {*sys.modules}")
    sh(sys.executable, '-c', code)

@each('wrap', [False,True])
@each('n_out', [1,10])
@each('name', model_registry)
def test_round_trip(tmp_path, name, n_out, wrap):
    m = _model(name, n_out)
    m(torch.rand(8,784)) # moves the means of batchnorm
    save_model(SimpleNamespace(model=m) if wrap else m, tmp_path/'a'/'b', note='é')
    assert sorted(_bytes(tmp_path/'a'/'b'))==['config.json','model.safetensors']
    d = load_model(str(tmp_path/'a'/'b'))
    same_weights(d.model, m)
    assert not d.model.training
    assert d.classes==([3,7] if n_out==1 else list(range(10))) and d.config['note']=='é'
    (a,p),(b,q) = d.predict(seven),DigitModel(m).predict(seven)
    assert a==b and torch.equal(p, q)

@each('name', model_registry)
def test_round_trip_of_defaults(tmp_path, name):
    "A model made with no numbers at all keeps those it was made with"
    m = mnist_model(name)
    save_model(m, tmp_path)
    same_weights(load_model(tmp_path).model, m)
    assert json.loads((tmp_path/'config.json').read_text())['model']['n_out'] in (1,10)

def test_same_bytes(tmp_path):
    for o in 'ab': save_model(_model(), tmp_path/o)
    assert _bytes(tmp_path/'a')==_bytes(tmp_path/'b')

def test_modes(tmp_path):
    save_model(_model(), tmp_path/'a')
    assert {o.stat().st_mode & 0o777 for o in (tmp_path/'a').iterdir()}=={0o644}

@each('logits', [[2.],[-1.],[float(i) for i in range(10)],[5.]+[0.]*9])
def test_probabilities(logits):
    "Weights of zero leave the bias to decide"
    m = _model('linear', len(logits))
    m[1].weight.data.zero_()
    m[1].bias.data[:] = torch.tensor(logits)
    pred,p = DigitModel(m).predict(seven)
    want = torch.tensor(logits+[0.] if len(logits)==1 else logits).softmax(0)
    torch.testing.assert_close(p, want)
    assert type(pred) is int and pred==([3,7] if len(logits)==1 else range(10))[want.argmax()]

def test_not_by_name(tmp_path):
    with pytest.raises(ValueError) as e: save_model(torch.nn.Linear(784,10), tmp_path)
    _says(e, 'mnist_model')
    assert not list(tmp_path.iterdir())

def test_saves_only_what_loads(tmp_path):
    "A model that could not be loaded leaves the one before it alone"
    save_model(_model(), tmp_path)
    old,nan = _bytes(tmp_path),_model()
    nan[1].weight.data[0,0] = float('nan')
    for m in (nan,_model(n_out=3)):
        with pytest.raises(ValueError) as e: save_model(m, tmp_path)
        _says(e)
        assert _bytes(tmp_path)==old

_wraps = dict(compiled=lambda m: torch.compile(m, backend='eager'), parallel=torch.nn.DataParallel, average=AveragedModel)
_nested = {f'{a} {b}': lambda m, f=f, g=g: f(g(m)) for a,f in _wraps.items() for b,g in _wraps.items() if a!=b} # a model that is compiled twice is no module

@each('wrap', [*_wraps.values(),*_nested.values()], ids=[*_wraps,*_nested])
def test_wrapped(tmp_path, wrap):
    "Whatever a model is wrapped in, alone or in a `Learner`, its files are those of the model itself, and it predicts"
    m = _model('cnn')
    wrapped = wrap(m)
    for k,o in dict(plain=m, wrapped=wrapped, learn=SimpleNamespace(model=wrapped)).items(): save_model(o, tmp_path/k)
    assert _bytes(tmp_path/'plain')==_bytes(tmp_path/'wrapped')==_bytes(tmp_path/'learn')
    same_weights(load_model(tmp_path/'wrapped').model, m)
    assert torch.equal(DigitModel(wrapped).predict(seven)[1], DigitModel(m.eval()).predict(seven)[1])

def _replace(m, k, layer):
    m[k] = layer
    return m

@each('change', [lambda m: _replace(m, 2, torch.nn.GELU()), lambda m: _replace(m, 1, torch.nn.Linear(784, 31)), lambda m: m.append(torch.nn.Linear(10, 10)),
    lambda m: _replace(m, 0, torch.nn.Flatten()), lambda m: m.config.update(n_hidden=31) or m, lambda m: m.to(torch.complex64)],
    ids='activation size more pixels config complex'.split())
def test_saves_only_what_loads_again(tmp_path, change):
    "A model that was changed after it was made is refused, and the files from before stay"
    save_model(_model(), tmp_path)
    old = _bytes(tmp_path)
    with pytest.raises(ValueError) as e: save_model(change(_model(seed=1)), tmp_path)
    _says(e, 'could not be loaded again', 'Nothing was written', 'mnist_model')
    assert _bytes(tmp_path)==old

# Saves that fail

@each('n,note', [(0,''),(1,''),(100,''),(31000,''),(200000,'x'*300000)]) # the last one is full in the middle of config.json
def test_full_disk(tmp_path, n, note):
    save_model(_model(), tmp_path/'a')
    old = _bytes(tmp_path/'a')
    for o in 'ab':
        with full_disk(n), pytest.raises(OSError) as e: save_model(_model(seed=1), tmp_path/o, note=note)
        _says(e, tmp_path/o)
    assert _bytes(tmp_path/'a')==old and load_model(tmp_path/'a').n_out==10
    assert not (tmp_path/'b').exists() or not list((tmp_path/'b').iterdir())

@each('info', [dict(x=object()),dict(model=1)])
def test_bad_info(tmp_path, info):
    save_model(_model(), tmp_path)
    old = _bytes(tmp_path)
    with pytest.raises((TypeError,ValueError)): save_model(_model(seed=1), tmp_path, **info)
    assert _bytes(tmp_path)==old

@each('where', ['file','file/below','/proc/no/such'])
def test_no_folder_there(tmp_path, where):
    (tmp_path/'file').write_text('mine')
    with pytest.raises(OSError) as e: save_model(_model(), tmp_path/where)
    _says(e, tmp_path/where)
    assert _bytes(tmp_path)=={'file': b'mine'}

@each('name', ['config.json','model.safetensors'])
def test_in_the_way(tmp_path, name):
    "A folder where the file should be: nothing is left, and nothing is changed"
    save_model(_model(), tmp_path)
    (tmp_path/name).unlink()
    (tmp_path/name).mkdir()
    old = {o: o.is_file() and o.read_bytes() for o in tmp_path.iterdir()}
    with pytest.raises(OSError) as e: save_model(_model(seed=1), tmp_path)
    _says(e, tmp_path/name)
    assert {o: o.is_file() and o.read_bytes() for o in tmp_path.iterdir()}==old

_loop = '''
import itertools
from mnist_fast.model import mnist_model
from mnist_fast.inference.saved import save_model
ms = [mnist_model('simple_net', n_out=10, n_hidden=n) for n in (30,2000)]
for i in itertools.count(): save_model(ms[i%2], folder, i=i)
'''

def test_killed(tmp_path):
    "SIGKILL 20 times in a loop of saves, half of them just when the weights change: files are whole, and load or are told apart"
    rng,loads,w = random.Random(0),0,tmp_path/'model.safetensors'
    def when(): return w.exists() and (w.stat().st_ino, w.stat().st_mtime_ns)
    for i in range(20):
        start = when()
        p = procs.Process(target=exec, args=(_loop, dict(folder=str(tmp_path))))
        p.start()
        for _ in range(1+i//8):
            while when() in (start,False): assert p.is_alive()
            start = when()
        if i%2: time.sleep(rng.uniform(0, .05))
        p.kill()
        p.join()
        weights = st_load(w.read_bytes())
        if i==0 and not (tmp_path/'config.json').exists(): continue
        assert json.loads((tmp_path/'config.json').read_text())['i']>=0
        try: loaded = load_model(tmp_path).model.state_dict()
        except ValueError as e: _says(e, 'model.safetensors')
        else:
            assert loaded.keys()==weights.keys() and all(torch.equal(loaded[k], weights[k]) for k in weights)
            loads += 1
    assert loads
    save_model(_model(), tmp_path)
    assert load_model(tmp_path).n_out==10

# Hostile files

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir,(self.path,)

def _zip():
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w') as z: z.writestr('model/data.pkl', pickle.dumps(Evil('x')))
    return f.getvalue()

def _torch():
    f = io.BytesIO()
    torch.save(_model().state_dict(), f)
    return f.getvalue()

def _header(o, data=b'', n=None):
    s = json.dumps(o).encode()
    return (len(s) if n is None else n).to_bytes(8, 'little')+s+data

_files = dict(empty=b'', random=random.Random(0).randbytes(5000), zip=_zip(), torch=_torch(), text=b'hello\n'*99, zeros=bytes(10000),
    long_header=_header({}, n=2**62), longest_header=_header({}, n=2**64-1), no_tensors=_header({}),
    outside=_header({'1.weight': dict(dtype='F32', shape=[30,784], data_offsets=[0,94080])}),
    backwards=_header({'1.weight': dict(dtype='F32', shape=[1], data_offsets=[4,0])}, bytes(4)),
    huge=_header({'1.weight': dict(dtype='F32', shape=[2**40,2**40], data_offsets=[0,4])}, bytes(4)))

def _refuses(folder, *words):
    with pytest.raises(ValueError) as e: load_model(folder)
    _says(e, folder, *words)

@each('data', _files.values(), ids=_files)
def test_not_safetensors(tmp_path, data):
    _put(tmp_path, data=data)
    _refuses(tmp_path)

def test_pickle_is_not_run(tmp_path):
    mark = tmp_path/'mark'
    _put(tmp_path/'m', data=pickle.dumps(Evil(str(mark))))
    _refuses(tmp_path/'m', 'model.safetensors')
    assert not mark.exists()

@each('sha', [True,False])
def test_truncated(tmp_path, sha):
    save_model(_model(), tmp_path)
    file = tmp_path/'model.safetensors'
    data = file.read_bytes()
    for n in [*range(0, 600, 29), *range(600, len(data), 9973), len(data)-1]:
        if sha: _put(tmp_path, data=data[:n])
        else: file.write_bytes(data[:n])
        _refuses(tmp_path, 'model.safetensors')

def test_each_flipped_bit_is_seen(tmp_path):
    save_model(_model('linear', 1), tmp_path)
    file = tmp_path/'model.safetensors'
    data = file.read_bytes()
    for i in range(0, len(data), 61):
        file.write_bytes(data[:i]+bytes([data[i]^4])+data[i+1:])
        _refuses(tmp_path, 'model.safetensors')

def _weights(f):
    w = _model().state_dict()
    f(w)
    return w

def _all(f): return _weights(lambda w: w.update({k: f(v) for k,v in w.items()}))

_tensors = dict(extra=_weights(lambda w: w.update(more=torch.ones(1))), less=_weights(lambda w: w.pop('1.weight')), none={},
    renamed=_weights(lambda w: w.update(x=w.pop('3.bias'))), scalar=_weights(lambda w: w.update({'3.bias': torch.tensor(1.)})),
    shape=_weights(lambda w: w.update({'1.weight': torch.ones(784,30)})), other=_model('cnn').state_dict(),
    one=_model(n_out=1).state_dict(), wide=_model(n_hidden=31).state_dict(), whole=_all(torch.Tensor.long), bytes=_all(torch.Tensor.byte),
    bool=_all(torch.Tensor.bool), complex=_all(lambda v: v.to(torch.complex64)), nan=_all(lambda v: v*float('nan')),
    inf=_weights(lambda w: w['3.bias'].fill_(float('inf'))), too_big=_all(lambda v: torch.full_like(v, 1e300, dtype=torch.float64)))

@each('w', _tensors.values(), ids=_tensors)
def test_other_weights(tmp_path, w):
    _put(tmp_path, w)
    _refuses(tmp_path)

_negative = dict(_model('cnn').state_dict(), **{'2.running_var': torch.full((16,), -1.)})
@each('w', [_all(lambda v: v*0+3e38), _negative], ids=['overflow','negative_variance'])
def test_never_nan(tmp_path, w):
    "Finite weights whose answer is no number: refused at once or when asked"
    _put(tmp_path, w, **(dict(model=dict(name='cnn', n_out=10)) if '2.running_var' in w else {}))
    with pytest.raises(ValueError) as e: load_model(tmp_path).predict(seven)
    _says(e)

@each('dtype', [torch.float64,torch.float16,torch.bfloat16])
def test_other_floats(tmp_path, dtype):
    "Weights of another precision are read as float32"
    _put(tmp_path, _all(lambda v: v.to(dtype)))
    p,q = load_model(tmp_path).predict(seven)[1],DigitModel(_model()).predict(seven)[1]
    assert p.dtype==torch.float32
    torch.testing.assert_close(p, q, atol=.01, rtol=0)

_config = dict(empty=b'', space=b' ', no_json=b'{', list=b'[]', null=b'null', text=b'"mnist_fast model, version 1"', number=b'1',
    utf=b'\xff\xfe\xfd', deep_list=b'['*100000, deep_dict=b'{"a":'*100000, digits=b'{"format": '+b'1'*9999+b'}',
    pickle=pickle.dumps(dict(a=1)), nul=bytes(99))

@each('text', _config.values(), ids=_config)
def test_not_a_config(tmp_path, text):
    _put(tmp_path, text=text)
    _refuses(tmp_path, 'config.json')

def _net(**kw): return dict(dict(name='simple_net', n_out=10), **kw)
_models = dict(huge=_net(n_hidden=10**12), huger=_net(n_hidden=10**30), below=_net(n_hidden=-1), none=_net(n_hidden=0),
    float=_net(n_hidden=30.), text=_net(n_hidden='30'), true=_net(n_hidden=True), null=_net(n_hidden=None), list=_net(n_hidden=[30]),
    argument=_net(layers=3), name=_net(name='vit'), name_list=_net(name=[]), name_dunder=_net(name='__class__'), nameless=dict(n_out=10),
    three=_net(n_out=3), no_out=dict(name='simple_net'), out_text=_net(n_out='10'), out_list=_net(n_out=[10]), one=_net(n_out=1),
    is_list=[], is_text='simple_net', is_null=None)

@each('model', _models.values(), ids=_models)
def test_other_models(tmp_path, model):
    _put(tmp_path, model=model)
    with pytest.raises(ValueError) as e: load_model(tmp_path)
    _says(e, tmp_path)
    assert not re.search('alloc|memory', str(e.value)), 'it tried'

@each('k', ['format','model','sha256'])
@each('v', [None,'',0,[],{}])
def test_config_needs(tmp_path, k, v):
    _put(tmp_path, **{k: v})
    _refuses(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    config.pop(k)
    (tmp_path/'config.json').write_text(json.dumps(config))
    _refuses(tmp_path)

def test_of_two_models(tmp_path):
    for o,m in dict(a=_model(), b=_model(seed=1), c=_model('cnn')).items(): save_model(m, tmp_path/o)
    for o in 'bc':
        shutil.copy(tmp_path/o/'config.json', tmp_path/'a')
        _refuses(tmp_path/'a', 'model.safetensors')

@each('name', ['config.json','model.safetensors'])
@each('f', [Path.unlink, lambda o: (o.unlink(), o.mkdir())], ids=['gone','folder'])
def test_missing(tmp_path, name, f):
    save_model(_model(), tmp_path)
    f(tmp_path/name)
    _refuses(tmp_path, name)

def test_no_such_folder(tmp_path):
    (tmp_path/'file').write_text('{}')
    for o in ('none','file','file/below'): _refuses(tmp_path/o)

# Pictures

_a = np.asarray(seven)
_clear = Image.merge('LA', (Image.new('L', seven.size), ImageOps.invert(seven)))
_white = Image.merge('LA', (Image.new('L', seven.size, 255), ImageOps.invert(seven)))
_t = torch.tensor(_a/255, dtype=torch.float32)

kinds = {o: seven.convert(o) for o in ('L','LA','RGB','RGBA','P','I','F','CMYK','YCbCr')}
kinds |= dict(bilevel=seven.convert('1', dither=0), I16=Image.fromarray(_a.astype(np.uint16)*257), HSV=seven.convert('RGB').convert('HSV'),
    palette=seven.quantize(64), LA_clear=_clear, RGBA_clear=_clear.convert('RGBA'), LA_white=_white, RGBA_white=_white.convert('RGBA'),
    inverted=ImageOps.invert(seven), coloured=ImageOps.colorize(seven, 'navy', 'lightyellow'), faint=seven.point(lambda v: 150+v//5))
kinds |= {f'file_{f}': _file(seven.convert('RGB'), f) for f in ('PNG','JPEG','GIF','BMP','TIFF','WEBP','PPM')}
kinds |= dict(png_clear=_file(_clear), png_16=_file(kinds['I16']), png_1=_file(kinds['bilevel']),
    gif_clear=_file(_clear.convert('RGBA'), 'GIF'))
kinds |= {f'array_{o}': (_a/255).astype(o) for o in ('float16','float32','float64')}
kinds |= {f'array_{o}': _a.astype(o) for o in ('uint8','int16','int64','uint32')}
kinds |= dict(array_bool=_a>127, array_list=(_a/255).tolist(), array_rgb=np.stack([_a]*3, 2), array_rgba=np.stack([_a]*3+[_a*0+255], 2),
    array_chw=np.stack([_a]*3), array_1hw=_a[None], array_hw1=_a[...,None], array_fortran=np.asfortranarray(_a),
    array_strided=np.repeat(_a, 2, 0)[::2], read_only=np.frombuffer(_a.tobytes(), np.uint8).reshape(_a.shape))
kinds |= dict(tensor=_t, tensor_uint8=torch.tensor(_a), tensor_bool=_t>.5, tensor_1hw=_t[None], tensor_chw=_t.expand(3,-1,-1),
    tensor_hwc=_t[...,None].expand(-1,-1,3), tensor_grad=_t.clone().requires_grad_(), tensor_half=_t.half(), tensor_bfloat16=_t.bfloat16(),
    tensor_strided=_t.T.contiguous().T)

@each('image', kinds.values(), ids=kinds)
def test_kinds(image):
    "Every way to hold the same picture gives nearly the same digit"
    x = digit_image(image)
    _framed(x)
    assert _far(x)<.025

def test_far_is_far(): assert _far(digit_image(ImageOps.mirror(seven)))>.08 and _far(digit_image(seven.rotate(180)))>.08

@each('o', range(1, 9))
@each('fmt', ['JPEG','PNG','WEBP'])
def test_exif(o, fmt):
    "A camera's rotation is undone"
    undo = 'FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270'.split()
    exif = Image.Exif()
    exif[274] = o
    im = seven.transpose(Image.Transpose[undo[o-2]]) if o>1 else seven
    assert _far(digit_image(_file(im.convert('RGB'), fmt, exif=exif)))<.025

@each('cls', [str,Path])
def test_paths(tmp_path, cls):
    seven.save(tmp_path/'é 7.png')
    assert torch.equal(digit_image(cls(tmp_path/'é 7.png')), ref)

@each('shape', [(28,28),(1,28,28),(784,),(1,784)])
@each('kind', ['float','uint8','tensor'])
def test_framed_stays(shape, kind):
    "A picture framed as MNIST frames it is left as it is, in the shapes that loaders give it"
    x = (ref*255).round()/255
    mk = dict(float=lambda: x.numpy(), uint8=lambda: (x*255).round().numpy().astype(np.uint8), tensor=lambda: x)
    assert torch.equal(digit_image(mk[kind]().reshape(shape)), x)

def test_framed_twice(): torch.testing.assert_close(digit_image(ref), ref, atol=1/255, rtol=0)

_places = [((28,28),(4,2,18,24)), ((28,28),(11,9,17,19)), ((60,60),(0,5,20,45)), ((400,100),(350,40,370,80)), ((100,400),(2,300,42,380)),
    ((1500,1500),(200,100,700,1100)), ((3000,3000),(10,10,50,90))]
@each('size,box', _places, ids=str)
@each('dark', [True,False])
def test_places_and_scales(size, box, dark):
    im = draw(size, box)
    x = digit_image(im if dark else ImageOps.invert(im))
    _framed(x)
    assert _far(x)<(.05 if size[0]==28 else .025)

@each('seed', range(3))
def test_paper_with_grain(seed):
    "A photo's noise is not ink"
    noisy = _a*.6+60+np.random.default_rng(seed).normal(0, 4, _a.shape)
    assert _far(digit_image(noisy.clip(0, 255).astype(np.uint8)))<.03

def test_thin_strokes():
    "A hairline in a large picture is still ink"
    im = Image.new('L', (2000,2000), 255)
    ImageDraw.Draw(im).line([(700,300),(1300,300),(900,1700)], 0, 3)
    x = digit_image(im)
    assert x.max()>.9 and (x>.3).sum()>25

@each('flip', [False,True])
@each('turn', [False,True])
def test_lopsided(flip, turn):
    "Ink whose mass lies at one side stays in one piece"
    x = np.zeros((60,60))
    x[20:40,20:24] = x[30,20:40] = 1
    x = x[:,::-1] if flip else x
    res = digit_image((x.T if turn else x).copy())
    for a in (0,1):
        on = np.flatnonzero((res>0).any(a))
        assert on[-1]-on[0]<20, on

@needs_mnist
def test_mnist_stays():
    "All the test images as they are"
    from mnist_fast.data.source import read_folder
    x = read_folder(os.environ['MNIST_FAST_DATA']).x_test
    moved = [i for i,o in enumerate(x) if not torch.equal(digit_image(o), o.float().div(255))]
    assert not moved, f'{len(moved)} of {len(x)} are not: {moved[:9]}'

@needs_mnist
def test_mnist_comes_back():
    "Test images enlarged, moved and printed in black are what they were"
    from mnist_fast.data.source import read_folder
    xs = read_folder(os.environ['MNIST_FAST_DATA']).x_test[:300]
    def page(x):
        im = Image.new('L', (300,200), 255)
        im.paste(ImageOps.invert(Image.fromarray(x.numpy()).resize((140,140), Image.Resampling.BICUBIC)), (130,20))
        return im
    far = [_far(digit_image(page(o)), o/255) for o in xs]
    assert np.mean(far)<.035 and max(far)<.1

# Pictures that are none

def _specks():
    x = np.full((3000,3000), 255, np.uint8)
    x[10,10] = x[-10,-10] = 0
    return x

def _dot():
    x = np.zeros((28,28), np.uint8)
    x[14,14] = 2
    return x

def _cut(): return _file(seven.resize((300,300)))[:-2000]
def _bomb(): return _file(Image.new('1', (20000,20000)))
def _f(v): return Image.fromarray(np.where(_a>99, v, 0).astype(np.float32))

bad = dict(blank_white=(np.ones((50,50)),'no digit'), blank_black=(np.zeros((28,28)),'no digit'),
    blank_image=(Image.new('RGB', (9,9), 'red'),'no digit'), clear=(Image.new('RGBA', (30,30)),'no digit'), dot=(_dot(),'no digit'),
    level=(Image.fromarray(30000+(_a>99).astype(np.uint16)),'no digit'), one_pixel=(np.ones((1,1)),'no digit'), specks=(_specks(),''),
    text=(b'hello','5 bytes'), no_bytes=(b'','0 bytes'), cut=(_cut(),'bytes'), cut_pil=(Image.open(io.BytesIO(_cut())),''),
    bomb=(_bomb(),'bytes'), floats_255=(_a.astype(float),'255.0'), below=(-(_a/255),'-1.0'), nan=(np.where(_a>99, np.nan, 0),'nan'),
    inf=(np.where(_a>99, np.inf, 0),'inf'), int_300=(_a.astype(int)+45,'300'), int_below=(_a.astype(int)-1,'-1'), complex=(_a/255+0j,''),
    objects=(_a.astype(object),''), strings=(_a.astype(str),''), dates=(_a.astype('M8[s]'),''), f_nan=(_f(np.nan),''),
    f_inf=(_f(np.inf),''), empty=(np.zeros((0,28)),'(0, 28)'), empty_list=([],'(0,)'), empty_tensor=(torch.zeros(28,0),'(28, 0)'),
    empty_wide=(Image.new('L', (5,0)),''), empty_tall=(Image.new('L', (0,5)),''), line=(np.zeros(783),'(783,)'),
    pair=(np.zeros((2,28,28)),'(2, 28, 28)'), batch=(np.zeros((1,1,28,28)),'(1, 1, 28, 28)'), five=(np.zeros((28,28,5)),'(28, 28, 5)'),
    ragged=([[0,1],[1]],''), number=(3,''), none=(None,''), sparse=(_t.to_sparse(),''), meta=(torch.zeros(28,28,device='meta'),''),
    dict=({},''), folder=('.','.: '), no_file=('no.png','no.png'), no_name=('',''), nul=('a\0b',''), lab=(Image.new('LAB', (30,30)),''))

@each('image,word', bad.values(), ids=bad)
@pytest.mark.filterwarnings('error::RuntimeWarning', 'ignore:Sparse')
def test_no_digit(image, word):
    with pytest.raises(ValueError) as e: digit_image(image)
    _says(e, word)

def test_long_name():
    with pytest.raises(ValueError) as e: digit_image('a'*300+'.png')
    _says(e, 'a.png')

def test_damaged_files():
    "1,200 damaged files of many formats: a framed digit or one clear error"
    rng,exif = random.Random(0),Image.Exif()
    exif[274] = 6
    small = draw((40,40), (12,5,30,35))
    for fmt in ('PNG','JPEG','GIF','BMP','TIFF','WEBP','PPM','TGA','PCX','ICO','DDS','SGI'):
        good = _file(small.convert('RGB'), fmt, **(dict(exif=exif) if fmt in ('JPEG','PNG','WEBP') else {}))
        for i in range(100):
            data = bytearray(good)
            for _ in range(rng.choice([1,2,8])): data[rng.randrange(min(len(data), rng.choice([200,9999])))] = rng.randrange(256)
            if i%4==0: del data[rng.randrange(len(data)):]
            try: x = digit_image(bytes(data))
            except ValueError as e: _says(e)
            else: assert x.shape==(28,28) and x.isfinite().all() and x.min()>=0 and .9<x.max()<=1
