// Padding, tiles and windows of items of any size: the arithmetic of tfcomp/geometry.py, which explains it.
// It owns where things lie, in positions of the latent and in pixels, and touches no pixel.
import { Problem } from "./problem.js";

const MAX_PIXELS = 2 ** 28;

/** Where the latent of an item of height x width pixels and its tiles lie. */
export class Plan {
  constructor([stride, margin, tile], height, width) {
    Object.assign(this, { stride, margin, height, width });
    this.top = height <= 4 * stride ? stride : 0;
    this.left = width <= 4 * stride ? stride : 0;
    this.rows = Math.ceil((height + 2 * this.top) / stride);
    this.columns = Math.ceil((width + 2 * this.left) / stride);
    const pixels = this.rows * this.columns * stride ** 2;
    if (!(height >= 1 && width >= 1 && pixels <= MAX_PIXELS)) {
      throw new Problem(`Expected 1 to ${MAX_PIXELS} pixels, found ${width} by ${height}.`);
    }
    this.down = Math.min(this.rows, Math.max(tile, Math.floor(tile ** 2 / this.columns)));
    this.right = Math.min(this.columns, Math.floor(tile ** 2 / this.down));
    this.across = Math.ceil(this.columns / this.right);
    this.count = Math.ceil(this.rows / this.down) * this.across;
  }

  /** Of each tile, row by row: {y, x, rows, columns}, and its window, the positions that the networks see, likewise. */
  get tiles() {
    return Array.from({ length: this.count }, (_, number) => {
      const y = Math.floor(number / this.across) * this.down;
      const x = (number % this.across) * this.right;
      const tile = { y, x, rows: Math.min(this.down, this.rows - y), columns: Math.min(this.right, this.columns - x) };
      const [top, left] = [Math.max(0, y - this.margin), Math.max(0, x - this.margin)];
      tile.window = {
        y: top,
        x: left,
        rows: Math.min(this.rows, y + tile.rows + this.margin) - top,
        columns: Math.min(this.columns, x + tile.columns + this.margin) - left,
      };
      return tile;
    });
  }

  /** For each pixel of `count` from `begin` of the mirrored item along an axis, the item's pixel. */
  static mirrored(size, before, begin, count) {
    return Int32Array.from({ length: count }, (_, i) => {
      const turn = (((begin + i - before) % (2 * size)) + 2 * size) % (2 * size);
      return Math.min(turn, 2 * size - 1 - turn);
    });
  }
}
