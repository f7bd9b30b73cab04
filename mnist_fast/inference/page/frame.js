// From a picture to its digits, each framed as MNIST frames it: the steps of the notebook inference.image, one by one,
// with the same numbers. A picture of shades is {x, h, w}: h times w numbers from 0 to 1, row by row.
'use strict'
const Framing = (() => {

function picture(h, w, shade) {
  const x = new Float64Array(h * w)
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) x[i] = shade(r, c)
  return {x, h, w}
}
const rows = p => Array.from({length: p.h}, (_, r) => p.x.subarray(r * p.w, (r + 1) * p.w))
const at = (p, r, c) => r >= 0 && r < p.h && c >= 0 && c < p.w ? p.x[r * p.w + c] : 0
function part(p, top, left, h, w) { // zeros outside of p
  const x = new Float64Array(h * w)
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) x[i] = at(p, top + r, left + c)
  return {x, h, w}
}
function turned({x, h, w}) { // rows become columns
  const t = new Float64Array(h * w)
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) t[c * h + r] = x[i]
  return {x: t, h: w, w: h}
}
const round = v => v - Math.floor(v) == .5 ? 2 * Math.round(v / 2) : Math.round(v) // Python rounds a half to an even number
function largest(x) { let m = 0; for (let i = 0; i < x.length; i++) if (x[i] > m) m = x[i]; return m }
function range(x) { let m = 1; for (let i = 0; i < x.length; i++) if (x[i] < m) m = x[i]; return largest(x) - m }
function shareOff(x, paper, far) { let n = 0; for (let i = 0; i < x.length; i++) if (Math.abs(x[i] - paper) > far) n++; return n / x.length }

function median(...parts) { // each shade is a whole number of 255ths
  const count = new Uint32Array(256), n = parts.reduce((s, x) => s + x.length, 0)
  const at = k => { let i = 0; for (let n = count[0]; n <= k; n += count[++i]); return i }
  for (const x of parts) for (let i = 0; i < x.length; i++) count[255 * x[i] + .5 | 0]++
  return (at(n - 1 >> 1) + at(n >> 1)) / 510
}

// Red, green and blue, 0 to 255, on paper where the picture is transparent; k by k pixels become one, the mean of them
function colours({data, width, height}, k, paper) {
  const h = Math.ceil(height / k), w = Math.ceil(width / k), pixels = new Uint32Array(data.buffer)
  const rgb = [0, 1, 2].map(() => new Uint8Array(h * w)), [red, green, blue] = rgb
  const on = (v, a) => { const t = 128 * (v * a + paper * (255 - a)) + 16384; return a == 255 ? v : (t >> 8) + t >> 15 }
  for (let p = 0, top = 0; top < height; top += k) for (let left = 0; left < width; left += k, p++) {
    const bottom = Math.min(top + k, height), right = Math.min(left + k, width), n = (bottom - top) * (right - left), mean = Math.floor(2 ** 24 / n) / 2 ** 24
    let r = n >> 1, g = r, b = r
    for (let y = top; y < bottom; y++) for (let i = y * width + left, end = y * width + right; i < end; i++) {
      const v = pixels[i], a = v >>> 24
      r += on(v & 255, a); g += on(v >> 8 & 255, a); b += on(v >> 16 & 255, a)
    }
    red[p] = r * mean; green[p] = g * mean; blue[p] = b * mean
  }
  return rgb
}
function variance(x) {
  let sum = 0, squares = 0
  for (let i = 0; i < x.length; i++) { sum += x[i]; squares += x[i] * x[i] }
  return (squares - sum * sum / x.length) / x.length
}

// Grey, or the colour that has more than twice its spread
function shades(image, k, paper = 255) {
  const [r, g, b] = colours(image, k, paper), grey = new Uint8Array(r.length), x = new Float64Array(r.length)
  for (let i = 0; i < x.length; i++) grey[i] = r[i] * 19595 + g[i] * 38470 + b[i] * 7471 + 32768 >> 16
  const spread = [r, g, b].map(variance), most = Math.max(...spread), best = 4 * variance(grey) >= most ? grey : [r, g, b][spread.indexOf(most)]
  for (let i = 0; i < x.length; i++) x[i] = best[i] / 255
  return paper && range(x) < .1 ? shades(image, k, 0) : {x, h: Math.ceil(image.height / k), w: Math.ceil(image.width / k)}
}

// How many of the first rows are an edge of the paper or a line around the picture
function edge(rows, middle, far, longer) {
  const n = Math.min(Math.floor(.08 * longer), Math.floor(rows.length / 4)), paper = n && median(...rows.slice(n, 2 * n))
  let count = 0
  while (Math.abs(paper - middle) <= 2 * far && count < n && shareOff(rows[count], paper, far) > .95) count++
  return count
}
function inner(p) { // the picture without its edges, and where it begins
  const sides = [p, turned(p)].flatMap(o => [rows(o), rows(o).reverse()]), middle = median(p.x), far = .2 * range(p.x)
  const [t, b, l, r] = sides.map(o => edge(o, middle, far, Math.max(p.h, p.w)))
  return {...t + b + l + r ? part(p, t, l, p.h - t - b, p.w - l - r) : p, t, l}
}

function solve(A) { // Gauss, for six rows of seven numbers
  A.forEach((a, i) => A.forEach(b => { if (b != a) { const f = b[i] / a[i]; for (let c = i; c < 7; c++) b[c] -= f * a[c] } }))
  return A.map((a, i) => a[6] / a[i])
}

// The paper is a smooth surface, fitted to the pixels of a sample that are not ink
const surface = (s, y, x) => s[0] + s[1] * y + s[2] * x + s[3] * y * y + s[4] * y * x + s[5] * x * x
function paper(p) {
  const step = Math.max(1, Math.floor(Math.min(p.h, p.w) / 16)), sample = []
  for (let r = step >> 1; r < p.h; r += step) for (let c = step >> 1; c < p.w; c += step) {
    const y = 2 * r / p.h - 1, x = 2 * c / p.w - 1
    sample.push([1, y, x, y * y, y * x, x * x, at(p, r, c)])
  }
  const border = [part(p, 0, 0, 1, p.w), part(p, p.h - 1, 0, 1, p.w), part(p, 0, 0, p.h, 1), part(p, 0, p.w - 1, p.h, 1)]
  let s = [median(...border.map(o => o.x)), 0, 0, 0, 0, 0]
  for (let times = 0; times < 5; times++) {
    const off = Float64Array.from(sample, o => Math.abs(o[6] - surface(s, o[1], o[2]))), most = .35 * largest(off)
    const A = [0, 1, 2, 3, 4, 5].map(i => [0, 1, 2, 3, 4, 5, 6].map(j => i == j ? 1e-4 * sample.length : 0))
    sample.forEach((o, n) => { if (off[n] <= most) for (let i = 0; i < 6; i++) for (let j = 0; j < 7; j++) A[i][j] += o[i] * o[j] })
    s = solve(A)
  }
  return s
}

function ink(p) {
  const {h, w} = p, s = paper(p), x = p.x.slice()
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) x[i] = Math.abs(x[i] - surface(s, 2 * r / h - 1, 2 * c / w - 1))
  if (largest(x) < .1) return {x: x.fill(0), h, w}
  return scaled(turned(withoutRules(turned(withoutRules(scaled({x, h, w}))))))
}
function scaled(p) {
  const m = Math.max(largest(p.x), 1e-9)
  for (let i = 0; i < p.x.length; i++) p.x[i] /= m
  return p
}

// A thin row that is inked on at least 85% of its length becomes a mixture of the rows above and below it
function withoutRules(p) {
  const rules = rows(p).map(x => shareOff(x, 0, .25) >= .85)
  for (let start = 0, end; start < p.h; start = end + 1) {
    for (end = start; rules[end]; end++);
    if (end == start || end - start > .04 * Math.min(p.h, p.w)) continue
    const a = start - 2, b = end + 1, [above, below] = [a, b].map(i => part(p, i, 0, 1, p.w).x)
    for (let i = Math.max(a + 1, 0); i < Math.min(b, p.h); i++)
      for (let c = 0, t = (i - a) / (b - a); c < p.w; c++) p.x[i * p.w + c] = Math.min(p.x[i * p.w + c], (1 - t) * above[c] + t * below[c])
  }
  return p
}

// A box has a top, a bottom, a left and a right; it grows until a pixel is inside
function grow(box, r, c) {
  if (r < box.t) box.t = r
  if (r >= box.b) box.b = r + 1
  if (c < box.l) box.l = c
  if (c >= box.r) box.r = c + 1
}
const height = d => d.b - d.t, width = d => d.r - d.l, length = d => Math.max(height(d), width(d))

// Pieces of ink that touch, without specks and what shines through
function pieces({x, h, w}) {
  const labels = {x: new Float64Array(h * w), h, w}, found = []
  for (let start = 0; start < x.length; start++) if (x[start] >= .4 && !labels.x[start]) {
    const d = {t: h, b: 0, l: w, r: 0, area: 0, strong: false, labels: [found.length + 1]}, todo = [start]
    labels.x[start] = found.push(d)
    for (let i; (i = todo.pop()) !== undefined; d.area++) {
      const r = Math.floor(i / w), c = i % w
      grow(d, r, c)
      d.strong ||= x[i] >= .6
      for (let y = Math.max(r - 1, 0); y < Math.min(r + 2, h); y++) for (let j = y * w + Math.max(c - 1, 0), end = y * w + Math.min(c + 2, w); j < end; j++)
        if (x[j] >= .4 && !labels.x[j]) { labels.x[j] = found.length; todo.push(j) }
    }
  }
  const area = largest(Float64Array.from(found, d => d.area)), kept = found.filter(d => d.strong && d.area >= .02 * area), longest = largest(Float64Array.from(kept, length))
  return {labels, kept: kept.filter(d => length(d) >= Math.max(6, .15 * longest))}
}

// One piece for each digit, line by line
const gaps = (p, d) => [Math.max(p.l - d.r, d.l - p.r), Math.max(p.t - d.b, d.t - p.b)]
function belongs(p, d) {
  const [across, down] = gaps(p, d)
  return down <= .25 * height(d) && (-across >= .4 * Math.min(width(p), width(d)) || height(p) < .5 * height(d) && across <= .2 * height(d))
}
function group(pieces) {
  const gap = (p, d) => gaps(p, d).reduce((s, o) => s + Math.max(0, o), 0), found = [], lines = []
  for (const p of pieces.sort((p, q) => height(q) - height(p))) {
    const near = found.filter(d => belongs(p, d)), d = near.reduce((d, o) => gap(p, o) < gap(p, d) ? o : d, near[0])
    if (d) Object.assign(d, {t: Math.min(p.t, d.t), b: Math.max(p.b, d.b), l: Math.min(p.l, d.l), r: Math.max(p.r, d.r), labels: [...p.labels, ...d.labels]})
    else if (!found.length || height(p) >= .4 * height(found[0])) found.push(p)
  }
  for (const d of found.sort((a, b) => a.t + a.b - b.t - b.b)) {
    const line = lines[lines.length - 1]
    if (line && d.t + d.b < 2 * line.reduce((s, o) => s + o.b, 0) / line.length) line.push(d)
    else lines.push([d])
  }
  return lines.flatMap(line => line.sort((a, b) => a.l - b.l))
}

// Pillow's Lanczos filter along each row: a pixel of the result is a mean of those around its place, weighted by a wave
const wave = x => x == 0 ? 1 : Math.abs(x) < 3 ? Math.sin(Math.PI * x) / (Math.PI * x) * Math.sin(Math.PI * x / 3) / (Math.PI * x / 3) : 0
function resizedRows(p, w) {
  if (w == p.w) return p
  const scale = p.w / w, wide = Math.max(scale, 1), res = picture(p.h, w, () => 0)
  for (let c = 0; c < w; c++) {
    const middle = (c + .5) * scale, l = Math.max(Math.trunc(middle - 3 * wide + .5), 0), r = Math.min(Math.trunc(middle + 3 * wide + .5), p.w)
    const waves = Array.from({length: r - l}, (_, i) => wave((i + l - middle + .5) / wide)), sum = waves.reduce((a, b) => a + b)
    const weights = Float64Array.from(waves, o => o / sum)
    for (let y = 0; y < p.h; y++) {
      let v = 0
      for (let i = 0; i < weights.length; i++) v += p.x[y * p.w + l + i] * weights[i]
      res.x[y * w + c] = Math.fround(v)
    }
  }
  return res
}

function boundingBox({x, h, w}) {
  const box = {t: h, b: 0, l: w, r: 0}
  x.forEach((v, i) => { if (v > 0) grow(box, Math.floor(i / w), i % w) })
  return box
}
function shiftToCenter({x, w}) { // rows and columns
  let sum = 0, ys = 0, xs = 0
  x.forEach((v, i) => { sum += v; ys += v * Math.floor(i / w); xs += v * (i % w) })
  return [14 - ys / sum, 14 - xs / sum]
}
function isFramed(p) {
  if (p.h != 28 || p.w != 28 || largest(p.x) < .1) return false
  return [19, 20].includes(length(boundingBox(p))) && shiftToCenter(p).every(o => Math.abs(o) < .55)
}

// The ink of one digit and its soft edge, the longer side 20 pixels, the centre of mass in the middle of 28 by 28
function cutOut(dark, labels, d) {
  const [ink, own] = [dark, labels].map(o => part(o, d.t - 1, d.l - 1, height(d) + 2, width(d) + 2)), around = [-1, 0, 1]
  const near = (r, c) => around.some(i => around.some(j => d.labels.includes(at(own, r + i, c + j))))
  const soft = picture(ink.h, ink.w, (r, c) => at(ink, r, c) >= .15 && near(r, c) ? Math.fround(at(ink, r, c)) : 0)
  const b = boundingBox(soft), [h, w] = [height(b), width(b)].map(o => Math.max(1, round(o * 20 / length(b))))
  const small = turned(resizedRows(turned(resizedRows(part(soft, b.t, b.l, height(b), width(b)), w)), h)), most = Math.min(largest(small.x), 1)
  const fit = picture(h, w, (r, c) => Math.min(Math.max(at(small, r, c), 0), 1) / most)
  const [y, x] = shiftToCenter(part(fit, -4, -4, 28, 28)).map((o, i) => 4 + Math.min(Math.max(round(o), -4), 24 - [h, w][i]))
  return part(fit, -y, -x, 28, 28).x
}

function find(p) {
  if (isFramed(p)) return [{...boundingBox(p), pixels: p.x}]
  const paper = inner(p), dark = ink(paper), {labels, kept} = pieces(dark)
  if (kept.length > 500) return []
  return group(kept).map(d => ({t: d.t + paper.t, b: d.b + paper.t, l: d.l + paper.l, r: d.r + paper.l, pixels: cutOut(dark, labels, d)}))
}

// All digits of a picture, line by line and from left to right: {box: [left, top, right, bottom], pixels: Float32Array}.
// First in a small version of a large picture; if a digit is too small there, or none is found, in one of twice the size
function digitsIn(image) {
  const long = Math.max(image.width, image.height), finest = Math.ceil(long / 1792)
  for (const side of [224, 448, 896, 1792]) {
    const k = finest * Math.ceil(Math.ceil(long / finest) / side), found = find(shades(image, k))
    if (k == finest || found.length && found.every(d => length(d) >= 24))
      return found.map(d => ({box: [d.l, d.t, d.r, d.b].map(o => k * o), pixels: Float32Array.from(d.pixels)}))
  }
}

// The picture of one digit; zeros where there is none
function frame(image) {
  const found = digitsIn(image)
  if (found.length > 1) throw Error(`There are ${found.length} digits in the picture. Give one digit, or ask for all with digits.`)
  return found.length ? found[0].pixels : new Float32Array(784)
}

return {digitsIn, frame}
})()
