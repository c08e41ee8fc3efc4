// Variable-length integers (LEB128), as tfcomp/coding/varints.py. A value has exactly one form; here it stays below 2**53.
import { Problem } from "./problem.js";

/** Whole numbers of 0 or more -> bytes, end to end. */
export function pack(values) {
  const bytes = [];
  for (let value of values) {
    for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
    bytes.push(value);
  }
  return bytes;
}

/** Reads integers one after another from `offset` of bytes. */
export class Reader {
  constructor(bytes, offset, source) {
    [this.bytes, this.offset, this.source] = [bytes, offset, source];
  }

  next() {
    let [value, scale] = [0, 1];
    for (let size = 1; size <= 9; size++, scale *= 128) {
      const byte = this.bytes[this.offset++];
      if (byte === undefined) throw new Problem(`Expected an integer at the end of ${this.source}, found no end of it.`);
      value += (byte & 127) * scale;
      if (byte < 128) {
        if ((size > 1 && byte === 0) || value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
    }
    throw new Problem(`Expected the shortest form of an integer below 2**53 in ${this.source}, found another.`);
  }
}
