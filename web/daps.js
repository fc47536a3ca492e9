/**
 * daps.js: the tokenizer in JavaScript, for browsers and Node.
 *
 *     import * as ort from "onnxruntime-web/wasm";
 *     import { load } from "./daps.js";
 *
 *     const tok = await load("models/daps-photo-256", { ort });
 *     const { codes } = await tok.encode(pixels); // Uint8Array of 256 · 256 · 3 values -> Int32Array of 1,024 codes
 *     const { values } = await tok.decode(codes); // and back to pixels
 *
 * It runs the ONNX graphs of a model folder (docs/onnx.md) and reads its sizes in config.json. Codes are those of the
 * Python package, samples of the same seed too.
 *
 * @typedef {typeof import("onnxruntime-web")} Runtime
 * @typedef {Uint8Array | Float32Array} Values pixels 0 to 255, or features in their own units; channels last
 * @typedef {(name: string) => Promise<Uint8Array>} Reader gives the content of a file of the model folder
 * @typedef {{codes: Int32Array, logProbs: Float32Array, passes: number}} Encoded logProbs in nats, one a code; passes, the most that a window took
 * @typedef {{logProbs: Float32Array, topCodes: Int32Array, k: number}} Scores topCodes are k codes a position
 * @typedef {{code: number, logProb: number}} Alternative
 * @typedef {{frames: number, windows: number, overlap: number, fps: number, starts: number[][], anchors?: number[][][]}} ClipLayout
 * @typedef {{height: number, width: number, rows: number, columns: number, overlap: number}} TileLayout
 * @typedef {{model: string, weights_sha256: string, vocab_size: number, shape: number[],
 *   layout: ClipLayout | TileLayout | null}} Header of a .daps file
 * @typedef {{name: string, kind: string, labels: string[], num_tokens: number, vocab_size: number, steps: number,
 *   guidance: number, temperature: number, files: Record<string, string>, conditions?: unknown[]}} GeneratorConfig what is used of it
 * @typedef {{name: string, modality: string, input_shape: number[], num_tokens: number, vocab_size: number,
 *   recognition: {patch_size: number[], window: number[]}, generative: {kind: string}, likelihood: {kind: string},
 *   motion: {fps: number, feature_names: string[]} | null, files: Record<string, string>}} Config what is used of it
 */

/** What bad input gets: a message in one line that says what would be accepted. */
export class DapsError extends Error {
  name = "DapsError";
}

/**
 * Open a model folder.
 *
 * @param {string | URL} folder its path (Node) or address, without a slash at the end
 * @param {{ort: Runtime, read?: Reader}} options the module onnxruntime-web, and how files are read if not by
 *   `fetch` or from the disk
 * @returns {Promise<Tokenizer>}
 */
export async function load(folder, { ort, read = readerOf(folder) }) {
  /** @type {Config} */
  let config;
  try {
    config = JSON.parse(new TextDecoder().decode(await read("config.json")));
  } catch (error) {
    if (error instanceof DapsError) throw error;
    throw new DapsError(`${folder}: config.json is not JSON; expected a model folder`);
  }
  if (!config?.files?.["onnx/scorer.onnx"]) {
    throw new DapsError(`${folder}: has no onnx/scorer.onnx; expected the folder of a model with probabilities`);
  }
  return new Tokenizer(config, ort, read);
}

/** @param {string | URL} folder @returns {Reader} */
function readerOf(folder) {
  const isAddress = folder instanceof URL || typeof window !== "undefined" || typeof self !== "undefined";
  if (isAddress || /^https?:/.test(folder)) {
    return async (name) => {
      const response = await fetch(`${folder}/${name}`);
      if (!response.ok) throw new DapsError(`${folder}/${name}: the server answers ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    };
  }
  return async (name) => {
    const { readFile } = await import("node:fs/promises");
    return readFile(`${folder}/${name}`).catch((error) => {
      throw new DapsError(`${folder}/${name}: cannot be read (${error.code}); expected a model folder`);
    });
  };
}

/**
 * Open the folder of a generator (docs/generate.md).
 *
 * @param {string | URL} folder as of `load`
 * @param {{ort: Runtime, read?: Reader}} options as of `load`
 * @returns {Promise<Generator>}
 */
export async function loadGenerator(folder, { ort, read = readerOf(folder) }) {
  /** @type {GeneratorConfig} */
  let config;
  try {
    config = JSON.parse(new TextDecoder().decode(await read("config.json")));
  } catch (error) {
    if (error instanceof DapsError) throw error;
    throw new DapsError(`${folder}: config.json is not JSON; expected the folder of a generator`);
  }
  if (!config?.files?.["generator.onnx"]) throw new DapsError(`${folder}: has no generator.onnx; expected the folder of a generator`);
  if (config.conditions?.length) throw new DapsError(`${folder}: is told a text or a path; daps.js draws of a label alone`);
  return new Generator(config, ort, read);
}

/** Graphs that share their weights. Each is read when it is first used; calls must not overlap. */
class Graphs {
  /**
   * @param {{name: string, files: Record<string, string>}} config @param {Runtime} ort @param {Reader} read
   * @param {{graphs: string, weights: string}} paths of the folder of graphs, and of the weights in it
   */
  constructor(config, ort, read, paths) {
    this.ort = ort;
    this.listed = config;
    /** @type {Reader} */
    this.read = read;
    this.paths = paths;
    /** @type {Map<string, Promise<import("onnxruntime-web").InferenceSession>>} */
    this.sessions = new Map();
    /** @type {Promise<Uint8Array> | null} */
    this.weights = null;
  }

  /** @param {Float32Array} values @param {number[]} dims */
  floats(values, dims) {
    return new this.ort.Tensor("float32", values, dims);
  }

  /**
   * @param {string} name of a graph @param {Record<string, import("onnxruntime-web").Tensor>} feeds
   * @param {string[]} [outputs]
   */
  async run(name, feeds, outputs) {
    const session = await this.open(name);
    const found = outputs ? await session.run(feeds, outputs) : await session.run(feeds);
    return /** @type {Record<string, import("onnxruntime-web").Tensor>} */ (found);
  }

  /** Read a graph before it is needed. @param {string} name for example "encoder" */
  open(name) {
    let session = this.sessions.get(name);
    if (!session) {
      session = this.openGraph(name);
      session.catch(() => this.sessions.delete(name)); // the next call tries again
      this.sessions.set(name, session);
    }
    return session;
  }

  /** @param {string} name */
  async openGraph(name) {
    const { graphs, weights: path } = this.paths;
    this.weights ??= this.readChecked(`${graphs}${path}`);
    this.weights.catch(() => (this.weights = null));
    const [graph, data] = await Promise.all([this.readChecked(`${graphs}${name}.onnx`), this.weights]);
    return this.ort.InferenceSession.create(graph, { externalData: [{ path, data }] });
  }

  /** @param {string} name */
  async readChecked(name) {
    const content = await this.read(name);
    const subtle = globalThis.crypto?.subtle; // browsers have it on https and on localhost
    if (subtle) {
      const digest = new Uint8Array(await subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (content)));
      if (hex(digest) !== this.listed.files[name]) {
        throw new DapsError(`${name} of ${this.listed.name} is damaged: its sha256 is not the one in config.json`);
      }
    }
    return content;
  }
}

/** Draws codes that a tokenizer decodes. */
export class Generator extends Graphs {
  /** @param {GeneratorConfig} config @param {Runtime} ort @param {Reader} read */
  constructor(config, ort, read) {
    super(config, ort, read, { graphs: "", weights: "model.safetensors" });
    this.config = config;
  }

  /** The classes that can be asked for. */
  get labels() {
    return this.config.labels;
  }

  /**
   * Codes of `count` items, one after the other: those that Python draws with the same options.
   *
   * @param {{label?: string | null, count?: number, seed?: number, guidance?: number, temperature?: number,
   *   steps?: number}} [options] no label draws of any class; the others as in docs/generate.md
   * @returns {Promise<Int32Array>}
   */
  async sample({ label = null, count = 1, seed = 0, guidance = this.config.guidance, temperature = this.config.temperature, steps = this.config.steps } = {}) {
    const { labels, num_tokens: size, kind } = this.config;
    const number = label === null ? labels.length : labels.indexOf(label);
    if (number < 0) throw new DapsError(`label ${label} is not known; labels are ${labels.join(", ")}`);
    for (const [name, value] of Object.entries({ guidance, temperature })) {
      if (!Number.isFinite(value) || value < 0) throw new DapsError(`${name} must be a number from 0, not ${value}`);
    }
    if (!Number.isInteger(count) || count < 1) throw new DapsError(`count must be an integer from 1, not ${count}`);
    const dims = kind === "flow" ? [steps + 1, count, size] : [count, size];
    const asked = guidance > 0 && label !== null ? [number, labels.length] : [number];
    const rows = BigInt64Array.from(asked.flatMap((one) => Array(count).fill(BigInt(one))));
    const { codes } = await this.run("generator", {
      uniform: this.floats(uniforms(seed, dims.reduce((product, n) => product * n)), dims),
      labels: new this.ort.Tensor("int64", rows, [asked.length, count]),
      guidance: this.floats(Float32Array.of(guidance), []),
      temperature: this.floats(Float32Array.of(temperature), []),
    });
    return Int32Array.from(/** @type {Int32Array} */ (codes.data));
  }
}

/** One model. */
export class Tokenizer extends Graphs {
  /** @param {Config} config @param {Runtime} ort @param {Reader} read */
  constructor(config, ort, read) {
    super(config, ort, read, { graphs: "onnx/", weights: "weights.bin" });
    this.config = config;
    /** @type {WeakMap<Values, Record<string, import("onnxruntime-web").Tensor>>} */
    this.contexts = new WeakMap();
    /** @type {WeakMap<Int32Array, {input: Values, scores: Scores}>} */
    this.scored = new WeakMap();
  }

  /** Codes of an item. */
  get numTokens() {
    return this.config.num_tokens;
  }

  /** Values that a code can take. */
  get vocabSize() {
    return this.config.vocab_size;
  }

  /** sha256 of the weights, which says exactly which model it is. */
  get weightsSha256() {
    return this.config.files["model.safetensors"] ?? "";
  }

  /** Rows and columns of the codes; one row where codes have no place in the picture. */
  get grid() {
    const side = Math.sqrt(this.numTokens);
    return this.config.generative.kind === "resnet" ? [side, side] : [1, this.numTokens];
  }

  /** Whether a code belongs to a cell of the picture. */
  get isLocal() {
    return this.grid[0] > 1;
  }

  /** How many numbers an item of input has. */
  get inputSize() {
    return this.config.input_shape.reduce((product, size) => product * size, 1);
  }

  /**
   * Codes of one item or several of equal size, one after the other in the array.
   *
   * @param {Values} input
   * @param {{temperature?: number, seed?: number, uniform?: Float32Array}} [options] temperature 0 takes the most
   *   probable codes; any other draws them, by `uniform` numbers or by those of a seed, which are Python's
   * @returns {Promise<Encoded>}
   */
  async encode(input, { temperature = 0, seed = 0, uniform } = {}) {
    if (!Number.isFinite(temperature) || temperature < 0) {
      throw new DapsError(`temperature must be a number from 0, not ${temperature}`);
    }
    const batch = this.batchOf(input);
    const numbers = uniform ?? (temperature > 0 ? uniforms(seed, batch * this.numTokens) : null);
    const found = await this.run("encoder", {
      ...this.inputTensor(input, batch),
      uniform: this.floats(numbers ?? new Float32Array(batch * this.numTokens), [batch, this.numTokens]),
      temperature: this.floats(Float32Array.of(temperature), []),
    });
    const passes = Math.max(...Array.from(/** @type {Float32Array} */ (found.passes.data), Number));
    return {
      codes: Int32Array.from(/** @type {Int32Array} */ (found.codes.data)),
      logProbs: Float32Array.from(/** @type {Float32Array} */ (found.log_probs.data)),
      passes,
    };
  }

  /** A sample of q(z|x): `encode` at temperature 1. @param {Values} input @param {{temperature?: number, seed?: number}} [options] */
  sample(input, { temperature = 1, seed = 0 } = {}) {
    return this.encode(input, { temperature, seed });
  }

  /**
   * What codes stand for.
   *
   * @param {ArrayLike<number>} codes of one grid or several of equal size, each row by row
   * @param {{rows?: number, columns?: number}} [size] of a grid; that of the model if left out
   * @returns {Promise<{values: Values, shape: number[]}>} pixels (items, height, width, channels) or features
   */
  async decode(codes, { rows = this.grid[0], columns = this.grid[1] } = {}) {
    this.check(codes);
    const batch = codes.length / (rows * columns);
    if (!Number.isInteger(batch) || batch < 1) {
      throw new DapsError(`${codes.length} codes are not grids of ${rows} × ${columns}`);
    }
    const tensor = new this.ort.Tensor("int32", Int32Array.from(codes), [batch, rows, columns]);
    const { reconstruction } = await this.run("decoder", { codes: tensor }, ["reconstruction"]);
    const data = /** @type {Values} */ (reconstruction.data);
    return { values: data.slice(), shape: [...reconstruction.dims] };
  }

  /**
   * log q(z|x) of each code in nats, given the codes before it.
   *
   * @param {Values} input @param {Int32Array} codes
   * @returns {Promise<Float32Array>}
   */
  async logProb(input, codes) {
    return (await this.score(input, codes)).logProbs;
  }

  /**
   * log q of each code, and the most probable codes at each position given the codes before it. Kept for the same arrays.
   *
   * @param {Values} input @param {Int32Array} codes @param {number} [k]
   * @returns {Promise<Scores>}
   */
  async score(input, codes, k = 12) {
    const known = this.scored.get(codes);
    if (known && known.input === input && known.scores.k === k) return known.scores;
    const batch = this.batchOf(input);
    this.check(codes, batch * this.numTokens);
    const found = await this.run("scorer", {
      ...this.inputTensor(input, batch),
      codes: new this.ort.Tensor("int32", codes.slice(), [batch, this.numTokens]),
      k: new this.ort.Tensor("int64", BigInt64Array.of(BigInt(k)), []),
    });
    const scores = {
      logProbs: Float32Array.from(/** @type {Float32Array} */ (found.log_probs.data)),
      topCodes: Int32Array.from(/** @type {Int32Array} */ (found.top_codes.data)),
      k,
    };
    this.scored.set(codes, { input, scores });
    return scores;
  }

  /**
   * The codes that could be at a position, the most probable first, each with log q given the codes before it.
   *
   * The graphs give the most probable codes without their probabilities, so the window is scored once for each.
   *
   * @param {Values} input one item or several @param {Int32Array} codes @param {number} position in all codes
   * @param {number} [k]
   * @returns {Promise<Alternative[]>}
   */
  async alternatives(input, codes, position, k = 12) {
    const { topCodes } = await this.score(input, codes, k);
    const choices = [...topCodes.subarray(position * k, (position + 1) * k)];
    if (!choices.includes(codes[position])) choices.push(codes[position]);
    const logProbs = await this.probabilities(input, codes, position, choices);
    return choices.map((code, i) => ({ code, logProb: logProbs[i] })).sort((a, b) => b.logProb - a.logProb);
  }

  /**
   * log q of chosen codes at one position, given the codes before it.
   *
   * @param {Values} input @param {Int32Array} codes @param {number} position @param {number[]} choices
   * @returns {Promise<number[]>}
   */
  async probabilities(input, codes, position, choices) {
    this.check(choices);
    let context = this.contexts.get(input);
    if (!context) {
      context = await this.run("encoder_context", this.inputTensor(input, this.batchOf(input)));
      this.contexts.set(input, context);
    }
    const { window, members, place } = this.windowOf(position);
    const rows = choices.length;
    const size = members.length;
    /** @type {Record<string, import("onnxruntime-web").Tensor>} */
    const feeds = {};
    for (const [name, tensor] of Object.entries(context)) {
      const each = tensor.size / tensor.dims[0];
      const one = /** @type {Float32Array} */ (tensor.data).subarray(window * each, (window + 1) * each);
      const repeated = new Float32Array(rows * each);
      for (let row = 0; row < rows; row++) repeated.set(one, row * each);
      feeds[name] = this.floats(repeated, [rows, ...tensor.dims.slice(1)]);
    }
    const given = new Int32Array(rows * size);
    for (let row = 0; row < rows; row++) {
      members.forEach((member, i) => (given[row * size + i] = i === place ? choices[row] : codes[member]));
    }
    // At an enormous temperature all codes are equally probable, so a uniform number picks a code: the one that is
    // given. log_probs are those at temperature 1 whatever the temperature is.
    const found = await this.run("encoder_pass", {
      ...feeds,
      codes: new this.ort.Tensor("int32", given, [rows, size]),
      uniform: this.floats(Float32Array.from(given, (code) => (code + 0.5) / this.vocabSize), [rows, size]),
      temperature: this.floats(Float32Array.of(1e9), []),
    });
    const logProbs = /** @type {Float32Array} */ (found.log_probs.data);
    return choices.map((_, row) => logProbs[row * size + place]);
  }

  /**
   * The window that a code is encoded in: its number, the positions of its codes in order, and the code's place there.
   *
   * @param {number} position
   * @returns {{window: number, members: number[], place: number}}
   */
  windowOf(position) {
    const item = Math.floor(position / this.numTokens);
    const first = item * this.numTokens;
    if (!this.config.recognition.window.length) {
      const members = Array.from({ length: this.numTokens }, (_, i) => first + i);
      return { window: item, members, place: position - first };
    }
    const [rows, columns] = this.config.recognition.window;
    const [gridRows, gridColumns] = this.grid;
    const row = Math.floor((position - first) / gridColumns);
    const column = (position - first) % gridColumns;
    const top = row - (row % rows);
    const left = column - (column % columns);
    const members = Array.from(
      { length: rows * columns },
      (_, i) => first + (top + Math.floor(i / columns)) * gridColumns + left + (i % columns),
    );
    const perItem = (gridRows / rows) * (gridColumns / columns);
    const window = item * perItem + (top / rows) * (gridColumns / columns) + left / columns;
    return { window, members, place: (row % rows) * columns + (column % columns) };
  }

  /** @param {Values} input how many items it holds */
  batchOf(input) {
    const Kind = this.config.modality === "image" ? Uint8Array : Float32Array;
    const batch = input?.length / this.inputSize;
    if (!(input instanceof Kind) || !Number.isInteger(batch) || batch < 1) {
      throw new DapsError(`${this.config.name} takes a ${Kind.name} of ${this.config.input_shape.join(" × ")} values`);
    }
    return batch;
  }

  /** @param {ArrayLike<number>} codes @param {number} [count] */
  check(codes, count = codes.length) {
    if (codes.length !== count) throw new DapsError(`${codes.length} codes; ${this.config.name} has ${count} here`);
    for (let i = 0; i < codes.length; i++) {
      if (!Number.isInteger(codes[i]) || codes[i] < 0 || codes[i] >= this.vocabSize) {
        throw new DapsError(`code ${codes[i]} at position ${i}; codes of ${this.config.name} are 0 to ${this.vocabSize - 1}`);
      }
    }
  }

  /** @param {Values} input @param {number} batch @returns {Record<string, import("onnxruntime-web").Tensor>} */
  inputTensor(input, batch) {
    const dims = [batch, ...this.config.input_shape];
    return this.config.modality === "image"
      ? { images: new this.ort.Tensor("uint8", input.slice(), dims) }
      : { features: new this.ort.Tensor("float32", input.slice(), dims) };
  }
}

/** @param {Uint8Array} bytes */
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

// ---------------------------------------------------------------------------------------------------- .daps and links

/** @param {number} vocabSize */
export const bitsPerCode = (vocabSize) => Math.max(1, 32 - Math.clz32(vocabSize - 1));

/** @param {ArrayLike<number>} codes @param {number} bits @returns {Uint8Array<ArrayBuffer>} most significant bit first */
function pack(codes, bits) {
  const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  for (let i = 0; i < codes.length; i++) {
    for (let bit = 0; bit < bits; bit++) {
      const place = i * bits + bit;
      if ((codes[i] >> (bits - 1 - bit)) & 1) bytes[place >> 3] |= 128 >> (place & 7);
    }
  }
  return bytes;
}

/** @param {Uint8Array} bytes @param {number} count @param {number} bits */
function unpack(bytes, count, bits) {
  const codes = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    for (let place = i * bits; place < (i + 1) * bits; place++) {
      codes[i] = codes[i] * 2 + ((bytes[place >> 3] >> (7 - (place & 7))) & 1);
    }
  }
  return codes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** CRC-32 as in zlib, gzip and PNG. @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * The content of a .daps file, as docs/onnx.md describes it.
 *
 * @param {Header} header @param {ArrayLike<number>} codes
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function writeDaps(header, codes) {
  const { model, weights_sha256, vocab_size, shape, layout } = header;
  const text = new TextEncoder().encode(JSON.stringify({ model, weights_sha256, vocab_size, shape, layout }));
  const payload = pack(codes, bitsPerCode(vocab_size));
  const file = new Uint8Array(9 + text.length + payload.length + 4);
  const view = new DataView(file.buffer);
  file.set([68, 65, 80, 83, 1]);
  view.setUint32(5, text.length, true);
  file.set(text, 9);
  file.set(payload, 9 + text.length);
  view.setUint32(file.length - 4, crc32(file.subarray(0, -4)), true);
  return file;
}

/**
 * Read and check the content of a .daps file.
 *
 * @param {Uint8Array} file @param {string} [source] what errors call it
 * @returns {{header: Header, codes: Int32Array}}
 */
export function readDaps(file, source = "the file") {
  const refuse = (/** @type {string} */ why) => {
    throw new DapsError(`${source}: ${why}`);
  };
  const magic = [68, 65, 80, 83];
  if (!magic.every((byte, i) => file[i] === byte)) refuse("is not a .daps file");
  if (file[4] !== 1) refuse(`.daps version ${file[4] ?? "unknown"} is not known; this page reads version 1`);
  if (file.length < 13) refuse("is cut short");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const end = 9 + view.getUint32(5, true);
  if (file.length < end + 4) refuse("is cut short");
  if (crc32(file.subarray(0, -4)) !== view.getUint32(file.length - 4, true)) {
    refuse("was changed after it was written, or is cut short (its CRC-32 does not match)");
  }
  /** @type {Header} */
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(9, end)));
  } catch {
    return refuse("its header is not JSON");
  }
  checkHeader(header, refuse);
  const bits = bitsPerCode(header.vocab_size);
  const count = header.shape.reduce((product, size) => product * size, 1);
  if (Math.ceil((count * bits) / 8) !== file.length - 4 - end) refuse(`has not the ${count} codes of its header`);
  const codes = unpack(file.subarray(end, -4), count, bits);
  const wrong = codes.find((code) => code >= header.vocab_size);
  if (wrong !== undefined) refuse(`holds code ${wrong}; codes are 0 to ${header.vocab_size - 1}`);
  return { header, codes };
}

/** @param {any} header @param {(why: string) => never | void} refuse */
function checkHeader(header, refuse) {
  const keys = ["model", "weights_sha256", "vocab_size", "shape", "layout"];
  const isSize = (/** @type {unknown} */ x) => Number.isSafeInteger(x) && /** @type {number} */ (x) >= 1;
  const isObject = header !== null && typeof header === "object" && !Array.isArray(header);
  if (!isObject || Object.keys(header).sort().join() !== keys.sort().join()) {
    return refuse("its header has not the keys model, weights_sha256, vocab_size, shape and layout");
  }
  if (typeof header.model !== "string") refuse("its model is not a name");
  if (!/^([0-9a-f]{64})?$/.test(String(header.weights_sha256))) refuse("its weights_sha256 is not 64 hexadecimal digits");
  if (!isSize(header.vocab_size) || header.vocab_size < 2 || header.vocab_size > 65536) {
    refuse("its vocab_size is not an integer from 2 to 65536");
  }
  const shape = header.shape;
  const isShape = Array.isArray(shape) && shape.length >= 1 && shape.length <= 32 && shape.every(isSize);
  if (!isShape || shape.reduce((product, size) => product * size, 1) > 2 ** 31) refuse("its shape is not a list of sizes");
  const layout = header.layout;
  if (layout === null) return;
  if (typeof layout !== "object" || Array.isArray(layout)) return refuse("its layout is neither null nor an object");
  const found = Object.keys(layout).sort().join();
  if (found === "columns,height,overlap,rows,width") {
    const sizes = [layout.columns, layout.height, layout.rows, layout.width];
    if (!sizes.every(isSize) || layout.overlap !== 0 || layout.rows * layout.columns !== shape.at(-2)) {
      refuse("its layout of tiles does not fit its shape");
    }
    return;
  }
  if (found.replace(/^anchors,/, "") !== "fps,frames,overlap,starts,windows") return refuse("its layout is neither of tiles nor of a clip");
  const { frames, windows, overlap, fps, starts } = layout;
  const isStart = (/** @type {unknown} */ start) =>
    Array.isArray(start) && start.length === 3 && start.every((x) => Number.isFinite(x));
  const isClip =
    isSize(frames) && isSize(windows) && Number.isSafeInteger(overlap) && overlap >= 0 && windows === shape.at(-2) &&
    Number.isFinite(fps) && fps >= 1 && fps <= 10000 && Array.isArray(starts) && starts.every(isStart);
  const { anchors = [] } = layout;
  const isAnchor = (/** @type {unknown} */ anchor) =>
    Array.isArray(anchor) && anchor.length === 3 && anchor.every((x) => Number.isSafeInteger(x) && Math.abs(x) < 2 ** 31);
  const hasAnchors =
    Array.isArray(anchors) &&
    (anchors.length === 0 || anchors.length === shape.slice(0, -2).reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1)) &&
    anchors.every((own) => Array.isArray(own) && own.length <= windows && own.every(isAnchor));
  if (!hasAnchors) refuse("its anchors are not valid or do not fit its shape");
  if (!isClip) refuse("its layout of a clip is not valid or does not fit its shape");
}

/** @param {Uint8Array} bytes */
const toText = (bytes) =>
  btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

/** @param {string} text */
const fromText = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));

/** @param {string} text @returns {string} CRC-32 as six letters */
const checkOf = (text) => {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, crc32(new TextEncoder().encode(text)));
  return toText(bytes);
};

/**
 * Codes as the part of an address behind `#`: model, weights, codes, frames of a clip, and a check.
 *
 * @param {{model: string, weightsSha256: string, vocabSize: number, codes: ArrayLike<number>, frames?: number}} what
 */
export function writeLink({ model, weightsSha256, vocabSize, codes, frames }) {
  const parts = [model, weightsSha256.slice(0, 8), toText(pack(codes, bitsPerCode(vocabSize)))];
  if (frames !== undefined) parts.push(String(frames));
  const text = parts.join("/");
  return `${text}/${checkOf(text)}`;
}

/**
 * Read and check such a link. It must be of a model that is known, which gives its sizes.
 *
 * @param {string} link without `#`
 * @param {{name: string, weightsSha256: string, vocabSize: number, numTokens: number, modality: string}[]} models
 * @returns {{model: string, codes: Int32Array, frames: number | null}}
 */
export function readLink(link, models) {
  const refuse = (/** @type {string} */ why) => {
    throw new DapsError(`The link cannot be opened: ${why}.`);
  };
  const parts = link.split("/");
  const check = parts.pop();
  if (parts.length < 3 || parts.length > 4) refuse("it is not whole, or is no link of this page");
  if (checkOf(parts.join("/")) !== check) refuse("it was changed or is not whole");
  const [name, sha, text, frames] = parts;
  const model = models.find((one) => one.name === name);
  if (!model) return refuse(`it is of the model ${JSON.stringify(name.slice(0, 60))}, which this page does not have`);
  if (model.weightsSha256.slice(0, 8) !== sha) refuse(`it was made with other weights of ${name} than this page has`);
  if (!/^[A-Za-z0-9_-]+$/.test(text) || text.length % 4 === 1) refuse("its codes cannot be read");
  const bits = bitsPerCode(model.vocabSize);
  const bytes = fromText(text);
  const isClip = model.modality === "motion";
  const items = isClip ? Math.floor((bytes.length * 8) / (bits * model.numTokens)) : 1;
  const count = items * model.numTokens;
  if (items < 1 || bytes.length !== Math.ceil((count * bits) / 8)) {
    refuse(`it does not hold the ${model.numTokens} codes of ${name}`);
  }
  const codes = unpack(bytes, count, bits);
  if (codes.some((code) => code >= model.vocabSize)) refuse(`codes of ${name} are 0 to ${model.vocabSize - 1}`);
  if (isClip !== (frames !== undefined) || (isClip && !/^[1-9][0-9]{0,6}$/.test(frames))) {
    refuse("its number of frames is missing or not valid");
  }
  return { model: name, codes, frames: isClip ? Number(frames) : null };
}

// ------------------------------------------------------------------------------------------------------------- numbers

/**
 * What NumPy's `default_rng(seed).random(count, dtype=float32)` gives: the numbers that a seed samples by in Python.
 *
 * @param {number} seed an integer from 0 @param {number} count
 * @returns {Float32Array}
 */
export function uniforms(seed, count) {
  if (!Number.isSafeInteger(seed) || seed < 0) throw new DapsError(`seed must be an integer from 0, not ${seed}`);
  const words = seedWords(seed);
  const mask = (1n << 128n) - 1n;
  const pair = (/** @type {number} */ i) =>
    (BigInt(words[i + 1]) << 96n) | (BigInt(words[i]) << 64n) | (BigInt(words[i + 3]) << 32n) | BigInt(words[i + 2]);
  const multiplier = 0x2360ed051fc65da44385df649fccf645n;
  const increment = ((pair(4) << 1n) | 1n) & mask;
  let state = (((increment + pair(0)) & mask) * multiplier + increment) & mask;
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    state = (state * multiplier + increment) & mask; // PCG64: 128 bits of state, 64 bits out (XSL-RR)
    const rotation = state >> 122n;
    const folded = ((state >> 64n) ^ state) & 0xffffffffffffffffn;
    const out = ((folded >> rotation) | (folded << (64n - rotation))) & 0xffffffffffffffffn;
    numbers[i] = (Number(out & 0xffffffffn) >>> 8) / 2 ** 24;
    if (i + 1 < count) numbers[i + 1] = (Number(out >> 32n) >>> 8) / 2 ** 24;
  }
  return numbers;
}

/** NumPy's SeedSequence: eight words of 32 bits from a seed. @param {number} seed */
function seedWords(seed) {
  const entropy = [seed >>> 0, Math.floor(seed / 2 ** 32)].slice(0, seed < 2 ** 32 ? 1 : 2);
  let constant = 0x43b0d7e5;
  const hashed = (/** @type {number} */ value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mixed = (/** @type {number} */ x, /** @type {number} */ y) => {
    const result = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return (result ^ (result >>> 16)) >>> 0;
  };
  const pool = Array.from({ length: 4 }, (_, i) => hashed(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
  }
  constant = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4] ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  });
}

// ------------------------------------------------------------------------------------------------------------- pictures

/**
 * Bring pixels to a model's size as the Python package does: scaled until they cover it, Lanczos, centre kept.
 *
 * The arithmetic is Pillow's, so a picture has the codes here that it has in Python.
 *
 * @param {Uint8Array | Uint8ClampedArray} rgba four values a pixel; transparent ones are laid over white
 * @param {number} width @param {number} height of the picture
 * @param {number[]} shape height, width and channels (1 or 3) of the model
 * @returns {Uint8Array}
 */
export function fitPicture(rgba, width, height, [rows, columns, channels]) {
  if (!(width > 0 && height > 0) || rgba.length !== width * height * 4) {
    throw new DapsError(`${rgba.length} values are not ${width} × ${height} pixels with four values each`);
  }
  const pixels = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const white = 255 - rgba[4 * i + 3]; // how much of it shines through
    const over = (/** @type {number} */ c) => (white ? Math.round((c * (255 - white)) / 255) + white : c);
    const [red, green, blue] = [over(rgba[4 * i]), over(rgba[4 * i + 1]), over(rgba[4 * i + 2])];
    if (channels === 3) {
      pixels[3 * i] = red;
      pixels[3 * i + 1] = green;
      pixels[3 * i + 2] = blue;
    } else pixels[i] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16; // luma of ITU-R 601
  }
  const wide = width / height >= columns / rows;
  const boxWidth = wide ? (columns / rows) * height : width;
  const boxHeight = wide ? height : width / (columns / rows);
  let left = (width - boxWidth) / 2;
  let top = (height - boxHeight) / 2;
  if (Math.min(height / rows, width / columns) === 1) [left, top] = [Math.floor(left), Math.floor(top)]; // whole pixels
  const across = lanczos(width, left, left + boxWidth, columns);
  const down = lanczos(height, top, top + boxHeight, rows);
  // Which direction comes first shows where a pass is clipped to 0 and 255; this is the order of Pillow 13.
  if (height > rows && height - rows > 2 * (width - columns)) {
    const low = transposedResample(pixels, down, width * channels);
    return resample(low, across, { lines: rows, step: channels, line: width * channels, channels });
  }
  const narrow = resample(pixels, across, { lines: height, step: channels, line: width * channels, channels });
  return transposedResample(narrow, down, columns * channels);
}

/** @typedef {{first: number, weights: Int32Array}} Tap weights of neighbouring pixels, 22 bits behind the point */

/** @param {number} size @param {number} from @param {number} to @param {number} count @returns {Tap[]} */
function lanczos(size, from, to, count) {
  const [start, end] = [Math.fround(from), Math.fround(to)];
  const scale = Math.fround(end - start) / count;
  if (scale === 1 && Number.isInteger(start)) {
    return Array.from({ length: count }, (_, i) => ({ first: start + i, weights: Int32Array.of(1 << 22) }));
  }
  const stretch = Math.max(scale, 1);
  const sinc = (/** @type {number} */ x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 3 * stretch + 0.5));
    const last = Math.min(size, Math.trunc(centre + 3 * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, x) => {
      const place = (x + first - centre + 0.5) * (1 / stretch);
      return place >= -3 && place < 3 ? sinc(place) * sinc(place / 3) : 0;
    });
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const fixed = weights.map((weight) => (weight / total) * (1 << 22));
    return { first, weights: Int32Array.from(fixed, (weight) => Math.trunc(weight + (weight < 0 ? -0.5 : 0.5))) };
  });
}

/** @param {number} sum */
const rounded = (sum) => Math.max(0, Math.min(255, sum >> 22));

/** @param {Uint8Array} pixels @param {Tap[]} taps @param {{lines: number, step: number, line: number, channels: number}} size */
function resample(pixels, taps, { lines, step, line, channels }) {
  const out = new Uint8Array(lines * taps.length * channels);
  for (let y = 0, at = 0; y < lines; y++) {
    for (const { first, weights } of taps) {
      for (let c = 0; c < channels; c++) {
        let sum = 1 << 21;
        for (let x = 0, from = y * line + first * step + c; x < weights.length; x++, from += step) {
          sum += pixels[from] * weights[x];
        }
        out[at++] = rounded(sum);
      }
    }
  }
  return out;
}

/** @param {Uint8Array} pixels @param {Tap[]} taps @param {number} line values of a line */
function transposedResample(pixels, taps, line) {
  const out = new Uint8Array(taps.length * line);
  taps.forEach(({ first, weights }, y) => {
    for (let x = 0; x < line; x++) {
      let sum = 1 << 21;
      for (let k = 0, from = first * line + x; k < weights.length; k++, from += line) sum += pixels[from] * weights[k];
      out[y * line + x] = rounded(sum);
    }
  });
  return out;
}

/** Peak signal-to-noise ratio in decibels. @param {ArrayLike<number>} a @param {ArrayLike<number>} b */
export function psnr(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.length));
}
