"The pictures of the README and of the ladder, from the results of the benchmark: run by `make picture`"
import json, os
import matplotlib.pyplot as plt
from pathlib import Path
from mnist_fast.bench.ladder import plot_ladder
from mnist_fast.data.source import get_digits
from mnist_fast.learner import run_recipe

root = Path(__file__).parent.parent
images = root/'nbs'/'images'
full = json.loads((root/'bench'/'results'/'full.json').read_text())
rows = [*full['ladder'], *(dict(r, rung=r['recipe']) for r in full['recipes'])]

def save(fig, name): fig.savefig(images/name, dpi=110, bbox_inches='tight')

def story(digits):
    "A digit, the ideal digit, the weights of a linear model, and the error of each step"
    fig,axs = plt.subplots(1, 4, figsize=(10,2.3), width_ratios=[1,1,1,2.2], layout='constrained')
    threes = digits.x[digits.y==3].float()
    w = next(p for p in run_recipe(digits, '3v7', 'linear', 0)['learn'].model.parameters() if p.numel()==784)
    pictures = {'a three': (threes[1],'gray'), 'the ideal three': (threes.mean(0),'gray'), 'learned weights': (w.detach().cpu().view(28,28),'RdBu')}
    for ax,(title,(x,cmap)) in zip(axs, pictures.items()):
        ax.imshow(x, cmap=cmap, **(dict(vmin=-x.abs().max(), vmax=x.abs().max()) if cmap=='RdBu' else {}))
        ax.set_title(title, fontsize=10)
        ax.axis('off')
    errors = {r['rung']: 100*(1-r['accuracy']) for r in rows if r['task']=='full'}
    steps = {o: errors[o] for o in ('best','cnn','simple_net','linear','pixel similarity L2')}
    bars = axs[3].barh([*steps], [*steps.values()], color='#33648f')
    axs[3].bar_label(bars, fmt='%.1f%%', padding=2)
    axs[3].set_title('test error on ten digits', fontsize=10)
    axs[3].set_xticks([])
    axs[3].margins(x=.2)
    axs[3].spines[['top','right','bottom']].set_visible(False)
    return fig

if __name__=='__main__':
    save(story(get_digits(os.environ.get('MNIST_FAST_DATA', 'mnist'))), 'story.png')
    save(plot_ladder(rows)[0].figure, 'ladder.png')
