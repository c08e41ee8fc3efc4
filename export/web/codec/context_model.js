// Which table codes each coefficient of a latent of any size, from what was coded before: tfcomp/entropy/context.py.
// It owns the passes, the two sums and the choice of tables; tiles.js owns the bytes.
// Most coefficients are zero: so each one that is not adds its share to its neighbours' sums, instead of every place
// gathering from all of its neighbours. Sums are integers below 2**24, the same whatever the order.
import { Problem } from "./problem.js";
import { FrequencyTables } from "./range_coder.js";

const UNIT_LOG2 = 10;
const MAX_PARTS_LOG2 = UNIT_LOG2 - 1;
const FINENESS_LOG2 = 3;
const LARGEST = 255; // the largest magnitude that counts in a context
const MAX_SUM = 1 << 24;

/** A square pattern of phases, from a flat array. */
class Pattern {
  constructor(phases) {
    [this.phases, this.side] = [phases, Math.sqrt(phases.length)];
    this.count = Math.max(...phases) + 1;
  }

  at(y, x) {
    return this.phases[(y % this.side) * this.side + (x % this.side)];
  }
}

export class ContextModel {
  constructor(arrays) {
    const { groups, kinds, thresholds, not_coded, reaches, base, reach } = arrays;
    Object.assign(this, { base, reaches, tables: new FrequencyTables(arrays), reach: reach[0] });
    this.channels = groups.reduce((sum, n) => sum + n, 0);
    if (base.length !== this.channels) throw new Problem(`Expected ${this.channels} channels, found ${base.length}.`);
    this.firstPhases = new Pattern(arrays.first_phases);
    this.otherPhases = new Pattern(arrays.other_phases);
    this.passes = [];
    for (let group = 0, start = 0; group < groups.length; start += groups[group++]) {
      const pattern = group ? this.otherPhases : this.firstPhases;
      for (let phase = 0; phase < pattern.count; phase++) {
        const last = phase === pattern.count - 1;
        this.passes.push({ group, phase, pattern, start, count: groups[group], last });
      }
    }
    this.contextual = this.passes.length > 1;
    const kernels = this.contextual ? 1 + (groups.length > 1 ? this.otherPhases.count : 0) : 0;
    this.kernels = Array.from({ length: kernels }, (_, i) => interleaved(arrays[`scales_${i}`], arrays[`means_${i}`]));

    // === What the passes look up ===
    const levels = thresholds.length + 1;
    this.parts = 1 << arrays.parts_log2[0];
    this.partShift = MAX_PARTS_LOG2 - arrays.parts_log2[0];
    const bounds = [-MAX_SUM, ...thresholds, MAX_SUM];
    this.least = kinds.map((kind) => bounds[not_coded[kind]]);
    this.kindTable = kinds.map((kind) => kind * levels * this.parts);
    this.highest = thresholds.at(-1) ?? null;
    const steps = ((this.highest ?? 0) >> FINENESS_LOG2) + 1;
    const level = (step) => thresholds.filter((threshold) => threshold >> FINENESS_LOG2 <= step).length;
    this.levelTable = Int32Array.from({ length: steps }, (_, step) => level(step) * this.parts);
    const overflows = arrays.overflow_tables[0];
    this.overflowTable = Int32Array.from(reaches, (_, table) =>
      reaches.length + Math.floor(((Math.floor(table / this.parts) % levels) * overflows) / levels));
  }

  /**
   * Goes through a tile in coding order. For each pass `code` is given what codes its coefficients, as
   * {count, at, mean, table, sign}, and puts the coefficients into the integers.
   *
   * @param code function of {pass, count: how many have symbols, at: their places in the integers, mean, table, sign}
   * @returns Int32Array [height * width * channels]
   */
  walk(height, width, code) {
    const { channels, least, levelTable, kindTable, parts, partShift } = this;
    const integers = new Int32Array(height * width * channels);
    const sums = new Int32Array(2 * integers.length); // of each coefficient that of magnitudes, then that of means
    for (let i = 0; i < integers.length; i++) sums[2 * i] = this.base[i % channels];
    const most = height * width * Math.max(...this.passes.map((pass) => pass.count));
    const [at, mean, table, sign] = Array.from({ length: 4 }, () => new Int32Array(most));
    for (const pass of this.passes) {
      const first = pass.group === 0 && pass.phase === 0 && this.highest !== null;
      let count = 0;
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (pass.pattern.at(y, x) !== pass.phase) continue;
          const place = (y * width + x) * channels;
          for (let channel = pass.start; channel < pass.start + pass.count; channel++) {
            const i = place + channel;
            const scale = first ? this.highest : sums[2 * i];
            const total = sums[2 * i + 1];
            const expected = (total + (1 << (UNIT_LOG2 - 1))) >> UNIT_LOG2;
            integers[i] = expected;
            if (scale < least[channel]) continue;
            const rest = total - (expected << UNIT_LOG2);
            const step = Math.min(Math.max(scale >> FINENESS_LOG2, 0), levelTable.length - 1);
            const part = Math.min(Math.abs(rest) >> partShift, parts - 1);
            at[count] = i;
            mean[count] = expected;
            table[count] = levelTable[step] + kindTable[channel] + part;
            sign[count++] = rest < 0 ? -1 : 1;
          }
        }
      }
      code({ pass, count, at, mean, table, sign }, integers);
      this.#spread(pass, height, width, integers, sums);
    }
    return integers;
  }

  /** Adds what a pass says of later ones to their sums. */
  #spread(pass, height, width, integers, sums) {
    const { channels, otherPhases, kernels } = this;
    const end = pass.start + pass.count;
    const later = pass.last && end < channels;
    if (pass.last && !later) return;
    // Once a group is complete, all its positions speak to later groups; until then those of this phase to its own.
    const reach = later || pass.group ? 1 : this.reach;
    const [first, count] = later ? [end, channels - end] : [pass.start, pass.count];
    const taps = [];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!later && pass.pattern.at(y, x) !== pass.phase) continue;
        taps.length = 0; // of the neighbours that look at this position: kernel, first sum, first weight, step of weights
        for (let dy = -reach; dy <= reach; dy++) {
          for (let dx = -reach; dx <= reach; dx++) {
            const [row, column] = [y - dy, x - dx];
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            const tap = (dy + reach) * (2 * reach + 1) + dx + reach;
            const phase = (later ? otherPhases : pass.pattern).at(row, column);
            if (!later && phase <= pass.phase) continue;
            const to = 2 * ((row * width + column) * channels + first);
            if (later || pass.group) taps.push(kernels[1 + phase], to, 2 * (tap * channels * channels + first), 2 * channels);
            else {
              const outputs = count * pass.pattern.count;
              taps.push(kernels[0], to, 2 * (tap * count * outputs + count * phase), 2 * outputs);
            }
          }
        }
        const place = (y * width + x) * channels;
        for (let input = pass.start; input < end; input++) {
          const value = Math.min(Math.max(integers[place + input], -LARGEST), LARGEST);
          if (value === 0) continue;
          for (let i = 0; i < taps.length; i += 4) add(sums, taps[i + 1], taps[i], taps[i + 2] + input * taps[i + 3], count, value);
        }
      }
    }
  }
}

function add(sums, to, kernel, from, count, value) {
  const magnitude = Math.abs(value);
  for (const end = to + 2 * count; to < end; to += 2, from += 2) {
    sums[to] = (sums[to] + Math.imul(magnitude, kernel[from])) | 0;
    sums[to + 1] = (sums[to + 1] + Math.imul(value, kernel[from + 1])) | 0;
  }
}

/** Weights of both sums side by side; of 16 bits where they fit, since more of them stay in a processor's cache. */
function interleaved(scales, means) {
  const both = new Int32Array(2 * scales.length);
  scales.forEach((weight, i) => both.set([weight, means[i]], 2 * i));
  return both.every((weight) => weight === (weight << 16) >> 16) ? Int16Array.from(both) : both;
}
