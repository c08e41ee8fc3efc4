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
    count <= max(2**20, 4 * file bytes),             metadata in full <= max(2**20, 32 * file bytes),
    count <= index in full <= count + payload bytes / 128        (a length L takes at most 1 + L / 128 bytes)

so that a hostile file can claim no more memory than a bounded multiple of its own size. A writer stores plainly what
zlib would shorten beyond these bounds, so that every archive can be written. Item ``i`` is read, and its
blocks checked, without touching the others. The checksum is zlib's CRC-32: it finds every burst of up to 32 wrong bits,
as CRC-32C does, and the standard library computes it natively, where CRC-32C would need an extension module.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError, InputError
from tfcomp.storage.writing import replacing_file

MAGIC = b"\x89TFZ"
VERSION = 1
DTYPES = {"uint8": 1}
"""Written constants: a new dtype takes a new number, and none is ever renumbered."""
BLOCK = 1 << 16
MAX_RANK = 8
MAX_ELEMENTS = 1 << 30
"""An item may have this many elements at most; a larger claim is an error, not an allocation."""
EAGER_BYTES = 1 << 26
"""A payload area up to this size is read and checked when the archive is opened; a larger one block by block."""

_FIXED = struct.Struct("<4s4B16s")
_MAX_HEADER = _FIXED.size + (MAX_RANK + 6) * varints.MAX_BYTES


@dataclass(frozen=True)
class Header:
    """What an archive says of itself, in the order in which it is stored.

    Attributes:
        fingerprint: 16 bytes that name the codec.
        dtype: of an item's elements.
        item_shape: of one item; 0 stands for a dimension that differs from item to item.
        count: of items.
        payload_bytes: of all items together.
        metadata_stored: bytes of the metadata in the file; ``metadata_bytes`` in full.
        index_stored: bytes of the index in the file; ``index_bytes`` in full.
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
            source: the file's name, for messages.

        Raises:
            BitstreamError: if the bytes are not a header of version 1, or claim what no archive may.
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
            found = f"found {code}, {rank} and {reserved}"
            raise BitstreamError(f"expected dtype 1, a rank of 0 to {MAX_RANK} and a reserved 0 in {source}, {found}")
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
        """How many blocks the payload area has."""
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


# === Writing ===


def write(
    path: str | os.PathLike[str],
    payloads: Iterable[bytes],
    *,
    fingerprint: bytes,
    item_shape: tuple[int, ...],
    dtype: str = "uint8",
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Writes an archive, whole or not at all.

    Args:
        path: the file to make or replace.
        payloads: one bytes object per item.
        fingerprint: 16 bytes that name the codec.
        item_shape: of one item, at most 8 dimensions; 0 for one that differs from item to item.
        dtype: of an item's elements, "uint8".
        metadata: anything that JSON can hold, such as ``{"names": [...]}``.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: if an argument breaks one of these rules, or the file cannot be written.
    """
    items = list(payloads)
    if len(fingerprint) != 16:
        raise InputError(f"expected a fingerprint of 16 bytes, found {len(fingerprint)}")
    if dtype not in DTYPES:
        raise InputError(f"expected a dtype of {', '.join(DTYPES)}, found {dtype}")
    elements = math.prod(max(1, size) for size in item_shape)
    if len(item_shape) > MAX_RANK or min(item_shape, default=0) < 0 or elements > MAX_ELEMENTS:
        limits = f"at most {MAX_RANK} dimensions and {MAX_ELEMENTS} elements"
        raise InputError(f"expected an item shape of {limits}, found {item_shape}")
    body = b"".join(items)
    index = varints.pack(np.fromiter(map(len, items), np.int64, len(items)))
    stored_index = _deflate(index)
    text = (
        b""
        if metadata is None
        else json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    )
    stored_text = _deflate(text)
    # What zlib shortens so much that a reader would take it for a bomb is stored plainly.
    least_bytes = len(body) + len(stored_index) + len(stored_text)
    if len(items) > _most_items(least_bytes):
        stored_index = index
    if len(text) > _most_metadata(least_bytes):
        stored_text = text
    sizes = (len(stored_text), len(text), len(stored_index), len(index))
    header = Header(bytes(fingerprint), dtype, tuple(item_shape), len(items), len(body), *sizes)
    view = memoryview(body)
    checksums = [zlib.crc32(view[start : start + BLOCK]) for start in range(0, len(body), BLOCK)]
    head = b"".join([header.pack(), stored_text, stored_index, struct.pack(f"<{len(checksums)}I", *checksums)])
    head += struct.pack("<I", zlib.crc32(head))
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        file.write(body)
    return len(head) + len(body)


# === Reading ===


class Archive:
    """A ``.tfz`` file opened for reading: ``archive[i]`` is a payload, and so is each item of an iteration.

    Every payload that is handed out has passed its checksum. Use it as a context, or call `close`.

    Attributes:
        path: the file.
        header: what the file says of itself.
        metadata: the stored JSON object, ``{}`` if there is none.
        file_bytes: the file's size.
    """

    def __init__(
        self, path: Path, file: BinaryIO, header: Header, metadata: dict[str, Any], offsets: NDArray[np.int64],
        checksums: NDArray[np.uint32], head_bytes: int, eager_bytes: int,
    ) -> None:  # fmt: skip
        self.path = path
        self.header = header
        self.metadata = metadata
        self.file_bytes = head_bytes + header.payload_bytes
        self._file = file
        self._offsets = offsets  # int64 [count + 1]: where each payload begins, and the last one ends
        self._checksums = checksums
        self._head_bytes = head_bytes
        # The last blocks read, first..last-1, and their bytes; checked.
        last = header.blocks if header.payload_bytes <= eager_bytes else 0
        self._cache = (0, last, self._checked_blocks(0, last))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, eager_bytes: int = EAGER_BYTES) -> Self:
        """Opens an archive and checks its head; also all its payloads, if they take at most ``eager_bytes``.

        Raises:
            InputError: if the file cannot be read.
            BitstreamError: if it is not an archive, or truncated, extended or changed.
        """
        try:
            file = Path(path).open("rb")  # noqa: SIM115 - the archive keeps it
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        try:
            return cls._open(Path(path), file, eager_bytes)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _open(cls, path: Path, file: BinaryIO, eager_bytes: int) -> Self:
        source = str(path)
        file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        header, header_bytes = Header.unpack(file.read(_MAX_HEADER), source)
        head_bytes = header_bytes + header.metadata_stored + header.index_stored + 4 * header.blocks + 4
        if head_bytes + header.payload_bytes != file_bytes:
            kind = "truncated" if file_bytes < head_bytes + header.payload_bytes else "extended"
            expected = f"expected {head_bytes + header.payload_bytes} bytes in {source}, as its header says"
            raise BitstreamError(f"{expected}, found {file_bytes}: the file was {kind} or changed")
        file.seek(0)
        head = file.read(head_bytes)
        (expected_crc,) = struct.unpack("<I", head[-4:])
        found_crc = zlib.crc32(head[:-4])
        if expected_crc != found_crc:
            raise BitstreamError(f"expected checksum {expected_crc:08x} of the head of {source}, found {found_crc:08x}")
        for found, most, what in (
            (header.count, _most_items(file_bytes), "items"),
            (header.metadata_bytes, _most_metadata(file_bytes), "bytes of metadata"),
        ):
            if found > most:
                raise BitstreamError(
                    f"expected at most {most} {what} in {source} of {file_bytes} bytes, found a claim of {found}"
                )
        if not 0 <= header.index_bytes - header.count <= header.payload_bytes // 128:
            raise BitstreamError(
                f"expected {header.count} lengths in {source}, found {header.index_bytes} bytes of them"
            )
        at_index = header_bytes + header.metadata_stored
        at_checksums = at_index + header.index_stored
        text = _inflate(head[header_bytes:at_index], header.metadata_bytes, f"the metadata of {source}")
        index = _inflate(head[at_index:at_checksums], header.index_bytes, f"the index of {source}")
        offsets = _offsets(index, header, source)
        checksums = np.frombuffer(head, "<u4", header.blocks, at_checksums)
        return cls(path, file, header, _parse_metadata(text, source), offsets, checksums, head_bytes, eager_bytes)

    def __len__(self) -> int:
        return self.header.count

    @overload
    def __getitem__(self, key: int) -> bytes: ...
    @overload
    def __getitem__(self, key: slice) -> list[bytes]: ...
    def __getitem__(self, key: int | slice) -> bytes | list[bytes]:
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        i = key + len(self) if key < 0 else key
        if not 0 <= i < len(self):
            raise IndexError(f"expected an item of 0 to {len(self) - 1} in {self.path}, found {key}")
        begin, end = int(self._offsets[i]), int(self._offsets[i + 1])
        first, last = begin // BLOCK, -(-end // BLOCK)
        if begin == end:
            return b""
        if not (self._cache[0] <= first and last <= self._cache[1]):
            self._cache = (first, last, self._checked_blocks(first, last))
        start = self._cache[0] * BLOCK
        return self._cache[2][begin - start : end - start]

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def verify(self) -> None:
        """Reads the whole payload area again, a block at a time.

        Raises:
            BitstreamError: at the first block that fails its checksum.
        """
        for block in range(self.header.blocks):
            self._checked_blocks(block, block + 1)

    def require(self, fingerprint: bytes) -> None:
        """Raises BitstreamError unless the codec of this fingerprint, 16 bytes, made the archive."""
        if fingerprint != self.header.fingerprint:
            found = f"found the fingerprint {fingerprint.hex()}"
            raise BitstreamError(f"expected codec {self.header.fingerprint.hex()}, which made {self.path}, {found}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked_blocks(self, first: int, last: int) -> bytes:
        """The bytes of blocks ``first..last-1``, read and checked."""
        end = min(last * BLOCK, self.header.payload_bytes)
        self._file.seek(self._head_bytes + first * BLOCK)
        data = self._file.read(end - first * BLOCK)
        if len(data) != end - first * BLOCK:
            raise BitstreamError(f"expected {end - first * BLOCK} payload bytes in {self.path}, found {len(data)}")
        view = memoryview(data)
        for block in range(first, last):
            found = zlib.crc32(view[(block - first) * BLOCK : (block - first + 1) * BLOCK])
            expected = int(self._checksums[block])
            if found != expected:
                where = f"block {block} of the payloads of {self.path}"
                raise BitstreamError(f"expected checksum {expected:08x} of {where}, found {found:08x}")
        return data


# === Fields ===


def _most_items(file_bytes: int) -> int:
    """The largest count that a file of this size may claim."""
    return max(1 << 20, 4 * file_bytes)


def _most_metadata(file_bytes: int) -> int:
    """The most bytes of metadata in full that a file of this size may claim."""
    return max(1 << 20, 32 * file_bytes)


def _offsets(index: bytes, header: Header, source: str) -> NDArray[np.int64]:
    """int64 [count + 1]: where each payload begins within the payload area, and its end."""
    lengths = varints.unpack(index, source)
    if len(lengths) != header.count:
        raise BitstreamError(f"expected {header.count} payload lengths in {source}, found {len(lengths)}")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Each length below 2**63, so that a sum that passes 2**63 shows as a step down.
    if np.any(np.diff(offsets) < 0) or offsets[-1] != header.payload_bytes:
        raise BitstreamError(f"expected payload lengths that sum to {header.payload_bytes} in {source}, found others")
    return offsets


def _parse_metadata(text: bytes, source: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        metadata = json.loads(text.decode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"expected the metadata of {source} as JSON, found: {error}") from error
    if not isinstance(metadata, dict):
        raise BitstreamError(f"expected the metadata of {source} as a JSON object, found {type(metadata).__name__}")
    return metadata


def _deflate(data: bytes) -> bytes:
    """Zlib output if that is shorter than the data, else the data: equal lengths mean plain, so ties go to it."""
    return min(data, zlib.compress(data, 9), key=len)


def _inflate(stored: bytes, size: int, what: str) -> bytes:
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
