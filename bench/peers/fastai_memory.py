"Stock fastai in memory: its `DataLoader` over a list of tensors, as in the book, its own optimizer, `fit_one_cycle`"
from fastai.basics import *
from fastai.callback.schedule import *
from fastai.layers import ConvLayer
from fastai.metrics import accuracy
from common import Clock, args, digits, done

a = args(epochs=2, lr=.01, bs=256)
set_seed(a.seed)
x,y,xt,yt = (tensor(o) for o in digits(a.file))
def items(x, y): return list(zip(x[:,None].float()/255, y.long()))
dls = DataLoaders(DataLoader(items(x, y), bs=a.bs, shuffle=True), DataLoader(items(xt, yt), bs=a.bs))
conv = partial(ConvLayer, stride=2)
model = nn.Sequential(conv(1, 16, 5), conv(16, 32), conv(32, 64), Flatten(), nn.Linear(1024, 10))
learn = Learner(dls, model, F.cross_entropy, metrics=accuracy)
def skip(self): raise CancelValidException
with learn.no_bar(), learn.no_logging(), learn.added_cbs(Callback(before_validate=skip)), Clock() as c: learn.fit_one_cycle(a.epochs, a.lr)
with learn.no_bar(): done(c, learn.validate()[1], epochs=a.epochs)
