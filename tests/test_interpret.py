"Looking inside a model: what is drawn and listed is so, the learner stays as it was, and bad input gets one clear sentence"
import importlib, matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, re, sys, torch, types
from conftest import names, quiet
from copy import deepcopy
from matplotlib.axes import Axes
from fastai.callback.all import ActivationStats, MixUp
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, flatten_model, nn, SGD, tensor
from fastai.interpret import ClassificationInterpretation
from mnist_fast.bench.ladder import plot_ladder
from mnist_fast.bench.peers import plot_growth
from mnist_fast.callback.monitor import GradNorm
from mnist_fast.data.loader import TensorDL, mnist_dls, three_seven_dls
from mnist_fast.data.source import get_digits
from mnist_fast.interpret.predictions import (column_order, eval_mode, most_confused, most_wrong, plot_calibration, plot_confusion, plot_most_wrong,
    predict_table, prediction_table)
from mnist_fast.interpret.surface import _random_direction, loss_surface, plot_surface
from mnist_fast.interpret.weights import plot_activations, plot_filters, plot_weights
from mnist_fast.learner import FastLearner, fit_recipe, mnist_learner, plot_curves, three_seven_learner
from mnist_fast.loss import cross_entropy
from mnist_fast.model import mnist_model
from mnist_fast.optimizer import FastSGD
from torch.nn.utils import get_total_norm

each = pytest.mark.parametrize
digits = get_digits('digits')
make = {'3v7': lambda valid='test', **kw: three_seven_learner(three_seven_dls(digits, bs=32, seed=1, valid=valid), **kw),
    'full': lambda valid='test', **kw: mnist_learner(mnist_dls(digits, bs=32, seed=1, valid=valid), **kw)}

def quiet_fit(learn, **kw):
    with quiet(learn): fit_recipe(learn, **kw)
    return learn

def relus(model): return [m for m in flatten_model(model) if isinstance(m, nn.ReLU)]

@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')

@pytest.fixture(scope='module', params=['3v7','full'])
def learn(request):
    "With mistakes enough: one short epoch"
    return quiet_fit(make[request.param](.2, recipe='speed', seed=3, cbs=GradNorm()), epochs=1, lr=.005)

def by_hand(learn, dl):
    "Labels, and probabilities of each class"
    learn.model.eval()
    x,y = dl.dataset[:]
    with torch.no_grad(): out = learn.model(x)
    p = torch.cat([1-out.sigmoid(),out.sigmoid()], 1) if out.shape[1]==1 else out.softmax(1)
    return y.flatten(),p

@each('which', ['test','valid','train'])
def test_most_wrong(learn, which):
    "Against the model asked directly, for a shuffled loader too"
    dl = getattr(learn.dls, which)
    y,p = by_hand(learn, dl)
    df,vocab = most_wrong(learn, 10**6, None if which=='test' else dl),learn.dls.vocab
    assert sorted(df['index'])==(p.argmax(1)!=y).nonzero().flatten().tolist() and len(df)>0
    for o in df.itertuples():
        i = o[1]
        assert (o.actual,o.pred)==(vocab[y[i]],vocab[p[i].argmax()]) and o.probability==pytest.approx(p[i].max().item(), abs=1e-5)
    assert df.probability.is_monotonic_decreasing and list(df.index)==list(range(len(df)))
    assert most_wrong(learn, 2, dl)['index'].tolist()==most_wrong(learn, 10**6, dl)['index'].tolist()[:2]

def test_confusion(learn):
    df = most_confused(learn, 1000)
    assert df['count'].sum()==len(most_wrong(learn, 10**6)) and df['count'].is_monotonic_decreasing and (df.actual!=df.pred).all()
    drawn = [int(t.get_text()) for t in plot_confusion(learn).texts]
    assert len(drawn)==len(learn.dls.vocab)**2 and sum(drawn)==len(learn.dls.test.dataset)

def test_pictures(learn):
    "As many as asked for, or as there are, with titles that say what the table says; the rest of the grid stays empty"
    df = most_wrong(learn, 3)
    axs = plot_most_wrong(learn, 3, ncols=2)
    assert len(axs)==len(df) and all(ax.images for ax in axs) and not any(ax.axison for ax in axs[0].figure.axes)
    for ax,o in zip(axs, df.itertuples()):
        assert ax.get_title().startswith(f'{o.actual}, predicted {o.pred}')
        assert torch.equal(torch.as_tensor(ax.images[0].get_array()), learn.dls.test.dataset[o[1]][0].view(28,28))

def test_no_mistakes(learn):
    x,_ = learn.dls.test.dataset[:]
    _,p = by_hand(learn, learn.dls.test)
    dl = TensorDL(x, p.argmax(1) if p.shape[1]>2 else p.argmax(1)[:,None])
    assert list(most_wrong(learn, 5, dl))==['index','actual','pred','probability'] and most_wrong(learn, 5, dl).empty
    assert list(most_confused(learn, 5, dl))==['actual','pred','count'] and most_confused(learn, 5, dl).empty
    assert [ax.get_title() for ax in plot_most_wrong(learn, 5, dl)]==['no mistakes']

def test_table(learn):
    "One row an item, three before seven, with the probabilities of the model asked directly"
    y,p = by_hand(learn, learn.dls.test)
    df,vocab = predict_table(learn),learn.dls.vocab
    assert list(df)==['index','actual','pred','probability'] and df['index'].tolist()==list(range(len(y)))
    assert df.actual.tolist()==[vocab[i] for i in y] and df.probability.tolist()==pytest.approx(p.max(1).values.tolist(), abs=1e-5)
    sure = ((p.topk(2).values*tensor([1,-1])).sum(1)>1e-4).tolist()
    assert df.pred[sure].tolist()==[vocab[i] for i,o in zip(p.argmax(1), sure) if o] and sum(sure)>.99*len(y)
    assert df.attrs['vocab']==(['3','7'] if len(vocab)==2 else [str(i) for i in range(10)])
    assert df.probability.ge(1/len(vocab)).all() and df.probability.le(1).all()

def test_tables_instead_of_learners(learn):
    "A table gives what its learner gives, and no model is asked"
    dl,df = learn.dls.valid,predict_table(learn, learn.dls.valid)
    for f in most_wrong,most_confused: pd.testing.assert_frame_equal(f(df, 7), f(learn, 7, dl))
    pd.testing.assert_frame_equal(most_confused(df, 1000), most_confused(learn, 1000, dl))
    def drawn(axs): return [[t.get_text() for t in [*ax.get_xticklabels(),*ax.get_yticklabels(),*ax.texts,ax.title]] for ax in np.ravel(axs)]
    assert drawn(plot_confusion(df))==drawn(plot_confusion(learn, dl))
    assert drawn(plot_most_wrong(df, 4, dl))==drawn(plot_most_wrong(learn, 4, dl))
    bare = pd.DataFrame(df.values, columns=df.columns)
    assert drawn(plot_confusion(bare))==drawn(plot_confusion(df))

def test_column_order():
    "The label of a three is 1, and its probability stands in the first column"
    targs,vocab = column_order(tensor([[2.],[-1.]]), tensor([1,0]), ['7','3'])
    assert targs.tolist()==[0,1] and vocab==['3','7']
    targs,vocab = column_order(torch.zeros(2,3), tensor([2,0]), list('abc'))
    assert targs.tolist()==[2,0] and vocab==list('abc')

def test_small_images(learn):
    "Titles leave room for the images, however small these are"
    for imsize in (.3,.45,2.): assert all(ax.get_position().height>0 for ax in plot_most_wrong(learn, 3, ncols=2, imsize=imsize)[0].figure.axes)

def test_table_by_hand():
    "Labels of one axis or two, no mistake, and no item of a class"
    df = prediction_table(tensor([[.9,.1],[.3,.7]]), tensor([[0],[1]]), ['a','b'])
    assert df.drop(columns='probability').values.tolist()==[[0,'a','a'],[1,'b','b']] and df.probability.tolist()==pytest.approx([.9,.7])
    assert most_wrong(df).empty and most_confused(df).empty
    one = prediction_table(tensor([[.9,.1,0.]]), tensor([0]), list('abc'))
    assert len(plot_confusion(one).texts)==9

def test_tables_have_no_pictures(learn):
    with pytest.raises(ValueError) as e: plot_most_wrong(predict_table(learn), 3)
    names(e, 'no pictures', 'Give dl')

def test_predicted_once(learn):
    "A call predicts each item once, and a call with a table none"
    n,hook = [],learn.model.register_forward_hook(lambda m,x,out: n.append(len(out)))
    df = predict_table(learn)
    assert sum(n)==len(df)
    n.clear()
    for f in most_wrong,most_confused: f(df)
    plot_confusion(df), plot_most_wrong(df, 3, learn.dls.test)
    assert not n
    hook.remove()

@each('error', [None,ValueError])
def test_eval_mode(error):
    "Each part has its own mode again, also after an error"
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2).eval()).train()
    modes = lambda: [m.training for m in net.modules()]
    before = modes()
    try:
        with eval_mode(net):
            assert not any(modes())
            if error: raise error
    except ValueError: pass
    assert modes()==before

@each('n_bins', [1,7,10])
def test_calibration(n_bins):
    "A bar as high as the number of predictions of a bin, and a point at its accuracy"
    rng = np.random.default_rng(0)
    p = rng.random(200)
    correct = rng.random(200)<p
    groups = [g for b in range(n_bins) if len(g := np.flatnonzero((p*n_bins).astype(int)==b))]
    top,low = plot_calibration(torch.tensor(p), torch.tensor(correct), n_bins)
    assert [o.get_height() for o in low.patches]==[len(g) for g in groups]
    assert list(top.lines[1].get_ydata())==pytest.approx([correct[g].mean() for g in groups])
    assert list(top.lines[1].get_xdata())==pytest.approx([p[g].mean() for g in groups])

@each('p,correct,n_bins', [([],[],10), ([.5],[1,0],10), ([.5],[1],0)])
def test_bad_calibration(p, correct, n_bins):
    with pytest.raises(ValueError, match='Give one or more'): plot_calibration(p, correct, n_bins)

def test_left_as_it_was(learn):
    "Recorder, callbacks, gradients kept, mode of each part, weights, statistics, and the order of the next pass"
    bn = next(m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d))
    learn.model.train()
    bn.eval()
    gen = learn.dls.train.gen
    def state(): return (learn.recorder.values[:], [*learn.cbs], len(learn.grad_norm.kept), [m.training for m in learn.model.modules()], learn.training,
        {k: v.tolist() for k,v in learn.model.state_dict().items()}, gen.get_state().tolist(), torch.get_rng_state().tolist())
    before = state()
    for f in predict_table,most_wrong,plot_most_wrong,plot_confusion,most_confused:
        for dl in None,learn.dls.train: f(learn, dl=dl)
    loss_surface(learn.model, *learn.dls.valid.one_batch(), learn.loss_func, steps=2)
    assert state()==before
    assert learn.recorder.values

def test_any_learner():
    "fastai's and PyTorch's loaders, no vocab, a loss that does not know its activation, one axis of predictions"
    x,y = three_seven_dls(digits).train_ds[:300]
    items = list(zip(x, y))
    for dl in DataLoader(items, bs=50, shuffle=True, drop_last=True),torch.utils.data.DataLoader(items, batch_size=64):
        learn = Learner(DataLoaders(dl, dl), nn.Linear(784, 1), lambda p,t: nn.functional.binary_cross_entropy_with_logits(p, t.float()))
        df = most_wrong(learn, 1000, dl)
        assert {*df.actual,*df.pred}=={'0','1'} and len(df)==((learn.model(x)>0)!=y).sum() and (df.probability>=.5).all()
        assert len(plot_most_wrong(learn, 4))==4
    flat = Learner(DataLoaders(dl, dl), nn.Sequential(learn.model, nn.Flatten(0)), lambda p,t: p.mean())
    pd.testing.assert_frame_equal(most_wrong(flat, 1000), df)

@each('f', [most_wrong,plot_most_wrong,most_confused])
def test_bad_n(learn, f):
    with pytest.raises(ValueError, match='Give 1 or more'): f(learn, 0)

def test_bad_loaders(learn):
    with pytest.raises(ValueError, match='no labels'): most_wrong(learn, dl=TensorDL(learn.dls.valid.dataset.x))
    three = Learner(learn.dls, mnist_model('linear', n_out=3), lambda p,t: p.mean())
    with pytest.raises(ValueError, match='3 classes'): plot_confusion(three)

# fastai's own tools

def interpretation(learn):
    with quiet(learn): return ClassificationInterpretation.from_learner(learn)

def titles(fig): return [ax.get_title() for ax in fig.axes if ax.images]

def test_top_losses(learn):
    "The losses of the model asked directly, their items, and pictures that say what these are"
    y,p = by_hand(learn, learn.dls.valid)
    x,targ = learn.dls.valid.dataset[:]
    with torch.no_grad(): want = learn.loss_func(learn.model(x), targ, reduction='none')
    interp,vocab = interpretation(learn),learn.dls.vocab
    assert torch.allclose(interp.losses, want.flatten(), rtol=1e-4, atol=1e-5) and interp.losses.dim()==1
    losses,idxs,items = interp.top_losses(3, items=True)
    assert losses.tolist()==interp.losses.sort(descending=True)[0][:3].tolist()
    assert all(torch.equal(o, x[i]) and torch.equal(t, targ[i]) for (o,t),i in zip(items, idxs))
    with quiet(learn): interp.plot_top_losses(5, nrows=1, ncols=5, figsize=(10,3))
    assert plt.gcf().get_size_inches().tolist()==[10,3]
    _,idxs = interp.top_losses(5)
    for title,i in zip(titles(plt.gcf()), idxs, strict=True):
        pred,actual,loss,prob = re.fullmatch(r'(\d)/(\d) / (.*) / (.*)', title).groups()
        assert (pred,actual)==(vocab[p[i].argmax()],vocab[y[i]]) and float(prob)==pytest.approx(p[i].max().item(), abs=.006)
        assert float(loss)==pytest.approx(interp.losses[i].item(), abs=.006)
    with quiet(learn): interp.plot_top_losses(range(2,4), largest=False)
    assert len(titles(plt.gcf()))==2

def test_show_results_of_items(learn):
    y,p = by_hand(learn, learn.dls.valid)
    interp,vocab = interpretation(learn),learn.dls.vocab
    with quiet(learn): interp.show_results([4,0,2], nrows=3, ncols=1, figsize=(2,6))
    assert titles(plt.gcf())==[f'{vocab[y[i]]} / {vocab[p[i].argmax()]}' for i in (4,0,2)] and plt.gcf().get_size_inches().tolist()==[2,6]
    with quiet(learn): learn.show_results(max_n=4, nrows=2, figsize=(3,3), shuffle=False)
    assert titles(plt.gcf())==[f'{vocab[y[i]]} / {vocab[p[i].argmax()]}' for i in range(4)] and len(plt.gcf().axes)==4
    fig,axs = plt.subplots(1, 2)
    with quiet(learn): learn.show_results(ctxs=axs, shuffle=False)
    assert len(titles(fig))==2

@pytest.fixture
def tensorboard(monkeypatch):
    "fastai's callback and what it writes, without the package that draws it in a browser"
    written = []
    class Writer:
        def __init__(self, log_dir=None): written.clear()
        def add_scalar(self, name, value, step): written.append((name,value))
        def add_figure(self, name, fig, step): written.append((name,titles(fig)))
        def close(self): written.append(('close',None))
    for name in 'tensorboard','torch.utils.tensorboard': monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.delitem(sys.modules, 'fastai.callback.tensorboard', raising=False)
    yield importlib.import_module('fastai.callback.tensorboard').TensorBoardCallback,written
    sys.modules.pop('fastai.callback.tensorboard')

@each('task', make)
def test_tensorboard(task, tensorboard):
    "After each epoch the metric, and pictures of the first batch with label and prediction"
    cls,written = tensorboard
    learn = make[task](recipe='linear', seed=0)
    with quiet(learn): learn.fit(2, cbs=cls(trace_model=False, n_preds=4))
    y,p = by_hand(learn, learn.dls.valid)
    figs = [o for k,o in written if k=='Sample results']
    assert len(figs)==2 and figs[-1]==[f'{learn.dls.vocab[y[i]]}\n{learn.dls.vocab[p[i].argmax()]}' for i in range(4)]
    metric = learn.recorder.metric_names[3]
    assert [v for k,v in written if k==metric]==[o[2] for o in learn.recorder.values] and written[-1]==('close',None)

@each('task', make)
def test_mixup(task):
    "Each image's two losses are mixed by its own number"
    learn = make[task](recipe='linear', seed=0, cbs=MixUp())
    got = []
    class Kept(Callback):
        def after_loss(self):
            if not self.training or got: return
            with torch.no_grad(): a,b = (self.mix_up.old_lf(self.pred, *o, reduction='none').flatten() for o in (self.mix_up.yb1,self.yb))
            got.extend([self.loss_grad.item(),torch.lerp(a, b, self.mix_up.lam.flatten()).mean().item()])
    with quiet(learn): learn.fit(1, cbs=Kept())
    assert got[0]==pytest.approx(got[1], rel=1e-5)

@each('name,n_out', [('linear',1), ('linear',10), ('simple_net',1), ('simple_net',10)])
def test_weights(name, n_out):
    "A picture a row, on one symmetric scale; titles where an output has a name"
    model = mnist_model(name, n_out=n_out)
    w = model[1].weight.detach()
    axs = [ax for ax in plot_weights(model).flat if ax.images and ax.images[0].get_array().shape==(28,28)]
    assert len(axs)==len(w) and {ax.images[0].get_clim() for ax in axs}=={(-w.abs().max().item(),w.abs().max().item())}
    assert all(torch.equal(torch.as_tensor(ax.images[0].get_array()), o.view(28,28)) for ax,o in zip(axs, w))
    assert [ax.get_title() for ax in axs]==([str(i) for i in range(10)] if (name,n_out)==('linear',10) else ['']*len(w))
    assert plot_weights(model[1]).shape==plot_weights(w).shape==plot_weights(model).shape

def test_weights_by_name():
    axs = plot_weights(mnist_model('linear', n_out=2), ['seven','three']).flat
    assert [ax.get_title() for ax in axs]==['seven','three']

@each('w', [torch.zeros(1,784), torch.ones(3,784).half(), torch.rand(2,784).bfloat16()], ids=lambda o: str(o.dtype))
def test_weights_of_any_kind(w):
    "Weights that are all 0 are white"
    im = plot_weights(w).flat[0].images[0]
    assert im.get_clim()==(-(w.max().item() or 1),w.max().item() or 1)
    if not w.any(): assert im.cmap(im.norm(im.get_array()))[...,:3].min()>.95

@each('bad', [mnist_model('cnn'), nn.ReLU(), torch.zeros(784,1), torch.zeros(784), nn.Linear(28,28)], ids=lambda o: type(o).__name__)
def test_bad_weights(bad):
    with pytest.raises(ValueError, match='784 inputs'): plot_weights(bad)

def filters(model, n):
    "Images drawn, and their scale"
    ims = [ax.images[0] for ax in np.ravel(plot_filters(model, n)) if ax.images]
    return [o.get_array() for o in ims],{o.get_clim() for o in ims}

def test_filters():
    "The weights themselves, on one scale, and no more than asked for"
    model = mnist_model('cnn')
    w = model[1].weight.detach()[:,0]
    for n,rows in (3,1),(9,2),(50,2):
        (im,),clim = filters(model, n)
        k,top = min(n, 16),w[:n].abs().max().item()
        assert im.shape==(6*rows-1,6*min(8, k)-1) and clim=={(-top,top)} and im.count()==25*k
        for i in range(k): assert np.array_equal(im[i//8*6:][:5,i%8*6:][:,:5], w[i])
    for model,k in (mnist_model('simple_net', n_out=10, n_hidden=60),60),(mnist_model('linear', n_out=10),10),(mnist_model('linear'),1):
        for n in 3,50: assert len(filters(model, n)[0])==min(n, k)
    model[1].weight.data.zero_()
    assert filters(model, 1)[1]=={(-1.,1.)}
    with pytest.raises(ValueError, match='784 inputs'): plot_filters(torch.nn.Linear(3, 3))

@each('name,n', [('simple_net',1), ('cnn',3), ('fast_cnn',2), ('deep_cnn',5)])
@each('every', [None,3])
def test_activations(name, n, every):
    "The callback hears under `FastLearner` what it hears under `Learner`; every ReLU is drawn, with all that was kept"
    def run(cls):
        torch.manual_seed(0)
        model = mnist_model(name, n_out=10)
        learn = cls(mnist_dls(digits, bs=200, seed=1), model, cross_entropy, opt_func=FastSGD, lr=.1)
        learn.add_cb(ActivationStats(with_hist=True, modules=relus(model), every=every))
        with quiet(learn): learn.fit(1)
        return learn
    a,b = run(FastLearner),run(Learner)
    for i in range(n):
        assert torch.equal(a.activation_stats.hist(i), b.activation_stats.hist(i)) and a.activation_stats.layer_stats(i)==b.activation_stats.layer_stats(i)
    steps = len(range(0, len(a.dls.train), every or 1))
    axs = plot_activations(a)
    assert axs.shape==(n,4) and axs[0,0].images[0].get_array().shape==(40,steps)
    assert list(axs[0,1].lines[0].get_xdata())==list(range(0, len(a.dls.train), every or 1))
    most_wrong(a)
    assert len(a.activation_stats.stats)==steps
    a.validate()
    with pytest.raises(ValueError, match='plot before'): plot_activations(a)

@each('cb', [None, lambda m: ActivationStats(modules=relus(m)), lambda m: ActivationStats(with_hist=True, modules=[])])
def test_no_activations(cb):
    learn = make['full'](recipe='linear')
    if cb: learn.add_cb(cb(learn.model))
    with pytest.raises(ValueError, match='with_hist=True'): plot_activations(learn)
    quiet_fit(learn, epochs=1)
    with pytest.raises(ValueError, match='with_hist=True'): plot_activations(learn)

def batch(n=64): return mnist_dls(digits).train_ds[:n]

@each('name', ['linear','simple_net','cnn','deep_cnn'])
def test_surface(name):
    "The same for the same seed; the loss itself in the middle; nothing of the model changes"
    torch.manual_seed(0)
    model,(xb,yb) = mnist_model(name, n_out=10).train(),batch()
    state,ids = deepcopy(model.state_dict()),[id(p) for p in model.parameters()]
    z = loss_surface(model, xb, yb, cross_entropy, span=.3, steps=7, seed=1)
    assert z.shape==(7,7) and model.training and [id(p) for p in model.parameters()]==ids and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k,v in model.state_dict().items())
    with torch.no_grad(): assert z.loc[0.,0.]==cross_entropy(model.eval()(xb), yb).item()
    pd.testing.assert_frame_equal(z, loss_surface(model, xb, yb, cross_entropy, span=.3, steps=7, seed=1))
    assert not z.equals(loss_surface(model, xb, yb, cross_entropy, span=.3, steps=7, seed=2))
    assert not model.training and z.columns[[0,-1]].tolist()==[-.3,.3]

def test_directions():
    "As long as the weights, for each neuron and each filter; nothing for biases and batch norms"
    w = {k: o for k,o in mnist_model('cnn').state_dict().items() if o.is_floating_point()}
    for k,d in _random_direction(w, torch.Generator().manual_seed(0)).items():
        if w[k].dim()<2: assert not d.any()
        else: assert torch.allclose(d.flatten(1).norm(dim=1), w[k].flatten(1).norm(dim=1), rtol=1e-4) and not torch.allclose(d, w[k])

@each('error', [KeyboardInterrupt, ValueError])
@each('at', [1,5])
def test_surface_interrupted(error, at):
    "Stopped in the middle, in the model or in the loss, the model is what it was"
    model,(xb,yb) = mnist_model('cnn', n_out=10).train(),batch(8)
    state,n = deepcopy(model.state_dict()),[]
    def stop(*args):
        n.append(1)
        if len(n)==at: raise error
        return torch.tensor(0.)
    with pytest.raises(error): loss_surface(model, xb, yb, stop)
    n.clear()
    handle = model[4].register_forward_hook(lambda *args: (stop(),None)[1])
    with pytest.raises(error): loss_surface(model, xb, yb, cross_entropy)
    handle.remove()
    assert all(torch.equal(v, state[k]) for k,v in model.state_dict().items()) and all(m.training for m in model.modules())
    assert all(isinstance(p, nn.Parameter) for p in model.parameters()) and len(list(model.parameters()))==11

def test_towards():
    "From one model to the other, statistics of batch norms too"
    xb,yb = batch()
    a,b = (quiet_fit(make['full'](recipe='speed', seed=s), epochs=1).model for s in (0,1))
    z = loss_surface(a, xb, yb, cross_entropy, span=1., steps=4, towards=b)
    assert z.index.tolist()==[-1.,0.,1.,2.] and z.columns.tolist()==pytest.approx([-1.,-1/3,1/3,1.])
    z = loss_surface(a, xb, yb, cross_entropy, span=.5, steps=5, towards=b)
    with torch.no_grad(): assert z[0.][[0.,1.]].tolist()==pytest.approx([cross_entropy(m.eval()(xb), yb).item() for m in (a,b)], rel=1e-4)
    ax = plot_surface(z)
    assert ax.get_ylabel()=='towards the other model' and ax.get_ylim()==(-.5,1.5)

@each('kw,match', [(dict(steps=1),'2 or more'), (dict(span=0),'above 0'), (dict(span=float('nan')),'above 0'), (dict(span=float('inf')),'above 0'),
    (dict(yb=torch.zeros(3)),'one label'), (dict(towards=mnist_model('cnn')),'same kind'), (dict(towards=mnist_model('simple_net', n_out=10, n_hidden=4)),'same kind')])
def test_bad_surface(kw, match):
    xb,yb = batch(8)
    with pytest.raises(ValueError, match=match): loss_surface(mnist_model('simple_net', n_out=10), xb, **{**dict(yb=yb, loss_func=cross_entropy), **kw})

class Total(Callback):
    def before_fit(self): self.totals = []
    def before_step(self): self.totals.append(get_total_norm([p.grad for p in self.model.parameters()]).item())

@each('task', make)
def test_grad_norm(task):
    "The squares add up to what PyTorch's clipping goes by, also after the callback has gone"
    cb,total = GradNorm(),Total()
    learn = make[task](recipe='cnn', seed=0, cbs=total)
    with learn.added_cbs(cb): quiet_fit(learn, epochs=1)
    assert list(cb.norms)==[n for n,_ in learn.model.named_parameters()]
    assert (cb.norms**2).sum(axis=1).pow(.5).tolist()==pytest.approx(total.totals, rel=1e-4) and len(total.totals)==len(learn.dls.train)
    assert len(cb.plot().lines)==len(learn.model.state_dict())-9

def test_grad_norm_asks_for_no_number():
    "Tensors without data would raise where a value is asked for"
    learn = Learner(DataLoaders([], []), nn.Linear(3, 2, device='meta'), cross_entropy, opt_func=SGD, cbs=GradNorm())
    learn.model.weight.grad = torch.zeros(2, 3, device='meta')
    learn.grad_norm.before_fit()
    for _ in range(3): learn.grad_norm.after_backward()
    assert [o.shape for o in learn.grad_norm.kept]==[(2,)]*3
    with pytest.raises(Exception): learn.grad_norm.kept[0].tolist()

def test_grad_norm_before_fit():
    with pytest.raises(ValueError, match='Fit first'): GradNorm().norms

def stats_learner():
    model = mnist_model('simple_net', n_out=10)
    learn = mnist_learner(mnist_dls(digits, bs=200, seed=1), 'simple_net', model, cbs=[ActivationStats(with_hist=True, modules=relus(model)),GradNorm()])
    with quiet(learn): learn.fit(1, .1)
    return learn

plots = dict(weights=lambda o: plot_weights(o.model), filters=lambda o: plot_filters(o.model), cnn_filters=lambda o: plot_filters(mnist_model('cnn')),
    activations=lambda o: plot_activations(o), curves=lambda o: plot_curves(o), grad_norm=lambda o: o.grad_norm.plot(),
    confusion=lambda o: plot_confusion(o), most_wrong=lambda o: plot_most_wrong(o, 3),
    calibration=lambda o: plot_calibration([.2,.9], [True,False]), surface=lambda o: plot_surface(loss_surface(o.model, *batch(8), cross_entropy, steps=3)),
    ladder=lambda o: plot_ladder([dict(task=t, rung='a', accuracy=.9) for t in ('3v7','full')]),
    growth=lambda o: plot_growth([dict(n=1, train_s=1, pass_s=1, peak_mb=1, data_mb=1)]))

@each('name', plots)
def test_drawn_once(name):
    "A plot is pyplot's current figure, and what comes back are its axes, so that a notebook shows one picture"
    learn = stats_learner()
    plt.close('all')
    axs = np.ravel(plots[name](learn))
    assert len(axs) and all(isinstance(ax, Axes) for ax in axs) and {ax.figure for ax in axs}=={plt.gcf()} and len(plt.get_fignums())==1
    plt.close('all')
