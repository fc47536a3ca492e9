/**
 * What both tabs have in common: codes that were encoded, sampled, opened or changed, their grid, the alternatives of a
 * chosen code, links and files. What the codes are of is the business of a view.
 *
 * @typedef {import("./page.js").App} App
 * @typedef {import("./worker.js").Model} Model
 * @typedef {import("./worker.js").Effects} Effects
 * @typedef {import("./daps.js").Alternative} Alternative
 * @typedef {[label: string, value: string, note?: string]} Fact
 * @typedef {{
 *   name: string,
 *   decoded: (values: import("./daps.js").Values) => void,
 *   facts: () => Fact[],
 *   hover: (position: number) => void,
 *   explain: (effects: Effects | null, position: number) => string,
 *   thumbnail: (effects: Effects, index: number, canvas: HTMLCanvasElement) => void,
 *   input: () => import("./daps.js").Values | null,
 *   layout: () => {shape: number[], layout: import("./daps.js").ClipLayout | null, frames?: number},
 * }} View
 */
import { bitsPerCode, writeDaps, writeLink } from "./daps.js";
import { CodeGrid, bitsOf } from "./grid.js";

/** @template {HTMLElement} T @param {string} id @param {new () => T} Kind @returns {T} */
export function element(id, Kind) {
  const found = document.getElementById(id);
  if (!(found instanceof Kind)) throw new Error(`no ${Kind.name} #${id}`);
  return found;
}

/** @param {string} tag @param {Record<string, string>} attributes @param {...(Node | string)} children */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const number = (/** @type {number} */ value) => Math.round(value).toLocaleString("en");
export const seconds = (/** @type {number} */ ms) => (ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const percent = (/** @type {number} */ p) =>
  p >= 0.1 ? `${(100 * p).toFixed(0)} %` : p >= 1e-3 ? `${(100 * p).toFixed(1)} %` : p >= 1e-4 ? `${(100 * p).toFixed(2)} %` : "<0.01 %";

export class Bench {
  /** @param {App} app @param {string} prefix of ids in the page @param {View} view */
  constructor(app, prefix, view) {
    this.app = app;
    this.prefix = prefix;
    this.view = view;
    /** @type {Model | null} */
    this.model = null;
    this.clear();
    this.grid = new CodeGrid(this.at("grid", HTMLCanvasElement), {
      choose: (position) => this.select(position),
      hover: (position) => view.hover(position),
      say: (text) => app.say(text),
    });
    this.temperature = this.at("temperature", HTMLInputElement);
    this.seed = this.at("seed", HTMLInputElement);
    this.inspector = this.at("inspector", HTMLElement);
    this.wire();
    this.inspect(null);
  }

  clear() {
    /** @type {Int32Array | null} */
    this.codes = null;
    /** @type {Int32Array} as they were encoded or opened */
    this.given = new Int32Array();
    /** @type {Float32Array | null} */
    this.logProbs = null;
    /** @type {Set<number>} */
    this.changed = new Set();
    this.passes = 0;
    this.encodeTime = 0;
    this.decodeTime = 0;
    this.turn = (this.turn ?? 0) + 1; // results of an earlier turn are not shown
    this.again = false;
    this.isEncoding = false;
  }

  /** @template {HTMLElement} T @param {string} name @param {new () => T} Kind */
  at(name, Kind) {
    return element(`${this.prefix}-${name}`, Kind);
  }

  wire() {
    const on = (/** @type {string} */ name, /** @type {() => void} */ work) =>
      this.at(name, HTMLButtonElement).addEventListener("click", work);
    this.temperature.addEventListener("input", () => this.showTemperature());
    this.temperature.addEventListener("change", () => this.encode());
    this.seed.addEventListener("change", () => this.encode());
    on("greedy", () => this.draw(0));
    on("sample", () => {
      const isNew = this.seed.validity.valid && this.seed.value !== "";
      this.seed.value = String(isNew && Number(this.temperature.value) > 0 ? Number(this.seed.value) + 1 : Number(this.seed.value) || 0);
      this.draw(Number(this.temperature.value) || 1);
    });
    on("link", () => this.copyLink());
    on("save", () => this.save());
    on("load", () => this.app.pickFile(".daps"));
  }

  showTemperature() {
    this.at("heat", HTMLOutputElement).value = Number(this.temperature.value).toFixed(1).replace(".0", "");
  }

  /** @param {number} temperature */
  draw(temperature) {
    this.temperature.value = String(temperature);
    this.showTemperature();
    this.encode();
  }

  get modelName() {
    return /** @type {Model} */ (this.model).name;
  }

  /** @param {string} call @param {object} message */
  ask(call, message = {}) {
    return this.app.ask(call, { model: this.modelName, ...message });
  }

  /** Tell the worker what is encoded. @param {import("./daps.js").Values} values */
  give(values) {
    this.ask("input", { values }).catch(() => {}); // what is asked for next says why
  }

  /** Rows and columns of the grid that is shown. */
  get size() {
    const model = /** @type {Model} */ (this.model);
    const side = Math.sqrt(model.numTokens);
    if (this.codes && this.codes.length > model.numTokens) return [this.codes.length / model.numTokens, model.numTokens];
    return model.modality === "image" && Number.isInteger(side) ? [side, side] : [1, model.numTokens];
  }

  showGrid() {
    for (const name of ["link", "save"]) this.at(name, HTMLButtonElement).disabled = !this.codes;
    const [rows, columns] = this.size;
    this.grid.canvas.parentElement?.style.setProperty("--rows", String(rows));
    this.grid.show({ codes: this.codes, rows, columns, logProbs: this.logProbs, changed: this.changed });
  }

  showFacts() {
    const facts = this.codes ? this.view.facts() : [];
    this.at("facts", HTMLElement).replaceChildren(
      ...facts.map(([label, value, note]) =>
        make("div", {}, make("dt", {}, label), make("dd", {}, value, ...(note ? [make("small", {}, note)] : []))),
      ),
    );
  }

  /** Forget the codes, because something else is opened. @param {Model} model */
  begin(model) {
    this.app.forgive();
    this.clear();
    this.model = model;
    this.grid.selected = -1;
    this.inspect(null);
    this.showGrid();
    this.showFacts();
  }

  /** Encode the input anew; while that runs, only the last wish is kept. */
  async encode() {
    this.app.forgive();
    if (!this.model || !this.view.input()) {
      if (this.codes) this.app.error("The original is not here, only its codes: open it to draw other samples.");
      return;
    }
    if (!this.seed.validity.valid || this.seed.value === "") {
      this.app.error("The seed must be an integer from 0 to 9,007,199,254,740,991.");
      return;
    }
    this.again = true;
    if (this.isEncoding) return;
    this.isEncoding = true;
    const turn = this.turn;
    while (this.again && turn === this.turn) {
      this.again = false;
      const message = { temperature: Number(this.temperature.value), seed: Number(this.seed.value) };
      const found = await this.app.work("Encoding", this.ask("encode", message));
      if (turn !== this.turn) return; // something else was opened, which has begun anew
      if (!found) break;
      this.codes = found.codes;
      this.given = found.codes.slice();
      this.logProbs = found.logProbs;
      this.passes = found.passes;
      this.encodeTime = found.milliseconds;
      this.changed = new Set();
      this.grid.selected = -1;
      this.inspect(null);
      this.showGrid();
      if (!this.again) await this.decode();
    }
    if (turn === this.turn) this.isEncoding = false;
  }

  /** @returns {Promise<boolean>} whether the codes that it began with are still shown */
  async decode() {
    const turn = this.turn;
    const codes = this.codes;
    const found = await this.app.work("Decoding", this.ask("decode", { codes }));
    if (!found || turn !== this.turn || codes !== this.codes) return false;
    this.decodeTime = found.milliseconds;
    this.view.decoded(found.values);
    this.showFacts();
    this.app.say(this.view.facts().map(([label, value]) => `${label}: ${value}`).join(", "));
    return true;
  }

  /**
   * Show codes that came without an original. q then reads what they decode to.
   *
   * @param {Model} model @param {Int32Array} codes
   */
  async open(model, codes) {
    this.begin(model);
    this.codes = codes;
    this.given = codes.slice();
    this.showGrid();
    if (!(await this.decode())) return;
    await this.score();
  }

  /** Surprisal of the codes as they are now. */
  async score() {
    const turn = this.turn;
    const codes = this.codes;
    const scores = await this.app.work("Asking q", this.ask("score", { codes }));
    if (!scores || turn !== this.turn || codes !== this.codes) return;
    this.logProbs = scores.logProbs;
    const bits = this.inspector.querySelector(".chosen span");
    if (bits && this.grid.selected >= 0) bits.textContent = `${bitsOf(scores.logProbs[this.grid.selected]).toFixed(1)} bits`;
    this.showGrid();
    this.showFacts();
  }

  get bits() {
    return this.logProbs ? this.logProbs.reduce((sum, logProb) => sum + bitsOf(logProb), 0) : null;
  }

  get bytes() {
    const model = /** @type {Model} */ (this.model);
    return Math.ceil(((this.codes?.length ?? 0) * bitsPerCode(model.vocabSize)) / 8);
  }

  /** @param {number} position */
  async select(position) {
    const turn = this.turn;
    const codes = /** @type {Int32Array} */ (this.codes);
    this.app.forgive();
    this.view.hover(position);
    this.inspect({ position, alternatives: null, effects: null });
    const isCurrent = () => turn === this.turn && codes === this.codes && this.grid.selected === position;
    const alternatives = await this.app.work("Asking q", this.ask("alternatives", { codes, position }));
    if (!alternatives || !isCurrent()) return;
    this.inspect({ position, alternatives, effects: null });
    const choices = alternatives.map((/** @type {Alternative} */ one) => one.code);
    const effects = await this.app.work("Decoding the alternatives", this.ask("effects", { codes, position, choices }));
    if (!effects || !isCurrent()) return;
    this.inspect({ position, alternatives, effects });
  }

  /** @param {number} position @param {number} code */
  async change(position, code) {
    const codes = /** @type {Int32Array} */ (this.codes).slice();
    if (codes[position] === code) return;
    codes[position] = code;
    this.codes = codes;
    if (code === this.given[position]) this.changed.delete(position);
    else this.changed.add(position);
    this.mark(position);
    this.showGrid();
    this.app.say(`code ${code}`);
    if (await this.decode()) await this.score();
  }

  async undo() {
    this.codes = this.given.slice();
    this.changed = new Set();
    this.grid.selected = -1;
    this.inspect(null);
    this.showGrid();
    if (await this.decode()) await this.score();
  }

  /** Show which alternative is chosen now. @param {number} position */
  mark(position) {
    for (const button of this.inspector.querySelectorAll("button[data-code]")) {
      button.setAttribute("aria-pressed", String(button.getAttribute("data-code") === String(this.codes?.[position])));
    }
    const [name, field] = [this.inspector.querySelector(".chosen b"), this.inspector.querySelector("input")];
    if (name) name.textContent = `Code ${this.codes?.[position]}`;
    if (field) field.value = String(this.codes?.[position]);
    const undo = this.inspector.querySelector(".undo");
    if (undo instanceof HTMLButtonElement) undo.hidden = !this.changed.size;
  }

  /**
   * @param {{position: number, alternatives: Alternative[] | null, effects: Effects | null} | null} what nothing, a code
   *   whose alternatives are still asked for, or all that is known
   */
  inspect(what) {
    const explained = this.view.explain(what?.effects ?? null, what?.position ?? -1);
    if (!what) {
      this.inspector.replaceChildren(
        make("p", { class: "quiet" }, "Click a code in the grid. You see what else the encoder thought possible there, how probable each is, ",
          "and what depends on it. With the keyboard: arrow keys and Enter."),
      );
      return;
    }
    const { position, alternatives, effects } = what;
    const [, columns] = this.size;
    const code = this.codes?.[position];
    const bits = this.logProbs ? `${bitsOf(this.logProbs[position]).toFixed(1)} bits` : "";
    const place = `row ${Math.floor(position / columns) + 1}, column ${(position % columns) + 1}`;
    const head = make("p", { class: "chosen" }, make("b", {}, `Code ${code}`), ` ${place}`, make("span", {}, bits));
    const steps = make("div", { class: "row steps touch", role: "group", "aria-label": "Neighbouring codes" });
    for (const [sign, name, by] of /** @type {[string, string, number][]} */ ([["←", "left", -1], ["↑", "above", -columns], ["↓", "below", columns], ["→", "right", 1]])) {
      const step = make("button", { class: "button", "aria-label": `The code ${name}` }, sign);
      step.addEventListener("click", () => this.grid.choose(position + by));
      if (this.codes && position + by >= 0 && position + by < this.codes.length) steps.append(step);
    }
    const list = make("div", { class: "alternatives", role: "group", "aria-label": "Codes by probability" });
    if (!alternatives) for (let i = 0; i < 12; i++) list.append(make("span", { class: "waiting" }));
    alternatives?.forEach(({ code: choice, logProb }, i) => {
      const probability = Math.exp(logProb);
      const canvas = document.createElement("canvas");
      canvas.setAttribute("aria-hidden", "true");
      const meter = make("i", { class: "meter", "aria-hidden": "true" });
      meter.style.setProperty("--share", String(Math.min(1, probability)));
      const button = make("button", { "data-code": String(choice), "aria-pressed": String(choice === code) },
        canvas, make("b", {}, String(choice)), make("span", {}, percent(probability)), meter);
      button.addEventListener("click", () => this.change(position, choice));
      if (effects) this.view.thumbnail(effects, i + 1, canvas);
      list.append(button);
    });
    const last = /** @type {Model} */ (this.model).vocabSize - 1;
    const field = /** @type {HTMLInputElement} */ (
      make("input", { type: "number", min: "0", max: String(last), step: "1", inputmode: "numeric", required: "" })
    );
    field.value = String(code);
    const form = make("form", { class: "row" }, make("label", {}, `Any code, 0 to ${number(last)} `, field), make("button", { class: "button" }, "Set"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.change(position, Number(field.value));
    });
    const undo = make("button", { class: "button undo", type: "button" }, "Undo all changes");
    undo.hidden = !this.changed.size;
    undo.addEventListener("click", () => this.undo());
    form.append(undo);
    this.inspector.replaceChildren(head, steps, list, make("p", { class: "quiet" }, explained || "…"), form);
  }

  get linkText() {
    const model = /** @type {Model} */ (this.model);
    const codes = /** @type {Int32Array} */ (this.codes);
    return writeLink({ model: model.name, ...model, codes, frames: this.view.layout().frames });
  }

  async copyLink() {
    const text = this.linkText;
    history.replaceState(null, "", `#${text}`);
    const kept = this.at("kept", HTMLElement);
    const size = `${number(text.length)} characters`;
    try {
      await navigator.clipboard.writeText(location.href);
      kept.textContent = `Copied. The link holds everything in ${size}; it opens on any machine by decoding alone.`;
    } catch {
      kept.textContent = `The link is in the address bar now: ${size}, which hold everything.`;
    }
    this.app.say(kept.textContent);
  }

  save() {
    if (!this.codes) return;
    const model = /** @type {Model} */ (this.model);
    const { shape, layout } = this.view.layout();
    const header = { model: model.name, weights_sha256: model.weightsSha256, vocab_size: model.vocabSize, shape, layout };
    this.app.download(`${this.view.name}.daps`, writeDaps(header, this.codes), "application/octet-stream");
  }
}
