"The site in a browser, and what stops its build: run by `make docs docs-check`"
import http.server, json, os, pytest, re, shutil, sys, threading
from conftest import root
from functools import partial
from subprocess import run
from urllib.parse import urlsplit

chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)
docs = root/'_docs'
pytest.importorskip('sphinx', reason='the site needs Sphinx: run `make docs`')
sync_api = pytest.importorskip('playwright.sync_api', reason='the browser needs Playwright: run `make docs`')
needs_browser = pytest.mark.skipif(not chromium, reason='there is no Chromium here: install it to see the site in a browser')
needs_site = pytest.mark.skipif(not (docs/'index.html').exists(), reason='there is no site: run `make docs`')
pages = sorted(o.relative_to(docs).as_posix() for o in docs.rglob('*.html') if '_modules' not in o.parts) if docs.exists() else []

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address():
    s = http.server.ThreadingHTTPServer(('127.0.0.1',0), partial(Quiet, directory=docs))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{s.server_port}'
    s.shutdown()

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield b
        b.close()

@pytest.fixture(params=[(1280,'light'),(390,'dark')], ids=['wide','phone'])
def page(browser, request):
    "A page that keeps each script error and each request to the outside"
    width,scheme = request.param
    p = browser.new_page(viewport=dict(width=width, height=844), color_scheme=scheme)
    p.faults = []
    p.on('pageerror', lambda e: p.faults.append(str(e)))
    p.on('console', lambda m: p.faults.append(m.text) if m.type=='error' else None)
    p.on('request', lambda r: p.faults.append(r.url) if urlsplit(r.url).hostname not in ('127.0.0.1',None) else None)
    yield p
    p.close()

@needs_browser
@needs_site
def test_pages(page, address):
    "Each page opens without a fault, is no wider than the screen, and shows all its pictures"
    bad = []
    for o in pages:
        page.goto(f'{address}/{o}')
        width,broken = page.evaluate("[document.scrollingElement.scrollWidth, [...document.images].filter(i => !i.naturalWidth).map(i => i.src)]")
        if page.faults or broken or width>page.viewport_size['width']: bad.append((o,width,broken,[*page.faults]))
        page.faults.clear()
    assert pages and not bad

@needs_browser
@needs_site
@pytest.mark.parametrize('words,target', [('FastSGD','optimizer.html'),('accuracy loss staircase','tutorials/loss.html'),('train command','cli.html'),('squared paper shadow','pictures.html')])
def test_search(page, address, words, target):
    "The search finds symbols and words"
    page.goto(f'{address}/search.html?q={words}')
    page.wait_for_selector('ul.search li a')
    assert any(target in o for o in page.eval_on_selector_all('ul.search li a', 'os => os.map(o => o.href)')[:10])
    assert not page.faults

@needs_browser
@needs_site
def test_math(page, address):
    page.goto(f'{address}/tutorials/gradients.html')
    assert page.eval_on_selector_all('math', 'os => os.length>5 && os.every(o => o.getBoundingClientRect().height>5)')

@needs_browser
@needs_site
@pytest.mark.parametrize('name', ['index','optimizer','tutorials/pixels','tutorials/glossary','benchmarks','pictures','cli','search','draw'])
def test_accessible(page, address, name):
    "axe finds nothing wrong: contrast, labels, texts for pictures, headings, keyboard"
    from axe_playwright_python.sync_playwright import Axe
    page.goto(f'{address}/{name}.html')
    found = Axe().run(page, options=dict(runOnly=['wcag2a','wcag2aa','wcag21aa'])).response['violations']
    assert not [(o['id'],o['help'],[n['html'][:150] for n in o['nodes'][:3]]) for o in found]

@needs_browser
@needs_site
def test_draw(page, address):
    "Each page leads to the page to draw on. That one reads a stroke, and requests nothing but itself"
    page.goto(f'{address}/tutorials/pixels.html')
    link = page.eval_on_selector('.sidebar-tree.draw a', 'o => o.href')
    seen = []
    page.on('request', lambda r: seen.append(r.url))
    page.goto(link)
    o = page.locator('#pad').bounding_box()
    for i,(x,y) in enumerate([(.5,.2),(.5,.5),(.5,.8)]):
        page.mouse.move(o['x']+x*o['width'], o['y']+y*o['height'], steps=5)
        if not i: page.mouse.down()
    page.mouse.up()
    page.wait_for_function("document.getElementById('says').textContent.includes('1')")
    assert [o for o in seen if not o.startswith('data:')]==[link] and not page.faults

# What stops the build

@pytest.fixture
def copy(tmp_path):
    for o in ('nbs','mnist_fast','tools','bench','tests'): shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__'))
    for o in ('pyproject.toml','settings.ini','README.md','CONTRIBUTING.md','CHANGELOG.md'): shutil.copy(root/o, tmp_path/o)
    return tmp_path

def test_faults(copy):
    "An unknown directive, a dead link, a name that no code has and an old README each give a sentence that names the cell"
    nb = json.loads((copy/'nbs'/'21_loss.ipynb').read_text())
    n,lost = len(nb['cells']),'mnist_'+'lozz' # in two parts, so that no code has this name
    texts = {'code': '#| exprot\n1', 'markdown': 'See [there](no_such.ipynb) and `'+f'{lost}`.'}
    for t,s in texts.items(): nb['cells'].append(dict(cell_type=t, id=t, metadata={}, source=s, **(dict(outputs=[], execution_count=None) if t=='code' else {})))
    (copy/'nbs'/'21_loss.ipynb').write_text(json.dumps(nb))
    with open(copy/'README.md', 'a') as f: f.write('more')
    res = run([sys.executable, copy/'tools'/'site'/'build.py'], cwd=copy, text=True, capture_output=True, env={**os.environ, 'PYTHONPATH': str(copy)})
    assert res.returncode==1 and not (copy/'_docs').exists() and 'Traceback' not in res.stderr
    for rx in (rf'nbs/21_loss.ipynb, cell {n+1}: the directive `exprot` is unknown', rf'nbs/21_loss.ipynb, cell {n+2}: the link to no_such.ipynb leads nowhere',
        rf'nbs/21_loss.ipynb, cell {n+2}: `{lost}` leads nowhere', r'README.md: it is older than its notebook', r'The site was not built: 4 problems'): assert re.search(rx, res.stderr), (rx, res.stderr)
