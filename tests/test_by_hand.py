"Each pair of the table gives the same numbers by hand and with the library, but for rounding"
import pytest, torch
from math import isnan
from mnist_fast.by_hand import by_hand_pairs, compare_pair
from mnist_fast.data.source import get_digits
from mnist_fast.data.loader import three_seven_dls

digits,eps = get_digits('digits'),2**-23 # eps of float32
pairs = by_hand_pairs(digits, seed=3)
xb,_ = three_seven_dls(digits, bs=200, seed=3).train.one_batch()
l1,l2 = xb.sum(1).max().item(),xb.norm(dim=1).max().item() # the largest of the images, in 0..1

def sum_eps(n, total): return n*eps*total # two sums of the same `n` terms, whose absolute values add up to `total`, differ by less

layer = sum_eps(785, l1/28+1) # weights and biases of nn.Linear(784, 30) are below 1/28
gradient = 1e-4**2/48 + 784*2**-52*l1/1e-4 # central differences with h=1e-4, third derivative below 1/8; rounding of float64
rounding = {'mean of each image': sum_eps(784, 1), 'the ideal digit': sum_eps(len(xb), 1), # means of pixels
    'matrix product': sum_eps(784, l1), # random weights, absolute value 0.8 on average
    'distance of each image': sum_eps(784, 1), 'L1': sum_eps(784, 1), 'L2': sum_eps(784, 1), 'gradient': gradient, 'linear layer': layer,
    'simple_net': 30**.5*layer + sum_eps(31, 30**.5*l1/28), # 30 weights below 30**-.5
    'sigmoid': sum_eps(8, 1), 'softmax': sum_eps(30+8, 1), # 8: exp, quotient and the like, each a few roundings of a value up to 1
    'mnist_loss': sum_eps(16+8, 1), 'cross-entropy': sum_eps(10+8, 5*l2), # outputs are normal with standard deviation l2 at most
    'binary cross-entropy': sum_eps(8, 1+5*l2/9)}
# The same operations in the same order
exact = {'a stack of images', 'the threes', 'ReLU', 'accuracy', 'a step', 'mini-batches', 'two epochs'}

def test_limits():
    "Each pair has a limit or is exact"
    assert {o[0] for o in pairs}==exact|{*rounding} and not exact&{*rounding}

@pytest.mark.parametrize('pair', pairs, ids=[f'{o[0]}, {o[2]}' for o in pairs])
def test_pair(pair):
    row = compare_pair(*pair, n=1)
    assert row['difference']<=rounding.get(pair[0], 0) and row['correlation']>.99999
    assert row['by_hand_s']>0 and row['library_s']>0

def test_numbers_vary():
    "No pair compares nothing or one constant"
    assert all(pair[3]().detach().double().std()>0 for pair in pairs)

def test_compare_pair():
    with pytest.raises(ValueError, match='2 numbers by hand, 3 from the library'):
        compare_pair('x', 'a', 'b', lambda: torch.zeros(2), lambda: torch.zeros(3))
    assert compare_pair('x', 'a', 'b', lambda: torch.tensor([1.,2,3]), lambda: torch.tensor([1.,2,5]), n=1)['difference']==2
    assert isnan(compare_pair('x', 'a', 'b', lambda: torch.ones(1), lambda: torch.ones(1), n=1)['correlation'])
