// Pixels between a canvas, which has RGBA, and a codec, which has 1, 3 or 4 channels; and how far two images are apart.

/** RGBA -> the pixels of a window: Uint8Array [rows.length * columns.length * channels], by source rows and columns. */
export function gather(rgba, width, rows, columns, channels) {
  const pixels = new Uint8Array(rows.length * columns.length * channels);
  let to = 0;
  for (const row of rows) {
    for (let i = 0; i < columns.length; i++) {
      const from = 4 * (row * width + columns[i]);
      if (channels === 1) {
        pixels[to++] = luma(rgba[from], rgba[from + 1], rgba[from + 2]);
      } else {
        for (let channel = 0; channel < channels; channel++) pixels[to++] = rgba[from + channel];
      }
    }
  }
  return pixels;
}

/** ITU-R BT.601, rounded, as Pillow's "L". */
const luma = (r, g, b) => (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;

/** Whether every pixel is a grey. */
export function isGrey(rgba) {
  for (let i = 0; i < rgba.length; i += 4) {
    if (rgba[i] !== rgba[i + 1] || rgba[i] !== rgba[i + 2]) return false;
  }
  return true;
}

/**
 * A part of the networks' pixels as RGBA.
 *
 * @param pixels Uint8Array [.., stride * channels]  @param part {x, y, width, height}, of it
 * @param grey whether its channels are to be one, their mean
 */
export function toRgba(pixels, stride, channels, { x, y, width, height }, grey) {
  const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let row = 0, to = 0; row < height; row++) {
    for (let from = ((y + row) * stride + x) * channels, end = from + width * channels; from < end; from += channels, to += 4) {
      if (channels === 1) {
        rgba[to] = rgba[to + 1] = rgba[to + 2] = pixels[from];
      } else if (grey) {
        rgba[to] = rgba[to + 1] = rgba[to + 2] = Math.round((pixels[from] + pixels[from + 1] + pixels[from + 2]) / 3);
      } else {
        for (let channel = 0; channel < channels; channel++) rgba[to + channel] = pixels[from + channel];
      }
    }
  }
  return rgba;
}

/** Squared error of red, green and blue of a part of an image, summed. */
export function squaredError(rgba, width, part, { x, y, width: columns, height: rows }) {
  let error = 0;
  for (let row = 0, i = 0; row < rows; row++) {
    for (let from = 4 * ((y + row) * width + x), end = from + 4 * columns; from < end; from += 4, i += 4) {
      const [r, g, b] = [rgba[from] - part[i], rgba[from + 1] - part[i + 1], rgba[from + 2] - part[i + 2]];
      error += r * r + g * g + b * b;
    }
  }
  return error;
}

/** Decibels from a sum of squared errors of red, green and blue; Infinity where there is none. */
export const psnr = (error, pixels) => 10 * Math.log10((255 ** 2 * 3 * pixels) / error);
