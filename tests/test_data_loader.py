"Loaders: passes, seeds, looks, refusals; the two tasks; batches of sets larger than memory"
import gzip, itertools, os, pickle, random, re, resource, shutil

import matplotlib.pyplot as plt, numpy as np, pytest, torch
from data_files import *
from conftest import names, quiet
from fastai.basics import (accuracy, accuracy_multi, BCEWithLogitsLossFlat, Callback, chunked, CrossEntropyLossFlat, DataLoader, DataLoaders, L, Learner,
    load_learner, nn, noop, partial, set_seed, SkipItemException, stop, Tensor, tensor)
from fastai.callback.progress import ProgressCallback
from hypothesis import given, settings, strategies as st

from mnist_fast.data import dataset, idx
from mnist_fast.data.dataset import TensorDS
from mnist_fast.data.loader import TensorDL, _changed, mnist_dls, three_seven_dls
from mnist_fast.learner import tasks
from mnist_fast.recipe import recipes
from mnist_fast.data.source import embedded_digits, get_digits, read_folder

## Digits that do not fit

def _no_class(c, test=False):
    k,t = made.y!=c,made.y_test!=c
    return made._replace(x_test=made.x_test[t], y_test=made.y_test[t]) if test else made._replace(x=made.x[k], y=made.y[k])

@each('f,c', [(mnist_dls,4), (three_seven_dls,7), (three_seven_dls,3)])
@each('test', [False,True])
def test_empty_class(f, c, test):
    refuses('made up, test' if test else 'made up, training', f'no digit {c}', f, _no_class(c, test))
    if f is three_seven_dls: f(_no_class(4, test))

@each('kw', [dict(x=noise_digits(40,32)[0]), dict(y=made.y[1:]), dict(y_test=made.y_test+1), dict(x=made.x[0]), dict(x=made.x[:0], y=made.y[:0])])
@each('f', [mnist_dls,three_seven_dls])
def test_odd_digits(f, kw):
    with pytest.raises(DataError, match='made up'): f(made._replace(**kw))

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
    "Looking at a batch, or drawing it, does not change the next passes, with random numbers in the loader or without"
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
    with pytest.raises(ValueError, match='batch of 4 in 2'): dl.new(get_idxs=lambda: [1,2]).one_batch()

def _tolerance(lin, x):
    "How far two outputs of a linear layer may differ, the same terms being added in another order"
    return x.shape[1]*2**-23*(x@lin.weight.abs().T+lin.bias.abs()).max().item()

@each('f,n,loss', [(three_seven_dls,1,BCEWithLogitsLossFlat()), (mnist_dls,10,CrossEntropyLossFlat())])
def test_learner(f, n, loss, read_or_mapped):
    dls = f('digits', bs=64, seed=1, device='cpu')
    model = nn.Sequential(nn.Flatten(), nn.Linear(784,n))
    learn = Learner(dls, model, loss, metrics=partial(accuracy_multi, thresh=.5) if n==1 else accuracy)
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(): learn.fit(5, .05)
    assert learn.validate()[1]>.9
    vocab = '73' if n==1 else '0123456789'
    close = partial(torch.allclose, rtol=0, atol=max(_tolerance(model[1], o.dataset.x[:].float().flatten(1)/255) for o in dls.loaders[:2]))
    for i,dl in enumerate(dls.loaders[:2]):
        x,y = dl.dataset.x,dl.dataset.y
        with torch.no_grad(): want = loss.activation(model(x.float()/255))
        preds,targs = learn.get_preds(i)
        assert torch.equal(targs, y) and close(preds, want)
        assert close(learn.get_preds(dl=dls.test_dl(list(x[:9].float()/255)))[0], want[:9])
        for j in range(3):
            name,_,p = learn.predict(x[j])
            assert name==vocab[int(loss.decodes(want)[j])] and close(p, want[j])
    model[1].bias.data[0] += 999
    for max_n in 1, 4:
        learn.show_results(max_n=max_n, shuffle=False)
        assert [o.get_title() for o in plt.gcf().axes if o.images]==[f"{vocab[int(a)]} / {'3' if n==1 else '0'}" for a in y[:max_n]]
    dls.valid.show_batch(max_n=5)
    assert [o.get_title() for o in plt.gcf().axes if o.images]==[vocab[int(a)] for a in y[:5]]
    plt.close('all')

## As fastai's loader

items = list(zip(_items(11).float()/255, torch.arange(11)))
ones = []

def _odd_out(o):
    if o[1]%2: raise SkipItemException
    return o

def _first_six(s): return items[s] if s<6 else stop()

own = dict(after_item=lambda o: (o[0]*2,o[1]+1), skipped=('after_item',_odd_out), create_item=lambda s: items[10-s], stopped=('create_item',_first_six),
    before_batch=lambda b: b[::-1], create_batch=lambda b: (torch.stack([o[0] for o in b]).sum(0),len(b)), retain=lambda res,b: res[::-1],
    do_batch=lambda b: [len(b)], create_batches=lambda samps: (tensor(o) for o in chunked(samps, 3)), sample=lambda: iter([3,1,2,0,9]),
    after_batch=lambda b: (b[1],), long=('get_idxs',lambda: [*range(11)]*3), short=('get_idxs',lambda: [2,1]), none=('get_idxs',lambda: []),
    array=('get_idxs',lambda: np.arange(11)[::-1]), tensor=('get_idxs',lambda: torch.arange(11).repeat(2)), generator=('get_idxs',lambda: (i for i in range(7))),
    from_the_end=('get_idxs',lambda: [-1,0,-11]), same=('get_idxs',lambda: [4]*11), do_item=lambda s: items[s][1], chunkify=lambda b: chunked(b, 2))
settings_alike = [dict(), dict(drop_last=True), dict(batch_size=3), dict(n=6), dict(num_workers=2), dict(num_workers=3, drop_last=True), dict(pin_memory=True),
    dict(num_workers=1, timeout=60, persistent_workers=True)]

def _made(cls, way, k, f, **kw):
    "A loader whose method `k` is `f`, given as an argument, by a subclass or as an attribute"
    if way=='subclass': cls = type('Own', (cls,), {k: staticmethod(f)})
    dl = cls(items, **{'bs': 4, **kw, **({k: f} if way=='argument' else {})})
    if way=='attribute': setattr(dl, k, f)
    return dl

def _same(a, b):
    if isinstance(a, Tensor): return type(a) is type(b) and a.dtype==b.dtype and torch.equal(a, b)
    return type(a) is type(b) and len(a)==len(b) and all(map(_same, a, b)) if isinstance(a, (tuple,list,L)) else a==b

def _alike(ours, theirs):
    "Two passes, the first batch, and where fastai's `len` is that of its pass, that too"
    for _ in range(2): assert _same(a := list(ours), b := list(theirs)), (a,b)
    if b and not theirs.timeout: assert _same(ours.one_batch(), theirs.one_batch())
    assert len(a)==len(ours) or _changed(ours, 'sample', 'create_batches', 'create_item', 'after_item', 'chunkify')
    if len(theirs)==len(b): assert len(ours)==len(theirs)

@pytest.mark.filterwarnings('ignore:.*pin_memory')
@each('kw', settings_alike, ids=str)
def test_settings_alike(kw): _alike(TensorDL(items, **{'bs':4, **kw}), DataLoader(items, **{'bs':4, **kw}))

@each('way,kw', [('argument',{}), ('subclass',{}), ('attribute',{}), ('attribute',dict(drop_last=True, bs=3)), ('attribute',dict(num_workers=2))], ids=str)
@each('name', own)
def test_methods_alike(name, way, kw):
    k,f = own[name] if isinstance(own[name], tuple) else (name,own[name])
    if way=='argument' and k not in DataLoader._methods: return
    ours = _made(TensorDL, way, k, f, **kw)
    _alike(ours, _made(DataLoader, way, k, f, **kw))
    if way!='attribute' or k in DataLoader._methods: assert _same(list(ours.new()), list(ours))

@each('way', ['argument','subclass','attribute'])
def test_shuffle_fn(way):
    ours,theirs = (_made(cls, way, 'shuffle_fn', lambda idxs: idxs[::-2], shuffle=True) for cls in (TensorDL,DataLoader))
    _alike(ours, theirs)
    assert len(ours)==2 and ours.new(shuffle=False).one_batch()[1].tolist()==[0,1,2,3]

def test_events_alike():
    def calls(cls):
        seen = []
        dl = cls(items, bs=4, num_workers=1, wif=lambda: ones.append(1), after_item=lambda o: (o[0],o[1]+len(ones)),
            before_iter=lambda: seen.append('before'), after_iter=lambda: seen.append('after'))
        return [b[1].tolist() for b in dl],seen,ones
    assert calls(TensorDL)==calls(DataLoader)==([[1,2,3,4],[5,6,7,8],[9,10,11]],['before','after'],[])

@each('seed', [None,3])
@each('kw', [dict(after_item=noop), dict(num_workers=2)], ids=['items','workers'])
def test_items_as_slices(seed, kw):
    "The same order and the same bits, however a batch is made"
    def passes(**kw):
        set_seed(1)
        dl = TensorDL(made.x, made.y.long(), 7, True, seed=seed, **kw)
        return [list(dl) for _ in range(2 if seed else 1)]
    assert _same(passes(), passes(**kw))

def test_without_labels_by_item(): assert [len(o) for o in TensorDL(_items(9), bs=4, after_item=noop)]==[1]*3

def test_endless_order():
    dl = TensorDL(items, bs=4, get_idxs=lambda: itertools.cycle([1,2]))
    assert [b[1].tolist() for b in itertools.islice(dl, 3)]==[[1,2,1,2]]*3 and dl.one_batch()[1].tolist()==[1,2,1,2]

@each('idxs', [[[1,2]], [.5,1.], [True]*11, [11], [-12]], ids=str)
def test_bad_order(idxs):
    dl = TensorDL(items, get_idxs=lambda: idxs)
    for f in list,len:
        with pytest.raises(IndexError) as e: f(dl)
        names(e, 'order of a pass', 'Give whole numbers')

def test_order_is_drawn_once():
    "`len`, before a pass and within it, draws no other order; a new function does"
    n = []
    def order():
        n.append(1)
        return list(range(len(n)))
    dl = TensorDL(items, bs=1, get_idxs=order)
    for i in 1,2,3:
        assert len(dl)==len(dl)==i
        assert [len(dl) for _ in dl]==[i]*i and len(n)==i
    assert len(dl)==4
    dl.get_idxs = lambda: [5]*7
    assert len(dl)==7 and [b[1].item() for b in dl]==[5]*7

@each('kind', ['torch','numpy','python','own'])
def test_look_at_own_order(kind):
    "An own order is the same after a look at it, whose ever random numbers it draws"
    gen = np.random.default_rng(0)
    draw = dict(torch=lambda: torch.randperm(11), numpy=lambda: np.random.permutation(11), python=lambda: random.sample(range(11), 11),
        own=lambda: gen.permutation(11))
    def passes(look):
        nonlocal gen
        set_seed(1)
        gen,dl = np.random.default_rng(0),TensorDL(items, bs=4, get_idxs=draw[kind], after_batch=lambda b: (b[0],b[1]+torch.randint(9, (1,))))
        if look: first_look = [len(dl),dl.one_batch(),dl.one_batch(),dl.show_batch(show=False, b=(made.x[:2],made.y[:2]))][1]
        res = [list(dl) for _ in range(2)]
        assert not look or _same(first_look, res[0][0])
        return res
    assert _same(passes(False), passes(True))

def test_fit_own_order():
    "As many batches as the order has: no batch is empty, none is left out"
    for idxs in [3,1,4],torch.arange(11).repeat(3):
        dl = TensorDL(*zip(*items), bs=4, get_idxs=lambda: idxs)
        learn = Learner(DataLoaders(dl, dl), nn.Linear(3, 11), CrossEntropyLossFlat(), cbs=Seen())
        with learn.no_logging(): learn.fit(2)
        assert learn.seen==2*[min(4, len(idxs)-i) for i in range(0, len(idxs), 4)] and np.isfinite(learn.recorder.values).all()

class Seen(Callback):
    run_valid = False
    def before_fit(self): self.learn.seen = []
    def after_batch(self):
        self.learn.seen.append(len(self.x))
        assert self.n_iter==len(self.dl)

## Weights

def _labels(dl): return torch.cat([b[1] for b in dl])

def test_weights():
    w = torch.tensor([0.,1,2,3,4]*20)
    mk = lambda **kw: TensorDL(_items(100), torch.arange(100), 32, True, seed=1, **{'weights': w, **kw})
    dl = mk(n=50_000)
    drawn = _labels(dl)
    want = w/w.sum()*50_000
    assert len(drawn)==50_000 and ((drawn.bincount(minlength=100)-want).abs()<=6*want.sqrt()).all()
    a,b = mk(),mk(weights=w.tolist())
    assert len(a)==4 and torch.equal(first_two := _labels(a), _labels(b)) and not torch.equal(first_two, _labels(a))
    assert torch.equal(_labels(a.new()), first_two) and a.one_batch()[1].tolist()==a.one_batch()[1].tolist()
    assert _labels(a.new(shuffle=False)).tolist()==list(range(100))
    assert a.new(_items(5), torch.arange(5)).weights is None and _labels(a.new(get_idxs=lambda: [3])).tolist()==[3]

def test_weights_of_a_task():
    "The loader of a task gets weights by `new`; predictions take each item once"
    dls = mnist_dls(made, bs=16, seed=1)
    dls.train = dls.train.new(weights=(dls.train_ds.y==3).float())
    assert _labels(dls.train).unique().tolist()==[3] and len(_labels(dls.train))==len(made.y)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), CrossEntropyLossFlat())
    assert torch.equal(learn.get_preds(0)[1].cpu(), made.y.long()) and len(learn.get_preds(dl=dls.train)[1])==len(made.y)

@each('kw,words', [(dict(weights=[1]*8),'shape .8,. for 9'), (dict(weights=[1]*8+[-1]),'0 or more'), (dict(weights=[0]*9),'not all'),
    (dict(weights=[1.]*8+[np.nan]),'0 or more'), (dict(weights=[1]*9, shuffle=False),'Give shuffle=True'), (dict(weights=[1]*9, get_idxs=lambda: [1]),'neither get_idxs')])
def test_bad_weights(kw, words):
    with pytest.raises(ValueError) as e: TensorDL(_items(9), **{'shuffle': True, **kw})
    names(e, words)

## Settings

@each('kw', [dict(num_workers=2), dict(pin_memory=True), dict(timeout=9, num_workers=1), dict(persistent_workers=True, num_workers=1), dict(n=5), dict(bs=3),
    dict(shuffle=True), dict(drop_last=True), dict(seed=3), dict(vocab=list('abc')), dict(after_batch=noop), dict(after_item=noop),
    dict(get_idxs=lambda: [1])], ids='-'.join)
def test_new_keeps(kw):
    dl,(k,want) = TensorDL(items, **kw).new(),next(iter(kw.items()))
    assert getattr(dl.fake_l if k in ('num_workers','persistent_workers') else dl, k)==want and (k!='n' or len(_labels(dl))==5)

def test_new_class():
    class Other(TensorDL): pass
    assert type(TensorDL(items).new(cls=Other)) is Other

@each('kw,error', [(dict(shufle=True),TypeError), (dict(indexed=False),ValueError), (dict(n=12),ValueError)])
def test_refused_settings(kw, error):
    with pytest.raises(error) as e: TensorDL(items, **kw)
    names(e, next(iter(kw)))

def test_workers_need_memory():
    with pytest.raises(ValueError) as e: list(TensorDL(items, device='meta', num_workers=2))
    names(e, 'num_workers is 2', 'meta', 'num_workers=0')

def test_pairs():
    "A list of pairs as a dataset, with labels of one axis or two"
    for y in torch.arange(11),torch.arange(11)[:,None]:
        x = _items(11)
        assert _same(list(TensorDL(list(zip(x, y)), bs=4)), list(TensorDL(x, y, bs=4)))
        assert _same(list(TensorDL(zip(x, y), bs=4)), list(TensorDL(x, y, bs=4)))
    assert TensorDL([(np.zeros((2,2), np.uint8),i) for i in range(3)]).one_batch()[1].tolist()==[0,1,2]
    with pytest.raises(TypeError) as e: TensorDL(items, 64)
    names(e, 'y is 64', 'bs=64')

def test_items_of_a_view(mapped):
    "Rows that are not copied, one by one and through workers"
    ds = TensorDS(_items(9), torch.arange(9), tensor([4,2,2,8,0]))
    dl = TensorDL(ds, bs=2, num_workers=2)
    assert [b[1].tolist() for b in dl]==[[4,2],[2,8],[0]] and _same(list(dl), list(dl.new(num_workers=0)))
    assert _same(list(dl), list(dl.new(after_item=noop))) and _same(ds.items.iloc[[3,0]], L((x,y) for x,y in zip(*ds[tensor([3,0])])))

## Pictures

def _axes(): return plt.gcf().axes

@each('f', [mnist_dls,three_seven_dls])
def test_show_batch(f):
    "fastai's arguments: a grid of its own, its size, axes that are given, no picture at all"
    dls = f(made, bs=16, shuffle=False)
    names_ = [dls.vocab[int(o)] for o in dls.one_batch()[1]]
    dls.show_batch(nrows=1, ncols=4, figsize=(8,2))
    assert plt.gcf().get_size_inches().tolist()==[8,2] and [o.get_title() for o in _axes()]==names_[:4]
    dls.show_batch(max_n=5, ncols=3, cmap='Blues')
    assert [len(o.images) for o in _axes()]==[1]*5+[0] and not any(o.axison for o in _axes()) and {o.images[0].cmap.name for o in _axes()[:5]}=={'Blues'}
    dls.show_batch(unique=True, max_n=3)
    assert [o.get_title() for o in _axes()]==names_[:1]*3
    fig,axs = plt.subplots(1, 2)
    dls.show_batch(ctxs=axs)
    assert [o.get_title() for o in fig.axes]==names_[:2]
    x,y,its = dls.show_batch(show=False, max_n=3)
    assert [t for _,t in its]==names_[:3] and len(x)==3
    plt.close('all')

## Export

@each('task,recipe', [(t,r) for t in recipes for r in recipes[t]])
def test_export(tmp_path, task, recipe):
    "What `load_learner` reads predicts the same, and holds no digits"
    mk_dls,mk_learner = tasks[task]
    learn = mk_learner(mk_dls('digits', bs=64, seed=1, device='cpu'), recipe, path=tmp_path, seed=1)
    with quiet(learn):
        learn.fit(1)
        n,x = len(learn.dls.train_ds),learn.dls.valid_ds.x[:3]
        learn.export('a.pkl')
        other = load_learner(tmp_path/'a.pkl')
        assert len(learn.dls.train_ds)==n and len(other.dls.train_ds)==len(other.dls.valid_ds)==0
        for o in x: assert all(map(_same, [str(learn.predict(o)[0]),*learn.predict(o)[1:]], [str(other.predict(o)[0]),*other.predict(o)[1:]]))
        assert _same(*(o.get_preds(dl=o.dls.test_dl(list(x)))[0] for o in (learn,other)))
    assert (tmp_path/'a.pkl').stat().st_size<4*sum(p.numel() for p in learn.model.parameters())+200_000

## Validation sets

@pytest.fixture(scope='module')
def emb(): return embedded_digits()

def _keys(dl): return {o.numpy().tobytes() for o in dl.dataset.x.cpu().reshape(-1,784)}

@each('f', [three_seven_dls,mnist_dls])
@each('valid', [.1,.2,.5])
def test_valid(emb, f, valid, read_or_mapped):
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
def test_batch(f, shape, yshape, read_or_mapped):
    dls = f(made, bs=8, shuffle=False)
    x,y = dls.train.one_batch()
    assert x.shape==shape and y.shape==yshape and (x.dtype,y.dtype)==(torch.float32,torch.int64) and dls.source=='made up'
    want = made.y.long() if f is mnist_dls else (made.y[(made.y==3)|(made.y==7)]==3).long()[:,None]
    assert torch.equal(torch.cat([b[1] for b in dls.train]).cpu(), want)
    for dl in f(made, bs=3).valid, dls.test: assert torch.equal(torch.cat([b[0] for b in dl]), dl.dataset[:][0])

## Larger than memory

@each('kind', kinds)
@each('f', [three_seven_dls,mnist_dls])
@each('valid', ['test',.3])
def test_same_batches(tmp_path, monkeypatch, kind, f, valid):
    folder = kinds[kind](tmp_path/kind)
    def passes():
        dls = f(folder, 7, valid, seed=3, device='cpu')
        return dls.source,[o for dl in (dls.train,dls.valid,dls.test,dls.train) for b in dl for o in b]
    (source,want),_ = passes(),monkeypatch.setattr(idx, 'mmap_bytes', 0)
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
        assert len(o)==5 and isinstance(o.x, dataset._RowsView) and torch.equal(o.y, i)
        for j in 3,-1,slice(1,4),slice(None),tensor([3,0]): assert torch.equal(o[j][0], x[i][j]/255) and torch.equal(o[j][1], y[i][j])
    assert torch.equal(ds.x[1:3], x[i][1:3]) and torch.equal(ds.x.float().mean(), x[i].float().mean()) and ds.x.shape==(5,3)
    part = TensorDS(ds.x, ds.y, tensor([3,1]))
    assert torch.equal(part[:][0]*255, x[[8,2]]) and part.y.tolist()==[8,2]
    meta = ds.to('meta').x
    assert (type(meta),meta.shape,meta.device.type,ds.to('cpu').x)==(torch.Tensor,(5,3),'meta',ds.x)
    assert torch.equal(pickle.loads(pickle.dumps(ds))[:][0], ds[:][0])
    with pytest.raises(AttributeError): ds.x.no_such_thing
    with pytest.raises(IndexError): ds[5]

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
    folder,n = put(tmp_path_factory.mktemp('many'), good),500_000
    with open(folder/idx_names[0], 'wb') as f:
        f.write(huge(b'', n, 28, 28))
        f.truncate(16+784*n)
    (folder/idx_names[1]).write_bytes(idx_bytes(torch.arange(n).fmod(10).byte()))
    yield folder
    shutil.rmtree(folder)

@each('kind,f,valid,pack', [('addresses',mnist_dls,.2,False), ('data',mnist_dls,'test',False), ('data',three_seven_dls,'test',True)])
def test_more_than_memory(many, tmp_path, kind, f, valid, pack):
    "390 MB pass through a process that has 170 MB to spare"
    folder = many
    if pack:
        folder = put(tmp_path/'packed', {o.name: o.read_bytes() for o in many.iterdir() if o.name!=idx_names[0]})
        with open(many/idx_names[0], 'rb') as i, gzip.open(folder/idx_names[0], 'wb', 1) as o: shutil.copyfileobj(i, o, 2**20)
    (p := procs.Process(target=_limited, args=(tmp_path/'cache', folder, kind, f, valid, 392*10**6, 170*10**6))).start()
    p.join(300)
    assert p.exitcode==0

def _refused(cache, folder):
    lim = _vm('VmSize')+10**8
    resource.setrlimit(resource.RLIMIT_AS, (lim,lim))
    refuses(folder/idx_names[0], 'addresses', read_folder, folder)

def test_too_few_addresses(many, tmp_path):
    "A limit below the file's size: one clear sentence"
    (p := procs.Process(target=_refused, args=(tmp_path/'cache', many))).start()
    p.join(60)
    assert p.exitcode==0
