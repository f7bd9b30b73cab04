"The forms that people have digits in: each gives the same digits, what is broken or hostile is refused, what is not MNIST is said"
import bz2, gzip, hashlib, io, os, shutil, struct, tarfile, zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from conftest import full_disk, names, needs_mnist
from data_files import *
from PIL import Image

from mnist_fast.data import forms, source
from mnist_fast.data.cache import cache_file, write_cache
from mnist_fast.data.forms import is_dropping, read_picture, unpacked_archive
from mnist_fast.data.idx import DataError, Digits
from mnist_fast.data.source import get_digits, mnist_name, read_folder, source_facts

real = os.environ.get('MNIST_FAST_DATA')
few = get_digits('digits')
few = Digits(few.x[:70], few.y[:70], few.x_test[:30], few.y_test[:30], 'few')
tree_few = Digits(*(o[few[i+1-i%2].argsort(stable=True)] for i,o in enumerate(few[:4])), 'few') # a tree is read class by class

def pictures(folder, ext='png', change=lambda o: o, sets=('training','testing')):
    for s,x,y in zip(sets, few[0:4:2], few[1:4:2]):
        for i,(o,c) in enumerate(zip(x,y)):
            (d := folder/s/str(int(c))).mkdir(parents=True, exist_ok=True)
            change(Image.fromarray(o.numpy())).save(d/f'{i:03}.{ext}')
    return folder

def png(o):
    Image.fromarray(o.numpy()).save(f := io.BytesIO(), 'png')
    return f.getvalue()

def npz(path, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(zip('x_train y_train x_test y_test'.split(), (o.numpy() for o in few[:4])))|kw)
    return path

def table(path, x, y=None, header=True, names=lambda i: f'pixel{i}'):
    df = pd.DataFrame(x.flatten(1).numpy(), columns=[*map(names, range(784))])
    if y is not None: df.insert(0, 'label', y.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    df.to_csv(path, index=False, header=header)
    return path.parent

def parquet(path, x, y, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(dict(image=[dict(bytes=png(o), path=None) for o in x], label=y.long())).to_parquet(path)
    return path.parent

def both(write, folder, train, test):
    write(folder/train, *few[:2])
    return write(folder/test, *few[2:4])

def idx_files(folder): return put(folder, dict(zip(idx_names, map(idx_bytes, few[:4]))))

def hugging(folder):
    d = folder/'mnist'
    parquet(d/'train-00000-of-00002.parquet', few.x[:40], few.y[:40])
    parquet(d/'train-00001-of-00002.parquet', few.x[40:], few.y[40:])
    parquet(d/'test-00000-of-00001.parquet', *few[2:4])
    return folder

def no_names(path, x, y): return table(path, x, y, header=False)
def other_names(path, x, y): return table(path, x, y, names=lambda i: f'{i//28+1}x{i%28+1}')
all_forms = dict(npz=lambda o: npz(o/'mnist.npz'), npz_folder=lambda o: npz(o/'any.npz').parent, csv=lambda o: both(table, o, 'mnist_train.csv', 'mnist_test.csv'),
    no_names=lambda o: both(no_names, o, 'mnist_train.csv', 'mnist_test.csv'), other_names=lambda o: both(other_names, o, 'train.csv', 'test.csv'),
    parquet=lambda o: both(parquet, o, 'train.parquet', 'test.parquet'), hugging=hugging, idx=idx_files, png=pictures,
    bmp=lambda o: pictures(o, 'bmp', sets=('train','valid')), torchvision=lambda o: idx_files(o/'MNIST'/'raw').parents[1])
trees = 'png','bmp'

@each('form', all_forms)
def test_form(tmp_path, form, recwarn):
    "The same digits from every form, and no warning"
    d = read_folder(p := all_forms[form](tmp_path))
    assert same(d, tree_few if form in trees else few) and d.source==str(p) and not [o for o in recwarn if o.category is UserWarning]
    assert same(get_digits(d.source), d)

@each('pack', ['zip','gztar','tar'])
@each('form', all_forms)
def test_archive(tmp_path, form, pack):
    all_forms[form](tmp_path/'a'/'digits')
    p = Path(shutil.make_archive(tmp_path/'digits', pack, tmp_path/'a'))
    p = p.rename(tmp_path/'no usual name')
    for _ in range(2): assert same(d := read_folder(p), tree_few if form in trees else few) and d.source==str(p)
    assert [o.name for o in tmp_path.iterdir()].sort()==['a','cache','no usual name'].sort()

def test_archive_changes(tmp_path):
    "Another archive of the same name is unpacked anew, and the old copy is deleted"
    (p := tmp_path/'a.zip').write_bytes(b'')
    for d in few, few._replace(y=few.y.flip(0)):
        with zipfile.ZipFile(p, 'w') as z:
            for k,o in zip(idx_names, d[:4]): z.writestr(k, idx_bytes(o))
        assert same(read_folder(p), d) and len(cache_names())==1

def test_jpeg(tmp_path):
    "JPEG loses a little of each pixel"
    d = read_folder(pictures(tmp_path, 'jpg', lambda o: o))
    assert torch.equal(d.y, tree_few.y) and (d.x.int()-tree_few.x.int()).abs().float().mean()<4

def inked(colour, paper=None):
    def change(im):
        res = Image.new('RGBA', (28,28), colour)
        res.putalpha(im)
        return res
    return change

@each('change', [inked('black'), inked('white'), inked('red'), lambda o: o.convert('RGB'), lambda o: o.convert('RGBA'), lambda o: o.convert('P'),
    lambda o: Image.merge('LA', (Image.new('L', (28,28), 0), o))], ids='black white red RGB RGBA P LA'.split())
def test_alpha(tmp_path, change): assert same(read_folder(pictures(tmp_path, change=change)), tree_few)

def test_other_transparency(tmp_path):
    "Ink of several colours on transparent paper, and a transparent colour of a palette"
    im = inked('white')(Image.fromarray(few.x[0].numpy()))
    im.putpixel((14,14), (10,10,10,255))
    im.save(tmp_path/'a.png')
    want = few.x[0].numpy().copy()
    want[14,14] = 10
    assert np.abs(read_picture(tmp_path/'a.png', 'a').astype(int)-want).max()<=1

def test_droppings(tmp_path):
    "What systems leave is passed over, in trees, in folders of files, in archives"
    pictures(tmp_path)
    for d in tmp_path, tmp_path/'training', tmp_path/'training'/'3': put(d, {o: b'x' for o in ('._1.png','Thumbs.db','.DS_Store','desktop.ini','._mnist.npz')})
    for o in '__MACOSX/training/3', '@eaDir/3', 'training/@eaDir/3.png', 'training/__MACOSX', 'training/3/@eaDir': put(tmp_path/o, {'2.png': b'x', '._3.png': b'x'})
    assert same(read_folder(tmp_path), tree_few)
    p = shutil.make_archive(tmp_path.parent/'dropped', 'zip', tmp_path)
    assert same(read_folder(p), tree_few) and not [o for o in unpacked_archive(p).rglob('*') if is_dropping(o.name)]

## One part

def test_kaggle(tmp_path):
    "train.csv is split, in the same way each time; test.csv has no labels"
    table(tmp_path/'train.csv', *few[:2])
    table(tmp_path/'test.csv', few.x_test)
    (tmp_path/'sample_submission.csv').write_text('ImageId,Label\n1,0\n')
    for p in tmp_path, tmp_path/'train.csv':
        with pytest.warns(UserWarning, match='no test set, so 10 of the 70'): a,b = read_folder(p),read_folder(p)
        assert same(a, b) and (len(a.y),len(a.y_test))==(60,10)
        assert sorted(o.numpy().tobytes() for o in torch.cat([a.x,a.x_test]))==sorted(o.numpy().tobytes() for o in few.x)
    refuses(tmp_path/'test.csv', 'no labels', read_folder, tmp_path/'test.csv')
    (tmp_path/'train.csv').unlink()
    refuses(tmp_path/'test.csv', 'no labels', read_folder, tmp_path)

def test_one_part(tmp_path):
    "One tree or one parquet file has no test set; a test set alone is no source; too few digits cannot be split"
    pictures(tmp_path/'a', sets=('all','testing'))
    shutil.rmtree(tmp_path/'a'/'testing')
    for p in tmp_path/'a', tmp_path/'a'/'all':
        with pytest.warns(UserWarning, match='no test set'): assert len(read_folder(p).y_test)==10
    parquet(tmp_path/'b'/'test.parquet', *few[2:4])
    refuses(tmp_path/'b', 'only a test set', read_folder, tmp_path/'b')
    table(tmp_path/'c'/'train.csv', few.x[:3], few.y[:3])
    refuses(tmp_path/'c', 'too few', read_folder, tmp_path/'c')
    refuses(tmp_path/'d', 'one IDX file', read_folder, idx_files(tmp_path/'d')/idx_names[0])

## Broken

@each('kw,why', [(dict(x_train=few.x.float().numpy()),'float32'), (dict(y_train=few.y.numpy()+7),'label is'), (dict(y_train=few.y[1:].numpy()),'70 images.* 69'),
    (dict(x_test=few.x_test[:,1:].numpy()),'28 by 27'), (dict(x_train=few.x.numpy().astype(object)),'.')], ids=['floats','labels','counts','shape','pickle'])
def test_broken_npz(tmp_path, kw, why): refuses('mnist.npz', why, read_folder, npz(tmp_path/'mnist.npz', **kw))

@each('file', ['mnist.npz','train.csv','train.parquet','digits.zip','digits.tar.gz'])
def test_cut(tmp_path, file):
    "A file that is cut off anywhere is refused, and nothing of it is kept"
    idx_files(tmp_path/'a')
    if file=='mnist.npz': npz(tmp_path/file)
    elif file=='train.csv': table(tmp_path/file, *few[:2])
    elif file=='train.parquet': parquet(tmp_path/file, *few[:2])
    else: shutil.make_archive(tmp_path/'digits', 'zip' if file=='digits.zip' else 'gztar', tmp_path/'a')
    b = (tmp_path/file).read_bytes()
    for i in 0,1,3,5,100,600,len(b)//2,len(b)*9//10,len(b)-30:
        (tmp_path/file).write_bytes(b[:i])
        if file=='train.csv' and i>8000 and b[i-1:i+1].count(b'\n'): continue
        refuses(tmp_path/file, '.', read_folder, tmp_path/file)
        assert not cache_names()

@each('n', range(3))
def test_flipped(tmp_path, n):
    "A changed byte in an archive is refused or harmless"
    idx_files(tmp_path/'a')
    p = Path(shutil.make_archive(tmp_path/'a', ('zip','gztar','tar')[n], tmp_path/'a'))
    b,rng = p.read_bytes(),np.random.RandomState(n)
    for i in rng.randint(len(b), size=60):
        p.write_bytes(b[:i]+bytes([b[i]^(1<<rng.randint(8))])+b[i+1:])
        with suppress(DataError): read_folder(p)

@each('text,why', [('label,a\n1,2\n','not a form'), ('','not a form'), (','.join(['7']*785)+'\n'+'1,2\n','.'), (','.join(['1']*785)+'\n'+','.join(['x']*785),'.'),
    (','.join(['1']*784+['1.5']),'.'), (','.join(['1']*784+['256']),'256'), (','.join(['12']*785),'label is 12'), ('label,'+','.join(['p']*784),'.')])
def test_broken_csv(tmp_path, text, why):
    (p := tmp_path/'train.csv').write_text(text)
    refuses(p, why, read_folder, p)

def test_broken_parquet(tmp_path):
    p = tmp_path/'train.parquet'
    for df,why in ((pd.DataFrame(dict(a=[1])),'.'), (pd.DataFrame(dict(image=['a.png'],label=[1])),'bytes'), (pd.DataFrame(dict(image=[dict(bytes=b'x')],label=[1])),'row 0'),
        (pd.DataFrame(dict(image=[dict(bytes=png(few.x[0,:20]))],label=[1])),'28 by 20'), (pd.DataFrame(dict(image=[dict(bytes=png(few.x[0]))],label=['a'])),'.')):
        df.to_parquet(p)
        refuses(p, why, read_folder, p)

def test_without_pyarrow(tmp_path, monkeypatch):
    parquet(tmp_path/'train.parquet', *few[:2])
    monkeypatch.setattr(pd, 'read_parquet', lambda *args, **kw: (_ for _ in ()).throw(ImportError('no engine')))
    with pytest.raises(ValueError) as e: read_folder(tmp_path/'train.parquet')
    names(e, 'train.parquet', r'pip install "mnist_fast\[parquet\]"')

def test_other_files(tmp_path):
    "Every file of another kind gets one sentence that names the forms"
    for b in b'', b'\0', b'\x80\x04N.', b'%PDF-1.4', b'\x89PNG\r\n\x1a\n', b'<html>', os.urandom(9999), gzip.compress(b'a'), bz2.compress(b'a'), b'PK\3\4', b'PAR1':
        (p := tmp_path/'digits').write_bytes(b)
        refuses(p, '.', read_folder, p)

## Hostile

evil = '../out.png', '/tmp/mnist_fast_out.png', 'a/../../out.png', '..\\out.png', 'C:\\out.png', '//x/out.png'

@each('name', evil)
def test_leaves_folder(tmp_path, name):
    "No path of an archive leaves the cache"
    b,was = b'x',{*tmp_path.rglob('*')}
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr(zipfile.ZipInfo(name), b)
    with tarfile.open(tmp_path/'a.tar.gz', 'w:gz') as t:
        (o := tarfile.TarInfo(name)).size = 1
        t.addfile(o, io.BytesIO(b))
    for o in 'a.zip','a.tar.gz': refuses(tmp_path/o, 'outside', read_folder, tmp_path/o)
    assert not Path('/tmp/mnist_fast_out.png').exists() and not cache_names() and not [*tmp_path.rglob('*out.png')]

@each('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links(tmp_path, kind):
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        o = tarfile.TarInfo('train-images-idx3-ubyte')
        o.type,o.linkname = kind,'/etc/passwd'
        t.addfile(o)
    o = zipfile.ZipInfo('train-images-idx3-ubyte')
    o.external_attr = 0o120777<<16
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr(o, '/etc/passwd')
    for o in 'a.zip','a.tar': refuses(tmp_path/o, 'link', read_folder, tmp_path/o)

def test_devices(tmp_path):
    "Pipes and devices are no files"
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        for name,kind in ('pipe',tarfile.FIFOTYPE),('train',tarfile.CHRTYPE):
            (o := tarfile.TarInfo(name)).type = kind
            t.addfile(o)
    refuses(tmp_path/'a.tar', 'no digits', read_folder, tmp_path/'a.tar')

def test_bombs(tmp_path):
    "Zeros that unpack to more than 64 MB and 100 times the archive stop at the header, as does a name of that length"
    n = 2**27
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('train-images-idx3-ubyte', bytes(n))
    with tarfile.open(tmp_path/'a.tar.gz', 'w:gz') as t:
        (o := tarfile.TarInfo('train-images-idx3-ubyte')).size = n
        t.addfile(o, io.BytesIO(bytes(n)))
    with gzip.open(tmp_path/'b.tar.gz', 'w') as f: # the name of the file is as long as that
        (o := tarfile.TarInfo('././@LongLink')).type,o.size = tarfile.GNUTYPE_LONGNAME,n
        f.write(o.tobuf(tarfile.GNU_FORMAT)+bytes(n))
    with zipfile.ZipFile(tmp_path/'mnist.npz', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('x_train.npy', bytes(n))
    for o in 'a.zip','a.tar.gz','b.tar.gz','mnist.npz': refuses(tmp_path/o, '100 times', read_folder, tmp_path/o)
    assert not cache_names()

def test_many_files(tmp_path, monkeypatch):
    "Empty files count by their headers"
    monkeypatch.setattr(forms, '_size_limit', lambda path: 2**17)
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z:
        for i in range(300): z.writestr(f'{i}', b'')
    with gzip.open(tmp_path/'a.tar.gz', 'w') as f: f.write(tarfile.TarInfo('a').tobuf(tarfile.GNU_FORMAT)*300)
    for o in 'a.zip','a.tar.gz': refuses(tmp_path/o, '100 times', read_folder, tmp_path/o)

def test_npz_header(tmp_path):
    "An array whose header promises more than there is"
    np.lib.format.write_array_header_1_0(f := io.BytesIO(), dict(descr='|u1', fortran_order=False, shape=(2**40,28,28)))
    with zipfile.ZipFile(tmp_path/'mnist.npz', 'w') as z:
        for o in 'x_train','y_train','x_test','y_test': z.writestr(f'{o}.npy', f.getvalue())
    refuses('mnist.npz', '.', read_folder, tmp_path/'mnist.npz')

def test_large_picture(tmp_path):
    "A picture of 2^30 pixels is refused by its header"
    pictures(tmp_path)
    b = bytearray(png(few.x[0]))
    b[16:24] = struct.pack('>2I', 2**15, 2**15)
    (p := tmp_path/'training'/'3'/'big.png').write_bytes(b)
    refuses(p, '.', read_folder, tmp_path)

def test_locked_zip(tmp_path):
    "A file that needs a password"
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('train-images-idx3-ubyte', b'x')
    b = bytearray((tmp_path/'a.zip').read_bytes())
    b[6] |= 1
    b[b.index(b'PK\1\2')+8] |= 1
    (tmp_path/'a.zip').write_bytes(b)
    refuses(tmp_path/'a.zip', 'password', read_folder, tmp_path/'a.zip')

def test_full_disk(tmp_path):
    shutil.make_archive(tmp_path/'a', 'zip', idx_files(tmp_path/'a'))
    with full_disk(2**14): refuses('a.zip', 'large|space', read_folder, tmp_path/'a.zip')
    assert not cache_names() and same(read_folder(tmp_path/'a.zip'), few)

def test_mapped_from_archive(tmp_path, mapped):
    "What is larger than memory is mapped, from an archive too, and found again"
    p = Path(shutil.make_archive(tmp_path/'a', 'gztar', pictures(tmp_path/'a')))
    assert same(read_folder(p), tree_few)
    was = cache_names()
    assert same(read_folder(p), tree_few) and cache_names()==was

## Where other libraries keep MNIST

places = dict(fastai=('FASTAI_HOME', lambda o: pictures(o/'data'/'mnist_png')), keras=('KERAS_HOME', lambda o: npz(o/'datasets'/'mnist.npz')),
    hugging=('HF_HOME', lambda o: hugging(o/'hub'/'datasets--ylecun--mnist'/'snapshots'/'77f3')), torchvision=('', lambda o: idx_files(o/'data'/'MNIST'/'raw')))

@pytest.fixture
def like_mnist(monkeypatch):
    "These few digits count as MNIST"
    monkeypatch.setattr(source, '_has_size', lambda d: (len(d.y),len(d.y_test))==(70,30))
    monkeypatch.setattr(source, '_mnist_sums', (source._sum(*few[:2]),source._sum(*few[2:4])))

@each('home', [True,False])
@each('lib', places)
def test_other_caches(tmp_path, monkeypatch, lib, home, like_mnist, capfd):
    "MNIST of another library is used before a download, and only if it is MNIST; ours goes first"
    var,make = places[lib]
    default = dict(fastai='home/.fastai', keras='home/.keras', hugging='cache/huggingface', torchvision='home')[lib]
    base = tmp_path/'elsewhere' if home and var else tmp_path/default
    if home and var: monkeypatch.setenv(var, str(base))
    p = make(base)
    for o in 'auto','mnist': assert same(d := get_digits(o), tree_few if lib=='fastai' else few) and str(p) in d.source
    assert same(get_digits(d.source), d) and str(p) in source.find_digits()['other_caches'] and not capfd.readouterr().err
    monkeypatch.setattr(source, '_mnist_sums', (1,2))
    refuses('127.0.0.1', 'network', get_digits, 'mnist')
    write_cache(made[:4], cache_file())
    assert same(get_digits('mnist'))

def test_broken_other_cache(tmp_path, capfd):
    put(tmp_path/'home/.keras/datasets', {'mnist.npz': b'PK\3\4broken'})
    put(tmp_path/'home/.fastai/data/mnist_png/training', {})
    assert len(get_digits().y)==1500 and len(capfd.readouterr().err.splitlines())==1

## What is not MNIST

def test_names(tmp_path, like_mnist, monkeypatch):
    "MNIST in any order is MNIST; as many digits of another kind are not, and a line says so; Fashion-MNIST is known by the sum of its packed labels"
    assert mnist_name(few)==mnist_name(tree_few)=='MNIST' and mnist_name(made) is None
    other = few._replace(x=few.x.flip(0))
    for k,o in zip(idx_names, other[:4]): put(tmp_path, {k+'.gz': gzip.compress(idx_bytes(o), mtime=0)})
    with pytest.warns(UserWarning, match='as many digits as in MNIST, but they are not MNIST'): read_folder(tmp_path)
    md5 = hashlib.md5((tmp_path/f'{idx_names[1]}.gz').read_bytes()).hexdigest()
    monkeypatch.setattr(source, '_label_files', {md5: 'Fashion-MNIST (clothes)'})
    with pytest.warns(UserWarning, match=r'these are Fashion-MNIST \(clothes\), not MNIST'): read_folder(tmp_path)
    assert source_facts(tmp_path)['name']=='Fashion-MNIST (clothes)'

def test_even_counts(monkeypatch):
    y = torch.arange(10).repeat(7000).byte()
    d = Digits(torch.zeros(60000,28,28).byte(), y[:60000], torch.zeros(10000,28,28).byte(), y[60000:], 'x')
    assert any('6,000 of each' in o for o in source._odd(d))

def test_letters(tmp_path):
    "Letters have labels from 1 to 26"
    refuses(idx_names[1], '26.*letters', read_folder, put(tmp_path, dict(zip(idx_names, map(idx_bytes, few._replace(y=few.y%10+17)[:4])))))

@each('x,why', [(255-few.x,'dark'), (few.x*0,'all pixels')])
def test_odd_pictures(tmp_path, x, why):
    put(tmp_path, dict(zip(idx_names, map(idx_bytes, few._replace(x=x)[:4]))))
    with pytest.warns(UserWarning, match=why): read_folder(tmp_path)

@needs_mnist
def test_mnist_in_every_form(tmp_path):
    d = get_digits(real)
    np.savez(tmp_path/'mnist.npz', **dict(zip('x_train y_train x_test y_test'.split(), (o.numpy() for o in d[:4]))))
    for o in real, tmp_path/'mnist.npz':
        facts = source_facts(o)
        assert facts['name']=='MNIST' and not facts['warnings'] and facts['crc32']=='423229081' and facts['train'][:2]==[5923,6742]

## Facts

def test_facts(tmp_path):
    facts = source_facts(npz(tmp_path/'mnist.npz'))
    assert facts['name']=='not known' and facts['train']==few.y.bincount().tolist() and sum(facts['test'])==30
    assert facts['source']==str(tmp_path/'mnist.npz') and len(facts['picture'])==14 and {*''.join(facts['picture'])}=={*' \u2580\u2584\u2588'}
    one = few._replace(x=torch.zeros(70,28,28).byte())
    one.x[:,:14] = 255
    assert source_facts(one)['picture'][:4]==['\u2588'*70]*3+['\u2580'*70]
