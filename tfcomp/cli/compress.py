"""``tfcomp compress``: images into one ``.tfz`` file, or by `tfcomp.bulk` into many."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfcomp import bulk, outcomes, workers
from tfcomp.cli.console import report_skipped, say, say_report
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.codec import Codec, CompressionReport
from tfcomp.coding import varints
from tfcomp.data import datasets
from tfcomp.errors import InputError, TfcompError
from tfcomp.geometry import DEFAULT_MAX_PIXELS
from tfcomp.items import Images
from tfcomp.outcomes import Coded, Source
from tfcomp.progress import progress
from tfcomp.storage import archives, container, image_files
from tfcomp.storage.pixel_limit import pixel_limit
from tfcomp.storage.writing import local


@dataclass
class Written:
    """Names and counts of the images in an archive, and the errors of those that were left out.

    Attributes:
        names: names of the images, in order; empty for the images of an array.
        images, pixels, values: their numbers.
        claimed: number of pixels that decoding takes, mirrored ones included.
        skipped: error of each image that was left out.
    """

    names: list[str] = field(default_factory=list)
    images: int = 0
    pixels: int = 0
    values: int = 0
    claimed: int = 0
    skipped: list[TfcompError] = field(default_factory=list)

    def payloads(
        self, sources: Sequence[Source], outcomes: Iterator[Coded | TfcompError], codec: Codec, *, skip: bool
    ) -> Iterator[bytes]:
        """The payloads, which are counted; an error is raised, or with ``skip`` noted."""
        for source, outcome in zip(sources, outcomes, strict=True):
            if isinstance(outcome, TfcompError):
                self.skipped.append(outcome)
                if not skip or len(self.skipped) == len(sources):
                    raise outcome
                continue
            payload, shape = outcome
            self.names += [] if source.name is None else [source.name]
            self.images += 1
            self.pixels += shape[0] * shape[1]
            self.values += int(np.prod(shape))
            self.claimed += codec.claimed_pixels(payload)
            yield payload


def run(args: argparse.Namespace) -> None:
    """The command."""
    if args.quality is not None and args.target_bytes is not None:
        raise InputError("expected --quality or --target-bytes, found both")
    if args.shard_size is not None:
        _shards(args)
        return
    for path in (*args.inputs, args.output):
        local(path)
    skip, written = args.on_error == "skip", Written()
    with held_native_lines(dropped=skip):
        codec = Codec.load(args.codec).with_max_pixels(args.max_pixels)
        chosen = codec.at(codec.default_quality if args.quality is None else args.quality)
        sources = _sources(args.inputs, codec)
        files = [source.image for source in sources if isinstance(source.image, Path)]
        artifact = Path(args.codec).rglob("*") if args.codec else ()
        archives.check_output(args.output, [*args.inputs, *files, *artifact], force=args.force)
        if not skip:
            again = codec.item.any_size and len(files) > 1  # one file, or all of one shape, are read next anyway
            with pixel_limit(args.max_pixels):
                shapes = image_files.image_shapes(files, to_the_end=again)
            for file, shape in shapes.items():
                image_files.require_channels(file, shape[2], codec.item.channels)
                outcomes.require_fit(codec, str(file), shape)
        results = _any_size(codec, sources, args) if codec.item.any_size else _one_shape(chosen, sources, args)
        named = sources[0].name is not None
        size = container.write(
            args.output,
            written.payloads(sources, results, codec, skip=skip),
            fingerprint=bytes.fromhex((codec if codec.item.any_size else chosen).fingerprint),
            item_shape=tuple(n or 0 for n in codec.item.shape),
            metadata={"names": written.names} if named else None,
        )
    rates = f"{8 * size / written.pixels:.3f} bits per pixel, {written.values / size:.1f}:1"
    images = f"{written.images} image{'s' if written.images > 1 else ''}"
    say(f"{args.output}: {images} in {size:,} bytes, {size / written.images:.2f} each, {rates}")
    if written.claimed > archives.most_pixels(size, DEFAULT_MAX_PIXELS):
        say(
            f"note: few bytes for {written.claimed:,} pixels; decompress takes them with --max-pixels {written.claimed}"
        )
    report_skipped(written.skipped, len(sources))


def _shards(args: argparse.Namespace) -> None:
    if args.force:
        raise InputError("expected --force with one OUT.tfz, found it with --shard-size, which replaces nothing")
    with held_native_lines(dropped=args.on_error == "skip"):
        report = bulk.compress(
            args.inputs,
            args.output,
            codec=Codec.load(args.codec).with_max_pixels(args.max_pixels),
            quality=args.quality,
            effort=args.effort,
            target_bytes=args.target_bytes,
            shard_size=args.shard_size,
            on_error=args.on_error,
        )
    say_report(args.output, report)


# === Reading ===


def _sources(inputs: Sequence[str], codec: Codec) -> list[Source]:
    """The images of the inputs: files, folders, or one ``.npy`` file of one image or many."""
    if len(inputs) == 1 and inputs[0].endswith(image_files.ARRAY):
        return [Source(None, image) for image in _array(inputs[0], codec)]
    names, files = archives.named_files(inputs)
    return [Source(name, file) for name, file in zip(names, files, strict=True)]


def _array(path: str, codec: Codec) -> Sequence[Images]:
    images: Sequence[Images] = []
    if codec.item.any_size:
        with suppress(InputError):  # the file holds many images, or `read_array` raises
            images = [image_files.read_image(path)]
    images = images or list(datasets.read_array(path))
    if not images:
        raise InputError(f"expected at least one image in {path}, found none")
    image_files.require_channels(path, images[0].shape[2], codec.item.channels)
    return images


# === Compressing ===


def _one_shape(codec: Codec, sources: Sequence[Source], args: argparse.Namespace) -> Iterator[Coded | TfcompError]:
    """Outcomes of images of one shape, which networks and range coder take in batches."""
    if args.target_bytes is not None:
        raise InputError(f"expected --target-bytes with a codec of images of any size, found one of {codec.item}")
    reports: list[CompressionReport] = []
    read = progress(sources, "read images", len(sources))
    yield from outcomes.compress(codec, read, effort=args.effort, reports=reports)
    clipped, latents = sum(r.clipped for r in reports), sum(r.latents for r in reports)
    if clipped:
        say(f"note: {clipped} latents ({100 * clipped / latents:.3g} %) lay outside their tables and were clipped")


def _any_size(codec: Codec, sources: Sequence[Source], args: argparse.Namespace) -> Iterator[Coded | TfcompError]:
    """Outcomes of images of any size, by several processes."""
    target = args.target_bytes
    if target is not None:
        target = max(1, target - _overhead([source.name for source in sources], target))
    jobs = ((source, args.quality, args.effort, target) for source in sources)
    return workers.each(_compress, jobs, codec, "compress", count=len(sources))


def _compress(
    codec: Codec, source: Source, quality: int | None, effort: int, target: int | None
) -> Coded | TfcompError:
    (outcome,) = outcomes.compress(codec, [source], quality, effort=effort, target_bytes=target)
    return outcome


def _overhead(names: Sequence[str | None], target: int) -> int:
    """Most bytes that an archive needs for each image beside its payload."""
    count = len(names)
    largest = container.size([0] * count, item_shape=(0, 0, 0), metadata={"names": list(names)})
    # Larger payloads have a longer index and more checksums of blocks.
    largest += len(varints.pack(np.array([target * count, *[target] * count], np.int64)))
    largest += 4 * -(-count * target // container.BLOCK)
    return -(-largest // count)
