// Runs .tflite files in LiteRT.js in a headless browser, for benchmarks/litert_js.py.
//   node compute.mjs CHROMIUM PAGE
// One JSON line on stdin, {model: address, rows: [{uint8: base64, int32: base64}, ...]}, one on stdout, the rows of
// results. Tensors are told apart by their types, as in codec/networks.js. A line that fails is answered by {error}.
import { createInterface } from "node:readline";
import { launch } from "./browser.mjs";

/** In the page: one model, compiled when it is first asked for, on each row of typed arrays. */
async function compute({ model, rows }) {
  const { Model } = await import("./codec/networks.js");
  const models = (globalThis.models ??= new Map());
  if (!models.has(model)) models.set(model, await Model.load(new Uint8Array(await (await fetch(model)).arrayBuffer())));
  const types = { uint8: Uint8Array, int32: Int32Array };
  const decode = ([type, text]) => [type, new types[type](Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer)];
  const encode = ([type, { buffer }]) => [type, btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""))];
  const mapped = (object, f) => Object.fromEntries(Object.entries(object).map(f));
  const results = [];
  for (const row of rows) results.push(mapped(await models.get(model).run(mapped(row, decode)), encode));
  return results;
}

const [executable, address] = process.argv.slice(2);
const browser = await launch(executable);
try {
  const page = await browser.newPage();
  await page.goto(address);
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await page.evaluate(compute, JSON.parse(line)).catch((error) => ({ error: String(error) }));
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
} finally {
  await browser.close();
}
