"States as files: everything comes back as it was, and a broken file is never loaded"
import json, numpy as np, pytest, torch
from conftest import damaged, full_disk, names
from fastai.learner import AvgLoss, AvgSmoothLoss
from fastcore.foundation import L
from hypothesis import given, settings, strategies as st
from mnist_fast.callback.training import EMA
from mnist_fast.run import state as run_state
from mnist_fast.run.state import cb_state, dl_rng_state, load_cb_state, load_state, rng_state, save_state, set_dl_rng_state, set_rng_state
from safetensors import safe_open

numbers = st.none()|st.booleans()|st.integers(-2**70, 2**70)|st.floats(allow_nan=False)|st.text()
keys = st.text()|st.integers()|st.tuples(st.integers(), st.text())
nested = st.recursive(numbers, lambda o: st.lists(o)|st.tuples(o, o)|st.dictionaries(keys, o), max_leaves=20)

@given(nested)
@settings(deadline=None, max_examples=50)
def test_plain_data(tmp_path_factory, o):
    "Numbers, strings, lists, tuples and dictionaries, nested in any way, keep their types and values"
    path = tmp_path_factory.getbasetemp()/'plain.safetensors'
    save_state(path, o)
    assert repr(load_state(path))==repr(o)

def test_long_lists(tmp_path):
    "A long list comes back as a list of the same type, with items of the same types and values"
    o = dict(ints=[*range(200)], floats=(*(i/7 for i in range(200)),), mixed=[*range(100), .5], bools=[True]*150,
        numbers=L(torch.tensor(i/7) for i in range(150)), big=[2**40]*100)
    save_state(tmp_path/'a', o)
    back = load_state(tmp_path/'a')
    for k,v in o.items(): assert type(back[k])==type(v) and [*map(type, back[k])]==[*map(type, v)] and [*back[k]]==[*v], k

@pytest.mark.parametrize('dtype', [torch.float64,torch.float16,torch.bfloat16,torch.uint8,torch.int64,torch.bool])
def test_tensors(dtype, tmp_path):
    "Type, values and strides; also of a tensor without a dimension, and of one without items"
    x = torch.arange(24).reshape(2,3,2,2).to(dtype)
    pixel = x[...,:1,:1].contiguous(memory_format=torch.channels_last) # PyTorch calls it contiguous, with strides that are not
    o = dict(plain=x, channels_last=x.contiguous(memory_format=torch.channels_last), pixel=pixel, turned=x.transpose(0, 1), number=x[0,1,0,0], none=x[:0])
    save_state(tmp_path/'a', o)
    back = load_state(tmp_path/'a')
    for k,v in o.items(): assert back[k].dtype==dtype and torch.equal(back[k], v) and (k=='none' or back[k].stride()==v.stride()), k

@pytest.mark.parametrize('dtype', ['float32','float64','uint8','int64','bool'])
def test_arrays(dtype, tmp_path):
    x = np.arange(12).reshape(3, 4).astype(dtype)
    save_state(tmp_path/'a', dict(x=x, turned=x.T, one=x[1,1]))
    back = load_state(tmp_path/'a')
    assert back['x'].dtype==x.dtype and (back['x']==x).all() and (back['turned']==x.T).all() and back['one']==x[1,1].item()
    back['x'][0,0] = 1

def test_no_pickle(tmp_path):
    "The file is safetensors, and its header JSON"
    save_state(tmp_path/'a', dict(x=torch.rand(3), y=[1,2]))
    with safe_open(tmp_path/'a', 'pt') as f: assert json.loads(f.metadata()['state'])=={'dict': [['x', {'tensor': [0,[1],'cpu']}], ['y', {'list': [1,2]}]]}

@pytest.mark.parametrize('how', damaged(b'xx'))
def test_damaged(how, tmp_path):
    path = tmp_path/'state.safetensors'
    save_state(path, dict(x=torch.rand(300), y=[1,2]))
    path.write_bytes(damaged(path.read_bytes())[how])
    with pytest.raises(ValueError) as e: load_state(path)
    names(e, str(path), 'damaged', 'Delete it')

def test_each_byte_counts(tmp_path):
    "A changed bit anywhere in the file is found"
    path = tmp_path/'state.safetensors'
    save_state(path, dict(x=torch.rand(3), y=[1,2]))
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i]+bytes([data[i]^1])+data[i+1:])
        with pytest.raises(ValueError): load_state(path)

def test_of_another_version(tmp_path, monkeypatch):
    path = tmp_path/'state.safetensors'
    with monkeypatch.context() as m:
        m.setattr(run_state, '_format', 'mnist_fast checkpoint, version 1')
        save_state(path, dict(x=1))
    with pytest.raises(ValueError) as e: load_state(path)
    names(e, str(path), 'version 1', 'version 2', 'another folder')

def test_another_safetensors_file(tmp_path):
    from safetensors.torch import save_file
    save_file(dict(w=torch.rand(2)), tmp_path/'model.safetensors')
    with pytest.raises(ValueError) as e: load_state(tmp_path/'model.safetensors')
    names(e, 'model.safetensors', 'not a checkpoint')

def test_no_file(tmp_path):
    with pytest.raises(ValueError) as e: load_state(tmp_path/'none')
    names(e, 'none', 'cannot be read')

def test_full_disk(tmp_path):
    "The old file stays as it was"
    path = tmp_path/'a'
    save_state(path, dict(x=torch.zeros(10)))
    before = path.read_bytes()
    with full_disk(20_000), pytest.raises(OSError) as e: save_state(path, dict(x=torch.rand(10_000)))
    names(e, str(path), 'cannot be written')
    assert path.read_bytes()==before and [*tmp_path.iterdir()]==[path]

def test_process_rng():
    "All three generators give the same numbers again"
    import random
    def draw(): return random.random(),np.random.rand(3).tolist(),torch.rand(3).tolist(),random.gauss(0, 1),np.random.randn(),torch.randn(1).item()
    state = rng_state()
    before = draw()
    assert draw()!=before
    set_rng_state(state)
    assert draw()==before

@pytest.mark.parametrize('workers', [0,1])
def test_loader_rng(workers):
    "PyTorch's loader and its sampler draw from a generator of their own"
    gen = torch.Generator().manual_seed(3)
    dl = torch.utils.data.DataLoader([*range(20)], 5, shuffle=True, generator=gen, num_workers=workers)
    states = dl_rng_state(dl)
    order = torch.cat([*dl]).tolist()
    set_dl_rng_state(dl, states)
    assert torch.cat([*dl]).tolist()==order!=sorted(order)

def test_state_of_metrics():
    "Settings are not part of the state; sums and counts are"
    m = AvgSmoothLoss(beta=.9)
    m.count,m.val = 3,torch.tensor(.5)
    assert cb_state(m)==dict(count=3, val=torch.tensor(.5))
    other = AvgSmoothLoss(beta=.5)
    load_cb_state(other, cb_state(m))
    assert (other.beta,other.count,other.val)==(.5,3,torch.tensor(.5))

def test_state_of_callbacks():
    "A metric within a callback by its own state, a module by its `state_dict`; an open file, settings and the `Learner` are left out"
    cb,other = EMA(.9),EMA(.9)
    cb.loss,cb.net,cb.file,cb.learn,cb.seen = AvgLoss(),torch.nn.Linear(2, 1),open(__file__),object(),[1,2]
    other.loss,other.net = AvgLoss(),torch.nn.Linear(2, 1)
    cb.loss.total,cb.loss.count = torch.tensor(2.),4
    state = cb_state(cb)
    cb.file.close()
    assert {'loss','net','seen'}<=set(state) and not {'file','learn','decay'}&set(state)
    load_cb_state(other, state)
    assert other.loss.count==4 and other.seen==[1,2] and torch.equal(other.net.weight, cb.net.weight)
