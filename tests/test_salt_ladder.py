"The rungs of the salt ladder: what each scores, and that the test tiles take no part in any choice"
import json, pytest, torch
from conftest import names

from mnist_fast.salt import ladder as module
from mnist_fast.salt.data import read_salt
from mnist_fast.salt.ladder import run_salt_ladder, salt_ladder_rows
from mnist_fast.salt.learner import salt_recipes
from mnist_fast.salt.make import make_salt

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_salt(tmp_path_factory.mktemp('salt')/'tiles', n=150, n_test=1, seed=7)

def test_rows(folder):
    tiles = read_salt(folder)
    train,test = module._test_part(tiles)
    rows = {r['rung']: r for r in salt_ladder_rows(tiles, recipes=('linear',))}
    assert len(test.ids)==30 and not {*train.ids}&{*test.ids}
    empty = (torch.as_tensor(test.y).flatten(1).sum(1)==0).float().mean().item()
    assert rows['nothing']['score']==pytest.approx(empty) and rows['nothing']['score_with_salt']==0 and rows['nothing']['empty_right']==1
    assert rows['linear']['params']==226 and 0<rows['brightness']['iou_with_salt']<.5

def test_no_choice_by_the_test_tiles(folder, monkeypatch):
    "With other masks in the test part, every prediction stays as it is"
    tiles,seen = read_salt(folder),[]
    old = module.mask_table
    monkeypatch.setattr(module, 'mask_table', lambda ids,y,preds: seen.append(preds) or old(ids, y, preds))
    train,test = module._test_part(tiles)
    for y in (test.y,1-torch.as_tensor(test.y)):
        monkeypatch.setattr(module, '_test_part', lambda o: (train,test._replace(y=y)))
        salt_ladder_rows(tiles, recipes=('linear',))
    assert len(seen)==6 and all(torch.equal(a, b) for a,b in zip(seen[:3], seen[3:]))

def test_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(salt_recipes, 'speed', dict(salt_recipes['speed'], epochs=1))
    res = run_salt_ladder(folder, seeds=2, out=tmp_path/'l')
    assert json.loads((tmp_path/'l'/'ladder.json').read_text())==json.loads(json.dumps(res)) and (tmp_path/'l'/'ladder.png').exists()
    assert [r['n'] for r in res['rows']]==[1,1,2,2] and res['n_test']==30
    with pytest.raises(ValueError) as e: run_salt_ladder(folder, out=tmp_path/'l')
    names(e, 'holds a run')

