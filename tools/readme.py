"README.md from `nbs/index.ipynb`, for machines without Quarto: run by `make readme`"
import re
from fastcore.nbio import read_nb
from nbdev.config import get_config
from nbdev.readme_filter import doc_link

cfg = get_config()
root,nbs = cfg.config_path,cfg.nbs_path

def link(m):
    "A picture or file keeps its place in the repository, a notebook becomes its page"
    bang,text,target = m.groups()
    if target.startswith('../'): return f'{bang}[{text}]({target[3:]})'
    if bang: return f'![{text}]({nbs.name}/{target})'
    return f'[{text}]({doc_link(target, cfg.doc_url) if cfg.doc_url else re.sub("^(?=[0-9a-z_./]+[.]ipynb)", f"{nbs.name}/", target)})'

def prose(cell): return re.sub(r'(!?)\[([^\]]*)\]\(([^)]*)\)', link, cell.source)

def output(o):
    "What a cell gave, as a table, or as text in a fence"
    data = o.get('data', {})
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    text = ''.join(o.get('text') or data.get('text/plain', ''))
    return f'```\n{text.rstrip()}\n```'

def parts(nb):
    for c in nb.cells:
        if c.source.startswith(('#| hide','#| default_exp')): continue
        if c.cell_type=='markdown': yield prose(c)
        else:
            if '#| echo: false' not in c.source: yield f'```python\n{c.source}\n```'
            yield from map(output, c.outputs)

def readme():
    "The text of README.md"
    return '\n\n'.join(['<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->', *parts(read_nb(nbs/'index.ipynb'))]) + '\n'

if __name__=='__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
