"Digits: what is read, refused, fetched, kept and served in batches; nothing but 127.0.0.1 is ever asked"
import fcntl, gzip, hashlib, http.server, multiprocessing, os, pickle, re, resource, shutil, socket, struct, subprocess, tempfile, threading, time, zlib
from contextlib import contextmanager, suppress

import matplotlib.pyplot as plt, numpy as np, pytest
from conftest import needs_mnist
from fastai.basics import accuracy, accuracy_multi, BCEWithLogitsLossFlat, CrossEntropyLossFlat, Learner
from fastai.basics import nn, partial, Path, set_seed, tensor, torch
from fastai.callback.progress import ProgressCallback
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from mnist_fast import data
from mnist_fast.data.source import *
from mnist_fast.data.loader import *

real = os.environ.get('MNIST_FAST_DATA')
each = pytest.mark.parametrize
names = 'train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'.split()
todo = 'Allow Check Choose Fetch Free Give Make Move Name Put Remove Rename Scale Set Stop Try Use'.split()
procs = multiprocessing.get_context('forkserver')
procs.set_forkserver_preload(['mnist_fast.data'])

def _mk(n, size=28):
    "`n` images of noise, labels in order"
    x = torch.randint(256, (n,size,size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return x,tensor([i*10//n for i in range(n)], dtype=torch.uint8)

def _idx(t): return struct.pack(f'>4B{t.dim()}I', 0, 0, 8, t.dim(), *t.shape) + t.numpy().tobytes()
made = Digits(*_mk(40), *_mk(20), 'made up')
good = dict(zip(names, map(_idx, made[:4])))
packed = {k+'.gz': gzip.compress(v) for k,v in good.items()}
sums = {k: (hashlib.md5(v).hexdigest(), len(v), v[3]) for k,v in good.items()}

def _same(a, b=made): return all(torch.equal(x,y) and x.dtype==y.dtype for x,y in zip(a[:4], b[:4]))

def _put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for k,v in files.items(): (folder/k).write_bytes(v)
    return folder

def _pngs(folder, x, y):
    for i,(o,c) in enumerate(zip(x,y)):
        (folder/str(int(c))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(o.numpy()).save(folder/str(int(c))/f'{i:03}.png')

def _tree(folder, train='training', test='testing'):
    _pngs(folder/train, made.x, made.y)
    _pngs(folder/test, made.x_test, made.y_test)
    return folder

def _bad(name, why, f, *args, **kw):
    "`f` fails with one line that names `name`, gives the cause and ends in what to do"
    with pytest.raises(DataError) as e: f(*args, **kw)
    s = str(e.value)
    assert str(name) in s and re.search(why, s), s
    assert '\n' not in s and not re.search(r'Errno|\w+Error|Exception', s), s
    assert s.endswith('.') and s.split('. ')[-1].split()[0] in todo, s

@pytest.fixture(params=[data._big,0], ids=['read','mapped'])
def big(request, monkeypatch):
    "Both ways: few pixels are read, many are mapped"
    monkeypatch.setattr(data, '_big', request.param)

@pytest.fixture
def shared():
    "A folder that other users reach"
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        yield Path(d)

@contextmanager
def _nobody():
    "Give up root's rights for a while"
    was = os.geteuid()
    if not was: os.seteuid(65534)
    try: yield
    finally: os.seteuid(was)

taken = socket.socket()
taken.bind(('127.0.0.1',0))
closed = f'http://127.0.0.1:{taken.getsockname()[1]}'

@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    "No real data, no old cache, no network"
    asked,real_info = set(),socket.getaddrinfo
    monkeypatch.delenv('MNIST_FAST_DATA', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(data, 'mirrors', [closed])
    monkeypatch.setattr(socket, 'getaddrinfo', lambda host, *a, **kw: asked.add(host) or real_info(host, *a, **kw))
    yield
    assert asked <= {'127.0.0.1'}

## Broken files

huge = lambda b, *axes: struct.pack('>4B3I', 0, 0, 8, 3, *axes) + b[16:]
axes = (2**12,2**14,2**14)
broken = {'truncated': ('holds', lambda b: b[:-1]), 'cut in header': ('header', lambda b: b[:9]), 'empty': ('.', lambda b: b''),
    'one byte': ('.', lambda b: b[:1]), 'magic': ('first bytes', lambda b: b'\0\0\x08\1'+b[4:]),
    'floats': ('first bytes', lambda b: b'\0\0\x0d\3'+b[4:]), 'first byte': ('first bytes', lambda b: b'\1'+b[1:]),
    'html': ('web page', lambda b: b'<!DOCTYPE html><html>Sign in</html>'),
    'trailing': ('more', lambda b: b+b'\0'), '2^40': (str(2**40), lambda b: huge(b, *axes)),
    '2^96': ('promises', lambda b: huge(b, *[2**32-1]*3)), 'no items': ('0 bytes', lambda b: huge(b, 0, 28, 28)[:16]),
    'gz of html': ('web page', lambda b: gzip.compress(b'<html>')), 'gz truncated': ('end', lambda b: gzip.compress(b)[:-999]),
    'gz without its sum': ('end', lambda b: gzip.compress(b)[:-1]), 'gz trailing': ('.', lambda b: gzip.compress(b)+b'junk'),
    'gz of more': ('more', lambda b: gzip.compress(b+b'\0')), 'gz 2^40': (str(2**40), lambda b: gzip.compress(huge(b, *axes)))}

@each('why,f', [*broken.values()], ids=broken)
def test_broken(tmp_path, why, f, big):
    _put(tmp_path, packed|{names[0]+'.gz': f(good[names[0]])})
    _bad(tmp_path/f'{names[0]}.gz', why, read_folder, tmp_path)
    assert not _kept()

@each('b', [good[names[1]], packed[names[1]+'.gz']], ids=['plain','gz'])
def test_cut_anywhere(tmp_path, b, big):
    for i in range(len(b)):
        (o := tmp_path/'labels').write_bytes(b[:i])
        _bad(o, '.', read_idx, o, 1)

def test_flipped_bit(tmp_path, big):
    b,o = packed[names[1]+'.gz'],tmp_path/'labels'
    for i in range(len(b)*8):
        o.write_bytes(b[:i//8]+bytes([b[i//8]^1<<i%8])+b[i//8+1:])
        with suppress(DataError): assert torch.equal(read_idx(o, 1), made.y)

@each('files,name,why', [({names[1]: _idx(made.y[1:])}, names[0], '40 images.* 39 labels'),
    ({names[1]: _idx(made.y+1)}, names[1], 'label is 10'), ({names[2]: _idx(_mk(20,32)[0])}, names[2], r'32.*28'),
    ({names[3]: _idx(made.y_test*25)}, names[3], 'label is 225')], ids=['counts','label 10','32x32','label 225'])
def test_unfit(tmp_path, files, name, why, big): _bad(tmp_path/name, why, read_folder, _put(tmp_path, good|files))

@each('name,why', [*zip(names, ['train images','train labels','test images','test labels'])])
def test_missing(tmp_path, name, why): _bad(tmp_path, why, read_folder, _put(tmp_path, {k: v for k,v in good.items() if k!=name}))

def test_not_a_folder(tmp_path):
    (f := tmp_path/'file').write_bytes(b'1')
    (e := tmp_path/'empty').mkdir()
    _bad(e, 'no digits', read_folder, e)
    _bad(f, 'not a folder', read_folder, f)
    for o in f/'below', tmp_path/'none', tmp_path/('a'*300), '~no_such_user/mnist', 'a\0b': _bad(o, '.', read_folder, o)
    for o in f/'below', tmp_path/'none', tmp_path: _bad(o, '.', read_idx, o, 1)

@each('o', [None, 3, 2.5, b'mnist', made.x])
def test_not_a_source(o):
    with pytest.raises(ValueError, match='folder'): get_digits(o)

def _no_class(c, test=False):
    k,t = made.y!=c,made.y_test!=c
    return made._replace(x_test=made.x_test[t], y_test=made.y_test[t]) if test else made._replace(x=made.x[k], y=made.y[k])

@each('f,c', [(mnist_dls,4), (three_seven_dls,7), (three_seven_dls,3)])
@each('test', [False,True])
def test_empty_class(f, c, test):
    _bad('made up, test' if test else 'made up, training', f'no digit {c}', f, _no_class(c, test))
    if f is three_seven_dls: f(_no_class(4, test))

@each('kw', [dict(x=_mk(40,32)[0]), dict(y=made.y[1:]), dict(y_test=made.y_test+1), dict(x=made.x[0]), dict(x=made.x[:0], y=made.y[:0])])
@each('f', [mnist_dls,three_seven_dls])
def test_odd_digits(f, kw):
    with pytest.raises(DataError, match='made up'): f(made._replace(**kw))

def test_odd_pngs(tmp_path, big):
    p = _tree(tmp_path)/'training'/'4'/'new.png'
    for im in Image.new('L', (30,30)), Image.new('L', (28,30)):
        im.save(p)
        _bad(p, '30', read_folder, tmp_path)
    b = (p.parent/'016.png').read_bytes()
    for o in b[:-40], b[:20], b'', b'<html>', b[:60]+bytes(20)+b[80:]:
        p.write_bytes(o)
        _bad(p, '.', read_folder, tmp_path)
    p.unlink()
    (d := p.parents[1]/'ten').mkdir()
    _bad(d, '0 to 9', read_folder, tmp_path)
    shutil.rmtree(p.parents[1])
    _bad(tmp_path, 'no digits', read_folder, tmp_path)
    p.parents[1].mkdir()
    _bad(p.parents[1], 'no PNG', read_folder, tmp_path)

@settings(deadline=None)
@given(st.data())
def test_png_fuzz(tmp_path_factory, o):
    Image.fromarray(made.x[0].numpy()).save(f := tmp_path_factory.getbasetemp()/'fuzz.png')
    b = bytearray(f.read_bytes())
    b[o.draw(st.integers(0, len(b)-1))] = o.draw(st.integers(0,255))
    f.write_bytes(b[:o.draw(st.integers(0, len(b)))])
    with suppress(DataError): assert data._read_png(f).shape==(28,28)

def test_png_16bit(tmp_path):
    Image.fromarray((made.x[0].numpy().astype('uint16')*257)).save(f := tmp_path/'deep.png')
    with suppress(DataError): assert np.array_equal(data._read_png(f), made.x[0])

def test_no_permission(shared):
    a,b = _put(shared/'a', good),_put(shared/'b', good)
    for o in a, b/names[1]: o.chmod(0)
    try:
        with _nobody():
            for o in a, a/'x': _bad(o, '[Pp]ermission', get_digits, o)
            _bad(b/names[1], '[Pp]ermission', read_folder, b)
    finally: a.chmod(0o755)

def test_closed_neighbour(shared):
    _put(shared, good)
    (o := shared/'lost+found').mkdir(0)
    try:
        with _nobody(): assert _same(read_folder(shared))
    finally: o.chmod(0o755)

## Spellings

spellings = {'plain': good, 'gz': packed, 'named gz': {k+'.gz': v for k,v in good.items()},
    'gz without name': {k.removesuffix('.gz'): v for k,v in packed.items()},
    'dot': {k.replace('-idx','.idx'): v for k,v in good.items()}, 'dot gz': {k.replace('-idx','.idx'): v for k,v in packed.items()},
    'mixed': {(k if i%2 else k+'.gz'): (v if i%2 else packed[k+'.gz']) for i,(k,v) in enumerate(good.items())},
    'with others': good|{'SHA256SUMS': b'x', 'notes.txt': b'', 'train-images-idx3-ubyte.bak': b'x', '._train-images-idx3-ubyte': b''}}

@each('files', [*spellings.values()], ids=spellings)
@each('sub', ['','MNIST/raw','raw'])
def test_spelling(tmp_path, files, sub, big):
    _put(tmp_path/sub, files)
    assert _same(read_folder(tmp_path)) and _same(get_digits(str(tmp_path)))

@each('dirs', [('training','testing'), ('train','valid'), ('train','test')])
def test_png_tree(tmp_path, dirs, big):
    _tree(tmp_path, *dirs)
    (tmp_path/dirs[0]/'.ipynb_checkpoints').mkdir()
    assert _same(read_folder(tmp_path))

def test_sets_do_not_mix(tmp_path):
    "A file that is missing is not taken from another set below"
    _put(tmp_path/'fashion', {k: v[:16]+bytes(len(v)-16) for k,v in good.items()})
    _bad(tmp_path, 'train images', read_folder, _put(tmp_path/'a', {k: good[k] for k in names[1:]}).parent)

def test_reads_only(tmp_path):
    _put(tmp_path, good)
    was = {o: o.stat().st_mtime_ns for o in [tmp_path, *tmp_path.iterdir()]}
    read_folder(tmp_path)
    assert was == {o: o.stat().st_mtime_ns for o in [tmp_path, *tmp_path.iterdir()]} and not _kept()

## Download

class Web(http.server.BaseHTTPRequestHandler):
    "Each folder of this mirror has its own manners"
    def log_message(self, *args): pass
    def do_HEAD(self): self.reply(b'')
    def do_GET(self):
        _,how,name = self.path.split('/')
        self.server.gets.append(self.path)
        with suppress(OSError): getattr(self, how)(self.server.files[name], name)

    def reply(self, b, size=None, code=200):
        self.send_response(code)
        if size is not None: self.send_header('Content-Length', size)
        self.end_headers()
        self.wfile.write(b)

    def good(self, b, name): self.reply(b, len(b))
    def plain(self, b, name): self.reply(gzip.decompress(b))
    def slow(self, b, name): self.server.stop.wait(.2) or self.reply(b)
    def e503(self, b, name): self.reply(b'Try later', 9, 503)
    def e404(self, b, name): self.reply(b'<html>\n\n</html>', 15, 404)
    def e500(self, b, name): self.endless(b, name, 500)
    def stall(self, b, name): self.reply(b[:20], len(b)) or self.server.stop.wait(30)
    def mute(self, b, name): self.server.stop.wait(30)
    def cut(self, b, name): self.reply(b[:-20], len(b))
    def end(self, b, name): self.reply(b[:-20])
    def html(self, b, name): self.reply(b'<!DOCTYPE html><html>Sign in to this network</html>')
    def empty(self, b, name): self.reply(b'', 0)
    def size(self, b, name): self.reply(b, 'many')
    def other(self, b, name): self.reply(self.server.files[names[3]+'.gz' if name!=names[3]+'.gz' else names[0]+'.gz'])
    def lies(self, b, name): self.reply(gzip.compress(gzip.decompress(b)[:-1]+b'!'))
    def bomb(self, b, name): self.reply(gzip.compress(bytes(2**24)))
    def drip(self, b, name): self.reply(b'') or self.drops(b)
    def crawl(self, b, name): self.drops(b'HTTP/1.0 200 '+b'O'*999)
    def drops(self, b):
        for o in b:
            if self.server.stop.wait(.05): break
            self.wfile.write(bytes([o]))
    def endless(self, b, name, code=200):
        self.reply(b'\x1f\x8b', None, code)
        for _ in range(2**12): self.wfile.write(bytes(2**16))

@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(data, '_files', sums)
    s = http.server.ThreadingHTTPServer(('127.0.0.1',0), Web)
    s.files,s.gets,s.stop,s.url = packed,[],threading.Event(),lambda *how: [f'http://127.0.0.1:{s.server_port}/{o}' for o in how]
    threading.Thread(target=s.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()

def _kept(path=None):
    "What lies in the cache folder, but the lock"
    d = (path or cache_file()).parent
    return sorted(o.name for o in d.iterdir() if o.suffix!='.lock') if d.exists() else []

@each('how', ['good','good/','plain'])
def test_download(web, how):
    d = download_mnist(web.url(how))
    assert _same(d) and len(web.gets)==4 and _kept()==[cache_file().name] and str(cache_file()) in d.source
    assert _same(read_cache()) and _same(download_mnist(web.url('e503'))) and len(web.gets)==4

@needs_mnist
def test_download_real(web, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv('no_proxy', '*')
    web.files = {o.name: o.read_bytes() for o in Path(real).iterdir()}
    d = download_mnist(web.url('html','good'), tmp_path/'mnist.safetensors')
    assert _same(d, read_folder(real)) and d.x.shape==(60000,28,28) and d.y_test.bincount().tolist()[:2]==[980,1135]

@each('how', 'e503 e404 e500 stall mute cut end html empty size other lies bomb drip crawl endless'.split())
def test_second_mirror(web, how):
    assert _same(download_mnist(web.url(how,'good'), timeout=4))
    assert _kept()==[cache_file().name] and any(f'/{how}/' in o for o in web.gets)

faults = dict(e503='503', e500='500', cut='broke off', html='official', other='official', lies='official', endless='too long')

@each('how,why', faults.items())
def test_all_bad(web, how, why):
    _bad(f'{web.url(how)[0]}/{names[0]}', f'{why}.*404', download_mnist, web.url(how,'e404'))
    assert not _kept()

def test_half_bad(web):
    "Nothing is kept of a download that fails at its last file"
    web.files = packed|{names[3]+'.gz': b'broken'}
    _bad(names[3], 'download', download_mnist, web.url('good','good'))
    assert not _kept() and len(web.gets)>=4

@each('how', ['stall','mute','drip','crawl','e500'])
def test_time_in_all(web, how):
    start = time.monotonic()
    _bad(web.url(how)[0], '.', download_mnist, web.url(how,how), timeout=1)
    assert time.monotonic()-start < 3

def test_unreachable():
    "A closed port, a socket nobody answers at and one with a full queue"
    with socket.create_server(('127.0.0.1',0)) as mute, socket.create_server(('127.0.0.1',0), backlog=1) as full:
        ports = [o.getsockname()[1] for o in (mute,full)]
        callers = [socket.socket() for _ in range(4)]
        for o in callers:
            o.setblocking(False)
            o.connect_ex(('127.0.0.1',ports[1]))
        urls,start = [closed, *(f'http://127.0.0.1:{o}' for o in ports)],time.monotonic()
        _bad(urls[1], 'network', download_mnist, urls)
        for o in callers: o.close()
    assert time.monotonic()-start < 5 and not _kept()

def test_good_cache_stays(web):
    "Neither a bad mirror nor a change of the tensors in place reaches it"
    download_mnist(web.url('good')).x.zero_()
    was,web.gets[:] = (cache_file().read_bytes(), cache_file().stat().st_mtime_ns),[]
    assert _same(download_mnist(web.url('html'))) and not web.gets
    assert was == (cache_file().read_bytes(), cache_file().stat().st_mtime_ns)

def _tensors(**kw): return dict(zip(Digits._fields, made[:4]))|kw
def _raw(f): return lambda p: p.write_bytes(f(p.read_bytes()))
def _with(**kw): return lambda p: save_file(dict(zip(Digits._fields, made[:4]))|kw, p)
damage = {'truncated': _raw(lambda b: b[:-1]), 'header only': _raw(lambda b: b[:50]), 'empty': _raw(lambda b: b''),
    'html': _raw(lambda b: b'<html>'), 'garbage': _raw(lambda b: bytes(range(256))*99), 'zeros': _raw(lambda b: b[:-99]+bytes(99)),
    'wrong keys': lambda p: save_file(dict(a=made.x), p), 'floats': _with(x=made.x.float()), 'bfloats': _with(x=made.x.bfloat16()),
    'counts': _with(y=made.y[1:]), 'labels': _with(y_test=made.y_test+9), 'no items': _with(x=made.x[:0], y=made.y[:0]),
    'scalar': _with(y=tensor(1)), 'columns': _with(y=made.y[:,None]), 'small images': _with(x=_mk(40,20)[0])}

@each('f', [*damage.values()], ids=damage)
def test_damaged_cache(web, f, capfd, monkeypatch):
    p = cache_file()
    download_mnist(web.url('good'), p)
    f(p)
    was = p.read_bytes()
    _bad(p, '.', read_cache)
    _bad('127.0.0.1', 'network', get_digits, 'mnist')
    assert p.read_bytes()==was and _kept()==[p.name]
    monkeypatch.setattr(data, 'mirrors', web.url('good'))
    assert _same(get_digits('auto')) and len(web.gets)==8 and _same(read_cache()) and _kept()==[p.name] and not capfd.readouterr().err

@contextmanager
def _tiny(path):
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14,was[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, was)

@contextmanager
def _tmpfs(path):
    mount = 'mount','-t','tmpfs','-o','size=16k','tmpfs',path
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode: pytest.skip('cannot mount a small disk')
    try: yield
    finally: subprocess.run(['umount',path], check=True)

@each('full', [_tiny,_tmpfs])
@each('old', [False,True])
def test_full_disk(web, tmp_path, full, old):
    (p := tmp_path/'disk'/'mnist.safetensors').parent.mkdir()
    with full(p.parent):
        if old: p.write_bytes(b'damaged')
        _bad(p, 'large|space', download_mnist, web.url('good'), p)
        assert _kept(p)==[p.name]*old and (not old or p.read_bytes()==b'damaged')
    assert _same(download_mnist(web.url('good'), p)) and _kept(p)==[p.name]

def test_cache_in_the_way(web, tmp_path, monkeypatch, capfd):
    "A folder where the file should be, a file where the folder should be, a name too long"
    (p := tmp_path/'mnist.safetensors').mkdir()
    _bad(p, 'folder|directory', download_mnist, web.url('good'), p)
    assert sorted(o.name for o in tmp_path.iterdir() if o.suffix!='.lock')==[p.name]
    (tmp_path/'file').write_bytes(b'')
    monkeypatch.setattr(data, 'mirrors', web.url('good'))
    for o in tmp_path/'file', tmp_path/('a'*300):
        monkeypatch.setenv('XDG_CACHE_HOME', str(o))
        _bad(o, 'XDG_CACHE_HOME', get_digits, 'mnist')
        assert len(get_digits('auto').y)==1500 and len(capfd.readouterr().err.splitlines())==1

def test_closed_cache(shared, monkeypatch, capfd):
    monkeypatch.setenv('XDG_CACHE_HOME', str(shared))
    monkeypatch.setattr(data, 'embedded_digits', lambda: made)
    (d := cache_file().parent).mkdir(0)
    try:
        with _nobody():
            _bad(cache_file(), '[Pp]ermission', get_digits, 'mnist')
            assert get_digits('auto') is made and len(capfd.readouterr().err.splitlines())==1
    finally: d.chmod(0o755)

def test_locked(web):
    download_mnist(web.url('good'))
    cache_file().unlink()
    with open(next(cache_file().parent.glob('*.lock'))) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        _bad(cache_file(), 'another program', download_mnist, web.url('good'), timeout=.2)
    assert _same(download_mnist(web.url('good')))

@each('name', ['mnist.safetensors','mnist','mnist.tmp','mnist.lock'])
def test_str_path(web, tmp_path, name):
    p = str(tmp_path/'a'/name)
    assert read_cache(p) is None and _same(download_mnist(web.url('good'), p)) and _same(read_cache(p))

def _child(url, path, go=None, die=False):
    data._files = sums
    def stop(*args, **kw): os.kill(os.getpid(), 9)
    for o in (os,Path) if die else ():
        for f in 'rename','replace': setattr(o, f, stop)
    if go: go.wait(60)
    assert _same(download_mnist(url, path))

def test_two_processes(web):
    go = procs.Barrier(2)
    ps = [procs.Process(target=_child, args=(web.url('slow'), cache_file(), go)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0,0] and len(web.gets)==4 and _kept()==[cache_file().name]

@each('how', ['stall','good'])
def test_killed(web, how):
    "Killed while a file comes in, and just before the cache gets its name"
    (p := procs.Process(target=_child, args=(web.url(how), cache_file(), None, how=='good'))).start()
    end = time.monotonic()+60
    while not web.gets and time.monotonic()<end: time.sleep(.01)
    if how=='stall': p.kill()
    p.join(60)
    assert p.exitcode==-9 and read_cache() is None
    assert _same(download_mnist(web.url('good'), timeout=9)) and _kept()==[cache_file().name]

## Sources

def test_order(web, tmp_path, monkeypatch, capfd):
    "The environment, then the cache, then a download"
    monkeypatch.setattr(data, 'mirrors', web.url('good'))
    monkeypatch.setenv('MNIST_FAST_DATA', str(d := _put(tmp_path/'d', packed)))
    for o in 'auto','mnist': assert get_digits(o).source==str(d)
    assert not web.gets and not _kept()
    monkeypatch.delenv('MNIST_FAST_DATA')
    assert _same(get_digits()) and len(web.gets)==4
    monkeypatch.setattr(data, 'mirrors', [closed])
    for o in 'auto','mnist': assert str(cache_file()) in get_digits(o).source
    monkeypatch.setenv('MNIST_FAST_DATA', str(d))
    assert get_digits().source==str(d) and get_digits('digits').source!=str(d) and get_digits(made) is made
    assert not capfd.readouterr().err

@each('how,why', [(None,'network'), ('e404','404'), ('html','official')])
def test_embedded_last(web, how, why, monkeypatch, capfd):
    if how: monkeypatch.setattr(data, 'mirrors', web.url(how))
    d,err = get_digits('auto'),capfd.readouterr().err
    assert len(d.y)==1500 and err.endswith('\n') and len(err.splitlines())==1 and '1,797' in err and why in err

def test_mnist_never_falls_back(capfd):
    for f in get_digits, three_seven_dls, mnist_dls: _bad('127.0.0.1', 'network', f, 'mnist')
    assert not capfd.readouterr().err

@each('source', ['auto','mnist'])
@each('what', ['none','empty','broken'])
def test_broken_environment(web, tmp_path, monkeypatch, source, what):
    download_mnist(web.url('good'))
    (tmp_path/'empty').mkdir()
    _put(tmp_path/'broken', packed|{names[1]+'.gz': b'<html>'})
    monkeypatch.setenv('MNIST_FAST_DATA', str(tmp_path/what))
    _bad(tmp_path/what, 'MNIST_FAST_DATA', get_digits, source)

@needs_mnist
def test_real():
    d = get_digits(real)
    assert d.x.shape==(60000,28,28) and d.x_test.shape==(10000,28,28) and d.y[:5].tolist()==[5,0,4,1,9]
    assert (len(three_seven_dls(d).train_ds), len(three_seven_dls(d).test.dataset))==(12396,2038)

## Loader

def _items(n): return torch.stack([torch.arange(n)%256, torch.arange(n)//256, 255-torch.arange(n)%256], 1).byte()

@settings(deadline=None)
@given(n=st.integers(1,300), bs=st.integers(1,70), shuffle=st.booleans(), drop_last=st.booleans(), seed=st.none()|st.integers(0,2**40))
def test_pass(n, bs, shuffle, drop_last, seed):
    x,mk = _items(n),lambda s=seed: TensorDL(_items(n), torch.arange(n), bs, shuffle, drop_last, seed=s)
    dl,m = mk(),n//bs*bs if drop_last else n
    for _ in range(2):
        b = list(dl)
        assert len(b)==len(dl) and all(len(o[0])==bs for o in b[:-1])
        if not b: continue
        xb,yb = map(torch.cat, zip(*b))
        assert len(yb)==len(yb.unique())==m and np.array_equal(xb.numpy(), x[yb].numpy()/np.float32(255))
        if not shuffle: assert torch.equal(yb, torch.arange(m))
    if seed is not None:
        a,b = mk(),mk()
        for _ in range(2): assert all(torch.equal(p[1], q[1]) for p,q in zip(a,b, strict=True))

def test_shuffles():
    "Each pass and each seed has its own order; without a seed PyTorch's decides"
    order = lambda dl: torch.cat([b[1] for b in dl]).tolist()
    dl = TensorDL(_items(99), torch.arange(99), shuffle=True, seed=1)
    assert order(dl) != order(dl) != order(TensorDL(_items(99), torch.arange(99), shuffle=True, seed=2))
    a,b = [set_seed(3) or order(TensorDL(_items(99), torch.arange(99), shuffle=True)) for _ in range(2)]
    assert a==b!=order(dl)

def test_without_labels():
    b = list(TensorDL(_items(9), bs=4))
    assert [len(o) for o in b]==[1]*3 and [len(o[0]) for o in b]==[4,4,1]

@each('dtype', [torch.float32, torch.float64, torch.float16])
def test_floats(dtype):
    x = torch.linspace(0, 1, 12).to(dtype).view(4,3)
    assert torch.equal(TensorDL(x).one_batch()[0], x)

@each('x', [_items(9).float(), _items(9).int(), torch.linspace(-1, 1, 9), torch.full((2,2), float('nan')), _items(0), []])
def test_refused(x):
    with pytest.raises(ValueError, match='Give'): TensorDL(x)

@each('bs', [0, -1, 2.5, 2., '64', None, True])
@each('f', [partial(TensorDL, _items(9)), partial(mnist_dls, made), partial(three_seven_dls, made)])
def test_bs(f, bs):
    with pytest.raises(ValueError, match=f'batch size is {bs!r}.* Give'): f(bs=bs)

def test_np_bs(): assert len(TensorDL(_items(9), bs=np.int64(4)))==3

def test_labels_that_lack():
    with pytest.raises(ValueError, match='9 images.* 8 labels'): TensorDL(_items(9), torch.arange(8))

def test_new():
    twice = lambda b: (b[0]*2,*b[1:])
    dl = TensorDL(_items(9), torch.arange(9), 4, True, True, seed=3, vocab=list('abcdefghi'), after_batch=twice)
    a = dl.new()
    assert a is not dl and (a.bs,a.shuffle,a.drop_last,a.seed,a.vocab)==(4,True,True,3,dl.vocab)
    assert a.one_batch()[0].max()>1
    assert len(dl.new(bs=3, drop_last=False, shuffle=False))==3 and len(dl)==2
    b = dl.new(_items(5), torch.arange(5), shuffle=False)
    assert b.one_batch()[1].tolist()==[0,1,2,3] and len(dl.new(_items(5)).one_batch())==1

def test_to():
    dl = TensorDL(_items(9), torch.arange(9))
    dl.to('cpu')
    assert torch.device(dl.device).type=='cpu' and {o.device.type for o in dl.one_batch()}=={'cpu'}
    x = _items(9)
    TensorDL(x, device='meta')
    assert x.device.type=='cpu'

@each('seed', [None,1])
def test_look(seed):
    "Neither a batch that is looked at nor one that is drawn changes what comes, with chance in the loader or without"
    dl = TensorDL(made.x, made.y, 8, True, seed=seed, after_batch=lambda b: (b[0]+torch.rand(1),*b[1:]))
    def passes(look):
        set_seed(2)
        new = dl.new()
        for _ in range(3*look):
            new.one_batch()
            new.show_batch()
        return [torch.cat([o.flatten().double() for b in new for o in b]) for _ in range(2)]
    assert all(torch.equal(a, b) for a,b in zip(passes(False), passes(True)))
    new = dl.new()
    assert all(torch.equal(a, b) for a,b in zip(new.one_batch(), next(iter(new))))
    plt.close('all')

def test_empty_loader():
    dl = TensorDL(_items(3), torch.arange(3), bs=4, drop_last=True)
    assert len(dl)==0 and list(dl)==[]
    with pytest.raises(ValueError, match='batch of 4 in 3'): dl.one_batch()

@each('f,n,loss', [(three_seven_dls,1,BCEWithLogitsLossFlat()), (mnist_dls,10,CrossEntropyLossFlat())])
def test_learner(f, n, loss, big):
    dls = f('digits', bs=64, seed=1, device='cpu')
    model = nn.Sequential(nn.Flatten(), nn.Linear(784,n))
    learn = Learner(dls, model, loss, metrics=partial(accuracy_multi, thresh=.5) if n==1 else accuracy)
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(): learn.fit(5, .05)
    assert learn.validate()[1]>.9
    vocab = '73' if n==1 else '0123456789'
    for i,dl in enumerate(dls.loaders[:2]):
        x,y = dl.dataset.x,dl.dataset.y
        with torch.no_grad(): want = loss.activation(model(x.float()/255))
        preds,targs = learn.get_preds(i)
        assert torch.equal(targs, y) and torch.allclose(preds, want, atol=1e-6)
        assert torch.allclose(learn.get_preds(dl=dls.test_dl(list(x[:9].float()/255)))[0], want[:9], atol=1e-6)
        for j in range(3):
            name,_,p = learn.predict(x[j])
            assert name==vocab[int(loss.decodes(want)[j])] and torch.allclose(p, want[j], atol=1e-6)
    model[1].bias.data[0] += 999
    for max_n in 1, 4:
        learn.show_results(max_n=max_n, shuffle=False)
        assert [o.get_title() for o in plt.gcf().axes if o.images]==[f"{vocab[int(a)]} / {'3' if n==1 else '0'}" for a in y[:max_n]]
    dls.valid.show_batch(max_n=5)
    assert [o.get_title() for o in plt.gcf().axes if o.images]==[vocab[int(a)] for a in y[:5]]
    plt.close('all')

def test_show_digits():
    show_digits(made.x[:6].view(6,784), list('abcdef'), nrows=2)
    axs = plt.gcf().axes
    assert [o.get_title() for o in axs]==list('abcdef') and np.array_equal(axs[5].images[0].get_array(), made.x[5])
    plt.close('all')

## Embedded digits

@pytest.fixture(scope='module')
def emb(): return embedded_digits()

def test_embedded_frame(emb):
    x = torch.cat([emb.x, emb.x_test]).double()
    pos = torch.arange(28.).double()
    for o in x.sum(1), x.sum(2):
        assert ((o*pos).sum(1)/o.sum(1)-14).abs().max()<=.5
        ink = o>0
        assert (28-ink.flip(1).int().argmax(1)-ink.int().argmax(1)).max()<=20
    assert x.amax((1,2)).min()>150 and (x[:,0].sum(), x[:,27].sum())==(0,0)

def test_embedded_split(emb):
    assert [tuple(o.shape) for o in emb[:4]]==[(1500,28,28), (1500,), (297,28,28), (297,)] and {o.dtype for o in emb[:4]}=={torch.uint8}
    n,all_n = emb.y_test.bincount(minlength=10),tensor(load_digits().target).bincount()
    assert torch.equal(n+emb.y.bincount(), all_n) and (n-all_n*297/1797).abs().max()<1
    assert len({o.numpy().tobytes() for o in torch.cat([emb.x, emb.x_test])})==1797

def test_embedded_same(emb):
    set_seed(5)
    assert _same(embedded_digits(), emb)

## Validation sets

def _keys(dl): return {o.numpy().tobytes() for o in dl.dataset.x.cpu().reshape(-1,784)}

@each('f', [three_seven_dls,mnist_dls])
@each('valid', [.1,.2,.5])
def test_valid(emb, f, valid, big):
    dls,again,other,plain = f(emb, valid=valid, seed=1),f(emb, valid=valid, seed=1),f(emb, valid=valid, seed=2),f(emb)
    tr,va,te = map(_keys, (dls.train, dls.valid, dls.test))
    assert not tr&va and not (tr|va)&te and tr|va==_keys(plain.train) and te==_keys(plain.test)==_keys(plain.valid)
    assert torch.equal(dls.valid.dataset.x[:], again.valid.dataset.x[:]) and _keys(other.valid)!=va
    n,all_n = (o.dataset.y.flatten().bincount() for o in (dls.valid, plain.train))
    assert (n-all_n*valid).abs().max()<=1 and torch.equal(dls.test.dataset.y, plain.valid.dataset.y)

@each('valid', [0, 1, -1, 1.5, 0., 1., 'abc', True, None, float('nan'), 1e-9])
@each('f', [three_seven_dls,mnist_dls])
def test_bad_valid(f, valid):
    with pytest.raises(ValueError, match=re.escape(f'{valid!r}')) as e: f(made, valid=valid)
    assert 'fraction' in str(e.value)

def test_floats_refused():
    for f in three_seven_dls, mnist_dls:
        with pytest.raises(ValueError, match='255.* Give'): f(made._replace(x=made.x.float(), x_test=made.x_test.float()))

@each('f,shape,yshape', [(three_seven_dls,(8,784),(8,1)), (mnist_dls,(8,1,28,28),(8,))])
def test_batch(f, shape, yshape, big):
    dls = f(made, bs=8, shuffle=False)
    x,y = dls.train.one_batch()
    assert x.shape==shape and y.shape==yshape and (x.dtype,y.dtype)==(torch.float32,torch.int64) and dls.source=='made up'
    want = made.y.long() if f is mnist_dls else (made.y[(made.y==3)|(made.y==7)]==3).long()[:,None]
    assert torch.equal(torch.cat([b[1] for b in dls.train]).cpu(), want)
    for dl in f(made, bs=3).valid, dls.test: assert torch.equal(torch.cat([b[0] for b in dl]), dl.dataset[:][0])

## Larger than memory

kinds = dict(idx=lambda o: _put(o, good), packed=lambda o: _put(o, packed), png=_tree)

@pytest.fixture
def mapped(monkeypatch):
    "All that can be is mapped"
    monkeypatch.setattr(data, '_big', 0)

def _caches(): return [o for o in cache_file().parent.iterdir() if o.suffix!='.lock']

@each('kind', kinds)
@each('f', [three_seven_dls,mnist_dls])
@each('valid', ['test',.3])
def test_same_batches(tmp_path, monkeypatch, kind, f, valid):
    folder = kinds[kind](tmp_path/kind)
    def passes():
        dls = f(folder, 7, valid, seed=3, device='cpu')
        return dls.source,[o for dl in (dls.train,dls.valid,dls.test,dls.train) for b in dl for o in b]
    (source,want),_ = passes(),monkeypatch.setattr(data, '_big', 0)
    for _ in range(2):
        again,got = passes()
        assert again==source and all(a.dtype==b.dtype and torch.equal(a, b) for a,b in zip(want, got, strict=True))

@each('kind', kinds)
def test_nothing_copied(tmp_path, mapped, kind):
    d = get_digits(kinds[kind](tmp_path/kind))
    dls,part = mnist_dls(d, device='cpu'),three_seven_dls(d, valid=.2, device='cpu')
    assert [o.dataset.x.data_ptr() for o in dls]==[d.x.data_ptr(),d.x_test.data_ptr()]
    assert [o.dataset.x.x.data_ptr() for o in part]==[*[d.x.data_ptr()]*2,d.x_test.data_ptr()]

def test_rows(mapped):
    "A part that is not copied gives what the copy gives"
    x,y,i = _items(9),torch.arange(9),tensor([4,2,2,8,0])
    ds = TensorDS(x, y, i)
    for o in ds,TensorDS(ds.x, ds.y),TensorDL(ds.x, ds.y).dataset:
        assert len(o)==5 and isinstance(o.x, data._Rows) and torch.equal(o.y, i)
        for j in 3,-1,slice(1,4),slice(None),tensor([3,0]): assert torch.equal(o[j][0], x[i][j]/255) and torch.equal(o[j][1], y[i][j])
    assert torch.equal(ds.x[1:3], x[i][1:3]) and torch.equal(ds.x.float().mean(), x[i].float().mean()) and ds.x.shape==(5,3)
    part = TensorDS(ds.x, ds.y, tensor([3,1]))
    assert torch.equal(part[:][0]*255, x[[8,2]]) and part.y.tolist()==[8,2]
    meta = ds.to('meta').x
    assert (type(meta),meta.shape,meta.device.type,ds.to('cpu').x)==(torch.Tensor,(5,3),'meta',ds.x)
    assert torch.equal(pickle.loads(pickle.dumps(ds))[:][0], ds[:][0])
    with pytest.raises(AttributeError): ds.x.no_such_thing
    with pytest.raises(IndexError): ds[5]

@each('kind', kinds)
def test_files_stay(tmp_path, mapped, kind):
    "What is written into the tensors is not written into files, and is not there the next time"
    folder = kinds[kind](tmp_path/kind)
    was = {o: o.read_bytes() for o in folder.rglob('*') if o.is_file()}
    for _ in range(2):
        assert _same(d := read_folder(folder))
        for o in d[:4]: o.zero_()
    assert was=={o: o.read_bytes() for o in folder.rglob('*') if o.is_file()}

def test_unpacked_once(tmp_path, mapped, monkeypatch):
    folders = [kinds[o](tmp_path/o) for o in ('packed','png')]
    for o in folders: read_folder(o)
    n,was = len(_caches()),{o: o.stat() for o in _caches()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, '_write_idx', None)
    for o in folders: assert _same(read_folder(o)) and _same(read_folder(o.name))
    assert n==6 and was=={o: o.stat() for o in _caches()}

def _new_time(o): os.utime(o, ns=(1,o.stat().st_mtime_ns+1))
changes = {'time': _new_time, 'same time': lambda o: (st := o.stat()) and o.write_bytes(o.read_bytes()) and os.utime(o, ns=(st.st_atime_ns,st.st_mtime_ns))}

@each('kind,name', [('packed',names[0]+'.gz'), ('png','training/0/000.png')])
@each('change', [*changes.values()], ids=changes)
def test_changed_folder(tmp_path, mapped, kind, name, change):
    "A file that changes is unpacked again, though its size and even its time are the same, and the old one goes"
    folder = kinds[kind](tmp_path/kind)
    read_folder(folder)
    was = {*_caches()}
    change(folder/name)
    assert _same(read_folder(folder)) and len({*_caches()}-was)==len(was-{*_caches()})==1

@each('f,g', [(names[0]+'.gz',names[2]+'.gz'), (names[0],names[0])])
def test_changed_digits(tmp_path, mapped, f, g):
    folder,x = _put(tmp_path/'a', packed if f.endswith('gz') else good),_mk(41)[0][:40]
    read_folder(folder)
    (folder/f).write_bytes(gzip.compress(_idx(x)) if f.endswith('gz') else _idx(x))
    assert _same(read_folder(folder), made._replace(x=x))

def _flip(i): return _raw(lambda b: b[:i]+bytes([b[i]^1])+b[i+1:])
harm = {'truncated': _raw(lambda b: b[:-1]), 'longer': _raw(lambda b: b+b'1'), 'empty': _raw(lambda b: b''), 'header': _raw(lambda b: b[:9]),
    'first pixel': _flip(16), 'last pixel': _flip(-1), 'kind': _flip(2), 'axes': _raw(lambda b: b[:4]+b[8:12]+b[4:8]+b[12:]),
    'gone': lambda o: o.unlink(), 'name': lambda o: o.rename(f'{o}0')}

@each('f', [*harm.values()], ids=harm)
@each('kind', ['packed','png'])
def test_harmed_cache(tmp_path, mapped, kind, f):
    folder = kinds[kind](tmp_path/kind)
    read_folder(folder)
    was = {o: o.read_bytes() for o in _caches()}
    for o in was: f(o)
    assert _same(read_folder(folder)) and was=={o: o.read_bytes() for o in _caches()}

@each('kind', ['packed','png'])
@each('full', [_tiny,_tmpfs])
def test_full_disk_unpacking(tmp_path, mapped, monkeypatch, kind, full):
    folder = kinds[kind](tmp_path/kind)
    (disk := tmp_path/'disk').mkdir()
    monkeypatch.setenv('XDG_CACHE_HOME', str(disk))
    with full(disk):
        _bad(disk, 'large|space', read_folder, folder)
        assert not _caches()
    assert _same(read_folder(folder))

def test_no_cache_folder(shared, mapped, monkeypatch):
    "Where nothing can be kept, one line says so; what is kept already is read all the same"
    folder = _put(shared/'digits', packed)
    monkeypatch.setenv('XDG_CACHE_HOME', str(shared/'cache'))
    (d := cache_file().parent).mkdir(parents=True)
    for o in d.parent,d: o.chmod(0o755)
    with _nobody(): _bad(d, '[Pp]ermission', read_folder, folder)
    read_folder(folder)
    with _nobody(): assert _same(read_folder(folder))
    for o in folder/f'{names[0]}.gz',shared/('a'*300):
        monkeypatch.setenv('XDG_CACHE_HOME', str(o))
        _bad(o, 'XDG_CACHE_HOME', read_folder, folder)

def _unpack(cache, folder, go=None, die=False):
    os.environ['XDG_CACHE_HOME'] = str(cache)
    data._big = 0
    def stop(*args, **kw): os.kill(os.getpid(), 9)
    if die: data.Path.replace = stop
    if go: go.wait(60)
    assert _same(read_folder(folder))

def test_unpacked_by_two(tmp_path):
    folder,go = _tree(tmp_path/'png'),procs.Barrier(2)
    ps = [procs.Process(target=_unpack, args=(tmp_path/'cache', folder, go)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0,0] and len(_caches())==2

def test_killed_unpacking(tmp_path, mapped):
    folder = _put(tmp_path/'packed', packed)
    (p := procs.Process(target=_unpack, args=(tmp_path/'cache', folder, None, True))).start()
    p.join(60)
    assert p.exitcode==-9 and [o.suffix for o in _caches()]==['.tmp']
    assert _same(read_folder(folder)) and len(_caches())==4 and '.tmp' not in [o.suffix for o in _caches()]

def _vm(k): return next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith(k+':'))

def _limited(cache, folder, kind, f, valid, size, room):
    "A pass through `size` bytes of pixels with `room` for anything else, in a process that must not die of it"
    os.environ['XDG_CACHE_HOME'] = str(cache)
    torch.set_num_threads(1)
    anon = _vm('RssAnon')
    lim = _vm('VmSize')+size+room if kind=='addresses' else _vm('VmData')+room
    resource.setrlimit(resource.RLIMIT_AS if kind=='addresses' else resource.RLIMIT_DATA, (lim,lim))
    dls = f(folder, 1000, valid, seed=1, device='cpu')
    assert sum(len(b[0]) for dl in dls for b in dl)==sum(len(o.dataset) for o in dls)
    assert _vm('RssAnon')-anon<room

@pytest.fixture(scope='module')
def many(tmp_path_factory):
    "500,000 images, a file with a hole"
    folder,n = _put(tmp_path_factory.mktemp('many'), good),500_000
    with open(folder/names[0], 'wb') as f:
        f.write(huge(b'', n, 28, 28))
        f.truncate(16+784*n)
    (folder/names[1]).write_bytes(_idx(torch.arange(n).fmod(10).byte()))
    yield folder
    shutil.rmtree(folder)

@each('kind,f,valid,pack', [('addresses',mnist_dls,.2,False), ('data',mnist_dls,'test',False), ('data',three_seven_dls,'test',True)])
def test_more_than_memory(many, tmp_path, kind, f, valid, pack):
    "390 MB pass through a process that has 170 MB to spare"
    folder = many
    if pack:
        folder = _put(tmp_path/'packed', {o.name: o.read_bytes() for o in many.iterdir() if o.name!=names[0]})
        with open(many/names[0], 'rb') as i, gzip.open(folder/names[0], 'wb', 1) as o: shutil.copyfileobj(i, o, 2**20)
    (p := procs.Process(target=_limited, args=(tmp_path/'cache', folder, kind, f, valid, 392*10**6, 170*10**6))).start()
    p.join(300)
    assert p.exitcode==0

def test_too_few_addresses(many, tmp_path):
    "A limit below the file's size: one clear sentence"
    (p := procs.Process(target=_refused, args=(tmp_path/'cache', many))).start()
    p.join(60)
    assert p.exitcode==0

def _refused(cache, folder):
    lim = _vm('VmSize')+10**8
    resource.setrlimit(resource.RLIMIT_AS, (lim,lim))
    _bad(folder/names[0], 'addresses', read_folder, folder)

def test_crc():
    x = _items(200_000)
    for o in [x], [x[::3],x[:,1]], [x[:5],torch.arange(9)]: assert data._crc(o)==str(zlib.crc32(b''.join(t.numpy().tobytes() for t in o)))
