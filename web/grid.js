/**
 * A grid of codes on a canvas, coloured by surprisal. Pointer and keyboard choose a code.
 *
 * @typedef {{codes: Int32Array | null, rows: number, columns: number, logProbs: Float32Array | null,
 *   changed: Set<number>}} Shown
 */

const MOST_BITS = 10; // where the scale of colours ends; it begins steeply, because most codes are nearly certain

/** Surprisal in bits. @param {number} logProb in nats */
export const bitsOf = (logProb) => Math.max(0, -logProb / Math.LN2);

export class CodeGrid {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{choose: (position: number) => void, hover: (position: number) => void, say: (text: string) => void}} hooks
   */
  constructor(canvas, hooks) {
    this.canvas = canvas;
    this.hooks = hooks;
    /** @type {Shown} */
    this.shown = { codes: null, rows: 1, columns: 1, logProbs: null, changed: new Set() };
    this.cursor = 0;
    this.selected = -1;
    this.hovered = -1;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.addEventListener("pointermove", (event) => this.hover(this.at(event)));
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("click", (event) => this.choose(this.at(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** @param {Shown} shown */
  show(shown) {
    const { rows, columns } = shown;
    if (rows !== this.shown.rows || columns !== this.shown.columns) [this.cursor, this.selected] = [0, -1];
    this.shown = shown;
    const count = (rows * columns).toLocaleString("en");
    const ways = shown.codes ? "Arrow keys move, Enter shows what else could be there." : "Empty until something is encoded.";
    this.canvas.setAttribute("aria-label", `${count} codes in ${rows} rows of ${columns}. ${ways}`);
    this.draw();
  }

  /** The position under the pointer, −1 for none. @param {MouseEvent} event */
  at(event) {
    const { rows, columns } = this.shown;
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : -1;
  }

  /** @param {number} position */
  hover(position) {
    if (position === this.hovered) return;
    this.hovered = position;
    this.canvas.title = position >= 0 && this.shown.codes ? this.describe(position) : "";
    this.hooks.hover(position);
    this.draw();
  }

  /** @param {number} position */
  choose(position) {
    if (position < 0 || !this.shown.codes) return;
    this.cursor = this.selected = position;
    this.draw();
    this.hooks.choose(position);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { rows, columns, codes } = this.shown;
    if (!codes || event.ctrlKey || event.metaKey || event.altKey) return;
    let [row, column] = [Math.floor(this.cursor / columns), this.cursor % columns];
    if (event.key === "ArrowLeft") column = Math.max(0, column - 1);
    else if (event.key === "ArrowRight") column = Math.min(columns - 1, column + 1);
    else if (event.key === "ArrowUp") row = Math.max(0, row - 1);
    else if (event.key === "ArrowDown") row = Math.min(rows - 1, row + 1);
    else if (event.key === "Home") column = 0;
    else if (event.key === "End") column = columns - 1;
    else if (event.key === "Enter" || event.key === " ") this.choose(this.cursor);
    else return;
    event.preventDefault();
    if (event.key === "Enter" || event.key === " ") return;
    this.cursor = row * columns + column;
    this.hooks.hover(this.cursor);
    this.hooks.say(this.describe(this.cursor));
    this.draw();
  }

  /** @param {number} position */
  describe(position) {
    const { codes, columns, logProbs, changed } = this.shown;
    const place = `row ${Math.floor(position / columns) + 1}, column ${(position % columns) + 1}`;
    const bits = logProbs ? `, ${bitsOf(logProbs[position]).toFixed(1)} bits` : "";
    return `${place}: code ${codes?.[position]}${bits}${changed.has(position) ? ", changed" : ""}`;
  }

  draw() {
    const { canvas } = this;
    const { codes, rows, columns, logProbs, changed } = this.shown;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * density), Math.round(canvas.clientHeight * density)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const style = getComputedStyle(canvas);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
    const ramp = rampOf([0, 1, 2, 3, 4].map((i) => colour(`heat-${i}`)));
    canvas.parentElement?.classList.add("drawn");
    pen.clearRect(0, 0, width, height);
    const x = (/** @type {number} */ column) => Math.round((column * width) / columns);
    const y = (/** @type {number} */ row) => Math.round((row * height) / rows);
    const gap = Math.min(width / columns, height / rows) >= 7 * density ? Math.max(1, Math.round(density)) : 0;
    const withNumbers = codes && width / columns >= 30 * density && height / rows >= 22 * density;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.font = `${12 * density}px ${style.fontFamily}`;
    for (let i = 0; i < rows * columns; i++) {
      const [row, column] = [Math.floor(i / columns), i % columns];
      const share = codes && logProbs ? Math.min(1, Math.sqrt(bitsOf(logProbs[i]) / MOST_BITS)) : -1;
      const [red, green, blue] = ramp(Math.max(0, share));
      pen.fillStyle = share < 0 ? colour("empty") : `rgb(${red} ${green} ${blue})`;
      pen.fillRect(x(column), y(row), x(column + 1) - x(column) - gap, y(row + 1) - y(row) - gap);
      if (!withNumbers) continue;
      pen.fillStyle = share < 0 ? colour("text") : red * 0.3 + green * 0.59 + blue * 0.11 > 140 ? "#1b1b1d" : "#ffffff";
      pen.fillText(String(codes[i]), (x(column) + x(column + 1) - gap) / 2, (y(row) + y(row + 1) - gap) / 2);
    }
    const outline = (/** @type {number} */ i, /** @type {string} */ stroke, /** @type {number} */ thick) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      const [left, top] = [x(column), y(row)];
      pen.lineWidth = thick * density;
      pen.strokeStyle = stroke;
      pen.strokeRect(left - gap / 2, top - gap / 2, x(column + 1) - left, y(row + 1) - top);
    };
    for (const i of changed) outline(i, colour("accent"), 1.5);
    if (!codes) return;
    if (this.hovered >= 0) outline(this.hovered, colour("text"), 1.5);
    if (document.activeElement === canvas) outline(this.cursor, colour("text"), 2);
    if (this.selected >= 0) {
      outline(this.selected, colour("paper"), 4);
      outline(this.selected, colour("accent"), 2.5);
    }
  }
}

/** Colours between those of a list. @param {string[]} colours as #rrggbb @returns {(share: number) => number[]} */
function rampOf(colours) {
  const stops = colours.map((text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)));
  return (share) => {
    const place = share * (stops.length - 1);
    const before = Math.min(Math.floor(place), stops.length - 2);
    return stops[before].map((value, c) => Math.round(value + (stops[before + 1][c] - value) * (place - before)));
  };
}
