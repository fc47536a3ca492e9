/**
 * The page: tabs, files, links, progress and messages. Pictures and clips each have a file of their own; networks run in
 * worker.js.
 */
import { element, make, number } from "./bench.js";
import { Clips } from "./clips.js";
import { Drawings } from "./drawings.js";
import { DapsError, readDaps, readLink } from "./daps.js";
import { Pictures } from "./pictures.js";

/** @typedef {import("./worker.js").Site} Site @typedef {import("./worker.js").Model} Model */

const TABS = /** @type {const} */ (["pictures", "clips", "drawings"]);
const LARGEST_FILE = 200e6;
const PATIENCE = 3000; // ms that a first visit waits for the service worker, so that downloads are kept

/** What this browser lacks, in one line; null if nothing. */
function lacking() {
  const found = [];
  if (typeof WebAssembly === "undefined") found.push("WebAssembly");
  if (typeof Worker === "undefined") found.push("workers");
  if (typeof DecompressionStream === "undefined") found.push("DecompressionStream");
  if (typeof createImageBitmap === "undefined") found.push("createImageBitmap");
  if (!found.length) return null;
  return `This browser lacks ${found.join(" and ")}; Chrome or Edge 91, Firefox 114, Safari 16.4 and newer ones have all that is needed.`;
}

export class App {
  /** @param {Site} site */
  constructor(site) {
    this.site = site;
    this.calls = 0;
    /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    /** @type {string[]} what is being done */
    this.labels = [];
    /** @type {{done: number, total: number} | null} */
    this.downloaded = null;
    // A worker that is made of a blob obeys this page's security policy; one from a file would have none of its own.
    const start = new Blob([`import ${JSON.stringify(new URL("worker.js", location.href.split("#")[0]).href)};`]);
    const address = URL.createObjectURL(new Blob([start], { type: "text/javascript" }));
    this.worker = new Worker(address, { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.hear(data));
    this.worker.addEventListener("error", (event) => {
      event.preventDefault();
      const failed = new DapsError("The part of the page that computes could not start; load the page again.");
      for (const { reject } of this.waiting.values()) reject(failed);
      this.waiting.clear();
      this.error(failed.message);
    });
    this.worker.postMessage({ site });
    this.pictures = new Pictures(this);
    this.clips = new Clips(this);
    this.drawings = new Drawings(this);
    this.wire();
  }

  // ------------------------------------------------------------------------------------------------ asking the worker

  /** @param {string} call @param {{model: string} & Record<string, any>} message @returns {Promise<any>} */
  ask(call, message) {
    const id = ++this.calls;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, ...message });
    });
  }

  /** @param {any} data */
  hear(data) {
    if ("download" in data) {
      this.downloaded = data.download;
      this.showStatus();
      return;
    }
    const asked = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if ("error" in data) asked?.reject(new DapsError(data.error));
    else asked?.resolve(data.result);
  }

  /**
   * Say what is being done until it is done; an error becomes a message, and null the result.
   *
   * @template T @param {string} label @param {Promise<T>} promise @returns {Promise<T | null>}
   */
  async work(label, promise) {
    this.labels.push(label);
    this.showStatus();
    try {
      return await promise;
    } catch (error) {
      if (!(error instanceof DapsError)) throw error;
      this.error(error.message);
      return null;
    } finally {
      this.labels.splice(this.labels.indexOf(label), 1);
      this.showStatus();
    }
  }

  showStatus() {
    const bar = element("bar", HTMLElement);
    const share = this.downloaded ? this.downloaded.done / Math.max(1, this.downloaded.total) : 0;
    const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
    const text = this.downloaded
      ? `Downloading once: ${megabytes(this.downloaded.done)} of ${megabytes(this.downloaded.total)} MB`
      : this.labels.length
        ? `${this.labels[0]} …`
        : "";
    element("status", HTMLElement).textContent = text;
    bar.hidden = !text;
    bar.classList.toggle("busy", !this.downloaded);
    bar.style.setProperty("--share", String(share));
    if (this.downloaded) bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    else bar.removeAttribute("aria-valuenow");
    document.body.toggleAttribute("data-busy", Boolean(text));
  }

  /** @param {string} text one line */
  error(text) {
    const box = element("error", HTMLElement);
    const line = box.querySelector("span");
    if (line) line.textContent = text;
    box.hidden = false;
  }

  /** The last error no longer matters. */
  forgive() {
    element("error", HTMLElement).hidden = true;
  }

  /** What a screen reader hears. @param {string} text */
  say(text) {
    element("heard", HTMLElement).textContent = text;
  }

  /** @param {string} name @param {BlobPart} content @param {string} type */
  download(name, content, type) {
    const address = URL.createObjectURL(new Blob([content], { type }));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  // ---------------------------------------------------------------------------------------------------- what comes in

  /** @param {"pictures" | "clips" | "drawings"} name */
  show(name) {
    if (element(name, HTMLElement).hidden) window.scrollTo(0, 0);
    for (const id of TABS) {
      const tab = element(`tab-${id}`, HTMLButtonElement);
      tab.setAttribute("aria-selected", String(id === name));
      tab.tabIndex = id === name ? 0 : -1;
      element(id, HTMLElement).hidden = id !== name;
    }
  }

  /** @param {string} accept */
  pickFile(accept) {
    const field = element("file", HTMLInputElement);
    field.accept = accept;
    field.click();
  }

  /** @param {File} file */
  async openFile(file) {
    this.forgive();
    try {
      if (file.size > LARGEST_FILE) throw new DapsError(`${file.name}: has ${number(file.size / 1e6)} MB; the most is 200 MB`);
      const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
      if (String.fromCharCode(...start) === "DAPS" || /\.daps$/i.test(file.name)) await this.openDaps(file);
      else if (/\.(csv|txt)$/i.test(file.name) || file.type === "text/csv") await this.clips.openFile(file);
      else if (/\.npz$/i.test(file.name)) throw new DapsError(`${file.name}: this page reads clips as CSV; daps-tokenize convert makes one of an NPZ`);
      else await this.pictures.openFile(file);
    } catch (error) {
      this.refuse(error);
    }
  }

  /** @param {unknown} error */
  refuse(error) {
    if (error instanceof DapsError) this.error(error.message);
    else if (error instanceof DOMException) this.error(`The file cannot be read (${error.message}).`);
    else throw error;
  }

  /** @param {File} file */
  async openDaps(file) {
    const { header, codes } = readDaps(new Uint8Array(await file.arrayBuffer()), file.name);
    const model = this.site.models.find((one) => one.name === header.model);
    if (!model) {
      const known = this.site.models.map((one) => one.name).join(", ");
      throw new DapsError(`${file.name}: was made by ${JSON.stringify(header.model.slice(0, 60))}; this page has ${known}`);
    }
    if (header.weights_sha256 && header.weights_sha256 !== model.weightsSha256) {
      throw new DapsError(`${file.name}: was made with other weights of ${model.name} than this page has`);
    }
    if (header.vocab_size !== model.vocabSize || header.shape.at(-1) !== model.numTokens) {
      throw new DapsError(`${file.name}: holds ${header.shape.at(-1)} codes out of ${header.vocab_size}; ${model.name} has ${model.numTokens} out of ${model.vocabSize}`);
    }
    const name = file.name.replace(/\.daps$/i, "");
    if (model.modality === "motion") await this.clips.openCodes(model, codes, header, name);
    else await this.pictures.openCodes(model, codes, header, name);
  }

  async openLink() {
    const link = decodedHash();
    if (!link) return false;
    this.forgive();
    try {
      const { model: name, codes, frames } = readLink(link, this.site.models);
      const model = /** @type {Model} */ (this.site.models.find((one) => one.name === name));
      if (frames === null) await this.pictures.openCodes(model, codes, null, "picture");
      else await this.clips.openLink(model, codes, frames);
      return true;
    } catch (error) {
      this.refuse(error);
      return false;
    }
  }

  /** Something else is opened: the address no longer tells what is shown. */
  forgetLink() {
    if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  }

  // ------------------------------------------------------------------------------------------------------------ wiring

  wire() {
    const tabs = TABS.map((name) => element(`tab-${name}`, HTMLButtonElement));
    tabs[0].addEventListener("click", () => this.show("pictures"));
    tabs[1].addEventListener("click", () => {
      this.show("clips");
      this.clips.begin();
    });
    tabs[2].addEventListener("click", () => {
      this.show("drawings");
      this.drawings.begin();
    });
    tabs[2].hidden = !this.site.generators.length;
    tabs[1].hidden = !this.site.models.some((model) => model.modality === "motion");
    tabs[0].hidden = !this.site.models.some((model) => model.modality === "image");
    for (const tab of tabs) {
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        const shown = tabs.filter((one) => !one.hidden);
        const step = event.key === "ArrowRight" ? 1 : shown.length - 1;
        const other = shown[(shown.indexOf(tab) + step) % shown.length];
        other.focus();
        other.click();
      });
    }
    element("dismiss", HTMLButtonElement).addEventListener("click", () => this.forgive());
    for (const id of ["file", "shot"]) {
      const field = element(id, HTMLInputElement);
      field.addEventListener("change", () => {
        const file = field.files?.[0];
        field.value = "";
        if (file) this.openFile(file);
      });
    }
    this.wireDrop();
    window.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (file) this.openFile(file);
    });
    window.addEventListener("hashchange", () => this.openLink());
  }

  wireDrop() {
    const veil = element("drop", HTMLElement);
    const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
    window.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    window.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true;
    });
    window.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!hasFiles(event)) return;
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) this.openFile(file);
    });
  }
}

function decodedHash() {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text); // some programs write % codes into links
  } catch {
    return text;
  }
}

/** Let the service worker take over before anything large is downloaded. @returns {Promise<boolean>} */
async function keptOffline() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch {
    return false; // the page works without it, only not offline
  }
  if (!navigator.serviceWorker.controller) {
    await new Promise((resolve) => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, PATIENCE);
    });
  }
  return Boolean(navigator.serviceWorker.controller);
}

async function start() {
  const need = element("need", HTMLElement);
  const missing = lacking();
  if (missing) {
    need.textContent = missing;
    return;
  }
  need.hidden = true;
  const isKept = await keptOffline();
  const response = await fetch("site.json").catch(() => null);
  if (!response?.ok) {
    need.textContent = "The page is not complete: site.json is missing. `python -m export web -o site/` writes it.";
    need.hidden = false;
    return;
  }
  const app = new App(await response.json());
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const engine = threads > 1 ? `WebAssembly, ${threads} threads.` : "WebAssembly, one thread.";
  element("engine", HTMLElement).textContent = isKept ? `It works without a network from now on. ${engine}` : engine;
  if (!(await app.openLink())) {
    if (!element("tab-pictures", HTMLElement).hidden) await app.pictures.example(0);
    else element("tab-clips", HTMLElement).click();
  }
}

start();
