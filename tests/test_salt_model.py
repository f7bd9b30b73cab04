"The U-Net: sizes, padding, what it can learn, and the linear model beside it"
import pytest, torch
from torch import nn
from torch.nn import functional as F
from conftest import names

from mnist_fast.model import count_params
from mnist_fast.salt.model import Framed, neighbours, salt_model, unet

@pytest.mark.parametrize('widths,shrink', [((4,8),1), ((4,8,8,8,8,8),1), ((4,8,8),2), ((4,),1), ((4,8),4)])
@pytest.mark.parametrize('side', [101, 96, 33])
def test_shapes(widths, shrink, side):
    "The output has the size of the tile, whatever the sizes inside"
    net,x = unet(widths, shrink).eval(),torch.rand(2, 1, side, side+3)
    assert net(x).shape==x.shape

def test_padding():
    "Mirrored up to the next multiple, with the image in the middle; seen by a layer that counts"
    seen = []
    class See(nn.Module):
        def forward(self, x): return seen.append(x) or x
    x = torch.rand(1, 1, 101, 101)
    assert torch.equal(Framed(32, See())(x), x)
    assert seen[0].shape[-2:]==(128,128) and torch.equal(seen[0], F.pad(x, (13,14,13,14), mode='reflect'))

def test_brightness_and_contrast():
    "A tile that is darker or has less contrast gets the same mask"
    torch.manual_seed(0)
    net,x = unet((4,8)).eval(),torch.rand(2, 1, 40, 40)
    assert torch.allclose(net(x), net(.2+.5*x), atol=1e-2)

def test_each_tile_alone():
    net,x = unet((4,8)).eval(),torch.rand(3, 1, 40, 40)
    assert torch.allclose(net(x)[1:2], net(x[1:2]), atol=1e-5)

def test_it_can_learn():
    "A square of another texture, which no single pixel shows"
    torch.manual_seed(0)
    x = torch.rand(16, 1, 32, 32)
    y = torch.zeros_like(x)
    y[:,:,8:20,10:26] = 1
    smooth = F.avg_pool2d(F.pad(x, (1,1,1,1), mode='reflect'), 3, 1)
    x = torch.where(y>0, (smooth-.5)*3+.5, x)
    net = unet((8,16))
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert loss<.2 and ((net(x)>0)==y).float().mean()>.93

def test_linear():
    "The number of a pixel is the weighted sum of its neighbours, in the tile with mean 0 and standard deviation 1"
    net,x = neighbours(3),torch.rand(1, 1, 9, 9)
    conv,z = net[1],(x-x.mean())/(x.var(correction=0)+1e-5)**.5
    want = (conv.weight[0,0]*z[0,0,3:6,4:7]).sum()+conv.bias
    assert net(x)[0,0,4,5].item()==pytest.approx(want.item(), abs=1e-5) and count_params(net)==10

@pytest.mark.parametrize('kwargs', [dict(name='resnet'), dict(name='unet', depth=3), dict(name='unet', widths=()), dict(name='neighbours', ks=4)])
def test_refuses(kwargs):
    with pytest.raises(ValueError) as e: salt_model(**kwargs)
    names(e, kwargs['name'])
