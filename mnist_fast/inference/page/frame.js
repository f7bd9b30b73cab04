// Provisional: ink by a threshold, digits by gaps between columns, 20 by 20, centre of mass in the middle.
'use strict'
const Framing = (() => {

function ink({data, width, height}) {
  const out = new Float32Array(width * height), border = []
  for (let i = 0; i < out.length; i++) out[i] = (data[4 * i] * .299 + data[4 * i + 1] * .587 + data[4 * i + 2] * .114) / 255
  for (let x = 0; x < width; x++) border.push(out[x], out[(height - 1) * width + x])
  for (let y = 0; y < height; y++) border.push(out[y * width], out[y * width + width - 1])
  border.sort((a, b) => a - b)
  const paper = border[border.length >> 1]
  let top = 0
  for (let i = 0; i < out.length; i++) top = Math.max(top, out[i] = Math.abs(out[i] - paper))
  for (let i = 0; i < out.length; i++) out[i] = top < .1 || out[i] / top < .15 ? 0 : out[i] / top
  return out
}

function box(x, width, height, left, right) {
  let [l, t, r, b] = [width, height, 0, 0]
  for (let y = 0; y < height; y++) for (let c = left; c < right; c++) if (x[y * width + c] > 0) {
    l = Math.min(l, c); r = Math.max(r, c + 1); t = Math.min(t, y); b = Math.max(b, y + 1)
  }
  return r ? [l, t, r, b] : null
}

function fit(x, width, [l, t, r, b]) {
  const scale = 20 / Math.max(r - l, b - t), w = Math.max(1, Math.round((r - l) * scale)), h = Math.max(1, Math.round((b - t) * scale))
  const small = new Float32Array(w * h)
  let top = 0, mass = 0, mx = 0, my = 0
  for (let y = 0; y < h; y++) for (let c = 0; c < w; c++) {
    const x0 = l + c / w * (r - l), x1 = l + (c + 1) / w * (r - l), y0 = t + y / h * (b - t), y1 = t + (y + 1) / h * (b - t)
    let sum = 0, n = 0
    for (let yy = Math.floor(y0); yy < y1; yy++) for (let xx = Math.floor(x0); xx < x1; xx++, n++) sum += x[yy * width + xx]
    top = Math.max(top, small[y * w + c] = sum / n)
  }
  for (let i = 0; i < small.length; i++) { small[i] /= top; mass += small[i]; mx += small[i] * (i % w); my += small[i] * Math.floor(i / w) }
  const place = (m, n) => Math.min(Math.max(Math.round(14 - m / mass), 0), 28 - n), dx = place(mx, w), dy = place(my, h)
  const out = new Float32Array(784)
  for (let i = 0; i < small.length; i++) out[(dy + Math.floor(i / w)) * 28 + dx + i % w] = small[i]
  return out
}

function digitsIn(image) {
  const x = ink(image), {width, height} = image, found = []
  let start = -1
  for (let c = 0; c <= width; c++) {
    let any = false
    for (let y = 0; c < width && y < height && !any; y++) any = x[y * width + c] > 0
    if (any && start < 0) start = c
    if (!any && start >= 0) { found.push(box(x, width, height, start, c)); start = -1 }
  }
  return found.map(o => ({box: o, pixels: fit(x, width, o)}))
}

function frame(image) {
  const x = ink(image), b = box(x, image.width, image.height, 0, image.width)
  return b ? fit(x, image.width, b) : new Float32Array(784)
}

return {digitsIn, frame}
})()
