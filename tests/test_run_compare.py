"The comparison of runs: against scipy and loops, only of what can be compared, and as a page"
import numpy as np, pandas as pd, pytest, re, shutil, struct
from conftest import names
from mnist_fast.inference.saved import load_model
from mnist_fast.run.compare import compare_runs
from mnist_fast.stats import wilson
from run_files import *
from scipy.stats import binomtest

def test_compare(trained, run):
    "Against the models asked directly, scipy, and items that are drawn one by one"
    runs = [trained['full','linear'],trained['full','simple_net'],trained['full','cnn'],run]
    df,pairs = compare_runs(runs)
    right = np.array([load_model(o).probabilities(digits.x_test/255).argmax(1).numpy()==digits.y_test.numpy() for o in runs])
    assert df.run.tolist()==[str(o) for o in runs] and df.accuracy.tolist()==pytest.approx(right.mean(1)) and df.errors.tolist()==(~right).sum(1).tolist()
    assert df[['low','high']].values.tolist()==[pytest.approx(wilson(int(o.sum()), 297)) for o in right]
    assert df.seed.tolist()==[0,0,0,42] and df.recipe.tolist()==['linear','simple_net','cnn','linear'] and df.seconds.tolist()==[2.]*4
    which = [(i,j) for i in range(4) for j in range(i+1, 4)]
    assert [(o.a,o.b) for o in pairs.itertuples()]==[(str(runs[i]),str(runs[j])) for i,j in which]
    rng = np.random.default_rng(1)
    for (i,j),o in zip(which, pairs.itertuples()):
        d = right[i]*1.-right[j]
        b,c = (d>0).sum(),(d<0).sum()
        assert (o.only_a,o.only_b)==(b,c) and o.difference==pytest.approx(d.mean()) and o.p==binomtest(b, b+c).pvalue
        draws = d[rng.integers(0, 297, (10_000,297))].mean(1)
        assert (o.low,o.high)==pytest.approx(np.quantile(draws, [.025,.975]), abs=.006)
    ps = pairs.p.tolist()
    holm = [min(1, max((6-sum(q<r for q in ps))*r for r in ps if r<=p)) for p in ps]
    assert pairs.p_holm.tolist()==pytest.approx(holm) and (pairs.beyond_chance==(pairs.p_holm<.05)).all() and pairs.beyond_chance.nunique()==2
    pd.testing.assert_frame_equal(pairs, compare_runs(runs, 'digits')[1])
    assert any(not pairs.equals(compare_runs(runs, digits, seed)[1]) for seed in range(1, 5))

def test_same_run_twice(run):
    _,pairs = compare_runs([run,run])
    assert pairs.iloc[0, 2:].tolist()==[0,0,0,0,0,1,1,False]

def test_compare_3v7(trained):
    df,pairs = compare_runs([trained['3v7','linear'],trained['3v7','speed']])
    assert df.task.tolist()==['3v7']*2 and len(pairs)==1

def idx_folder(path, d):
    path.mkdir()
    for k,o in zip(('train-images-idx3','train-labels-idx1','t10k-images-idx3','t10k-labels-idx1'), d):
        (path/f'{k}-ubyte').write_bytes(struct.pack(f'>4B{o.dim()}I', 0, 0, 8, o.dim(), *o.shape)+o.numpy().tobytes())
    return str(path)

def test_not_to_be_compared(trained, run, tmp_path):
    for runs in [run],run,str(run),[]:
        with pytest.raises(ValueError) as e: compare_runs(runs)
        names(e, 'two or more folders')
    with pytest.raises(ValueError) as e: compare_runs([run,trained['3v7','linear']])
    names(e, 'is a run of task full', 'of 3v7', 'one task')
    other = shutil.copytree(run, tmp_path/'other')
    for m in metrics(n_test=10),metrics(data=dict(crc32='1')),metrics(data=dict(source=idx_folder(tmp_path/'digits', digits._replace(y_test=digits.y_test.flip(0))))):
        write(other, m)
        for f in compare_runs,lambda o: compare_runs(o, out=tmp_path/'page.html'):
            with pytest.raises(ValueError) as e: f([run,other])
            names(e, re.escape(str(run)), re.escape(str(other)), 'same digits', 'one test set')
    write(other, metrics(data=dict(source=idx_folder(tmp_path/'same', digits[:4]))))
    assert compare_runs([run,other])[1].p[0]==1 and not (tmp_path/'page.html').exists()

def test_page(trained, run, tmp_path):
    "A page of its own, whatever the folders are called; nothing beside it"
    odd = shutil.copytree(run, tmp_path/'<img src=x> $\\frac$ \x1b')
    page = tmp_path/'new'/'page.html'
    compare_runs([odd,trained['full','cnn'],trained['full','linear']], out=page)
    o = Page(page.read_text())
    assert o.tags.count('svg')==1 and 'img' not in o.tags and str(odd) in o.text and o.text.count(' yes ')+o.text.count(' no ')==3
    assert [o.name for o in (tmp_path/'new').iterdir()]==['page.html']
