/**
 * Where the networks run, so that the page never freezes. The page sends `{id, call, ...}` and gets `{id, result}` or
 * `{id, error}`; and `{download: {done, total}}`, in bytes, while files arrive. Calls are worked off one by one.
 *
 * @typedef {import("./daps.js").Tokenizer} Tokenizer
 * @typedef {{name: string, folder: string, modality: string, inputShape: number[], numTokens: number, vocabSize: number,
 *   weightsSha256: string, files: Record<string, number>, robot: import("./motion.js").Robot | null}} Model robot: of a
 *   model of motion
 * @typedef {{name: string, folder: string, tokenizer: string, labels: string[], guidance: number, temperature: number,
 *   files: Record<string, number>}} GeneratorRecord
 * @typedef {{models: Model[], generators: GeneratorRecord[], runtime: Record<string, number>, examples: Record<string, string[]>}} Site
 *   what site.json says; examples by what they are, those of motion by the name of the robot
 * @typedef {{values: import("./daps.js").Values, shape: number[], top: number, left: number, rows: number,
 *   columns: number}} Effects a part of the codes, decoded with each choice; the first with the codes as they are
 */
import { DapsError, fitPicture, load, loadGenerator, psnr } from "./daps.js";

const HERE = new URL(".", import.meta.url).href.replace(/\/$/, "");
const REACH = 4; // codes around a changed one that are decoded anew; 98 % of a change is within 1
const sizes = /** @type {Record<string, number>} */ ({});
const early = /** @type {Map<string, Promise<Uint8Array>>} */ (new Map());
const tokenizers = /** @type {Map<string, Promise<Tokenizer>>} */ (new Map());
/** @type {Map<Tokenizer, {input: import("./daps.js").Values | null, codes: Int32Array | null}>} what each works on */
const current = new Map();
/** @type {Promise<import("./daps.js").Runtime> | null} */
let runtime = null;

const downloads = { done: 0, total: 0, open: 0 };

/** @param {string} path */
async function read(path) {
  const size = sizes[path] ?? 0;
  downloads.open += 1;
  downloads.total += size;
  let arrived = 0;
  try {
    const response = await fetch(`${HERE}/${path}`).catch(() => {
      throw new DapsError(`${path} cannot be downloaded: no network`);
    });
    if (!response.ok || !response.body) {
      const why = response.status === 504 ? "no network" : `the server answers ${response.status}`;
      throw new DapsError(`${path} cannot be downloaded: ${why}`);
    }
    const parts = [];
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      arrived += part.value.length;
      downloads.done += Math.min(part.value.length, Math.max(0, size - arrived + part.value.length));
      postMessage({ download: { done: downloads.done, total: downloads.total } });
    }
    return joined(parts, arrived);
  } finally {
    downloads.open -= 1;
    if (!downloads.open) {
      downloads.done = downloads.total = 0;
      postMessage({ download: null });
    }
  }
}

/** @param {Uint8Array[]} parts @param {number} length */
function joined(parts, length) {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function startRuntime() {
  const packed = read("runtime/ort-wasm-simd-threaded.wasm.gz");
  packed.catch(() => {});
  // @ts-expect-error: `python -m export web` puts it there
  const ort = await import("./runtime/ort.wasm.min.mjs");
  let binary = await packed;
  if (binary[0] === 0x1f && binary[1] === 0x8b) { // some hosts unpack .gz on the way
    const stream = new Blob([binary]).stream().pipeThrough(new DecompressionStream("gzip"));
    binary = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.wasmPaths = `${HERE}/runtime/`;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  return ort;
}

/** @param {string} name */
function opened(name) {
  let tokenizer = tokenizers.get(name);
  if (!tokenizer) {
    const folder = `models/${name}`;
    early.set(`${folder}/onnx/weights.bin`, read(`${folder}/onnx/weights.bin`)); // while the runtime arrives
    early.get(`${folder}/onnx/weights.bin`)?.catch(() => {});
    runtime ??= startRuntime();
    runtime.catch(() => (runtime = null));
    tokenizer = runtime.then((ort) =>
      load(name, {
        ort,
        read: (file) => {
          const path = `${folder}/${file}`;
          const content = early.get(path) ?? read(path);
          early.delete(path);
          return content;
        },
      }),
    );
    tokenizer.catch(() => {
      tokenizers.delete(name);
      early.clear();
    });
    tokenizers.set(name, tokenizer);
  }
  return tokenizer;
}

const generators = /** @type {Map<string, Promise<import("./daps.js").Generator>>} */ (new Map());

/** @param {string} name */
function openedGenerator(name) {
  let generator = generators.get(name);
  if (!generator) {
    runtime ??= startRuntime();
    generator = runtime.then((ort) => loadGenerator(name, { ort, read: (file) => read(`generators/${name}/${file}`) }));
    generator.catch(() => generators.delete(name));
    generators.set(name, generator);
  }
  return generator;
}

/** The array that is known already, if it holds the same codes. @param {Tokenizer} tok @param {Int32Array} codes */
function remembered(tok, codes) {
  const at = current.get(tok) ?? { input: null, codes: null };
  const known = at.codes;
  if (!known || known.length !== codes.length || known.some((code, i) => code !== codes[i])) at.codes = codes;
  return /** @type {Int32Array} */ (at.codes);
}

/** @param {Tokenizer} tok */
function input(tok) {
  const values = current.get(tok)?.input;
  if (!values) throw new DapsError("open a picture or a clip first");
  return values;
}

/** @type {Record<string, (tok: Tokenizer, message: any) => Promise<any> | any>} */
const calls = {
  fit: (tok, { rgba, width, height }) => fitPicture(rgba, width, height, tok.config.input_shape),
  input: (tok, { values }) => {
    current.set(tok, { input: values, codes: null });
  },
  encode: async (tok, { temperature, seed }) => {
    await tok.open("encoder");
    const start = performance.now();
    const found = await tok.encode(input(tok), { temperature, seed });
    return { ...found, milliseconds: performance.now() - start };
  },
  decode: async (tok, { codes }) => {
    await tok.open("decoder");
    const start = performance.now();
    return { ...(await tok.decode(codes)), milliseconds: performance.now() - start };
  },
  score: (tok, { codes }) => tok.score(input(tok), remembered(tok, codes)),
  alternatives: (tok, { codes, position }) => tok.alternatives(input(tok), remembered(tok, codes), position),
  effects: (tok, { codes, position, choices }) => effects(tok, codes, position, choices),
  generate: async (tok, { generator, options }) => {
    const codes = await (await openedGenerator(generator)).sample(options);
    return { codes, values: (await tok.decode(codes)).values };
  },
  jpeg: (_, { pixels, shape, target }) => smallestJpeg(pixels, shape, target),
};

/**
 * What changing one code does, for each choice of it.
 *
 * @param {Tokenizer} tok @param {Int32Array} codes @param {number} position @param {number[]} choices
 * @returns {Promise<Effects>}
 */
async function effects(tok, codes, position, choices) {
  const [gridRows, gridColumns] = tok.grid;
  const item = Math.floor(position / tok.numTokens) * tok.numTokens;
  const [row, column] = [Math.floor((position - item) / gridColumns), (position - item) % gridColumns];
  const part = (/** @type {number} */ at, /** @type {number} */ size) => {
    if (!tok.isLocal) return [0, size];
    return [Math.max(0, at - REACH), Math.min(size, at + REACH + 1)];
  };
  const [[top, bottom], [left, right]] = [part(row, gridRows), part(column, gridColumns)];
  const [rows, columns] = [bottom - top, right - left];
  const grids = [codes[position], ...choices].flatMap((choice) =>
    Array.from({ length: rows * columns }, (_, i) => {
      const place = item + (top + Math.floor(i / columns)) * gridColumns + left + (i % columns);
      return place === position ? choice : codes[place];
    }),
  );
  return { ...(await tok.decode(grids, { rows, columns })), top, left, rows, columns };
}

/**
 * Bytes of the smallest JPEG whose PSNR reaches a target; null where the browser cannot make one here.
 *
 * @param {Uint8Array} pixels @param {number[]} shape @param {number} target in decibels
 */
async function smallestJpeg(pixels, [height, width, channels], target) {
  if (typeof OffscreenCanvas === "undefined") return null;
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
  }
  const canvas = new OffscreenCanvas(width, height);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const own = new ImageData(rgba, width, height);
  let [low, high, bytes] = [0, 100, 0];
  while (low <= high) {
    const quality = Math.floor((low + high) / 2);
    pen.putImageData(own, 0, 0);
    const file = await canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 });
    const bitmap = await createImageBitmap(file);
    pen.drawImage(bitmap, 0, 0);
    bitmap.close();
    if (psnr(rgba, pen.getImageData(0, 0, width, height).data) - OPAQUE >= target) {
      bytes = file.size;
      high = quality - 1;
    } else low = quality + 1;
  }
  return bytes || null;
}

const OPAQUE = 10 * Math.log10(4 / 3); // decibels that a fourth channel without any error adds

let queue = Promise.resolve();

self.addEventListener("message", ({ data }) => {
  if (data.site) {
    const site = /** @type {Site} */ (data.site);
    Object.assign(sizes, site.runtime, ...[...site.models, ...site.generators].map((one) => one.files));
    return;
  }
  queue = queue.then(async () => {
    try {
      const result = await calls[data.call](await opened(data.model), data);
      postMessage({ id: data.id, result });
    } catch (error) {
      const known = error instanceof DapsError;
      postMessage({ id: data.id, error: known ? error.message : `this browser could not do it (${error})` });
    }
  });
});
