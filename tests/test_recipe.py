"Recipes: each can be made, survives being saved, and a copy leaves the table alone"
import json, pickle, pytest, torch
from conftest import names
from hypothesis import given, strategies as st
from mnist_fast.loss import binary_cross_entropy
from mnist_fast.optimizer import FastSGD
from mnist_fast.recipe import get_recipe, loss_funcs, opt_funcs, recipe_loss, recipe_model, recipe_opt, recipes, scaled_bs

each = pytest.mark.parametrize('task,name', [(t,n) for t in recipes for n in recipes[t]])

@each
def test_each_recipe(task, name):
    "Model, loss and optimizer of each recipe work together for one step"
    r,n_out = recipes[task][name],1 if task=='3v7' else 10
    torch.manual_seed(0)
    model,loss = recipe_model(r, n_out),recipe_loss(r)
    opt = recipe_opt(r)(model.parameters(), lr=.1)
    before = [o.clone() for o in model.parameters()]
    y = torch.randint(n_out, (4,)) if n_out>1 else torch.tensor([[0],[1],[1],[0]])
    loss(model(torch.rand(4, 784)), y).backward()
    opt.step()
    assert model.config['name']==r['model'] and loss.__name__==r['loss'] and type(opt) is opt_funcs[r['opt']]
    assert any(not torch.equal(a, b) for a,b in zip(before, model.parameters()))

@each
def test_saved(task, name):
    "A recipe is data: it comes back from JSON, where a tuple becomes a list"
    def lists(o): return {k: lists(v) for k,v in o.items()} if isinstance(o, dict) else list(o) if isinstance(o, tuple) else o
    r = recipes[task][name]
    assert json.loads(json.dumps(r))==lists(r)

@each
def test_copy(task, name):
    "Whatever is done to a copy, the table stays"
    before = json.dumps(recipes)
    r = get_recipe(task, name)
    assert r==recipes[task][name] and get_recipe(task, r)==r and get_recipe(task, r) is not r
    for v in r.values():
        if isinstance(v, dict): v.clear()
    r.clear()
    assert json.dumps(recipes)==before

def test_unknown():
    with pytest.raises(ValueError) as e: get_recipe('4v9', 'cnn')
    names(e, 'There is no task', "'4v9'", '3v7, full')
    with pytest.raises(ValueError) as e: get_recipe('3v7', 'standard')
    names(e, 'There is no recipe', "'standard'", *recipes['3v7'])

def test_basic_optim():
    "`BasicOptim` has no momentum to be given"
    opt = recipe_opt(dict(opt='BasicOptim', mom=.9, wd=.1))
    assert opt.func is opt_funcs['BasicOptim'] and not opt.keywords
    opt = recipe_opt(dict(opt='FastSGD', mom=.8, wd=.1, nesterov=True, bs=3))
    assert opt.func is FastSGD and opt.keywords==dict(mom=.8, wd=.1, nesterov=True)

@given(st.integers(1, 512), st.integers(1, 10**6))
def test_scaled_bs(bs, n):
    "Never more than the recipe's, never fewer than 48 batches unless they would be of fewer than 8 items"
    res = scaled_bs(dict(bs=bs), n)
    assert res>=8 and (res<=bs or res==8) and (n//res>=48 or res==8)
    if n>=48*bs and bs>=8: assert res==bs

def test_smoothed_loss():
    "A loss with smoothing can be pickled, as `Learner.export` would, and still knows its probabilities and labels"
    loss = pickle.loads(pickle.dumps(recipe_loss(recipes['3v7']['speed'])))
    assert loss.decodes(loss.activation(torch.tensor([2.,-2.]))).tolist()==[1,0]
    out,y = torch.tensor([[2.],[-1.]]),torch.tensor([[1],[0]])
    assert torch.equal(loss(out, y), binary_cross_entropy(out, y, ls=.1))
    assert recipe_loss(recipes['3v7']['linear']) is loss_funcs['mnist_loss']
