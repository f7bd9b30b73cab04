"The bare PyTorch loop: the same network as the fastai peers, batches sliced from tensors, SGD with one cycle"
import torch, torch.nn.functional as F
from torch import nn
from common import Clock, args, digits, done

def conv(ni, nf, ks=3): return [nn.Conv2d(ni, nf, ks, 2, ks//2, bias=False),nn.BatchNorm2d(nf),nn.ReLU()]

a = args(epochs=2, lr=.4, bs=128)
torch.manual_seed(a.seed)
x,y,xt,yt = (torch.tensor(o) for o in digits(a.file))
y,yt = y.long(),yt.long()
model = nn.Sequential(*conv(1, 16, 5), *conv(16, 32), *conv(32, 64), nn.Flatten(), nn.Linear(1024, 10))
opt = torch.optim.SGD(model.parameters(), a.lr, momentum=.9, weight_decay=5e-4, nesterov=True)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, a.lr, total_steps=a.epochs*-(-len(x)//a.bs), cycle_momentum=False)
with Clock() as c:
    for _ in range(a.epochs):
        for idx in torch.randperm(len(x)).split(a.bs):
            F.cross_entropy(model(x[idx][:,None].float()/255), y[idx]).backward()
            opt.step()
            sched.step()
            opt.zero_grad()
model.eval()
with torch.no_grad(): right = sum((model(o[:,None].float()/255).argmax(1)==t).sum().item() for o,t in zip(xt.split(1000), yt.split(1000)))
done(c, right/len(yt), epochs=a.epochs)
