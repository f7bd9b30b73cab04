"Trains the models that the package contains, tests them once, and writes their card: python tools/weights.py"
import json, os, torch
from pathlib import Path
from statistics import mean, stdev
from safetensors.torch import save
from mnist_fast.baseline import PixelSimilarity
from mnist_fast.files import system_info, write_files
from mnist_fast.inference.saved import DigitModel, save_model
from mnist_fast.learner import fit_recipe, recipe_learner, run_recipe
from mnist_fast.data.source import get_digits

out = Path(__file__).parent.parent/'mnist_fast'/'weights'
seed,more = 0,(1,2) # of the models that are kept, and of those that only show how much the accuracy varies
unsure = .005 # the part of the held-out digits that get "not sure"
names = {'full': 'all ten digits', '3v7': 'threes and sevens'}
chosen = {'full': 'robust', '3v7': 'best'}

card = '''# Model card

Two networks for handwritten digits. `load_model('full')` and `load_model('3v7')` read them. The files are safetensors and JSON, so loading them runs no code.

| model | for | recipe | network | parameters | test accuracy | wrong | not sure below |
|---|---|---|---|---|---|---|---|
{rows}

- **Data**: the MNIST training set, 60,000 digits (12,396 threes and sevens), written by employees of the US Census Bureau and by
  high-school students about 1990. The figures in the table are the test results of exactly these weights.
  The recipe was chosen on held-out training digits, with one exception: a network of two parallel columns was rejected after its
  test accuracy was known.
- **Recipe**: one run with seed {seed}, not chosen among several runs. `config.json` holds the recipe, and the notebook `40_recipe` explains it.
  {several}
- **Made by** `make weights` with torch {torch} on {processor}, {cores} cores, threads: {threads}.
  Another machine, or another number of threads, may round differently and give other weights.
- **Ideal digits**: `ideal.safetensors` has the mean training image of each digit, `[10,784]`, floats from 0 to 1. The chapter's first classifier,
  pixel similarity, compares a digit with them, and the page of a model shows its answer beside the network's.
- **Input**: one digit, bright on dark, framed as in MNIST. `predict` and `digit_image` do that for any picture.
- **Not sure**: `predict` and the page say so if the highest probability is below the one in the table. It was chosen so that 0.5% of the digits
  of a held-out sixth of the training set are below it, for a model that was trained on the other five sixths. `full` also learned from
  random strokes, for which it should prefer no digit. The documentation's page about pictures shows how often it is not sure about digits, letters and scribbles that were drawn for it.
- **Limits**: a picture of something else, such as a letter, can still get a digit as its prediction with a high probability, above all from `3v7`. A picture of several digits is refused, or read digit by digit with `--all`; digits that touch each other are one piece of ink, and get one prediction.
  Ways of writing that are rare in the United States (a one with a long upstroke, a crossed seven) are rare in MNIST too. How often the models are wrong about them was not measured.
  The model `3v7` predicts a three or a seven for every digit. The models are not made for bank cheques, medicine, or anything else where a wrong digit does harm.
'''

def threshold(digits, task):
    "The probability that the model exceeds for all but `unsure` of the digits of a held-out sixth, trained on the others"
    learn = recipe_learner(digits, task, chosen[task], 1/6, seed=seed)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn)
    p = torch.cat([DigitModel(learn.model).probabilities(xb) for xb,_ in learn.dls.valid]).amax(1)
    return round(p.quantile(unsure).item(), 2)

def make(digits, task):
    "Train and save a model; returns its row of the card, and a sentence about other seeds"
    at,recipe = threshold(digits, task),chosen[task]
    r = run_recipe(digits, task, recipe, seed)
    learn,acc = r['learn'],round(r['accuracy'], 6)
    n,wrong = len(learn.dls.test.dataset),round((1-acc)*len(learn.dls.test.dataset))
    save_model(learn, out/task, task=task, recipe=learn.recipe, source='mnist', seed=seed, accuracy=acc, threshold=at)
    print(f"{task}: {wrong} of {n} wrong, not sure below {at}, {r['seconds']:.0f} s", flush=True)
    accs = [acc,*(run_recipe(digits, task, recipe, o)['accuracy'] for o in more)]
    row = f"| `{task}` | {names[task]} | `{recipe}` | `{learn.recipe['model']}` {learn.recipe['widths']} | {r['params']:,} | {acc:.4f} | {wrong} of {n:,} | {at} |"
    return row,f"Over {len(accs)} seeds the test accuracy of `{recipe}` for {names[task]} is {mean(accs):.4f} ± {stdev(accs):.4f}."

def of_best():
    "A sentence about the recipe that `robust` was made from"
    rows = json.loads((out.parent.parent/'bench'/'results'/'full.json').read_text())['recipes']
    r = next(o for o in rows if (o['task'],o['recipe'])==('full','best'))
    return f"For `best`, which has seen only MNIST's own strokes, it is {r['accuracy']:.4f} ± {r['accuracy_sd']:.4f} ({r['n']} seeds, from the benchmarks)."

def make_ideals(digits):
    "Write the mean training image of each digit"
    write_files(out, {'ideal.safetensors': save(dict(ideal=PixelSimilarity().fit(digits.x, digits.y).ideals))})

if __name__=='__main__':
    digits = get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist'))
    make_ideals(digits)
    a,(rows,several) = system_info(),zip(*(make(digits, o) for o in names))
    (out/'README.md').write_text(card.format(**a, rows='\n'.join(rows), several=' '.join([several[0],of_best(),*several[1:]]), seed=seed, torch=a['versions']['torch']))
