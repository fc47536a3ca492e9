/** The tab of motion: a clip as a stick figure, its codes, and what they decode to. */
import { Bench, element, make, number, seconds } from "./bench.js";
import { DapsError } from "./daps.js";
import { about, anchorsOf, cutWindows, features, followAnchors, holdFeet, joinWindows, kinematics, plantFeet, product, readClip, startOf, times, toPoses, writeClip } from "./motion.js";

/**
 * @typedef {import("./page.js").App} App
 * @typedef {import("./worker.js").Model} Model
 * @typedef {import("./worker.js").Effects} Effects
 * @typedef {import("./motion.js").Vector} Vector
 */

const FROM_AHEAD = (-55 * Math.PI) / 180; // the camera's direction, against where the clip heads
const FROM_ABOVE = (12 * Math.PI) / 180;
const EYE_LEVEL = 0.8; // m above the ground, shown in the middle
const SHOWN_HEIGHT = 2.3; // m

export class Clips {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.name = "clip";
    this.models = app.site.models.filter((model) => model.robot);
    /** @type {Model | null} */
    this.model = null;
    /** @type {Vector[] | null} */
    this.poses = null;
    /** @type {Vector[] | null} */
    this.decodedPoses = null;
    /** @type {Float32Array | null} */
    this.windows = null;
    this.frames = 0;
    this.fps = 30;
    /** @type {number[]} */
    this.start = [0, 0, 0];
    /** @type {number[][] | null} */
    this.anchors = null;
    this.isPlaying = false;
    this.hasBegun = false;
    this.slider = element("c-frame", HTMLInputElement);
    this.canvas = element("c-figure", HTMLCanvasElement);
    this.bench = new Bench(app, "c", this);
    this.wire();
    if (this.models.length) this.choose(this.models[0]);
  }

  wire() {
    const select = element("c-model", HTMLSelectElement);
    for (const model of this.models) {
      select.append(make("option", { value: model.name }, `${model.name.replace(/^daps-/, "")}: Unitree ${model.robot?.name}`));
    }
    element("c-models", HTMLElement).hidden = this.models.length < 2;
    select.addEventListener("change", () => {
      this.choose(this.models[select.selectedIndex]);
      this.example();
    });
    element("c-example", HTMLButtonElement).addEventListener("click", () => this.example());
    element("c-open", HTMLButtonElement).addEventListener("click", () => this.app.pickFile(".csv"));
    element("c-csv", HTMLButtonElement).addEventListener("click", () => {
      if (!this.decodedPoses) return;
      this.app.download(`${this.name}.csv`, writeClip(this.decodedPoses), "text/csv");
    });
    element("c-play", HTMLButtonElement).addEventListener("click", () => this.play(!this.isPlaying));
    this.slider.addEventListener("input", () => {
      this.play(false);
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** The robot of the model that is open. */
  get robot() {
    return /** @type {import("./motion.js").Robot} */ (this.model?.robot);
  }

  /** Paths of clips of the robot. */
  get examples() {
    return this.app.site.examples[this.robot.name.toLowerCase()] ?? [];
  }

  /** @param {Model} model */
  choose(model) {
    this.play(false);
    [this.poses, this.decodedPoses, this.windows] = [null, null, null];
    this.model = model;
    this.bench.begin(model);
    element("c-csv", HTMLButtonElement).disabled = true;
    element("c-model", HTMLSelectElement).value = model.name;
    element("c-example", HTMLElement).hidden = !this.examples.length;
    const [length, width] = model.inputShape;
    element("c-title", HTMLElement).textContent = `${length} frames of motion as ${number(model.numTokens)} integers`;
    element("c-about", HTMLElement).textContent =
      `A clip is cut into windows of ${length} frames at ${this.fps} a second, each of ${width} numbers. Clips are CSV: ` +
      `${this.robot.columns.length} numbers a row (Unitree ${this.robot.name}).`;
    this.draw();
  }

  /** When the tab is first shown. */
  async begin() {
    if (this.hasBegun) return;
    await this.example();
  }

  async example() {
    const path = this.examples[0];
    if (!path) return;
    const response = await fetch(path).catch(() => null);
    if (!response?.ok) return this.app.error("The example cannot be downloaded: no network.");
    const name = path.replace(/^.*\/|\.\w+$/g, "");
    await this.openText(await response.text(), name, name).catch((error) => this.app.refuse(error));
  }

  /** @param {File} file */
  async openFile(file) {
    await this.openText(await file.text(), file.name.replace(/\.\w+$/, ""), file.name);
  }

  /** @param {string} text @param {string} name @param {string} source what errors call it */
  async openText(text, name, source) {
    if (!this.model) throw new DapsError(`${source}: this page has no model of motion`);
    const columns = text.split("\n", 1)[0].split(",").length; // which tell the robot, where the page has one of so many
    const fits = (/** @type {Model} */ one) => one.robot?.columns.length === columns;
    const model = fits(this.model) ? this.model : (this.models.find(fits) ?? this.model);
    const poses = readClip(text, /** @type {import("./motion.js").Robot} */ (model.robot), source);
    this.app.forgetLink();
    if (model !== this.model) this.choose(model);
    this.reset(name, poses.length, startOf(poses[0]));
    this.poses = poses;
    this.anchors = anchorsOf(poses, model.inputShape[0]);
    this.windows = cutWindows(features(poses, this.robot, this.fps), model.inputShape[0]);
    this.draw();
    this.bench.give(this.windows);
    await this.bench.encode();
  }

  /** @param {string} name @param {number} frames @param {number[]} start */
  reset(name, frames, start) {
    element("c-csv", HTMLButtonElement).disabled = true;
    this.hasBegun = true;
    this.app.show("clips");
    this.play(false);
    [this.poses, this.decodedPoses, this.windows] = [null, null, null];
    [this.name, this.frames, this.start, this.anchors] = [name, frames, start, null];
    this.slider.max = String(frames - 1);
    this.slider.value = "0";
    this.bench.begin(/** @type {Model} */ (this.model));
  }

  /**
   * @param {Model} model @param {Int32Array} codes @param {import("./daps.js").Header} header @param {string} name
   */
  async openCodes(model, codes, header, name) {
    const layout = header.layout;
    const windows = codes.length / model.numTokens;
    if (layout && "rows" in layout) throw new DapsError(`${name}.daps: its layout is of tiles, not of a clip`);
    if (layout && (layout.overlap !== 0 || Math.abs(layout.fps - this.fps) > 1e-6)) {
      throw new DapsError(`${name}.daps: windows overlap or are not at ${this.fps} frames a second; daps-tokenize decode reads it`);
    }
    if (layout ? layout.windows !== windows : windows !== 1) throw new DapsError(`${name}.daps: holds several clips; this page opens one`);
    await this.openWindows(model, codes, layout ? layout.frames : model.inputShape[0], name, layout?.starts[0], layout?.anchors?.[0]);
  }

  /** @param {Model} model @param {Int32Array} codes @param {number} frames */
  async openLink(model, codes, frames) {
    await this.openWindows(model, codes, frames, "clip");
  }

  /** @param {Model} model @param {Int32Array} codes @param {number} frames @param {string} name @param {number[]} [start] @param {number[][]} [anchors] */
  async openWindows(model, codes, frames, name, start = [0, 0, 0], anchors) {
    const windows = codes.length / model.numTokens;
    const length = model.inputShape[0];
    if (Math.max(1, Math.ceil(frames / length)) !== windows || windows > 57) {
      throw new DapsError(`${name}: ${windows} windows of ${length} frames are no clip of ${frames} frames, or more than a minute`);
    }
    if (model !== this.model) this.choose(model);
    this.reset(name, frames, start);
    this.anchors = anchors ?? null;
    await this.bench.open(model, codes);
  }

  // -------------------------------------------------------------------------------------------------- what a bench shows

  input() {
    return this.windows;
  }

  /** @param {import("./daps.js").Values} values */
  decoded(values) {
    const [length, width] = /** @type {Model} */ (this.model).inputShape;
    const frames = joinWindows(/** @type {Float32Array} */ (values), length, width, this.frames);
    const isFirst = !this.decodedPoses;
    const planted = plantFeet(toPoses(frames, this.robot, this.fps, this.start), this.robot, this.fps);
    const { anchors } = this;
    const bent = anchors ? followAnchors(planted, anchors, length, this.robot, this.fps) : planted;
    this.decodedPoses = holdFeet(bent, this.robot, this.fps);
    if (!this.windows && isFirst) this.bench.give(values);
    element("c-csv", HTMLButtonElement).disabled = false;
    this.draw();
    if (isFirst && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play(true);
  }

  /** @returns {import("./bench.js").Fact[]} */
  facts() {
    const { bench } = this;
    const model = /** @type {Model} */ (this.model);
    const windows = (bench.codes?.length ?? 0) / model.numTokens;
    const bits = Math.ceil(Math.log2(model.vocabSize));
    /** @type {import("./bench.js").Fact[]} */
    const facts = [
      ["Clip", `${(this.frames / this.fps).toFixed(1)} s`, `${number(this.frames)} frames, ${number(windows)} windows`],
      ["Codes", `${number(bench.bytes)} bytes`, `${number(windows * model.numTokens)} × ${bits} bits`],
    ];
    const error = this.poses && this.decodedPoses ? jointError(this.poses, this.decodedPoses) : null;
    if (error !== null) facts.push(["Joint angles", `${error.toFixed(1)}°`, "mean error against the original"]);
    if (bench.bits !== null) facts.push(["Surprisal", `${number(bench.bits)} bits`, "−log₂ q of all codes"]);
    if (bench.encodeTime && this.poses) {
      facts.push(["Encoded in", seconds(bench.encodeTime), bench.passes === 1 ? "1 pass" : `at most ${Number(bench.passes.toFixed(1))} passes`]);
    }
    if (bench.decodeTime) facts.push(["Decoded in", seconds(bench.decodeTime)]);
    return facts;
  }

  layout() {
    const model = /** @type {Model} */ (this.model);
    const windows = (this.bench.codes?.length ?? 0) / model.numTokens;
    const starts = [this.start.map((value) => Math.round(value * 1e6) / 1e6)];
    const layout = { frames: this.frames, windows, overlap: 0, fps: this.fps, starts, ...(this.anchors && { anchors: [this.anchors] }) };
    return { shape: [1, windows, model.numTokens], layout, frames: this.frames };
  }

  /** @param {number} position */
  hover(position) {
    const model = /** @type {Model} */ (this.model);
    if (position < 0 || !this.bench.codes || this.isPlaying) return;
    const window = Math.floor(position / model.numTokens);
    const frame = Math.min(this.frames - 1, window * model.inputShape[0] + Math.floor(model.inputShape[0] / 2));
    if (Math.floor(Number(this.slider.value) / model.inputShape[0]) !== window) {
      this.slider.value = String(frame);
      this.draw();
    }
  }

  /** @param {Effects | null} effects @param {number} position */
  explain(effects, position) {
    if (!effects) return "";
    const model = /** @type {Model} */ (this.model);
    const [items, length, width] = effects.shape;
    const joints = this.robot.links.length;
    const most = new Float64Array(length);
    let [largest, joint] = [0, 0];
    for (let item = 1; item < items; item++) {
      for (let t = 0; t < length; t++) {
        for (let c = 5; c < 5 + joints; c++) {
          const by = Math.abs(effects.values[(item * length + t) * width + c] - effects.values[t * width + c]);
          most[t] = Math.max(most[t], by);
          if (by > largest) [largest, joint] = [by, c - 5];
        }
      }
    }
    const degree = Math.PI / 180;
    const first = most.findIndex((by) => by > degree);
    const last = most.findLastIndex((by) => by > degree);
    const offset = Math.floor(position / model.numTokens) * length;
    const name = this.robot.columns[7 + joint];
    if (first < 0) return `The codes listed here move every joint by less than 1°, ${name} most.`;
    return `The codes listed here move ${name} most, by up to ${number(largest / degree)}°; frames ${offset + first + 1} to ${offset + last + 1} move by more than 1°.`;
  }

  /** The pose where the choice differs most. @param {Effects} effects @param {number} index @param {HTMLCanvasElement} canvas */
  thumbnail(effects, index, canvas) {
    const [, length, width] = effects.shape;
    const of = (/** @type {number} */ item) =>
      toPoses(Array.from({ length }, (_, t) => effects.values.subarray((item * length + t) * width, (item * length + t + 1) * width)), this.robot, this.fps);
    const frame = Math.floor(length / 2);
    [canvas.width, canvas.height] = [96, 96];
    const [before, after] = [of(0)[frame], of(index)[frame]];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    drawScene(pen, canvas, [before, after], before, startOf(before)[2], this.robot, { ground: false });
  }

  // -------------------------------------------------------------------------------------------------------- the figure

  /** @param {boolean} wanted */
  play(wanted) {
    const button = element("c-play", HTMLButtonElement);
    if (wanted && !this.isPlaying && this.frames) {
      this.isPlaying = true;
      const from = Number(this.slider.value) >= this.frames - 1 ? 0 : Number(this.slider.value);
      /** @type {number | null} */
      let began = null;
      const step = (/** @type {number} */ now) => {
        if (!this.isPlaying) return;
        began ??= now - (from * 1000) / this.fps;
        const frame = Math.floor(((now - began) * this.fps) / 1000) % this.frames;
        if (String(frame) !== this.slider.value) {
          this.slider.value = String(frame);
          this.draw();
        }
        requestAnimationFrame(step);
      };
      requestAnimationFrame(step);
    }
    if (!wanted) this.isPlaying = false;
    button.textContent = this.isPlaying ? "Pause" : "Play";
    button.setAttribute("aria-label", button.textContent);
  }

  draw() {
    const { canvas } = this;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * density, canvas.clientHeight * density].map(Math.round);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.clearRect(0, 0, width, height);
    const frame = Number(this.slider.value);
    element("c-time", HTMLOutputElement).value = `${(frame / this.fps).toFixed(1)} s`;
    const figures = [this.poses?.[frame], this.decodedPoses?.[frame]];
    const seen = figures[0] ?? figures[1];
    const first = this.poses?.[0] ?? this.decodedPoses?.[0];
    if (!seen || !first) return;
    drawScene(pen, canvas, figures, seen, startOf(first)[2], this.robot, { ground: true });
  }
}

/**
 * Figures on the ground, seen by a camera that follows one; the first is grey, the second in colours.
 *
 * @param {CanvasRenderingContext2D} pen @param {HTMLCanvasElement} canvas @param {(Vector | undefined)[]} figures
 * @param {Vector} followed @param {number} heading @param {import("./motion.js").Robot} robot
 * @param {{ground: boolean}} options
 */
function drawScene(pen, canvas, figures, followed, heading, robot, { ground }) {
  const style = getComputedStyle(canvas.isConnected ? canvas : document.body);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  const camera = product(about(0, FROM_ABOVE), about(2, -heading - FROM_AHEAD - Math.PI / 2));
  const scale = canvas.height / SHOWN_HEIGHT;
  const toScreen = (/** @type {Vector} */ point) => {
    const [x, y, z] = times(camera, [point[0] - followed[0], point[1] - followed[1], point[2] - EYE_LEVEL]);
    return [canvas.width / 2 + x * scale, canvas.height / 2 - z * scale, y];
  };
  const line = (/** @type {Vector} */ a, /** @type {Vector} */ b) => {
    const [from, to] = [toScreen(a), toScreen(b)];
    pen.beginPath();
    pen.moveTo(from[0], from[1]);
    pen.lineTo(to[0], to[1]);
    pen.stroke();
  };
  pen.lineCap = "round";
  if (ground) {
    pen.strokeStyle = colour("line");
    pen.lineWidth = Math.max(1, canvas.height / 480);
    const [x, y] = [Math.round(followed[0]), Math.round(followed[1])];
    for (let i = -4; i <= 4; i++) {
      line([x + i, y - 4, 0], [x + i, y + 4, 0]);
      line([x - 4, y + i, 0], [x + 4, y + i, 0]);
    }
  }
  figures.forEach((pose, number) => {
    if (!pose) return;
    const { positions } = kinematics(pose, robot);
    const place = new Map(robot.sites.map(([name], i) => [name, positions[i]]));
    const of = (/** @type {string} */ name) => /** @type {Vector} */ (place.get(name));
    const paint = (/** @type {string} */ name) =>
      number === 0 ? colour("ghost") : name.startsWith("left") ? colour("left") : name.startsWith("right") ? colour("right") : colour("text");
    const depth = (/** @type {[string, string]} */ [a, b]) => toScreen(of(a))[2] + toScreen(of(b))[2];
    pen.lineWidth = (number === 0 ? 0.05 : 0.045) * scale;
    for (const [a, b] of [...robot.bones].sort((one, other) => depth(other) - depth(one))) {
      pen.strokeStyle = paint(b);
      line(of(a), of(b));
    }
    const [x, y] = toScreen(of("head"));
    pen.fillStyle = paint("head");
    pen.beginPath();
    pen.arc(x, y, 0.085 * scale, 0, 2 * Math.PI);
    pen.fill();
  });
}

/** Mean absolute error of joint angles in degrees. @param {Vector[]} a @param {Vector[]} b */
function jointError(a, b) {
  let [sum, count] = [0, 0];
  a.forEach((pose, t) => {
    for (let c = 7; c < pose.length; c++, count++) sum += Math.abs(pose[c] - b[t][c]);
  });
  return ((sum / count) * 180) / Math.PI;
}
