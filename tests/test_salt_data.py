"Folders in the layout of the salt competition: read, refused, made, served"
import csv, numpy as np, pytest, torch
from collections import Counter
from conftest import damaged, full_disk, names
from fastai.basics import F, Interpretation, Learner, nn
from PIL import Image
from scipy.ndimage import uniform_filter

from mnist_fast.salt.data import SaltDL, SaltTiles, coverage_class, read_salt, salt_dls
from mnist_fast.salt.make import make_salt, salt_tile

# A folder that another program has written

def slow_rle(mask):
    "Runs of ones, pixel by pixel, down the first column, then down the second"
    runs,last = [],0
    for i,o in enumerate((int(mask[r][c]) for c in range(101) for r in range(101)), 1):
        if o and not last: runs += [i,0]
        if o: runs[-1] += 1
        last = o
    return ' '.join(map(str, runs))

def table(path, rows):
    with path.open('w', newline='') as f: csv.writer(f).writerows(rows)

def some_masks():
    "None, all, one pixel, the last pixel, a bar, a checkerboard"
    res = np.zeros((6,101,101), np.uint8)
    res[1],res[2,3,7],res[3,100,100],res[4,20:60,:] = 1,1,1,1
    res[5,::2,::2] = 1
    return res

def write_folder(folder, rgb=False, deep=False):
    "Six training tiles and two test tiles; `rgb` images, `deep` masks of 16 bits"
    x,y = np.random.default_rng(0).integers(0, 256, (8,101,101), dtype=np.uint8),some_masks()
    ids = ['575d24d81d','a266a2a9df','75efad62c1','34e51dba6a','4875705fb0','782ae9b7e4','155410d6fa','78b32781d1']
    for o in ('train/images','train/masks','test/images'): (folder/o).mkdir(parents=True)
    for i,k in enumerate(ids):
        im = Image.fromarray(x[i])
        (im.convert('RGB') if rgb else im).save(folder/('train' if i<6 else 'test')/'images'/f'{k}.png')
        if i<6: Image.fromarray(y[i].astype(np.uint16)*65535 if deep else y[i]*255).save(folder/'train/masks'/f'{k}.png')
    table(folder/'train.csv', [('id','rle_mask'),*((k,slow_rle(m)) for k,m in zip(ids, y))])
    table(folder/'depths.csv', [('id','z'),*((k,100+i) for i,k in reversed([*enumerate(ids)]))])
    return folder,ids,x,y

@pytest.mark.parametrize('rgb,deep', [(False,False),(True,True)])
def test_reads_the_layout(tmp_path, rgb, deep):
    folder,ids,x,y = write_folder(tmp_path, rgb, deep)
    t = read_salt(str(folder))
    assert [Image.open(o).mode for o in sorted(folder.glob('train/masks/*'))]==6*['I;16' if deep else 'L']
    assert np.array_equal(t.x, x[:6]) and np.array_equal(t.y, y) and np.array_equal(t.x_test, x[6:])
    assert {t.x.dtype,t.y.dtype,t.x_test.dtype}=={torch.uint8}
    assert t.ids==ids[:6] and t.test_ids==ids[6:] and t.z.tolist()==[100,101,102,103,104,105] and t.source==str(folder)

def test_codes_are_enough(tmp_path):
    folder,_,_,y = write_folder(tmp_path)
    for o in folder.glob('train/masks/*'): o.unlink()
    (folder/'train/masks').rmdir()
    assert np.array_equal(read_salt(folder).y, y)

def test_other_systems(tmp_path):
    "Windows' line ends, a byte order mark, an empty last line, a file that a Mac leaves behind, masks of one bit"
    folder,ids,_,y = write_folder(tmp_path)
    for o in ('train.csv','depths.csv'): (folder/o).write_bytes(b'\xef\xbb\xbf'+(folder/o).read_bytes()+b'\r\n')
    (folder/'train/images/._575d24d81d.png').write_bytes(b'Mac')
    for k,m in zip(ids, y): Image.fromarray(m>0).save(folder/'train/masks'/f'{k}.png')
    assert np.array_equal(read_salt(folder).y, y)

# What is refused

def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

def as_image(folder, x, part='images'): Image.fromarray(x).save(folder/'train'/part/'575d24d81d.png')

colour = np.zeros((101,101,3), np.uint8)
colour[5,5,0] = 9
grey = np.full((101,101), 128, np.uint8)
three = np.zeros((101,101), np.uint8)
three[0,:2] = 128,255
png = 'train.images.575d24d81d.png'
mask = 'train.masks.575d24d81d.png'
wrong = dict(
    no_table=(lambda o: (o/'train.csv').unlink(), 'train.csv'),
    no_depths=(lambda o: (o/'depths.csv').unlink(), 'depths.csv'),
    columns=(lambda o: edit(o/'train.csv', 'id,rle_mask', 'image,code'), 'train.csv', 'image,code', 'id,rle_mask'),
    depth_columns=(lambda o: edit(o/'depths.csv', 'id,z', 'id,depth'), 'depths.csv', 'id,depth'),
    fields=(lambda o: edit(o/'train.csv', '34e51dba6a,', '34e51dba6a,7,'), 'train.csv', 'row 5', '3 fields'),
    no_bytes=(lambda o: (o/'train.csv').write_bytes(b''), 'train.csv', 'columns'),
    no_rows=(lambda o: (o/'train.csv').write_text('id,rle_mask\n'), 'train.csv', 'no rows'),
    binary=(lambda o: (o/'train.csv').write_bytes(b'id,rle_mask\n\xff\xfe'), 'train.csv', 'CSV'),
    table_is_folder=(lambda o: [(o/'train.csv').unlink(),(o/'train.csv').mkdir()], 'train.csv', 'CSV'),
    twice=(lambda o: edit(o/'train.csv', '34e51dba6a', '575d24d81d'), 'train.csv', '575d24d81d', 'twice'),
    path=(lambda o: edit(o/'train.csv', '34e51dba6a', '../x'), 'train.csv', r'\.\./x'),
    no_id=(lambda o: edit(o/'train.csv', '34e51dba6a', ''), 'train.csv', "''"),
    no_depth=(lambda o: edit(o/'depths.csv', '34e51dba6a', 'other'), 'depths.csv', '34e51dba6a'),
    no_test_depth=(lambda o: edit(o/'depths.csv', '155410d6fa', 'other'), 'depths.csv', '155410d6fa'),
    odd_depth=(lambda o: edit(o/'depths.csv', ',103', ',deep'), 'depths.csv', '34e51dba6a', 'deep'),
    no_image=(lambda o: (o/'train/images/34e51dba6a.png').unlink(), '34e51dba6a.png', 'missing'),
    no_mask=(lambda o: (o/'train/masks/34e51dba6a.png').unlink(), 'masks.34e51dba6a.png', 'missing'),
    more_images=(lambda o: (o/'train/images/0.png').write_bytes(b''), 'images.0.png', 'train.csv'),
    more_masks=(lambda o: (o/'train/masks/0.png').write_bytes(b''), 'masks.0.png', 'train.csv'),
    no_folder=(lambda o: [f.unlink() for f in (o/'test/images').iterdir()]+[(o/'test/images').rmdir()], 'test.images', 'no such folder'),
    no_test=(lambda o: [f.unlink() for f in (o/'test/images').iterdir()], 'test.images', 'no PNG'),
    size=(lambda o: as_image(o, grey[:100]), png, '101 by 100'),
    mask_size=(lambda o: as_image(o, grey[:,:7], 'masks'), mask, '7 by 101'),
    colour=(lambda o: as_image(o, colour), png, '3 channels'),
    alpha=(lambda o: Image.fromarray(grey).convert('RGBA').save(o/'train/images/575d24d81d.png'), png, 'RGBA'),
    bits=(lambda o: as_image(o, grey.astype(np.uint16)), png, 'I;16'),
    grey_mask=(lambda o: as_image(o, grey, 'masks'), mask, '128'),
    half_mask=(lambda o: as_image(o, three, 'masks'), mask, '0 to 255'),
    ones=(lambda o: as_image(o, grey//128, 'masks'), mask, 'to 1'),
    jpeg=(lambda o: Image.fromarray(grey).save(o/'train/images/575d24d81d.png', 'JPEG'), png, 'PNG'),
    differs=(lambda o: as_image(o, grey*0+255, 'masks'), mask, 'differs', 'train.csv'),
    odd_code=(lambda o: edit(o/'train.csv', '75efad62c1,711 1', '75efad62c1,711 1 9'), '75efad62c1'),
    text_code=(lambda o: edit(o/'train.csv', '75efad62c1,711 1', '75efad62c1,711 x'), '75efad62c1'),
    past_end=(lambda o: edit(o/'train.csv', '34e51dba6a,10201 1', '34e51dba6a,10201 2'), '34e51dba6a'))

@pytest.mark.parametrize('case', wrong)
def test_wrong_folder(tmp_path, case):
    folder = write_folder(tmp_path)[0]
    spoil,*words = wrong[case]
    spoil(folder)
    with pytest.raises(ValueError) as e: salt_dls(folder)
    names(e, *words)

@pytest.mark.parametrize('kind', sorted(damaged(b'0123456789').keys()-{'cut'}))
def test_damaged_png(tmp_path, kind):
    "Without its last byte a file still has all pixels and their checksum"
    folder = write_folder(tmp_path)[0]
    for o in ('train/images/575d24d81d.png','train/masks/a266a2a9df.png','test/images/155410d6fa.png'):
        data = (folder/o).read_bytes()
        (folder/o).write_bytes(damaged(data)[kind])
        with pytest.raises(ValueError) as e: read_salt(folder)
        names(e, o, 'PNG')
        (folder/o).write_bytes(data)

def test_no_folder(tmp_path):
    with pytest.raises(ValueError) as e: salt_dls(tmp_path/'none')
    names(e, 'none', 'no such folder')
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError) as e: read_salt(tmp_path/'file')
    names(e, 'file')
    with pytest.raises(ValueError) as e: read_salt(tmp_path)
    names(e, 'train.csv')

# Made tiles

@pytest.fixture(scope='module')
def made(tmp_path_factory): return make_salt(tmp_path_factory.mktemp('made')/'salt', n=120, n_test=10, seed=3)

@pytest.fixture(scope='module')
def tiles(made): return read_salt(made)

def contents(folder): return {str(o.relative_to(folder)): o.read_bytes() for o in folder.rglob('*') if o.is_file()}

def test_made_folder(made, tiles, tmp_path):
    "Read back it is what the generator gives; the same seed gives the same bytes; fewer tiles are the first ones"
    x,y = salt_tile((3,0,5))
    assert np.array_equal(tiles.x[5], x) and np.array_equal(tiles.y[5], y)
    assert contents(make_salt(tmp_path/'same', n=120, n_test=10, seed=3))==contents(made)
    few,other = (read_salt(make_salt(tmp_path/str(o), n=9, n_test=1, seed=o)) for o in (3,4))
    assert torch.equal(few.x, tiles.x[:9]) and few.ids==tiles.ids[:9] and not torch.equal(few.x, other.x)
    assert len({*tiles.ids,*tiles.test_ids})==130 and all(len(o)==10 and int(o, 16)>=0 for o in tiles.ids)
    with (made/'sample_submission.csv').open() as f: rows = [*csv.DictReader(f)]
    assert sorted(o['id'] for o in rows)==tiles.test_ids and rows[0].keys()=={'id','rle_mask'}
    with (made/'train.csv').open() as f: codes = {o['id']: o['rle_mask'] for o in csv.DictReader(f)}
    assert [codes[k] for k in tiles.ids[:20]]==[slow_rle(o) for o in tiles.y[:20]]

def test_not_made(made, tmp_path):
    "Nothing is left behind, and what is there stays"
    before = contents(made)
    with pytest.raises(ValueError) as e: make_salt(made)
    names(e, 'salt', 'empty')
    assert contents(made)==before
    for k,o in [('n',0),('n',2.5),('n',True),('n_test',0),('n_test','x'),('seed',-1),('seed',None)]:
        with pytest.raises(ValueError) as e: make_salt(tmp_path/'new', **{k: o})
        names(e, f'^{k} is')
    (tmp_path/'file').write_text('')
    for o in ('file','file/below'):
        with pytest.raises((ValueError,OSError)) as e: make_salt(tmp_path/o, n=2, n_test=1)
        names(e, 'file')
    with full_disk(3000), pytest.raises(OSError) as e: make_salt(tmp_path/'new', n=2, n_test=1)
    names(e, 'new', 'cannot be written')
    assert [o.name for o in tmp_path.iterdir()]==['file']

def test_stopped(tmp_path, monkeypatch):
    "A program that is stopped leaves no folder that looks complete; an empty folder is filled"
    from mnist_fast.salt import make
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(make, 'rle_encode', stop)
        with pytest.raises(KeyboardInterrupt): make_salt(tmp_path/'a', n=2, n_test=1)
    assert not [*tmp_path.iterdir()]
    (tmp_path/'a').mkdir()
    assert len(read_salt(make_salt(tmp_path/'a', n=2, n_test=1)).x)==2

def iou(p, y): return ((p&y).sum((1,2))/(p|y).sum((1,2))).mean()

def test_made_tiles_are_not_trivial():
    "Of 400 tiles 39% have no salt, give or take three standard errors; no threshold beats a mask of ones by more than 0.02"
    x,y = map(np.stack, zip(*(salt_tile((7,i)) for i in range(400))))
    share = y.mean((1,2))
    assert abs((share==0).mean()-.39)<3*(.39*.61/400)**.5
    assert {0,1,2,3,4,5,6}<={*coverage_class(torch.tensor(y)).tolist()} and 0.2<share[share>0].mean()<.33
    x,y = x[share>0],y[share>0]>0
    for im in (x,uniform_filter(x.astype(float), (0,9,9))):
        assert max(iou(p, y) for t in range(0, 256, 8) for p in (im>=t,im<t))<share[share>0].mean()+.02

# Loaders

def test_loaders(tiles, made):
    dls = salt_dls(made, bs=16, device='cpu')
    for dl,n in ((dls.train,96),(dls.valid,24)):
        assert len(dl.dataset)==len(dl.ids)==n
        for xb,yb in dl:
            assert xb.dtype==torch.float32 and yb.dtype==torch.uint8 and xb.shape==yb.shape and xb.shape[1:]==(1,101,101)
            assert 0<=xb.min() and .5<xb.max()<=1 and {*yb.unique().tolist()}<={0,1}
    (xb,), = dls.test
    assert torch.equal((xb[:,0]*255).round().byte(), tiles.x_test) and dls.test.ids==tiles.test_ids
    assert dls.source==str(made) and torch.equal(dls.tiles.x, tiles.x)
    i = tiles.ids.index(dls.valid.ids[3])
    assert torch.equal(dls.valid_ds[3][1][0], tiles.y[i]) and torch.equal((dls.valid_ds[3][0][0]*255).round().byte(), tiles.x[i])

def of_classes(*counts):
    "Tiles with so many of each coverage class, mixed"
    cls = np.random.default_rng(1).permutation(np.repeat(range(len(counts)), counts))
    y = torch.zeros(len(cls), 101, 101, dtype=torch.uint8)
    for m,c in zip(y, cls): m[:,:10*c] = 1
    return SaltTiles(y, y, [f'{i}_{c}' for i,c in enumerate(cls)], torch.zeros(len(cls)), y[:1], ['t'], 'made')

@pytest.mark.parametrize('valid', [.1,.2,.5])
def test_split(valid):
    "Each class is shared out within one item, one with a single member too; the same seed gives the same split"
    counts = [39,13,1,7,2,0,5,1,1,4,27]
    t = of_classes(*counts)
    dls = salt_dls(t, valid=valid, seed=5, device='cpu')
    found = Counter(int(o.split('_')[1]) for o in dls.valid.ids)
    assert all(abs(found[c]-valid*n)<=1 for c,n in enumerate(counts)) and sum(found.values())==round(valid*100)
    assert sorted([*dls.train.ids,*dls.valid.ids])==sorted(t.ids)
    again,other = (salt_dls(t, valid=valid, seed=o, device='cpu') for o in (5,6))
    assert again.valid.ids==dls.valid.ids!=other.valid.ids
    assert all(torch.equal(a, b) for (_,a),(_,b) in zip(again.train, dls.train))

def test_coverage_class():
    "Tenths are exact: 30 of 100 pixels are in class 3, 31 in class 4"
    y = torch.zeros(101, 100, dtype=torch.uint8)
    for i,m in enumerate(y): m[:i] = 1
    assert coverage_class(y.view(101,1,10,10)).tolist()==[-(-i//10) for i in range(101)]

def test_wrong_settings(tiles):
    for kw,word in ((dict(valid=0.), 'valid'),(dict(valid=1), 'valid'),(dict(valid='test'), 'valid'),(dict(valid=.001), 'valid'),(dict(bs=0), 'batch size')):
        with pytest.raises(ValueError) as e: salt_dls(tiles, **kw)
        names(e, word)

class PixelLoss:
    def __call__(self, pred, targ, reduction='mean'):
        res = F.binary_cross_entropy_with_logits(pred, targ.float(), reduction='none').mean((1,2,3))
        return res if reduction=='none' else res.mean()
    def activation(self, x): return x.sigmoid()
    def decodes(self, x): return x>.5

def test_learner(tiles):
    "fastai's `Learner` fits, predicts and draws"
    import matplotlib.pyplot as plt
    dls = salt_dls(tiles, bs=16, device='cpu')
    learn = Learner(dls, nn.Conv2d(1, 1, 3, padding=1), loss_func=PixelLoss(), lr=.1)
    with learn.no_logging(): learn.fit(1)
    preds,targs,masks = learn.get_preds(with_decoded=True)
    assert preds.shape==targs.shape==masks.shape==(24,1,101,101) and torch.equal(masks, preds>.5)
    for item in (tiles.x_test[2],tiles.x_test[2].numpy(),dls.test.dataset[2][0]):
        mask,dec,probs = learn.predict(item)
        assert torch.equal(mask, probs>.5) and torch.allclose(probs, learn.get_preds(dl=dls.test)[0][2])
    for draw in (lambda: dls.show_batch(max_n=4), lambda: dls.test.show_batch(max_n=3, ncols=2), learn.show_results,
        lambda: learn.show_results(dl=dls.test), lambda: Interpretation.from_learner(learn).plot_top_losses(3), lambda: dls.valid.show_batch(unique=True)):
        draw()
        assert plt.gcf().axes
        plt.close('all')
    b = dls.valid.one_batch()
    x,y,its,outs = dls.valid.show_results(b, b[1], show=False)
    assert len(its)==len(outs)==9 and torch.equal(its[0][1].byte(), b[1][0]) and torch.equal(outs[0][0].byte(), b[1][0])

def test_outlines(tiles):
    "The outline of a full mask is the border of the tile; an empty one has none; the title is the IoU"
    import matplotlib.pyplot as plt
    full,none = torch.ones(1,1,101,101, dtype=torch.uint8),torch.zeros(1,1,101,101, dtype=torch.uint8)
    half = full.clone()
    half[...,:51] = 0
    for targ,pred,title in ((full,half,f'IoU {50/101:.2f}'),(none,none,'no salt'),(none,half,'IoU 0.00')):
        fig,ax = plt.subplots()
        SaltDL(full, full).show_results((full.float(),targ), pred, ctxs=[ax])
        lines = [o for o in ax.collections if o.get_paths() and len(o.get_paths()[0])]
        assert ax.get_title()==title and len(lines)==int(targ.any())+int(pred.any())
        plt.close(fig)
