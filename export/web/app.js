// The page, and the codec it runs: encoder.tflite and decoder.tflite of an artifact folder, in LiteRT.js.
// What can be foreseen to be missing ends in a `Problem`, whose message says what and what to do.

export class Problem extends Error {}

const LITERT = new URL("litert/", import.meta.url).href;
const TFZ = [0x89, 0x54, 0x46, 0x5a];

// === Codec ===

let litert;

/** Loads LiteRT.js and its WebAssembly once; resolves to the module. */
async function runtime() {
  if (typeof WebAssembly === "undefined") {
    throw new Problem("This browser has no WebAssembly, or it is switched off; the codec cannot run here.");
  }
  litert ??= (async () => {
    try {
      const module = await import("@litertjs/core");
      await module.loadLiteRt(`${LITERT}wasm/`);
      return module;
    } catch (error) {
      throw new Problem(
        "LiteRT.js did not start. It needs the files in litert/, which npm ci in this page's folder puts there, and a " +
        `browser with WebAssembly SIMD. (${error.message ?? "A file is missing"}.)`);
    }
  })();
  return litert;
}

/** The bytes of a file beside the page. */
async function fetchBytes(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Problem(`${url} could not be fetched: ${error.message}.`);
  }
  if (!response.ok) throw new Problem(`${url} is not there (HTTP ${response.status}).`);
  return new Uint8Array(await response.arrayBuffer());
}

const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));

/** A .tflite file, compiled for the CPU. Tensors are told apart by type and size, so no name matters. */
export class Model {
  static async load(bytes) {
    const module = await runtime();
    return new Model(module, await module.loadAndCompile(bytes, { accelerator: "wasm" }));
  }

  constructor(module, compiled) {
    [this.module, this.compiled] = [module, compiled];
    [this.inputs, this.outputs] = [compiled.getInputDetails(), compiled.getOutputDetails()];
  }

  /** Elements of the input of this type ("uint8" or "int32"). */
  size(dtype) {
    return this.inputs.find((input) => input.dtype === dtype).shape.reduce((a, b) => a * b, 1);
  }

  /** One typed array for each type among the inputs, {uint8, int32}, to the same of the outputs. */
  async run(arrays) {
    const tensors = this.inputs.map(({ dtype, shape }) => new this.module.Tensor(arrays[dtype], shape));
    const results = await this.compiled.run(tensors);
    const found = this.outputs.map(({ dtype }, i) => [dtype, results[i].toTypedArray().slice()]);
    for (const tensor of [...tensors, ...results]) tensor.delete();
    return Object.fromEntries(found);
  }
}

export class Codec {
  /** Loads `manifest.json`, `encoder.tflite` and `decoder.tflite` from a folder's address. */
  static async load(folder) {
    let manifest;
    try {
      manifest = JSON.parse(new TextDecoder().decode(await fetchBytes(new URL("manifest.json", folder).href)));
    } catch (error) {
      throw new Problem(
        `No codec: ${error.message} Put the folder that codec.export() wrote beside this page as artifact/, or name ` +
        "it in the address: ?artifact=FOLDER/.");
    }
    const qualities = manifest.fingerprints?.length ?? 1;
    if (qualities > 1) {
      throw new Problem(`Expected a codec of one quality, found one of ${qualities}: export one with a single step.`);
    }
    if (manifest.image_shape.includes(null)) {
      throw new Problem("Expected a codec of images of one size, found one of any size.");
    }
    const models = [];
    for (const name of ["encoder.tflite", "decoder.tflite"]) {
      const bytes = await fetchBytes(new URL(name, folder).href);
      // Browsers offer digests on https: and localhost alone.
      if (crypto.subtle) {
        const digest = toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))).join("");
        if (digest !== manifest.files?.[name]?.sha256) {
          throw new Problem(
            `${name} is not what manifest.json describes: it was changed, or belongs to another artifact. ` +
            "Copy the whole artifact folder again.");
        }
      }
      models.push(await Model.load(bytes));
    }
    return new Codec(manifest, ...models);
  }

  constructor(manifest, encoder, decoder) {
    [this.manifest, this.encoder, this.decoder] = [manifest, encoder, decoder];
    [this.height, this.width, this.channels] = manifest.image_shape;
    this.capacity = decoder.size("uint8");
  }

  /** Uint8Array [height * width * channels] -> the payload, a Uint8Array. */
  async compress(pixels) {
    const { uint8: buffer, int32: length } = await this.encoder.run({ uint8: pixels });
    return buffer.slice(0, length[0]);
  }

  /** A payload -> Uint8Array [height * width * channels]; a `Problem` for what no payload of this codec can be. */
  async decompress(payload) {
    if (TFZ.every((byte, i) => payload[i] === byte)) {
      throw new Problem("This is a .tfz file of many payloads; the page opens single payloads, as codec.compress() makes.");
    }
    if (payload.length > this.capacity) {
      throw new Problem(`Expected a payload of at most ${this.capacity} bytes, found ${payload.length}.`);
    }
    if (payload.at(-1) === 0) throw new Problem("Expected a payload, found bytes that end in zero; no payload does.");
    const buffer = new Uint8Array(this.capacity);
    buffer.set(payload);
    return (await this.decoder.run({ uint8: buffer, int32: Int32Array.of(payload.length) })).uint8;
  }
}

// === Pixels ===

/** RGBA of a canvas -> pixels of 1 (luma, ITU-R BT.601), 3 or 4 channels. */
function fromRgba(rgba, channels) {
  const pixels = new Uint8Array((rgba.length / 4) * channels);
  for (let i = 0; i < rgba.length / 4; i++) {
    const [r, g, b, a] = rgba.subarray(4 * i, 4 * i + 4);
    pixels.set(channels === 1 ? [Math.round(0.299 * r + 0.587 * g + 0.114 * b)] : [r, g, b, a].slice(0, channels),
      i * channels);
  }
  return pixels;
}

function toRgba(pixels, channels) {
  const rgba = new Uint8ClampedArray((pixels.length / channels) * 4).fill(255);
  for (let i = 0; i < pixels.length / channels; i++) {
    const pixel = pixels.subarray(i * channels, (i + 1) * channels);
    rgba.set(channels === 1 ? [pixel[0], pixel[0], pixel[0]] : pixel, 4 * i);
  }
  return rgba;
}

function psnr(a, b) {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;
  return error ? `${(10 * Math.log10(255 ** 2 / error)).toFixed(1)} dB` : "exact";
}

// === Page ===

const $ = (id) => document.getElementById(id);

function say(text, state = "ready") {
  $("status").textContent = text;
  $("status").dataset.state = state;
}

/** Runs an action of the user's; whatever goes wrong is said and the page lives on. */
const guarded = (action) => async (...args) => {
  try {
    await action(...args);
  } catch (error) {
    say(error instanceof Problem ? error.message : `This did not work: ${error.message}`, "problem");
  }
};

class Page {
  constructor(codec) {
    this.codec = codec;
    for (const id of ["original", "restored"]) {
      $(id).width = codec.width;
      $(id).height = codec.height;
    }
    this.drawing = $("original").getContext("2d", { willReadFrequently: true });
    this.latest = 0; // number of the newest result; older ones that come late are dropped
    this.listen();
    this.clear();
  }

  listen() {
    $("clear").onclick = () => this.clear();
    $("example").onclick = guarded(() => this.example());
    for (const [id, open] of [["image-file", "openImage"], ["payload-file", "openPayload"]]) {
      $(id).onchange = guarded(async ({ target }) => {
        const [file] = target.files;
        target.value = ""; // the same file may be opened again
        if (file) await this[open](file);
      });
    }
    document.ondragover = (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    };
    document.ondragleave = () => document.body.classList.remove("dropping");
    document.ondrop = guarded(async (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      const [file] = event.dataTransfer.files;
      if (!file) throw new Problem("Nothing to open: drop one image file or one payload file.");
      await (file.type.startsWith("image/") ? this.openImage(file) : this.openPayload(file));
    });

    const canvas = $("original");
    const at = ({ clientX, clientY }) => {
      const box = canvas.getBoundingClientRect();
      return [((clientX - box.left) / box.width) * canvas.width, ((clientY - box.top) / box.height) * canvas.height];
    };
    let last = null;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = at(event);
      this.stroke(last, last);
    };
    canvas.onpointermove = (event) => {
      if (last) this.stroke(last, (last = at(event)));
    };
    canvas.onpointerup = canvas.onpointercancel = guarded(async () => {
      last = null;
      await this.compress();
    });
  }

  // --- What the user does ---

  clear() {
    this.latest++;
    this.drawing.fillStyle = "#000";
    this.drawing.fillRect(0, 0, this.codec.width, this.codec.height);
    $("restored").getContext("2d").clearRect(0, 0, this.codec.width, this.codec.height);
    this.show(null);
    $("original-caption").textContent = "Draw here with the pointer.";
  }

  stroke(from, to) {
    Object.assign(this.drawing, { strokeStyle: "#fff", lineCap: "round", lineWidth: this.codec.width / 12 });
    this.drawing.beginPath();
    this.drawing.moveTo(...from);
    this.drawing.lineTo(...to);
    this.drawing.stroke();
  }

  async example() {
    this.clear();
    const points = [[9, 9], [11, 6.5], [14, 5.5], [17, 6.5], [18.5, 9.5], [17.5, 13], [14, 17], [10, 21.5], [14.5, 21], [20, 21.5]];
    const scaled = points.map(([x, y]) => [(x / 28) * this.codec.width, (y / 28) * this.codec.height]);
    scaled.slice(1).forEach((point, i) => this.stroke(scaled[i], point));
    await this.compress();
  }

  async openImage(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Problem(`${file.name} is not an image that this browser reads.`);
    }
    this.clear();
    const { width, height } = this.codec;
    const scale = Math.min(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    this.drawing.imageSmoothingQuality = "high";
    this.drawing.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    $("original-caption").textContent = scale === 1
      ? `${file.name}, ${width} by ${height} pixels as they are.`
      : `${file.name}, scaled from ${bitmap.width} by ${bitmap.height} to fit ${width} by ${height}.`;
    await this.compress();
  }

  async openPayload(file) {
    const payload = new Uint8Array(await file.arrayBuffer());
    const began = performance.now();
    const pixels = await this.codec.decompress(payload);
    const decoding = performance.now() - began;
    this.clear();
    $("original-caption").textContent = "No original: this payload came from a file.";
    this.show(payload, pixels, `Decoded in ${decoding.toFixed(1)} ms.`);
    say(`${file.name}: ${payload.length} bytes decoded.`);
  }

  async compress() {
    const turn = ++this.latest;
    const { width, height, channels } = this.codec;
    const original = fromRgba(this.drawing.getImageData(0, 0, width, height).data, channels);
    const times = [performance.now()];
    const payload = await this.codec.compress(original);
    times.push(performance.now());
    const restored = await this.codec.decompress(payload);
    times.push(performance.now());
    if (turn !== this.latest) return;
    const [encoding, decoding] = [times[1] - times[0], times[2] - times[1]];
    this.show(payload, restored,
      `${original.length} bytes of pixels; encoded in ${encoding.toFixed(1)} ms, decoded in ${decoding.toFixed(1)} ms; ` +
      `reconstruction ${psnr(original, restored)}.`);
    say(`Compressed to ${payload.length} bytes.`);
  }

  // --- What the page shows ---

  show(payload, pixels, figures = "") {
    $("count").textContent = payload ? `${payload.length} byte${payload.length === 1 ? "" : "s"}` : "no bytes yet";
    $("hex").textContent = payload ? toHex(payload).join(" ") : "";
    $("figures").textContent = figures;
    if ($("download").href) URL.revokeObjectURL($("download").href);
    $("download").removeAttribute("href");
    $("download").ariaDisabled = String(!payload);
    if (!payload) return;
    $("download").href = URL.createObjectURL(new Blob([payload], { type: "application/octet-stream" }));
    const { width, height, channels } = this.codec;
    $("restored").getContext("2d").putImageData(new ImageData(toRgba(pixels, channels), width, height), 0, 0);
  }
}

async function start() {
  say("Loading the codec and 9 MB of WebAssembly.", "waiting");
  const folder = new URLSearchParams(location.search).get("artifact") ?? "artifact";
  const codec = await Codec.load(new URL(`${folder.replace(/\/*$/, "")}/`, location.href));
  const page = new Page(codec);
  const { image_shape, latent_shape, fingerprint } = codec.manifest;
  const simd = await (await runtime()).supportsFeature("relaxedSimd");
  $("codec").textContent =
    `Codec ${fingerprint}: images ${image_shape.join(" x ")}, latents ${latent_shape.join(" x ")}, at most ` +
    `${codec.capacity} bytes. Files ${crypto.subtle ? "checked" : "not checked (needs https: or localhost)"} against ` +
    `the manifest. One thread, ${simd ? "relaxed SIMD" : "the slower build for browsers without relaxed SIMD"}.`;
  document.querySelector("main").inert = false;
  say("Ready.");
  return page;
}

/** Resolves when the page is ready; rejects with what was missing. */
export const started = start();
started.catch(guarded((error) => { throw error; }));
