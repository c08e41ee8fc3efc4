// The integer half of the page's codec in Node, for tests/test_web_codec.py: tables, tiles, payloads and .tfz files, which
// need no browser and no LiteRT.js.
//   node integers.mjs
// A JSON array of jobs on stdin, one of results on stdout. Arrays travel in base64; what is refused is {problem}.
import { readFileSync } from "node:fs";
import { Codec } from "./codec/codec.js";
import { Problem } from "./codec/problem.js";
import { decode, encode } from "./codec/tiles.js";
import { read, write, portable } from "./codec/tfz.js";

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (encoded) => new Float32Array(bytes(encoded).buffer);
const codecs = new Map();

/** The codec of a folder, without its networks. */
async function codecOf(folder) {
  if (!codecs.has(folder)) {
    const file = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
    codecs.set(folder, await Codec.read(JSON.parse(Buffer.from(file("manifest.json"))), { "tables.npz": file("tables.npz") }));
  }
  return codecs.get(folder);
}

const ANSWERS = {
  /** A payload -> its integers. */
  async integers({ folder, payload, quality }) {
    return text(await (await codecOf(folder)).integers(bytes(payload), quality));
  },
  /** float32 latents in units, tile by tile or of one shape -> the payload. */
  async compress({ folder, latents, height, width, grey, quality }) {
    return text(await (await codecOf(folder)).compress({ height, width, grey, latents: latents.map(floats) }, quality));
  },
  /** A tile's latent in steps -> its bytes, the integers that a decoder finds in them. */
  async tile({ folder, latent, rows, columns, quality }) {
    const { model, weight } = (await codecOf(folder)).quality(quality);
    const code = encode(model, floats(latent), rows, columns, weight);
    return { code: text(code), integers: text(decode(model, code, rows, columns)) };
  },
  write: async ({ payloads, ...about }) => text(write(payloads.map(bytes), about)),
  read: async ({ file }) => {
    const found = await read(bytes(file), "the file");
    return { ...found, payloads: found.payloads.map(text) };
  },
  portable: async ({ name }) => portable(name),
};

const results = [];
for (const { ask, ...job } of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    results.push(await ANSWERS[ask](job));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    results.push({ problem: error.message });
  }
}
process.stdout.write(JSON.stringify(results));
