"""Shards back to images: each shard is a job for a worker, which writes its record when all its images are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from tfcomp import outcomes, workers
from tfcomp.artifact import reading
from tfcomp.bulk.compressing import require_options
from tfcomp.bulk.listing import addresses_of, opened
from tfcomp.bulk.shards import IMAGES, Report, Run, key_of, parsed, shard_name
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError, TfcompError
from tfcomp.items import Images
from tfcomp.storage import archives, image_files
from tfcomp.storage.container import Archive
from tfcomp.storage.places import Address, Place


@dataclass(frozen=True)
class Job:
    """A shard to decompress: its number, its address, and whether there is a record of that number."""

    number: int
    address: str
    there: bool


def decompress(
    shards: Address | Sequence[Address],
    out: Address,
    *,
    codec: Codec | None = None,
    on_error: str = "stop",
    processes: int | None = None,
) -> Report:
    """Decompress shards into a folder; called again after a kill, it resumes.

    Images of files come out as PNG (``.npy`` if PNG has no such number of channels) in a folder for each shard,
    ``shard-000012/NAME.png``; rows of an array come out as one array for each shard, ``shard-000012.npy``, uint8
    [N, H, W, C]. The record ``shard-000012.json`` is written last. `tfcomp.bulk.merge` and ``tfcomp decompress`` make
    one tree of all shards.

    Args:
        shards: the folder of `compress`, or a list of ``.tfz`` files; paths or addresses.
        out: the folder to write.
        codec: the codec that made the shards. Default: the bundled one with their fingerprint.
        on_error: for damaged images and shards. ``"stop"``: the run ends; ``"skip"``: they are left out.
        processes: number of processes. Default: one for each processor, 8 at most.

    Returns:
        The counts of all shards in the folder; ``bytes`` are those of the ``.tfz`` files.

    Raises:
        InputError: on other arguments, if shards are missing, or if the folder holds files of another run.
        BitstreamError: if a shard is damaged and not to be skipped, or made by another codec.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from tfcomp import bulk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/photos.npy", np.full((5, 16, 24, 3), 99, np.uint8))
        ...     _ = bulk.compress(f"{folder}/photos.npy", f"{folder}/shards", processes=1)
        ...     report = bulk.decompress(f"{folder}/shards", f"{folder}/images", processes=1)
        ...     np.load(f"{folder}/images/shard-000000.npy").shape
        (5, 16, 24, 3)
    """
    require_options(1, on_error, processes)
    addresses = addresses_of(shards)
    codec = _codec_of(addresses, codec)
    place = Place(out)
    run = Run(place, IMAGES, {"codec": codec.fingerprint})
    jobs = ((Job(i, address, i in run.there), place, on_error == "skip") for i, address in enumerate(addresses))
    processes = run.processes(processes, Place(addresses[0]))
    return run.finished(
        workers.each(_shard, jobs, codec, "decompress", count=len(addresses), few=1, processes=processes)
    )


# === Inside ===


def _codec_of(addresses: Sequence[str], codec: Codec | None) -> Codec:
    """The codec that made the first shard: ``codec``, one of its qualities, or without it a bundled one."""
    with opened(addresses[0]) as archive:
        fingerprint = archive.header.fingerprint
    if codec is None:
        folder = reading.find(fingerprint)
        if folder is None:
            found = f"found those of {fingerprint.hex()}"
            raise BitstreamError(f"expected shards of a bundled codec, {found}; name the codec")
        codec = Codec.load(folder)
    return codec.that_made(fingerprint)


def _shard(codec: Codec, job: Job, place: Place, skip: bool) -> tuple[Report, str]:
    """Writes a shard's images, or keeps them if its record is there; its counts and key."""
    record = shard_name(job.number, ".json")
    skipped: dict[int, TfcompError] | None = {} if skip else None
    try:
        archive = opened(job.address)
    except BitstreamError:
        if not skip:
            raise
        return Report(1, 0, 1, 0), ""  # without a record, so that a later run tries again
    with archive:
        archive.require(bytes.fromhex(codec.fingerprint))
        key = key_of(archive.checksum, archive.file_bytes, codec.fingerprint)
        if job.there and (there := parsed(place.read(record))):
            if there.get("key") != key:
                raise InputError(f"expected images of {job.address}, found others by {place.path(record)}")
            return Report(1, there["items"], len(there["skipped"]), archive.file_bytes, 1), key
        sound = outcomes.sound_items(codec, archive, skipped)
        images = outcomes.decompress(codec, (archive[i] for i in sound))
        if "names" in archive.metadata:
            count = _as_files(zip(sound, images, strict=True), codec, archive, job, place, skipped)
        else:
            count = _as_array(zip(sound, images, strict=True), codec, job, place, skipped)
        left_out = [[i, str(error)] for i, error in sorted((skipped or {}).items())]
        place.write(record, json.dumps({"key": key, "items": count, "skipped": left_out}).encode())
        return Report(1, count, len(left_out), archive.file_bytes), key


Numbered = Iterable[tuple[int, Images | BitstreamError]]


def _good(images: Numbered, skipped: dict[int, TfcompError] | None) -> Iterator[tuple[int, Images]]:
    for i, image in images:
        if not isinstance(image, BitstreamError):
            yield i, image
        elif skipped is None:
            raise image
        else:
            skipped[i] = image


def _as_files(
    images: Numbered, codec: Codec, archive: Archive, job: Job, place: Place, skipped: dict[int, TfcompError] | None
) -> int:
    suffix = archives.suffix_for(codec.item.channels)
    targets = archives.targets(archive.metadata["names"], len(archive), job.address, suffix)
    count, folder = 0, shard_name(job.number, "")
    for i, image in _good(images, skipped):
        with place.writing(f"{folder}/{targets[i]}") as path:
            image_files.save_image(path, image)
        count += 1
    return count


def _as_array(images: Numbered, codec: Codec, job: Job, place: Place, skipped: dict[int, TfcompError] | None) -> int:
    """Writes images of one shape as they come, and their number, which the file's header has, at the end."""
    shape: tuple[int, ...] = tuple(n or 0 for n in codec.item.shape)
    count = 0
    with place.writing(shard_name(job.number, ".npy")) as path, path.open("wb") as file:
        _write_header(file, 0, shape)
        start = file.tell()
        for i, image in _good(images, skipped):
            if count and image.shape != shape:
                raise BitstreamError(
                    f"expected images {list(shape)} in {job.address}, found {list(image.shape)} at {i}"
                )
            if not count and image.shape != shape:
                file.seek(0)
                _write_header(file, 0, image.shape)
                start = file.tell()
            shape, count = image.shape, count + 1
            file.write(image.tobytes())
        file.seek(0)
        _write_header(file, count, shape)
        assert file.tell() == start, "NumPy leaves room in a header for a larger number"
    return count


def _write_header(file: BinaryIO, count: int, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
