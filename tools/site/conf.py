"Sphinx's settings for the site; `tools/site/build.py` gives it the pages"
from docutils import nodes
from latex2mathml.converter import convert
from nbdev.config import get_config

cfg = get_config(also_settings=True)
project,author,release = cfg.title,cfg.author,cfg.version
copyright = author
extensions = ['myst_nb', 'sphinx.ext.viewcode']
exclude_patterns = ['files', 'notebooks']
nitpicky = True

nb_execution_mode = 'off'
nb_merge_streams,nb_render_markdown_format = True,'myst'
nb_code_prompt_show = nb_code_prompt_hide = 'Source'
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 4

add_module_names = False
toc_object_entries_show_parents = 'hide'
viewcode_line_numbers = True
pygments_style,pygments_dark_style = 'a11y-high-contrast-light','a11y-high-contrast-dark'

html_theme = 'furo'
html_title = project
html_static_path,templates_path = ['static'],['templates']
html_sidebars = {'**': [f'sidebar/{o}.html' for o in 'brand search scroll-start draw navigation scroll-end'.split()]}
html_css_files,html_js_files = ['site.css'],['site.js']
html_favicon = 'static/favicon.svg'
html_copy_source = False
html_show_sphinx = False
html_math_renderer = 'mathml'
html_theme_options = dict(source_repository=cfg.git_url, source_branch=cfg.branch, source_directory='nbs/') if cfg.git_url else {}

def _mathml(display):
    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode
    return visit,None

def setup(app): app.add_html_math_renderer('mathml', inline_renderers=_mathml('inline'), block_renderers=_mathml('block'))
