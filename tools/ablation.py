"What each part of `best` buys, on held-out training digits: python tools/ablation.py (more than an hour on two cores)"
import json, os
from pathlib import Path
from mnist_fast.bench import about
from mnist_fast.data import get_digits
from mnist_fast.learner import ablate, recipes

out = Path(__file__).parent.parent/'nbs'/'results'/'ablation.json'
changes = dict(all_items_always=dict(hard=None), no_augmentation=dict(augment=None), no_label_smoothing=dict(ls=0.), half_the_epochs=dict(epochs=14),
    two_thirds_as_wide=dict(widths=(32,64,128)), no_branches=dict(model='deep_cnn', widths=(48,96,176)))

if __name__=='__main__':
    rows = ablate(get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist')), recipes['full']['best'], changes, seeds=range(1))
    out.write_text(json.dumps(dict(command='python tools/ablation.py', about=about(), rows=rows.to_dict('index')), indent=2)+'\n')
    print(rows)
