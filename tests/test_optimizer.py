"`FastSGD` makes the steps of `torch.optim.SGD`, bit for bit"
import torch
from hypothesis import given, settings, strategies as st
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
