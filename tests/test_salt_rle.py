"Run-length codes: there and back, against a slow loop, and codes that are wrong"
import numpy as np, pandas as pd, pytest, torch
from conftest import names
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mnist_fast.data.idx import DataError
from mnist_fast.salt.rle import rle_decode, rle_encode

def slow_code(mask):
    "Pixel by pixel, column by column"
    h,w = mask.shape
    runs,last = [],0
    for k in range(1, h*w+1):
        now = mask[(k-1)%h,(k-1)//h]
        if now and not last: runs.append([k,0])
        if now: runs[-1][1] += 1
        last = now
    return ' '.join(f'{a} {n}' for a,n in runs)

def slow_mask(code, shape):
    res = np.zeros(shape, np.uint8)
    numbers = list(map(int, code.split()))
    for a,n in zip(numbers[::2], numbers[1::2]):
        for k in range(a, a+n): res[(k-1)%shape[0],(k-1)//shape[0]] = 1
    return res

@settings(max_examples=200, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)))
def test_there_and_back(mask):
    code = rle_encode(mask)
    assert code==slow_code(mask) and (rle_decode(code, mask.shape)==mask).all() and (slow_mask(code, mask.shape)==mask).all()

@pytest.mark.parametrize('part', [.01, .3, .9])
def test_a_whole_tile(part):
    mask = (np.random.default_rng(0).random((101,101))<part).astype(np.uint8)
    assert rle_encode(mask)==slow_code(mask) and (rle_decode(rle_encode(mask))==mask).all()

def test_corners():
    for (i,j),code in {(0,0): '1 1', (100,100): '10201 1', (100,0): '101 1', (0,100): '10101 1'}.items():
        mask = np.zeros((101,101), np.uint8)
        mask[i,j] = 1
        assert rle_encode(mask)==code and (rle_decode(code)==mask).all()
    assert rle_encode(np.zeros((101,101)))=='' and rle_encode(np.ones((101,101)))=='1 10201'
    assert rle_decode('1 10201').all() and not rle_decode('').any()

def test_forms():
    "Booleans, tensors, an axis of length 1; a code with runs that touch, or more space; an empty cell of pandas"
    mask = np.array([[0,1],[1,1]])
    for o in (mask.astype(bool), mask.astype(float), torch.tensor(mask), torch.tensor(mask).bool()[None]): assert rle_encode(o)=='2 3'
    assert (rle_decode(' 2 1  3 2 ', (2,2))==mask).all() and rle_decode('2 3', (2,2)).dtype==np.uint8
    for o in (None, float('nan'), '', ' '): assert not rle_decode(o, (2,2)).any()

wrong = {'1': 'without a length', '1 2 3': '3 numbers', '0 5': 'first pixel is 1', '3 0': 'first pixel is 1', '1 -2': 'whole numbers', '-1 2': 'whole numbers', '1 3 3 2': 'overlap',
    '5 1 1 1': 'order', '5 1 5 1': 'overlap', '16 2': 'ends at pixel 17', '17 1': '17', 'salt': 'whole', '1.5 2': 'whole', '1,2': 'whole', '1 99999999999999999999': 'ends at pixel 99999999999999999999', '٣ 1': 'whole'}

@pytest.mark.parametrize('code', wrong)
def test_refused(code):
    with pytest.raises(DataError) as e: rle_decode(code, (4,4), name='train.csv, id 5d2f')
    names(e, 'train.csv, id 5d2f', wrong[code])

def test_refuses_masks():
    for o,word in ((np.full((2,2), 255),'255'), (np.array([[0,1,7]]),'value 7'), (np.array([[0,.5]]),'0.5'), (np.zeros((2,2,2)),'shape'), (np.zeros(4),'shape'), (np.array([[np.nan]]),'nan')):
        with pytest.raises(ValueError) as e: rle_encode(o)
        names(e, word)
    for o,word in ((5,'int'), (np.zeros(3),'ndarray'), (pd.NA,'NAType'), (['1 2'],'list')):
        with pytest.raises(DataError) as e: rle_decode(o, name='5d2f')
        names(e, '5d2f', word)
