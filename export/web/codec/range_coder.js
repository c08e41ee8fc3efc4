// Messages of integer symbols, to bytes and back: the format that tfcomp/coding/range_coder.py specifies.
// It owns the tables' intervals and the coder's state, and nothing of what a symbol means.
// Everything is integers below 2**31, so that every machine writes and reads the same bytes.
import { Problem } from "./problem.js";

const LEAST = 1 << 22; // the least range between two symbols

/** Integer frequency tables of one precision, stored end to end; see tfcomp/coding/tables.py. */
export class FrequencyTables {
  constructor({ precision, lower, sizes, frequencies }) {
    Object.assign(this, { precision: precision[0], lower, sizes, frequencies });
    const total = 1 << this.precision;
    const values = frequencies.length;
    this.first = new Int32Array(sizes.length);
    this.starts = new Int32Array(values);
    // In coding order, the values ascend and the most probable one comes last: what decoding searches.
    this.orderedStarts = new Int32Array(values);
    this.orderedPositions = new Int32Array(values);
    this.costs = Int32Array.from(frequencies, (f) => Math.round(256 * (this.precision - Math.log2(f))));
    for (let table = 0, first = 0; table < sizes.length; first += sizes[table++]) {
      this.first[table] = first;
      const end = first + sizes[table];
      let top = first;
      for (let p = first + 1; p < end; p++) if (frequencies[p] > frequencies[top]) top = p;
      let [start, place] = [0, first];
      const put = (position) => {
        this.starts[position] = this.orderedStarts[place] = start;
        this.orderedPositions[place++] = position;
        start += frequencies[position];
      };
      for (let p = first; p < end; p++) if (p !== top) put(p);
      put(top);
      if (start !== total) throw new Problem(`Expected frequencies that sum to ${total}, found ${start}.`);
    }
  }

  get count() {
    return this.sizes.length;
  }

  /** Where a value lies in `frequencies`; a `Problem` if its table does not hold it. */
  position(value, table) {
    const symbol = value - this.lower[table];
    if (symbol < 0 || symbol >= this.sizes[table]) throw new Problem(`Expected a value inside its table, found ${value}.`);
    return this.first[table] + symbol;
  }
}

/** Codes one message: `push` its symbols, by their positions in the tables, then take its bytes. */
export class Writer {
  constructor(tables) {
    this.tables = tables;
    this.low = 0;
    this.range = 1 << 30;
    this.digits = [];
  }

  push(position) {
    const { precision, starts, frequencies } = this.tables;
    const [start, frequency] = [starts[position], frequencies[position]];
    const unit = this.range >> precision;
    this.low += unit * start;
    this.range = start + frequency === 1 << precision ? this.range - unit * start : unit * frequency;
    for (let i = 0; i < 2 && this.range < LEAST; i++) {
      this.digits.push(this.low >> 22);
      this.low = (this.low & (LEAST - 1)) << 8;
      this.range <<= 8;
    }
  }

  /** Uint8Array, without trailing zeros. */
  bytes() {
    // Of the interval's integers, the one with the most trailing zero bits ends the message.
    let value = 0;
    for (let scale = 2 ** 30; ; scale /= 2) {
      value = Math.ceil(this.low / scale) * scale;
      if (value < this.low + this.range) break;
    }
    const digits = [...this.digits, Math.floor(value / LEAST)];
    for (let i = digits.length - 1; i > 0; i--) {
      if (digits[i] > 255) {
        digits[i] -= 256;
        digits[i - 1]++; // a ninth bit carries
      }
    }
    while (digits.at(-1) === 0) digits.pop();
    return Uint8Array.from(digits);
  }
}

/** Reads the symbols of one message; whatever the bytes, each lies inside its table. */
export class Reader {
  constructor(bytes, tables) {
    [this.data, this.tables, this.read] = [bytes, tables, 4];
    const at = (i) => bytes[i] ?? 0;
    this.code = ((at(0) << 24) | (at(1) << 16) | (at(2) << 8) | at(3)) >>> 2;
    this.range = 1 << 30;
  }

  /** The position of the next symbol, of this table. */
  take(table) {
    const { precision, first, sizes, starts, frequencies, orderedStarts, orderedPositions } = this.tables;
    const unit = this.range >> precision;
    const slot = Math.min((this.code / unit) | 0, (1 << precision) - 1);
    let low = first[table];
    for (let high = low + sizes[table]; high - low > 1; ) {
      const middle = (low + high) >> 1;
      if (orderedStarts[middle] <= slot) low = middle;
      else high = middle;
    }
    const position = orderedPositions[low];
    const [start, frequency] = [starts[position], frequencies[position]];
    this.code -= unit * start;
    this.range = start + frequency === 1 << precision ? this.range - unit * start : unit * frequency;
    for (let i = 0; i < 2 && this.range < LEAST; i++) {
      // Codes begin with 30 bits: each later one is the end of a byte and the begin of the next.
      const before = this.read <= this.data.length ? this.data[this.read - 1] : 0;
      const after = this.read < this.data.length ? this.data[this.read] : 0;
      this.code = (this.code << 8) | ((before & 3) << 6) | (after >> 2);
      this.range <<= 8;
      this.read++;
    }
    return position;
  }

  /** Refuses, once the symbols are read, bytes that no message of them has. */
  finish() {
    const longest = this.read - 3;
    if (this.data.length > longest) {
      throw new Problem(`Expected at most ${longest} bytes of a message, found ${this.data.length}.`);
    }
    if (this.data.length && this.data.at(-1) === 0) throw new Problem("Expected a message, found bytes that end in zero.");
  }
}
