"""Inputs to shards: each shard is a job for a worker, and is written whole or not at all."""

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
    """Options of `tfcomp.Codec.compress`."""

    quality: int | None
    effort: int
    target_bytes: int | None


@dataclass(frozen=True)
class Job:
    """A shard to make.

    Attributes:
        number: number of the shard.
        inputs: its images.
        key: identifies settings and inputs.
        there: whether a shard of this number exists.
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
    """Compress any number of images into numbered ``.tfz`` files; called again after a kill, it resumes.

    A shard is a run of ``shard_size`` images of the list, and a ``.tfz`` file like any other. It is written whole or
    not at all, so that a second call keeps the shards that exist. Memory depends on the size of a shard, not on the
    number of images.

    Processes make the shards and get the codec by pickle. One process makes all if the codec cannot be pickled (one
    that was just frozen: load its export instead) or the folder belongs to this process (``memory://``). A script
    needs ``if __name__ == "__main__":``, as with all functions that start processes.

    Args:
        paths: image files, folders, ``.npy`` files of many images [N, H, W] or [N, H, W, C], or addresses that fsspec
            knows, such as ``s3://bucket/photos``; one, or an iterable of them.
        out: the folder of the shards, a path or an address.
        codec: the codec. Default: the bundled one.
        quality: 1 to ``codec.qualities``. Default: the codec's default.
        effort: see `tfcomp.Codec.compress`.
        target_bytes: instead of a quality, the largest payload in bytes, for images of any size.
        shard_size: most images of a shard.
        on_error: for images that cannot be read. ``"stop"``: the run ends, and its shards stay. ``"skip"``: they are
            left out, and listed in their shard; a later run does not try them again.
        processes: number of processes. Default: one for each processor, 8 at most.

    Returns:
        The counts of all shards in the folder.

    Raises:
        InputError: on other arguments or inputs; also if the folder was begun with another codec, other options or
            another list, and then nothing in it is changed.

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
    skip = on_error == "skip"
    jobs = (
        (Job(number, inputs, key_of(settings, number, inputs.identity()), number in run.there), place, options, skip)
        for number, inputs in enumerate(listed.shards(paths, shard_size, codec.item))
    )
    return run.finished(workers.each(_shard, jobs, chosen, "compress", few=1, processes=run.processes(processes)))


def require_options(shard_size: int, on_error: str, processes: int | None) -> None:
    """Raises `InputError` unless the numbers are at least 1 and ``on_error`` is one of `ON_ERROR`."""
    for name, value in (("shard_size", shard_size), ("processes", processes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"expected {name} as a whole number of at least 1, found {value!r}")
    if on_error not in ON_ERROR:
        raise InputError(f"expected on_error to be one of {ON_ERROR}, found {on_error!r}")


# === Inside ===


def _checked(codec: Codec, quality: int | None, effort: int, target_bytes: int | None) -> Options:
    """The options, checked once for all images."""
    if not isinstance(codec, Codec):
        raise InputError(f"expected a tfcomp.Codec, found {type(codec).__name__}; Codec.load reads an artifact")
    if checked_effort(effort) and not codec.parts.transform.refines:
        raise InputError("expected effort=0 with an artifact whose encoder was exported without a gradient")
    if target_bytes is None:
        number = codec.default_quality if quality is None else quality
        codec.at(number)
        return Options(number, effort, None)
    if quality is not None:
        raise InputError("expected a quality or target_bytes, found both")
    if not codec.item.any_size:
        raise InputError(f"expected target_bytes with a codec of images of any size, found one of {codec.item}")
    if isinstance(target_bytes, bool) or not isinstance(target_bytes, int) or target_bytes < 1:
        raise InputError(f"expected target_bytes as a whole number of at least 1, found {target_bytes!r}")
    return Options(None, effort, target_bytes)


def _shard(codec: Codec, job: Job, place: Place, options: Options, skip: bool) -> tuple[Report, str]:
    """Makes a shard, or keeps the one that is there; its counts and key."""
    name = shard_name(job.number)
    if job.there and (kept := _kept(job, place)):
        return kept, job.key
    names: list[str] = []
    skipped: list[tuple[int, str, str]] = []
    count = 0

    def payloads() -> Iterator[bytes]:
        nonlocal count
        quality = options.quality if codec.item.any_size else None
        compressed = outcomes.compress(
            codec, job.inputs.sources(), quality, effort=options.effort, target_bytes=options.target_bytes
        )
        every = zip(job.inputs.names or repeat(""), compressed, strict=job.inputs.names is not None)
        for i, (image_name, outcome) in enumerate(every):
            if isinstance(outcome, TfcompError):
                if not skip:
                    raise outcome
                skipped.append((i, image_name, str(outcome)))
            else:
                names.append(image_name)
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
    return Report(1, count, len(skipped), size), job.key


def _kept(job: Job, place: Place) -> Report | None:
    """The counts of an existing shard, None unless it is whole; raises `InputError` if it is of another list."""
    name = shard_name(job.number)
    try:
        with Archive.of_file(place.open(name), place.path(name), eager_bytes=0) as archive:
            about = archive.metadata.get("bulk", {})
            if about.get("key") != job.key:
                raise InputError(f"expected the list that the run was begun with, found others in {place.path(name)}")
            return Report(1, len(archive), len(about["skipped"]), archive.file_bytes, 1)
    except BitstreamError:
        return None  # a part of a shard, where a put can be cut off
