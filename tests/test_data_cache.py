"Copies in the cache folder: damaged, locked, unpacked, killed; a disk that is full and a folder that is closed"
import gzip, os, re
from pathlib import Path

import pytest, torch
from conftest import names
from data_files import *
from fastai.basics import tensor
from safetensors.torch import save_file

from mnist_fast.data import cache, download, idx
from mnist_fast.data.cache import cache_file, cache_lock, read_cache, unpacked, write_cache
from mnist_fast.data.download import download_mnist
from mnist_fast.data.source import embedded_digits, get_digits, read_folder

## MNIST in one file

def test_write_and_read(tmp_path):
    for path in cache_file(), tmp_path/'other'/'name':
        assert read_cache(path) is None
        write_cache(made[:4], path)
        assert same(d := read_cache(str(path))) and str(path) in d.source and cache_names(path)==[path.name]

def edit(f): return lambda p: p.write_bytes(f(p.read_bytes()))
def _with(**kw): return lambda p: save_file(dict(zip(Digits._fields, made[:4]))|kw, p)
damage = {'truncated': edit(lambda b: b[:-1]), 'header only': edit(lambda b: b[:50]), 'empty': edit(lambda b: b''),
    'html': edit(lambda b: b'<html>'), 'garbage': edit(lambda b: bytes(range(256))*99), 'zeros': edit(lambda b: b[:-99]+bytes(99)),
    'wrong keys': lambda p: save_file(dict(a=made.x), p), 'floats': _with(x=made.x.float()), 'bfloats': _with(x=made.x.bfloat16()),
    'counts': _with(y=made.y[1:]), 'labels': _with(y_test=made.y_test+9), 'no items': _with(x=made.x[:0], y=made.y[:0]),
    'scalar': _with(y=tensor(1)), 'columns': _with(y=made.y[:,None]), 'small images': _with(x=noise_digits(40,20)[0])}

@each('f', [*damage.values()], ids=damage)
def test_damaged_cache(web, f, capfd, monkeypatch):
    p = cache_file()
    download_mnist(web.url('good'), p)
    f(p)
    was = p.read_bytes()
    refuses(p, '.', read_cache)
    refuses('127.0.0.1', 'network', get_digits, 'mnist')
    assert p.read_bytes()==was and cache_names()==[p.name]
    monkeypatch.setattr(download, 'mirrors', web.url('good'))
    assert same(get_digits('auto')) and len(web.gets)==8 and same(read_cache()) and cache_names()==[p.name] and not capfd.readouterr().err

## The lock

def test_lock_removes_temps(tmp_path):
    "The temporary files of a killed program are removed, and no others"
    for o in '.a.x1 .a.x2 .a.b.x3 a.b b'.split(): (tmp_path/o).touch()
    with cache_lock(tmp_path/'a', 'MNIST', 1): assert {o.name for o in tmp_path.iterdir()}=={'a.lock','.a.b.x3','a.b','b'}

def test_lock_says_it_once(tmp_path):
    "The message of a failed write gives the file, the reason and what to do once each"
    (tmp_path/'a').mkdir()
    with pytest.raises(DataError) as e, cache_lock(tmp_path/'a', 'MNIST', 1): write_cache(made[:4], tmp_path/'a')
    names(e, f'^{tmp_path/"a"}: MNIST cannot be kept there: ', 'folder', 'XDG_CACHE_HOME')
    assert all(str(e.value).count(o)==1 for o in (str(tmp_path),'cannot','Free','space'))

def test_lock_lets_through(tmp_path):
    "Other errors stay what they are, and free the lock"
    for e in ValueError('odd'), KeyboardInterrupt(), DataError('bad digits'):
        with pytest.raises(type(e)) as res, cache_lock(tmp_path/'a', 'MNIST', 1): raise e
        assert res.value is e
    with cache_lock(tmp_path/'a', 'MNIST', 0): pass

## Unpacked copies

def copies(): return [o for o in cache_file().parent.iterdir() if o.suffix!='.lock']

@each('kind', kinds)
def test_files_stay(tmp_path, mapped, kind):
    "What is written into the tensors is not written into files, and is not there the next time"
    folder = kinds[kind](tmp_path/kind)
    was = {o: o.read_bytes() for o in folder.rglob('*') if o.is_file()}
    for _ in range(2):
        assert same(d := read_folder(folder))
        for o in d[:4]: o.zero_()
    assert was=={o: o.read_bytes() for o in folder.rglob('*') if o.is_file()}

def test_unpacked_once(tmp_path, mapped, monkeypatch):
    folders = [kinds[o](tmp_path/o) for o in ('packed','png')]
    for o in folders: read_folder(o)
    n,was = len(copies()),{o: o.stat() for o in copies()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, 'write_files', None)
    for o in folders: assert same(read_folder(o)) and same(read_folder(o.name))
    assert n==6 and was=={o: o.stat() for o in copies()}

def _new_time(o): os.utime(o, ns=(1,o.stat().st_mtime_ns+1))
changes = {'time': _new_time, 'same time': lambda o: (st := o.stat()) and o.write_bytes(o.read_bytes()) and os.utime(o, ns=(st.st_atime_ns,st.st_mtime_ns))}

@each('kind,name', [('packed',idx_names[0]+'.gz'), ('png','training/0/000.png')])
@each('change', [*changes.values()], ids=changes)
def test_changed_folder(tmp_path, mapped, kind, name, change):
    "A file that changes is unpacked again, though its size and even its time are the same, and the old one goes"
    folder = kinds[kind](tmp_path/kind)
    read_folder(folder)
    was = {*copies()}
    change(folder/name)
    assert same(read_folder(folder)) and len({*copies()}-was)==len(was-{*copies()})==1

@each('f,g', [(idx_names[0]+'.gz',idx_names[2]+'.gz'), (idx_names[0],idx_names[0])])
def test_changed_digits(tmp_path, mapped, f, g):
    folder,x = put(tmp_path/'a', packed if f.endswith('gz') else good),noise_digits(41)[0][:40]
    read_folder(folder)
    (folder/f).write_bytes(gzip.compress(idx_bytes(x)) if f.endswith('gz') else idx_bytes(x))
    assert same(read_folder(folder), made._replace(x=x))

def _flip(i): return edit(lambda b: b[:i]+bytes([b[i]^1])+b[i+1:])
harm = {'truncated': edit(lambda b: b[:-1]), 'longer': edit(lambda b: b+b'1'), 'empty': edit(lambda b: b''), 'header': edit(lambda b: b[:9]),
    'first pixel': _flip(16), 'last pixel': _flip(-1), 'kind': _flip(2), 'axes': edit(lambda b: b[:4]+b[8:12]+b[4:8]+b[12:]),
    'gone': lambda o: o.unlink(), 'name': lambda o: o.rename(f'{o}0')}

@each('f', [*harm.values()], ids=harm)
@each('kind', ['packed','png'])
def test_harmed_cache(tmp_path, mapped, kind, f):
    folder = kinds[kind](tmp_path/kind)
    read_folder(folder)
    was = {o: o.read_bytes() for o in copies()}
    for o in was: f(o)
    assert same(read_folder(folder)) and was=={o: o.read_bytes() for o in copies()}

@each('kind', ['packed','png'])
@each('full', [tiny_files,small_disk])
def test_full_disk_unpacking(tmp_path, mapped, monkeypatch, kind, full):
    folder = kinds[kind](tmp_path/kind)
    (disk := tmp_path/'disk').mkdir()
    monkeypatch.setenv('XDG_CACHE_HOME', str(disk))
    with full(disk):
        refuses(disk, 'large|space', read_folder, folder)
        assert not copies()
    assert same(read_folder(folder))

def test_no_cache_folder(shared, mapped, monkeypatch):
    "Where nothing can be kept, one line says so; what is kept already is read all the same"
    folder = put(shared/'digits', packed)
    monkeypatch.setenv('XDG_CACHE_HOME', str(shared/'cache'))
    (d := cache_file().parent).mkdir(parents=True)
    for o in d.parent,d: o.chmod(0o755)
    with no_root(): refuses(d, '[Pp]ermission', read_folder, folder)
    read_folder(folder)
    with no_root(): assert same(read_folder(folder))
    for o in folder/f'{idx_names[0]}.gz',shared/('a'*300):
        monkeypatch.setenv('XDG_CACHE_HOME', str(o))
        refuses(o, 'XDG_CACHE_HOME', read_folder, folder)

def _unpack(folder, home, go=None, die=None):
    os.environ['XDG_CACHE_HOME'] = str(home)
    idx.mmap_bytes = 0
    def stop(*args, **kw): os.kill(os.getpid(), 9)
    if die: setattr(dict(replace=os, rename=Path)[die], die, stop)
    if go: go.wait(60)
    assert same(read_folder(folder))

def test_unpacked_by_two(tmp_path):
    folder,go = png_tree(tmp_path/'png'),procs.Barrier(2)
    ps = [procs.Process(target=_unpack, args=(folder, tmp_path/'cache', go)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0,0] and len(copies())==2

@each('die,left', [('replace',r'\.\w{32}\.\w+'), ('rename',r'\w{32}')])
def test_killed_unpacking(tmp_path, mapped, die, left):
    "The next unpacking removes what a killed one left"
    folder = put(tmp_path/'packed', packed)
    (p := procs.Process(target=_unpack, args=(folder, tmp_path/'cache', None, die))).start()
    p.join(60)
    assert p.exitcode==-9 and [bool(re.fullmatch(left, o.name)) for o in copies()]==[True]
    assert same(read_folder(folder)) and len(copies())==4 and all(re.fullmatch(r'\w{32}-\w{32}-\d+', o.name) for o in copies())

@each('e', [DataError('a broken picture'), KeyboardInterrupt()])
def test_interrupted_unpacking(tmp_path, mapped, e):
    "An error among the blocks, or Ctrl-C, leaves nothing"
    def blocks():
        yield bytes(784)
        raise e
    (f := tmp_path/'packed').touch()
    with pytest.raises(type(e)): unpacked(f, [''], (2,28,28), blocks())
    assert not copies()
    assert torch.equal(unpacked(f, [''], (2,28,28), [bytes(784),b'1'*784])[:,0,0], tensor([0,49]).byte()) and len(copies())==1

def test_home(tmp_path, monkeypatch):
    "A path that begins with `~` is read where it was written"
    monkeypatch.setenv('HOME', str(tmp_path))
    write_cache([*embedded_digits()[:4]], Path('~/a/m.safetensors'))
    assert torch.equal(read_cache('~/a/m.safetensors').x, embedded_digits().x) and (tmp_path/'a'/'m.safetensors').exists()
