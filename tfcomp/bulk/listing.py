"""The images of shards, and all shards as one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfcomp.bulk.shards import shards_of
from tfcomp.errors import BitstreamError, InputError, everything_as
from tfcomp.storage import archives, container, places
from tfcomp.storage.container import Archive
from tfcomp.storage.places import Address, Place


@dataclass(frozen=True)
class Entry:
    """An image of a list of inputs.

    Attributes:
        name: name of a file, relative to its input folder, or ``ARRAY.npy[NUMBER]``.
        shard: address of the ``.tfz`` file.
        index: number in that file; None for an image that was left out.
        error: error of an image that was left out, else None.

    Examples:
        >>> Entry("a/b.jpg", "shards/shard-000000.tfz", 3).index
        3
    """

    name: str
    shard: str
    index: int | None
    error: str | None = None


def addresses_of(shards: Address | Sequence[Address]) -> list[str]:
    """Addresses of the archives in a folder of `compress`, or in a list; raises `InputError` if there are none."""
    if isinstance(shards, (str, os.PathLike)):
        if os.fspath(shards).endswith(".tfz") and not places.is_folder(shards):
            return [os.fspath(shards)]
        return [Place(shards).path(name) for name in shards_of(shards)]
    if not shards:
        raise InputError("expected at least one shard, found none")
    return [os.fspath(address) for address in shards]


def opened(address: str) -> Archive:
    """The archive at an address, whose blocks are read and checked when they are needed."""
    return Archive.of_file(places.opened(address), address, eager_bytes=0)


def items(shards: Address | Sequence[Address]) -> Iterator[Entry]:
    """The images of shards in the order of their inputs, with those that were left out; see `compress` for an example.

    Args:
        shards: the folder of `compress`, or a list of ``.tfz`` files; paths or addresses.

    Returns:
        An iterator of entries, which reads the heads of shards alone.

    Raises:
        InputError: if there are no shards, or the run has not ended.
        BitstreamError: if a head is damaged.
    """
    for address in addresses_of(shards):
        with opened(address) as archive:
            yield from _entries(archive, address)


def merge(shards: Address | Sequence[Address], out: Address) -> int:
    """All shards as one ``.tfz`` file, written whole or not at all; it does not list images that were left out.

    Memory holds the names of all images, and some bytes for each.

    Args:
        shards: the folder of `compress`, or a list of ``.tfz`` files; paths or addresses.
        out: the file to make, or to replace if it is a ``.tfz``.

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: if the shards are of files and of arrays, or one is the output.
        BitstreamError: if they are of several codecs, or one is damaged.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from tfcomp import bulk, container
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.zeros((5, 16, 24, 3), np.uint8))
        ...     _ = bulk.compress(f"{folder}/a.npy", f"{folder}/shards", shard_size=2, processes=1)
        ...     _ = bulk.merge(f"{folder}/shards", f"{folder}/a.tfz")
        ...     with container.Archive.open(f"{folder}/a.tfz") as archive:
        ...         len(archive)
        5
    """
    addresses = addresses_of(shards)
    if places.resolve(out)[0] is None:
        archives.check_output(out, [a for a in addresses if places.resolve(a)[0] is None], force=False)
    with opened(addresses[0]) as first:
        header, named = first.header, "names" in first.metadata
    metadata: dict[str, list[str]] | None = {"names": []} if named else None

    def payloads() -> Iterator[bytes]:
        for address in addresses:
            with opened(address) as archive:
                archive.require(header.fingerprint)
                shape = archive.header.item_shape
                if shape != header.item_shape:
                    raise BitstreamError(f"expected items {header.item_shape}, found {shape} in {address}")
                if ("names" in archive.metadata) != named:
                    raise InputError(f"expected shards of files or of arrays, found both: {address}")
                if metadata is not None:
                    metadata["names"] += _names(archive, address)
                yield from archive

    folder, _, name = os.fspath(out).rpartition("/")
    with Place(folder or ".").writing(name) as path:
        return container.write_as_it_goes(
            path,
            payloads(),
            fingerprint=header.fingerprint,
            item_shape=header.item_shape,
            dtype=header.dtype,
            metadata=metadata,
            said=out,
        )


# === Inside ===


def _entries(archive: Archive, address: str) -> list[Entry]:
    entries, names = [], _names(archive, address) if "names" in archive.metadata else None
    with everything_as(BitstreamError, f"expected a shard's metadata in {address}"):
        about = archive.metadata.get("bulk", {})
        left_out = {int(i): (str(name), str(error)) for i, name, error in about.get("skipped", [])}
        array, start = about.get("rows", ["", 0])
        index = 0
        for i in range(len(archive) + len(left_out)):
            name, error = left_out.get(i, ("", None))
            if names is None:
                name = f"{array}[{int(start) + i}]"
            elif error is None:
                name = names[index]
            entries.append(Entry(name, address, index if error is None else None, error))
            index += error is None
    return entries


def _names(archive: Archive, address: str) -> list[str]:
    names = archive.metadata["names"]
    if not isinstance(names, list) or len(names) != len(archive) or not all(isinstance(name, str) for name in names):
        raise BitstreamError(f"expected {len(archive)} names in {address}, found {str(names)[:60]!a}")
    return names
