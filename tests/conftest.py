"What the tests share"
import os, pytest, resource, subprocess, sys
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

@contextmanager
def full_disk(size):
    "No file can become larger than `size` bytes"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size,old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
