"The models that the package contains: small, described, and as good as their card says"
import pytest
from conftest import bin, needs_mnist, root, sh
from mnist_fast.data.source import get_digits
from mnist_fast.inference.saved import load_model

folder = root/'mnist_fast'/'weights'
tasks = pytest.mark.parametrize('task', ['full','3v7'])

def test_size(): assert sum(o.stat().st_size for o in folder.rglob('*') if o.is_file())<=4e6

@tasks
def test_card(task):
    "Card and `config.json` agree"
    row = next(o for o in (folder/'README.md').read_text().splitlines() if o.startswith(f'| `{task}`'))
    m = load_model(task)
    assert f"{m.config['accuracy']:.4f}" in row and f'{sum(p.numel() for p in m.model.parameters()):,}' in row
    assert m.config['recipe']['model'] in row and m.config['seed']==0 and m.config['task']==task

@needs_mnist
@tasks
def test_accuracy(task):
    "On the test set they are as often wrong as the card says"
    d,m = get_digits('mnist'),load_model(task)
    keep = (d.y_test==3)|(d.y_test==7) if task=='3v7' else d.y_test>=0
    x,y = d.x_test[keep].float()/255,d.y_test[keep]
    preds = m.probabilities(x).argmax(1)
    wrong = sum(m.classes[p]!=t for p,t in zip(preds.tolist(), y.tolist()))
    assert abs(wrong/len(y)-(1-m.config['accuracy']))<=1/len(y)

def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_model('full').classes)==10
    (tmp_path/'full').mkdir()
    with pytest.raises(ValueError, match='no model'): load_model('full')

def test_predict_without_a_model(tmp_path):
    from PIL import Image, ImageDraw
    img = Image.new('L', (100,100), 255)
    ImageDraw.Draw(img).line([(50,15),(50,85)], fill=0, width=8)
    img.save(tmp_path/'one.png')
    assert sh(bin/'mnist_fast', 'predict', tmp_path/'one.png').split(': ')[1].startswith('1 ')
