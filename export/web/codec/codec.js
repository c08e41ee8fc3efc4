// A codec: images to payloads and back, of one shape or of any size, of one quality or several.
// It owns quantization and the order of work, tile by tile; networks, tables, tiles and framing are the other files'.
// After each piece of work it awaits `step`, so that who called can paint, report, and stop it by throwing.
import { ContextModel } from "./context_model.js";
import { Plan } from "./geometry.js";
import { Network } from "./networks.js";
import { readNpz } from "./npz.js";
import { pack, parse } from "./payload.js";
import { gather, isGrey, toRgba } from "./pixels.js";
import { Problem } from "./problem.js";
import { StaticModel } from "./static_model.js";
import { decode as decodeTile, encode as encodeTile, rint } from "./tiles.js";

const MODELS = { "context-1": ContextModel, "static-1": StaticModel };
const NEAREST = Math.fround(1e20); // weight of error at which integers are the nearest ones
const LARGEST = 2 ** 30;

export class Codec {
  /** @param manifest of the artifact  @param files bytes by name  */
  static async read(manifest, files) {
    if (!(manifest.format in MODELS)) {
      throw new Problem(`Expected a codec of format ${Object.keys(MODELS).join(" or ")}, found ${manifest.format}.`);
    }
    return new Codec(manifest, await readNpz(files["tables.npz"], "tables.npz"), files);
  }

  constructor(manifest, arrays, files) {
    this.manifest = manifest;
    [this.height, this.width, this.channels] = manifest.image_shape;
    this.anySize = this.height === null;
    this.latentChannels = manifest.latent_shape.at(-1);
    const stride = manifest.grid?.[0] ?? 1;
    this.encoder = new Network(files["encoder_latent.tflite"], stride);
    this.decoder = new Network(files["decoder_latent.tflite"], stride);
    const size = arrays.unit.length;
    const row = (name, i) => arrays[name]?.subarray(i * size, (i + 1) * size);
    this.qualities = new Map(manifest.qualities.map((number, i) => {
      const model = new MODELS[manifest.format](modelArrays(arrays, i + 1));
      const [step, offset, curvature] = ["step", "offset", "curvature"].map((name) => row(name, i));
      const lagrangian = arrays.lagrangian?.[i];
      const weighs = model.contextual && curvature && lagrangian;
      const weight = Float32Array.from(step, (_, k) => (weighs ? lagrangian * curvature[k] : NEAREST));
      return [number, { number, step, offset, weight, model }];
    }));
  }

  quality(number) {
    const found = this.qualities.get(number);
    if (!found) throw new Problem(`Expected a quality of ${[...this.qualities.keys()].join(", ")}, found ${number}.`);
    return found;
  }

  /** The fingerprint that a .tfz file of a quality has: of items of one shape it says the quality too. */
  fingerprint(number) {
    const place = this.manifest.qualities.indexOf(number);
    return this.anySize ? this.manifest.fingerprint : this.manifest.fingerprints[place];
  }

  /** The quality of a file with this fingerprint; 0 where its payloads say it; null if another codec made it. */
  qualityOf(fingerprint) {
    const place = this.manifest.fingerprints.indexOf(fingerprint);
    if (this.anySize) return fingerprint === this.manifest.fingerprint || place >= 0 ? 0 : null;
    return place >= 0 ? this.manifest.qualities[place] : null;
  }

  // === Writing ===

  /**
   * What the encoder network makes of an image, for `compress` at any quality.
   *
   * @param image {width, height, data: RGBA}, an ImageData; of a codec of one shape, of that size
   * @param step async function of (done, all)
   */
  async analyse({ width, height, data }, step = async () => {}) {
    if (!this.anySize) {
      const pixels = gather(data, width, [...Array(height).keys()], [...Array(width).keys()], this.channels);
      return { width, height, grey: false, latents: [(await this.encoder.run({ uint8: pixels }, 0, 0)).float32] };
    }
    const plan = new Plan(this.manifest.grid, height, width);
    const latents = [];
    for (const { y, x, rows, columns, window } of plan.tiles) {
      await step(latents.length, plan.count);
      const axis = (size, before, begin, count) => Plan.mirrored(size, before, begin * plan.stride, count * plan.stride);
      const down = axis(height, plan.top, window.y, window.rows);
      const across = axis(width, plan.left, window.x, window.columns);
      const pixels = gather(data, width, down, across, this.channels);
      const { float32 } = await this.encoder.run({ uint8: pixels }, window.rows, window.columns);
      const latent = new Float32Array(rows * columns * this.latentChannels);
      const length = columns * this.latentChannels;
      for (let row = 0; row < rows; row++) {
        const from = ((y - window.y + row) * window.columns + x - window.x) * this.latentChannels;
        latent.set(float32.subarray(from, from + length), row * length);
      }
      latents.push(latent);
    }
    return { width, height, grey: this.channels === 3 && isGrey(data), latents };
  }

  /** What `analyse` found -> the payload of a quality. */
  async compress({ width, height, grey, latents }, number, step = async () => {}) {
    const quality = this.quality(number);
    if (!this.anySize) {
      const steps = toSteps(latents[0], quality);
      const integers = steps.map((value, i) =>
        quality.model.clip(rint(Math.min(Math.max(value, -LARGEST), LARGEST)), i));
      return quality.model.encode(Int32Array.from(integers));
    }
    const codes = [];
    for (const { rows, columns } of new Plan(this.manifest.grid, height, width).tiles) {
      await step(codes.length, latents.length);
      codes.push(encodeTile(quality.model, toSteps(latents[codes.length], quality), rows, columns, quality.weight));
    }
    return pack({ quality: number, grey, height, width }, codes);
  }

  // === Reading ===

  /** {quality, grey, height, width} of a payload, and for items of any size its plan and tiles. */
  parse(payload, number) {
    if (!this.anySize) {
      return { header: { quality: number, grey: false, height: this.height, width: this.width } };
    }
    return parse(payload, this.manifest.grid, this.manifest.qualities, this.channels === 3);
  }

  /** The integers of a payload: Int32Array [rows * columns * K], or of one shape. */
  async integers(payload, number, step = async () => {}) {
    const { header, plan, tiles } = this.parse(payload, number);
    const { model } = this.quality(header.quality);
    if (!this.anySize) return model.decode(payload);
    const whole = new Int32Array(plan.rows * plan.columns * this.latentChannels);
    for (const [i, { y, x, rows, columns }] of plan.tiles.entries()) {
      await step(i, plan.count);
      const part = decodeTile(model, tiles[i], rows, columns);
      const length = columns * this.latentChannels;
      for (let row = 0; row < rows; row++) {
        whole.set(part.subarray(row * length, (row + 1) * length), ((y + row) * plan.columns + x) * this.latentChannels);
      }
    }
    return whole;
  }

  /**
   * The image of a payload, in parts.
   *
   * @param paint function of (rgba, {x, y, width, height}), called for each part
   * @param number the quality, of a codec of items of one shape
   */
  async decompress(payload, number, paint, step = async () => {}) {
    const { header, plan } = this.parse(payload, number);
    const quality = this.quality(header.quality);
    const several = { int32: Int32Array.of(header.quality) };
    const integers = await this.integers(payload, number, (done, all) => step(done, 2 * all));
    if (!this.anySize) {
      const { uint8 } = await this.decoder.run({ float32: toUnits(integers, quality), ...several }, 0, 0);
      const whole = { x: 0, y: 0, width: this.width, height: this.height };
      paint(toRgba(uint8, this.width, this.channels, whole, false), whole);
      return;
    }
    const { stride, top, left, height, width } = plan;
    for (const [i, { y, x, rows, columns, window }] of plan.tiles.entries()) {
      await step(plan.count + i, 2 * plan.count);
      const length = window.columns * this.latentChannels;
      const seen = new Int32Array(window.rows * length);
      for (let row = 0; row < window.rows; row++) {
        const from = ((window.y + row) * plan.columns + window.x) * this.latentChannels;
        seen.set(integers.subarray(from, from + length), row * length);
      }
      const { uint8 } = await this.decoder.run({ float32: toUnits(seen, quality), ...several }, window.rows, window.columns);
      // Of the tile's pixels, those of the item itself: not those that it was mirrored by.
      const [first, begin] = [Math.max(y * stride, top), Math.max(x * stride, left)];
      const part = {
        x: begin - left,
        y: first - top,
        width: Math.min((x + columns) * stride, left + width) - begin,
        height: Math.min((y + rows) * stride, top + height) - first,
      };
      if (part.width < 1 || part.height < 1) continue;
      const within = { ...part, x: begin - window.x * stride, y: first - window.y * stride };
      paint(toRgba(uint8, window.columns * stride, this.channels, within, header.grey), part);
    }
  }
}

/** Of the arrays of all qualities, those of one model: its own, "model_2/base", else those of all, "model_base". */
function modelArrays(arrays, place) {
  const found = {};
  for (const own of [false, true]) {
    for (const [name, array] of Object.entries(arrays)) {
      const match = /^model_(?:(\d+)\/)?(.*)$/.exec(name);
      if (match && (own ? Number(match[1]) === place : match[1] === undefined)) found[match[2]] = array;
    }
  }
  return found;
}

const toSteps = (latent, { step, offset }) =>
  latent.map((value, i) => Math.fround(value - offset[i % step.length]) / step[i % step.length]);

const toUnits = (integers, { step, offset }) =>
  Float32Array.from(integers, (value, i) => Math.fround(value * step[i % step.length]) + offset[i % step.length]);
