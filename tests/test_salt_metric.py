"The competition's score: cases by hand, against a slow program, and as a metric of a Learner"
import pytest, torch
from conftest import names, quiet
from fastai.basics import DataLoaders, SimpleNamespace, nn, noop
from hypothesis import given, settings, strategies as st

from mnist_fast.data.loader import TensorDL
from mnist_fast.learner import FastLearner
from mnist_fast.loss import binary_cross_entropy
from mnist_fast.salt.metric import SaltScore, mask_iou, salt_score, salt_scores

def row(n, start=0, size=40):
    "A mask of one row with `n` ones"
    m = torch.zeros(1, 1, size)
    m[0,0,start:start+n] = 1
    return m

def slow_score(pred, targ):
    "The rules, one image and one threshold at a time"
    p,t = [{i for i,o in enumerate(m.flatten().tolist()) if o} for m in (pred,targ)]
    if not t: return float(not p)
    return sum(len(p&t)/len(p|t)>t100/100+1e-9 for t100 in range(50, 100, 5))/10

def test_empty():
    empty,full = torch.zeros(1, 4, 4),torch.ones(1, 4, 4)
    assert salt_scores(empty, empty).tolist()==[1] and mask_iou(empty, empty).tolist()==[1]
    assert salt_scores(full, empty).tolist()==[0] and salt_scores(empty, full).tolist()==[0] and salt_scores(full, full).tolist()==[1]
    one = empty.clone()
    one[0,3,3] = 1
    assert salt_scores(one, empty).tolist()==[0] and mask_iou(one, empty).tolist()==[0] and salt_scores(one, one).tolist()==[1]

@pytest.mark.parametrize('both,either,score', [(10,20,0.), (11,20,.1), (14,20,.4), (7,10,.4), (19,20,.9), (20,20,1.), (3,5,.2), (1,40,0.), (17,20,.7), (21,40,.1)])
def test_exactly_at_a_threshold(both, either, score):
    "An IoU of exactly 0.5, 0.55, 0.7, ... is not above that threshold"
    pred,targ = row(both),row(either)
    assert mask_iou(pred, targ).item()==pytest.approx(both/either) and salt_scores(pred, targ).item()==pytest.approx(score)
    assert salt_scores(targ, pred).item()==pytest.approx(score)

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.sampled_from([.1,.5,.9,1.]))
def test_against_a_slow_program(seed, n, side, part):
    gen = torch.Generator().manual_seed(seed)
    targ = torch.rand(n, 1, side, side, generator=gen)<part
    pred = targ^(torch.rand(n, 1, side, side, generator=gen)<.15)
    want = [slow_score(p, t) for p,t in zip(pred, targ)]
    assert salt_scores(pred, targ).tolist()==pytest.approx(want) and salt_score(pred, targ)==pytest.approx(sum(want)/n)

def test_refuses():
    m = torch.zeros(2, 4, 4)
    for a,b,word in ((m,m[:1],'shapes'), (m,m[:,None],'shapes'), (m[0],m[0],'shapes'), (m+.5,m,'0.5'), (m,m+255,'255')):
        with pytest.raises(ValueError) as e: salt_scores(a, b)
        names(e, word)
        with pytest.raises(ValueError): mask_iou(a, b)
    for t in (0, 1, -1, float('nan')):
        with pytest.raises(ValueError) as e: SaltScore(t)
        names(e, 'threshold')

@pytest.fixture
def masks():
    gen = torch.Generator().manual_seed(1)
    targ = torch.rand(10, 1, 6, 6, generator=gen)<torch.linspace(0, 1, 10)[:,None,None,None]
    return torch.where(targ, 1., -1.)+.9*torch.randn(10, 1, 6, 6, generator=gen),targ.byte()

@pytest.mark.parametrize('bs', [1, 3, 4, 64])
def test_metric_of_a_learner(masks, bs):
    "A mean over images for any batch size, for each epoch anew"
    out,targ = masks
    x = (out-out.min())/(out.max()-out.min()) # the model below undoes it
    dl = TensorDL(x, targ, bs=bs)
    model = nn.Conv2d(1, 1, 1)
    model.weight.data.fill_(out.max()-out.min())
    model.bias.data.fill_(out.min())
    learn = FastLearner(DataLoaders(dl, dl), model, binary_cross_entropy, metrics=[SaltScore(),SaltScore(.9)])
    with quiet(learn):
        for _ in range(2):
            _,half,nine = learn.validate()
            assert half==pytest.approx(salt_score(out>0, targ.bool()), abs=1e-6) and nine==pytest.approx(salt_score(out.sigmoid()>.9, targ.bool()), abs=1e-6)

def test_not_the_mean_of_batches(masks):
    out,targ = masks
    metric,means = SaltScore(),[]
    metric.reset()
    for a,b in ((0,7),(7,10)):
        metric.accumulate(SimpleNamespace(pred=out[a:b], yb=(targ[a:b],), to_detach=noop))
        means.append(salt_score(out[a:b]>0, targ[a:b]))
    assert metric.value==pytest.approx(salt_score(out>0, targ)) and abs(metric.value-sum(means)/2)>.01
    metric.reset()
    assert metric.value is None
