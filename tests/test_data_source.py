"What is read and what is refused: IDX files, PNG trees, broken ones, the embedded digits, the order of the sources"
import gzip, os, shutil
from contextlib import suppress

import matplotlib.pyplot as plt, numpy as np, pytest, torch
from conftest import names, needs_mnist
from data_files import *
from fastai.basics import set_seed, tensor
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from mnist_fast.data import download
from mnist_fast.data.cache import cache_file
from mnist_fast.data.download import download_mnist
from mnist_fast.data.loader import mnist_dls, three_seven_dls
from mnist_fast.data.forms import read_picture
from mnist_fast.data.source import embedded_digits, get_digits, read_folder, read_idx, show_digits

real = os.environ.get('MNIST_FAST_DATA')

## Broken files

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
def test_broken(tmp_path, why, f, read_or_mapped):
    put(tmp_path, packed|{idx_names[0]+'.gz': f(good[idx_names[0]])})
    refuses(tmp_path/f'{idx_names[0]}.gz', why, read_folder, tmp_path)
    assert not cache_names()

@each('b', [good[idx_names[1]], packed[idx_names[1]+'.gz']], ids=['plain','gz'])
def test_cut_anywhere(tmp_path, b, read_or_mapped):
    for i in range(len(b)):
        (o := tmp_path/'labels').write_bytes(b[:i])
        refuses(o, '.', read_idx, o, 1)

def test_flipped_bit(tmp_path, read_or_mapped):
    b,o = packed[idx_names[1]+'.gz'],tmp_path/'labels'
    for i in range(len(b)*8):
        o.write_bytes(b[:i//8]+bytes([b[i//8]^1<<i%8])+b[i//8+1:])
        with suppress(DataError): assert torch.equal(read_idx(o, 1), made.y)

@each('files,name,why', [({idx_names[1]: idx_bytes(made.y[1:])}, idx_names[0], '40 images.* 39 labels'),
    ({idx_names[1]: idx_bytes(made.y+1)}, idx_names[1], 'label is 10'), ({idx_names[2]: idx_bytes(noise_digits(20,32)[0])}, idx_names[2], r'32.*28'),
    ({idx_names[3]: idx_bytes(made.y_test*25)}, idx_names[3], 'label is 225')], ids=['counts','label 10','32x32','label 225'])
def test_unfit(tmp_path, files, name, why, read_or_mapped): refuses(tmp_path/name, why, read_folder, put(tmp_path, good|files))

@each('name,why', [*zip(idx_names, ['train images','train labels','test images','test labels'])])
def test_missing(tmp_path, name, why): refuses(tmp_path, why, read_folder, put(tmp_path, {k: v for k,v in good.items() if k!=name}))

def test_not_a_folder(tmp_path):
    (f := tmp_path/'file').write_bytes(b'1')
    (e := tmp_path/'empty').mkdir()
    refuses(e, 'no digits', read_folder, e)
    refuses(f, 'not a form', read_folder, f)
    for o in f/'below', tmp_path/'none', tmp_path/('a'*300), '~no_such_user/mnist', 'a\0b': refuses(o, '.', read_folder, o)
    for o in f/'below', tmp_path/'none', tmp_path: refuses(o, '.', read_idx, o, 1)

@each('o', [None, 3, 2.5, b'mnist', made.x])
def test_not_a_source(o):
    with pytest.raises(ValueError, match='folder'): get_digits(o)

def test_odd_pngs(tmp_path, read_or_mapped):
    p = png_tree(tmp_path)/'training'/'4'/'new.png'
    for im in Image.new('L', (30,30)), Image.new('L', (28,30)):
        im.save(p)
        refuses(p, '30', read_folder, tmp_path)
    b = (p.parent/'016.png').read_bytes()
    for o in b[:-40], b[:20], b'', b'<html>', b[:60]+bytes(20)+b[80:]:
        p.write_bytes(o)
        refuses(p, '.', read_folder, tmp_path)
    p.unlink()
    (d := p.parents[1]/'ten').mkdir()
    refuses(d, '0 to 9', read_folder, tmp_path)
    shutil.rmtree(p.parents[1])
    refuses(tmp_path, 'no digits', read_folder, tmp_path)
    p.parents[1].mkdir()
    refuses(p.parents[1], 'no PNG', read_folder, tmp_path)

@settings(deadline=None)
@given(st.data())
def test_png_fuzz(tmp_path_factory, o):
    Image.fromarray(made.x[0].numpy()).save(f := tmp_path_factory.getbasetemp()/'fuzz.png')
    b = bytearray(f.read_bytes())
    b[o.draw(st.integers(0, len(b)-1))] = o.draw(st.integers(0,255))
    f.write_bytes(b[:o.draw(st.integers(0, len(b)))])
    with suppress(DataError): assert read_picture(f, f).shape==(28,28)

def test_png_16bit(tmp_path):
    Image.fromarray((made.x[0].numpy().astype('uint16')*257)).save(f := tmp_path/'deep.png')
    with suppress(DataError): assert np.array_equal(read_picture(f, f), made.x[0])

def test_no_permission(shared):
    a,b = put(shared/'a', good),put(shared/'b', good)
    for o in a, b/idx_names[1]: o.chmod(0)
    try:
        with no_root():
            for o in a, a/'x': refuses(o, '[Pp]ermission', get_digits, o)
            refuses(b/idx_names[1], '[Pp]ermission', read_folder, b)
    finally: a.chmod(0o755)

def test_closed_neighbour(shared):
    put(shared, good)
    (o := shared/'lost+found').mkdir(0)
    try:
        with no_root(): assert same(read_folder(shared))
    finally: o.chmod(0o755)

## Spellings

spellings = {'plain': good, 'gz': packed, 'named gz': {k+'.gz': v for k,v in good.items()},
    'gz without name': {k.removesuffix('.gz'): v for k,v in packed.items()},
    'dot': {k.replace('-idx','.idx'): v for k,v in good.items()}, 'dot gz': {k.replace('-idx','.idx'): v for k,v in packed.items()},
    'mixed': {(k if i%2 else k+'.gz'): (v if i%2 else packed[k+'.gz']) for i,(k,v) in enumerate(good.items())},
    'with others': good|{'SHA256SUMS': b'x', 'notes.txt': b'', 'train-images-idx3-ubyte.bak': b'x', '._train-images-idx3-ubyte': b''}}

@each('files', [*spellings.values()], ids=spellings)
@each('sub', ['','MNIST/raw','raw'])
def test_spelling(tmp_path, files, sub, read_or_mapped):
    put(tmp_path/sub, files)
    assert same(read_folder(tmp_path)) and same(get_digits(str(tmp_path)))

@each('dirs', [('training','testing'), ('train','valid'), ('train','test')])
def test_png_tree(tmp_path, dirs, read_or_mapped):
    png_tree(tmp_path, *dirs)
    (tmp_path/dirs[0]/'.ipynb_checkpoints').mkdir()
    assert same(read_folder(tmp_path))

def test_sets_do_not_mix(tmp_path):
    "A file that is missing is not taken from another set below"
    put(tmp_path/'fashion', {k: v[:16]+bytes(len(v)-16) for k,v in good.items()})
    refuses(tmp_path, 'train images', read_folder, put(tmp_path/'a', {k: good[k] for k in idx_names[1:]}).parent)

def test_reads_only(tmp_path):
    put(tmp_path, good)
    was = {o: o.stat().st_mtime_ns for o in [tmp_path, *tmp_path.iterdir()]}
    read_folder(tmp_path)
    assert was == {o: o.stat().st_mtime_ns for o in [tmp_path, *tmp_path.iterdir()]} and not cache_names()

## Sources

def test_order(web, tmp_path, monkeypatch, capfd):
    "The environment, then the cache, then a download"
    monkeypatch.setattr(download, 'mirrors', web.url('good'))
    monkeypatch.setenv('MNIST_FAST_DATA', str(d := put(tmp_path/'d', packed)))
    for o in 'auto','mnist': assert get_digits(o).source==str(d)
    assert not web.gets and not cache_names()
    monkeypatch.delenv('MNIST_FAST_DATA')
    assert same(get_digits()) and len(web.gets)==4
    monkeypatch.setattr(download, 'mirrors', [closed])
    for o in 'auto','mnist': assert str(cache_file()) in get_digits(o).source
    monkeypatch.setenv('MNIST_FAST_DATA', str(d))
    assert get_digits().source==str(d) and get_digits('digits').source!=str(d) and get_digits(made) is made
    assert not capfd.readouterr().err

@each('how,why', [(None,'network'), ('e404','404'), ('html','official')])
def test_embedded_last(web, how, why, monkeypatch, capfd):
    if how: monkeypatch.setattr(download, 'mirrors', web.url(how))
    d,err = get_digits('auto'),capfd.readouterr().err
    assert len(d.y)==1500 and err.endswith('\n') and len(err.splitlines())==1 and '1,797' in err and why in err

def test_mnist_never_falls_back(capfd):
    for f in get_digits, three_seven_dls, mnist_dls: refuses('127.0.0.1', 'network', f, 'mnist')
    assert not capfd.readouterr().err

@each('source', ['auto','mnist'])
@each('what', ['none','empty','broken'])
def test_broken_environment(web, tmp_path, monkeypatch, source, what):
    download_mnist(web.url('good'))
    (tmp_path/'empty').mkdir()
    put(tmp_path/'broken', packed|{idx_names[1]+'.gz': b'<html>'})
    monkeypatch.setenv('MNIST_FAST_DATA', str(tmp_path/what))
    with pytest.raises(DataError) as e: get_digits(source)
    names(e, f'^{tmp_path/what}', 'Set MNIST_FAST_DATA.*unset it\\.$')
    assert all(str(e.value).count(o)==1 for o in (str(tmp_path/what),'MNIST_FAST_DATA'))

@needs_mnist
def test_real():
    d = get_digits(real)
    assert d.x.shape==(60000,28,28) and d.x_test.shape==(10000,28,28) and d.y[:5].tolist()==[5,0,4,1,9]
    assert (len(three_seven_dls(d).train_ds), len(three_seven_dls(d).test.dataset))==(12396,2038)

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
    assert same(embedded_digits(), emb)
