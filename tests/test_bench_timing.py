"Times are taken in turn and compared round by round; a recipe's accuracies are those of its seeds. No time is tested here"
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from mnist_fast.bench.timing import epoch_rows, exhaust, loader_rows, ratio_row, recipe_row, step_rows, time_in_turn
from mnist_fast.data.idx import Digits
from mnist_fast.data.source import get_digits
from mnist_fast.learner import run_recipe

digits = get_digits('digits')
few = Digits(*[o[:300] for o in digits[:4]], digits.source)
seconds = st.lists(st.tuples(st.floats(.01, 100), st.floats(.01, 100)), min_size=1, max_size=9)

@settings(deadline=None)
@given(seconds)
def test_ratio_row(times):
    "The ratio is the median of the ratios of the rounds, not the ratio of the medians"
    ours,theirs = map(list, zip(*times))
    row = ratio_row('t', 'a', ours, 'b', theirs)
    ratios = np.divide(theirs, ours)
    assert (row['task'],row['ours'],row['peer'],row['n'])==('t','a','b',len(ours))
    assert row['ours_s']==pytest.approx(np.median(ours)) and row['peer_s']==pytest.approx(np.median(theirs))
    assert [row[k] for k in ('lowest','ratio','highest')]==pytest.approx([ratios.min(),np.median(ratios),ratios.max()])

def test_time_in_turn():
    "A warm-up, then round after round; the warm-up is not counted; the first function is compared with each of the others"
    calls = []
    rows = time_in_turn('t', {k: lambda k=k: calls.append(k) for k in 'abc'}, n=3)
    assert ''.join(calls)=='abc'*4
    assert [(r['task'],r['ours'],r['peer'],r['n']) for r in rows]==[('t','a','b',3),('t','a','c',3)]

def test_exhaust():
    "All batches are taken"
    seen = []
    exhaust(seen.append(o) for o in range(5))
    assert seen==[*range(5)]

parts = dict(loader=(lambda: loader_rows(few, 1),'TensorDL',2), steps=(lambda: step_rows(1, 2),'FastSGD',3),
    epoch=(lambda: epoch_rows(few, 'simple_net', 1, n_hidden=50),'FastLearner, TensorDL, FastSGD',3))

@pytest.mark.parametrize('part', parts)
def test_parts(part):
    "Each part is compared with all its peers, each of them once"
    f,ours,n_peers = parts[part]
    rows = f()
    assert {r['ours'] for r in rows}=={ours} and len({r['peer'] for r in rows})==len(rows)==n_peers
    assert all(r['ours_s']>0 and r['peer_s']>0 and r['n']==1 for r in rows)

def test_recipe_row():
    "The same seed gives the same accuracy; the mean is that of the runs"
    a,b = (recipe_row(digits, '3v7', 'speed', range(3)) for _ in range(2))
    assert a['accuracies']==b['accuracies'] and a['accuracy']==pytest.approx(np.mean(a['accuracies']))
    assert a['accuracy_sd']==pytest.approx(np.std(a['accuracies'], ddof=1))
    assert (a['lowest'],a['highest'],a['n'])==(min(a['accuracies']),max(a['accuracies']),3)
    assert run_recipe(digits, '3v7', 'speed', 1)['accuracy']==a['accuracies'][1]

def test_recipe_row_of_one_seed():
    "One run has no standard deviation"
    assert recipe_row(few, '3v7', 'linear', range(1))['accuracy_sd'] is None
