"use strict";
// Tokenizer, weights, forward pass and random numbers of the playground; nothing here touches the page
// but readPack. Bytes and arithmetic are those of src/tinycats/report/packed_model.py.

// ---- tokenizer: byte-level BPE as GPT-2's -----------------------------------------------------
class Tokenizer {
  // \s of the Python tokenizer is Unicode's White_Space, which is not JavaScript's \s.
  static WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

  constructor({ vocabulary, merges, added }) {
    this.characters = Tokenizer.byteCharacters();
    const bytes = new Map(this.characters.map((character, byte) => [character, byte]));
    this.ofByte = this.characters.map((character) => vocabulary.indexOf(character));
    this.size = vocabulary.length;
    this.added = new Map(Object.entries(added));
    const encoder = new TextEncoder();
    this.bytes = vocabulary.map((token) => this.added.has(token)
      ? encoder.encode(token) : Uint8Array.from([...token], (character) => bytes.get(character)));
    this.ranks = new Map();              // left id × size + right id → [rank, merged id]
    for (let i = 0; i < merges.length; i += 3)
      this.ranks.set(merges[i] * this.size + merges[i + 1], [i, merges[i + 2]]);
    const escaped = [...this.added.keys()].sort((a, b) => b.length - a.length)
      .map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    this.split = escaped.length ? new RegExp(`(${escaped.join("|")})`, "u") : null;
    this.words = new Map();
  }

  // GPT-2 writes each byte as a printable character: itself, or one of those from U+0100 on.
  static byteCharacters() {
    let next = 256;
    return Array.from({ length: 256 }, (_, byte) => {
      const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      return String.fromCharCode(printable ? byte : next++);
    });
  }

  encode(text) {
    const ids = [];
    for (const part of this.split ? text.split(this.split) : [text]) {
      if (this.added.has(part)) ids.push(this.added.get(part));
      else for (const [word] of part.matchAll(Tokenizer.WORDS)) ids.push(...this.encodeWord(word));
    }
    return ids;
  }

  encodeWord(word) {
    if (this.words.has(word)) return this.words.get(word);
    const ids = Array.from(new TextEncoder().encode(word), (byte) => this.ofByte[byte]);
    for (;;) {                           // merge the pair of the lowest rank, the leftmost first
      let best = Infinity, at = -1, merged = -1;
      for (let i = 0; i + 1 < ids.length; i++) {
        const found = this.ranks.get(ids[i] * this.size + ids[i + 1]);
        if (found && found[0] < best) [best, at, merged] = [found[0], i, found[1]];
      }
      if (at < 0) break;
      ids.splice(at, 2, merged);
    }
    if (this.words.size < 10000) this.words.set(word, ids);
    return ids;
  }
}

// ---- weights ----------------------------------------------------------------------------------
async function readPack(id) {
  const text = atob(document.getElementById(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Float32 weights by tensor name. Without a base: 8-bit codes; with one: 4-bit differences to it.
function unpackWeights(bytes, { vectors, matrices }, base = null) {
  const weights = {}, view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = 0;
  const floats = (count) => {
    const found = new Float32Array(count);
    for (let i = 0; i < count; i++, at += 4) found[i] = view.getFloat32(at, true);
    return found;
  };
  for (const [name, size] of vectors) weights[name] = floats(size);
  const scales = matrices.map(([, rows]) => floats(rows));
  let code = 0;                          // number of codes read, over all matrices
  matrices.forEach(([name, rows, columns], m) => {
    const values = weights[name] = new Float32Array(rows * columns);
    const below = base && base[name];
    for (let row = 0, i = 0; row < rows; row++) {
      const scale = scales[m][row];
      for (let column = 0; column < columns; column++, i++, code++) {
        if (below) values[i] = below[i] + Math.fround(scale * (((bytes[at + (code >> 1)] >> (4 * (code & 1))) & 15) - 8));
        else values[i] = scale * ((bytes[at + code] << 24) >> 24);
      }
    }
  });
  return weights;
}

// ---- GPT-Neo, one token at a time ---------------------------------------------------------------
// out = matrix · x (+ bias). Four rows at once, so that each x is read once for four products.
function multiply(matrix, x, out, rows, columns, bias) {
  let row = 0;
  for (; row + 3 < rows; row += 4) {
    const a = row * columns, b = a + columns, c = b + columns, d = c + columns;
    let s = 0, t = 0, u = 0, v = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      s += matrix[a + i] * value; t += matrix[b + i] * value;
      u += matrix[c + i] * value; v += matrix[d + i] * value;
    }
    out[row] = s; out[row + 1] = t; out[row + 2] = u; out[row + 3] = v;
  }
  for (; row < rows; row++) {
    let s = 0;
    for (let i = 0, a = row * columns; i < columns; i++) s += matrix[a + i] * x[i];
    out[row] = s;
  }
  if (bias) for (let i = 0; i < rows; i++) out[i] += bias[i];
}

function normalise(x, out, weight, bias, epsilon) {
  const size = x.length;
  let mean = 0, square = 0;
  for (let i = 0; i < size; i++) mean += x[i];
  mean /= size;
  for (let i = 0; i < size; i++) square += (x[i] - mean) ** 2;
  const factor = 1 / Math.sqrt(square / size + epsilon);
  for (let i = 0; i < size; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - y * Math.exp(-x * x));
}
const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_new: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
};

class GptNeo {
  constructor(config, weights, vocabulary) {
    Object.assign(this, { config, weights, vocabulary, activate: ACTIVATIONS[config.activation] });
    const inner = weights["h.0.mlp.c_fc.bias"]?.length ?? 0;
    const make = (size) => new Float32Array(size);
    this.x = make(config.width);
    this.y = make(config.width);
    this.query = make(config.width);
    this.mixed = make(config.width);
    this.inner = make(inner);
    this.scores = new Float64Array(config.context);
    this.layers = config.attention.map((kind, i) => {
      const get = (name) => weights[`h.${i}.${name}`];
      return { get, reach: kind === "local" ? config.window : config.context };
    }).map(({ get, reach }) => ({
      reach,
      norm1: [get("ln_1.weight"), get("ln_1.bias")], norm2: [get("ln_2.weight"), get("ln_2.bias")],
      q: get("attn.attention.q_proj.weight"), k: get("attn.attention.k_proj.weight"),
      v: get("attn.attention.v_proj.weight"), out: get("attn.attention.out_proj.weight"),
      outBias: get("attn.attention.out_proj.bias"),
      up: get("mlp.c_fc.weight"), upBias: get("mlp.c_fc.bias"),
      down: get("mlp.c_proj.weight"), downBias: get("mlp.c_proj.bias"),
    }));
  }

  // Keys and values of the tokens read so far, one text's.
  newCache() {
    const size = this.config.context * this.config.width;
    return { length: 0, layers: this.layers.map(() => ({ keys: new Float32Array(size), values: new Float32Array(size) })) };
  }

  // Read one token. Returns the logits of the next one where `out` is given: float64, by token id.
  read(cache, token, out = null) {
    const { width, epsilon } = this.config, { x, y, weights } = this, position = cache.length++;
    const wte = weights["wte.weight"], wpe = weights["wpe.weight"];
    for (let i = 0; i < width; i++) x[i] = wte[token * width + i] + wpe[position * width + i];
    for (let l = 0; l < this.layers.length; l++) {
      const layer = this.layers[l], { keys, values } = cache.layers[l];
      normalise(x, y, ...layer.norm1, epsilon);
      multiply(layer.q, y, this.query, width, width);
      multiply(layer.k, y, keys.subarray(position * width, (position + 1) * width), width, width);
      multiply(layer.v, y, values.subarray(position * width, (position + 1) * width), width, width);
      this.attend(keys, values, Math.max(0, position - layer.reach + 1), position);
      multiply(layer.out, this.mixed, y, width, width, layer.outBias);
      for (let i = 0; i < width; i++) x[i] += y[i];
      normalise(x, y, ...layer.norm2, epsilon);
      const inner = this.inner;
      multiply(layer.up, y, inner, inner.length, width, layer.upBias);
      for (let i = 0; i < inner.length; i++) inner[i] = this.activate(inner[i]);
      multiply(layer.down, inner, y, width, inner.length, layer.downBias);
      for (let i = 0; i < width; i++) x[i] += y[i];
    }
    if (!out) return null;
    normalise(x, y, weights["ln_f.weight"], weights["ln_f.bias"], epsilon);
    multiply(wte, y, out, this.vocabulary, width);
    return out;
  }

  // mixed = softmax(query · keys) · values of the positions from … to, head by head. Not scaled.
  attend(keys, values, from, to) {
    const { width, heads } = this.config, { query, mixed, scores } = this, size = width / heads;
    mixed.fill(0);
    for (let head = 0; head < width; head += size) {
      let largest = -Infinity, sum = 0;
      for (let j = from; j <= to; j++) {
        let s = 0;
        for (let i = head, a = j * width + head; i < head + size; i++, a++) s += query[i] * keys[a];
        scores[j] = s;
        if (s > largest) largest = s;
      }
      for (let j = from; j <= to; j++) sum += scores[j] = Math.exp(scores[j] - largest);
      for (let j = from; j <= to; j++) {
        const share = scores[j] / sum;
        for (let i = head, a = j * width + head; i < head + size; i++, a++) mixed[i] += share * values[a];
      }
    }
  }
}

// ---- probabilities and random numbers -----------------------------------------------------------
// In place: logits become log-probabilities, nats.
function logSoftmax(logits) {
  let largest = -Infinity, sum = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > largest) largest = logits[i];
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - largest);
  const total = largest + Math.log(sum);
  for (let i = 0; i < logits.length; i++) logits[i] -= total;
  return logits;
}

// sfc32 by Chris Doty-Humphrey (PractRand), seeded as there: each call returns a number in [0, 1).
function randomNumbers(seed) {
  let a = 0, b = seed | 0, c = 0, counter = 1;
  const next = () => {
    const sum = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 12; i++) next();
  return next;
}

// The first token, in order of ids, at which p^(1/temperature), summed and normalised, exceeds u.
function draw(logProbs, temperature, u) {
  let likeliest = 0, sum = 0, last = 0;
  for (let i = 1; i < logProbs.length; i++) if (logProbs[i] > logProbs[likeliest]) likeliest = i;
  if (temperature === 0) return likeliest;
  const top = logProbs[likeliest];
  for (let i = 0; i < logProbs.length; i++) sum += Math.exp((logProbs[i] - top) / temperature);
  let left = u * sum;
  for (let i = 0; i < logProbs.length; i++) {
    const weight = Math.exp((logProbs[i] - top) / temperature);
    if (weight > 0) last = i;
    left -= weight;
    if (left < 0) return i;
  }
  return last;
}

// Ids of the `count` largest values, largest first.
function largestOf(values, count) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    if (found.length === count && values[i] <= values[found[count - 1]]) continue;
    let at = found.length;
    while (at > 0 && values[found[at - 1]] < values[i]) at--;
    found.splice(at, 0, i);
    if (found.length > count) found.pop();
  }
  return found;
}
