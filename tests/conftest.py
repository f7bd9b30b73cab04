"What the tests share"
import os, pytest, re, resource, subprocess, sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'agg')
root = Path(__file__).parent.parent
bin = Path(sys.executable).parent
has_mnist = bool(os.environ.get('MNIST_FAST_DATA'))
needs_mnist = pytest.mark.skipif(not has_mnist, reason='MNIST_FAST_DATA names no folder with MNIST')

def sh(*args, cwd=root, **kwargs):
    "Run a program of this environment and give back what it printed; the output is shown where it fails"
    res = subprocess.run([str(o) for o in args], cwd=cwd, text=True, capture_output=True, **kwargs)
    assert res.returncode==0, f'{args}\n{res.stdout}\n{res.stderr}'
    return res.stdout

longest = 'test_learner test_cli test_bench_peers test_run_distributed test_onnx test_tutorials test_bench_ladder'.split()

def pytest_collection_modifyitems(items):
    "The files that last longest begin, so that two processes end at about the same time"
    order = {o: i for i,o in enumerate(longest)}
    items.sort(key=lambda o: order.get(o.path.stem, len(order)))

@contextmanager
def full_disk(size):
    "No file can become larger than `size` bytes"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size,old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)

@contextmanager
def quiet(learn):
    "A `Learner` without progress bars and without a line an epoch"
    with learn.no_bar(), learn.no_logging(): yield learn

def one_sentence(text, *words, start='mnist_fast: '):
    "`text` is one line, free of Python's own noise, that names each of `words` (regular expressions)"
    assert re.fullmatch(re.escape(start)+r'[^\n]+\n', text), text
    assert not re.search(r'Traceback|Errno|[a-z]Error|Exception|object at 0x', text), text
    for w in words: assert re.search(w, text), (w, text)

def names(error, *words):
    "An exception's message is one clear sentence that names each of `words` (regular expressions): the file, the value, what to do"
    text = re.sub(r'^Exception occured in .* when calling event .*:\s*', '', str(getattr(error, 'value', error)))
    one_sentence(text+'\n', *words, start='')

def damaged(data):
    "Copies of a file's bytes, each damaged in another way, by name"
    flipped = bytearray(data)
    flipped[len(data)//2] ^= 255
    return dict(empty=b'', cut=data[:-1], half=data[:len(data)//2], flipped=bytes(flipped), text=b'not what it should be', pickle=b'\x80\x04N.')

def same_weights(a, b):
    "Two models with the same weights and buffers, bit by bit"
    import torch
    a,b = a.state_dict(),b.state_dict()
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
