"Folders of runs, and pages as elements, for the tests of the pages"
import json, pytest, torch
from html.parser import HTMLParser
from conftest import quiet
from mnist_fast.data.source import embedded_digits
from mnist_fast.files import crc32
from mnist_fast.inference.saved import save_model
from mnist_fast.learner import fit_recipe, recipe_learner
from mnist_fast.model import mnist_model

digits = embedded_digits()
tasks = [('full','linear'),('full','simple_net'),('full','cnn'),('3v7','linear'),('3v7','speed')]

def epoch_row(i): return dict(epoch=i, train_loss=1/(i+1), valid_loss=1.1/(i+1), accuracy=1-.5/(i+1), lr=.1, seconds=.5)
def batch_row(i): return dict(epoch=i//4, batch=i%4*10+9, step=10*i, loss=2/(i+1), lr=.1, mom=.9)

def metrics(**kw):
    "What `mnist_fast train` writes"
    return dict(dict(task='full', source=digits.source, recipe='linear', model='linear', params=7850, seed=42, epochs=3, lr=.1, bs=64, n_train=1500, n_valid=297,
        n_test=297, seconds=dict(data=.5, train=2., test=.1, total=3.), versions=dict(mnist_fast='0', python='3'), command='mnist_fast train --seed 42', threads=1, cores=2,
        git='abc', data=dict(source=digits.source, crc32=crc32(digits[:4])), stopped=None), **kw)

def write(run, metrics=None, history=True):
    "The files beside the model"
    if metrics is not None: (run/'metrics.json').write_text(json.dumps(metrics))
    if history: (run/'history.jsonl').write_text(''.join(json.dumps(o)+'\n' for i in range(3) for o in [*(batch_row(4*i+j) for j in range(4)),epoch_row(i)]))
    return run

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Folders of runs that were trained for a little, by task and recipe"
    def make(task, recipe):
        learn = recipe_learner(digits, task, recipe, seed=0)
        with quiet(learn): fit_recipe(learn, 1)
        save_model(learn, out := tmp_path_factory.mktemp('run'), source=digits.source)
        return write(out, metrics(task=task, recipe=recipe, seed=0))
    return {o: make(*o) for o in tasks}

@pytest.fixture
def run(tmp_path):
    "A run whose model was never trained"
    torch.manual_seed(0)
    save_model(mnist_model('cnn', n_out=10, width=4), tmp_path/'run', source=digits.source)
    return write(tmp_path/'run', metrics())

class Page(HTMLParser):
    "Elements of a page, their attributes and the text; tags that do not fit each other raise"
    void = 'meta img br hr'.split()
    def __init__(self, text):
        super().__init__()
        self.open,self.tags,self.attrs,self.text = [],[],[],''
        self.feed(text)
        assert self.open==[]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += [(tag,k,v) for k,v in attrs]
        if tag not in self.void: self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void: self.open.pop()

    def handle_endtag(self, tag): assert self.open.pop()==tag
    def handle_data(self, o): self.text += '' if self.open and self.open[-1]=='style' else o+' '

    def attr(self, tag, key): return [v for t,k,v in self.attrs if (t,k)==(tag,key)]
