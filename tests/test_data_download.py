"Downloads: mirrors with every fault, time limits, two processes, killed ones; nothing but 127.0.0.1 is ever asked"
import fcntl, os, socket, time
from pathlib import Path

from conftest import needs_mnist
from data_files import *

from mnist_fast.data import download, source
from mnist_fast.data.cache import cache_file, read_cache
from mnist_fast.data.download import download_mnist
from mnist_fast.data.source import get_digits, read_folder

real = os.environ.get('MNIST_FAST_DATA')

@each('how', ['good','good/','plain'])
def test_download(web, how):
    d = download_mnist(web.url(how))
    assert same(d) and len(web.gets)==4 and cache_names()==[cache_file().name] and str(cache_file()) in d.source
    assert same(read_cache()) and same(download_mnist(web.url('e503'))) and len(web.gets)==4

@needs_mnist
def test_download_real(web, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv('no_proxy', '*')
    web.files = {o.name: o.read_bytes() for o in Path(real).iterdir()}
    d = download_mnist(web.url('html','good'), tmp_path/'mnist.safetensors')
    assert same(d, read_folder(real)) and d.x.shape==(60000,28,28) and d.y_test.bincount().tolist()[:2]==[980,1135]

@each('how', 'e503 e404 e500 stall mute cut end html empty size other lies bomb drip crawl endless'.split())
def test_second_mirror(web, how):
    assert same(download_mnist(web.url(how,'good'), timeout=4))
    assert cache_names()==[cache_file().name] and any(f'/{how}/' in o for o in web.gets)

faults = dict(e503='503', e500='500', cut='stopped after', html='official', other='official', lies='official', endless='too long')

@each('how,why', faults.items())
def test_all_bad(web, how, why):
    refuses(f'{web.url(how)[0]}/{idx_names[0]}', f'{why}.*404', download_mnist, web.url(how,'e404'))
    assert not cache_names()

def test_half_bad(web):
    "Nothing is kept of a download that fails at its last file"
    web.files = packed|{idx_names[3]+'.gz': b'broken'}
    refuses(idx_names[3], 'download', download_mnist, web.url('good','good'))
    assert not cache_names() and len(web.gets)>=4

@pytest.mark.alone
@each('how', ['stall','mute','drip','crawl','e500'])
def test_time_in_all(web, how):
    start = time.monotonic()
    refuses(web.url(how)[0], '.', download_mnist, web.url(how,how), timeout=1)
    assert time.monotonic()-start < 3

@pytest.mark.alone
def test_unreachable():
    "A closed port, a socket nobody answers at and one with a full queue"
    with socket.create_server(('127.0.0.1',0)) as mute, socket.create_server(('127.0.0.1',0), backlog=1) as full:
        ports = [o.getsockname()[1] for o in (mute,full)]
        callers = [socket.socket() for _ in range(4)]
        for o in callers:
            o.setblocking(False)
            o.connect_ex(('127.0.0.1',ports[1]))
        urls,start = [closed, *(f'http://127.0.0.1:{o}' for o in ports)],time.monotonic()
        refuses(urls[1], 'network', download_mnist, urls)
        for o in callers: o.close()
    assert time.monotonic()-start < 5 and not cache_names()

def test_good_cache_stays(web):
    "A bad mirror or a change of the returned tensors does not change the cache"
    download_mnist(web.url('good')).x.zero_()
    was,web.gets[:] = (cache_file().read_bytes(), cache_file().stat().st_mtime_ns),[]
    assert same(download_mnist(web.url('html'))) and not web.gets
    assert was==(cache_file().read_bytes(), cache_file().stat().st_mtime_ns)

@each('full', [tiny_files,small_disk])
@each('old', [False,True])
def test_full_disk(web, tmp_path, full, old):
    (p := tmp_path/'disk'/'mnist.safetensors').parent.mkdir()
    with full(p.parent):
        if old: p.write_bytes(b'damaged')
        refuses(p, 'large|space', download_mnist, web.url('good'), p)
        assert cache_names(p)==[p.name]*old and (not old or p.read_bytes()==b'damaged')
    assert same(download_mnist(web.url('good'), p)) and cache_names(p)==[p.name]

def test_cache_in_the_way(web, tmp_path, monkeypatch, capfd):
    "A folder where the file should be, a file where the folder should be, a name too long"
    (p := tmp_path/'mnist.safetensors').mkdir()
    refuses(p, 'folder|directory', download_mnist, web.url('good'), p)
    assert sorted(o.name for o in tmp_path.iterdir() if o.suffix!='.lock')==[p.name]
    (tmp_path/'file').write_bytes(b'')
    monkeypatch.setattr(download, 'mirrors', web.url('good'))
    for o in tmp_path/'file', tmp_path/('a'*300):
        monkeypatch.setenv('XDG_CACHE_HOME', str(o))
        refuses(o, 'XDG_CACHE_HOME', get_digits, 'mnist')
        assert len(get_digits('auto').y)==1500 and len(capfd.readouterr().err.splitlines())==1

def test_closed_cache(shared, monkeypatch, capfd):
    monkeypatch.setenv('XDG_CACHE_HOME', str(shared))
    monkeypatch.setattr(source, 'embedded_digits', lambda: made)
    (d := cache_file().parent).mkdir(0)
    try:
        with no_root():
            refuses(cache_file(), '[Pp]ermission', get_digits, 'mnist')
            assert get_digits('auto') is made and len(capfd.readouterr().err.splitlines())==1
    finally: d.chmod(0o755)

def test_locked(web):
    "A lock that another process holds: one sentence after the time that was allowed"
    download_mnist(web.url('good'))
    cache_file().unlink()
    with open(next(cache_file().parent.glob('*.lock'))) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        refuses(cache_file(), 'another program', download_mnist, web.url('good'), timeout=.2)
    assert same(download_mnist(web.url('good')))

@each('name', ['mnist.safetensors','mnist','mnist.tmp','mnist.lock'])
def test_str_path(web, tmp_path, name):
    p = str(tmp_path/'a'/name)
    assert read_cache(p) is None and same(download_mnist(web.url('good'), p)) and same(read_cache(p))

def _child(url, path, go=None, die=False):
    download._mnist_files = sums
    def stop(*args, **kw): os.kill(os.getpid(), 9)
    for o in (os,Path) if die else ():
        for f in 'rename','replace': setattr(o, f, stop)
    if go: go.wait(60)
    assert same(download_mnist(url, path))

def test_two_processes(web):
    go = procs.Barrier(2)
    ps = [procs.Process(target=_child, args=(web.url('slow'), cache_file(), go)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0,0] and len(web.gets)==4 and cache_names()==[cache_file().name]

@each('how', ['stall','good'])
def test_killed(web, how):
    "Killed while a file comes in, and just before the cache gets its name"
    (p := procs.Process(target=_child, args=(web.url(how), cache_file(), None, how=='good'))).start()
    end = time.monotonic()+60
    while not web.gets and time.monotonic()<end: time.sleep(.01)
    if how=='stall': p.kill()
    p.join(60)
    assert p.exitcode==-9 and read_cache() is None and len(cache_names())==(how=='good') and all(o[0]=='.' for o in cache_names())
    assert same(download_mnist(web.url('good'), timeout=9)) and cache_names()==[cache_file().name]
