r"""The ``.tfz`` file: many payloads of one codec, an index to reach each, and checksums. Format version 1.

    offset  bytes     content
    0       4         magic, 89 54 46 5a ("\x89TFZ")
    4       1         format version, 1
    5       1         dtype of an item: 1 is uint8
    6       1         rank R of an item, 0..8
    7       1         0, reserved
    8       16        fingerprint of the codec
    24      varints   R dimensions of an item, 0 where it differs from item to item;
                      count of items; payload bytes in all;
                      metadata bytes as stored, and in full; index bytes as stored, and in full
            stored    metadata: UTF-8 JSON object; zlib, or plain if the two sizes are equal; absent if both are 0
            stored    index: one varint per item, the length of its payload; zlib, or plain if the two sizes are equal
            4 * B     CRC-32 of each of the B = ceil(payload bytes / 65536) blocks of the payload area
            4         CRC-32 of everything before it: the head
            payload   the payloads, end to end; the file ends with the last

Integers of 4 bytes are little-endian. A varint is LEB128: seven bits a byte, lowest first, the high bit set on all but
the last byte, never longer than needed, below 2**63. What a reader demands before it allocates anything:

    head bytes + payload bytes == file bytes,        sum of the index == payload bytes,
    count <= max(2**12, 4 * file bytes),             metadata in full <= max(2**20, 32 * file bytes),
    count <= index in full <= count + payload bytes / 128        (a length L takes at most 1 + L / 128 bytes)

so that a hostile file can claim no more memory, and no more items, than a bounded multiple of its own size. A writer
stores plainly what zlib would shorten beyond these bounds, so that every archive can be written. Item ``i`` is read,
and its blocks checked, without touching the others. The checksum is zlib's CRC-32: it finds every burst of up to 32
wrong bits, as CRC-32C does, and the standard library computes it natively; CRC-32C would need an extension module.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError

MAGIC = b"\x89TFZ"
VERSION = 1
DTYPES = {"uint8": 1}
"""Codes of dtypes: written constants. A new dtype takes a new number, and none is ever renumbered."""
BLOCK = 1 << 16
"""Bytes of payloads that have a checksum of their own."""
MAX_RANK = 8
MAX_ELEMENTS = 1 << 30
"""Largest number of elements of an item; a larger claim is an error, not an allocation."""

_FIXED = struct.Struct("<4s4B16s")
MAX_HEADER = _FIXED.size + (MAX_RANK + 6) * varints.MAX_BYTES


@dataclass(frozen=True)
class Header:
    """The header of an archive, in the order of its fields in the file.

    Attributes:
        fingerprint: 16 bytes that name the codec.
        dtype: dtype of an item's elements.
        item_shape: shape of an item; 0 for a dimension that differs from item to item.
        count: number of items.
        payload_bytes: bytes of all payloads.
        metadata_stored: bytes of the metadata in the file; ``metadata_bytes`` in full.
        index_stored: bytes of the index in the file; ``index_bytes`` in full.

    Examples:
        >>> header = Header(bytes(16), "uint8", (8, 8, 1), 2, 11, 0, 0, 2, 2)
        >>> Header.unpack(header.pack(), "two.tfz") == (header, len(header.pack()))
        True
    """

    fingerprint: bytes
    dtype: str
    item_shape: tuple[int, ...]
    count: int
    payload_bytes: int
    metadata_stored: int
    metadata_bytes: int
    index_stored: int
    index_bytes: int

    def pack(self) -> bytes:
        """The header's bytes, as the module's docstring lays them out."""
        fixed = _FIXED.pack(MAGIC, VERSION, DTYPES[self.dtype], len(self.item_shape), 0, self.fingerprint)
        sizes = (self.payload_bytes, self.metadata_stored, self.metadata_bytes, self.index_stored, self.index_bytes)
        return fixed + varints.pack(np.array([*self.item_shape, self.count, *sizes], np.int64))

    @classmethod
    def unpack(cls, data: bytes, source: str) -> tuple[Self, int]:
        """The header at the beginning of ``data``, and its length in bytes.

        Args:
            data: at least the first 150 bytes of the file, or all of a shorter one.
            source: name of the file in messages.

        Raises:
            BitstreamError: if the bytes are no header of version 1, or claim more than an archive may.
        """
        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise BitstreamError(
                f"expected a .tfz archive in {source}, found the first bytes {data[:4].hex(' ') or '(none)'}"
            )
        if len(data) < _FIXED.size:
            raise BitstreamError(f"expected a header of at least {_FIXED.size} bytes in {source}, found {len(data)}")
        _, version, code, rank, reserved, fingerprint = _FIXED.unpack_from(data)
        if version != VERSION:
            raise BitstreamError(f"expected .tfz format version {VERSION} in {source}, found version {version}")
        dtype = next((name for name, known in DTYPES.items() if known == code), None)
        if dtype is None or rank > MAX_RANK or reserved != 0:
            fields = f"found {code}, {rank} and {reserved}"
            raise BitstreamError(f"expected dtype 1, a rank of 0 to {MAX_RANK} and a reserved 0 in {source}, {fields}")
        values, offset = [], _FIXED.size
        for _ in range(rank + 6):
            value, offset = varints.unpack_one(data, offset, source)
            values.append(value)
        shape = tuple(values[:rank])
        if math.prod(max(1, size) for size in shape) > MAX_ELEMENTS:
            raise BitstreamError(f"expected at most {MAX_ELEMENTS} elements an item in {source}, found shape {shape}")
        return cls(fingerprint, dtype, shape, *values[rank:]), offset

    @property
    def blocks(self) -> int:
        """Number of blocks of the payload area."""
        return -(-self.payload_bytes // BLOCK)

    def __str__(self) -> str:
        shape = "x".join(str(size) if size else "?" for size in self.item_shape) or "scalar"
        mean = f", {self.payload_bytes / self.count:.2f} an item" if self.count else ""
        return "\n".join(
            [
                f"format       .tfz version {VERSION}",
                f"codec        {self.fingerprint.hex()}",
                f"items        {self.count} of {shape} {self.dtype}",
                f"payloads     {self.payload_bytes} bytes{mean}",
                f"index        {self.index_stored} bytes stored, {self.index_bytes} in full",
                f"metadata     {self.metadata_stored} bytes stored, {self.metadata_bytes} in full",
            ]
        )


# === Parts of the head ===


def most_items(file_bytes: int) -> int:
    """Largest number of items that a file of so many bytes may claim."""
    return max(1 << 12, 4 * file_bytes)


def most_metadata(file_bytes: int) -> int:
    """Most bytes of metadata in full that a file of so many bytes may claim."""
    return max(1 << 20, 32 * file_bytes)


def offsets_of(index: bytes, header: Header, source: str) -> NDArray[np.int64]:
    """int64 [count + 1]: where each payload begins within the payload area, and its end."""
    lengths = varints.unpack(index, source)
    if len(lengths) != header.count:
        raise BitstreamError(f"expected {header.count} payload lengths in {source}, found {len(lengths)}")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Each length is below 2**63, so that a sum beyond 2**63 shows as a step down.
    if np.any(np.diff(offsets) < 0) or offsets[-1] != header.payload_bytes:
        total = f"found a sum of {sum(lengths.tolist())}"
        raise BitstreamError(f"expected payload lengths that sum to {header.payload_bytes} in {source}, {total}")
    return offsets


def parse_metadata(text: bytes, source: str) -> dict[str, Any]:
    """The JSON object of the metadata, ``{}`` for no bytes; raises `BitstreamError` on anything else."""
    if not text:
        return {}
    try:
        metadata = json.loads(text.decode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"expected the metadata of {source} as JSON, found: {error}") from error
    if not isinstance(metadata, dict):
        raise BitstreamError(f"expected the metadata of {source} as a JSON object, found {type(metadata).__name__}")
    return metadata


def deflate(data: bytes) -> bytes:
    """The data compressed by zlib if that is shorter, else as they are: equal lengths mean plain data."""
    return min(data, zlib.compress(data, 9), key=len)


def inflate(stored: bytes, size: int, what: str) -> bytes:
    """The inverse of `deflate`, ``size`` bytes in full; raises `BitstreamError` on anything else."""
    if len(stored) == size:
        return stored
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stored, size + 1)
    except zlib.error as error:
        raise BitstreamError(f"expected {what} as zlib data, found: {error}") from error
    if len(stored) > size or len(data) != size or not inflater.eof or inflater.unused_data:
        raise BitstreamError(f"expected {size} bytes for {what}, found {len(data)} or more from {len(stored)} stored")
    return data
