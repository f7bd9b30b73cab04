"Each row of the table of manual against API: the same numbers from both"
import pytest, torch
from mnist_fast.data.source import get_digits
from mnist_fast.by_hand import compare_pair, by_hand_pairs

pairs = by_hand_pairs(get_digits('digits'), seed=3)

@pytest.mark.parametrize('pair', pairs, ids=[f'{o[0]}, {o[2]}' for o in pairs])
def test_pair(pair):
    row = compare_pair(*pair, n=1)
    assert row['difference']<1e-5 and row['correlation']>.99999 and row['manual_s']>0 and row['api_s']>0

def test_numbers_differ():
    "No pair compares constants or nothing: the numbers vary within each"
    assert all(pair[3]().detach().double().std()>0 for pair in pairs)

def test_apart():
    with pytest.raises(ValueError, match='2 numbers by hand, 3 by the library'): compare_pair('x', 'a', 'b', lambda: torch.zeros(2), lambda: torch.zeros(3))
    assert compare_pair('x', 'a', 'b', lambda: torch.tensor([1.,2,3]), lambda: torch.tensor([1.,2,5]), n=1)['difference']==2
