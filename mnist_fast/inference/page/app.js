// The page: it draws, asks the network, and shows how the answer comes about.
'use strict'
const model = JSON.parse(document.getElementById('model').textContent)
const $ = id => document.getElementById(id)
const element = (tag, props = {}, ...children) => {
  const o = Object.assign(document.createElement(tag), props)
  o.append(...children)
  return o
}

// The weights: one row of float32 in base64. In the layers, [start, n] stands for n numbers of it.
{
  const text = atob($('weights').textContent), bytes = new Uint8Array(text.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i)
  const numbers = new Float32Array(bytes.buffer)
  const unpack = o => {
    for (const k of ['weight', 'bias', 'scale', 'shift']) if (o[k]) o[k] = numbers.subarray(o[k][0], o[k][0] + o[k][1])
    for (const l of [...(o.stages || []).flat(), ...(o.heads || [])]) unpack(l)
  }
  model.layers.forEach(unpack)
  model.ideals = model.ideals.map(([start, n]) => numbers.subarray(start, start + n))
}

// Asking the network

const argmax = a => a.indexOf(Math.max(...a))
const argmin = a => a.indexOf(Math.min(...a))
const same = (a, b) => a.every((v, i) => v == b[i])
const percent = p => (p > .9995 && p < 1 ? '>99.9' : p < .0005 && p > 0 ? '<0.1' : (100 * p).toFixed(1)) + '%'

function logits(pixels, seen) { return Network.forward(model.layers, {shape: [784], data: pixels}, seen).data }

function* classify({box, pixels}) {
  const seen = [], {data: out} = yield* Network.steps(model.layers, {shape: [784], data: pixels}, seen)
  const probabilities = Network.probabilities(out), best = argmax(probabilities)
  const distances = model.ideals.map(o => Network.distance(pixels, o)), nearest = argmin(distances)
  return {box, pixels, seen, out, probabilities, best, label: model.classes[best], sure: probabilities[best] >= model.threshold, distances, nearest}
}

// Only a digit that has changed is computed again.
function* digits(image, known = []) {
  const found = []
  for (const d of Framing.digitsIn(image)) {
    const k = known.find(o => same(o.pixels, d.pixels))
    found.push(k ? {...k, box: d.box} : yield* classify(d))
  }
  return found
}

// The result of one of these, without a pause.
function finished(job) {
  let step
  do step = job.next(); while (!step.done)
  return step.value
}

// The drawing. `items` are what the user did, one after the other; undo takes the last one away. A stroke is {points, width, erase}, with
// points in a square of 336 by 336. The drawing is painted twice: on the screen, and on `source`, dark on light, for the network.

const side = 336, dark = matchMedia('(prefers-color-scheme: dark)'), still = matchMedia('(prefers-reduced-motion: reduce)')
const pad = $('pad'), screen = pad.getContext('2d'), source = document.createElement('canvas'), ink = source.getContext('2d', {willReadFrequently: true})
let items = [], stroke = null, picture = null, theme = null, erasing = false

const visible = () => items.slice(Math.max(0, items.findLastIndex(o => o.fresh)))
const colours = () => picture || theme
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

// From one point of a stroke to the next; a first point is a dot.
function segment(context, s, i, {paper, ink}) {
  const scale = context.canvas.width / side, [x, y, pressure] = s.points[i], [x0, y0] = s.points[Math.max(i - 1, 0)]
  context.lineCap = context.lineJoin = 'round'
  context.lineWidth = s.width * pressure * scale
  context.strokeStyle = s.erase ? paper : ink
  context.beginPath()
  context.moveTo(x0 * scale, y0 * scale)
  context.lineTo(x * scale + (i ? 0 : .01), y * scale)
  context.stroke()
}

function fill(context, {paper, ink}) {
  const {width, height} = context.canvas
  context.fillStyle = paper
  context.fillRect(0, 0, width, height)
  if (picture) context.drawImage(picture.canvas, 0, 0, width, height)
  for (const o of visible()) for (const s of o.strokes || []) s.points.forEach((_, i) => segment(context, s, i, {paper, ink}))
}

// Everything again: after undo, clear, a picture, another size or another colour scheme.
function paint() {
  picture = visible().find(o => o.picture)?.picture
  const ratio = picture ? picture.canvas.height / picture.canvas.width : 1
  pad.style.aspectRatio = 1 / ratio
  pad.width = Math.round(pad.clientWidth * Math.min(devicePixelRatio || 1, 3))
  pad.height = Math.round(pad.width * ratio)
  source.width = picture ? picture.canvas.width : side
  source.height = picture ? picture.canvas.height : side
  theme = {paper: style('--pad'), ink: style('--ink')}
  readColours()
  fill(screen, colours())
  fill(ink, picture || {paper: '#fff', ink: '#000'})
  $('undo').disabled = !items.length
  $('clear').disabled = !visible().some(o => o.strokes || o.picture)
  $('empty').hidden = !$('clear').disabled
  think()
}

function extend(s, ...points) {
  for (const o of points) {
    s.points.push(o)
    segment(screen, s, s.points.length - 1, colours())
    segment(ink, s, s.points.length - 1, picture || {paper: '#fff', ink: '#000'})
  }
  think()
}

function add(item) {
  finish()
  $('note').textContent = ''
  items.push(item)
  paint()
}

function begin(point, erase = erasing) {
  const s = {points: [], width: +$('width').value, erase}
  add({strokes: [s]})
  extend(s, point)
  return s
}

function undo() { finish(); lift(); items.pop(); paint() }
function clear() { lift(); if (!$('clear').disabled) add({fresh: true}) }

// Mouse, finger and pen

function place(e) {
  const r = pad.getBoundingClientRect(), scale = side / r.width
  return [(e.clientX - r.left) * scale, (e.clientY - r.top) * scale, e.pointerType == 'pen' && e.pressure ? .4 + 1.2 * e.pressure : 1]
}

pad.addEventListener('pointerdown', e => {
  if (stroke || e.button > 0 && e.button != 5) return
  pad.setPointerCapture(e.pointerId)
  lift()
  stroke = {id: e.pointerId, s: begin(place(e), erasing || e.button == 5)}
})
pad.addEventListener('pointermove', e => {
  if (stroke?.id != e.pointerId) return
  const events = e.getCoalescedEvents?.() || []
  extend(stroke.s, ...(events.length ? events : [e]).map(place))
})
pad.addEventListener('touchstart', e => e.preventDefault(), {passive: false}) // no scrolling, zooming or magnifier begins here
for (const o of ['pointerup', 'pointercancel', 'lostpointercapture']) pad.addEventListener(o, e => { if (stroke?.id == e.pointerId) stroke = null })

// The keyboard: arrow keys move a pen, space puts it down and lifts it.

const held = new Set(), arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}
let pen = null, at = [side / 2, side / 4]

function showPen(show = true) {
  const h = side * pad.height / pad.width
  at = [Math.min(Math.max(at[0], 0), side), Math.min(Math.max(at[1], 0), h)]
  $('cursor').hidden = !show
  $('cursor').className = pen ? 'down' : ''
  $('cursor').style.left = `${100 * at[0] / side}%`
  $('cursor').style.top = `${100 * at[1] / h}%`
}
function lift() { pen = null; $('cursor').className = '' }

function moveBy(step) {
  for (const k of held) at = at.map((v, i) => v + step * arrows[k][i])
  showPen()
  if (pen) extend(pen, [...at, 1])
}

const actions = {
  ' ': () => { pen = pen ? null : begin([...at, 1]); showPen(); $('status').textContent = pen ? 'Pen down' : 'Pen up' },
  e: () => { toggle(); lift() }, Delete: clear, Backspace: clear, Escape: () => { lift(); showPen() }, Home: () => { lift(); at = [side / 2, side / 4]; showPen() }
}
pad.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return
  const key = e.key.length == 1 ? e.key.toLowerCase() : e.key
  if (arrows[key]) { held.add(key); moveBy(e.shiftKey ? 3 : 10) }
  else if (actions[key]) { if (!e.repeat) actions[key]() }
  else return
  e.preventDefault()
})
pad.addEventListener('keyup', e => held.delete(e.key))
pad.addEventListener('blur', () => { held.clear(); lift(); showPen(false) })
document.addEventListener('keydown', e => {
  if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() == 'z') { e.preventDefault(); undo() }
})

function toggle() {
  erasing = !erasing
  $('erase').setAttribute('aria-pressed', erasing)
}
$('erase').onclick = toggle
$('undo').onclick = undo
$('clear').onclick = clear
$('width').oninput = () => { $('dot').style.width = $('dot').style.height = `${$('width').value}px` }

// Pictures: chosen, dropped or pasted. The paper is the middle colour of the border; a picture without any contrast on white may be white ink.

const grey = ([r, g, b]) => .299 * r + .587 * g + .114 * b

// A long strip gets paper around it, so that no side is more than three times the other.
function notTooLong(picture, paper) {
  const {width, height} = picture, w = Math.max(width, Math.ceil(height / 3)), h = Math.max(height, Math.ceil(width / 3))
  if (w == width && h == height) return picture
  const canvas = element('canvas', {width: w, height: h}), c = canvas.getContext('2d')
  c.fillStyle = paper
  c.fillRect(0, 0, w, h)
  c.drawImage(picture, (w - width) >> 1, (h - height) >> 1)
  return canvas
}

function onPaper(bitmap, w, h, paper) {
  const canvas = element('canvas', {width: w, height: h}), c = canvas.getContext('2d', {willReadFrequently: true})
  c.fillStyle = paper
  c.fillRect(0, 0, w, h)
  c.drawImage(bitmap, 0, 0, w, h)
  const {data} = c.getImageData(0, 0, w, h), border = []
  let low = 255, high = 0
  for (let i = 0; i < w * h; i++) {
    const rgb = data.subarray(4 * i, 4 * i + 3), y = Math.floor(i / w), v = grey(rgb)
    low = Math.min(low, v)
    high = Math.max(high, v)
    if (!(i % w) || i % w == w - 1 || !y || y == h - 1) border.push(rgb)
  }
  const middle = border.sort((a, b) => grey(a) - grey(b))[border.length >> 1]
  return {canvas: notTooLong(canvas, `rgb(${middle.join(' ')})`), paper: `rgb(${middle.join(' ')})`, ink: grey(middle) < 128 ? '#fff' : '#000', contrast: high - low}
}

async function usePicture(file) {
  try {
    const bitmap = await createImageBitmap(file), scale = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height))
    const size = [bitmap.width, bitmap.height].map(o => Math.max(1, Math.round(o * scale))), white = onPaper(bitmap, ...size, '#fff')
    add({fresh: true, picture: white.contrast < 26 ? onPaper(bitmap, ...size, '#000') : white})
  } catch { $('note').textContent = 'This browser can’t read that file as a picture. Give a PNG or a JPEG.' }
}

$('file').onchange = () => { if ($('file').files[0]) usePicture($('file').files[0]); $('file').value = '' }
document.addEventListener('dragover', e => { e.preventDefault(); $('paper').classList.add('drop') })
document.addEventListener('dragleave', e => { if (!e.relatedTarget) $('paper').classList.remove('drop') })
document.addEventListener('drop', e => {
  e.preventDefault()
  $('paper').classList.remove('drop')
  if (e.dataTransfer.files[0]) usePicture(e.dataTransfer.files[0])
})
document.addEventListener('paste', e => {
  const file = [...e.clipboardData.files].find(o => o.type.startsWith('image/'))
  if (file) usePicture(file)
})

// Samples: strokes in a square of 100 by 100, drawn as a user would draw them.

const shapes = {
  0: 'M52 16 C34 14 27 38 28 54 C29 72 37 86 50 86 C66 86 73 68 72 50 C71 30 64 15 48 18', 1: 'M55 15 L46 86',
  2: 'M31 32 C33 18 48 12 60 17 C73 24 68 42 56 56 C48 66 38 76 28 84 C44 80 58 82 75 82', 3: 'M32 22 C42 12 66 12 66 30 C66 43 54 48 44 48 C58 48 70 54 70 68 C70 88 42 90 29 77',
  4: 'M38 17 C36 32 32 46 28 55 C42 57 58 55 75 52 M65 19 C63 42 60 64 58 87', 5: 'M71 17 L41 18 L36 46 C46 38 70 42 70 62 C70 86 44 90 29 79',
  6: 'M62 14 C44 24 31 46 32 66 C33 82 44 88 54 85 C66 81 70 70 65 61 C58 50 40 56 34 70', 7: 'M28 20 C42 20 56 19 71 17 C61 40 53 62 47 87',
  8: 'M66 26 C58 10 34 14 36 30 C38 46 68 52 66 70 C64 90 34 90 34 70 C34 54 64 44 66 26', 9: 'M67 30 C60 13 36 16 34 35 C32 54 60 54 67 30 C66 52 62 70 55 87'
}
let drawing = null

function pathOf(text, d) {
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  path.setAttribute('d', d)
  return path
}

// Points along the strokes of the digits of `text`, side by side.
function strokesOf(text) {
  const n = text.length, size = n > 1 ? 1.25 / n : 1
  return [...text].flatMap((digit, k) => shapes[digit].split(/(?= M)/).map(d => {
    const path = pathOf(digit, d), length = path.getTotalLength(), count = Math.ceil(length / 2)
    return Array.from({length: count + 1}, (_, i) => {
      const {x, y} = path.getPointAtLength(length * i / count)
      return [side * ((k + .5) / n + (x - 50) / 100 * size), side * (.5 + (y - 50) / 100 * size), 1]
    })
  }))
}

function drawSample(text) {
  lift()
  const strokes = strokesOf(text), width = +$('width').value * (text.length > 1 ? .75 : 1)
  add({fresh: true, strokes: []})
  drawing = {item: items[items.length - 1], width, strokes, total: strokes.flat().length, done: 0, start: performance.now()}
  if (still.matches) finish()
  else requestAnimationFrame(drawMore)
}

// As many points of the sample as 0.6 seconds give, or all of them.
function drawUpTo(n) {
  const d = drawing
  let i = 0
  for (const points of d.strokes) {
    if (d.done < n && i <= d.done && d.done < i + points.length) {
      if (d.done == i) d.item.strokes.push({points: [], width: d.width})
      const more = points.slice(d.done - i, n - i)
      d.done += more.length
      extend(d.item.strokes[d.item.strokes.length - 1], ...more)
    }
    i += points.length
  }
  if (d.done == d.total) { drawing = null; paint() }
}
function drawMore(now) {
  if (!drawing) return
  drawUpTo(Math.min(drawing.total, Math.ceil(drawing.total * Math.max(now - drawing.start, 0) / 600)))
  if (drawing) requestAnimationFrame(drawMore)
}
function finish() { if (drawing) drawUpTo(drawing.total) }

for (const text of model.samples) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg'), n = text.length
  svg.setAttribute('viewBox', `20 8 ${60 * n} 86`)
  svg.setAttribute('aria-hidden', 'true')
  ;[...text].forEach((digit, k) => {
    const path = pathOf(digit, shapes[digit])
    path.setAttribute('transform', `translate(${60 * k} 0)`)
    svg.append(path)
  })
  const button = element('button', {type: 'button', className: n > 1 ? 'long' : '', onclick: () => drawSample(text)}, svg)
  button.setAttribute('aria-label', `Draw ${text}`)
  $('samples').append(button)
}

// Thinking begins after the frame in which the stroke was drawn, once for all events before it. After 8 ms it pauses at the next layer, so that
// a slow phone can draw; what the user does meanwhile is thought about afterwards.

let pending = false, job = null, started = 0, known = [], chosen = -1, spoken = 0
const channel = new MessageChannel(), goOn = () => channel.port2.postMessage(0)
channel.port1.onmessage = () => {
  const now = performance.now()
  if (!job) {
    pending = false
    started = now
    job = digits(ink.getImageData(0, 0, source.width, source.height), known)
  }
  let step
  try { do step = job.next(); while (!step.done && performance.now() < now + 8) } catch (e) { job = null; throw e }
  if (!step.done) return goOn()
  job = null
  if (step.value.length != known.length || chosen >= step.value.length) chosen = step.value.length - 1
  known = step.value
  show()
  mnistFast.lastMs = performance.now() - started
  if (pending) requestAnimationFrame(goOn)
}
function think() {
  if (!pending && !job) requestAnimationFrame(goOn)
  pending = true
}

// Showing

// Colours as red, green and blue: `mix` goes from `zero` to blue above 0 and to red below, and `palette` has 257 steps of it, each in four bytes.
let zero, plus, minus, palette
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.length == 4 ? hex[(i + 1) / 2].repeat(2) : hex.slice(i, i + 2), 16))
const mix = t => zero.map((o, i) => Math.round(o + Math.abs(t) * ((t < 0 ? minus : plus)[i] - o)))
const four = colours => new Uint32Array(Uint8Array.from(colours.flatMap(o => [...o, 255])).buffer)
const greys = four(Array.from({length: 256}, (_, i) => [i, i, i]))
function readColours() {
  [zero, plus, minus] = ['--zero', '--pos', '--neg'].map(o => rgb(style(o)))
  palette = four(Array.from({length: 257}, (_, i) => mix(Math.sign(i - 128) * Math.abs(i / 128 - 1) ** .75)))
}
const largest = a => { let top = 0; for (let i = 0; i < a.length; i++) top = Math.max(top, Math.abs(a[i])); return top || 1 }
const onCanvas = canvas => canvas.getContext('2d', {willReadFrequently: true})

// An image of each channel, side by side in rows; a row of numbers becomes a row of pixels.
function tiles(canvas, {shape, data}, top = largest(data)) {
  if (data.length == 784) shape = [1, 28, 28]
  const [n, h, w] = shape.length == 3 ? shape : [data.length, 1, 1], gap = shape.length == 3 ? 1 : 0
  const across = Math.min(n, shape.length == 3 ? (w > 9 ? 16 : 32) : n > 100 ? 64 : n)
  const width = across * (w + gap) - gap, height = Math.ceil(n / across) * (h + gap) - gap
  if (canvas.width != width || canvas.height != height) Object.assign(canvas, {width, height})
  const c = onCanvas(canvas), image = c.createImageData(width, height), out = new Uint32Array(image.data.buffer)
  for (let k = 0, i = 0; k < n; k++) {
    const start = Math.floor(k / across) * (h + gap) * width + k % across * (w + gap)
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++, i++) out[start + y * width + x] = palette[Math.round(128 * (1 + data[i] / top))]
  }
  c.putImageData(image, 0, 0)
}

function pixels(canvas, data) {
  const c = onCanvas(canvas), image = c.createImageData(28, 28), out = new Uint32Array(image.data.buffer)
  for (let i = 0; i < 784; i++) out[i] = greys[Math.round(255 * data[i])]
  c.putImageData(image, 0, 0)
}

// The 28 by 28 pixels, ten times as large, with the bounding box of the ink and its centre of mass.
const small = element('canvas', {width: 28, height: 28})
function showPixels(data) {
  const c = onCanvas($('sees'))
  pixels(small, data)
  c.imageSmoothingEnabled = false
  c.drawImage(small, 0, 0, 280, 280)
  const on = Array.from(data.keys()).filter(i => data[i] > 0)
  if (!on.length) return
  const cols = on.map(i => i % 28), rows = on.map(i => Math.floor(i / 28)), mass = on.reduce((s, i) => s + data[i], 0)
  const l = Math.min(...cols), t = Math.min(...rows), r = Math.max(...cols) + 1, b = Math.max(...rows) + 1
  const [x, y] = [cols, rows].map(o => 10 * (.5 + on.reduce((s, i, j) => s + data[i] * o[j], 0) / mass))
  c.strokeStyle = '#ffb020'
  c.lineWidth = 2
  c.setLineDash([6, 4])
  c.strokeRect(10 * l, 10 * t, 10 * (r - l), 10 * (b - t))
  c.setLineDash([])
  for (const [colour, width] of [['#000', 6], ['#ffb020', 2.5]]) {
    c.strokeStyle = colour
    c.lineWidth = width
    c.beginPath()
    for (const [dx, dy] of [[9, 0], [0, 9]]) { c.moveTo(x - dx, y - dy); c.lineTo(x + dx, y + dy) }
    c.stroke()
  }
}

// What never changes: the rows of the probabilities, of the ideal digits and of the layers.
const bars = model.classes.map(o => {
  const bar = element('i'), value = element('span', {className: 'value'}), row = element('li', {}, element('span', {textContent: o}), element('span', {className: 'track'}, bar), value)
  $('bars').append(row)
  return {row, bar, value}
})
const two = model.classes.length == 2
$('ideals').className = two ? 'two' : ''
$('bars-text').textContent = (two ? 'The network gives one number. The sigmoid turns it into the probability of a three. The rest is the probability of a seven.'
  : 'The network gives one number for each digit. Softmax turns the ten numbers into probabilities, which add up to 1.')
  + ` If the highest one is below ${Math.round(100 * model.threshold)}%, the page is not sure.`
const ideals = model.classes.map((o, i) => {
  const canvas = element('canvas', {width: 28, height: 28}), value = element('span'), row = element('li', {}, canvas, element('b', {textContent: `${o} `}), value)
  canvas.setAttribute('role', 'img')
  canvas.setAttribute('aria-label', `The ideal ${o}`)
  pixels(canvas, model.ideals[i])
  $('ideals').append(row)
  return {row, value}
})

const size = l => `${l.kernel}×${l.kernel}`
const stepNames = {
  normalize: l => l.mean || l.std != 1 ? 'Pixels, normalised' : 'Pixels', conv: l => `Convolution ${size(l)}${l.stride > 1 ? `, stride ${l.stride}` : ''}`, pool: l => `Max-pool ${size(l)}`,
  affine: () => 'Batch normalisation', relu: () => 'ReLU', flatten: () => 'One row of numbers', linear: l => l.head ? `Head ${l.head}` : 'Linear layer', heads: () => 'Sum of the heads'
}
const namesOf = l => [stepNames[l.kind](l), ...(l.folded ? ['batch normalisation'] : [])]
const signed = (v, n, plus = '') => `${v.toFixed(n) == 0 ? '' : v < 0 ? '−' : plus}${Math.abs(v).toFixed(n)}`
model.layers.forEach(l => l.heads?.forEach((o, i) => { o.head = i + 1 }))

const lower = o => o == 'ReLU' ? o : o[0].toLowerCase() + o.slice(1)

// A block is a layer with weights and what follows it without weights of its own; its image is that of its last step.
let rows = []
function layerRows() {
  const seen = [], starts = ['normalize', 'conv', 'linear', 'heads']
  logits(new Float32Array(784), seen)
  const blocks = []
  seen.forEach(({layer}, i) => {
    if ($('every').checked || starts.includes(layer.kind)) blocks.push({steps: [], names: [], params: 0, last: i})
    const b = blocks[blocks.length - 1]
    b.params += layer.params || 0
    if (!$('every').checked && layer.kind == 'flatten') return
    b.names.push(...namesOf(layer))
    b.last = i
  })
  $('layers').replaceChildren()
  rows = blocks.map(b => {
    const {shape} = seen[b.last], cells = shape.length == 1 && shape[0] <= 10, [name, ...after] = b.names
    const view = cells ? element('div', {className: 'cells'}) : element('canvas')
    if (cells) for (let i = 0; i < shape[0]; i++) view.append(element('span', {}, element('b', {textContent: shape[0] == 1 ? 'output' : model.classes[i]}), element('span')))
    else { view.setAttribute('role', 'img'); view.setAttribute('aria-label', `What this layer gives: ${shape.join(' by ')} numbers`) }
    const head = element('div', {}, element('h3', {textContent: name}))
    const params = b.params ? `${b.params.toLocaleString('en')} parameters` : 'no parameters'
    const lines = [...(after.length ? [`then ${after.map(lower).join(', ')}`] : []), `${shape.join(' × ')}${shape.length > 1 ? '' : shape[0] > 1 ? ' numbers' : ' number'}`, params]
    head.append(...lines.map(o => element('small', {textContent: o})))
    $('layers').append(element('li', {}, head, view))
    return {view, cells, last: b.last}
  })
}

function showLayers(seen) {
  for (const {view, cells, last} of rows) {
    const step = seen[last], top = largest(step.data)
    if (!cells) {
      tiles(view, step, top)
      const zoom = step.shape.length == 1 && view.height < 28 ? 8 : Math.max(2, Math.min(5, Math.floor(560 / view.width)))
      view.style.width = `${view.width * zoom}px`
    } else [...view.children].forEach((o, i) => {
      o.lastChild.textContent = signed(step.data[i], 1)
      o.style.backgroundColor = `rgb(${mix(.42 * step.data[i] / top).join(' ')})`
    })
  }
}

// The output of the answer as a sum over the pixels, for a linear model and for linear layers with ReLUs between them.
const linearOnly = model.layers.every(l => ['normalize', 'linear', 'relu'].includes(l.kind)), hidden = model.layers.some(l => l.kind == 'relu')
function showEvidence(d) {
  const flip = two && d.best ? -1 : 1, {weights, bias} = Network.evidence(d.seen, two ? 0 : d.best), pixels = d.seen[0].data
  const parts = Array.from(weights, (w, i) => flip * w * pixels[i]), sum = sign => parts.reduce((s, v) => v * sign > 0 ? s + v : s, 0)
  tiles($('evidence'), {shape: [1, 28, 28], data: parts})
  $('evidence-text').replaceChildren('Each pixel times its weight. ', element('b', {className: 'pos', textContent: 'Blue'}), ` is evidence for a ${d.label}, `,
    element('b', {className: 'neg', textContent: 'red'}), ' is evidence against it.', hidden ? ' The ReLU lets some hidden units through and sets the others to 0, so for this drawing the network is a linear model with these weights.' : '')
  const total = flip * d.out[two ? 0 : d.best], lines = [['For', sum(1)], ['Against', sum(-1)], ['Bias', flip * bias], [flip < 0 ? 'Output, with its sign changed' : `Output for ${d.label}`, total]]
  $('sum').tBodies[0].replaceChildren(...lines.map(([k, v]) => {
    const th = element('th', {textContent: k, scope: 'row'})
    return element('tr', {}, th, element('td', {textContent: signed(v, 2, '+')}))
  }))
}

function choose(i) { chosen = i; show() }

// The labels over the drawing, and the answer below it.
function showAnswer() {
  $('boxes').replaceChildren(...known.map((d, i) => {
    const [l, t, r, b] = d.box, o = element('div', {className: (i == chosen ? 'selected' : '') + (t < .09 * source.height ? ' low' : '')}, element('span', {textContent: d.sure ? d.label : '?', onclick: () => choose(i)}))
    Object.assign(o.style, {left: `${100 * l / source.width}%`, top: `${100 * t / source.height}%`, width: `${100 * (r - l) / source.width}%`, height: `${100 * (b - t) / source.height}%`})
    return o
  }))
  const active = [...$('found').children].indexOf(document.activeElement)
  $('found').className = known.length > 3 ? 'many' : ''
  $('found').replaceChildren(...known.map((d, i) => {
    const o = element('button', {type: 'button', onclick: () => choose(i)}, element('strong', {textContent: d.sure ? d.label : '?'}), d.sure ? percent(d.probabilities[d.best]) : `${d.label}: ${percent(d.probabilities[d.best])}`)
    o.setAttribute('aria-pressed', i == chosen)
    return o
  }))
  $('found').children[active]?.focus()
}

function sentence() {
  if (!known.length) return ['Draw a digit.']
  if (known.length > 1) return ['The answer is ', known.map(d => d.sure ? d.label : '?').join(' '), `. ${matchMedia('(max-width: 62rem)').matches ? 'Below' : 'On the right'}: digit ${chosen + 1} of ${known.length}.`]
  const [d] = known, other = model.classes[d.nearest], p = percent(d.probabilities[d.best])
  if (!d.sure) return ['', 'Not sure.', ` The best guess is ${d.label}, with a probability of ${p}.`]
  return ['The answer is ', d.label, other == d.label ? '. Pixel similarity gives the same answer.' : `. Pixel similarity says ${other}.`]
}

function show() {
  if (known.length == 0 && $('clear').disabled) chosen = -1
  const d = known[chosen] || finished(classify({box: null, pixels: new Float32Array(784)})), blank = !known.length
  showAnswer()
  const [before, strong, after] = sentence()
  $('says').replaceChildren(before, ...(strong === undefined ? [] : [element('b', {textContent: strong}), after]))
  say($('says').textContent)
  showPixels(d.pixels)
  bars.forEach(({row, bar, value}, i) => {
    const p = blank ? 0 : d.probabilities[i]
    row.className = !blank && i == d.best ? 'best' : ''
    bar.style.transform = `scaleX(${p})`
    value.textContent = blank ? '–' : percent(p)
  })
  ideals.forEach(({row, value}, i) => {
    row.className = !blank && i == d.nearest ? 'best' : ''
    value.textContent = blank ? '–' : d.distances[i].toFixed(3)
  })
  const nearest = model.classes[d.nearest]
  $('ideal-says').textContent = blank ? 'No answer yet.' : nearest == d.label ? `Its answer is ${nearest}, the same as the network’s.` : `Its answer is ${nearest}. The network says ${d.label}.`
  showLayers(d.seen)
  $('evidence-card').hidden = !linearOnly || blank
  if (linearOnly && !blank) showEvidence(d)
}

// A screen reader hears the answer when the drawing has been still for a moment.
function say(text) {
  clearTimeout(spoken)
  spoken = setTimeout(() => { if ($('status').textContent != text) $('status').textContent = text }, 500)
}

$('every').onchange = () => { layerRows(); show() }
dark.onchange = paint
new ResizeObserver(() => { if (Math.abs(pad.clientWidth * Math.min(devicePixelRatio || 1, 3) - pad.width) > 1) paint() }).observe(pad)

// For programs and tests.
window.mnistFast = {
  frame: image => Framing.frame(image), logits: pixels => Array.from(logits(pixels)), lastMs: 0,
  digits: image => finished(digits(image)).map(({box, label, sure, probabilities}) => ({box, label, sure, probabilities}))
}
layerRows()
paint()

// A browser makes code fast once it has run a few times. So a bar is read a few times before the first stroke.
function warmUp(rounds) {
  const data = new Uint8ClampedArray(4 * 336 * 336).fill(255)
  for (let y = 80; y < 250; y++) for (let x = 160; x < 180; x++) data.set([0, 0, 0], 4 * (336 * y + x))
  finished(digits({data, width: 336, height: 336}))
  if (rounds > 1) setTimeout(warmUp, 20, rounds - 1)
}
setTimeout(warmUp, 20, 10)
