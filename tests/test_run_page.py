"The parts of a page: whatever they are given, the page stays whole, and it loads and runs nothing"
import base64, io, math, numpy as np, pytest, torch, warnings
from fastcore.xml import H1, P, to_xml
from matplotlib import rc_context
from matplotlib.figure import Figure
from mnist_fast.run.page import absent_note, chart, chart_style, html_page, html_table, number_cell, png_uri, section
from PIL import Image
from run_files import Page

each = pytest.mark.parametrize
bad = '"><script>alert(1)</script>\'&amp;<!--'

def line(n=1, **kwargs):
    with rc_context(chart_style):
        fig = Figure(figsize=(3,2), **kwargs)
        for ax in fig.subplots(n, 1, squeeze=False).flat: ax.plot([0,1], [0,1], color='k')
    return fig

@each('o,form,text', [(1234567,',','1,234,567'), (.98765,'.2%','98.77%'), (None,',','–'), (math.nan,'.2%','–'), (np.float64(.5),'+.1%','+50.0%'), (0,',','0')])
def test_number_cell(o, form, text): assert to_xml(number_cell(o, form)).strip()==f'<td class="n">{text}</td>'

def test_table():
    "Texts are escaped, numbers and their head stand on the right, ready cells stay as they are"
    o = Page(to_xml(html_table(bad, [(bad,bad,3,number_cell(.5, '.0%')),('b','c',None,number_cell(1, '.0%'))], 'name', 'text', 'n', 'share')))
    assert o.tags.count('tr')==3 and o.tags.count('td')==6 and 'script' not in o.tags and o.text.count('<script>')==2
    assert o.attr('div', 'aria-label')==[bad]
    assert o.attr('th', 'scope')==['col']*4+['row']*2 and o.attr('th', 'class')==['n']*2 and o.attr('td', 'class')==['n']*4
    assert '50%' in o.text and '100%' in o.text and '–' in o.text

@each('rows,head,tags', [([],['a'],{'thead'}), ([('a',1)],[],set())])
def test_small_tables(rows, head, tags):
    "No rows, or no head"
    o = Page(to_xml(html_table('t', rows, *head)))
    assert {*o.tags}&{'thead'}==tags and 'tbody' in o.tags

@each('shape', [(28,28),(5,7),(4,6,3)])
def test_png(shape):
    "The pixels come back, grey or in colour"
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    start,data = png_uri(x/255).split(',')
    y = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert start=='data:image/png;base64' and y.shape==shape and np.abs(y.astype(int)-x.numpy()).max()<=1

@each('margins', [None,(.5,.3,.1,.1)])
@each('layout', [None,'constrained'])
def test_chart(margins, layout):
    "Black follows the text of the page, no ids of elements, the same bytes again, its text is escaped"
    make = lambda: to_xml(chart(line(layout=layout), bad, margins))
    with warnings.catch_warnings():
        warnings.simplefilter('error') # `catch_warnings(action=)` needs Python 3.11
        text = make()
    o = Page(text)
    assert text==make() and 'currentColor' in text and '#000000' not in text and o.tags.count('svg')==1 and 'script' not in o.tags and bad.split('&')[0] in o.text
    assert not [v for _,k,v in o.attrs if k=='id' and v.startswith(('figure','axes','line','text'))] and o.attr('div', 'role')==['img']

def test_margins():
    "In inches, whatever the size of the figure"
    chart(fig := line(layout='constrained'), 'a line', (.75,.5,.25,.1))
    box = fig.axes[0].get_position()
    assert [box.x0*3,box.y0*2,(1-box.x1)*3,(1-box.y1)*2]==pytest.approx([.75,.5,.25,.1])

def test_page():
    "One language, title and style; a policy against everything from outside; no bytes that are not UTF-8"
    page = html_page(bad+'\ud800', H1(bad), section(bad, absent_note(bad), P('ü')), chart(line(), 'a line'), chart(line(2), 'two lines'))
    text = page.decode()
    o = Page(text)
    assert text.lower().startswith('<!doctype html>') and o.attr('html', 'lang')==['en'] and 'script' not in o.tags and 'ü' in o.text
    assert [o.tags.count(k) for k in ('title','style','main','h1','h2','footer')]==[1,3,1,1,1,1] and o.text.count('<script>')==4
    policy, = [v for v in o.attr('meta', 'content') if 'src' in v]
    assert "default-src 'none'" in policy and 'script-src' not in policy and 'http:' not in policy
    ids = [v for _,k,v in o.attrs if k=='id']
    assert len(ids)==len({*ids})
