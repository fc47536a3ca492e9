/** The tab of drawings: pictures whose codes a generator draws. */
import { element, make } from "./bench.js";
import { toImageData } from "./pictures.js";

/**
 * @typedef {import("./page.js").App} App
 * @typedef {import("./worker.js").GeneratorRecord} GeneratorRecord
 */

const COUNT = 24; // pictures at once

export class Drawings {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    /** @type {GeneratorRecord | null} */
    this.generator = app.site.generators[0] ?? null;
    this.label = "";
    this.turn = 0;
    this.temperature = element("d-temperature", HTMLInputElement);
    this.guidance = element("d-guidance", HTMLInputElement);
    this.seed = element("d-seed", HTMLInputElement);
    this.gallery = element("d-gallery", HTMLElement);
    this.hasBegun = false;
    this.wire();
    if (this.generator) this.choose(this.generator);
  }

  wire() {
    const select = element("d-model", HTMLSelectElement);
    for (const { name } of this.app.site.generators) select.append(make("option", { value: name }, name.replace(/^daps-/, "")));
    element("d-models", HTMLElement).hidden = this.app.site.generators.length < 2;
    select.addEventListener("change", () => {
      this.choose(this.app.site.generators[select.selectedIndex]);
      this.draw();
    });
    for (const field of [this.temperature, this.guidance]) field.addEventListener("input", () => this.showOptions());
    for (const field of [this.temperature, this.guidance, this.seed]) field.addEventListener("change", () => this.draw());
    element("d-others", HTMLButtonElement).addEventListener("click", () => {
      this.seed.value = String((Number(this.seed.value) || 0) + 1);
      this.draw();
    });
    for (let i = 0; i < COUNT; i++) this.gallery.append(make("button", { disabled: "", "aria-label": "Not drawn yet" }, document.createElement("canvas")));
  }

  showOptions() {
    element("d-heat", HTMLOutputElement).value = this.temperature.value;
    element("d-far", HTMLOutputElement).value = this.guidance.value;
  }

  /** @param {GeneratorRecord} generator */
  choose(generator) {
    this.generator = generator;
    this.temperature.value = String(generator.temperature);
    this.guidance.value = String(generator.guidance);
    this.showOptions();
    this.label = generator.labels.at(-1) ?? "";
    const group = element("d-labels", HTMLElement);
    group.replaceChildren(
      ...generator.labels.map((label) => {
        const button = make("button", { class: "button", role: "radio" }, label);
        button.addEventListener("click", () => this.pick(label));
        return button;
      }),
    );
    group.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const count = generator.labels.length;
      this.pick(generator.labels[(generator.labels.indexOf(this.label) + step + count) % count]);
    };
    this.showLabel(false);
  }

  /** @param {string} label */
  pick(label) {
    this.label = label;
    this.showLabel(true);
    this.draw();
  }

  /** @param {boolean} hasFocus */
  showLabel(hasFocus) {
    for (const button of element("d-labels", HTMLElement).querySelectorAll("button")) {
      const isChosen = button.textContent === this.label;
      button.setAttribute("aria-checked", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
      if (isChosen && hasFocus) button.focus();
    }
  }

  /** When the tab is first shown. */
  begin() {
    if (!this.hasBegun) this.draw();
    this.hasBegun = true;
  }

  async draw() {
    const { generator, label } = this;
    const model = this.app.site.models.find((one) => one.name === generator?.tokenizer);
    if (!generator || !model) return;
    if (!this.seed.validity.valid) return this.app.error("The seed must be an integer from 0 to 9,007,199,254,740,991.");
    this.app.forgive();
    const turn = ++this.turn;
    const options = {
      label: generator.labels.length ? label : null,
      count: COUNT,
      seed: Number(this.seed.value),
      guidance: Number(this.guidance.value),
      temperature: Number(this.temperature.value),
    };
    const asked = this.app.ask("generate", { model: model.name, generator: generator.name, options });
    const found = await this.app.work("Drawing", asked);
    if (!found || turn !== this.turn) return;
    const [height, width, channels] = model.inputShape;
    const size = height * width * channels;
    [...this.gallery.querySelectorAll("button")].forEach((button, i) => {
      const canvas = /** @type {HTMLCanvasElement} */ (button.firstChild);
      [canvas.width, canvas.height] = [width, height];
      canvas.getContext("2d")?.putImageData(toImageData(found.values.subarray(i * size, (i + 1) * size), model.inputShape), 0, 0);
      button.disabled = false;
      button.setAttribute("aria-label", `${label}, number ${i + 1}: see its codes`);
      const codes = found.codes.slice(i * model.numTokens, (i + 1) * model.numTokens);
      button.onclick = () => this.app.pictures.openCodes(model, codes, null, `${label}-${i + 1}`);
    });
    this.app.say(`${COUNT} pictures of ${label}`);
  }
}
