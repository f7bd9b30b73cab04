"The answers to the exercises of the tutorials run after the cells of their notebook, on the digits that come with scikit-learn"
import ast, json, os, pytest, re, subprocess, sys
from conftest import root
from pathlib import Path

tutorials = sorted((root/'nbs'/'tutorials').glob('[0-9]*.ipynb'))
exempt = {'00_start','13_questionnaire'} # one has no exercises, the other is nothing else

def cells(path): return json.loads(path.read_text())['cells']

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
import json, sys
from execnb.shell import CaptureShell
from fastcore.nbio import read_nb, mk_cell
nb = read_nb(sys.argv[1])
flags = '#| mnist','#| slow','#| eval: false'
nb.cells = [c for c in nb.cells if c.cell_type=='code' and not any(o in c.source for o in flags)]+[mk_cell(o) for o in json.loads(sys.argv[2])]
CaptureShell(mpl_format=None).run_all(nb, exc_stop=True)
print(json.dumps([[o.output_type for o in c.outputs] for c in nb.cells[-int(sys.argv[3]):]]))
'''

@pytest.mark.parametrize('path', [o for o in tutorials if o.stem not in exempt], ids=lambda o: o.stem)
def test_answers(path):
    "The code of each answer runs, and shows or asserts something"
    code = ['\n'.join(o) for o in answers(path) if o]
    assert code
    for o in code: assert isinstance(ast.parse(o).body[-1], (ast.Expr,ast.Assert)), o
    env = {k: v for k,v in os.environ.items() if k!='MNIST_FAST_DATA'}|dict(OMP_NUM_THREADS='1')
    res = subprocess.run([sys.executable, '-c', run_all, str(path), json.dumps(code), str(len(code))], cwd=Path(path).parent, env=env, text=True, capture_output=True)
    assert res.returncode==0, res.stderr[-2000:]
