// Bytes that zlib or a .zip stored, in full, by the platform's own inflater: never more than was announced.
import { Problem } from "./problem.js";

/** @param format "deflate" (zlib) or "deflate-raw"  @param size bytes in full  @param what for the message */
export async function inflate(stored, size, format, what) {
  const whole = new Uint8Array(size);
  let length = 0;
  const reader = new Blob([stored]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (length + value.length > size) throw new Problem("more");
      whole.set(value, length);
      length += value.length;
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw new Problem(`Expected ${size} bytes for ${what}, found ${error instanceof Problem ? "more" : "no zlib data"}.`);
  }
  if (length !== size) throw new Problem(`Expected ${size} bytes for ${what}, found ${length}.`);
  return whole;
}
