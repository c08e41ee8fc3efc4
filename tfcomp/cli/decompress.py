"""``tfcomp decompress``: the images of a ``.tfz`` file, or of a folder of them, into a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfcomp import bulk, bundled, outcomes, workers
from tfcomp.artifact import reading
from tfcomp.artifact.manifest import DECODER_LATENT, MANIFEST, Manifest
from tfcomp.bulk.listing import addresses_of, opened
from tfcomp.bulk.shards import is_run
from tfcomp.cli.console import report_skipped, say, say_report
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError, TfcompError
from tfcomp.items import Images
from tfcomp.storage import archives
from tfcomp.storage.container import Archive
from tfcomp.storage.journal import Journal, put
from tfcomp.storage.writing import flush_folder, local, sweep


def run(args: argparse.Namespace) -> None:
    """The command. A run that was killed half-way is resumed: see `journal` and `tfcomp.bulk`."""
    if not args.input.endswith(".tfz") and is_run(args.input):
        _shards(args)
        return
    local(args.input)
    folder = Path(local(args.output))
    skipped: dict[int, TfcompError] | None = {} if args.on_error == "skip" else None
    eager = {} if skipped is None else {"eager_bytes": 0}  # to check each block when it is read
    with Archive.open(args.input, **eager) as archive, held_native_lines(dropped=args.on_error == "skip"):
        artifact = args.codec or bundled_that_made(archive)
        codec = Codec.load(artifact).with_max_pixels(args.max_pixels)
        try:
            codec = codec.that_made(archive.header.fingerprint)
        except BitstreamError as error:
            raise BitstreamError(f"{args.input}: {error}; --codec is {args.codec}") from error
        suffix = archives.suffix_for(codec.item.channels)
        names = archives.targets(archive.metadata.get("names"), len(archive), args.input, suffix)
        networks = Manifest.read(bundled.resolve(artifact, MANIFEST)).files[DECODER_LATENT]["sha256"]
        journal = Journal(folder, archive.checksum, archive.file_bytes, codec.fingerprint, networks)
        # If all images are there, an earlier run may have ended: they are compared, and none is written.
        complete = not journal.begun and len(names) > 0 and all(os.path.lexists(folder / name) for name in names)
        begun = journal.begun or complete
        targets = archives.check_targets(folder, names, [args.input], force=args.force or begun)
        sound = outcomes.sound_items(codec, archive, skipped)
        archives.make_folders([folder / "any", *targets])
        parents = {target.parent for target in targets}
        for parent in parents:
            sweep(parent)
        kept = journal.kept(targets)
        left = [i for i in sound if i not in kept]
        work = Work(codec, archive, targets, left, replace=args.force or not begun)
        if not complete:
            journal.begin()
        try:
            results = _any_size(work) if codec.item.any_size else _one_shape(work)
            for i, damage in zip(left, results, strict=True):
                if damage is None:
                    if not complete:
                        journal.add(i, targets[i])
                elif skipped is None:
                    raise damage
                else:
                    skipped[i] = damage
        except BaseException:
            if not any(map(os.path.lexists, targets)):
                journal.end()
            raise
        for parent in parents:
            flush_folder(parent)
        journal.end()
    written = len(targets) - len(skipped or {})
    already = f", {len(kept)} of them there already" if kept else ""
    say(f"{args.output}: {written} image{'s' if written != 1 else ''}{already}")
    report_skipped([InputError(f"{names[i]}: {error}") for i, error in sorted((skipped or {}).items())], len(targets))


def _shards(args: argparse.Namespace) -> None:
    if args.force:
        raise InputError("expected --force with one IN.tfz, found it with a folder of shards, which replaces nothing")
    with opened(addresses_of(args.input)[0]) as first:
        artifact = args.codec or bundled_that_made(first)
    codec = Codec.load(artifact).with_max_pixels(args.max_pixels)
    with held_native_lines(dropped=args.on_error == "skip"):
        report = bulk.decompress(args.input, args.output, codec=codec, on_error=args.on_error)
    say_report(args.output, report)


def bundled_that_made(archive: Archive) -> str:
    """The folder of the bundled artifact that made an archive; raises `BitstreamError` if none did."""
    folder = reading.find(archive.header.fingerprint)
    if folder is None:
        raise BitstreamError(
            f"{archive.path}: expected payloads of a bundled codec, found those of the codec "
            f"{archive.header.fingerprint.hex()}; name its artifact with --codec"
        )
    return str(folder)


Outcome = BitstreamError | None


@dataclass(frozen=True)
class Work:
    """The images that are still to be written.

    Attributes:
        codec: the codec that made the archive.
        archive: the payloads.
        targets: file of each image.
        left: numbers of the images that are not written yet.
        replace: whether a file with other content may be replaced.
    """

    codec: Codec
    archive: Archive
    targets: Sequence[Path]
    left: Sequence[int]
    replace: bool


def _one_shape(work: Work) -> Iterator[Outcome]:
    images = outcomes.decompress(work.codec, (work.archive[i] for i in work.left))
    return (_put(image, work.targets[i], work.replace) for i, image in zip(work.left, images, strict=True))


def _any_size(work: Work) -> Iterator[Outcome]:
    jobs = ((work.archive[i], work.targets[i], work.replace) for i in work.left)
    return workers.each(_decompress, jobs, work.codec, "decompress", count=len(work.left))


def _decompress(codec: Codec, payload: bytes, target: Path, replace: bool) -> Outcome:
    (image,) = outcomes.decompress(codec, [payload])
    return _put(image, target, replace)


def _put(image: Images | BitstreamError, target: Path, replace: bool) -> Outcome:
    if isinstance(image, BitstreamError):
        return image
    put(target, image, replace=replace)
    return None
