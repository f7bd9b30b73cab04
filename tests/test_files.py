"The one writer, the one checksum, JSON and the machine: whole files or none, whatever interrupts"
import json, os, platform, signal, subprocess, sys, zlib
from pathlib import Path

import pytest, torch
from conftest import full_disk, names, sh
from hypothesis import given, settings, strategies as st

from mnist_fast import __version__, files
from mnist_fast.files import as_path, crc32, error_reason, read_json, system_info, temp_files, versions, write_files

each = pytest.mark.parametrize

def _contents(folder): return {o.name: o.read_bytes() for o in folder.iterdir() if o.is_file()}

def _fails(e):
    "Some bytes, then the exception `e`"
    yield b'half of it'
    raise e

def test_light():
    "Loading the module loads no big library"
    loaded = sh(sys.executable, '-c', 'import sys, mnist_fast.files; print(*sys.modules)').split()
    assert 'mnist_fast.files' in loaded and not {'torch','numpy','fastai','fastcore'}&{*loaded}

## Writing

def test_write(tmp_path):
    folder = tmp_path/'new'/'folder'
    for new in b'first', b'second, which is longer', b'3rd', b'':
        write_files(folder, {'a': new, 'b.txt': iter([new,b'-',new]), 'c': []})
        assert _contents(folder)=={'a': new, 'b.txt': new+b'-'+new, 'c': b''}
    write_files(str(folder), {'d': b'1'})
    assert (folder/'d').read_bytes()==b'1' and not temp_files(folder/'d')

@pytest.mark.parametrize('path,found', [('~','home'), ('~/a','home/a'), ('a/~','a/~'), ('~no such user/a','~no such user/a'), (Path('~/a'),'home/a')])
def test_home(path, found, monkeypatch):
    monkeypatch.setenv('HOME', 'home')
    assert as_path(path)==Path(found)

def test_home_everywhere(tmp_path, monkeypatch):
    "Files are written to and read from the home folder"
    monkeypatch.setenv('HOME', str(tmp_path))
    write_files('~/a', {'b': b'{"c": 1}'})
    assert read_json('~/a/b')==dict(c=1) and temp_files('~/a/b')==[] and (tmp_path/'a'/'b').exists()

def test_permissions(tmp_path):
    "All may read, whatever the umask: a temporary file is private at first"
    old = os.umask(0o077)
    try: write_files(tmp_path, {'a': b'1', 'b': [b'2']})
    finally: os.umask(old)
    assert [(tmp_path/o).stat().st_mode&0o777 for o in 'ab']==[0o644]*2

@each('e', [OSError(5,'Input/output error'), ValueError('not a digit'), KeyboardInterrupt(), MemoryError()], ids=lambda e: type(e).__name__)
@each('bad', range(3))
def test_one_fails(tmp_path, e, bad):
    "Each of three files may fail, by any exception: no file changes, and no temporary file is left"
    write_files(tmp_path, {'0': b'old', '2': b'older'})
    was = _contents(tmp_path)
    with pytest.raises(type(e)) as res: write_files(tmp_path, {str(i): _fails(e) if i==bad else b'new' for i in range(3)})
    if isinstance(e, OSError): names(res, f'{tmp_path/str(bad)}: ', 'Input/output error', 'another folder')
    else: assert res.value is e
    assert _contents(tmp_path)==was

def test_folder_in_its_place(tmp_path):
    (tmp_path/'b').mkdir()
    with pytest.raises(OSError) as e: write_files(tmp_path, dict(a=b'1', b=b'2', c=b'3'))
    names(e, f'{tmp_path/"b"}: ', 'folder is in its place')
    assert [*tmp_path.iterdir()]==[tmp_path/'b'] and not [*(tmp_path/'b').iterdir()]

def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path/'f').write_bytes(b'1')
    for o in tmp_path/'f', tmp_path/'f'/'below':
        with pytest.raises(OSError) as e: write_files(o, {'a': b'1'})
        names(e, f'{o}: cannot be written', 'another folder')
    assert _contents(tmp_path)=={'f': b'1'}

def test_full_disk(tmp_path):
    write_files(tmp_path, {'a': b'old', 'b': b'old'})
    with full_disk(2**14), pytest.raises(OSError) as e: write_files(tmp_path, {'a': b'new', 'b': (bytes(2**12) for _ in range(9))})
    names(e, f'{tmp_path/"b"}: ', 'large', 'space')
    assert _contents(tmp_path)=={'a': b'old', 'b': b'old'}

def test_rename_fails(tmp_path, monkeypatch):
    def fail(src, dst): raise PermissionError(1, 'Operation not permitted')
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError) as e: write_files(tmp_path, {'a': b'1', 'b': b'2'})
    names(e, f'{tmp_path/"a"}: ', 'not permitted')
    assert not [*tmp_path.iterdir()]

_stop = '''
import os, signal, sys
from mnist_fast.files import write_files
signal.signal(signal.SIGINT, signal.default_int_handler)
def parts():
    yield b'half of it'
    os.kill(os.getpid(), int(sys.argv[2]))
    yield b'the rest'
write_files(sys.argv[1], {'a': b'new', 'b': parts()})'''

@each('sig', [signal.SIGINT,signal.SIGKILL])
def test_stopped_process(tmp_path, sig):
    "Ctrl-C leaves nothing; a kill leaves hidden files, which `temp_files` finds"
    write_files(tmp_path, {'a': b'old', 'b': b'old', 'a.b': b'old'})
    assert subprocess.run([sys.executable, '-c', _stop, tmp_path, str(int(sig))], capture_output=True).returncode
    assert all((tmp_path/o).read_bytes()==b'old' for o in ('a','b','a.b'))
    left = [o for o in tmp_path.iterdir() if o.name not in ('a','b','a.b')]
    assert len(left)==(2 if sig==signal.SIGKILL else 0) and all(o.name[0]=='.' for o in left)
    assert {*temp_files(tmp_path/'a')}|{*temp_files(tmp_path/'b')}=={*left}

def test_temp_files(tmp_path):
    "Only those of the file itself, not those of a file whose name begins alike"
    for o in '.a.x1 .a.b.x2 .ab.x3 a.x4 .a x.a.x5'.split(): (tmp_path/o).touch()
    assert [o.name for o in temp_files(tmp_path/'a')]==['.a.x1'] and [o.name for o in temp_files(str(tmp_path/'a.b'))]==['.a.b.x2']
    assert temp_files(tmp_path/'none'/'a')==[]

@each('e,text', [(OSError(28,'No space left on device'),'No space left on device'), (ValueError('odd'),'odd'), (OSError('alone'),'alone')])
def test_error_reason(e, text):
    assert str(error_reason(e))==text
    try: raise ValueError('around it') from e
    except ValueError as outer: assert str(error_reason(outer))==text

## Checksums

@settings(deadline=None)
@given(st.lists(st.binary(max_size=99)|st.text(max_size=9), max_size=6), st.integers(0,6))
def test_crc_of_parts(parts, i):
    "One number for all bytes, wherever the parts are cut, and it goes on where another ended"
    want = str(zlib.crc32(b''.join(o.encode() if isinstance(o, str) else o for o in parts)))
    assert crc32(parts)==crc32(iter(parts))==crc32(parts[i:], crc32(parts[:i]))==crc32(parts[i:], int(crc32(parts[:i])))==want

def test_crc_of_tensors():
    x = torch.stack([torch.arange(200_000)%256, torch.arange(200_000)//256, 255-torch.arange(200_000)%256], 1).byte()
    scalar,floats = torch.tensor(3),torch.linspace(0, 1, 7, requires_grad=True).detach()
    for o in [x], [x[::3],x[:,1]], [x[:5],torch.arange(9)], [scalar,floats], [x[:0]], [x.numpy()]:
        assert crc32(o)==str(zlib.crc32(b''.join((t if hasattr(t, 'tobytes') else t.numpy()).tobytes() for t in o)))

def test_crc_notices(): assert len({crc32([bytes([1]*i+[2]+[1]*(20-i))]) for i in range(20)})==20

## JSON

@each('o', [{}, dict(a=[1,2.5,None,'ä'], b=dict(c=True))])
def test_json(tmp_path, o):
    write_files(tmp_path, {'o.json': json.dumps(o).encode()})
    assert read_json(tmp_path/'o.json')==read_json(str(tmp_path/'o.json'))==o

@each('data', [b'', b'{', b'{"a": 1} more', b'[1]', b'null', b'\xff\xfe', b'\x80\x04N.', b'['*10**5], ids=lambda o: o[:9])
def test_broken_json(tmp_path, data):
    (f := tmp_path/'o.json').write_bytes(data)
    with pytest.raises(ValueError) as e: read_json(f)
    names(e, f'{f}: ', 'JSON object|cannot be read', 'delete it')
    with pytest.raises(ValueError) as e: read_json(f, 'Train again.')
    names(e, f'{f}: ', r'\. Train again\.$|\) Train again\.$')

def test_no_json(tmp_path):
    with pytest.raises(FileNotFoundError): read_json(tmp_path/'o.json')
    (tmp_path/'file').write_text('{}')
    with pytest.raises(NotADirectoryError): read_json(tmp_path/'file'/'o.json')
    with pytest.raises(ValueError) as e: read_json(tmp_path)
    names(e, f'{tmp_path}: cannot be read', 'directory')

## The machine

def test_versions():
    v = versions()
    assert v['mnist_fast']==__version__ and v['python']==sys.version.split()[0] and {'fastai','torch','numpy','scikit-learn'}<={*v}
    assert all(v.values()) and torch.__version__.startswith(v['torch'].split('+')[0])

def test_system_info():
    info = system_info()
    assert [*info]=='processor cores threads gpu system versions'.split() and info['versions']==versions()
    assert info['processor'] and info['cores']==os.cpu_count() and info['threads']==torch.get_num_threads() and bool(info['gpu'])==torch.cuda.is_available()
    assert json.loads(json.dumps(info))==info

def test_another_system(monkeypatch):
    "Where there is no /proc/cpuinfo, Python's own name of the processor stands"
    def no_file(*args, **kwargs): raise FileNotFoundError(2, 'No such file or directory')
    monkeypatch.setattr(files.Path, 'read_text', no_file)
    assert system_info()['processor']==(platform.processor() or platform.machine())
