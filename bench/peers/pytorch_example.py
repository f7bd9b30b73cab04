"The network and settings of PyTorch's MNIST example, by a `Dataset` of images and a `torch.utils.data.DataLoader`"
import torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from common import Clock, args, digits, done

class Images(Dataset):
    def __init__(self, x, y): self.x,self.y = torch.tensor(x),torch.tensor(y).long()
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return ((self.x[i].float()/255-.1307)/.3081)[None],self.y[i]

a = args(epochs=1)
torch.manual_seed(a.seed)
x,y,xt,yt = digits(a.file)
train,test = DataLoader(Images(x, y), 64, shuffle=True),DataLoader(Images(xt, yt), 1000)
model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(.25),
    nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(.5), nn.Linear(128, 10))
opt = torch.optim.Adadelta(model.parameters(), lr=1.)
sched = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=.7)
with Clock() as c:
    for _ in range(a.epochs):
        for xb,yb in train:
            opt.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
        sched.step()
model.eval()
with torch.no_grad(): right = sum((model(xb).argmax(1)==yb).sum().item() for xb,yb in test)
done(c, right/len(yt), epochs=a.epochs)
