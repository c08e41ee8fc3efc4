// .tflite files in LiteRT.js, on the CPU. It owns the runtime and the sizes of tensors; what they hold is the codec's.
// LiteRT.js takes no tensor with a free axis: `resized` writes the sizes that a window needs into a copy of the file.
// Works in a page and in a classic worker (a module worker cannot load the WebAssembly's script).
import { Problem } from "./problem.js";

const LITERT = new URL("../litert/", import.meta.url).href;

let litert;

/** Loads LiteRT.js and its WebAssembly once; resolves to the module. */
export async function runtime() {
  if (typeof WebAssembly === "undefined") {
    throw new Problem("This browser has no WebAssembly, or it is switched off; the codec cannot run here.");
  }
  litert ??= (async () => {
    try {
      const module = await import("../litert/core.js");
      globalThis.Module = { locateFile: (name) => `${LITERT}wasm/${name}` };
      await module.loadLiteRt(`${LITERT}wasm/`);
      return module;
    } catch (error) {
      throw new Problem(
        "LiteRT.js did not start. It needs the files in litert/, which npm ci in this page's folder puts there, and a " +
        `browser with WebAssembly SIMD. (${reason(error)}.)`);
    }
  })();
  return litert;
}

/** What the browser said, without Emscripten's wrapping. */
const reason = ({ message = "A file is missing" }) =>
  message.replace(/^Aborted\((.*)\)\. Build with.*$/s, "$1").replace(/\.$/, "");

/** A compiled file. Tensors are told apart by type, so no name matters. */
export class Model {
  static async load(bytes) {
    const module = await runtime();
    return new Model(module, await module.loadAndCompile(bytes, { accelerator: "wasm" }));
  }

  constructor(module, compiled) {
    [this.module, this.compiled] = [module, compiled];
    [this.inputs, this.outputs] = [compiled.getInputDetails(), compiled.getOutputDetails()];
  }

  /** One typed array for each type among the inputs, {uint8, int32, float32}, to the same of the outputs. */
  async run(arrays) {
    const tensors = this.inputs.map(({ dtype, shape }) => new this.module.Tensor(arrays[dtype], shape));
    const results = await this.compiled.run(tensors);
    const found = this.outputs.map(({ dtype }, i) => [dtype, results[i].toTypedArray().slice()]);
    for (const tensor of [...tensors, ...results]) tensor.delete();
    return Object.fromEntries(found);
  }

  delete() {
    this.compiled.delete();
  }
}

/** A network of whatever size comes: a model for each of the last few sizes. */
export class Network {
  static KEPT = 3;

  /** @param stride pixels a side of one position of the latent */
  constructor(bytes, stride) {
    [this.bytes, this.stride, this.models] = [bytes, stride, new Map()];
  }

  /** Runs it on a window of so many positions; arrays as `Model.run`. */
  async run(arrays, rows, columns) {
    const key = `${rows} ${columns}`;
    const model = this.models.get(key) ?? (await Model.load(resized(this.bytes, rows, columns, this.stride)));
    this.models.delete(key); // and set again, so that the first is the one not used for longest
    this.models.set(key, model);
    if (this.models.size > Network.KEPT) {
      const [[oldest, unused]] = this.models;
      this.models.delete(oldest);
      unused.delete();
    }
    return model.run(arrays);
  }
}

/**
 * A copy of a .tflite file whose free rows and columns (of inputs and outputs, axes 1 and 2) have these sizes.
 *
 * A .tflite file is a FlatBuffer: a table begins with the distance back to its vtable, which has the places of its fields;
 * a vector begins with its length. Fields used, of LiteRT's schema.fbs: Model.subgraphs (2); SubGraph.tensors (0),
 * .inputs (1), .outputs (2); Tensor.shape (0), .type (1), .shape_signature (7), where -1 is a free axis.
 */
export function resized(bytes, rows, columns, stride) {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const follow = (at) => at + view.getUint32(at, true);
  const field = (table, number) => {
    const vtable = table - view.getInt32(table, true);
    const place = 4 + 2 * number < view.getUint16(vtable, true) ? view.getUint16(vtable + 4 + 2 * number, true) : 0;
    return place ? table + place : null;
  };
  const vector = (table, number) => {
    const at = follow(field(table, number));
    return Array.from({ length: view.getUint32(at, true) }, (_, i) => at + 4 + 4 * i);
  };
  const subgraph = follow(vector(follow(0), 2)[0]);
  const tensors = vector(subgraph, 0);
  for (const place of [...vector(subgraph, 1), ...vector(subgraph, 2)]) {
    const tensor = follow(tensors[view.getInt32(place, true)]);
    if (field(tensor, 7) === null) continue;
    const type = field(tensor, 1);
    const scale = type !== null && view.getInt8(type) === 3 ? stride : 1; // uint8: pixels
    const shape = vector(tensor, 0);
    vector(tensor, 7).forEach((signature, axis) => {
      if (view.getInt32(signature, true) >= 0) return;
      const size = [1, rows * scale, columns * scale][axis] ?? 1;
      view.setInt32(signature, size, true);
      view.setInt32(shape[axis], size, true);
    });
  }
  return copy;
}
