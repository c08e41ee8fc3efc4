// Drives the page in a headless browser for tests/test_web.py: a JSON job on stdin, a JSON report on stdout.
//   job: {chromium, page, codec, tampered, qualities, any_size, images, payloads, corrupt, image_file, screenshot, scheme}
// Arrays of bytes travel in base64.
import { readFileSync } from "node:fs";
import { launch } from "./browser.mjs";

const job = JSON.parse(readFileSync(0, "utf8"));
const browser = await launch(job.chromium);
const report = { requests: [], errors: [] };

/** A new page at an address; `prepare` runs in it before its own scripts, addresses like `without` fail. */
async function open(address, { prepare, without, javaScriptEnabled = true } = {}) {
  const context = await browser.newContext({
    viewport: { width: 1000, height: 560 }, deviceScaleFactor: 1, acceptDownloads: true, javaScriptEnabled,
    colorScheme: job.scheme ?? "light",
  });
  if (prepare) await context.addInitScript(prepare);
  if (without) await context.route(without, (route) => route.abort());
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on("request", (request) => report.requests.push(request.url()));
  page.on("pageerror", (error) => report.errors.push(String(error)));
  await page.goto(address);
  return page;
}

/** What the page says once it is no longer waiting; `picture` is a file to keep of it. */
async function verdict(page, picture) {
  const status = page.locator("#status:is([data-state=ready], [data-state=problem])");
  const [state, text] = [await status.getAttribute("data-state"), await status.textContent()];
  const footer = await page.textContent("#codec");
  if (picture) await page.screenshot({ path: picture, clip: { x: 0, y: 0, width: 1000, height: 190 } });
  await page.context().close();
  return { state, text: text + footer };
}

/** LiteRT.js probes for relaxed SIMD with a module of some dozen bytes: a browser without it refuses that one. */
function refuseProbes() {
  const { instantiate } = WebAssembly;
  WebAssembly.instantiate = (module, ...rest) =>
    module.byteLength < 500 ? Promise.reject(new WebAssembly.CompileError("no such opcode")) : instantiate(module, ...rest);
}

const address = `${job.page}?artifact=${job.codec}`;
try {
  // === What the page computes ===
  const page = await open(address);
  await page.locator("#status[data-state=ready]").waitFor();
  report.computed = await page.evaluate(async ({ images, payloads, corrupt }) => {
    const { started } = await import("./app.js");
    const { codec } = await started;
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const text = (array) => btoa(String.fromCharCode(...array));
    const each = async (items, f) => {
      const found = [];
      for (const item of items) found.push(await f(item));
      return found;
    };
    return {
      compressed: await each(images, async (image) => text(await codec.compress(bytes(image)))),
      decompressed: await each(payloads, async (payload) => text(await codec.decompress(bytes(payload)))),
      corrupt_found: await each(corrupt, async (payload) => {
        try {
          return (await codec.decompress(bytes(payload))).length;
        } catch (error) {
          return error.constructor.name;
        }
      }),
    };
  }, job);

  // === What a person does ===
  await page.setInputFiles("#image-file", job.image_file);
  await page.locator("#status", { hasText: "Compressed" }).waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  const file = await download.path();
  report.downloaded = readFileSync(file).toString("base64");
  report.shown = { hex: await page.textContent("#hex"), count: await page.textContent("#count") };
  const restored = () => page.locator("#restored").evaluate((canvas) => canvas.toDataURL());
  const before = await restored();
  await page.click("#clear");
  report.cleared = { count: await page.textContent("#count"), changed: (await restored()) !== before };
  await page.setInputFiles("#payload-file", { name: "payload.bin", mimeType: "", buffer: readFileSync(file) });
  await page.locator("#status", { hasText: "decoded" }).waitFor();
  report.reopened = (await restored()) === before;
  await page.setInputFiles("#payload-file", { name: "long.bin", mimeType: "", buffer: Buffer.alloc(100_000, 1) });
  report.too_long = await page.locator("#status[data-state=problem]").textContent();
  await page.setInputFiles("#image-file", { name: "not.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  report.not_an_image = await page.locator("#status", { hasText: "not.png" }).textContent();

  await page.click("#clear");
  const box = await page.locator("#original").boundingBox();
  await page.mouse.move(box.x + box.width * 0.3, box.y + box.height * 0.2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.8, { steps: 5 });
  await page.mouse.up();
  await page.locator("#status", { hasText: "Compressed" }).waitFor();
  report.drawn = await page.textContent("#count");
  await page.click("#example");
  await page.locator("#status", { hasText: "Compressed" }).waitFor();
  if (job.screenshot) await page.screenshot({ path: job.screenshot, fullPage: true });
  await page.context().close();

  // === What the page says when something is missing ===
  report.missing = {
    wasm: await verdict(
      await open(address, { prepare: () => delete globalThis.WebAssembly }), job.screenshot?.replace(".png", "_missing.png")),
    litert: await verdict(await open(address, { without: "**/litert/**" })),
    relaxed_simd: await verdict(await open(address, { prepare: refuseProbes })),
    artifact: await verdict(await open(`${job.page}?artifact=nowhere`)),
    manifest: await verdict(await open(`${job.page}?artifact=${job.tampered}`)),
    one_quality: await verdict(await open(`${job.page}?artifact=${job.qualities}`)),
    any_size: await verdict(await open(`${job.page}?artifact=${job.any_size}`)),
  };
  const silent = await open(address, { javaScriptEnabled: false });
  report.missing.scripts = { state: "waiting", text: await silent.textContent("#status") };
  report.missing.server = await verdict(await open(new URL("index.html", import.meta.url).href));
} catch (error) {
  report.failure = String(error);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(report));
