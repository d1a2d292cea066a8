"use strict";
(() => {
/* a deployed network: the operations of lsqctl/deploy/program.py on (C, H, W), each rounded once to fp32 */
const $ = (id) => document.getElementById(id);
const model = JSON.parse($("classifier-data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const round = Math.fround;
const tensors = Object.fromEntries(Object.entries(model.tensors).map(([name, text]) => [name, name.endsWith(".codes") ? bytes(text) : floats(text)]));
const unpack = (packed, bits, count) => Int8Array.from({ length: count }, (_, i) => {
  const bit = i * bits, at = bit >> 3, whole = packed[at] | (at + 1 < packed.length ? packed[at + 1] << 8 : 0);
  const code = whole >> (bit & 7) & ((1 << bits) - 1);
  return code >> (bits - 1) ? code - (1 << bits) : code;
});
const size = (shape) => shape[0] * shape[1] * shape[2];
const toEven = (x) => { const low = Math.floor(x), rest = x - low; return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low; };
const code = (x, s) => toEven(Math.min(Math.max(round(round(x - (s.offset || 0)) / s.step), s.low), s.high));
const weights = new Map();

/* each output pixel, with what it reads: call(channel, row, column, [[ky, kx, y, x] …]) */
const windows = (shape, kernel, stride, pads, dilation, call) => {
  for (let o = 0; o < shape[0]; o++) for (let r = 0; r < shape[1]; r++) for (let c = 0; c < shape[2]; c++)
    call(o, (o * shape[1] + r) * shape[2] + c, (visit) => {
      for (let ky = 0; ky < kernel[0]; ky++) for (let kx = 0; kx < kernel[1]; kx++)
        visit(ky * kernel[1] + kx, r * stride[0] + ky * dilation[0] - pads[0], c * stride[1] + kx * dilation[1] - pads[1]);
    });
};
const binary = { add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b };
const layer = (one, x, from, y) => {
  const s = one.settings, [outs, ins, kh, kw] = s.weight, [, height, width] = from, area = height * width, k = kh * kw;
  if (!weights.has(s.name)) weights.set(s.name, unpack(tensors[s.name + ".codes"], s.bits, outs * ins * k));
  const w = weights.get(s.name), scale = tensors[s.name + ".scale"], shift = tensors[s.name + ".shift"];
  const codes = Int16Array.from(x, (value) => code(value, s));
  windows(one.shape, [kh, kw], s.stride, [s.padding[0], s.padding[2]], s.dilation, (o, at, each) => {
    const first = Math.floor(o / (outs / s.groups)) * ins;
    let sum = 0;
    each((tap, row, column) => {
      const inside = row >= 0 && row < height && column >= 0 && column < width, place = row * width + column;
      for (let i = 0; i < ins; i++) sum += (inside ? codes[(first + i) * area + place] : s.zero_code) * w[(o * ins + i) * k + tap];
    });
    y[at] = round(round(sum) * scale[o]) + shift[o];
  });
};
const pool = (one, x, from, y) => {
  const s = one.settings, [, height, width] = from, mean = one.kind === "mean_pool";
  windows(one.shape, s.kernel, s.stride, s.padding, s.dilation, (o, at, each) => {
    let best = mean ? 0 : -Infinity;
    each((_, row, column) => {
      if (row < 0 || row >= height || column < 0 || column >= width) return;
      const value = x[(o * height + row) * width + column];
      best = mean ? round(best + value) : Math.max(best, value);
    });
    y[at] = mean ? best / (s.kernel[0] * s.kernel[1]) : best;
  });
};
const place = (one, x, from, y, read) => {
  const [channels, height, width] = one.shape;
  let at = 0;
  for (let o = 0; o < channels; o++) for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) y[at++] = read(o, r, c);
};
const run = {
  clamp: (one, x, from, y) => { const { low, high } = one.settings; x.forEach((v, i) => { y[i] = low !== null && v < low ? low : high !== null && v > high ? high : v; }); },
  quantize: (one, x, from, y) => { const s = one.settings; x.forEach((v, i) => { y[i] = round(code(v, s) * s.step) + (s.offset || 0); }); },
  layer, max_pool: pool, mean_pool: pool,
  slice: (one, x, from, y) => { const { start, step } = one.settings; place(one, x, from, y, (o, r, c) => x[((start[0] + o * step[0]) * from[1] + start[1] + r * step[1]) * from[2] + start[2] + c * step[2]]); },
  pad: (one, x, from, y) => { const [a, b, d] = one.settings.before; place(one, x, from, y, (o, r, c) => { o -= a; r -= b; c -= d; return o >= 0 && o < from[0] && r >= 0 && r < from[1] && c >= 0 && c < from[2] ? x[(o * from[1] + r) * from[2] + c] : 0; }); },
  reshape: (one, x, from, y) => y.set(x),
};
const logitsOf = (image) => {
  const values = [Float32Array.from(image)], shapes = [model.program.input_shape];
  model.program.operations.forEach((one) => {
    const y = new Float32Array(size(one.shape)), x = values[one.inputs[0]];
    if (one.kind in binary) {
      const constant = one.settings.constant, other = constant ? tensors[constant] : values[one.inputs[1]];
      const area = y.length / other.length;
      x.forEach((v, i) => { y[i] = binary[one.kind](v, other[Math.floor(i / area)]); });
    } else if (one.kind === "concat") {
      let at = 0;
      one.inputs.forEach((n) => { y.set(values[n], at); at += values[n].length; });
    } else run[one.kind](one, x, shapes[one.inputs[0]], y);
    values.push(y);
    shapes.push(one.shape);
  });
  return values[values.length - 1];
};

/* the test images, and whether each logit has the expected bits */
const [channels, height, width] = model.program.input_shape, pixels = bytes(model.images), expected = floats(model.logits);
const n = size(model.program.input_shape), count = pixels.length / n, classes = expected.length / count;
const sameBits = (a, b) => { const [x, y] = [a, b].map((one) => new Uint32Array(Float32Array.from(one).buffer)); return x.every((bit, i) => bit === y[i]); };
let equal = 0;
for (let i = 0; i < count; i++) equal += sameBits(logitsOf(pixels.slice(i * n, (i + 1) * n)), expected.slice(i * classes, (i + 1) * classes));
$("classified").textContent = equal + " of " + count + " images: the expected logits, bit for bit";

let shown = 0, image = null;
const canvas = $("pixels"), context = canvas.getContext("2d");
canvas.width = width; canvas.height = height;
const draw = (is) => {
  const logits = logitsOf(image), best = logits.indexOf(Math.max(...logits)), low = Math.min(...logits), range = logits[best] - low || 1;
  const data = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = image[(channels === 3 ? c : 0) * width * height + i];
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
  $("logits").replaceChildren(...[...logits].map((logit, i) => {
    const item = document.createElement("li"), bar = document.createElement("meter"), value = document.createElement("span");
    bar.max = range; bar.value = logit - low; value.textContent = " " + logit.toFixed(3);
    if (i === best) item.className = "best";
    item.append(bar, value);
    return item;
  }));
  $("answer").textContent = is + ": class " + best;
};
const show = (i) => { shown = (i + count) % count; image = pixels.slice(shown * n, (shown + 1) * n); draw("image " + (shown + 1) + " of " + count); };
const paint = (event) => {
  const box = canvas.getBoundingClientRect(), at = (where, from, length, cells) => Math.min(cells - 1, Math.max(0, Math.floor((where - from) / length * cells)));
  const i = at(event.clientY, box.top, box.height, height) * width + at(event.clientX, box.left, box.width, width);
  for (let c = 0; c < channels; c++) image[c * width * height + i] = 255;
  draw("painted");
};
canvas.addEventListener("pointerdown", paint);
canvas.addEventListener("pointermove", (event) => { if (event.buttons) paint(event); });
$("before").addEventListener("click", () => show(shown - 1));
$("after").addEventListener("click", () => show(shown + 1));
$("clear").addEventListener("click", () => { image = new Uint8Array(n); draw("painted"); });
$("classify").hidden = false;
show(0);
})();
