"The answers to the exercises of the tutorials run after the cells of their notebook, on the digits that come with scikit-learn"
import ast, json, os, pytest, re, subprocess, sys
from conftest import root

tutorials = sorted((root/'nbs'/'tutorials').glob('[0-9]*.ipynb'))
exempt = {'00_start','13_questionnaire'} # one has no exercises, the other is nothing else

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def texts(path, kind): return [''.join(c['source']) for c in cells(path) if c['cell_type']==kind]

def answers(path): return [re.findall(r'```python\n(.*?)```', t, flags=re.S) for t in texts(path, 'markdown') if '<details>' in t]

@pytest.mark.parametrize('path', [o for o in tutorials if o.stem!='00_start'], ids=lambda o: o.stem)
def test_opening(path):
    "Each tutorial says what to read before, how long it runs, what comes next, and installs the package in one line"
    first = ''.join(cells(path)[1]['source'])
    for o in ('**Before this:**','**Running time:**','**Next:**'): assert o in first
    assert '%pip install -q mnist_fast' in ''.join(cells(path)[2]['source'])
    if path.stem not in exempt: assert '## Exercises' in texts(path, 'markdown') and 2<=len(answers(path))<=3

run_all = '''
import json, mnist_fast.all, sys
from execnb.shell import CaptureShell
from fastcore.nbio import read_nb, mk_cell
from multiprocessing import get_context
flags = '#| mnist','#| slow','#| eval: false'
def run(path, code):
    nb = read_nb(path)
    nb.cells = [c for c in nb.cells if c.cell_type=='code' and not any(o in c.source for o in flags)]+[mk_cell(o) for o in code]
    CaptureShell(mpl_format=None).run_all(nb, exc_stop=True)
for name,*args in json.load(sys.stdin):
    p = get_context('fork').Process(target=run, args=args)
    p.start()
    p.join()
    print(json.dumps([name,p.exitcode]), flush=True)
    print(f'End of {name}', file=sys.stderr, flush=True)
'''

def code_of(path): return ['\n'.join(o) for o in answers(path) if o]

@pytest.fixture(scope='module')
def ran():
    "Exit status and errors of each notebook with its answers, in a process of its own that has the package imported already"
    env = {k: v for k,v in os.environ.items() if k!='MNIST_FAST_DATA'}|dict(OMP_NUM_THREADS='1', ATEN_CPU_CAPABILITY='default', MKL_CBWR='COMPATIBLE')
    todo = json.dumps([(o.stem,str(o),code_of(o)) for o in tutorials])
    res = subprocess.run([sys.executable,'-c',run_all], input=todo, cwd=tutorials[0].parent, env=env, text=True, capture_output=True)
    assert res.returncode==0, res.stderr[-2000:]
    codes = [json.loads(o) for o in res.stdout.splitlines() if o.startswith('[')]
    errs = re.split(r'^End of .*\n', res.stderr, flags=re.M)
    return {name: (status,err) for (name,status),err in zip(codes, errs)}

@pytest.mark.parametrize('path', tutorials, ids=lambda o: o.stem)
def test_answers(path, ran):
    "The notebook and the code of each answer run on PyTorch's simplest instructions, and each answer shows or asserts something"
    code = code_of(path)
    assert code or path.stem in exempt
    for o in code: assert isinstance(ast.parse(o).body[-1], (ast.Expr,ast.Assert)), o
    status,err = ran[path.stem]
    assert status==0, err[-2000:]

def test_gpu_figures():
    "The milliseconds in the tutorial on mini-batches are those that `tools/gpu_batches.py` has measured, with two digits"
    rows = json.loads((root/'nbs'/'results'/'gpu_batches.json').read_text())['rows']
    cell = next(t for t in texts(root/'nbs'/'tutorials'/'06_minibatches.ipynb', 'code') if "'step, GPU'" in t)
    for name in ('cpu','gpu','copy'):
        shown = [float(o) for o in re.search(rf'^{name} = \[(.*?)\]', cell, flags=re.M)[1].split(',')]
        assert shown==[float(f"{1000*r[f'{name}_s']:.2g}") for r in rows]
