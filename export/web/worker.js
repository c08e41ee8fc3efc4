// The codec's thread: it holds one codec, one image and one opened file, and paints what comes out of the bytes.
// The page sends requests and shows answers; it never touches a pixel, so that it stays alive.
// A classic worker, since LiteRT.js loads its WebAssembly by importScripts; a newer request stops an older one.
const imports = Promise.all(
  ["artifact", "codec", "networks", "pixels", "problem", "tfz"].map((name) => import(`./codec/${name}.js`)),
).then((modules) => Object.assign({}, ...modules));
imports.catch(() => {}); // a file that is missing is told to the first request, which may come later

const MAX_PIXELS = 89_000_000; // as tfcomp's reader of image files
const MAX_SIDE = 16_384; // of a canvas, in some browsers
const SHARES = { analysis: [0, 0.3], writing: [0.3, 0.5], reading: [0.5, 1] }; // of the progress bar

class Stopped extends Error {}

let latest = 0; // number of the newest request
let opened = 0; // of the newest that opens something: another quality does not stop the networks on the same picture
let queue = Promise.resolve();
let codec, canvas, image, archive;

const answer = (id, about) => postMessage({ id, ...about });

/** Lets messages in and the canvas out; stops the work if a newer request came in. */
async function breathe(id, newest = () => latest) {
  await new Promise((resolve) => setTimeout(resolve));
  if (id < newest()) throw new Stopped();
}

/** A `step` that reports a stage's progress. */
const reporting = (id, stage, words, newest) => async (done, all) => {
  const [from, to] = SHARES[stage];
  answer(latest, { progress: from + ((to - from) * done) / all, words });
  await breathe(id, newest);
};

const REQUESTS = {
  /** The codec of a folder's address; results are painted on the canvas. */
  async start({ id, artifact, canvas: given }) {
    const { fetchArtifact, Codec, runtime } = await imports;
    canvas = given;
    const { manifest, files, checked } = await fetchArtifact(artifact);
    codec = await Codec.read(manifest, files);
    if (![1, 3, 4].includes(codec.channels)) {
      const { Problem } = await imports;
      throw new Problem(`Expected a codec of images of 1, 3 or 4 channels, found ${codec.channels}.`);
    }
    const relaxed = await (await runtime()).supportsFeature("relaxedSimd");
    answer(id, { ready: { manifest, checked, relaxed, qualities: manifest.qualities } });
  },

  async image({ id, file, name, quality }) {
    const { Problem } = await imports;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none" });
    } catch {
      throw new Problem(`${name} is not an image that this browser reads.`);
    }
    await checkSize(bitmap, name);
    image = archive = null;
    const found = [bitmap.width, bitmap.height];
    const [width, height] = codec.anySize ? found : [codec.width, codec.height];
    const surface = new OffscreenCanvas(width, height);
    const context = surface.getContext("2d", { willReadFrequently: true });
    context.fillStyle = codec.anySize ? "#fff" : "#000"; // what is transparent lies on it; no codec of photographs has alpha
    if (codec.channels < 4) context.fillRect(0, 0, width, height);
    const scale = Math.min(width / found[0], height / found[1]);
    const [w, h] = [found[0] * scale, found[1] * scale];
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    bitmap.close();
    await breathe(id, () => opened);
    const data = context.getImageData(0, 0, width, height);
    // Of an image that was scaled, the page shows and compares what the codec was given.
    const given = scale === 1 ? file : await surface.convertToBlob({ type: "image/png" });
    answer(id, { image: { width, height, found, given, name } });
    const analysed = await codec.analyse(data, reporting(id, "analysis", "Looking at the picture", () => opened));
    image = { name, data, analysed };
    await breathe(id);
    await code(id, quality);
  },

  async quality({ id, quality }) {
    if (image) await code(id, quality);
  },

  async archive({ id, file, name }) {
    const { Problem, read } = await imports;
    const found = await read(new Uint8Array(await file.arrayBuffer()), name);
    const quality = codec.qualityOf(found.fingerprint);
    if (quality === null) {
      throw new Problem(
        `Expected a file of this page's codec, ${codec.manifest.fingerprint}, found one of ${found.fingerprint} in ${name}.`);
    }
    if (!found.payloads.length) throw new Problem(`Expected an image in ${name}, found none.`);
    await checkSize(codec.parse(found.payloads[0], quality).header, name); // before what is shown gives way
    image = null;
    archive = { ...found, quality, file, name };
    const names = found.payloads.map((_, i) => found.names?.[i] ?? `image ${i + 1}`);
    answer(id, { archive: { names, name } });
    await show(id, 0);
  },

  async item({ id, index }) {
    if (archive) await show(id, index);
  },

  async png({ id }) {
    answer(id, { png: await canvas.convertToBlob({ type: "image/png" }) });
  },
};

/** Compresses the image at a quality, and shows what comes back out of the bytes. */
async function code(id, quality) {
  const { write, portable, psnr, squaredError } = await imports;
  const { name, data, analysed } = image;
  const began = performance.now();
  const payload = await codec.compress(analysed, quality, reporting(id, "writing", "Writing the bytes"));
  const itemShape = codec.manifest.image_shape.map((size) => size ?? 0);
  const file = write([payload], { fingerprint: codec.fingerprint(quality), itemShape, names: [portable(name)] });
  const wrote = performance.now();
  answer(id, { bytes: file.length });
  let error = 0;
  const pixels = await paint(id, payload, quality, (rgba, part) => {
    error += squaredError(data.data, data.width, rgba, part);
  });
  answer(id, {
    result: {
      file: new Blob([file], { type: "application/octet-stream" }),
      bytes: file.length,
      payload: payload.length,
      quality,
      psnr: psnr(error, pixels),
      seconds: [(wrote - began) / 1000, (performance.now() - wrote) / 1000],
    },
  });
}

async function checkSize({ width, height }, name) {
  if (width * height <= MAX_PIXELS && Math.max(width, height) <= MAX_SIDE) return;
  const { Problem } = await imports;
  throw new Problem(`Expected at most ${MAX_PIXELS} pixels and ${MAX_SIDE} a side, found ${width} by ${height} in ${name}.`);
}

/** Shows an image of the opened file. */
async function show(id, index) {
  const { payloads, quality, file, name } = archive;
  const began = performance.now();
  const { header } = codec.parse(payloads[index], quality);
  await checkSize(header, name);
  answer(id, { image: { width: header.width, height: header.height } });
  const pixels = await paint(id, payloads[index], quality);
  answer(id, {
    result: {
      bytes: file.size,
      payload: payloads[index].length,
      quality: header.quality,
      seconds: [0, (performance.now() - began) / 1000],
    },
  });
}

/** Decodes a payload onto the canvas; resolves to its number of pixels. */
async function paint(id, payload, quality, each = () => {}) {
  const { header } = codec.parse(payload, quality);
  if (canvas.width !== header.width || canvas.height !== header.height) {
    Object.assign(canvas, { width: header.width, height: header.height });
  }
  const context = canvas.getContext("2d");
  await codec.decompress(payload, quality, (rgba, part) => {
    context.putImageData(new ImageData(rgba, part.width, part.height), part.x, part.y);
    answer(id, { painted: true });
    each(rgba, part);
  }, reporting(id, "reading", "Reading the bytes back"));
  return header.width * header.height;
}

onmessage = ({ data: { request, ...about } }) => {
  latest = about.id;
  if (request !== "quality") opened = about.id;
  queue = queue.then(async () => {
    if (about.id < (request === "image" ? opened : latest)) return;
    try {
      await REQUESTS[request](about);
    } catch (error) {
      if (error instanceof Stopped) return;
      const { Problem } = await imports.catch(() => ({})); // a file of the page may be missing
      const foreseen = Problem && error instanceof Problem;
      answer(about.id, { problem: foreseen ? error.message : `This did not work: ${error.message}` });
    }
  });
};
