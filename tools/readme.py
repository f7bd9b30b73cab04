"README.md and CONTRIBUTING.md from their notebooks, for machines without Quarto: run by `make readme`"
import re
from os.path import normpath
from fastcore.nbio import read_nb
from nbdev.config import get_config
from nbdev.readme_filter import doc_link

cfg = get_config()
root,nbs = cfg.config_path,cfg.nbs_path
pages = {'index.ipynb': 'README.md', 'contributing.ipynb': 'CONTRIBUTING.md'}
raw = f"https://raw.githubusercontent.com/{cfg.user}/{cfg.repo}/{cfg.branch}"

def link(m):
    "A notebook becomes its page, and a file keeps its place in the repository; both with addresses where these are known"
    bang,text,target = m.groups()
    path = normpath(f'{nbs.name}/{target}')
    if re.match(r'\w+:|#', target): return m[0]
    if target in pages and not cfg.doc_url: path = pages[target]
    elif target.endswith('.ipynb') and cfg.doc_url: return f'[{text}]({doc_link(target, cfg.doc_url)})'
    if cfg.git_url: path = f'{raw}/{path}' if bang else f'{cfg.git_url}/blob/{cfg.branch}/{path}'
    return f'{bang}[{text}]({path})'

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
            code = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
            if '#| echo: false' not in c.source: yield f'```python\n{code}\n```'
            yield from map(output, c.outputs)

def made():
    "The text of each file that is made from a notebook"
    head = '<!-- Made from nbs/{} by `make readme`: edit the notebook. -->'
    return {root/v: '\n\n'.join([head.format(k), *parts(read_nb(nbs/k))]) + '\n' for k,v in pages.items()}

if __name__=='__main__':
    for path,text in made().items(): path.write_text(text, encoding='utf-8')
