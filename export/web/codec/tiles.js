// The coefficients of one tile as bytes: the passes of context_model.js through the lanes of the range coder.
// It owns the choice of integers, lanes and their lengths, as tfcomp/entropy/tiles.py; that file is the format.
// The choice weighs bits against error in the very float32 and float64 steps of NumPy, so that equal latents make equal
// bytes.
import { joined } from "./payload.js";
import { Problem } from "./problem.js";
import { Reader, Writer } from "./range_coder.js";
import { pack as varints, Reader as Varints } from "./varints.js";

const MAX_LANES_LOG2 = 10;
const MAX_SYMBOLS_PER_LANE = 4096;
const BYTES_PER_LANE = 256;
const SYMBOLS_PER_LANE = 2000;
const LARGEST_VALUE = 2 ** 24;
const OVERFLOW = 255;
const CONTEXT_SHARE = 0.15;
const COST_UNITS = 256;

/** The nearest whole number, of two equally near the even one. */
export function rint(value) {
  const up = Math.floor(value + 0.5);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** The symbol of a residual in a table of this reach, and its overflow, -1 where it has none. */
function split(residual, reach) {
  const symbol = Math.min(Math.max(residual, -reach), reach);
  return [symbol, Math.abs(symbol) === reach ? Math.abs(residual) - reach : -1];
}

/**
 * The bytes of a tile.
 *
 * @param latent Float32Array [height * width * channels], in steps
 * @param weight Float32Array [channels], the bits that one squared step of error is worth
 */
export function encode(model, latent, height, width, weight) {
  const { tables, reaches, overflowTable, contextual, channels } = model;
  const share = Math.fround((1 + (contextual ? CONTEXT_SHARE : 0)) / COST_UNITS);
  const cost = (candidate, exact, mean, table, sign, channel) => {
    const reach = reaches[table];
    const [symbol, overflow] = split((candidate - mean) * sign, reach);
    let units = tables.costs[tables.first[table] + symbol + reach];
    if (overflow >= 0) units += tables.costs[tables.first[overflowTable[table]] + overflow];
    return Math.fround(units * share) + weight[channel] * (candidate - exact) ** 2;
  };
  const values = []; // positions of symbols, then of overflow, pass by pass
  let [units, count] = [0, 0];
  model.walk(height, width, (found, integers) => {
    const rounding = contextual && found.pass === model.passes[0];
    const symbols = new Int32Array(found.count);
    const overflows = [];
    for (let i = 0; i < found.count; i++) {
      const [at, mean, table, sign] = [found.at[i], found.mean[i], found.table[i], found.sign[i]];
      const exact = Math.min(Math.max(latent[at], -LARGEST_VALUE), LARGEST_VALUE);
      const reach = reaches[table];
      const most = reach + OVERFLOW;
      let chosen = Math.min(Math.max(rint(exact), mean - most), mean + most);
      if (!rounding && chosen !== mean) {
        const channel = at % channels;
        const nearer = chosen - Math.sign(chosen - mean);
        const [here, there] = [chosen, nearer].map((candidate) => cost(candidate, exact, mean, table, sign, channel));
        if (there < here) chosen = nearer;
      }
      integers[at] = chosen;
      const [symbol, overflow] = split((chosen - mean) * sign, reach);
      symbols[i] = tables.first[table] + symbol + reach;
      units += tables.costs[symbols[i]];
      if (overflow >= 0) overflows.push(tables.first[overflowTable[table]] + overflow);
    }
    for (const position of overflows) units += tables.costs[position];
    count += symbols.length + overflows.length;
    values.push(symbols, overflows);
  });
  const wanted = Math.max(units / COST_UNITS / 8 / BYTES_PER_LANE, count / SYMBOLS_PER_LANE, 1);
  const lanesLog2 = Math.min(Math.round(Math.log2(wanted)), MAX_LANES_LOG2);
  const lanes = Array.from({ length: 1 << lanesLog2 }, () => new Writer(tables));
  for (const positions of values) {
    for (let i = 0; i < positions.length; i++) lanes[i & (lanes.length - 1)].push(positions[i]);
  }
  const pieces = lanes.map((lane) => lane.bytes());
  const lengths = pieces.slice(0, -1).map((piece) => piece.length);
  const folded = lengths.map((length, i) => {
    const more = length - (i ? lengths[i - 1] : 0);
    return more < 0 ? -2 * more - 1 : 2 * more;
  });
  return joined([Uint8Array.of(lanesLog2, ...varints(folded)), ...pieces]);
}

/** The integers of a tile, Int32Array [height * width * channels]; the inverse of `encode`. */
export function decode(model, bytes, height, width) {
  const { tables, reaches, overflowTable } = model;
  if (!(bytes[0] <= MAX_LANES_LOG2)) {
    throw new Problem(`Expected a tile to begin with a number of 0 to ${MAX_LANES_LOG2}, found ${bytes[0] ?? "no bytes"}.`);
  }
  const lanes = laneBytes(bytes, 1 << bytes[0]).map((piece) => new Reader(piece, tables));
  const last = lanes.length - 1;
  let left = MAX_SYMBOLS_PER_LANE * lanes.length;
  const claim = (count) => {
    if ((left -= count) < 0) throw new Problem("Expected fewer symbols in a tile of so few bytes, found more.");
  };
  const integers = model.walk(height, width, ({ count, at, mean, table, sign }, whole) => {
    claim(count);
    const ends = [];
    for (let i = 0; i < count; i++) {
      const reach = reaches[table[i]];
      const symbol = lanes[i & last].take(table[i]) - tables.first[table[i]] - reach;
      if (symbol === reach || symbol === -reach) ends.push(i);
      whole[at[i]] = mean[i] + symbol * sign[i];
    }
    claim(ends.length);
    ends.forEach((i, place) => {
      const own = overflowTable[table[i]];
      const overflow = lanes[place & last].take(own) - tables.first[own];
      whole[at[i]] += Math.sign(whole[at[i]] - mean[i]) * overflow;
    });
  });
  for (const lane of lanes) lane.finish();
  return integers;
}

function laneBytes(bytes, count) {
  const reader = new Varints(bytes, 1, "the lengths of a tile's lanes");
  const lengths = [];
  let length = 0;
  for (let i = 0; i < count - 1; i++) {
    const folded = reader.next();
    length += folded % 2 ? -(folded + 1) / 2 : folded / 2;
    lengths.push(length);
  }
  const room = bytes.length - reader.offset;
  const sum = lengths.reduce((total, each) => total + each, 0);
  if (sum > room || lengths.some((each) => each < 0)) {
    throw new Problem(`Expected the lengths of a tile's lanes within ${room} bytes, found ${sum}.`);
  }
  let offset = reader.offset;
  return [...lengths.map((each) => bytes.subarray(offset, (offset += each))), bytes.subarray(offset)];
}
