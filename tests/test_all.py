"The public names: there, documented, and not in fastai's way"
import importlib, inspect, pytest, re
from conftest import root
from fastcore.docments import docments

mods = ['.'.join(o.relative_to(root).with_suffix('').parts) for o in (root/'mnist_fast').rglob('*.py') if o.name not in ('__init__.py','_modidx.py','all.py')]
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
    "Only three names of fastai's have another function here: save_model and load_model, which use no pickle, and sigmoid"
    import fastai.vision.all as fv, mnist_fast.all as a
    ours = {n for _,n in public if hasattr(fv, n) and getattr(fv, n) is not getattr(a, n, getattr(fv, n))}
    assert ours=={'sigmoid','save_model','load_model'}
    assert a.Learner is fv.Learner and a.SGD is fv.SGD and a.accuracy is fv.accuracy
