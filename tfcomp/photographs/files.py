"""Photographs from files into a ``.tfz``, and out of it as PNG: what the commands do without a ``--codec``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError, InputError
from tfcomp.photographs.codec import DEFAULT_QUALITY, PhotographCodec
from tfcomp.storage import container, image_files
from tfcomp.storage.container import Archive

_FEW = 3
"""Files that are done one after another: starting other processes takes as long."""

_MOST_PROCESSES = 8
"""Each takes up to a gigabyte or two, for the largest photographs."""

_codec: PhotographCodec | None = None  # of this process


def compress(
    files: Sequence[Path], names: Sequence[str], output: str, quality: int | None, target_bytes: int | None
) -> tuple[int, int]:
    """Photographs into one ``.tfz``.

    Args:
        files: to read; see `tfcomp.storage.image_files.read_image` with ``whole``.
        names: under which they will come out.
        output: the file to write, whole or not at all.
        quality: from 1; None for the default.
        target_bytes: instead, the most that the file may have for each photograph.

    Returns:
        Bytes of the file, and pixels of all photographs.
    """
    metadata = {"names": list(names)}
    target = None if target_bytes is None else target_bytes - _overhead(len(files), target_bytes, metadata)
    jobs = [(file, DEFAULT_QUALITY if quality is None else quality, target) for file in files]
    payloads, shapes = [], []
    for payload, shape in _each(_compress_file, jobs, "compress"):
        payloads.append(payload)
        shapes.append(shape)
    shape = shapes[0] if len(set(shapes)) == 1 else (0, 0, 0)
    size = container.write(output, payloads, fingerprint=_own_codec().fingerprint, item_shape=shape, metadata=metadata)
    return size, sum(height * width for height, width, _ in shapes)


def decompress(archive: Archive, targets: Sequence[Path]) -> None:
    """The photographs of a ``.tfz`` into PNG files, each whole or not at all; their folders exist."""
    for _ in _each(_decompress_file, list(zip(archive, targets, strict=True)), "decompress"):
        pass


def check(archive: Archive) -> None:
    """Raises `BitstreamError` unless the bundled codec made the archive."""
    expected = _own_codec().fingerprint
    if archive.header.fingerprint != expected:
        raise BitstreamError(
            f"{archive.path}: expected photographs of the bundled codec {expected.hex()}, found payloads of the codec "
            f"{archive.header.fingerprint.hex()}; name its artifact with --codec"
        )


# === Inside ===


def _own_codec(threads: int | None = None) -> PhotographCodec:
    global _codec
    if _codec is None:
        _codec = PhotographCodec.load(threads)
    return _codec


def _compress_file(file: Path, quality: int, target_bytes: int | None) -> tuple[bytes, tuple[int, ...]]:
    image = image_files.read_image(file, whole=True)
    try:
        return _own_codec().compress(image, quality, target_bytes=target_bytes), image.shape
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _decompress_file(payload: bytes, target: Path) -> None:
    image_files.write_png(target, _own_codec().decompress(payload))


def _each(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], label: str) -> Iterator[Any]:
    """The results in order; of more than a few jobs, by as many processes as there are processors."""
    processes = min(len(jobs), os.cpu_count() or 1, _MOST_PROCESSES)
    if len(jobs) <= _FEW or processes == 1:
        yield from image_files.progress(starmap(function, jobs), label, len(jobs))
        return
    _own_codec()  # what is missing is missed here, in one line
    with ProcessPoolExecutor(processes, get_context("spawn"), _own_codec, (1,)) as pool:
        try:
            yield from image_files.progress(pool.map(function, *zip(*jobs, strict=True)), label, len(jobs))
        except BrokenProcessPool as error:
            raise InputError(f"cannot {label} with {processes} processes at once: one of them ended") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _overhead(count: int, target_bytes: int, metadata: dict[str, Any]) -> int:
    """What a file may need for each photograph beyond its payload."""
    with tempfile.TemporaryDirectory() as folder:
        # Of an archive with other lengths, the index and the checksums of the blocks are longer.
        more = len(varints.pack(np.array([target_bytes * count, *[target_bytes] * count], np.int64)))
        more += 4 * -(-count * target_bytes // container.BLOCK)
        like = [b""] * count
        size = container.write(
            Path(folder) / "like.tfz", like, fingerprint=bytes(16), item_shape=(1 << 14, 1 << 14, 3), metadata=metadata
        )
    return -(-(size + more) // count)
