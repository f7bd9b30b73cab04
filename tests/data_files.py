"What the tests of data share: made-up digits in every form, a mirror with many faults, no network but 127.0.0.1"
import gzip, hashlib, http.server, multiprocessing, os, re, socket, struct, subprocess, tempfile, threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest, torch
from conftest import full_disk, names
from fastai.basics import tensor
from PIL import Image

from mnist_fast.data import download, idx
from mnist_fast.data.cache import cache_file
from mnist_fast.data.idx import DataError, Digits

each = pytest.mark.parametrize
idx_names = 'train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'.split()
todo = 'Allow Check Choose Fetch Free Give Make Move Name Put Remove Rename Scale Set Stop Try Use'.split()
procs = multiprocessing.get_context('forkserver')
procs.set_forkserver_preload(['mnist_fast.data.loader'])

## Digits in every form

def noise_digits(n, size=28):
    "`n` images of noise, labels in order"
    x = torch.randint(256, (n,size,size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return x,tensor([i*10//n for i in range(n)], dtype=torch.uint8)

def idx_bytes(t): return struct.pack(f'>4B{t.dim()}I', 0, 0, 8, t.dim(), *t.shape) + t.numpy().tobytes()
made = Digits(*noise_digits(40), *noise_digits(20), 'made up')
good = dict(zip(idx_names, map(idx_bytes, made[:4])))
packed = {k+'.gz': gzip.compress(v) for k,v in good.items()}
sums = {k: (hashlib.md5(v).hexdigest(), len(v), v[3]) for k,v in good.items()}

def huge(b, *axes): return struct.pack('>4B3I', 0, 0, 8, 3, *axes) + b[16:]
def same(a, b=made): return all(torch.equal(x,y) and x.dtype==y.dtype for x,y in zip(a[:4], b[:4]))

def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for k,v in files.items(): (folder/k).write_bytes(v)
    return folder

def _pngs(folder, x, y):
    for i,(o,c) in enumerate(zip(x,y)):
        (folder/str(int(c))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(o.numpy()).save(folder/str(int(c))/f'{i:03}.png')

def png_tree(folder, train='training', test='testing'):
    _pngs(folder/train, made.x, made.y)
    _pngs(folder/test, made.x_test, made.y_test)
    return folder

kinds = dict(idx=lambda o: put(o, good), packed=lambda o: put(o, packed), png=png_tree)

def refuses(name, why, f, *args, **kw):
    "`f` fails with one sentence that names `name`, gives the cause and ends in what to do"
    with pytest.raises(DataError) as e: f(*args, **kw)
    names(e, re.escape(str(name)), why, r'\.$')
    assert str(e.value).split('. ')[-1].split()[0] in todo, e.value

## Memory, permissions, disks

@pytest.fixture(params=[idx.mmap_bytes,0], ids=['read','mapped'])
def read_or_mapped(request, monkeypatch):
    "Both ways: few pixels are read, many are mapped"
    monkeypatch.setattr(idx, 'mmap_bytes', request.param)

@pytest.fixture
def mapped(monkeypatch):
    "All that can be is mapped"
    monkeypatch.setattr(idx, 'mmap_bytes', 0)

@pytest.fixture
def shared():
    "A folder that other users reach"
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        yield Path(d)

@contextmanager
def no_root():
    "Give up root's rights for a while"
    was = os.geteuid()
    if not was: os.seteuid(65534)
    try: yield
    finally: os.seteuid(was)

def tiny_files(path): return full_disk(2**14)

@contextmanager
def small_disk(path):
    mount = 'mount','-t','tmpfs','-o','size=16k','tmpfs',path
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode: pytest.skip('cannot mount a small disk')
    try: yield
    finally: subprocess.run(['umount',path], check=True)

## The cache and the network

def cache_names(path=None):
    "What lies in the cache folder, but the lock"
    d = (path or cache_file()).parent
    return sorted(o.name for o in d.iterdir() if o.suffix!='.lock') if d.exists() else []

taken = socket.socket()
taken.bind(('127.0.0.1',0))
closed = f'http://127.0.0.1:{taken.getsockname()[1]}'

@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    "No real data, no old cache, no network"
    asked,real_info = set(),socket.getaddrinfo
    for o in 'MNIST_FAST_DATA', 'FASTAI_HOME', 'KERAS_HOME', 'HF_HOME', 'HF_HUB_CACHE': monkeypatch.delenv(o, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(download, 'mirrors', [closed])
    monkeypatch.setattr(socket, 'getaddrinfo', lambda host, *a, **kw: asked.add(host) or real_info(host, *a, **kw))
    yield
    assert asked <= {'127.0.0.1'}

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
    def other(self, b, name): self.reply(self.server.files[idx_names[3]+'.gz' if name!=idx_names[3]+'.gz' else idx_names[0]+'.gz'])
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
    monkeypatch.setattr(download, '_mnist_files', sums)
    s = http.server.ThreadingHTTPServer(('127.0.0.1',0), Web)
    s.files,s.gets,s.stop,s.url = packed,[],threading.Event(),lambda *how: [f'http://127.0.0.1:{s.server_port}/{o}' for o in how]
    threading.Thread(target=s.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()
