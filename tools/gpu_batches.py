"How long a step takes for batches of different size, on a GPU and on the CPU beside it: python tools/gpu_batches.py RESULT.json"
import json, os, platform, sys, time, torch
from statistics import median
from torch import nn
from torch.nn import functional as F

def network():
    "A small convolutional network, much like the model `cnn`"
    convs = [o for a,b in ((1,16),(16,32),(32,64)) for o in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(64*4*4, 10))

def step_time(bs, device, n=20):
    "Median seconds of a step: forward pass, backward pass, and a step of SGD"
    torch.manual_seed(0)
    model = network().to(device)
    xb,yb = torch.rand(bs, 1, 28, 28, device=device),torch.randint(10, (bs,), device=device)
    opt,times = torch.optim.SGD(model.parameters(), .1),[]
    for _ in range(n+5):
        wait(device)
        start = time.perf_counter()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
        wait(device)
        times.append(time.perf_counter()-start)
    return median(times[5:])

def wait(device):
    if device=='cuda': torch.cuda.synchronize()

def copy_time(bs, n=20):
    "Median seconds of a copy of a batch to the GPU"
    xb,times = torch.rand(bs, 1, 28, 28),[]
    for _ in range(n):
        wait('cuda')
        start = time.perf_counter()
        xb.to('cuda')
        wait('cuda')
        times.append(time.perf_counter()-start)
    return median(times)

if __name__=='__main__':
    sizes = [4**i for i in range(8)]
    rows = [dict(bs=bs, gpu_s=step_time(bs, 'cuda'), cpu_s=step_time(bs, 'cpu', 5), copy_s=copy_time(bs)) for bs in sizes]
    about = dict(gpu=torch.cuda.get_device_name(), cores=os.cpu_count(), torch=torch.__version__, python=platform.python_version())
    text = json.dumps(dict(command='python tools/gpu_batches.py', about=about, rows=rows), indent=2)
    open(sys.argv[1], 'w').write(text+'\n')
    print(text)
