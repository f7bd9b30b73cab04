"Notebooks are clean, and what is made from them is in step with them"
import ast, pytest, re, shutil, sys
from conftest import bin, root, sh

@pytest.fixture
def copy(tmp_path):
    files = sh('git', 'ls-files', '-co', '--exclude-standard').split('\n')
    for f in filter(None, files):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        if (root/f).is_file(): shutil.copy(root/f, tmp_path/f)
    sh('git', 'init', '-q', cwd=tmp_path)
    sh('git', 'add', '-A', cwd=tmp_path)
    return tmp_path

@pytest.mark.parametrize('cmd', ['nbdev-export', 'nbdev-clean'])
def test_in_step(copy, cmd):
    sh(bin/cmd, cwd=copy)
    assert sh('git', 'diff', '--stat', cwd=copy)==''

def test_readme():
    sys.path.insert(0, str(root/'tools'))
    from readme import readme
    assert (root/'README.md').read_text(encoding='utf-8')==readme()

def test_each_module_has_its_notebook():
    mods = {o.stem for o in (root/'mnist_fast').glob('*.py')} - {'__init__','_modidx','all'}
    assert mods=={o.stem[3:] for o in (root/'nbs').glob('[0-9]*.ipynb')}

def test_imports_go_upwards():
    "A module imports only what the plan of modules lets it import"
    may = dict(data=[], baseline=['data'], loss=[], optimizer=[], model=[], callback=[], learner=['callback','data','loss','model','optimizer'],
        bench=['data','learner','loss','model','optimizer'], scratch=['loss'], interpret=['data'], inference=['model'], checkpoint=['inference'], distributed=['data'],
        report=['data','inference','interpret'], manual=['baseline','data','learner','loss','model','optimizer','scratch'])
    for mod,allowed in may.items():
        tree = ast.parse((root/'mnist_fast'/f'{mod}.py').read_text())
        used = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level==1 and n.module}
        assert used<=set(allowed), mod

def test_results_name_no_folder():
    "Results that are kept hold for every machine: no path of the one that made them"
    files = [*(root/'nbs/results').glob('*.json'), *(root/'bench/results').glob('*.json')]
    assert files and not [f'{o.name}: {p}' for o in files for p in re.findall(r'"(?:/|[A-Z]:\\)[^"]*"', o.read_text())]
