// The arrays of an .npz (a .zip of .npy files), as typed arrays with their shape left out; little-endian numbers alone.
// It owns those two formats and nothing of what the arrays mean.
import { inflate } from "./inflate.js";
import { Problem } from "./problem.js";

const TYPES = { "<i4": Int32Array, "<f4": Float32Array, "<f8": Float64Array };
const MAX_BYTES = 2 ** 28;

/** @returns {Promise<Object<string, Int32Array | Float32Array | Float64Array>>} by name */
export async function readNpz(bytes, source) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Problem(`Expected ${source} as an .npz file, found something else.`);
  const arrays = {};
  let total = 0;
  for (let at = view.getUint32(end + 16, true), left = view.getUint16(end + 10, true); left > 0; left--) {
    const [method, stored, full] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const local = view.getUint32(at + 42, true);
    const begin = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if ((total += full) > MAX_BYTES) throw new Problem(`Expected at most ${MAX_BYTES} bytes of arrays in ${source}, found more.`);
    const data = bytes.subarray(begin, begin + stored);
    const npy = method === 8 ? await inflate(data, full, "deflate-raw", `${name} of ${source}`) : data;
    arrays[name.replace(/\.npy$/, "")] = readNpy(npy, `${name} of ${source}`);
    at += 46 + nameLength + extra + comment;
  }
  return arrays;
}

function readNpy(bytes, source) {
  const length = bytes[8] + 256 * bytes[9];
  const header = new TextDecoder().decode(bytes.subarray(10, 10 + length));
  const Type = TYPES[/'descr': '([^']*)'/.exec(header)?.[1]];
  if (bytes[6] !== 1 || !Type || !header.includes("'fortran_order': False")) {
    throw new Problem(`Expected ${source} as an array of 32-bit integers or floats, found another.`);
  }
  return new Type(bytes.slice(10 + length).buffer);
}
