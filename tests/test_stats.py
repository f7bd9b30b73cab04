"Statistics of predictions: against textbook formulas, loops and scipy"
import math, numpy as np, pandas as pd, pytest
from conftest import names
from mnist_fast.stats import calibration_bins, calibration_error, class_table, holm, mcnemar, wilson
from scipy.stats import binomtest

each = pytest.mark.parametrize

@each('k,n', [(0,10), (10,10), (1,1), (9902,10000), (3,7)])
def test_wilson(k, n):
    "The textbook's formula"
    z,p = 1.959963984540054,k/n
    mid,half = (p+z*z/(2*n))/(1+z*z/n),z*math.sqrt(p*(1-p)/n+z*z/(4*n*n))/(1+z*z/n)
    assert wilson(k, n)==pytest.approx((mid-half,mid+half), abs=1e-9)

def test_wilson_level():
    "A higher level gives a wider interval"
    (a,d),(b,c) = wilson(97, 100, .99),wilson(97, 100, .9)
    assert a<b<.97<c<d

def test_class_table():
    "By hand; a class that is not there, and one that is never predicted"
    df = class_table(list('aabbbc'), list('abbbab'), list('abcd'))
    assert df.n.tolist()==[2,3,1,0] and df.correct.tolist()==[1,2,0,0]
    for k,v in dict(precision=[1/2,2/4,math.nan,math.nan], recall=[1/2,2/3,0,math.nan], f1=[.5,2*.5*(2/3)/(.5+2/3),0,math.nan]).items():
        assert df[k].tolist()==pytest.approx(v, nan_ok=True)
    assert df.loc['b',['low','high']].tolist()==pytest.approx(wilson(2, 3)) and df.loc['d'].iloc[2:].isna().all()

@each('n_bins', [1,7,10])
@each('seed', range(5))
def test_calibration(seed, n_bins):
    "Against loops; also with probabilities that lie on the edges of bins"
    rng = np.random.default_rng(seed)
    p = rng.random(200) if seed%2 else rng.integers(0, 2*n_bins+1, 200)/(2*n_bins)
    correct = rng.random(200)<p
    edges = np.linspace(0, 1, n_bins+1)
    where = [sum(o>e for e in edges[1:-1]) for o in p]
    groups = [g for b in range(n_bins) if (g := [i for i,w in enumerate(where) if w==b])]
    ece = sum(abs(correct[g].mean()-p[g].mean())*len(g)/200 for g in groups)
    assert calibration_error(p, correct, n_bins)==pytest.approx(ece)
    df = calibration_bins(p, correct, n_bins)
    assert df.n.tolist()==[len(g) for g in groups]
    for k,o in dict(probability=p, accuracy=correct).items(): assert df[k].tolist()==pytest.approx([o[g].mean() for g in groups])

@each('f', [calibration_bins,calibration_error])
@each('p,correct,n_bins', [([],[],10), ([.5],[1,0],10), ([.5],[1],0)])
def test_bad_calibration(f, p, correct, n_bins):
    with pytest.raises(ValueError) as e: f(p, correct, n_bins)
    names(e, f'{len(p)} prob', f'{len(correct)} results', f'{n_bins} bins', 'Give one or more')

@each('seed', range(3))
def test_mcnemar(seed):
    "Against scipy and a bootstrap that draws the items one by one"
    rng,n = np.random.default_rng(seed),300
    a,b = rng.random(n)<.95,rng.random(n)<.9
    o = mcnemar(a, b, seed)
    only_a,only_b = sum(x and not y for x,y in zip(a, b)),sum(y and not x for x,y in zip(a, b))
    assert (o['only_a'],o['only_b'])==(only_a,only_b) and o['difference']==pytest.approx(a.mean()-b.mean())
    assert o['p']==pytest.approx(binomtest(only_a, only_a+only_b).pvalue)
    draws = (1.*a-b)[rng.integers(0, n, (4000,n))].mean(1)
    # an end is a whole number of items (1/300 each); with 4,000 draws its standard error is below 1/900: one item of luck either way
    assert (o['low'],o['high'])==pytest.approx(np.quantile(draws, [.025,.975]).tolist(), abs=2.1/n)
    assert mcnemar(a, b, seed)==o and mcnemar(a, b, np.random.default_rng(seed))==o
    mirrored = mcnemar(b, a, seed)
    assert (mirrored['difference'],mirrored['p'])==pytest.approx((-o['difference'],o['p']))

def test_mcnemar_of_equals():
    "Models that are correct on the same items do not differ"
    o = mcnemar([1,0,1], [1,0,1])
    assert o==dict(difference=0, low=0, high=0, only_a=0, only_b=0, p=1)

@each('seed', range(3))
def test_holm(seed):
    "Against the definition: the largest product of a p-value up to this one and the number of those not below it"
    p = pd.Series(np.random.default_rng(seed).random(6)**4, index=list('fedcba'))
    want = [min(1, max((len(p)-sum(q<r for q in p))*r for r in p if r<=o)) for o in p]
    assert holm(p)[p.index].tolist()==pytest.approx(want)

def test_holm_keeps_the_order():
    p = pd.Series([.5,.01,.2])
    assert holm(p).index.tolist()==[0,1,2] and holm(p).tolist()==pytest.approx([.5,.03,.4])
