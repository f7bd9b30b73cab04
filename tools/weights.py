"Trains the models that the package carries, tests them once, and writes their card: python tools/weights.py (an hour and more on two cores)"
import os
from pathlib import Path
from statistics import mean, median, stdev
from mnist_fast.bench import about, run_recipe
from mnist_fast.data import get_digits
from mnist_fast.inference import save_model

out = Path(__file__).parent.parent/'mnist_fast'/'weights'
seeds,digits = range(5),get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist'))
names = {'full': 'all ten digits', '3v7': 'threes and sevens'}

card = '''# Model card

Two networks for handwritten digits, read by `load_model('full')` and `load_model('3v7')`. Safetensors and JSON: nothing in them is run.

| model | for | network | parameters | test accuracy | wrong | {n} seeds | seconds |
|---|---|---|---|---|---|---|---|
{rows}

- **Data**: the MNIST training set, 60,000 digits (12,396 threes and sevens), written by US census employees and high-school students
  about 1990. The test set was used once for each run, for the figures above.
- **Recipe**: `best`. The weights are those of seed {first}, nothing was chosen among the runs with seeds {first} to {last}: mean and deviation of
  their accuracy, median seconds of training. `config.json` holds the row; the notebook `06_learner` explains it.
- **Made by** `make weights` with torch {torch} on {processor}, {cores} cores. Another machine may round differently and give other weights.
- **Input**: one digit, bright on dark, framed as MNIST does it: `predict` and `digit_image` do that for a picture.
- **Limits**: what is not a digit gets one all the same, often with high confidence; two digits on a picture get one answer.
  Writing that is rare in the United States (a one with a long upstroke, a crossed seven) is rare in MNIST too; how often it is misread was not measured.
  The 3-vs-7 model calls every digit a three or a seven. Not for cheques, medicine, or where a wrong digit does harm.
'''

def make(task):
    "Train with each seed, save the first, and give back the model's row of the card"
    runs = [run_recipe(digits, task, 'best', o) for o in seeds]
    accs,first = [round(r['accuracy'], 6) for r in runs],runs[0]
    learn,n = first['learn'],len(first['learn'].dls.test.dataset)
    save_model(learn, out/task, task=task, recipe=learn.recipe, source='mnist', seed=seeds[0], accuracy=accs[0])
    columns = f"{learn.recipe['columns']} × " if 'columns' in learn.recipe else ''
    row = [f'`{task}`', names[task], f"`{learn.recipe['model']}` {columns}{learn.recipe['widths']}", f"{first['params']:,}", f'{accs[0]:.4f}',
        f'{round((1-accs[0])*n)} of {n:,}', f'{mean(accs):.5f} ± {stdev(accs):.5f}', f"{median(r['seconds'] for r in runs):.0f}"]
    print(task, accs, [round(r['seconds']) for r in runs], flush=True)
    return '| '+' | '.join(row)+' |'

if __name__=='__main__':
    a,rows = about(),[make(o) for o in names]
    (out/'README.md').write_text(card.format(rows='\n'.join(rows), n=len(seeds), first=seeds[0], last=seeds[-1], torch=a['versions']['torch'], processor=a['processor'], cores=a['cores']))
