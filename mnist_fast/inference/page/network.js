// The arithmetic of a network, one layer after the other.
//
// An activation is {shape, data}: the shape is [channels, rows, columns] or [numbers], and the data is a Float32Array.
// Sums are added up as doubles, and each result is stored as a float32. The layers come from Python, which has already
// folded each batch normalisation into the convolution or the linear layer before it.
'use strict'
const Network = (() => {

// Each input that is not 0 adds to all outputs: itself times its row of weights, one for each output. After a ReLU
// many inputs are 0, and the loop skips their rows. The bias is what the outputs start with.
function products(weight, bias, x, sums) {
  const n = sums.length
  for (let o = 0; o < n; o++) sums[o] = bias[o]
  for (let i = 0, start = 0; i < x.length; i++, start += n) {
    const v = x[i]
    if (v !== 0) for (let o = 0; o < n; o++) sums[o] += v * weight[start + o]
  }
}

// Each output is the sum of all inputs times its weights, plus its bias.
function linear(x, l) {
  const sums = new Float64Array(l.bias.length)
  products(l.weight, l.bias, x.data, sums)
  return {shape: [sums.length], data: Float32Array.from(sums)}
}

// Rows or columns of the output, for n rows or columns of the input.
const places = (n, l) => Math.floor((n + 2 * l.padding - l.kernel) / l.stride) + 1

// The square of all channels that lies under the kernel at row y and column x, with zeros outside of the image.
function square(image, [channels, h, w], kernel, y, x, out) {
  for (let c = 0, i = 0; c < channels; c++)
    for (let row = y; row < y + kernel; row++)
      for (let col = x; col < x + kernel; col++, i++)
        out[i] = row >= 0 && row < h && col >= 0 && col < w ? image[(c * h + row) * w + col] : 0
}

// A convolution is a linear layer for each place: the same weights, times the square under the kernel.
function conv(x, l) {
  const [channels, h, w] = x.shape, n = l.bias.length, rows = places(h, l), cols = places(w, l), size = rows * cols
  const out = new Float32Array(n * size), under = new Float64Array(channels * l.kernel * l.kernel), sums = new Float64Array(n)
  for (let place = 0; place < size; place++) {
    const row = Math.floor(place / cols), col = place % cols
    square(x.data, x.shape, l.kernel, row * l.stride - l.padding, col * l.stride - l.padding, under)
    products(l.weight, l.bias, under, sums)
    for (let o = 0; o < n; o++) out[o * size + place] = sums[o]
  }
  return {shape: [n, rows, cols], data: out}
}

// A max-pool keeps the largest number of each square.
function pool(x, l) {
  const [channels, h, w] = x.shape, rows = places(h, l), cols = places(w, l)
  const out = new Float32Array(channels * rows * cols).fill(-Infinity)
  for (let c = 0, i = 0; c < channels; c++)
    for (let y = -l.padding; y < rows * l.stride - l.padding; y += l.stride)
      for (let x0 = -l.padding; x0 < cols * l.stride - l.padding; x0 += l.stride, i++)
        for (let row = Math.max(y, 0); row < Math.min(y + l.kernel, h); row++)
          for (let col = Math.max(x0, 0); col < Math.min(x0 + l.kernel, w); col++)
            out[i] = Math.max(out[i], x.data[(c * h + row) * w + col])
  return {shape: [channels, rows, cols], data: out}
}

// Batch normalisation where it can't be folded: each channel times its scale, plus its shift.
function affine(x, l) {
  const size = x.data.length / l.scale.length
  return {shape: x.shape, data: x.data.map((v, i) => v * l.scale[Math.floor(i / size)] + l.shift[Math.floor(i / size)])}
}

function relu(x) { return {shape: x.shape, data: x.data.map(v => v > 0 ? v : 0)} }

// The pixels get the shape that the network needs, minus the mean, divided by the standard deviation.
function normalize(x, l) { return {shape: l.shape, data: x.data.map(v => (v - l.mean) / l.std)} }

// One row of numbers: channel by channel, as they are, or pixel by pixel with all channels of a pixel side by side.
function flatten(x, l) {
  const n = x.data.length, channels = x.shape[0], size = n / channels
  if (l.order == 'CHW') return {shape: [n], data: x.data}
  return {shape: [n], data: x.data.map((_, i) => x.data[i % channels * size + Math.floor(i / channels)])}
}

// After each stage a linear head gives a number for each class; the numbers of all heads are added.
function* heads(x, l, seen) {
  const out = new Float32Array(l.heads[0].bias.length)
  for (let i = 0; i < l.stages.length; i++) {
    x = yield* steps(l.stages[i], x, seen)
    const head = yield* steps([{kind: 'flatten', order: 'HWC'}, l.heads[i]], x, seen)
    for (let o = 0; o < out.length; o++) out[o] += head.data[o]
  }
  return {shape: [out.length], data: out}
}

const kinds = {normalize, conv, pool, affine, relu, flatten, linear}

// All layers in order, with a pause after each, in which a page can draw. `seen` collects what each layer gives, as
// {layer, shape, data}.
function* steps(layers, x, seen) {
  for (const layer of layers) {
    x = layer.kind == 'heads' ? yield* heads(x, layer, seen) : kinds[layer.kind](x, layer)
    seen.push({layer, ...x})
    yield
  }
  return x
}

// All layers without a pause.
function forward(layers, x, seen = []) {
  for (const _ of steps(layers, x, seen));
  return seen[seen.length - 1]
}

// One output means a three (above 0) or a seven; ten outputs are ten digits. The probabilities add up to 1.
function probabilities(out) {
  if (out.length == 1) return [1 / (1 + Math.exp(-out[0])), 1 / (1 + Math.exp(out[0]))]
  const top = Math.max(...out), e = Array.from(out, o => Math.exp(o - top)), sum = e.reduce((a, b) => a + b)
  return e.map(o => o / sum)
}

// For linear layers with ReLUs between them: output k is bias + the sum of weight times pixel, with the weights below.
// A ReLU lets some hidden units through as they are and gives 0 for the others, so for this one image all is linear.
function evidence(seen, k) {
  let weights = new Float64Array(seen[seen.length - 1].data.length), bias = 0
  weights[k] = 1
  for (let i = seen.length - 1; i > 0; i--) {
    const l = seen[i].layer, n = seen[i - 1].data.length, below = new Float64Array(n)
    weights.forEach((w, o) => {
      if (l.kind == 'relu') below[o] = seen[i].data[o] > 0 ? w : 0
      else if (w) {
        bias += w * l.bias[o]
        for (let j = 0; j < n; j++) below[j] += w * l.weight[j * l.bias.length + o]
      }
    })
    weights = below
  }
  return {weights, bias}
}

// The chapter's first classifier: the mean absolute difference between the pixels and an ideal digit.
function distance(pixels, ideal) {
  let sum = 0
  for (let i = 0; i < 784; i++) sum += Math.abs(pixels[i] - ideal[i])
  return sum / 784
}

return {steps, forward, probabilities, evidence, distance}
})()
