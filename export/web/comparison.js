// A thread that writes an image by the browser's own JPEG and WebP, each the best of at most as many bytes as tfcomp needed.
// It is given a file and a number of bytes, and answers once for each format; to stop it, end it.
import { psnr, squaredError } from "./codec/pixels.js";

const FORMATS = ["image/jpeg", "image/webp"];

/** RGBA of a file that the browser reads, and the canvas that it lies on. */
async function drawn(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { canvas, data: context.getImageData(0, 0, canvas.width, canvas.height) };
}

onmessage = async ({ data: { file, bytes } }) => {
  const { canvas, data } = await drawn(file);
  for (const type of FORMATS) {
    try {
      postMessage({ type, ...(await best(canvas, data, type, bytes)) });
    } catch (error) {
      postMessage({ type, problem: error.message });
    }
  }
};

/** The highest quality whose file has at most so many bytes; else the lowest, which has the fewest. */
async function best(canvas, original, type, bytes) {
  const at = async (quality) => ({ quality, blob: await canvas.convertToBlob({ type, quality: quality / 100 }) });
  let found = await at(0);
  if (found.blob.type !== type) throw new Error("this browser does not write it");
  for (let low = 0, high = 101; high - low > 1; ) {
    const tried = await at((low + high) >> 1);
    if (tried.blob.size <= bytes) [found, low] = [tried, tried.quality];
    else high = tried.quality;
  }
  const { data } = await drawn(found.blob);
  const { width, height } = original;
  const error = squaredError(original.data, width, data.data, { x: 0, y: 0, width, height });
  return { blob: found.blob, quality: found.quality, psnr: psnr(error, width * height) };
}
