"Each notebook is a test, run by nbdev's own runner in a process of its own"
import os, pytest
from conftest import bin, has_mnist, root, sh

nbs = sorted(o.relative_to(root) for o in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)

@pytest.mark.parametrize('nb', nbs, ids=str)
def test_notebook(nb):
    sh(bin/'nbdev-test', nb, '--flags', 'mnist slow' if has_mnist else 'slow', env={**os.environ, 'OMP_NUM_THREADS': '2'})
