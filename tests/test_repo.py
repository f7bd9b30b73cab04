"Notebooks are clean, what is made from them is in step with them, and the rules of the house hold"
import ast, json, pytest, re, shutil, sys
from collections import Counter
from conftest import bin, root, sh
from nbdev.config import tomllib
from nbdev.release import CHANGELOG_MARKER, update_changelog

notebooks = sorted(root.glob('nbs/**/*.ipynb'))
floors = {o.stem.split('_', 1)[1]: int(o.stem.split('_')[0]) for o in root.glob('nbs/[0-9]*.ipynb')}
by_hand = {'all', 'scratch', '__main__'} # what gathers names from several modules, and the command as a module

def module(path): return '.'.join(path.relative_to(root/'mnist_fast').with_suffix('').parts).removesuffix('.__init__')

files = {module(o): o for o in (root/'mnist_fast').rglob('*.py') if o.name!='_modidx.py' and (o.name!='__init__.py' or module(o) in by_hand)}
trees = {k: ast.parse(o.read_text()) for k,o in files.items()}

@pytest.fixture
def copy(tmp_path):
    names = sh('git', 'ls-files', '-co', '--exclude-standard').split('\n')
    for f in filter(None, names):
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
    from readme import made
    for path,text in made().items(): assert path.read_text(encoding='utf-8')==text

def test_each_module_has_its_notebook(): assert files.keys()-by_hand==floors.keys()

def test_packages():
    "Each folder with modules is in the wheel"
    packages = tomllib.loads((root/'pyproject.toml').read_text())['tool']['setuptools']['packages']
    assert sorted(packages)==sorted({'.'.join(o.parent.relative_to(root).parts) for o in (root/'mnist_fast').rglob('*.py')})

# Who imports what

def imports(name):
    "Module and name of each import of this package's own, those inside of functions included, and those in programs that are kept as text"
    folder = name.split('.')[:-1] if name!='scratch' else ['scratch']
    for n in ast.walk(trees[name]):
        if isinstance(n, ast.Import): yield from ((o.name.removeprefix('mnist_fast.'),None) for o in n.names if o.name.startswith('mnist_fast.'))
        elif isinstance(n, ast.ImportFrom):
            if not n.level and not (n.module or '').startswith('mnist_fast'): continue
            base = folder[:len(folder)+1-n.level] if n.level else []
            mod = '.'.join([*base,*(n.module or '').removeprefix('mnist_fast').strip('.').split('.')]).strip('.')
            for o in n.names: yield (f'{mod}.{o.name}'.strip('.'),None) if f'{mod}.{o.name}'.strip('.') in files else (mod,o.name)
        elif isinstance(n, ast.Constant) and isinstance(n.value, str):
            yield from ((m,o.strip()) for m,names in re.findall(r'from mnist_fast[.]([\w.]+) import ([\w, ]+)', n.value) for o in names.split(','))

@pytest.mark.parametrize('name', [o for o in files if o not in by_hand])
def test_imports_go_down(name):
    "A module imports from lower floors only"
    up = [m for m,_ in imports(name) if m and m!=name and floors[m if m!='scratch' else 'scratch.learner']>=floors[name]]
    assert not up, f'{name} imports {up}'

def test_imports_are_seen():
    "The check above sees lazy imports and those in text"
    assert {'run.train','run.compare','bench.ladder','data.source'}<={m for m,_ in imports('cli')}
    assert ('learner','run_recipe') in {*imports('bench.peers')} | {('learner',n) for _,n in imports('bench.peers')}

@pytest.mark.parametrize('name', files)
def test_private_names_stay_at_home(name):
    "No module uses a name of another one that begins with an underscore"
    private = lambda o: o and o[0]=='_' and o!='__version__'
    assert not [f'{m}.{n}' for m,n in imports(name) if private(n)]
    mods = {a.asname or a.name for n in ast.walk(trees[name]) if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('mnist_fast')) for a in n.names}
    used = [n for n in ast.walk(trees[name]) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in mods]
    assert not [f'{n.value.id}.{n.attr}' for n in used if private(n.attr) and n.value.id[0].islower()]

def defined(tree):
    "Names that a module gives to functions, classes and constants; what is patched into a class is no name of the module"
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef,ast.ClassDef)) and not any('patch' in ast.unparse(d) for d in n.decorator_list): yield n.name
        if isinstance(n, ast.Assign): yield from (t.id for t in n.targets if isinstance(t, ast.Name))

def test_a_private_name_means_one_thing():
    "A private function, class or constant of one name stands in one module"
    count = Counter(n for tree in trees.values() for n in defined(tree) if n[0]=='_' and n!='__all__')
    assert not [k for k,v in count.items() if v>1]

def test_a_public_name_stands_once():
    "Except for the names of the chapter, which the loop by hand and fastai's kind both have"
    count = Counter(n for k,tree in trees.items() if not k.startswith(('scratch','cli')) for n in {*defined(tree)} if n[0]!='_')
    assert not [k for k,v in count.items() if v>1]

once = { # what may stand in one module alone
    'the atomic writer': (r'NamedTemporaryFile|os\.replace|mkstemp', 'files'),
    'the checksum': (r'zlib\.crc32|binascii', 'files'),
    'the machine': (r'/proc/cpuinfo|import platform|, platform|get_device_name', 'files'),
    'the count of parameters': (r'\.numel\(\) for', 'model'),
    'outputs to probabilities': (r'\.softmax\(-?1\)|\bout\b.*\.sigmoid\(\)', 'loss'),
    'the settings of a run': (r'nan_guard:bool', 'run.folder')}

@pytest.mark.parametrize('what', once)
def test_once(what):
    pattern,home = once[what]
    found = {k for k,o in files.items() if re.search(pattern, re.sub(r'^ *"[^"]*"$', '', o.read_text(), flags=re.M)) and k!='by_hand'}
    assert found=={home}

# The way to a release

def test_changelog():
    "It has the marker after which nbdev's tools write, and a section for this version"
    from mnist_fast import __version__
    text = (root/'CHANGELOG.md').read_text()
    assert text.count(CHANGELOG_MARKER)==1 and f'\n## {__version__}\n' in text
    new = update_changelog(text, '9.9', '\n## 9.9\n\n- new\n')
    assert new.index('## 9.9')<new.index(f'## {__version__}')

def test_workflows():
    "They follow GitHub's schema, and their steps are targets of the Makefile"
    files = sorted((root/'.github'/'workflows').glob('*.yml'))
    sh(bin/'check-jsonschema', '--builtin-schema', 'vendor.github-workflows', *files)
    sh(bin/'pre-commit', 'validate-config', root/'.pre-commit-config.yaml')
    targets = [t for o in files for line in re.findall(r'- run: (.*)', o.read_text()) for t in re.fullmatch(r'make ([a-z -]+?)(?: PYTHON=python)?', line)[1].split()]
    assert {'test','portable','docs','docs-check','dist'}<={*targets}
    for t in {*targets}: sh('make', '-n', t)

def test_help():
    "`make help` names each target that is meant for people"
    text = (root/'Makefile').read_text()
    assert {*re.findall(r'^make ([a-z-]+)', sh('make', 'help'), flags=re.M)}=={*re.search(r'PHONY: (.*)', text)[1].split()}

# The look of the notebooks

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_cells(nb):
    "A title, a line about it, short cells, short lines, plots that can be read, outputs of moderate size"
    cells = json.loads(nb.read_text())['cells']
    texts = [''.join(c['source']) for c in cells]
    assert re.fullmatch('# .+', texts[0].splitlines()[0]) and '> ' in texts[0]+texts[1]
    long = [t[:60] for c,t in zip(cells, texts) if c['cell_type']=='code' and ('#| export' in t and len(t.splitlines())>26 or any(len(o)>140 for o in t.splitlines()))]
    assert not long
    assert not [t for t in texts if re.search(r"'figure', *dpi=[1-6]\d\b", t)]
    assert nb.stat().st_size<300_000
    outputs = [o for c in cells for o in c.get('outputs', [])]
    assert not [o['text'] for o in outputs if o.get('name')=='stderr']
    assert not re.findall(r'[^\w./](?:/tmp|/home|/root|/work|/Users)/\S*|site-packages', json.dumps([[o.get('text')]+[v for k,v in o.get('data', {}).items() if 'image' not in k] for o in outputs]))

def test_results_name_no_folder():
    "Results that are kept hold for every machine: no path of the one that made them"
    names = [*(root/'nbs/results').glob('*.json'), *(root/'bench/results').glob('*.json')]
    assert names and not [f'{o.name}: {p}' for o in names for p in re.findall(r'"(?:/|[A-Z]:\\)[^"]*"', o.read_text())]

def test_links():
    "A link from a notebook or a page to a file of the repository leads somewhere"
    for page in [*notebooks, *(root/f'{o}.md' for o in ('README','CONTRIBUTING','CHANGELOG')), root/'mnist_fast/weights/README.md']:
        text = page.read_text()
        if page.suffix=='.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type']=='markdown')
        for target in re.findall(r'\]\(([^)#:\s]+)\)', text): assert (page.parent/target).exists(), f'{page.name}: {target}'
