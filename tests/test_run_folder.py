"The folder of a run: settings that make sense, folders that are new, what a result depends on"
import pytest, time
from conftest import names
from mnist_fast.run.folder import changed_settings, is_finished, new_run_folder, read_settings, run_lock, run_settings, settings_command

def test_two_at_once(tmp_path, monkeypatch):
    "Runs that start in the same second get a folder each"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, 'strftime', lambda f: '20260101-000000')
    a,b = (new_run_folder(name='3v7-linear') for _ in range(2))
    assert a!=b and all(o.is_dir() and o.name.startswith('3v7-linear-20260101-000000') for o in (a,b))

@pytest.mark.parametrize('name', ['run.json','config.json','model.safetensors','metrics.json','history.csv','ladder.json'])
def test_never_over_a_run(tmp_path, name):
    (tmp_path/name).write_text('{}')
    with pytest.raises(ValueError) as e: new_run_folder(tmp_path)
    names(e, str(tmp_path), 'Choose another folder')

def test_not_writable(tmp_path):
    (tmp_path/'file').write_text('mine')
    with pytest.raises(ValueError) as e: new_run_folder(tmp_path/'file'/'run')
    names(e, 'file/run', 'Choose another folder')
    assert [o.name for o in tmp_path.iterdir()]==['file']

nan,inf = float('nan'),float('inf')
wrong = [dict(epochs=0), dict(bs=-1), dict(every=0), dict(lr=0.), dict(lr=nan), dict(lr=inf), dict(seed=-1), dict(seed=2**32), dict(checkpoint=-1.),
    dict(checkpoint=nan), dict(stop_at=1.1, valid=.1), dict(ema=0.), dict(valid='x'), dict(valid=0.), dict(valid=1.), dict(valid='nan'),
    dict(keep_best=True), dict(stop_at=.9)]

@pytest.mark.parametrize('settings', wrong, ids=str)
def test_wrong_settings(settings):
    "The message names the setting and says what to give"
    with pytest.raises(ValueError) as e: run_settings(**settings)
    names(e, [*settings][0], 'Give|Hold out')

def test_command():
    s = run_settings('3v7', recipe='linear', valid='.2', keep_best=True, source='a folder')
    assert changed_settings(s)==dict(task='3v7', recipe='linear', source='a folder', valid=.2, keep_best=True)
    assert settings_command(s)=="mnist_fast train --task 3v7 --recipe linear --source 'a folder' --valid 0.2 --keep-best"
    assert settings_command(run_settings())=='mnist_fast train'

@pytest.mark.parametrize('text,word', [('{','cannot be read'), ('[]','JSON object'), ('{"settings": 3}','not the settings'), ('{"settings": {"task": "full"}}','not the settings')])
def test_broken_settings(tmp_path, text, word):
    (tmp_path/'run.json').write_text(text)
    with pytest.raises(ValueError) as e: read_settings(tmp_path)
    names(e, 'run.json', word, 'Start again')

def test_lock_after_an_error(tmp_path):
    "Checkpoints go only if the run came to its end"
    for error in ValueError,KeyboardInterrupt:
        with pytest.raises(error):
            with run_lock(tmp_path): raise error('x')
        assert (tmp_path/'checkpoints').is_dir()
    with pytest.raises(KeyboardInterrupt, match='--resume'):
        with run_lock(tmp_path): raise KeyboardInterrupt
    with run_lock(tmp_path): assert not is_finished(tmp_path)
    assert not (tmp_path/'checkpoints').exists()
