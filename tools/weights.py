"Trains the models that the package contains, tests them once, and writes their card: python tools/weights.py"
import os
from pathlib import Path
from safetensors.torch import save
from mnist_fast.baseline import PixelSimilarity
from mnist_fast.files import system_info, write_files
from mnist_fast.learner import run_recipe
from mnist_fast.data.source import get_digits
from mnist_fast.inference.saved import save_model

out = Path(__file__).parent.parent/'mnist_fast'/'weights'
seed = 0
names = {'full': 'all ten digits', '3v7': 'threes and sevens'}

card = '''# Model card

Two networks for handwritten digits. `load_model('full')` and `load_model('3v7')` read them. The files are safetensors and JSON, so loading them runs no code.

| model | for | network | parameters | test accuracy | wrong |
|---|---|---|---|---|---|
{rows}

- **Data**: the MNIST training set, 60,000 digits (12,396 threes and sevens), written by employees of the US Census Bureau and by
  high-school students about 1990. The figures in the table are the test results of exactly these weights.
  The recipe was chosen on held-out training digits, with one exception: a network of two parallel columns was rejected after its
  test accuracy was known.
- **Recipe**: `best`, one run with seed {seed}. It was not chosen among several runs (`mnist_fast bench --full` measures five seeds).
  `config.json` holds the recipe, and the notebook `40_recipe` explains it.
- **Made by** `make weights` with torch {torch} on {processor}, {cores} cores, threads: {threads}.
  Another machine, or another number of threads, may round differently and give other weights.
- **Ideal digits**: `ideal.safetensors` has the mean training image of each digit, `[10,784]`, floats from 0 to 1. The chapter's first classifier,
  pixel similarity, compares a digit with them, and the page of a model shows its answer beside the network's.
- **Input**: one digit, bright on dark, framed as in MNIST. `predict` and `digit_image` do that for any picture.
- **Limits**: a picture of something else, such as a letter, still gets a digit as its prediction, sometimes with a high probability. A picture of several digits is refused, or read digit by digit with `--all`; digits that touch each other are one piece of ink, and get one prediction.
  Ways of writing that are rare in the United States (a one with a long upstroke, a crossed seven) are rare in MNIST too. How often the models are wrong about them was not measured.
  The model `3v7` predicts a three or a seven for every digit. The models are not made for bank cheques, medicine, or anything else where a wrong digit does harm.
'''

def make(digits, task):
    "Train and save a model; returns its row of the card"
    r = run_recipe(digits, task, 'best', seed)
    learn,acc = r['learn'],round(r['accuracy'], 6)
    n,wrong = len(learn.dls.test.dataset),round((1-acc)*len(learn.dls.test.dataset))
    save_model(learn, out/task, task=task, recipe=learn.recipe, source='mnist', seed=seed, accuracy=acc)
    print(f"{task}: {wrong} of {n} wrong, {r['seconds']:.0f} s", flush=True)
    return f"| `{task}` | {names[task]} | `{learn.recipe['model']}` {learn.recipe['widths']} | {r['params']:,} | {acc:.4f} | {wrong} of {n:,} |"

def make_ideals(digits):
    "Write the mean training image of each digit"
    write_files(out, {'ideal.safetensors': save(dict(ideal=PixelSimilarity().fit(digits.x, digits.y).ideals))})

if __name__=='__main__':
    digits = get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist'))
    make_ideals(digits)
    a,rows = system_info(),[make(digits, o) for o in names]
    (out/'README.md').write_text(card.format(**a, rows='\n'.join(rows), seed=seed, torch=a['versions']['torch']))
