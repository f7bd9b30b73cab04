"The IDX format by itself: what is written is read, mapped or refused; digits and their labels"
import errno, io, math, zlib

import numpy as np, pytest, torch
from conftest import damaged, names
from data_files import each, good, idx_bytes, idx_names, made, noise_digits
from hypothesis import given, settings, strategies as st

from mnist_fast.data import idx
from mnist_fast.data.idx import DataError, Digits, check_digits, check_size, idx_blocks, idx_shape, idx_tensor, is_large, map_idx, read_errors
from mnist_fast.files import write_files

def _read(b, ndim):
    f = io.BytesIO(b)
    return idx_tensor(f, idx_shape(f, ndim))

def _map(path, ndim):
    with open(path, 'rb') as f: return map_idx(f, idx_shape(f, ndim))

@settings(deadline=None)
@given(st.lists(st.integers(1,5), min_size=1, max_size=4), st.integers(1,9), st.data())
def test_round_trip(tmp_path_factory, shape, n, data):
    "Written in blocks of any size, read and mapped: the same bytes"
    b = data.draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    blocks = idx_blocks(tuple(shape), (b[i:i+n] for i in range(0, len(b), n)))
    write_files(folder := tmp_path_factory.getbasetemp(), {'x': blocks})
    x = torch.tensor([*b], dtype=torch.uint8).view(shape)
    assert (file := (folder/'x').read_bytes())==idx_bytes(x)
    for got in _read(file, len(shape)), _map(folder/'x', len(shape)): assert torch.equal(got, x) and got.dtype==torch.uint8

@each('i', range(4))
def test_made(i): assert torch.equal(_read(good[idx_names[i]], made[i].dim()), made[i])

def test_arrays_are_blocks(): assert b''.join(idx_blocks(made.x.shape, made.x.numpy()))==good[idx_names[0]]

@each('b', damaged(good[idx_names[0]]).items(), ids=lambda o: o[0])
def test_damaged(b):
    "Every damage is found but that of a pixel, which no header can know"
    kind,b = b
    if kind=='flipped': assert (_read(b, 3)!=made.x).sum()==1
    else:
        with pytest.raises(DataError): _read(b, 3)

@each('ndim', [1,2,4])
def test_other_axes(ndim):
    with pytest.raises(DataError, match=f'an IDX file of {ndim} axes'): _read(good[idx_names[0]], ndim)

@each('n,got,why', [(5,4,'promises 5 bytes, it holds 4'), (5,6,'promises 5 bytes, it holds more'), (0,0,'0 bytes'), (2**40,9,str(2**40))])
def test_check_size(n, got, why):
    with pytest.raises(DataError, match=why): check_size(n, got)
    assert check_size(got or 1, got or 1) is None

## Mapping

def test_limit(monkeypatch):
    assert is_large(2**26) and not is_large(2**26-1)
    monkeypatch.setattr(idx, 'mmap_bytes', 10)
    assert is_large(10) and not is_large(9)

@each('b', [idx_bytes(made.y)[:-1], idx_bytes(made.y)+b'1', idx_bytes(made.y)[:8]], ids=['shorter','longer','nothing'])
def test_map_checks_size(tmp_path, b):
    write_files(tmp_path, {'x': b})
    with pytest.raises(DataError, match='promises'): _map(tmp_path/'x', 1)

@each('write', [True,False])
def test_map_changes_no_file(tmp_path, monkeypatch, write):
    "Changes stay in memory; where the system cannot promise memory for them, the file is mapped all the same"
    write_files(tmp_path, {'x': idx_bytes(made.x)})
    real = np.memmap
    def no_memory(*args, mode, **kw):
        if mode=='c': raise OSError(errno.ENOMEM, 'Cannot allocate memory')
        return real(*args, mode=mode, **kw)
    if not write: monkeypatch.setattr(np, 'memmap', no_memory)
    x = _map(tmp_path/'x', 3)
    assert torch.equal(x, made.x)
    if write: x.zero_()
    assert (tmp_path/'x').read_bytes()==idx_bytes(made.x)

## Messages

@each('e,words', [(OSError(errno.EIO,'Input/output error'),['Input/output error']), (EOFError('it stops'),['it stops']), (zlib.error('Error -3'),['Error -3']),
    (DataError('it is odd'),['it is odd']), (MemoryError(),['memory','ulimit']), (OSError(errno.ENOMEM,'x'),['memory','ulimit'])], ids='io end zlib data memory map'.split())
def test_read_errors(tmp_path, e, words):
    with pytest.raises(DataError) as res, read_errors(tmp_path/'x'): raise e
    names(res, f'^{tmp_path/"x"}: ', *words, r'\.$')

def test_other_errors():
    "What is no fault of the file is not blamed on it"
    for e in KeyError('x'), KeyboardInterrupt():
        with pytest.raises(type(e)), read_errors('x'): raise e

## Digits

x,y = noise_digits(20)
@each('x,y,words', [(x[0],y,['28, 28']), (x,y[:,None],['20, 1']), (x[:0],y[:0],['0, 28']), (x,y[1:],['20 images','19 labels']), (x[:,:20],y,['28 by 20']),
    (x,y+1,['label is 10','the labels']), (x,y.int()-1,['label is -1','the labels'])])
def test_check_digits(x, y, words):
    with pytest.raises(DataError) as e: check_digits(x, y, 'the images', 'the labels')
    names(e, 'the images|the labels', *words, r'\. (Give|Use|Scale) ')

def test_digits():
    assert check_digits(x, y, 'x')==(x,y) and issubclass(DataError, ValueError)
    assert repr(Digits(x, y, x[:5], y[:5], 'here'))=='Digits(20 train, 5 test, from here)'

@each('dtype', 'uint8 int8 uint16 int16 uint32 int32 uint64 int64 >i4'.split())
def test_any_integers(dtype, recwarn):
    "Arrays of any integer type, those that cannot be written too, lists and tensors become the same uint8 tensors"
    a = np.arange(100, dtype=dtype).reshape(2,5,10)
    a.flags.writeable = False
    want = torch.arange(100).view(2,5,10).byte()
    for o in a, a.tolist(), a.swapaxes(1,2).copy().swapaxes(1,2), *([torch.from_numpy(a.copy())] if dtype!='>i4' else []):
        d = Digits(o, [0,9], o, np.array([1,2], dtype), 'here')
        assert torch.equal(d.x, want) and {t.dtype for t in d[:4]}=={torch.uint8} and d.y.tolist()==[0,9]
    assert Digits(want, [0,9], o, [1,2], 'here').x is want and not recwarn.list

@each('o,words', [(np.zeros((2,2)),['float64','integers']), ([[0,256]],['256','0 to 255']), ([[-1,0]],['-1']), ([[1,2],[3]],['lengths']),
    ([True],['bool']), (['7'],['integers']), (None,['object'])])
def test_no_integers(o, words):
    for i,name in enumerate(Digits._fields[:4]):
        with pytest.raises(DataError) as e: Digits(*[x,y,x,y][:i], o, *[x,y,x,y][i+1:], 'here')
        names(e, f'^{name}: ', *words, r'\. Give ')

def test_pickle():
    import copy, pickle
    for d in pickle.loads(pickle.dumps(Digits(x, y, x, y, 'here'))), copy.deepcopy(Digits(x, y, x, y, 'here')): assert type(d) is Digits and torch.equal(d.x, x)
