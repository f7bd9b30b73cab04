"The public names: there, documented, and not in fastai's way"
import importlib, inspect, pytest, re, torch
from conftest import names, root
from fastcore.docments import docments

mods = ['.'.join(o.relative_to(root).with_suffix('').parts) for o in (root/'mnist_fast').rglob('*.py') if o.name not in ('__init__.py','__main__.py','_modidx.py','all.py')]
public = [(m,n) for m in mods for n in importlib.import_module(m).__all__]
objs = [(f'{m}.{n}', getattr(importlib.import_module(m), n)) for m,n in public]
codes = [(n,o) for n,o in objs if inspect.isfunction(o) or inspect.isclass(o)]
methods = [(f'{n}.{k}',f) for n,c in codes if inspect.isclass(c) for k,f in vars(c).items() if inspect.isfunction(f) and k[0]!='_']

@pytest.mark.parametrize('name,o', codes+methods, ids=lambda o: o if isinstance(o, str) else '')
def test_docstring(name, o):
    "One line; events of callbacks and PyTorch's and fastai's own methods have their meaning from there"
    if re.search(r'[.](forward|decode_batch|(before|after)_[a-z_]+)$', name): return
    assert o.__doc__ and len(o.__doc__.splitlines())==1, name

@pytest.mark.parametrize('name,o', codes, ids=lambda o: o if isinstance(o, str) else '')
def test_docments(name, o):
    if inspect.isclass(o) and '__init__' not in vars(o): return
    f = o.__init__ if inspect.isclass(o) else o
    missing = [k for k,v in docments(f, full=True, returns=False).items() if k!='self' and v.kind!=v.kind.VAR_KEYWORD and not v.docment]
    assert not missing, f'{name}: {missing}'

def test_names_of_the_plan():
    import mnist_fast.all as a
    names = '''get_digits TensorDL three_seven_dls mnist_dls mnist_distance is_3 PixelSimilarity sigmoid mnist_loss mnist_loss10 batch_accuracy
        BasicOptim FastSGD mnist_model simple_net three_seven_learner mnist_learner recipes init_params linear1 calc_grad train_epoch validate_epoch
        train_model save_model load_model Learner accuracy Checkpoint History run_report compare_runs wilson digit_image FastLearner StopAt
        train_run resume_run class_probs count_params'''.split()
    assert [n for n in names if not hasattr(a, n)]==[]

def test_fastai_keeps_its_names():
    "All names of the chapter's cells are here; only three have another function: save_model and load_model, which use no pickle, and sigmoid"
    import fastai.vision.all as fv, mnist_fast.all as a
    theirs = [o for o in dir(fv) if o[0]!='_']
    assert {n for n in theirs if getattr(a, n, None) is not getattr(fv, n)}=={'sigmoid','save_model','load_model'}
    assert {'Image','ImageDataLoaders','resnet18','untar_data','show_image','vision_learner','F','nn','plt','pd'}<={*theirs}

def test_the_books_calls_show_the_call_that_works():
    import mnist_fast.all as a
    from mnist_fast import scratch
    x = torch.rand(2, 784)
    w,b = a.init_params((784,1)),a.init_params(1)
    model,dls = lambda xb: a.linear1(xb, w, b),a.three_seven_dls('digits')
    calls = {'linear1(xb, weights, bias)': lambda: a.linear1(x), 'is_3(x, mean3, mean7)': lambda: a.is_3(x), 'validate_epoch(model, dl)': lambda: a.validate_epoch(model),
        'train_epoch(model, dl, opt)': lambda: a.train_epoch(model), 'train_model(model, dls, opt, epochs)': lambda: a.train_model(model, 20),
        'calc_grad(xb, yb, model)': lambda: a.calc_grad(x, model), 'apply_step(params, t, speed)': lambda: scratch.apply_step(w, prn=False)}
    for call,f in calls.items():
        with pytest.raises(TypeError) as e: f()
        names(e, f'Call {re.escape(call)}')
    for params in ((w,b), [w,b]):
        with pytest.raises(TypeError) as e: a.train_epoch(model, 1., params)
        names(e, type(params).__name__, re.escape('train_epoch(model, dl, opt)'))

@pytest.mark.parametrize('name', ['simple_net','linear','cnn'])
def test_a_function_in_place_of_its_model(name):
    import mnist_fast.all as a
    from mnist_fast import scratch
    f,dls = getattr(a, name),a.three_seven_dls('digits')
    learners = [lambda: a.Learner(dls, f, a.mnist_loss).fit(1), lambda: a.Learner(dls, f, a.mnist_loss).validate(),
        lambda: scratch.Learner(dls, f).fit(1), lambda: scratch.Learner(dls, f).validate(), lambda: a.three_seven_learner(dls, model=f)]
    for use in [lambda: f(torch.rand(2, 784)), lambda: a.count_params(f), lambda: a.BasicOptim(f.parameters(), .1), *learners]:
        with pytest.raises(TypeError) as e: use()
        names(e, re.escape(f'Learner(dls, {name}())'), re.escape(f'{name}()(xb)'))

def test_an_error_inside_is_shown_as_it_is():
    "Only a wrong call gets the sentence about the call"
    from mnist_fast.scratch import calc_grad
    def broken(xb): raise TypeError('from the model')
    with pytest.raises(TypeError, match='^from the model$'): calc_grad(1, 2, broken)
