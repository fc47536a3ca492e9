/** The tab of pictures: original and reconstruction, what a code changes, and where pictures come from. */
import { Bench, element, make, number, seconds } from "./bench.js";
import { DapsError, psnr } from "./daps.js";

/**
 * @typedef {import("./page.js").App} App
 * @typedef {import("./worker.js").Model} Model
 * @typedef {import("./worker.js").Effects} Effects
 */

const MOST_PIXELS = 2 ** 27; // as in Python
const KEPT_PIXELS = 12e6; // above, the browser makes it smaller first
const THUMBNAIL = 3; // codes in each direction that a thumbnail shows
const SEEN = 4; // of 255: a smaller change of a pixel is not counted

export class Pictures {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.name = "picture";
    this.models = app.site.models.filter((model) => model.modality === "image");
    /** @type {Blob | null} the file that is shown, for another model */
    this.file = null;
    /** @type {Uint8Array | null} */
    this.original = null;
    /** @type {Uint8Array | null} */
    this.reconstruction = null;
    /** @type {number | null} null while it is looked for, 0 where no JPEG is as exact */
    this.jpegBytes = null;
    this.opening = 0;
    this.split = element("p-split", HTMLInputElement);
    this.frame = element("p-frame", HTMLElement);
    this.bench = new Bench(app, "p", this);
    this.wire();
    if (this.models.length) this.choose(this.models[0]);
  }

  wire() {
    const { app } = this;
    const select = element("p-model", HTMLSelectElement);
    for (const model of this.models) {
      const size = `${model.inputShape[1]} × ${model.inputShape[0]}, ${number(model.numTokens)} codes`;
      select.append(make("option", { value: model.name }, `${model.name.replace(/^daps-/, "")}: ${size}`));
    }
    element("p-models", HTMLElement).hidden = this.models.length < 2;
    select.addEventListener("change", () => {
      const [file, name] = [this.file, this.name];
      this.clear();
      this.choose(this.models[select.selectedIndex]);
      if (file) this.openBlob(file, name).catch((error) => app.refuse(error));
    });
    element("p-open", HTMLButtonElement).addEventListener("click", () => this.app.pickFile("image/*"));
    element("p-camera", HTMLButtonElement).addEventListener("click", () => element("shot", HTMLInputElement).click());
    this.split.addEventListener("input", () => this.showSplit());
    this.showSplit();
  }

  showSplit() {
    this.frame.style.setProperty("--split", `${this.split.value}%`);
  }

  /** Those of photographs, or of digits where the model knows no colours. */
  get examples() {
    const { image = [], grey = [] } = this.app.site.examples;
    return this.model?.inputShape[2] === 1 ? grey : image;
  }

  /** @param {Model} model */
  choose(model) {
    this.model = model;
    element("p-examples", HTMLElement).replaceChildren(
      ...this.examples.map((path, i) => {
        const name = path.replace(/^.*\/|\.\w+$/g, "");
        const image = make("img", { src: path, alt: "", width: "44", height: "44" });
        const button = make("button", { class: "thumb", "aria-label": `Example: ${name}`, title: name }, image);
        button.addEventListener("click", () => this.example(i));
        return button;
      }),
    );
    element("p-model", HTMLSelectElement).value = model.name;
    const [height, width] = model.inputShape;
    for (const id of ["p-original", "p-decoded", "p-overlay"]) {
      const canvas = element(id, HTMLCanvasElement);
      [canvas.width, canvas.height] = [width, height];
    }
    this.frame.classList.toggle("coarse", width < 128);
    element("p-title", HTMLElement).textContent = `A picture as ${number(model.numTokens)} integers`;
    this.bench.begin(model);
  }

  // ---------------------------------------------------------------------------------------------------- what comes in

  /** @param {number} index */
  async example(index) {
    const path = this.examples[index];
    const response = await fetch(path).catch(() => null);
    if (!response?.ok) return this.app.error("The example cannot be downloaded: no network.");
    await this.openBlob(await response.blob(), path.replace(/^.*\/|\.\w+$/g, "")).catch((error) => this.app.refuse(error));
  }

  /** @param {File} file */
  async openFile(file) {
    await this.openBlob(file, file.name.replace(/\.\w+$/, "") || "picture", file.name);
  }

  /** @param {Blob} blob @param {string} name @param {string} [source] what errors call it */
  async openBlob(blob, name, source = name) {
    const model = /** @type {Model} */ (this.model);
    const turn = ++this.opening;
    /** @type {ImageBitmap} */
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      throw new DapsError(`${source}: is no picture that this browser can read; expected PNG, JPEG, WebP, GIF or AVIF, a CSV clip or a .daps file`);
    }
    if (bitmap.width * bitmap.height > MOST_PIXELS) {
      throw new DapsError(`${source}: has ${number((bitmap.width * bitmap.height) / 1e6)} megapixels; the most is ${number(MOST_PIXELS / 1e6)}`);
    }
    const scale = Math.min(1, Math.sqrt(KEPT_PIXELS / (bitmap.width * bitmap.height)));
    const [width, height] = [bitmap.width, bitmap.height].map((size) => Math.max(1, Math.round(size * scale)));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    const rgba = pen.getImageData(0, 0, width, height).data;
    this.app.show("pictures");
    this.app.forgetLink();
    this.clear();
    this.sketch(canvas);
    [this.file, this.name] = [blob, name];
    this.bench.begin(model);
    const pixels = await this.app.work("Opening", this.bench.ask("fit", { rgba, width, height }));
    if (!pixels || turn !== this.opening) return;
    this.original = pixels;
    paint("p-original", pixels, model);
    this.bench.give(pixels);
    await this.bench.encode();
  }

  /** Show the picture at once, while networks are still on their way. @param {HTMLCanvasElement} from */
  sketch(from) {
    const canvas = element("p-original", HTMLCanvasElement);
    const side = Math.min(from.width / canvas.width, from.height / canvas.height);
    const [width, height] = [canvas.width * side, canvas.height * side];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.imageSmoothingQuality = "high";
    pen.drawImage(from, (from.width - width) / 2, (from.height - height) / 2, width, height, 0, 0, canvas.width, canvas.height);
  }

  /**
   * @param {Model} model @param {Int32Array} codes @param {import("./daps.js").Header | null} header
   * @param {string} name
   */
  async openCodes(model, codes, header, name) {
    if (header?.layout) throw new DapsError(`${name}.daps: holds a picture in tiles; this page shows single ones, daps-tokenize decode all`);
    if (codes.length !== model.numTokens) {
      throw new DapsError(`${name}.daps: holds ${number(codes.length / model.numTokens)} pictures; this page opens one`);
    }
    this.opening += 1;
    this.app.show("pictures");
    this.choose(model);
    this.clear();
    this.name = name;
    await this.bench.open(model, codes);
  }

  clear() {
    this.original = this.reconstruction = this.jpegBytes = this.file = null;
    for (const id of ["p-original", "p-decoded", "p-overlay"]) wipe(id);
    this.frame.classList.remove("pair", "alone");
  }

  // -------------------------------------------------------------------------------------------------- what a bench shows

  input() {
    return this.original;
  }

  /** @param {import("./daps.js").Values} values */
  decoded(values) {
    const model = /** @type {Model} */ (this.model);
    const pixels = /** @type {Uint8Array} */ (values);
    const isFirst = !this.reconstruction;
    this.reconstruction = pixels;
    paint("p-decoded", pixels, model);
    this.frame.classList.toggle("pair", Boolean(this.original));
    this.frame.classList.toggle("alone", !this.original);
    const caption = element("p-caption", HTMLElement);
    caption.textContent = this.original
      ? "Drag the line to compare."
      : "Opened from its codes alone, without an original. q reads what the codes decode to.";
    if (!this.original) {
      if (isFirst) this.bench.give(pixels);
      return;
    }
    this.compareJpeg(pixels);
  }

  /** How many bytes JPEG takes for as small an error. @param {Uint8Array} pixels */
  async compareJpeg(pixels) {
    const model = /** @type {Model} */ (this.model);
    const original = /** @type {Uint8Array} */ (this.original);
    const target = psnr(target8(original, model), pixels);
    const bytes = await this.bench.ask("jpeg", { pixels: original, shape: model.inputShape, target }).catch(() => null);
    if (pixels !== this.reconstruction) return;
    this.jpegBytes = bytes ?? 0;
    this.bench.showFacts();
  }

  /** @returns {import("./bench.js").Fact[]} */
  facts() {
    const { bench } = this;
    const model = /** @type {Model} */ (this.model);
    const codes = `${number(model.numTokens)} × ${Math.log2(model.vocabSize)} bits`;
    /** @type {import("./bench.js").Fact[]} */
    const facts = [["Codes", `${number(bench.bytes)} bytes`, codes]];
    if (this.original && this.reconstruction) {
      const times = this.jpegBytes ? `${(this.jpegBytes / bench.bytes).toFixed(1)} × the codes` : "";
      if (this.jpegBytes !== 0) facts.push(["JPEG at this PSNR", times ? `${number(this.jpegBytes ?? 0)} bytes` : "…", times]);
      facts.push(["PSNR", `${psnr(target8(this.original, model), this.reconstruction).toFixed(1)} dB`, "against the original"]);
    }
    if (bench.bits !== null) facts.push(["Surprisal", `${number(bench.bits)} bits`, "−log₂ q of all codes"]);
    if (bench.encodeTime && this.original) {
      facts.push(["Encoded in", seconds(bench.encodeTime), bench.passes === 1 ? "1 pass" : `at most ${Number(bench.passes.toFixed(1))} passes`]);
    }
    if (bench.decodeTime) facts.push(["Decoded in", seconds(bench.decodeTime)]);
    return facts;
  }

  layout() {
    const model = /** @type {Model} */ (this.model);
    return { shape: [1, model.numTokens], layout: null };
  }

  /** Outline the cell of a code in the picture. @param {number} position */
  hover(position) {
    this.outlined = position;
    this.drawOverlay();
  }

  drawOverlay() {
    const canvas = element("p-overlay", HTMLCanvasElement);
    const model = /** @type {Model} */ (this.model);
    const scale = Math.max(1, Math.round(512 / model.inputShape[1]));
    [canvas.width, canvas.height] = [model.inputShape[1] * scale, model.inputShape[0] * scale];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    if (this.heat) {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(this.heat.canvas, this.heat.x * scale, this.heat.y * scale, this.heat.canvas.width * scale, this.heat.canvas.height * scale);
    }
    const [rows, columns] = this.bench.size;
    for (const position of new Set([this.bench.grid.selected, this.outlined ?? -1])) {
      if (position < 0 || rows === 1 || !this.bench.codes) continue;
      const [width, height] = [canvas.width / columns, canvas.height / rows];
      const [x, y] = [(position % columns) * width, Math.floor(position / columns) * height];
      pen.lineWidth = 4;
      pen.strokeStyle = "rgb(0 0 0 / 55%)";
      pen.strokeRect(x, y, width, height);
      pen.lineWidth = 2;
      pen.strokeStyle = "#ffffff";
      pen.strokeRect(x, y, width, height);
    }
  }

  /**
   * Show which pixels a code moves, over the picture; says it in a sentence.
   *
   * @param {Effects | null} effects @param {number} position
   */
  explain(effects, position) {
    this.heat = null;
    if (!effects || !this.model) {
      if (this.model) this.drawOverlay();
      return "";
    }
    const [items, height, width, channels] = effects.shape;
    const each = height * width * channels;
    const moved = new Uint8Array(height * width);
    for (let item = 1; item < items; item++) {
      for (let i = 0; i < each; i++) {
        const by = Math.abs(effects.values[item * each + i] - effects.values[i]);
        const pixel = Math.floor(i / channels);
        if (by > moved[pixel]) moved[pixel] = by;
      }
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const picture = pen.createImageData(width, height);
    moved.forEach((by, i) => picture.data.set([255, 64, 129, by > SEEN ? Math.min(150, 50 + by * 5) : 0], 4 * i));
    pen.putImageData(picture, 0, 0);
    const cell = [height / effects.rows, width / effects.columns];
    const isLocal = effects.shape[1] !== this.model.inputShape[0] || effects.rows > 1;
    this.heat = { canvas, x: isLocal ? effects.left * cell[1] : 0, y: isLocal ? effects.top * cell[0] : 0 };
    this.drawOverlay();
    const count = moved.reduce((sum, by) => sum + (by > SEEN ? 1 : 0), 0);
    const own = number((this.model.inputShape[0] * this.model.inputShape[1]) / (isLocal ? this.model.numTokens : 1));
    const sentence = `The codes listed here move ${number(count)} pixels by more than ${SEEN} of 255, pink in the picture.`;
    return isLocal ? `${sentence} A code's own cell has ${own}; its neighbours blend in.` : `${sentence} The picture has ${own}.`;
  }

  /** @param {Effects} effects @param {number} index @param {HTMLCanvasElement} canvas */
  thumbnail(effects, index, canvas) {
    const [, height, width, channels] = effects.shape;
    const model = /** @type {Model} */ (this.model);
    const part = /** @type {Uint8Array} */ (effects.values).subarray(index * height * width * channels, (index + 1) * height * width * channels);
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [width, height];
    whole.getContext("2d")?.putImageData(toImageData(part, [height, width, channels]), 0, 0);
    const [, columns] = this.bench.size;
    const [cellHeight, cellWidth] = [height / effects.rows, width / effects.columns];
    const position = this.bench.grid.selected;
    const isWhole = effects.rows === 1 || effects.rows * effects.columns <= THUMBNAIL ** 2;
    const clamp = (/** @type {number} */ at, /** @type {number} */ size) => Math.max(0, Math.min(size - THUMBNAIL, at - 1));
    const top = isWhole ? 0 : clamp(Math.floor(position / columns) - effects.top, effects.rows) * cellHeight;
    const left = isWhole ? 0 : clamp((position % columns) - effects.left, effects.columns) * cellWidth;
    const [w, h] = isWhole ? [width, height] : [THUMBNAIL * cellWidth, THUMBNAIL * cellHeight];
    [canvas.width, canvas.height] = [w, h];
    canvas.classList.toggle("coarse", model.inputShape[0] < 128);
    canvas.getContext("2d")?.drawImage(whole, left, top, w, h, 0, 0, w, h);
  }
}

/** Pixels as the model sees them: black or white where it knows no greys. @param {Uint8Array} pixels @param {Model} model */
function target8(pixels, model) {
  return model.inputShape[2] === 1 ? pixels.map((value) => (value > 127 ? 255 : 0)) : pixels;
}

/** @param {Uint8Array} pixels @param {number[]} shape */
export function toImageData(pixels, [height, width, channels]) {
  const data = new Uint8ClampedArray(height * width * 4).fill(255);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
  }
  return new ImageData(data, width, height);
}

/** @param {string} id @param {Uint8Array} pixels @param {Model} model */
function paint(id, pixels, model) {
  element(id, HTMLCanvasElement).getContext("2d")?.putImageData(toImageData(pixels, model.inputShape), 0, 0);
}

/** @param {string} id */
function wipe(id) {
  const canvas = element(id, HTMLCanvasElement);
  canvas.getContext("2d")?.clearRect(0, 0, canvas.width, canvas.height);
}
