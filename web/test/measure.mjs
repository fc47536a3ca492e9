/**
 * How large, fast and hungry the page is: `node web/test/measure.mjs [RECORD.json]`, with the site in $DAPS_SITE.
 *
 * Times are those that the page shows. Where other programs keep the machine busy, compare the CPU time in Node, which
 * runs the same WebAssembly in one thread.
 */
import { readFile, writeFile } from "node:fs/promises";
import os from "node:os";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-web/wasm";
import { load } from "../daps.js";
import { launch, serve } from "./browser.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SITE = process.env.DAPS_SITE ?? `${ROOT}site`;
const REPEATS = 3;

/** @param {import("playwright-core").Page} page @returns {Promise<Record<string, string>>} */
const facts = (page) =>
  page.evaluate(() =>
    Object.fromEntries(
      [...document.querySelectorAll("#p-facts div")].map((one) => [
        one.querySelector("dt")?.textContent ?? "",
        one.querySelector("dd")?.firstChild?.textContent ?? "",
      ]),
    ),
  );

/** @param {string} text @returns {number} */
const milliseconds = (text) => (text.endsWith(" ms") ? parseFloat(text) : 1000 * parseFloat(text));
const median = (/** @type {number[]} */ values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** @param {import("playwright-core").Page} page */
async function settled(page) {
  const done = () => {
    const shown = document.getElementById("p-facts")?.innerText ?? "";
    return shown.includes("Decoded in") && !shown.includes("…") && !document.body.hasAttribute("data-busy");
  };
  await page.waitForTimeout(100);
  await page.waitForFunction(done, null, { timeout: 600_000 });
}

/** Encode the first example again and again. @param {import("playwright-core").Page} page */
async function timed(page) {
  await settled(page);
  const [encode, decode] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])];
  for (let i = 0; i < REPEATS; i++) {
    await page.click("#p-greedy");
    await settled(page);
    const shown = await facts(page);
    encode.push(milliseconds(shown["Encoded in"]));
    decode.push(milliseconds(shown["Decoded in"]));
  }
  return { encode_ms: median(encode), decode_ms: median(decode) };
}

/** CPU seconds of one greedy encode and one decode in Node, one thread. */
async function inNode() {
  ort.env.wasm.numThreads = 1;
  const tok = await load(`${SITE}/models/daps-photo-256`, { ort });
  const pixels = Uint8Array.from({ length: tok.inputSize }, (_, i) => (i * 7919) % 256);
  const used = async (/** @type {() => Promise<any>} */ work) => {
    const times = [];
    for (let i = 0; i <= REPEATS; i++) {
      const start = process.cpuUsage();
      await work();
      const { user, system } = process.cpuUsage(start);
      times.push((user + system) / 1000);
    }
    return median(times.slice(1));
  };
  const { codes } = await tok.encode(pixels);
  return { encode_cpu_ms: await used(() => tok.encode(pixels)), decode_cpu_ms: await used(() => tok.decode(codes)) };
}

const host = await serve(SITE);
const browser = await launch();
const browserVersion = browser.version();
const context = await browser.newContext();
let bytes = 0;
context.on("response", async (response) => {
  const body = await response.body().catch(() => null);
  if (!response.fromServiceWorker() && body) bytes += body.length;
});
const page = await context.newPage();
const start = performance.now();
await page.goto(host.address);
await settled(page);
const first = performance.now() - start;
const one = await timed(page);
await page.reload();
const threads = await page.evaluate(() => (self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1));
const many = await timed(page);
const session = await browser.newBrowserCDPSession();
const { processInfo } = await session.send("SystemInfo.getProcessInfo");
const peaks = await Promise.all(
  processInfo
    .filter(({ type }) => type === "renderer")
    .map(async ({ id }) => Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${id}/status`, "utf-8"))?.[1]) / 1000),
);
await browser.close();
host.close();
const record = {
  command: "node web/test/measure.mjs",
  model: "daps-photo-256",
  first_visit: { bytes, until_decoded_ms: Math.round(first) },
  one_thread: one,
  threads: { threads, ...many },
  renderer_peak_mb: Math.round(Math.max(...peaks)),
  node_one_thread: await inNode(),
  machine: { cpu: os.cpus()[0].model, cores: os.cpus().length, load_average: os.loadavg()[0] },
  versions: {
    chromium: browserVersion,
    node: process.version,
    "onnxruntime-web": ort.env.versions.web,
  },
  date: new Date().toISOString().slice(0, 10),
};
console.log(JSON.stringify(record, null, 2));
if (process.argv[2]) await writeFile(process.argv[2], `${JSON.stringify(record, null, 2)}\n`);
