"""The images to compress, in shards: fixed runs of the list of inputs, which is read one shard after another.

The images of a shard follow from the list and the size of a shard alone. A shard holds files, or rows of one array; it
ends where an array begins.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from tfcomp.errors import InputError, TfcompError
from tfcomp.items import MAX_CHANNELS, Item
from tfcomp.outcomes import Source
from tfcomp.storage import image_files, places
from tfcomp.storage import names as rule
from tfcomp.storage.image_files import ARRAY, SUFFIXES
from tfcomp.storage.places import Address

READERS = 8
"""Number of threads that read files from elsewhere ahead, so that the work does not wait for a network."""


@dataclass(frozen=True)
class Files:
    """A shard of image files: the address of each, and its name in the shard."""

    addresses: tuple[str, ...]
    names: tuple[str, ...]

    def identity(self) -> list[Any]:
        """Values that identify the shard's images."""
        return [_absolute(address) for address in self.addresses]

    def sources(self) -> Iterator[Source]:
        if places.resolve(self.addresses[0])[0] is None:
            yield from map(Source, self.names, self.addresses)
            return
        with ThreadPoolExecutor(READERS) as pool:
            left, waiting = iter(zip(self.names, self.addresses, strict=True)), deque[Future[Source]]()
            while True:
                for name, address in islice(left, 2 * READERS - len(waiting)):
                    waiting.append(pool.submit(_fetched, name, address))
                if not waiting:
                    return
                yield waiting.popleft().result()


@dataclass(frozen=True)
class Rows:
    """A shard of images ``start..stop-1`` of a ``.npy`` file [N, H, W] or [N, H, W, C], which have no names."""

    address: str
    start: int
    stop: int

    names = None

    @property
    def name(self) -> str:
        """The file's name."""
        return rule.portable(PurePosixPath(self.address).name)

    def identity(self) -> list[Any]:
        """Values that identify the shard's images."""
        return [_absolute(self.address), self.start, self.stop]

    def sources(self) -> Iterator[Source]:
        with places.opened(self.address) as file:
            shape, dtype = _array_header(file, self.address)
            one = dtype.itemsize * int(np.prod(shape[1:]))
            file.seek(self.start * one, os.SEEK_CUR)
            for i in range(self.start, self.stop):
                content = file.read(one)
                if len(content) != one:
                    raise InputError(f"expected {shape[0]} images in {self.address}, found {i} and a part")
                image = np.frombuffer(content, dtype).reshape(shape[1:])
                yield Source(None, image[..., None] if image.ndim == 2 else image, f"image {i} of {self.address}")


Inputs = Files | Rows


def shards(paths: Address | Iterable[Address], size: int, item: Item) -> Iterator[Inputs]:
    """The shards of a list of inputs.

    Args:
        paths: an address or an iterable of them: image files; folders, which are searched with their subfolders in
            sorted order; ``.npy`` files of many images. For items of any size, an array [H, W] or [H, W, C] of at most
            8 channels is one image, and so are the ``.npy`` files in a folder without other images.
        size: most images of a shard.
        item: shape of the codec's items.

    Raises:
        InputError: if there is no image, or none in a folder.
    """
    waiting: list[tuple[str, str]] = []
    none = True
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        for entry in _in(os.fspath(path), item):
            none = False
            if isinstance(entry, Rows):
                if waiting:
                    yield _files(waiting)
                for start in range(entry.start, entry.stop, size):
                    yield Rows(entry.address, start, min(start + size, entry.stop))
            else:
                waiting.append(entry)
                if len(waiting) < size:
                    continue
                yield _files(waiting)
            waiting = []
    if waiting:
        yield _files(waiting)
    if none:
        raise InputError("expected at least one image, found none")


def files(folder: Address) -> Iterator[str]:
    """The image files in a folder and its subfolders, in the order in which `tfcomp.bulk.compress` takes them.

    Args:
        folder: a path or an address.

    Returns:
        An iterator of addresses, which holds the names of one folder at a time.

    Raises:
        InputError: if there is none.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/grey.npy", np.zeros((4, 6), np.uint8))
        ...     [os.path.basename(address) for address in files(folder)]
        ['grey.npy']
    """
    root, none = os.fspath(folder).rstrip("/"), True
    for suffixes in (SUFFIXES, {ARRAY}):
        for name in places.found(root or "/", suffixes):
            none = False
            yield f"{root}/{name}"
        if not none:
            return
    raise InputError(f"expected image files in {os.fspath(folder)}, found none")


# === Inside ===


def _files(entries: Sequence[tuple[str, str]]) -> Files:
    addresses, names = zip(*entries, strict=True)
    return Files(addresses, names)


def _in(path: str, item: Item) -> Iterator[tuple[str, str] | Rows]:
    """The inputs at one path: addresses and names of files, or the rows of an array."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ARRAY and not places.is_folder(path):
        with places.opened(path) as file:
            shape, _ = _array_header(file, path)
        if item.any_size and (len(shape) == 2 or (len(shape) == 3 and shape[2] <= MAX_CHANNELS)):
            yield path, rule.portable(PurePosixPath(path).name)
        else:
            yield Rows(path, 0, shape[0])
    elif (suffix in SUFFIXES and places.resolve(path)[0] is not None) or not places.is_folder(path):
        yield path, rule.portable(PurePosixPath(path).name)
    else:
        begin = len(path.rstrip("/")) + 1
        for address in files(path):
            yield address, rule.portable(address[begin:])


def _array_header(file: BinaryIO, address: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in the header of a ``.npy`` file of images."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except Exception as error:
        raise InputError(f"cannot read the array of {address}: {image_files.reason(error)}") from error
    if len(shape) not in (2, 3, 4) or 0 in shape or dtype.kind not in "uif" or fortran:
        order = " in Fortran's order" if fortran else ""
        found = f"found {dtype} {list(shape)}{order}"
        raise InputError(f"expected whole numbers [N, H, W] or [N, H, W, C] of images in {address}, {found}")
    return shape, dtype


def _fetched(name: str, address: str) -> Source:
    """A source with the content of a file from elsewhere; one that cannot be read raises when its turn comes."""
    try:
        with places.opened(address) as file:
            return Source(name, file.read(), address)
    except TfcompError:
        return Source(name, address)


def _absolute(address: str) -> str:
    fs, path = places.resolve(address)
    return os.path.abspath(path) if fs is None else address  # noqa: PTH100 - `abspath` leaves links alone
