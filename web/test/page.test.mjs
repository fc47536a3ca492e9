/**
 * The exported site in a real Chromium, as a visitor uses it: `node --test test/`, with the site in $DAPS_SITE (default:
 * ../site). What a person sees and a file holds is looked at; the page has nothing that is there for tests.
 */
import assert from "node:assert/strict";
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { after, before, describe, test } from "node:test";
import { crc32, psnr, readDaps, readLink, writeDaps, writeLink } from "../daps.js";
import { hasChromium, launch, serve, watched } from "./browser.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SITE = process.env.DAPS_SITE ?? `${ROOT}site`;
const PATIENCE = Number(process.env.DAPS_PATIENCE ?? 300_000); // ms, of a machine that is busy
const skip = hasChromium ? false : "no Chromium: set $CHROMIUM or install Debian's";

/** @param {string} name @returns {Promise<any>} */
const reference = async (name) => JSON.parse(await readFile(`${ROOT}tests/reference/${name}.json`, "utf-8"));
/** @type {import("../worker.js").Site} */
let siteRecord;
/** @type {import("../worker.js").Model} the one that is shown first */
let model;
/** @type {Awaited<ReturnType<typeof serve>>} */
let host;
/** @type {import("playwright-core").Browser} */
let browser;

/** @param {import("playwright-core").Page} page */
const idle = async (page) => {
  await page.waitForTimeout(50);
  await page.waitForFunction(() => !document.body.hasAttribute("data-busy"), null, { timeout: PATIENCE });
};

/** Wait until codes of a tab are encoded, decoded and described. @param {import("playwright-core").Page} page @param {string} prefix */
const described = async (page, prefix) => {
  await page.waitForFunction((id) => document.querySelectorAll(`#${id}-facts div`).length >= 3, prefix, { timeout: PATIENCE });
  await idle(page);
};

/** The codes that are shown, by way of the link. @param {import("playwright-core").Page} page @param {string} prefix */
const codesOf = async (page, prefix) => {
  await page.click(`#${prefix}-link`);
  const link = await page.evaluate(() => location.hash.slice(1));
  return { link, ...readLink(link, siteRecord.models) };
};

/** @param {import("playwright-core").Page} page @param {string} id @returns {Promise<number[]>} red, green, blue, ... */
const pixelsOf = (page, id) =>
  page.evaluate((name) => {
    const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById(name));
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    return [...pen.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 !== 3);
  }, id);

/** @param {import("playwright-core").Page} page @param {Uint8Array} png @returns {Promise<number[]>} */
const pixelsOfPng = (page, png) =>
  page.evaluate(async (bytes) => {
    const bitmap = await createImageBitmap(new Blob([Uint8Array.from(bytes)]));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.drawImage(bitmap, 0, 0);
    return [...pen.getImageData(0, 0, bitmap.width, bitmap.height).data].filter((_, i) => i % 4 !== 3);
  }, [...png]);

/** Of the codes of one picture. */
const BYTES = () => Math.ceil((model.numTokens * Math.log2(model.vocabSize)) / 8);

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b */
const largestDifference = (a, b) => Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

/** @param {import("playwright-core").Page} page @param {string} name @param {Uint8Array} content */
const open = (page, name, content) =>
  page.setInputFiles("#file", { name, mimeType: "application/octet-stream", buffer: Buffer.from(content) });

before(async () => {
  if (skip) return;
  siteRecord = JSON.parse(await readFile(`${SITE}/site.json`, "utf-8"));
  model = siteRecord.models[0];
  host = await serve(SITE);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  host?.close();
});

describe("pictures", { skip }, () => {
  /** @type {import("playwright-core").BrowserContext} */
  let context;
  /** @type {Awaited<ReturnType<typeof watched>>} */
  let visit;

  before(async () => {
    context = await browser.newContext({ viewport: { width: 1200, height: 1000 }, acceptDownloads: true });
    visit = await watched(context);
    await visit.page.goto(host.address);
    await described(visit.page, "p");
  });

  after(async () => {
    assert.deepEqual(visit.errors, [], "nothing in the console");
    assert.deepEqual(visit.requests.filter((url) => !url.startsWith(host.address) && !url.startsWith("blob:")), [], "only the page's own files");
    await context.close();
  });

  test("the example has the codes and pixels of the reference", async () => {
    const golden = await reference(`${model.name}.cat`);
    assert.deepEqual([...(await codesOf(visit.page, "p")).codes], golden.greedy);
    const expected = await pixelsOfPng(visit.page, await readFile(`${ROOT}tests/reference/${golden.decoded}`));
    assert.ok(largestDifference(await pixelsOf(visit.page, "p-decoded"), expected) <= 1);
  });

  test("the facts are those of the pixels that are shown", async () => {
    const facts = await visit.page.innerText("#p-facts");
    const exact = psnr(await pixelsOf(visit.page, "p-original"), await pixelsOf(visit.page, "p-decoded"));
    assert.ok(facts.includes(`${BYTES().toLocaleString("en")} bytes`), facts);
    assert.ok(facts.includes(`${exact.toFixed(1)} dB`), facts);
    await visit.page.waitForFunction(() => !document.getElementById("p-facts")?.innerText.includes("…"), null, { timeout: PATIENCE });
    const jpeg = Number(/([\d,]+) bytes\n[\d.]+ × the codes/.exec(await visit.page.innerText("#p-facts"))?.[1].replace(",", ""));
    assert.ok(jpeg > BYTES(), `${jpeg} bytes`);
  });

  test("a first visit downloads at most 15 MB", async () => {
    const paths = new Set(visit.requests.filter((url) => url.startsWith(host.address)).map((url) => new URL(url).pathname));
    const sizes = await Promise.all([...paths].map(async (path) => (await stat(`${SITE}${path === "/" ? "/index.html" : path}`)).size));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    assert.ok(total < 15e6, `${total} bytes`);
  });

  test("temperature 1 and seed 0 give the sample of the reference, another sample gives other codes", async () => {
    const golden = await reference(`${model.name}.cat`);
    await visit.page.click("#p-sample"); // from temperature 0: temperature 1, seed 0
    await idle(visit.page);
    assert.deepEqual([...(await codesOf(visit.page, "p")).codes], golden.sampled);
    await visit.page.click("#p-sample");
    await idle(visit.page);
    assert.equal(await visit.page.inputValue("#p-seed"), "1");
    assert.notDeepEqual([...(await codesOf(visit.page, "p")).codes], golden.sampled);
    await visit.page.click("#p-greedy");
    await idle(visit.page);
    assert.deepEqual([...(await codesOf(visit.page, "p")).codes], golden.greedy);
  });

  test("a code that is clicked shows its alternatives; changing it moves the pixels around it; undo brings them back", async () => {
    const { page } = visit;
    const shown = await pixelsOf(page, "p-decoded");
    const grid = await page.locator("#p-grid").boundingBox();
    assert.ok(grid);
    const side = Math.sqrt(model.numTokens);
    const [row, column] = [3, 5];
    await page.locator("#p-grid").click({ position: { x: ((column + 0.5) / side) * grid.width, y: ((row + 0.5) / side) * grid.height } });
    await page.waitForSelector("#p-inspector button[data-code]", { timeout: PATIENCE });
    await idle(page);
    const golden = await reference(`${model.name}.cat`);
    const codes = await page.locator("#p-inspector button[data-code]").evaluateAll((all) => all.map((one) => Number(one.getAttribute("data-code"))));
    const shares = await page.locator("#p-inspector button[data-code] span").allInnerTexts();
    assert.equal(codes[0], golden.greedy[row * side + column]);
    assert.ok(codes.length >= 12 && parseFloat(shares[0]) > 10, shares.join());
    assert.match(await page.innerText("#p-inspector"), /row 4, column 6/);
    assert.match(await page.innerText("#p-inspector"), /move \d+ pixels/);
    await page.fill("#p-inspector input", String((codes[0] + model.vocabSize / 2) % model.vocabSize));
    await page.click("#p-inspector form button");
    await idle(page);
    const now = await pixelsOf(page, "p-decoded");
    const places = now.flatMap((value, i) => (Math.abs(value - shown[i]) > 4 ? [Math.floor(i / 3)] : []));
    assert.ok(places.length > 20, `${places.length} values changed`);
    const [, width] = model.inputShape;
    const cell = width / side;
    for (const place of places) { // as far as the decoder's convolutions reach
      const away = Math.max(Math.abs(Math.floor(place / width) / cell - row - 0.5), Math.abs((place % width) / cell - column - 0.5));
      assert.ok(away < 7.5, `pixel ${place} is ${away} codes away`);
    }
    await page.click("#p-inspector .undo");
    await idle(page);
    assert.deepEqual([...(await codesOf(page, "p")).codes], golden.greedy);
    assert.deepEqual(await pixelsOf(page, "p-decoded"), shown);
  });

  test("the keyboard moves through the grid and opens a code, and a screen reader hears where it is", async () => {
    const { page } = visit;
    await page.focus("#p-grid");
    for (const key of ["Home", "ArrowDown", "ArrowRight"]) await page.keyboard.press(key);
    assert.match(await page.innerText("#heard"), /row \d+, column 2: code \d+, [\d.]+ bits/);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#p-inspector button[data-code]", { timeout: PATIENCE });
    await idle(page);
    assert.match(await page.innerText("#p-inspector .chosen"), /column 2/);
    await page.focus("#p-split");
    await page.keyboard.press("ArrowLeft");
    assert.equal(await page.inputValue("#p-split"), "49");
  });

  test("a link opens on another machine by decoding alone", async () => {
    const { link, codes } = await codesOf(visit.page, "p");
    assert.equal(link.split("/")[2].length, Math.ceil((BYTES() * 4) / 3)); // 1,707 of 1,024 codes
    const other = await browser.newContext();
    const { page, errors, requests } = await watched(other);
    await page.goto(`${host.address}#${link}`);
    await described(page, "p");
    assert.deepEqual(await pixelsOf(page, "p-decoded"), await pixelsOf(visit.page, "p-decoded"));
    assert.deepEqual([...(await codesOf(page, "p")).codes], [...codes]);
    assert.deepEqual(requests.filter((url) => url.endsWith("/encoder.onnx")), []);
    await page.click("#p-sample");
    assert.match(await page.innerText("#error"), /The original is not here/);
    assert.deepEqual(errors, []);
    await other.close();
  });

  test("a .daps file is saved as Python writes it, and opened again", async () => {
    const { page } = visit;
    const { codes } = await codesOf(page, "p");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#p-save")]);
    assert.equal(download.suggestedFilename(), "cat.daps");
    const file = new Uint8Array(await readFile(await download.path()));
    const { header, codes: kept } = readDaps(file);
    assert.deepEqual([...kept], [...codes]);
    assert.deepEqual(header.shape, [1, model.numTokens]);
    await open(page, "cat.daps", file);
    await described(page, "p");
    assert.match(await page.innerText("#p-caption"), /Opened from its codes alone/);
    assert.deepEqual([...(await codesOf(page, "p")).codes], [...codes]);
  });

  test("another model shows its own codes", async () => {
    const { page } = visit;
    await page.selectOption("#p-model", "daps-mnist");
    await page.click("#p-examples button");
    await described(page, "p");
    assert.match(await page.innerText("#p-title"), /8 integers/);
    assert.deepEqual([...(await codesOf(page, "p")).codes], (await reference("daps-mnist.digit")).greedy);
    await page.selectOption("#p-model", model.name);
    await page.click("#p-examples button");
    await described(page, "p");
    assert.deepEqual([...(await codesOf(page, "p")).codes], (await reference(`${model.name}.cat`)).greedy);
  });

  test("a picture is chosen, dropped, pasted or photographed, and has the codes of the reference", async () => {
    const { page } = visit;
    const shown = () => /** @type {HTMLCanvasElement} */ (document.getElementById("p-original")).toDataURL();
    const handed = async (/** @type {string} */ kind, /** @type {string} */ path) =>
      page.evaluate(
        ({ kind, bytes }) => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(bytes)], "picture", { type: "image/any" }));
          const pasted = new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
          document.body.dispatchEvent(kind === "paste" ? pasted : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        },
        { kind, bytes: [...(await readFile(path))] },
      );
    for (const [way, name] of [["#file", "coffee.webp"], ["drop", "cat.png"], ["#shot", "coffee.webp"], ["paste", "cat.png"]]) {
      const [path, before] = [`${ROOT}examples/${name}`, await page.evaluate(shown)];
      await (way.startsWith("#") ? page.setInputFiles(way, path) : handed(way, path));
      await page.waitForFunction((old) => /** @type {HTMLCanvasElement} */ (document.getElementById("p-original")).toDataURL() !== old, before, { timeout: PATIENCE });
      await described(page, "p");
      const golden = await reference(`${model.name}.${name.split(".")[0]}`);
      assert.deepEqual([...(await codesOf(page, "p")).codes], golden.greedy, way);
    }
  });
});

describe("motion", { skip }, () => {
  test("the example has the codes and the sample of the reference; a clip is kept in a link and a file", async () => {
    const context = await browser.newContext({ reducedMotion: "reduce", acceptDownloads: true });
    const { page, errors } = await watched(context);
    const golden = await reference("daps-h1-motion.walk");
    const other = await reference("daps-g1-motion.walk_g1");
    await page.goto(`${host.address}#`);
    await page.waitForSelector("#p-examples button", { timeout: PATIENCE });
    await page.click("#tab-clips");
    await described(page, "c");
    await page.selectOption("#c-model", "daps-g1-motion");
    await page.waitForFunction(() => document.getElementById("c-about")?.textContent?.includes("36 numbers a row (Unitree G1)"));
    await described(page, "c");
    assert.deepEqual([...(await codesOf(page, "c")).codes], other.greedy.flat());
    await page.locator("#file").setInputFiles(fileURLToPath(new URL("../../examples/walk.csv", import.meta.url)));
    await page.waitForFunction(() => /** @type {HTMLSelectElement} */ (document.getElementById("c-model")).value === "daps-h1-motion");
    await described(page, "c");
    const { link, codes } = await codesOf(page, "c");
    assert.deepEqual([...codes], golden.greedy.flat());
    await page.click("#c-sample");
    await idle(page);
    assert.deepEqual([...(await codesOf(page, "c")).codes], golden.sampled.flat());
    await page.locator("#c-grid").click({ position: { x: 40, y: 30 } });
    await page.waitForSelector("#c-inspector button[data-code]", { timeout: PATIENCE });
    await idle(page);
    assert.match(await page.innerText("#c-inspector"), /The codes listed here move/);
    await page.locator("#c-inspector button[data-code]").last().click();
    await idle(page);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#c-save")]);
    const { header } = readDaps(new Uint8Array(await readFile(await download.path())));
    assert.deepEqual(header.shape, [1, 4, 64]);
    assert.equal(header.layout && "frames" in header.layout && header.layout.frames, 120);
    await page.evaluate((text) => (location.hash = text), link);
    await described(page, "c");
    assert.deepEqual([...(await codesOf(page, "c")).codes], [...codes]);
    assert.deepEqual(errors, []);
    await context.close();
  });
});

describe("drawings", { skip }, () => {
  test("pictures and digits of a class are drawn, and one of them opens as codes", async () => {
    const context = await browser.newContext();
    const { page, errors } = await watched(context);
    await page.goto(`${host.address}#x`);
    await page.waitForSelector("#p-examples button", { timeout: PATIENCE });
    await page.click("#tab-drawings");
    await page.waitForSelector("#d-gallery button:not([disabled])", { timeout: PATIENCE });
    const drawn = () => page.locator("#d-gallery canvas").first().evaluate((canvas) => /** @type {HTMLCanvasElement} */ (canvas).toDataURL());
    assert.ok((await page.locator("#d-labels button").allInnerTexts()).includes("horse"), "CIFAR-10's classes");
    let before = await drawn();
    for (const change of [() => page.selectOption("#d-model", "daps-mnist-flow"), () => page.click("#d-labels button:first-child")]) {
      await change();
      await idle(page);
      assert.notEqual(await drawn(), before);
      before = await drawn();
    }
    assert.equal(await page.getAttribute("#d-labels button:first-child", "aria-checked"), "true");
    await page.click("#d-gallery button:nth-child(2)");
    await page.waitForFunction(() => document.querySelectorAll("#p-facts div").length >= 3, null, { timeout: PATIENCE });
    await idle(page);
    assert.equal((await codesOf(page, "p")).codes.length, siteRecord.models.find((one) => one.name === "daps-mnist")?.numTokens);
    assert.deepEqual(errors, []);
    await context.close();
  });
});

describe("what is broken or hostile", { skip }, () => {
  test("1,000 broken links and files get one line each, and nothing in the console", async () => {
    const context = await browser.newContext();
    const { page, errors } = await watched(context);
    const codes = Array.from({ length: model.numTokens }, (_, i) => (i * 37) % model.vocabSize);
    const link = writeLink({ model: model.name, ...model, codes });
    const header = { model: model.name, weights_sha256: model.weightsSha256, vocab_size: model.vocabSize, shape: [1, model.numTokens], layout: null };
    const file = [...writeDaps(header, codes)];
    let state = 7;
    const chance = (/** @type {number} */ most) => (state = (state * 48271) % 2147483647) % most;
    const links = Array.from({ length: 500 }, (_, i) => {
      const letters = [...link];
      for (let k = 0; k <= chance(4); k++) {
        const at = chance(letters.length);
        if (i % 3) letters[at] = String.fromCharCode(33 + chance(300));
        else letters.splice(at, 1 + chance(400));
      }
      letters.push(letters.join("") === link ? "!" : "");
      return letters.join("") || "!";
    });
    const files = Array.from({ length: 500 }, (_, i) => {
      const bytes = [...file];
      for (let k = 0; k <= chance(4); k++) {
        const at = chance(bytes.length);
        if (i % 3) bytes[at] ^= 1 << chance(8);
        else bytes.splice(at, 1 + chance(300));
      }
      if (i % 5 === 0) bytes.splice(4, bytes.length);
      bytes[0] = 68; // else it would be a picture that cannot be read, which is tested below
      return bytes;
    });
    const broken = files.filter((bytes) => {
      try {
        readDaps(Uint8Array.from(bytes));
      } catch {
        return true;
      }
      return false;
    });
    const strange = [
      { ...header, model: "other" },
      { ...header, weights_sha256: "0".repeat(64) },
      { ...header, vocab_size: 2 * model.vocabSize },
      { ...header, shape: [2, model.numTokens] },
      { ...header, shape: [1, 1, model.numTokens], layout: { height: 9, width: 9, rows: 1, columns: 1, overlap: 0 } },
      { ...header, model: "daps-h1-motion", weights_sha256: "", shape: [3, 64], vocab_size: 1024, layout: null },
    ].map((one) => [...writeDaps(one, Array.from({ length: one.shape.reduce((a, b) => a * b) }, (_, i) => i % model.vocabSize))]);
    const swollen = writeDaps(header, codes);
    new DataView(swollen.buffer).setUint32(5, 0xffffffff, true);
    new DataView(swollen.buffer).setUint32(swollen.length - 4, crc32(swollen.subarray(0, -4)), true);
    await page.goto(`${host.address}#${links[0]}`);
    await page.waitForSelector("#error:not([hidden])", { timeout: PATIENCE });
    const found = await page.evaluate(
      async ({ links, files }) => {
        const box = /** @type {HTMLElement} */ (document.getElementById("error"));
        const field = /** @type {HTMLInputElement} */ (document.getElementById("file"));
        const said = async () => {
          for (let i = 0; i < 400 && box.hidden; i++) await new Promise((resolve) => setTimeout(resolve, 5));
          const text = box.hidden ? "" : box.innerText.replace(/\s*Close$/, "");
          box.hidden = true;
          return text;
        };
        const messages = [];
        for (const link of links) {
          box.hidden = true;
          if (location.hash === `#${link}`) continue;
          const heard = new Promise((resolve) => window.addEventListener("hashchange", resolve, { once: true }));
          location.hash = link;
          await heard;
          messages.push(await said());
        }
        for (const bytes of files) {
          const moved = new DataTransfer();
          moved.items.add(new File([Uint8Array.from(bytes)], "broken.daps"));
          box.hidden = true;
          field.files = moved.files;
          field.dispatchEvent(new Event("change"));
          messages.push(await said());
        }
        return messages;
      },
      { links: links.slice(1), files: [...broken, ...strange, [...swollen]] },
    );
    assert.ok(found.length > 970, `${found.length} links and files`);
    for (const message of found) assert.match(message, /^[^\n]{15,}$/);
    assert.deepEqual(errors, []);
    await context.close();
  });

  test("files that are no picture, clip or .daps file are refused by name", async () => {
    const context = await browser.newContext();
    const { page, errors } = await watched(context);
    await page.goto(`${host.address}#x`);
    await page.waitForSelector("#error:not([hidden])", { timeout: PATIENCE });
    for (const [name, content, said] of /** @type {[string, string, RegExp][]} */ ([
      ["notes.pdf", "%PDF-1.4", /notes\.pdf: is no picture that this browser can read/],
      ["empty.png", "", /empty\.png: is no picture/],
      ["cut.jpg", "\xff\xd8\xff\xe0", /cut\.jpg: is no picture/],
      ["walk.csv", "1,2,3\n4,5,6\n", /walk\.csv: row 1 has 3 columns; expected 26/],
      ["empty.csv", "", /empty\.csv: has 0 rows/],
      ["clip.npz", "PK", /clip\.npz: this page reads clips as CSV/],
      ["cut.daps", "DAPS", /cut\.daps: \.daps version unknown/],
    ])) {
      await open(page, name, Buffer.from(content, "latin1"));
      await page.waitForFunction((part) => document.getElementById("error")?.innerText.includes(part), name, { timeout: PATIENCE });
      assert.match(await page.innerText("#error"), said);
    }
    await page.click("#dismiss");
    assert.ok(await page.isHidden("#error"));
    assert.deepEqual(errors, []);
    await context.close();
  });

  test("neither the page nor its worker can reach another origin", async () => {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(`${host.address}#x`);
    await page.waitForSelector("#error:not([hidden])", { timeout: PATIENCE });
    const elsewhere = host.address.replace("127.0.0.1", "localhost");
    const ask = async (/** @type {string} */ url) => fetch(url).then(() => "reached", () => "refused");
    assert.equal(await page.evaluate(ask, elsewhere), "refused");
    await page.waitForFunction(() => document.querySelectorAll("#p-examples button").length > 0);
    assert.ok(page.workers().length >= 1);
    assert.equal(await page.workers()[0].evaluate(ask, elsewhere), "refused");
    await context.close();
  });
});

describe("afterwards", { skip }, () => {
  test("the page opens and encodes without a network, isolated, with threads, and has the same codes", async () => {
    const context = await browser.newContext();
    const { page, errors } = await watched(context);
    await page.goto(host.address);
    await described(page, "p");
    await context.setOffline(true);
    await page.reload();
    await described(page, "p");
    assert.ok(await page.evaluate(() => self.crossOriginIsolated));
    assert.deepEqual([...(await codesOf(page, "p")).codes], (await reference(`${model.name}.cat`)).greedy);
    await page.click("#tab-clips"); // whose model was never downloaded
    await page.waitForSelector("#error:not([hidden])", { timeout: PATIENCE });
    assert.match(await page.innerText("#error"), /cannot be downloaded|server answers/);
    assert.deepEqual(errors.filter((line) => !line.includes("504")), []);
    await context.close();
  });

  test("on a phone nothing is wider than the screen", async () => {
    const context = await browser.newContext({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, colorScheme: "dark" });
    const { page, errors } = await watched(context);
    await page.goto(`${host.address}#x`);
    await page.waitForSelector("#p-examples button", { timeout: PATIENCE });
    for (const tab of ["#tab-pictures", "#tab-clips", "#tab-drawings"]) {
      await page.click(tab);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, tab);
    }
    assert.ok(await page.isVisible("#tab-clips"));
    await page.focus("#tab-drawings");
    await page.keyboard.press("ArrowRight"); // from the last tab to the first
    await page.selectOption("#p-model", "daps-mnist");
    await page.tap("#p-examples button");
    await described(page, "p");
    await page.tap("#p-grid");
    await page.waitForSelector("#p-inspector button[data-code]", { timeout: PATIENCE });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, "with a code open");
    assert.deepEqual(errors, []);
    await context.close();
  });

  for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
    test(`text is told from its ground in the ${colorScheme} scheme`, async () => {
      const context = await browser.newContext({ colorScheme });
      const { page } = await watched(context);
      await page.goto(`${host.address}#x`);
      await page.waitForSelector("#p-examples button", { timeout: PATIENCE });
      const seen = await page.evaluate(() => {
        const parts = (/** @type {string} */ colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
        const luminance = (/** @type {number[]} */ [r, g, b]) =>
          [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const groundOf = (/** @type {Element | null} */ one) => {
          for (; one; one = one.parentElement) {
            const ground = parts(getComputedStyle(one).backgroundColor);
            if (ground.length === 3 || ground[3] === 1) return ground;
          }
          return parts(getComputedStyle(document.documentElement).backgroundColor);
        };
        const contrasts = [...document.querySelectorAll("#pictures p, #pictures h1, #pictures h2, #pictures .quiet, #pictures .button, #tab-clips, #tab-pictures, footer p")]
          .filter((one) => one.checkVisibility())
          .map((one) => {
            const [a, b] = [luminance(parts(getComputedStyle(one).color)), luminance(groundOf(one))];
            return { text: one.textContent?.trim().slice(0, 30), contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
          });
        return { ground: luminance(groundOf(document.body)), contrasts };
      });
      assert.equal(seen.ground < 0.2, colorScheme === "dark");
      assert.ok(seen.contrasts.length > 10);
      assert.deepEqual(seen.contrasts.filter(({ contrast }) => !(contrast >= 4.5)), []); // WCAG, level AA
      await context.close();
    });
  }
});
