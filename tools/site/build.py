"The site in `_docs/`, from the notebooks, with Sphinx: run by `make docs`"
import ast, inspect, io, json, re, shutil, sys
from functools import cache
from importlib import import_module
from operator import attrgetter
from os.path import normpath, relpath
from pathlib import Path
from types import ModuleType
from fastcore.docments import DocmentTbl
from fastcore.nbio import read_nb
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, filter_stream_, hide_, hide_line, rm_header_dash, strip_ansi
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace
from check import check
from mnist_fast.inference.page import model_page

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
cfg = get_config()
root,nbs = cfg.config_path,cfg.nbs_path
src,out = root/'_proc'/'site',root/'_proc'/'html'

groups = {'Tutorials': r'tutorials/', 'Files and data': r'[01]\d_', 'Losses, optimizers, models': r'2\d_', 'Callbacks': r'3\d_', 'Learner and recipes': r'4\d_',
    'By hand': r'5\d_', 'Looking at models': r'6\d_', 'Using models': r'7\d_', 'Runs': r'8\d_', 'Measuring': r'9[0-2]_', 'Salt, the homework': r'9[3-8]_', 'The command': r'99_'}
texts = {'changes': root/'CHANGELOG.md', 'model_card': cfg.lib_path/'weights'/'README.md'}
project = ['pictures','benchmarks','changes','contributing','model_card']
directives = {*cfg.tst_flags, *'default_exp export exports exporti exec_doc hide hide_line filter_stream eval echo output include code-fold code-summary fig-alt'.split()}
everyday = 'step stack view rank leak device schedule recipe converge reduction'.split() # terms that have another meaning too often to be linked
problems = []

def problem(where, text): problems.append(f'{where}: {text}')

# Notebooks

def is_show_doc(cell): return cell.source.startswith('show_doc(')

def docs_first(cells):
    "What documents an exported cell comes before the cell"
    res = []
    for c in cells: res.insert(len(res)-is_show_doc(c), c)
    return res

def docname(path): return texts_of.get(path) or nbpath2html(path.relative_to(nbs)).with_suffix('').as_posix()

class Page:
    "A notebook after nbdev's processors, with the number of each cell before them"
    def __init__(self, path):
        self.path,self.doc,nb = path,docname(path),read_nb(path)
        for i,c in enumerate(nb.cells, 1): c.metadata['cell'] = i
        self.check_directives(nb)
        p = NBProcessor(nb=nb, procs=[add_show_docs, strip_ansi, hide_line, filter_stream_, rm_header_dash, clean_magics, hide_], rm_directives=False)
        p.process()
        self.cells = docs_first(p.nb.cells)
        for a,b in zip(self.cells, self.cells[1:]): b.metadata.setdefault('cell', a.metadata['cell'])
        exps = [c.directives['default_exp'] for c in self.cells if 'default_exp' in c.directives]
        self.module = f'{cfg.lib_name}.{exps[0]}' if exps else None
        self.names = [n for c in self.cells for n in self.shown(c)]

    def where(self, cell): return f"{self.path.relative_to(root)}, cell {cell.metadata['cell']}"

    def check_directives(self, nb):
        for c in nb.cells:
            for d in c.directives.keys()-directives: problem(self.where(c), f'the directive `{d}` is unknown. Use one of {sorted(directives)}.')

    def shown(self, cell):
        "Names that a cell documents: what `show_doc` names, and constants that are exported"
        if m := re.match(r'show_doc\(([\w.]+)', cell.source): return [m[1]] if self.has(m[1], cell) else []
        if not {'export','exports'} & cell.directives.keys(): return []
        targets = [t.id for n in cell.parsed_() or [] if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name) and t.id[0]!='_']
        return [t for t in targets if self.has(t, cell)]

    def has(self, name, cell):
        try: return get(self.module, name) is not None
        except (AttributeError, ImportError): problem(self.where(cell), f'{self.module} has no {name}. Run `nbdev-export`.')

# API entries

def get(module, name): return attrgetter(name)(import_module(module))

def methods(module, name):
    "Public methods of a class that say what they do"
    cls = get(module, name)
    if not inspect.isclass(cls): return []
    return [k for k,v in vars(cls).items() if k[0]!='_' and (inspect.isroutine(v) or isinstance(v, property)) and getattr(cls, k).__doc__]

class Shown:
    "A default value as it stands in the source"
    def __init__(self, v): self.v = v
    def __repr__(self): return getattr(self.v, '__name__', None) or re.sub('<.*>', '...', repr(self.v))

def has_params(obj): return callable(obj) and not (inspect.isclass(obj) and issubclass(obj, BaseException))

def signature(obj):
    if not has_params(obj): return ''
    sig = inspect.signature(obj)
    ps = [p.replace(annotation=p.empty, default=p.default if p.default is p.empty else Shown(p.default)) for k,p in sig.parameters.items() if k!='self']
    return str(sig.replace(parameters=ps, return_annotation=sig.empty))

def code(v):
    if v is inspect._empty or v is None: return ''
    text = v if isinstance(v, str) else getattr(v, '__name__', None) or re.sub(r'\b[a-z_.]+[.](?=[A-Z])', '', str(v))
    return '`'+text.replace('|', r'\|')+'`'

def table(obj):
    "The docments of a function as a table"
    if not has_params(obj): return ''
    row = lambda k,v: f"| {k} | {code(v['anno'])} | {'' if v['default'] is inspect._empty else code(repr(Shown(v['default'])))} | {v['docment'] if isinstance(v['docment'], str) else ''} |"
    dm = {k: v for k,v in DocmentTbl(obj).dm.items() if k!='self'}
    ret = dm.pop('return', None)
    rows = [row(f'`{k}`', v) for k,v in dm.items()]
    if ret and not inspect.isclass(obj) and (isinstance(ret['docment'], str) or ret['anno'] is not inspect._empty): rows.append(row('*returns*', ret))
    return '\n'.join(['| name | type | default | what |','|---|---|---|---|',*rows]) if rows else ''

def kind(module, name):
    obj = get(module, name)
    if inspect.isclass(obj): return 'exception' if issubclass(obj, BaseException) else 'class'
    if isinstance(obj, property): return 'property'
    return 'data' if not callable(obj) else 'method' if '.' in name else 'function'

def entry(module, name, seen=(), depth=5):
    "A name of a module with its signature, what it does, and its parameters"
    obj,fence = get(module, name),':'*depth
    parts = [f'{fence}{{py:{kind(module, name)}}} {name}{signature(obj)}\n:module: {module}\n']
    if callable(obj) or isinstance(obj, property): parts += [inspect.cleandoc(obj.__doc__ or ''),table(obj)]
    parts += [entry(module, f'{name}.{m}', seen, depth-1) for m in methods(module, name) if f'{name}.{m}' not in seen]
    return '\n\n'.join(filter(None, [*parts,fence]))

# Links

@cache
def resolve(name, module):
    "The full name of what a name in backticks means on the page of a module, or an address in fastai's documentation"
    for start in [module,f'{cfg.lib_name}.all']+[cfg.lib_name]*('.' in name):
        try: obj = get(start, name) if start else None
        except (AttributeError, ImportError): continue
        if obj is None: continue
        full = obj.__name__ if isinstance(obj, ModuleType) else f"{getattr(obj, '__module__', '')}.{getattr(obj, '__qualname__', '')}"
        if full in entries: return full
        if not full.startswith('builtins') and full!='.' and not full.startswith(cfg.lib_name): return (outside.syms.get(full) or [None])[0]
    found = [o for o in entries if o.endswith(f'.{name}')]
    if len(found)==1 and (is_symbol(name) or found[0].startswith(module or ' ')): return found[0]

def is_symbol(name): return bool(re.search(r'_|[a-z][A-Z]|[A-Z][a-z]+[A-Z]', name))

def link_code(text, page, where):
    "A name in backticks becomes a link, if it is public here or in fastai; a name that no code has is a problem"
    m = re.fullmatch(r'`([A-Za-z_][\w.]*?)(\(\))?`', text)
    if not m: return text
    target = resolve(m[1], page.module)
    if target and target.startswith('http'): return f'[{text}]({target})' if is_symbol(m[1]) or m[2] else text
    if target: return f'{{py:obj}}`{m[1]}{m[2] or ""} <{target}>`'
    if (is_symbol(m[1]) or m[2]) and (lost := [o for o in m[1].split('.') if o and not is_known(o)]):
        problem(where, f'{text} leads nowhere: no code here has the name {lost[0]}. Write the name that it has now, or leave out the backticks.')
    return text

def link_file(target, page, where):
    "The place on the site of what a link leads to; files that are no page are copied"
    if re.match(r'\w+:|#', target): return target
    name,_,anchor = target.partition('#')
    path = Path(normpath(page.path.parent/name))
    if not path.exists():
        problem(where, f'the link to {name} leads nowhere. Correct or remove it.')
        return target
    up = lambda o: relpath(src/o, (src/page.doc).parent)
    if path.suffix=='.ipynb' or path in texts_of: return up(docname(path)+('.ipynb' if path.suffix=='.ipynb' else '.md'))+('#'*bool(anchor)+anchor)
    copy = Path('files')/path.relative_to(root)
    (src/copy).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, src/copy)
    return up(copy)

def link_terms(text, page, seen):
    "The first use of each of the glossary's terms on a page"
    def link(m):
        term = terms.get(m[0].lower()) or terms.get(m[0].lower().rstrip('s'))
        if not term or term in seen: return m[0]
        seen.add(term)
        return f'<a class="term" href="{relpath("tutorials/glossary.html", Path(page.doc).parent)}#{term}">{m[0]}</a>'
    return term_pattern.sub(link, text)

parts_of_line = re.compile(r'(`[^`]*`|!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|\$\$[^$]*\$\$|\$[^$]*\$|<[^>]*>|\*\*[^*]*\*\*)')

def prose(text, page, where, seen=None):
    "Markdown with its links; `seen` holds the terms that the page has linked already, without it no term is linked"
    lines,fenced = [],False
    for line in text.split('\n'):
        if line.lstrip().startswith('```'): fenced = not fenced
        if not (fenced or line.startswith('#')): line = ''.join(part(o, page, where, None if line.startswith(('|','>')) else seen) for o in parts_of_line.split(line))
        lines.append(line)
    return '\n'.join(lines)

def part(text, page, where, seen):
    if text.startswith('`'): return link_code(text, page, where)
    if text.startswith(('[','![')): return re.sub(r'\]\(([^)\s]+)\)$', lambda m: f']({link_file(m[1], page, where)})', text)
    if text.startswith('**') and page.doc=='tutorials/glossary' and text.strip('*').lower() in terms: return f'<span id="{terms[text.strip("*").lower()]}"></span>{text}'
    return text if seen is None or text.startswith(('$','<','**')) else link_terms(text, page, seen)

# Cells

def plain(text):
    "The last paragraph of Markdown without its marks, as a text for a picture below it"
    last = [p for p in text.split('\n\n') if p.strip() and not p.startswith(('#','```'))][-1:]
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)|[`*$]', lambda m: m[1] or '', ' '.join(' '.join(last).split()))
    return re.match(r'.{0,240}[.!?:](?= |$)|.{0,240}', text)[0].rstrip(':')

def is_plumbing(cell): return 'default_exp' in cell.directives or all(isinstance(n, (ast.Import,ast.ImportFrom)) for n in cell.parsed_() or [0])

def code_cell(cell, alt):
    "A code cell with its directives as tags of MyST-NB"
    d = cell.directives
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    hidden = dict(echo='remove-input', output='remove-output', include='remove-cell')
    tags = [v for k,v in hidden.items() if d.get(k)=='false']+['hide-input']*bool({'export','exports','code-fold'} & d.keys())
    cell.metadata.update(tags=tags, mystnb=dict(image=dict(alt=d.get('fig-alt', '').strip('"') or alt or 'Picture')))
    return cell

def pieces(page):
    "The cells of the page as the site shows them"
    seen,alt = None if page.doc in ('tutorials/glossary','index') else set(),''
    for c in page.cells:
        where = page.where(c)
        if c.cell_type=='markdown':
            alt = plain(c.source) or alt
            yield {**c, 'source': prose(c.source, page, where, seen)}
        for n in page.shown(c): yield dict(cell_type='markdown', id=c.id, metadata=c.metadata, source=prose(entry(page.module, n, page.names), page, where))
        if c.cell_type=='code' and not is_show_doc(c) and not (page.module and is_plumbing(c)): yield code_cell(c, alt)

def write(page):
    "The page as a notebook for MyST-NB"
    cells = [{k: v for k,v in c.items() if k[-1]!='_' and k!='has_sd'} for c in pieces(page)]
    for c in cells: c['metadata'].pop('execution', None)
    if page.module: cells[0]['source'] += f'\n\n```{{py:module}} {page.module}\n```'
    if page.doc.startswith('tutorials/'): cells[1]['source'] += opening(page)
    if page.doc=='inference.page': cells[0]['source'] += '\n\n<a href="draw.html">Draw a digit</a> on the page of the model `full`.'
    if page.doc=='index': cells.append(dict(cell_type='markdown', metadata=dict(cell=0), source=contents()))
    for i,c in enumerate(cells): c['id'] = f'c{i}'
    lang = dict(name='python', pygments_lexer='ipython3')
    nb = dict(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'), language_info=lang), nbformat=4, nbformat_minor=5)
    path = src/f'{page.doc}.ipynb'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb), encoding='utf-8')

def opening(page):
    "Links to the notebook itself: as a file, and in Colab if the repository has an address"
    copy = src/'notebooks'/page.path.name
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(page.path, copy)
    colab = f' [Open it in Colab](https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{page.path.relative_to(root)}).' if cfg.git_url else ''
    return f'\n\n{{download}}`Download this notebook <../notebooks/{copy.name}>`.{colab}'

def contents():
    "The sidebar: groups of pages in the order of the floors"
    found = lambda rx: [p.doc for p in pages if re.match(rx, p.path.relative_to(nbs).as_posix())]
    parts = {k: found(rx) for k,rx in groups.items()} | {'The project': project}
    return '\n\n'.join(f'```{{toctree}}\n:hidden:\n:caption: {k}\n\n'+'\n'.join(v)+'\n```' for k,v in parts.items())

# The whole

def glossary():
    "The terms of the glossary, in lower case, with the id of each"
    text = '\n'.join(c.source for c in read_nb(nbs/'tutorials'/'12_glossary.ipynb').cells if c.cell_type=='markdown')
    return {t.lower(): 'term-'+re.sub(r'\W+', '-', t.lower()).strip('-') for t in re.findall(r'^- \*\*([^*]+)\*\*', text, flags=re.M)}

def all_words():
    "Each name in the code of the project and of fastai, and those of Python and PyTorch"
    folders = cfg.lib_path,root/'tests',root/'tools',root/'bench',Path(import_module('fastai').__file__).parent
    text = [o.read_text(encoding='utf-8') for d in folders for o in d.rglob('*.py')]+[c.source for p in pages for c in read_nb(p.path).cells if c.cell_type=='code']
    known = [o for m in ('builtins','torch','torch.nn',f'{cfg.lib_name}.all') for o in dir(import_module(m))]+dir(import_module('torch').Tensor)
    return {*known, type(len).__name__, *re.findall(r'[A-Za-z_]\w*', '\n'.join(text))}

def is_known(name):
    "Is a name in some code, or the first or last part of one, such as `plot_`?"
    return name in words or name.isdigit() or '_' in name[:1]+name[-1:] and any(name in o for o in words)

def stale_readme():
    from readme import made
    for path,text in made().items():
        if not path.exists() or path.read_text(encoding='utf-8')!=text: problem(path.name, 'it is older than its notebook. Run `make readme`.')

def sphinx():
    "Build the pages; each warning becomes a problem that names the cell"
    warnings = io.StringIO()
    shutil.rmtree(out, ignore_errors=True)
    with docutils_namespace(): Sphinx(src, here, out, root/'_proc'/'doctrees', 'html', status=None, warning=warnings, freshenv=True, parallel=2).build()
    for line in filter(None, warnings.getvalue().splitlines()): problem(*origin(re.sub(r'\x1b\[[\d;]*m', '', line)))

def origin(line):
    "Where a warning of Sphinx comes from, and its text"
    m = re.match(rf'{re.escape(str(src))}/(.+?)[.](ipynb|md)(?::(\d+))?: (.*)', line)
    if not m: return 'Sphinx',line
    page = next((p for p in pages if p.doc==m[1]), None)
    if not page or not m[3]: return m[1],m[4]
    cells = json.loads((src/f'{m[1]}.ipynb').read_text())['cells']
    return f"{page.path.relative_to(root)}, cell {cells[min(int(m[3])//10000, len(cells))-1]['metadata'].get('cell')}",m[4]

def stop_if_wrong():
    found = [*dict.fromkeys(problems)]
    if found: sys.exit('\n'.join([*found,f'The site was not built: {len(found)} problem{"s"*(len(found)>1)}, named above.']))

def main():
    shutil.rmtree(src, ignore_errors=True)
    src.mkdir(parents=True)
    stale_readme()
    for p in pages: write(p)
    for name,path in texts.items(): (src/f'{name}.md').write_text(prose(path.read_text(encoding='utf-8'), Text(path, name), path.name), encoding='utf-8')
    stop_if_wrong()
    sphinx()
    model_page('full', out/'draw.html')
    for o in check(out): problem(*o)
    stop_if_wrong()
    shutil.rmtree(root/'_docs', ignore_errors=True)
    out.rename(root/'_docs')
    print(f'The site is in {root/"_docs"/"index.html"}')

class Text:
    "A page that is a Markdown file"
    module = None
    def __init__(self, path, doc): self.path,self.doc = path,doc

texts_of = {v: k for k,v in texts.items()}
pages = [Page(o) for o in sorted([*nbs.glob('*.ipynb'),*nbs.glob('tutorials/*.ipynb')])]
entries = {f'{p.module}.{o}' for p in pages for n in p.names for o in (n, *(f'{n}.{m}' for m in methods(p.module, n)))} | {p.module for p in pages if p.module}
outside = NbdevLookup(strip_libs='')
terms,words = glossary(),all_words()
term_pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(terms.keys()-{*everyday}, key=len, reverse=True)))})s?\b", flags=re.I)

if __name__=='__main__': main()
