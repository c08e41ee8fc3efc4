// Latents of one shape as payloads, a table for each place: tfcomp/entropy/static.py.
// It owns segments and table sets, whose format tfcomp/coding/range_coder.py specifies; the coder is range_coder.js.
import { joined } from "./payload.js";
import { Problem } from "./problem.js";
import { FrequencyTables, Reader, Writer } from "./range_coder.js";

export class StaticModel {
  constructor(arrays) {
    this.tables = new FrequencyTables(arrays);
    this.index = arrays.index;
    this.sets = arrays.sets[0];
    this.segments = Math.max(1, Math.ceil(this.index.length / arrays.symbols_per_segment[0]));
    this.perSegment = Math.ceil(this.index.length / this.segments);
    this.perSet = this.sets > 1 ? (this.tables.count - 1) / this.sets : this.tables.count;
    this.valuesPerSet = this.sets > 1 ? (this.tables.frequencies.length - this.sets) / this.sets : 0;
  }

  /** The nearest value that the table of a place holds. */
  clip(value, place) {
    const lower = this.tables.lower[this.index[place]];
    return Math.min(Math.max(value, lower), lower + this.tables.sizes[this.index[place]] - 1);
  }

  /** Int32Array of a latent, inside the tables -> the payload. */
  encode(latent) {
    const { tables, index, sets } = this;
    const pieces = this.#cuts().map(([begin, end]) => {
      const positions = Array.from({ length: end - begin }, (_, i) => tables.position(latent[begin + i], index[begin + i]));
      const writer = new Writer(tables);
      let shift = 0;
      if (sets > 1 && positions.length) {
        const set = this.#cheapest(positions);
        writer.push(sets * this.valuesPerSet + set);
        shift = set * this.valuesPerSet;
      }
      for (const position of positions) writer.push(position + shift);
      return writer.bytes();
    });
    const lengths = pieces.slice(0, -1).flatMap(({ length }) => [length & 255, length >> 8]);
    const whole = joined([Uint8Array.from(lengths), ...pieces]);
    return whole.subarray(0, whole.findLastIndex((byte) => byte !== 0) + 1);
  }

  /** A payload -> Int32Array of the latent; a `Problem` for bytes that cannot be one, as far as lengths tell. */
  decode(payload) {
    const { tables, index, sets, segments } = this;
    if (payload.length && payload.at(-1) === 0) throw new Problem("Expected a payload, found bytes that end in zero.");
    const latent = new Int32Array(index.length);
    let offset = 2 * (segments - 1);
    this.#cuts().forEach(([begin, end], segment) => {
      const length = segment < segments - 1
        ? (payload[2 * segment] ?? 0) + 256 * (payload[2 * segment + 1] ?? 0)
        : Math.max(0, payload.length - offset);
      if (payload.length && offset + length > payload.length && segment < segments - 1) {
        throw new Problem(`Expected ${offset + length} bytes or more for ${segments} segments, found ${payload.length}.`);
      }
      const reader = new Reader(payload.subarray(offset, (offset += length)), tables);
      let set = 0;
      if (sets > 1 && end > begin) set = reader.take(tables.count - 1) - sets * this.valuesPerSet;
      for (let place = begin; place < end; place++) {
        const position = reader.take(index[place] + set * this.perSet) - set * this.valuesPerSet;
        latent[place] = position - tables.first[index[place]] + tables.lower[index[place]];
      }
      reader.finish();
    });
    return latent;
  }

  #cuts() {
    const cut = (k) => Math.min(k * this.perSegment, this.index.length);
    return Array.from({ length: this.segments }, (_, k) => [cut(k), cut(k + 1)]);
  }

  /** The set in which a segment costs least, the first of equals. */
  #cheapest(positions) {
    const { costs } = this.tables;
    let [best, least] = [0, Infinity];
    for (let set = 0; set < this.sets; set++) {
      let sum = costs[this.sets * this.valuesPerSet + set];
      for (const position of positions) sum += costs[position + set * this.valuesPerSet];
      if (sum < least) [best, least] = [set, sum];
    }
    return best;
  }
}
