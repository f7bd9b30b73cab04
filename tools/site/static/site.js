// What is wider than its place can be scrolled by keyboard, and the captions of the sidebar are headings of a level
const wide = 'pre, dl, .math-wrapper, .table-wrapper, .cell_output, .highlight'
const focusable = () => document.querySelectorAll(wide).forEach(o => { if (o.scrollWidth>o.clientWidth || o.scrollHeight>o.clientHeight) o.tabIndex = 0 })
addEventListener('load', focusable)
addEventListener('resize', focusable)
document.addEventListener('DOMContentLoaded', () => document.querySelectorAll('[role=heading]').forEach(o => o.setAttribute('aria-level', 2)))
