// The .tfz file, written and read: magic, fingerprint of the codec, index, checksums, payloads.
// tfcomp/storage/container_format.py is its layout; this file owns the container and nothing of a payload.
// No size that a file claims is trusted before it is checked.
import { inflate } from "./inflate.js";
import { joined } from "./payload.js";
import { Problem } from "./problem.js";
import { pack as varints, Reader } from "./varints.js";

const MAGIC = [0x89, 0x54, 0x46, 0x5a];
const BLOCK = 65536;

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** zlib's CRC-32. */
export function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Whether bytes begin as a .tfz file does. */
export const isTfz = (bytes) => MAGIC.every((byte, i) => bytes[i] === byte);

const blocksOf = (bytes) => Math.ceil(bytes / BLOCK);
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

function little(numbers) {
  const view = new DataView(new ArrayBuffer(4 * numbers.length));
  numbers.forEach((number, i) => view.setUint32(4 * i, number, true));
  return new Uint8Array(view.buffer);
}

/**
 * A file of payloads; index and names are stored plainly, as Python stores them where zlib would not shorten them.
 *
 * @param fingerprint hexadecimal, 16 bytes  @param itemShape 0 for a free dimension  @param names one of each payload
 */
export function write(payloads, { fingerprint, itemShape, names }) {
  const index = varints(payloads.map((payload) => payload.length));
  const text = new TextEncoder().encode(JSON.stringify({ names }));
  const area = joined(payloads);
  const numbers = [...itemShape, payloads.length, area.length, text.length, text.length, index.length, index.length];
  const checksums = Array.from({ length: blocksOf(area.length) }, (_, i) => crc32(area.subarray(i * BLOCK, (i + 1) * BLOCK)));
  const head = joined([
    Uint8Array.of(...MAGIC, 1, 1, itemShape.length, 0, ...fingerprint.match(/../g).map((pair) => parseInt(pair, 16))),
    Uint8Array.from(varints(numbers)), text, Uint8Array.from(index), little(checksums),
  ]);
  return joined([head, little([crc32(head)]), area]);
}

/** {fingerprint, names, payloads} of a file, every byte checked; a `Problem` for anything else. */
export async function read(bytes, source) {
  const refuse = (expected, found) => {
    throw new Problem(`Expected ${expected} in ${source}, found ${found}.`);
  };
  if (!isTfz(bytes)) refuse("a .tfz file", "something else");
  if (bytes.length < 24 || bytes[4] !== 1) refuse(".tfz version 1", bytes.length < 24 ? "a cut file" : `version ${bytes[4]}`);
  if (bytes[5] !== 1 || bytes[6] > 8 || bytes[7] !== 0) refuse("dtype 1, a rank up to 8 and a zero", bytes.slice(5, 8));
  const reader = new Reader(bytes, 24, source);
  const shape = Array.from({ length: bytes[6] }, () => reader.next());
  const [count, area, textStored, textFull, indexStored, indexFull] = Array.from({ length: 6 }, () => reader.next());
  const head = reader.offset + textStored + indexStored + 4 * blocksOf(area);
  if (head + 4 + area !== bytes.length) refuse(`${head + 4 + area} bytes`, `${bytes.length}: it was cut, extended or changed`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(head, true) !== crc32(bytes.subarray(0, head))) refuse("an unchanged head", "another checksum");
  if (count > Math.max(4096, 4 * bytes.length) || textFull > Math.max(2 ** 20, 32 * bytes.length) ||
      indexFull < count || indexFull > count + area / 128) {
    refuse("as many items as its size allows", `a claim of ${count}`);
  }
  const part = (begin, stored, full, what) => {
    const data = bytes.subarray(begin, begin + stored);
    return stored === full ? data : inflate(data, full, "deflate", `${what} of ${source}`);
  };
  const text = await part(reader.offset, textStored, textFull, "the metadata");
  const index = new Reader(await part(reader.offset + textStored, indexStored, indexFull, "the index"), 0, source);
  const lengths = Array.from({ length: count }, () => index.next());
  if (index.offset !== indexFull || lengths.reduce((sum, n) => sum + n, 0) !== area) refuse("lengths of its payloads", "others");
  const data = bytes.subarray(head + 4);
  for (let block = 0; block < blocksOf(area); block++) {
    const found = crc32(data.subarray(block * BLOCK, (block + 1) * BLOCK));
    if (found !== view.getUint32(head - 4 * (blocksOf(area) - block), true)) refuse("unchanged payloads", "another checksum");
  }
  let offset = 0;
  const payloads = lengths.map((length) => data.subarray(offset, (offset += length)));
  return { fingerprint: toHex(bytes.subarray(8, 24)), shape, names: namesIn(text, source), payloads };
}

function namesIn(text, source) {
  if (!text.length) return null;
  try {
    const { names } = JSON.parse(new TextDecoder().decode(text));
    return Array.isArray(names) ? names.map(String) : null;
  } catch {
    throw new Problem(`Expected the metadata of ${source} as JSON, found something else.`);
  }
}

/** A file's name as every system can write it, and as tfcomp's reader takes it. */
export function portable(name) {
  const plain = name.normalize("NFC").replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}:\\/]/gu, "_").replace(/[. ]$/, "_").slice(-80);
  return /^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\.|$)/i.test(plain) ? `_${plain}` : plain || "_";
}
