"The wheel and the sdist install in an environment of their own, and the package works from there"
import os, pytest, site, sys, venv
from conftest import bin, root, sh

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    out = tmp_path_factory.mktemp('dist')
    src = out/'src'
    sh('sh', '-c', f'git ls-files -co --exclude-standard -z | tar c --null -T - | (mkdir {src} && tar x -C {src})')
    sh(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, src)
    return out

@pytest.fixture(params=['*.whl','*.tar.gz'])
def python(dist, request, tmp_path):
    "The Python of a new environment that sees this one's libraries, but the package only from the file"
    venv.create(tmp_path/'env', with_pip=True)
    py = tmp_path/'env'/'bin'/'python'
    libs = sh(py, '-c', 'import site; print(site.getsitepackages()[0])').strip()
    file, = dist.glob(request.param)
    sh(py, '-m', 'pip', 'install', '-q', 'setuptools>=77')
    sh(py, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--no-build-isolation', file)
    with open(f'{libs}/deps.pth', 'w') as f: f.write('\n'.join(site.getsitepackages()))
    return py

def test_installs(python, tmp_path):
    where = sh(python, '-c', 'import mnist_fast.all, mnist_fast; print(mnist_fast.__file__)', cwd=tmp_path)
    assert str(tmp_path/'env') in where
    assert sh(python.parent/'mnist_fast', '--help', cwd=tmp_path)==sh(python, '-m', 'mnist_fast', '--help', cwd=tmp_path).replace('-m mnist_fast', 'mnist_fast')
    sh(python, '-c', "from mnist_fast.inference.saved import load_model; load_model('full'), load_model('3v7')", cwd=tmp_path)

def test_twine(dist): sh(bin/'twine', 'check', '--strict', *dist.glob('mnist_fast-*'))

def test_hooks(tmp_path):
    "A clone with nbdev's hooks, as the README says, has no changes"
    sh('git', 'clone', '-q', root, tmp_path/'clone')
    for f in ('.gitattributes','.gitconfig'): (tmp_path/'clone'/f).write_bytes((root/f).read_bytes())
    git = 'git','-c','user.name=a','-c','user.email=a@b'
    sh('git', 'add', '-A', cwd=tmp_path/'clone')
    sh(*git, 'commit', '-q', '--allow-empty', '-m', 'now', cwd=tmp_path/'clone')
    sh(bin/'nbdev-install-hooks', cwd=tmp_path/'clone', env={**os.environ, 'HOME': str(tmp_path)})
    assert sh('git', 'status', '--porcelain', cwd=tmp_path/'clone')==''

def test_facts(dist):
    import zipfile, configparser
    wheel, = dist.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    meta = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('METADATA'))).decode()
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini')
    for o in cfg['DEFAULT']['requirements'].split(): assert f'Requires-Dist: {o}' in meta
    assert f"Requires-Python: >={cfg['DEFAULT']['min_python']}" in meta
    assert 'Provides-Extra: dev' in meta and 'License-Expression: Apache-2.0' in meta
    assert {n.split('/')[0] for n in names if not n.startswith('mnist_fast-')}=={'mnist_fast'}
    here = {str(o.relative_to(root)) for o in (root/'mnist_fast').rglob('*') if o.is_file() and '__pycache__' not in o.parts}
    assert here<={*names}
