// The payload of an item of any size: quality, size, lengths of tiles, tiles; as tfcomp/entropy/payloads.py.
import { Plan } from "./geometry.js";
import { Problem } from "./problem.js";
import { pack as varints, Reader } from "./varints.js";

const GREY = 64;

/** @param header {quality, grey, height, width}  @param tiles Uint8Array of each tile */
export function pack({ quality, grey, height, width }, tiles) {
  const lengths = tiles.slice(0, -1).map((tile) => tile.length);
  const head = Uint8Array.of((quality - 1) | (grey ? GREY : 0), ...varints([height, width, ...lengths]));
  return joined([head, ...tiles]);
}

/** The header of a payload, the plan of its item, and the bytes of each tile. */
export function parse(payload, grid, qualities, greyAllowed) {
  if (!payload.length) throw new Problem("Expected an item's payload, found no bytes.");
  const [quality, grey] = [(payload[0] & 63) + 1, (payload[0] & GREY) !== 0];
  if (!qualities.includes(quality) || payload[0] & 128 || (grey && !greyAllowed)) {
    throw new Problem(`Expected a payload of quality ${qualities[0]} to ${qualities.at(-1)}, found first byte ${payload[0]}.`);
  }
  const reader = new Reader(payload, 1, "an item's payload");
  const [height, width] = [reader.next(), reader.next()];
  const plan = new Plan(grid, height, width);
  if (plan.count > payload.length) {
    throw new Problem(`Expected ${plan.count} bytes or more for ${width} by ${height} pixels, found ${payload.length}.`);
  }
  const lengths = Array.from({ length: plan.count - 1 }, () => reader.next());
  let offset = reader.offset;
  const tiles = lengths.map((length) => payload.subarray(offset, (offset += length)));
  if (offset >= payload.length || lengths.some((length) => length < 1)) {
    throw new Problem(`Expected ${offset + 1} bytes or more and no empty tile, found ${payload.length}.`);
  }
  return { header: { quality, grey, height, width }, plan, tiles: [...tiles, payload.subarray(offset)] };
}

/** Byte arrays, end to end. */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
