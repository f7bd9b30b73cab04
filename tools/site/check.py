"What every page of the site must have: one heading of the first level, links that lead somewhere, a text for each picture, nothing from elsewhere"
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit
from bs4 import BeautifulSoup

@cache
def soup(path): return BeautifulSoup(path.read_text(encoding='utf-8'), 'lxml')

@cache
def ids(path): return {o['id'] for o in soup(path).find_all(id=True)} | {o['name'] for o in soup(path).find_all('a', attrs=dict(name=True))}

def dead(path, target):
    "Why a link leads nowhere, or nothing"
    u = urlsplit(target)
    if u.scheme or u.netloc: return
    file = (path.parent/unquote(u.path)).resolve() if u.path else path
    if not file.is_file(): return f'the link to {target} leads nowhere'
    if u.fragment and file.suffix=='.html' and unquote(u.fragment) not in ids(file): return f'the place {u.fragment} of the link to {target} is missing'

def check_page(path):
    page = soup(path)
    if len(page.find_all('h1'))!=1: yield f"it has {len(page.find_all('h1'))} headings of the first level"
    for o in page.find_all('p'):
        if re.search(r'\|\s*[-\u2013\u2014]+\s*\|', o.get_text()): yield f'a table is shown as text: {o.get_text()[:60]}'
    for o in page.find_all('img'):
        if not o.get('alt') or o['alt']==o['src']: yield f"the picture {o['src']} has no text"
    for tag,attr in (('img','src'),('script','src'),('link','href'),('iframe','src')):
        for o in page.find_all(tag):
            if urlsplit(o.get(attr, '')).netloc: yield f'it loads {o[attr]} from elsewhere'
    for tag,attr in (('a','href'),('img','src'),('script','src'),('link','href')):
        for o in page.find_all(tag):
            if o.get(attr) and (why := dead(path, o[attr])): yield why

def check(folder):
    "Pairs of a page and what is wrong with it"
    folder = Path(folder).resolve()
    return [(o.relative_to(folder).as_posix(),p) for o in sorted(folder.rglob('*.html')) for p in dict.fromkeys(check_page(o))]
