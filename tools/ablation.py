"What each part of `best` contributes, on held-out training digits: python tools/ablation.py"
import json, os
from pathlib import Path
from mnist_fast.data.source import get_digits
from mnist_fast.files import system_info
from mnist_fast.learner import ablate
from mnist_fast.recipe import recipes

out = Path(__file__).parent.parent/'nbs'/'results'/'ablation.json'
small = dict(widths=(16,32,64), epochs=10)
changes = dict(all_items_always=dict(hard=None), no_augmentation=dict(augment=None), half_as_wide=dict(widths=(8,16,32)), half_the_epochs=dict(epochs=5),
    no_label_smoothing=dict(ls=0.), no_weight_decay=dict(wd=0.), no_branches=dict(model='deep_cnn'))

if __name__=='__main__':
    rows = ablate(get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist')), {**recipes['full']['best'], **small}, changes)
    res = dict(command='python tools/ablation.py', about=system_info(), changed=small, rows=rows.to_dict('index'))
    out.write_text(json.dumps(res, indent=2)+'\n')
    print(rows)
