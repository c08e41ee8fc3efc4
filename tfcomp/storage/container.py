"""The ``.tfz`` file, written and read; `container_format` is its layout."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError, InputError
from tfcomp.storage.container_format import (
    BLOCK,
    DTYPES,
    MAGIC,
    MAX_ELEMENTS,
    MAX_HEADER,
    MAX_RANK,
    VERSION,
    Header,
    deflate,
    inflate,
    most_items,
    most_metadata,
    offsets_of,
    parse_metadata,
)
from tfcomp.storage.writing import local, replacing_file

__all__ = ["BLOCK", "MAGIC", "MAX_ELEMENTS", "VERSION", "Archive", "Header", "size", "write"]

EAGER_BYTES = 1 << 26
"""Largest payload area, in bytes, that is read when an archive is opened; a larger one is read by blocks."""
SPOOL_BYTES = 1 << 26
"""Most bytes of payloads that wait in memory until the head is known; more of them wait in a temporary file."""


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
        payloads: one bytes object per item; an iterable of them is read one after another.
        fingerprint: 16 bytes that name the codec.
        item_shape: shape of an item, at most 8 dimensions; 0 for a dimension that differs from item to item.
        dtype: dtype of an item's elements, "uint8".
        metadata: a JSON object, such as ``{"names": [...]}``; it is read after the last payload.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: on other arguments, or if the file cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(f"{folder}/two.tfz", [b"first", b"second"], fingerprint=bytes(16), item_shape=(8, 8, 1))
        54
    """
    with replacing_file(path) as temporary:
        return write_as_it_goes(
            temporary, payloads, fingerprint=fingerprint, item_shape=item_shape, dtype=dtype, metadata=metadata,
            said=path,
        )  # fmt: skip


def write_as_it_goes(
    path: Path,
    payloads: Iterable[bytes],
    *,
    fingerprint: bytes,
    item_shape: tuple[int, ...],
    dtype: str = "uint8",
    metadata: Mapping[str, Any] | None = None,
    said: str | os.PathLike[str] | None = None,
) -> int:
    """`write` to a temporary path; messages call the file ``said``."""
    _check(fingerprint, dtype, item_shape)
    with _Spool(path if said is None else said, path.parent) as spool:
        for payload in payloads:
            spool.add(payload)
        head = _head(spool.lengths, spool.checksums(), fingerprint, item_shape, dtype, metadata)
        with path.open("wb") as file:
            file.write(head)
            spool.copy_to(file)
    return len(head) + spool.total


def size(
    lengths: Iterable[int],
    *,
    item_shape: tuple[int, ...],
    dtype: str = "uint8",
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Bytes of the archive that `write` makes of payloads of so many bytes; arguments and errors as of `write`.

    Examples:
        >>> size([5, 6], item_shape=(8, 8, 1))
        54
    """
    each = list(lengths)
    _check(bytes(16), dtype, item_shape)
    blocks = -(-sum(each) // BLOCK)
    return sum(each) + len(_head(each, [0] * blocks, bytes(16), item_shape, dtype, metadata))


class _Spool:
    """Payloads on their way into a file, with their lengths and the checksums of their blocks."""

    def __init__(self, path: str | os.PathLike[str], folder: Path) -> None:
        self.lengths: list[int] = []
        self.total = 0
        self._path = path
        self._done: list[int] = []  # the checksums of whole blocks
        self._current = 0  # the checksum of the last block, which is not full
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(folder))  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, payload: bytes) -> None:
        try:
            self._file.write(payload)
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from error
        self.lengths.append(len(payload))
        rest = memoryview(payload)
        while rest:
            part, rest = rest[: BLOCK - self.total % BLOCK], rest[BLOCK - self.total % BLOCK :]
            self._current = zlib.crc32(part, self._current)
            self.total += len(part)
            if self.total % BLOCK == 0:
                self._done.append(self._current)
                self._current = 0

    def checksums(self) -> list[int]:
        return [*self._done, self._current] if self.total % BLOCK else self._done

    def copy_to(self, file: BinaryIO) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)


def _check(fingerprint: bytes, dtype: str, item_shape: tuple[int, ...]) -> None:
    if len(fingerprint) != 16:
        raise InputError(f"expected a fingerprint of 16 bytes, found {len(fingerprint)}")
    if dtype not in DTYPES:
        raise InputError(f"expected a dtype of {', '.join(DTYPES)}, found {dtype}")
    elements = math.prod(max(1, size) for size in item_shape)
    if len(item_shape) > MAX_RANK or min(item_shape, default=0) < 0 or elements > MAX_ELEMENTS:
        limits = f"at most {MAX_RANK} dimensions and {MAX_ELEMENTS} elements"
        raise InputError(f"expected an item shape of {limits}, found {item_shape}")


def _head(
    lengths: list[int],
    checksums: list[int],
    fingerprint: bytes,
    item_shape: tuple[int, ...],
    dtype: str,
    metadata: Mapping[str, Any] | None,
) -> bytes:
    """Everything before the payloads."""
    index = varints.pack(np.array(lengths, np.int64))
    stored_index = deflate(index)
    text = (
        b""
        if metadata is None
        else json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    )
    stored_text = deflate(text)
    # Data that zlib shortens so much that a reader would take them for a bomb are stored plainly.
    total = sum(lengths)
    least_bytes = total + len(stored_index) + len(stored_text)
    if len(lengths) > most_items(least_bytes):
        stored_index = index
    if len(text) > most_metadata(least_bytes):
        stored_text = text
    sizes = (len(stored_text), len(text), len(stored_index), len(index))
    header = Header(bytes(fingerprint), dtype, tuple(item_shape), len(lengths), total, *sizes)
    head = b"".join([header.pack(), stored_text, stored_index, struct.pack(f"<{len(checksums)}I", *checksums)])
    return head + struct.pack("<I", zlib.crc32(head))


# === Reading ===


class Archive:
    """A ``.tfz`` file opened for reading: ``archive[i]`` is a payload, and iteration gives all payloads.

    Every payload has passed its checksum. Threads may share an archive. Use it as a context, or call `close`.

    Attributes:
        path: the file.
        header: the header.
        metadata: the stored JSON object, ``{}`` if there is none.
        file_bytes: the file's size.
        checksum: CRC-32 of the head, which holds the checksums of all payloads, so that it identifies the content.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     two = f"{folder}/two.tfz"
        ...     written = write(two, [b"first", b"second"], fingerprint=bytes(16), item_shape=(8, 8, 1))
        ...     with Archive.open(two) as archive:
        ...         archive[1], archive.file_bytes == written
        (b'second', True)
    """

    def __init__(
        self, path: Path, file: BinaryIO, header: Header, metadata: dict[str, Any], offsets: NDArray[np.int64],
        checksums: NDArray[np.uint32], head_bytes: int, eager_bytes: int, checksum: int = 0,
    ) -> None:  # fmt: skip
        self.path = path
        self.header = header
        self.metadata = metadata
        self.checksum = checksum
        self.file_bytes = head_bytes + header.payload_bytes
        self._file = file
        self._offsets = offsets  # int64 [count + 1]: where each payload begins, and the last one ends
        self._checksums = checksums
        self._head_bytes = head_bytes
        self._at_any_position = hasattr(os, "pread") and isinstance(file, io.BufferedReader)
        self._lock = threading.Lock()  # of the file's position
        # Range and checked bytes of the last blocks that were read; threads replace the tuple as a whole.
        last = header.blocks if header.payload_bytes <= eager_bytes else 0
        self._cache = (0, last, self._checked_blocks(0, last))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, eager_bytes: int = EAGER_BYTES) -> Self:
        """Opens an archive and checks its head.

        Args:
            path: the file.
            eager_bytes: largest payload area that is also read and checked now.

        Raises:
            InputError: if the file cannot be read.
            BitstreamError: if it is not an archive, or truncated, extended or changed.
        """
        try:
            file = Path(local(path)).open("rb")  # noqa: SIM115 - the archive keeps it
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return cls.of_file(file, path, eager_bytes=eager_bytes)

    @classmethod
    def of_file(cls, file: BinaryIO, path: str | os.PathLike[str], *, eager_bytes: int = EAGER_BYTES) -> Self:
        """`open` for a file object that can seek; the archive closes it, and messages call it ``path``."""
        try:
            return cls._of_file(file, Path(path), str(path), eager_bytes)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _of_file(cls, file: BinaryIO, path: Path, source: str, eager_bytes: int) -> Self:
        file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        header, header_bytes = Header.unpack(file.read(MAX_HEADER), source)
        head_bytes = header_bytes + header.metadata_stored + header.index_stored + 4 * header.blocks + 4
        if head_bytes + header.payload_bytes != file_bytes:
            damage = "truncated" if file_bytes < head_bytes + header.payload_bytes else "extended"
            expected = f"expected {head_bytes + header.payload_bytes} bytes in {source}, as its header says"
            raise BitstreamError(f"{expected}, found {file_bytes}: the file was {damage} or changed")
        file.seek(0)
        head = file.read(head_bytes)
        (expected_crc,) = struct.unpack("<I", head[-4:])
        found_crc = zlib.crc32(head[:-4])
        if expected_crc != found_crc:
            raise BitstreamError(f"expected checksum {expected_crc:08x} of the head of {source}, found {found_crc:08x}")
        for claim, limit, unit in (
            (header.count, most_items(file_bytes), "items"),
            (header.metadata_bytes, most_metadata(file_bytes), "bytes of metadata"),
        ):
            if claim > limit:
                raise BitstreamError(
                    f"expected at most {limit} {unit} in {source} of {file_bytes} bytes, found a claim of {claim}"
                )
        if not 0 <= header.index_bytes - header.count <= header.payload_bytes // 128:
            raise BitstreamError(
                f"expected {header.count} lengths in {source}, found {header.index_bytes} bytes of them"
            )
        at_index = header_bytes + header.metadata_stored
        at_checksums = at_index + header.index_stored
        text = inflate(head[header_bytes:at_index], header.metadata_bytes, f"the metadata of {source}")
        index = inflate(head[at_index:at_checksums], header.index_bytes, f"the index of {source}")
        offsets = offsets_of(index, header, source)
        checksums = np.frombuffer(head, "<u4", header.blocks, at_checksums)
        metadata = parse_metadata(text, source)
        return cls(path, file, header, metadata, offsets, checksums, head_bytes, eager_bytes, found_crc)

    def __len__(self) -> int:
        return self.header.count

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each payload, int64 [count]."""
        return np.diff(self._offsets)

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
        cache = self._cache
        if not (cache[0] <= first and last <= cache[1]):
            self._cache = cache = (first, last, self._checked_blocks(first, last))
        start = cache[0] * BLOCK
        return cache[2][begin - start : end - start]

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def verify(self) -> None:
        """Reads and checks the whole payload area; raises `BitstreamError` at the first block whose checksum fails."""
        for block in range(self.header.blocks):
            self._checked_blocks(block, block + 1)

    def require(self, fingerprint: bytes) -> None:
        """Raises `BitstreamError` unless the codec with this fingerprint, 16 bytes, made the archive."""
        if fingerprint != self.header.fingerprint:
            found = f"found the fingerprint {fingerprint.hex()}"
            raise BitstreamError(f"expected codec {self.header.fingerprint.hex()}, which made {self.path}, {found}")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (Path(self.path).absolute(),)  # another process has a position of its own

    def _read(self, position: int, count: int) -> bytes:
        if self._at_any_position:  # no position of the file, which threads and forked processes would share
            parts: list[bytes] = []
            while count and (part := os.pread(self._file.fileno(), count, position)):
                parts.append(part)
                position, count = position + len(part), count - len(part)
            return b"".join(parts)
        with self._lock:
            self._file.seek(position)
            return self._file.read(count)

    def _checked_blocks(self, first: int, last: int) -> bytes:
        """The bytes of blocks ``first..last-1``, read and checked."""
        end = min(last * BLOCK, self.header.payload_bytes)
        data = self._read(self._head_bytes + first * BLOCK, end - first * BLOCK)
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
