// Drives the page in a headless browser as a person would, for tests/test_web_page.py.
//   node drive.mjs
// A JSON job on stdin, {chromium, scheme, scenario, ...}, a JSON report on stdout; bytes travel in base64.
import { readFileSync } from "node:fs";
import { launch } from "./browser.mjs";

const job = JSON.parse(readFileSync(0, "utf8"));
const browser = await launch(job.chromium);
const report = { requests: [], errors: [] };
const base64 = (path) => readFileSync(path).toString("base64");
const file = (name, content, mimeType = "") => ({ name, mimeType, buffer: Buffer.from(content, "base64") });

/** In the page, from its begin: the longest that its thread was busy, told by the browser, and by a clock's missed beats. */
function watch() {
  const found = (globalThis.freezes = { task: 0, beat: 0 });
  const observer = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) found.task = Math.max(found.task, duration);
  });
  observer.observe({ type: "longtask", buffered: true });
  let last = performance.now();
  const beat = () => {
    const now = performance.now();
    if (now - last > found.beat) {
      [found.beat, found.during] = [now - last, document.getElementById("status")?.textContent];
    }
    last = performance.now();
    setTimeout(beat, 10);
  };
  beat();
}

/** A new page at an address; `prepare` runs in it before its own scripts, addresses like `without` fail. */
async function open(address, { prepare, without, javaScriptEnabled = true, width = 1200, height = 940, scheme } = {}) {
  const context = await browser.newContext({
    viewport: { width, height }, deviceScaleFactor: 1, acceptDownloads: true, javaScriptEnabled,
    colorScheme: scheme ?? "light",
  });
  if (javaScriptEnabled) await context.addInitScript(prepare ?? watch);
  if (without) await context.route(without, (route) => route.abort());
  const page = await context.newPage();
  page.setDefaultTimeout(job.timeout ?? 60_000);
  page.on("request", (request) => report.requests.push(request.url()));
  page.on("pageerror", (error) => report.errors.push(String(error)));
  await page.goto(address);
  return page;
}

const settled = (page) => page.locator("#status:is([data-state=ready], [data-state=problem])");
const said = async (page, words) => {
  await page.locator("#status", { hasText: words }).waitFor();
  return page.textContent("#status");
};
/** What the page says after an action, and nothing that it said before. */
const after = async (page, action, words) => {
  await page.evaluate(() => (document.getElementById("status").textContent = ""));
  await action();
  return said(page, words);
};
const shot = async (page, name, about = { fullPage: true }) => {
  if (!job.pictures) return;
  await page.evaluate(() => document.activeElement.blur());
  await page.screenshot({ path: `${job.pictures}/${name}.png`, ...about });
};
const edge = (page) => page.locator("#pictures").evaluate((box) => parseFloat(box.style.getPropertyValue("--edge")));
const compared = (page) => page.locator("#row-webp td:nth-child(4):not(:empty)").waitFor();
const rows = (page) => page.locator("tbody tr").evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));

/** What a click brings down, in base64. */
async function downloaded(page, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
  const path = await download.path();
  return { name: download.suggestedFilename(), content: base64(path), path };
}

/** Lets go of a file over the page. */
async function drop(page, { name, type, path }) {
  const data = await page.evaluateHandle(async ({ name, type, text }) => {
    const transfer = new DataTransfer();
    const bytes = await (await fetch(`data:application/octet-stream;base64,${text}`)).arrayBuffer();
    transfer.items.add(new File([bytes], name, { type }));
    return transfer;
  }, { name, type, text: base64(path) });
  await page.dispatchEvent("#stage", "dragover", { dataTransfer: data });
  await page.dispatchEvent("#stage", "drop", { dataTransfer: data });
}

const SCENARIOS = {
  // === A photograph ===
  async photograph() {
    const page = await open(`${job.page}?artifact=${job.artifact}`);
    await said(page, "Ready");
    await shot(page, "page_empty");
    report.names = await page.locator("main").ariaSnapshot();
    report.said = await after(page, () => drop(page, { name: job.name, type: "image/png", path: job.image_file }), "Compressed to");
    report.first = await downloaded(page, "#download");
    report.png = await downloaded(page, "#png");
    await compared(page);
    report.rows = await rows(page);

    // The divider, by keys and by a press on the picture.
    await page.focus("#divider");
    report.edges = [await edge(page)];
    for (const key of ["Home", "End"]) {
      await page.keyboard.press(key);
      report.edges.push(await edge(page));
    }
    const box = await page.locator("#stage").boundingBox();
    await page.mouse.move(box.x + box.width * 0.4, box.y + box.height * 0.8);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.6, box.y + box.height * 0.8, { steps: 4 });
    await page.mouse.up();
    report.edges.push(await edge(page));
    report.width = box.width;
    report.value_text = await page.getAttribute("#divider", "aria-valuetext");
    report.controls = await page.locator("main").ariaSnapshot();
    await shot(page, "page");

    report.beside = [];
    for (const name of ["JPEG", "WebP", "Original"]) {
      await page.locator("#against label", { hasText: name }).click();
      await page.locator("#original").evaluate((image) => image.decode());
      report.beside.push([await page.textContent("#left-label"), await page.locator("#original").evaluate((i) => i.naturalWidth)]);
    }
    await page.locator("#view label", { hasText: "100" }).click();
    report.full_width = (await page.locator("#pictures").boundingBox()).width;
    await page.locator("#view label", { hasText: "Whole" }).click();

    // A quality that is asked for while the networks still look at the picture.
    await after(page, async () => {
      await page.setInputFiles("#another", job.image_file);
      await page.locator("#progress:not([hidden])").waitFor();
      await page.focus("#quality");
      await page.keyboard.press("End");
    }, "Compressed to");
    report.hasty = await downloaded(page, "#download");

    // The quality, by key; then the same back again.
    await page.focus("#quality");
    await after(page, () => page.keyboard.press("Home"), "Compressed to");
    report.lowest = await downloaded(page, "#download");
    if (job.pictures) {
      await after(page, () => page.locator("#quality").fill("3"), "Compressed to");
      await compared(page);
      await page.locator("#against label", { hasText: "JPEG" }).click();
      await page.locator("#original").evaluate((image) => image.decode());
      await page.locator("#view label", { hasText: "100" }).click();
      await shot(page, "page_jpeg");
      await page.locator("#view label", { hasText: "Whole" }).click();
      await after(page, () => page.locator("#quality").fill("1"), "Compressed to");
    }
    await page.focus("#quality");
    await after(page, async () => {
      for (let i = 1; i < job.quality; i++) await page.keyboard.press("ArrowRight"); // each stops the one before it
    }, "Compressed to");
    report.again = await downloaded(page, "#download");

    // Files: its own, Python's, and what is none.
    await after(page, () => page.setInputFiles("#another", file("own.tfz", report.first.content)), "own.tfz: decoded");
    report.reopened = await downloaded(page, "#png");
    await after(page, () => page.setInputFiles("#another", file("python.tfz", job.archive)), "python.tfz: decoded");
    report.items = await page.locator("#item option").allTextContents();
    report.pictures = [(await downloaded(page, "#png")).content];
    for (let i = 1; i < report.items.length; i++) {
      await after(page, () => page.selectOption("#item", { index: i }), "python.tfz: decoded");
      report.pictures.push((await downloaded(page, "#png")).content);
    }
    report.refused = {};
    for (const [name, content] of Object.entries(job.refused)) {
      report.refused[name] = await after(page, () => page.setInputFiles("#another", file(name, content)), name);
    }
    report.kept = await downloaded(page, "#png");
    report.alive = await after(page, () => page.setInputFiles("#another", job.image_file), "Compressed to");
    report.freezes = await page.evaluate(() => globalThis.freezes);
    await page.context().close();

    const phone = await open(`${job.page}?artifact=${job.artifact}`, { width: 360, height: 740, scheme: "dark" });
    await phone.setInputFiles("#file", job.image_file); // before the codec is there
    await said(phone, "Compressed to");
    await compared(phone);
    report.phone_width = await phone.evaluate(() => document.documentElement.scrollWidth);
    await shot(phone, "page_phone");
    await phone.context().close();
  },

  // === A photograph of many megapixels: only that the page stays alive, and what came of it ===
  async large() {
    const page = await open(`${job.page}?artifact=${job.artifact}`);
    await said(page, "Ready");
    report.freezes = {};
    const stage = async (name) => {
      report.freezes[name] = await page.evaluate(() => ({ ...globalThis.freezes }));
      await page.evaluate(() => Object.assign(globalThis.freezes, { task: 0, beat: 0 }));
    };
    await stage("start");
    const began = performance.now();
    await after(page, () => page.setInputFiles("#file", job.image_file), "Compressed to");
    report.seconds = (performance.now() - began) / 1000;
    await stage("compress");
    await compared(page);
    await stage("compare");
    await page.locator("#against label", { hasText: "WebP" }).click();
    await page.focus("#divider");
    for (let i = 0; i < 20; i++) await page.keyboard.press("ArrowRight");
    await stage("divider");
    report.rows = await rows(page);
    report.note = await page.textContent("#note");
    report.first = await downloaded(page, "#download");
    await stage("download");
    await after(page, () => page.setInputFiles("#another", report.first.path), "decoded");
    await stage("open");
    report.png = await downloaded(page, "#png");
    await page.context().close();
  },

  // === Codecs of all kinds, without the page around them ===
  async computed() {
    const page = await open(`${job.page}?artifact=${job.cases[0].artifact}`);
    await said(page, "Ready");
    report.computed = [];
    for (const each of job.cases) report.computed.push(await page.evaluate(compute, each));
    await page.context().close();
  },

  // === A codec of small pictures ===
  async small() {
    const page = await open(`${job.page}?artifact=${job.artifact}`);
    await said(page, "Ready");
    report.computed = await page.evaluate(compute, job);
    report.said = await after(page, () => page.setInputFiles("#file", job.image_file), "Compressed to");
    report.first = await downloaded(page, "#download");
    report.png = await downloaded(page, "#png");
    await compared(page);
    report.rows = await rows(page);
    await page.click("#draw-again");
    const box = await page.locator("#drawing").boundingBox();
    await page.mouse.move(box.x + box.width * 0.3, box.y + box.height * 0.2);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.8, { steps: 5 });
    await page.mouse.up();
    await after(page, () => page.click("#use"), "Compressed to");
    report.drawn = (await downloaded(page, "#download")).content;
    await page.click("#draw-again");
    await page.click("#example");
    await after(page, () => page.click("#use"), "Compressed to");
    report.example = (await downloaded(page, "#download")).content;
    await compared(page);
    if (job.picture) await shot(page, job.picture);
    await after(page, () => page.setInputFiles("#another", file("python.tfz", job.archive)), "python.tfz: decoded");
    report.items = await page.locator("#item option").allTextContents();
    await after(page, () => page.selectOption("#item", { index: job.item }), "python.tfz: decoded");
    report.picture = (await downloaded(page, "#png")).content;
    await page.context().close();
  },

  // === What the page says when something is missing ===
  async missing() {
    const address = `${job.page}?artifact=${job.artifact}`;
    const verdict = async (page, picture) => {
      const [state, text] = [await settled(page).getAttribute("data-state"), await settled(page).textContent()];
      const footer = await page.textContent("#codec");
      if (picture) await shot(page, picture, {});
      await page.context().close();
      return { state, text: text + footer };
    };
    const small = { width: 1000, height: 200 };
    report.missing = {
      litert: await verdict(await open(address, { without: "**/litert/**" })),
      wasm: await verdict(await open(address, { without: "**/*.wasm", ...small }), "page_missing"),
      canvas: await verdict(await open(address, { prepare: () => delete HTMLCanvasElement.prototype.transferControlToOffscreen })),
      codec: await verdict(await open(address, { without: "**/codec/codec.js" })),
      artifact: await verdict(await open(`${job.page}?artifact=nowhere`)),
      manifest: await verdict(await open(`${job.page}?artifact=${job.tampered}`)),
      format: await verdict(await open(`${job.page}?artifact=${job.strange}`)),
    };
    const silent = await open(address, { javaScriptEnabled: false });
    report.missing.scripts = { state: "waiting", text: await silent.textContent("#status") };
    report.missing.server = await verdict(await open(new URL("index.html", import.meta.url).href));
  },
};

/** In the page: images to payloads, payloads to pixels (all as RGBA), and what becomes of bytes that are none. */
async function compute({ artifact, images, payloads, corrupt, quality }) {
  const { fetchArtifact } = await import("./codec/artifact.js");
  const { Codec } = await import("./codec/codec.js");
  const { Problem } = await import("./codec/problem.js");
  const { manifest, files } = await fetchArtifact(new URL(artifact, location.href).href);
  const codec = await Codec.read(manifest, files);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const text = (array) => btoa(Array.from(array, (byte) => String.fromCharCode(byte)).join(""));
  const decompress = async (payload) => {
    const { header } = codec.parse(payload, quality);
    const whole = new Uint8Array(4 * header.width * header.height);
    await codec.decompress(payload, quality, (rgba, { x, y, width, height }) => {
      for (let row = 0; row < height; row++) {
        whole.set(rgba.subarray(4 * row * width, 4 * (row + 1) * width), 4 * ((y + row) * header.width + x));
      }
    });
    return whole;
  };
  const found = { compressed: [], decompressed: [], corrupt_found: [] };
  for (const { width, height, rgba } of images) {
    const data = new Uint8ClampedArray(bytes(rgba));
    found.compressed.push(text(await codec.compress(await codec.analyse({ width, height, data }), quality)));
  }
  for (const payload of payloads.map(bytes)) found.decompressed.push(text(await decompress(payload)));
  for (const payload of corrupt.map(bytes)) {
    found.corrupt_found.push(await decompress(payload).then((pixels) => pixels.length / 4, (error) => {
      return error instanceof Problem ? "Problem" : String(error);
    }));
  }
  return found;
}

try {
  await SCENARIOS[job.scenario]();
} catch (error) {
  report.failure = String(error);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(report));
