"The history of a run as files: which rows, when they are there, and after a second fit or a resumed one"
import csv, json, pytest
from conftest import names, quiet
from contextlib import suppress
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from mnist_fast.callback.training import StopAt
from mnist_fast.data.loader import mnist_dls
from mnist_fast.learner import mnist_learner
from mnist_fast.run.checkpoint import Checkpoint
from mnist_fast.run.history import History

def learner(*cbs, **kwargs): return mnist_learner(mnist_dls('digits', bs=64, seed=1), 'linear', seed=1, cbs=cbs, **kwargs)
def rows(folder): return [json.loads(o) for o in (folder/'history.jsonl').read_text().splitlines()]
def table(folder): return list(csv.DictReader(open(folder/'history.csv')))

def test_says_why_it_was_stopped(tmp_path):
    learn = learner(History(tmp_path), StopAt('accuracy', .2), SaveModelCallback(), path=tmp_path)
    with quiet(learn):
        learn.fit(5, .1)
        assert rows(tmp_path)[-1]==dict(stopped=learn.recorder.stopped)
        learn.fit(1, .1)
        assert [o.get('epoch') for o in rows(tmp_path)]==[0,None]
        before = rows(tmp_path)
        learn.validate()
    assert rows(tmp_path)==before

def test_rows(tmp_path):
    "Batches and epochs in the order in which they come; the values are the recorder's, and the CSV file has the epochs"
    learn = learner(History(tmp_path, every=10))
    with quiet(learn): learn.fit(2, .1)
    assert [(o['epoch'],o.get('step')) for o in rows(tmp_path)]==[(0,10),(0,20),(0,None),(1,30),(1,40),(1,None)]
    assert [(o['epoch'],o.get('batch')) for o in rows(tmp_path)]==[(0,10),(0,20),(0,None),(1,6),(1,16),(1,None)]
    epochs = [o for o in rows(tmp_path) if 'train_loss' in o]
    assert [[o['train_loss'],o['valid_loss'],o['accuracy']] for o in epochs]==[[*o] for o in learn.recorder.values]
    assert [{k: float(v) for k,v in o.items()} for o in table(tmp_path)]==epochs and all(o['seconds']>0 for o in epochs)

def test_there_at_once(tmp_path):
    "A row can be read as soon as its batch is done"
    class Look(Callback):
        order = 56
        def __init__(self): self.seen = []
        def after_batch(self):
            if self.training: self.seen.append(len(rows(tmp_path)) if (tmp_path/'history.jsonl').exists() else 0)
    learn = learner(History(tmp_path, every=4), look := Look())
    with quiet(learn): learn.fit(1, .1)
    assert look.seen==[(i+1)//4 for i in range(24)]

@pytest.mark.parametrize('step', [13,24,31])
def test_after_a_resume(step, tmp_path):
    "Rows that were written after the checkpoint are not there twice, and a CSV file has one header"
    class StopHere(Callback):
        order = 100
        def after_batch(self):
            if self.training and self.train_iter==step: raise KeyboardInterrupt
    def fit(folder, *cbs):
        learn = learner(History(folder, every=4), Checkpoint(folder/'checkpoints', every=10, resume=True), *cbs)
        with quiet(learn), suppress(KeyboardInterrupt): learn.fit(2, .1)
        return [{k: v for k,v in o.items() if k!='seconds'} for o in rows(folder)],[{**o, 'seconds': 0} for o in table(folder)]
    whole = fit(tmp_path/'whole')
    assert fit(tmp_path/'cut', StopHere())!=whole
    assert fit(tmp_path/'cut')==whole and (tmp_path/'cut'/'history.csv').read_text().count('epoch')==1

def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path/'file').write_text('')
    learn = learner(History(tmp_path/'file'/'x'))
    with quiet(learn), pytest.raises(OSError, match='file/x.*cannot be written'): learn.fit(1, .1)

@pytest.mark.parametrize('cb', [lambda o: History(o), lambda o: Checkpoint(o, every=1)], ids=['history','checkpoint'])
def test_left_over(cb, tmp_path, monkeypatch):
    "A variable that a launcher left behind would let them write nothing in silence: the fit says so; validation needs no launcher"
    learn = mnist_learner(mnist_dls('digits', bs=256), 'linear', cbs=cb(tmp_path))
    monkeypatch.setenv('RANK', '1')
    with quiet(learn), pytest.raises(ValueError) as e: learn.fit(1)
    names(e, 'RANK=1', 'unset RANK')
    with quiet(learn): learn.validate()
