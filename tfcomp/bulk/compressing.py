"""Inputs to shards: each a job for a worker, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

from tfcomp import outcomes, workers
from tfcomp.bulk import inputs as listed
from tfcomp.bulk.inputs import Inputs
from tfcomp.bulk.shards import ARCHIVES, Report, Run, key_of, shard_name
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError, TfcompError
from tfcomp.refinement import checked_effort
from tfcomp.storage import container
from tfcomp.storage.container import Archive
from tfcomp.storage.places import Address, Place

ON_ERROR = ("stop", "skip")


@dataclass(frozen=True)
class Options:
    """How images are compressed; see `tfcomp.Codec.compress`."""

    quality: int | None
    effort: int
    target_bytes: int | None


@dataclass(frozen=True)
class Job:
    """A shard to make.

    Attributes:
        number: the shard's.
        inputs: its images.
        key: names settings and inputs.
        there: whether there is a shard of this number.
    """

    number: int
    inputs: Inputs
    key: str
    there: bool


def compress(
    paths: Address | Iterable[Address],
    out: Address,
    *,
    codec: Codec | None = None,
    quality: int | None = None,
    effort: int = 0,
    target_bytes: int | None = None,
    shard_size: int = 1000,
    on_error: str = "stop",
    processes: int | None = None,
) -> Report:
    """Compress any number of images into numbered ``.tfz`` files; done again after a kill, it goes on from there.

    A shard is a run of ``shard_size`` images of the list, and a ``.tfz`` file like any other. It is written whole or
    not at all, so that the shards that are there tell what is done. Memory depends on the size of a shard, not on the
    number of images: folders are searched one after another, and rows of arrays are read as they are needed.

    Shards are made by processes, one for each processor, to which the codec goes by pickle. Files from elsewhere are
    read ahead by threads in each. One process does all where the codec cannot be sent (one that was just frozen: load
    its export instead) or the folder is of this process alone (``memory://``). A script that calls this needs
    ``if __name__ == "__main__":``, as all do that start processes.

    Args:
        paths: image files, folders, ``.npy`` files of many images [N, H, W] or [N, H, W, C], or addresses that fsspec
            knows, such as ``s3://bucket/photos``; one, or an iterable of them, which is taken as it goes.
        out: the folder of the shards, a path or an address.
        codec: what compresses. Default: the one that comes with the package.
        quality: 1 to ``codec.qualities``. Default: the codec's own.
        effort: see `tfcomp.Codec.compress`.
        target_bytes: instead of a quality, the most that each payload may have, for images of any size.
        shard_size: most images of a shard.
        on_error: of an image that cannot be read. ``"stop"``: it ends the run; what is there stays. ``"skip"``: it is
            left out, and the shard says so. A shard that is there is kept with what it lacks.
        processes: number of processes. Default: one for each processor, 8 at most.

    Returns:
        What the folder holds now.

    Raises:
        InputError: on wrong arguments or inputs; and if the folder was begun with another codec, other options or
            another list: nothing in it is changed then.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from tfcomp import bulk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/photos.npy", np.full((5, 16, 24, 3), 99, np.uint8))
        ...     report = bulk.compress(f"{folder}/photos.npy", f"{folder}/shards", shard_size=2, processes=1)
        ...     report.shards, report.items, [item.name for item in bulk.items(f"{folder}/shards")][-1]
        (3, 5, 'photos.npy[4]')
    """
    require_options(shard_size, on_error, processes)
    codec = Codec.load() if codec is None else codec
    options = _checked(codec, quality, effort, target_bytes)
    place = Place(out)
    chosen = codec if codec.item.any_size else codec.at(options.quality or codec.default_quality)
    settings = {"codec": chosen.fingerprint, **asdict(options), "shard_size": shard_size}
    run = Run(place, ARCHIVES, settings)
    keys = ""

    def jobs() -> Iterator[workers.Job]:
        nonlocal keys
        for number, inputs in enumerate(listed.shards(paths, shard_size, codec.item)):
            key = key_of(settings, number, inputs.identity())
            keys = key_of(keys, key)
            yield Job(number, inputs, key, number in run.there), place, options, on_error == "skip"

    total = Report()
    alone = 1 if place.of_this_process else processes
    for report in workers.each(_shard, jobs(), chosen, "compress", few=1, processes=alone):
        total += report
    run.finish(total, keys)
    return total


def require_options(shard_size: int, on_error: str, processes: int | None) -> None:
    """Raises `InputError` unless these are of their kind."""
    for name, value in (("shard_size", shard_size), ("processes", processes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"expected {name} as a whole number of at least 1, found {value!r}")
    if on_error not in ON_ERROR:
        raise InputError(f"expected on_error to be one of {ON_ERROR}, found {on_error!r}")


# === Inside ===


def _checked(codec: Codec, quality: int | None, effort: int, target_bytes: int | None) -> Options:
    """Options that hold for every image, so that none of them fails by these."""
    if not isinstance(codec, Codec):
        raise InputError(f"expected a tfcomp.Codec, found {type(codec).__name__}; Codec.load reads an artifact")
    if target_bytes is None:
        number = codec.default_quality if quality is None else quality
        codec.at(number)
        return Options(number, _effort(codec, effort), None)
    if quality is not None:
        raise InputError("expected a quality or target_bytes, found both")
    if not codec.item.any_size:
        raise InputError(f"expected target_bytes with a codec of images of any size, found one of {codec.item}")
    if isinstance(target_bytes, bool) or not isinstance(target_bytes, int) or target_bytes < 1:
        raise InputError(f"expected target_bytes as a whole number of at least 1, found {target_bytes!r}")
    return Options(None, _effort(codec, effort), target_bytes)


def _effort(codec: Codec, effort: int) -> int:
    if checked_effort(effort) and not codec.parts.transform.refines:
        raise InputError("expected effort=0 with an artifact whose encoder was exported without a gradient")
    return effort


def _shard(codec: Codec, job: Job, place: Place, options: Options, skip: bool) -> Report:
    """Makes a shard, or keeps the one that is there."""
    name = shard_name(job.number)
    if job.there and (kept := _kept(job, place)):
        return kept
    names: list[str] = []
    skipped: list[tuple[int, str, str]] = []
    count = 0

    def payloads() -> Iterator[bytes]:
        nonlocal count
        quality = options.quality if codec.item.any_size else None
        made = outcomes.compress(
            codec, job.inputs.sources(), quality, effort=options.effort, target_bytes=options.target_bytes
        )
        for i, (own, outcome) in enumerate(
            zip(job.inputs.names or repeat(""), made, strict=job.inputs.names is not None)
        ):
            if isinstance(outcome, TfcompError):
                if not skip:
                    raise outcome
                skipped.append((i, own, str(outcome)))
            else:
                names.append(own)
                count += 1
                yield outcome[0]

    about: dict[str, Any] = {"bulk": {"key": job.key, "skipped": skipped}}
    if isinstance(job.inputs, listed.Rows):
        about["bulk"]["rows"] = [job.inputs.name, job.inputs.start]
    else:
        about["names"] = names
    with place.writing(name) as path:
        size = container.write_as_it_goes(
            path,
            payloads(),
            fingerprint=bytes.fromhex(codec.fingerprint),
            item_shape=tuple(n or 0 for n in codec.item.shape),
            metadata=about,
            said=place.path(name),
        )
    return Report(1, count, len(skipped), size)


def _kept(job: Job, place: Place) -> Report | None:
    """What a shard holds that is there, if it is whole.

    Raises:
        InputError: if it is of another list.
    """
    name = shard_name(job.number)
    try:
        with Archive.of_file(place.open(name), place.path(name), eager_bytes=0) as archive:
            about = archive.metadata.get("bulk", {})
            if about.get("key") != job.key:
                said = f"{place.path(name)} holds other images than this list"
                raise InputError(f"expected the list that the run was begun with, found that {said}")
            return Report(1, len(archive), len(about["skipped"]), archive.file_bytes, 1)
    except BitstreamError:
        return None  # a part of one, where a put can be cut off
