"`FastSGD` makes the steps of `torch.optim.SGD`, bit for bit"
import pytest, torch
from conftest import names
from fastai.optimizer import Adam, RMSProp, SGD
from functools import partial
from hypothesis import given, settings, strategies as st
from math import inf, nan
from mnist_fast.optimizer import BasicOptim, FastSGD

shapes = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=5)
hypers = st.fixed_dictionaries(dict(lr=st.floats(0, 1), mom=st.sampled_from([0.,.5,.9]), wd=st.sampled_from([0.,1e-4,.1])))

def params(shapes, seed):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=gen).requires_grad_() for s in shapes]

def run(opt, groups, seed, steps, skip=()):
    "Steps with random gradients, none for the positions in `skip`"
    gen = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for i,p in enumerate(p for g in groups for p in g):
            grad = torch.randn(p.shape, generator=gen)
            p.grad = None if i in skip else grad
        opt.step()
        opt.zero_grad()
    return [p.detach() for g in groups for p in g]

@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(shapes, hypers), min_size=1, max_size=3), st.booleans(), st.integers(0, 99), st.integers(1, 6))
def test_equals_torch(groups, nesterov, seed, steps):
    shapes,hs = zip(*groups)
    mom = any(h['mom'] for h in hs)
    if mom: hs = [dict(h, mom=h['mom'] or .9) for h in hs]
    nesterov = nesterov and mom
    ours,theirs = ([params(s, seed+i) for i,s in enumerate(shapes)] for _ in range(2))
    a = FastSGD(ours, nesterov=nesterov, **{k: [h[k] for h in hs] for k in ('lr','mom','wd')})
    b = torch.optim.SGD([dict(params=p, lr=h['lr'], momentum=h['mom'], weight_decay=h['wd'], nesterov=nesterov) for p,h in zip(theirs, hs)])
    for x,y in zip(run(a, ours, seed, steps, skip={1}), run(b, theirs, seed, steps, skip={1})): assert torch.equal(x, y)

@settings(max_examples=30, deadline=None)
@given(shapes, st.floats(0, 1), st.integers(0, 99))
def test_basic_is_plain_sgd(shapes, lr, seed):
    ours,theirs = (params(shapes, seed) for _ in range(2))
    res = run(BasicOptim(ours, lr), [ours], seed, 3), run(torch.optim.SGD(theirs, lr=lr), [theirs], seed, 3)
    for x,y in zip(*res): torch.testing.assert_close(x, y)

@settings(max_examples=30, deadline=None)
@given(shapes, hypers, st.integers(0, 99))
def test_state_round_trip(shapes, h, seed):
    "An optimizer that loads the state makes the same steps, and shares no tensor with the first"
    ours,theirs = (params(shapes, seed) for _ in range(2))
    a,b = FastSGD(ours, **h),FastSGD(theirs, **h)
    run(a, [ours], seed, 3)
    for p,q in zip(ours, theirs): q.data.copy_(p.data)
    b.load_state_dict(a.state_dict())
    for x,y in zip(run(a, [ours], seed+1, 3), run(b, [theirs], seed+1, 3)): assert torch.equal(x, y)

@settings(max_examples=30, deadline=None)
@given(shapes, hypers, st.integers(0, 99), st.data())
def test_decay_of_some(shapes, h, seed, data):
    "Parameters with `do_wd=False` move as in a group of `torch.optim.SGD` without weight decay"
    on = data.draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
    ours,theirs = (params(shapes, seed) for _ in range(2))
    a = FastSGD(ours, **h)
    for p,o in zip(ours, on): a.state[p]['do_wd'] = o
    b = torch.optim.SGD([dict(params=[p], weight_decay=h['wd']*o) for p,o in zip(theirs, on)], lr=h['lr'], momentum=h['mom'])
    for x,y in zip(run(a, [ours], seed, 3), run(b, [theirs], seed, 3)): assert torch.equal(x, y)

def test_no_decay_where_do_wd_is_false():
    ps = params([(2,),(2,)], 0)
    opt = FastSGD(ps, lr=1., wd=.5)
    opt.state[ps[0]]['do_wd'] = False
    before = [p.detach().clone() for p in ps]
    for p in ps: p.grad = torch.zeros(2)
    opt.step()
    assert torch.equal(ps[0], before[0]) and torch.allclose(ps[1], before[1]*.5)

def test_a_schedule_does_not_turn_momentum_on():
    p, = params([(3,)], 0)
    opt = FastSGD([p], lr=.1)
    opt.set_hyper('mom', .9)
    q = p.detach().clone()
    for _ in range(2):
        p.grad = torch.ones(3)
        opt.step()
    assert torch.allclose(p, q-.2)

@pytest.mark.parametrize('hyper,v', [('mom',1.5), ('mom',1.), ('mom',-.1), ('mom',nan), *((k,v) for k in ('lr','wd') for v in (nan,inf,-1.,-inf))])
def test_refuses_numbers_that_ruin_the_weights(hyper, v):
    "Wherever they come from: constructor, schedule, one of several groups, a saved state; the good numbers stay"
    good,sets = dict(lr=.1, mom=.9, wd=.01),lambda opt: opt.set_hyper(hyper, v)
    bad = dict(good, **{hyper: v})
    state = lambda: FastSGD(params([(2,)], 0), **good).state_dict()
    opt = FastSGD(params([(2,)], 0), **good)
    ways = [lambda: FastSGD(params([(2,)], 0), **bad), lambda: sets(opt), lambda: opt.load_state_dict(dict(state(), hypers=[bad]))]
    ways.append(lambda: FastSGD([[o] for o in params([(2,),(2,)], 0)], .1).set_hyper(hyper, [.1,v]))
    for f in ways:
        with pytest.raises(ValueError) as e: f()
        names(e, f'{hyper} is {v}', 'less than (1|inf)')
    assert list(opt.hypers)==[good]

def test_refuses_hyperparameters_that_it_has_not():
    with pytest.raises(ValueError) as e: FastSGD(params([(2,)], 0), .1).set_hyper('moms', .9)
    names(e, 'moms', 'lr, mom, wd')

@pytest.mark.parametrize('cls', [BasicOptim, FastSGD])
@pytest.mark.parametrize('group', [tuple, list, iter, lambda o: dict(enumerate(o)).values()], ids=['tuple','list','generator','values'])
@pytest.mark.parametrize('outer', [tuple, list, iter])
def test_groups_of_any_kind(cls, group, outer):
    a,b,c = params([(2,),(3,),(1,)], 0)
    before = [p.detach().clone() for p in (a,b,c)]
    opt = cls(outer([group([a,b]),group([c])]), lr=[.1,1.])
    for p in (a,b,c): p.grad = torch.ones_like(p)
    opt.step()
    assert [len(o) for o in opt.param_lists]==[2,1]
    for p,q,lr in zip((a,b,c), before, (.1,.1,1.)): torch.testing.assert_close(p.detach(), q-lr)

@pytest.mark.parametrize('cls', [BasicOptim, FastSGD])
@pytest.mark.parametrize('bad', [[], ['w'], [dict(params=[torch.ones(1)])], [torch.ones(1),'w']], ids=str)
def test_refuses_what_is_no_parameter(cls, bad):
    with pytest.raises(TypeError) as e: cls(bad, .1)
    names(e, 'must hold tensors', 'list of tensors')

def test_slices_as_in_fastai():
    groups = lambda: [[o] for o in params([(2,),(2,),(2,)], 0)]
    h = dict(lr=slice(.01,1.), mom=slice(.9), wd=slice(.01))
    assert list(FastSGD(groups(), **h).hypers)==list(SGD(groups(), **h).hypers)

@pytest.mark.parametrize('other', [Adam, partial(RMSProp, mom=.9), partial(SGD, mom=.5, wd=.1), partial(BasicOptim)], ids=['adam','rmsprop','sgd','basic'])
@pytest.mark.parametrize('mom', [0.,.9])
def test_loads_the_state_of_another_optimizer(other, mom):
    "It goes on as fastai's `SGD` with L2 decay does, and keeps what it does not use; what is missing stays as it was"
    mine,theirs,first = (params([(3,),(2,2)], 0) for _ in range(3))
    start = other(first, lr=.1)
    run(start, [first], 1, 3)
    a,b = FastSGD(mine, lr=1., mom=mom),SGD(theirs, lr=1., mom=mom, decouple_wd=False)
    for opt in (a,b): opt.load_state_dict(start.state_dict())
    for h in b.hypers: h.setdefault('mom', mom), h.setdefault('wd', 0.)
    for x,y in zip(run(a, [mine], 2, 3), run(b, [theirs], 2, 3)): assert torch.equal(x, y)
    assert [*map(dict, a.hypers)]==[*map(dict, b.hypers)] and a.hypers[0]['lr']==.1
    if other is Adam: other(first, lr=.1).load_state_dict(a.state_dict())
