// From a picture to its digits, each framed as MNIST frames it: the steps of the notebook inference.image, one by one,
// with the same numbers. A picture of shades is {x, h, w}: h times w numbers from 0 to 1, row by row.
'use strict'
const Framing = (() => {

function picture(h, w, shade) {
  const x = new Float64Array(h * w)
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) x[i] = shade(r, c)
  return {x, h, w}
}
function turned({x, h, w}) { // rows become columns
  const t = new Float64Array(h * w)
  for (let r = 0, i = 0; r < h; r++) for (let c = 0; c < w; c++, i++) t[c * h + r] = x[i]
  return {x: t, h: w, w: h}
}
const row = (p, r) => p.x.subarray(r * p.w, (r + 1) * p.w)
const round = v => v - Math.floor(v) == .5 ? 2 * Math.round(v / 2) : Math.round(v) // Python rounds a half to an even number
function largest(x) { let m = 0; for (let i = 0; i < x.length; i++) if (x[i] > m) m = x[i]; return m }
function range(x) { let m = 1; for (let i = 0; i < x.length; i++) if (x[i] < m) m = x[i]; return largest(x) - m }

function median(...parts) { // each shade is a whole number of 255ths
  const count = new Uint32Array(256), n = parts.reduce((s, x) => s + x.length, 0)
  const at = k => { let i = 0; for (let n = count[0]; n <= k; n += count[++i]); return i }
  for (const x of parts) for (let i = 0; i < x.length; i++) count[255 * x[i] + .5 | 0]++
  return (at(n - 1 >> 1) + at(n >> 1)) / 510
}

// Red, green and blue, 0 to 255, on paper where the picture is transparent; k by k pixels become one, the mean of them
function colours({data, width, height}, k, paper) {
  const h = Math.ceil(height / k), w = Math.ceil(width / k), rgb = [0, 1, 2].map(() => new Uint8Array(h * w))
  for (let p = 0, row = 0; row < h; row++) for (let col = 0; col < w; col++, p++) {
    const b = Math.min(row * k + k, height), r = Math.min(col * k + k, width), n = (b - row * k) * (r - col * k), part = Math.floor(2 ** 24 / n)
    for (let i = 0; i < 3; i++) {
      let sum = n >> 1
      for (let y = row * k; y < b; y++) for (let at = 4 * (y * width + col * k), end = 4 * (y * width + r); at < end; at += 4) {
        const a = data[at + 3], v = a == 255 ? 0 : 128 * (data[at + i] * a + paper * (255 - a)) + 16384
        sum += a == 255 ? data[at + i] : (v >> 8) + v >> 15
      }
      rgb[i][p] = sum * part / 2 ** 24
    }
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
function edge(rows, far, middle, longer) {
  const n = Math.min(Math.floor(.08 * longer), Math.floor(rows.length / 4)), paper = n && median(...rows.slice(n, 2 * n))
  const isEdge = x => { let sum = 0; for (let i = 0; i < x.length; i++) sum += Math.abs(x[i] - paper) > far; return sum / x.length > .95 }
  let count = 0
  while (Math.abs(paper - middle) <= 2 * far && count < n && isEdge(rows[count])) count++
  return count
}
function inner(p) { // the picture without its edges, and where it begins
  const q = turned(p), sides = [p, q].flatMap(o => { const rows = Array.from({length: o.h}, (_, r) => row(o, r)); return [rows, [...rows].reverse()] })
  const [t, b, l, r] = sides.map(o => edge(o, .2 * range(p.x), median(p.x), Math.max(p.h, p.w))), h = p.h - t - b, w = p.w - l - r
  const x = new Float64Array(h * w)
  for (let i = 0; i < h; i++) x.set(row(p, t + i).subarray(l, l + w), i * w)
  return {x, h, w, t, l}
}

function solve(A, b) { // Gauss, with the largest pivot
  A = A.map((row, i) => [...row, b[i]])
  A.forEach((_, i) => {
    const k = A.reduce((m, row, j) => j > i && Math.abs(row[i]) > Math.abs(A[m][i]) ? j : m, i)
    ;[A[i], A[k]] = [A[k], A[i]]
    A.forEach((row, j) => { if (j != i) { const f = row[i] / A[i][i]; for (let c = i; c <= A.length; c++) row[c] -= f * A[i][c] } })
  })
  return A.map((row, i) => row[A.length] / row[i])
}

// The paper is a smooth surface, fitted to the pixels of a sample that are not ink
function paper({x, h, w}) {
  const step = Math.max(1, Math.floor(Math.min(h, w) / 24)), terms = [], shades = []
  for (let r = step >> 1; r < h; r += step) for (let c = step >> 1; c < w; c += step) {
    const y = 2 * r / h - 1, z = 2 * c / w - 1
    terms.push([1, y, z, y * y, y * z, z * z])
    shades.push(x[r * w + c])
  }
  const left = Float64Array.from({length: h}, (_, r) => x[r * w]), right = left.map((_, r) => x[r * w + w - 1])
  let guess = new Float64Array(shades.length).fill(median(x.subarray(0, w), x.subarray((h - 1) * w), left, right)), s
  for (let times = 0; times < 5; times++) {
    const off = guess.map((v, i) => Math.abs(shades[i] - v)), most = .35 * largest(off), b = Array(6).fill(0)
    const A = b.map((_, i) => b.map((_, j) => i == j ? 1e-4 * shades.length : 0))
    for (let n = 0; n < shades.length; n++) if (off[n] <= most) for (let i = 0, a = terms[n]; i < 6; i++) {
      b[i] += a[i] * shades[n]
      for (let j = 0; j < 6; j++) A[i][j] += a[i] * a[j]
    }
    s = solve(A, b)
    guess = guess.map((_, n) => terms[n].reduce((v, o, i) => v + o * s[i], 0))
  }
  return s
}

function ink(p) {
  const {h, w} = p, s = paper(p), off = {x: new Float64Array(h * w), h, w}
  for (let r = 0, i = 0; r < h; r++) for (let c = 0, y = 2 * r / h - 1; c < w; c++, i++) {
    const z = 2 * c / w - 1
    off.x[i] = Math.abs(p.x[i] - (s[0] + s[1] * y + s[2] * z + s[3] * y * y + s[4] * y * z + s[5] * z * z))
  }
  if (largest(off.x) < .1) return {...off, x: off.x.fill(0)}
  return scaled(turned(withoutRules(turned(withoutRules(scaled(off))))))
}
function scaled(p) {
  const m = Math.max(largest(p.x), 1e-9)
  for (let i = 0; i < p.x.length; i++) p.x[i] /= m
  return p
}

// A thin row that is inked on at least 85% of its length becomes a mixture of the rows above and below it
function withoutRules(p) {
  const isRule = x => { let sum = 0; for (let i = 0; i < x.length; i++) sum += x[i] >= .25; return sum / x.length >= .85 }
  const rules = Array.from({length: p.h}, (_, r) => isRule(row(p, r))), none = new Float64Array(p.w)
  for (let start = 0, end; start < p.h; start = end + 1) {
    for (end = start; rules[end]; end++);
    if (end == start || end - start > .04 * Math.min(p.h, p.w)) continue
    const a = start - 2, b = end + 1, above = a < 0 ? none : row(p, a).slice(), below = b < p.h ? row(p, b).slice() : none
    for (let i = Math.max(a + 1, 0); i < Math.min(b, p.h); i++)
      for (let c = 0, t = (i - a) / (b - a); c < p.w; c++) p.x[i * p.w + c] = Math.min(p.x[i * p.w + c], (1 - t) * above[c] + t * below[c])
  }
  return p
}

// Pieces of ink that touch, without specks and what shines through
const height = d => d.b - d.t, width = d => d.r - d.l, length = d => Math.max(height(d), width(d))
function pieces({x, h, w}) {
  const labels = new Int32Array(h * w), found = []
  for (let start = 0; start < x.length; start++) if (x[start] >= .4 && !labels[start]) {
    const d = {t: h, b: 0, l: w, r: 0, area: 0, strong: false, labels: [found.push(0)]}, todo = [start]
    labels[start] = found.length
    for (let i; (i = todo.pop()) !== undefined; d.area++) {
      const r = Math.floor(i / w), c = i % w
      d.t = Math.min(d.t, r); d.b = Math.max(d.b, r + 1); d.l = Math.min(d.l, c); d.r = Math.max(d.r, c + 1); d.strong ||= x[i] >= .6
      for (let y = Math.max(r - 1, 0); y < Math.min(r + 2, h); y++) for (let z = Math.max(c - 1, 0); z < Math.min(c + 2, w); z++)
        if (x[y * w + z] >= .4 && !labels[y * w + z]) { labels[y * w + z] = found.length; todo.push(y * w + z) }
    }
    found[found.length - 1] = d
  }
  const area = largest(found.map(d => d.area)), kept = found.filter(d => d.strong && d.area >= .02 * area), longest = largest(kept.map(length))
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
    const weights = Array.from({length: r - l}, (_, i) => wave((i + l - middle + .5) / wide)), sum = weights.reduce((a, b) => a + b)
    for (let y = 0; y < p.h; y++) res.x[y * w + c] = Math.fround(weights.reduce((s, o, i) => s + p.x[y * p.w + l + i] * (o / sum), 0))
  }
  return res
}

function boundingBox({x, h, w}) {
  const b = {t: h, b: 0, l: w, r: 0}
  x.forEach((v, i) => {
    const r = Math.floor(i / w), c = i % w
    if (v > 0) { b.t = Math.min(b.t, r); b.b = Math.max(b.b, r + 1); b.l = Math.min(b.l, c); b.r = Math.max(b.r, c + 1) }
  })
  return b
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
function cutOut({x, h, w}, labels, d) {
  const own = (r, c) => r >= 0 && r < h && c >= 0 && c < w && d.labels.includes(labels[r * w + c]), around = [-1, 0, 1]
  const soft = (r, c) => r >= 0 && r < h && c >= 0 && c < w && x[r * w + c] >= .15 && around.some(i => around.some(j => own(r + i, c + j)))
  const ink = picture(height(d) + 2, width(d) + 2, (r, c) => soft(r + d.t - 1, c + d.l - 1) ? Math.fround(x[(r + d.t - 1) * w + c + d.l - 1]) : 0)
  const b = boundingBox(ink), scale = 20 / length(b), tight = picture(height(b), width(b), (r, c) => ink.x[(b.t + r) * ink.w + b.l + c])
  const across = resizedRows(tight, Math.max(1, round(width(b) * scale)))
  const small = turned(resizedRows(turned(across), Math.max(1, round(height(b) * scale)))), most = Math.min(largest(small.x), 1)
  const shade = (r, c) => r >= 0 && r < small.h && c >= 0 && c < small.w ? Math.min(Math.max(small.x[r * small.w + c], 0), 1) / most : 0
  const [y, z] = shiftToCenter(picture(28, 28, (r, c) => shade(r - 4, c - 4))).map((o, i) => 4 + Math.min(Math.max(round(o), -4), 24 - [small.h, small.w][i]))
  return picture(28, 28, (r, c) => shade(r - y, c - z)).x
}

function find(p) {
  if (isFramed(p)) return [{...boundingBox(p), pixels: p.x}]
  const part = inner(p), dark = ink(part), {labels, kept} = pieces(dark)
  if (kept.length > 500) return []
  return group(kept).map(d => ({t: d.t + part.t, b: d.b + part.t, l: d.l + part.l, r: d.r + part.l, pixels: cutOut(dark, labels, d)}))
}

// First in a small version of a large picture; if a digit is too small there, or none is found, in one of twice the size
function findAll(image) {
  let found
  for (const side of [224, 448, 896, 1792]) {
    const k = Math.ceil(Math.max(image.width, image.height) / side)
    found = find(shades(image, k)).map(d => ({box: [d.l, d.t, d.r, d.b].map(o => k * o), pixels: d.pixels, long: length(d)}))
    if (k == 1 || found.length && found.every(d => d.long >= 24)) break
  }
  return found
}

// All digits of a picture, line by line and from left to right: {box: [left, top, right, bottom], pixels: Float32Array}
function digitsIn(image) { return findAll(image).map(d => ({box: d.box, pixels: Float32Array.from(d.pixels)})) }

// The picture of one digit; zeros where there is none
function frame(image) {
  const found = digitsIn(image)
  if (found.length > 1) throw Error(`There are ${found.length} digits in the picture. Give one digit, or ask for all with digits.`)
  return found.length ? found[0].pixels : new Float32Array(784)
}

return {digitsIn, frame}
})()
