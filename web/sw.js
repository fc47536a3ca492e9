/**
 * Keeps what was downloaded, so that the page opens at once and without a network; and adds the headers that a static
 * host may not send: cross-origin isolation, with which WebAssembly may use threads, and the page's own security policy.
 */
const SITE = /** @type {any} */ ("not exported"); // `python -m export web` writes the version and files here

const CACHE = `daps-${SITE.version}`;
const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; " +
  "img-src 'self' blob: data:; style-src 'self'; base-uri 'none'; form-action 'none'";
const worker = /** @type {any} */ (self);

worker.addEventListener("install", (/** @type {any} */ event) => {
  const fresh = SITE.page.map((/** @type {string} */ name) => new Request(name, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)).then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  const clean = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith("daps-") && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await worker.clients.claim();
  };
  event.waitUntil(clean());
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { origin } = new URL(event.request.url);
  if (origin !== worker.location.origin) event.respondWith(Response.error());
  else if (event.request.method === "GET") event.respondWith(answer(event));
});

/** @param {any} event */
async function answer(event) {
  const request = /** @type {Request} */ (event.request);
  const cache = await caches.open(CACHE);
  const wanted = request.mode === "navigate" && request.url.split("#")[0].endsWith("/") ? "index.html" : request;
  let response = await cache.match(wanted, { ignoreSearch: true });
  if (!response) {
    response = await fetch(request).catch(() => new Response("no network", { status: 504 }));
    // Kept while the page reads it already; a full disk only means that it is not kept.
    if (response.status === 200) event.waitUntil(cache.put(request, response.clone()).catch(() => {}));
  }
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  headers.set("Content-Security-Policy", POLICY);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
