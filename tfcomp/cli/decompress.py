"""``tfcomp decompress``: the images of a ``.tfz`` file into a folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfcomp.artifact import reading
from tfcomp.cli import bulk
from tfcomp.cli.console import report_skipped, say
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError, TfcompError
from tfcomp.storage import archives, image_files
from tfcomp.storage.container import Archive
from tfcomp.storage.writing import flush_folder, local

BATCH_BYTES = 1 << 26
"""Largest size of the images of one shape that are held at a time."""


def run(args: argparse.Namespace) -> None:
    """The command."""
    folder = Path(local(args.output))
    skipped: dict[int, TfcompError] | None = {} if args.on_error == "skip" else None
    eager = {} if skipped is None else {"eager_bytes": 0}  # to check each block when it is read
    with Archive.open(args.input, **eager) as archive, held_native_lines(dropped=args.on_error == "skip"):
        artifact = args.codec or bundled_that_made(archive)
        codec = Codec.load(artifact)
        try:
            codec = codec.that_made(archive.header.fingerprint)
        except BitstreamError as error:
            raise BitstreamError(f"{args.input}: {error}; --codec is {args.codec}") from error
        suffix = archives.suffix_for(codec.item.channels)
        names = archives.targets(archive.metadata.get("names"), len(archive), args.input, suffix)
        targets = archives.check_targets(folder, names, [args.input], force=args.force)
        sound = _sound(archive, codec, skipped)
        archives.make_folders([folder / "any", *targets])
        write = _any_size if codec.item.any_size else _one_shape
        for i, damage in zip(sound, write(codec, archive, sound, targets, artifact), strict=True):
            if damage is not None:
                if skipped is None:
                    raise damage
                skipped[i] = damage
        for parent in {target.parent for target in targets}:
            flush_folder(parent)
    written = len(targets) - len(skipped or {})
    say(f"{args.output}: {written} image{'s' if written != 1 else ''}")
    report_skipped([InputError(f"{names[i]}: {error}") for i, error in sorted((skipped or {}).items())], len(targets))


def bundled_that_made(archive: Archive) -> str:
    """The folder of the bundled artifact whose fingerprint an archive names.

    Raises:
        BitstreamError: if it is none of them.
    """
    folder = reading.find(archive.header.fingerprint)
    if folder is None:
        raise BitstreamError(
            f"{archive.path}: expected payloads of a codec that comes with the package, found those of the codec "
            f"{archive.header.fingerprint.hex()}; name its artifact with --codec"
        )
    return str(folder)


def _sound(archive: Archive, codec: Codec, skipped: dict[int, TfcompError] | None) -> list[int]:
    """The items whose bytes are as they were written and begin as a payload does.

    Others end the command, before any file is made, or are skipped.
    """
    found = []
    for i in range(len(archive)):
        try:
            payload = archive[i]
            if codec.item.any_size or not payload:
                codec.describe(payload)
        except BitstreamError as error:
            if skipped is None:
                raise
            skipped[i] = error
        else:
            found.append(i)
    return found


Outcome = BitstreamError | None


def _one_shape(
    codec: Codec, archive: Archive, items: Sequence[int], targets: Sequence[Path], _: str
) -> Iterator[Outcome]:
    at_once = max(1, BATCH_BYTES // math.prod(n or 1 for n in codec.item.shape))
    for start in range(0, len(items), at_once):
        some = items[start : start + at_once]
        try:
            images = codec.decompress([archive[i] for i in some])
        except BitstreamError:  # of one of them: which?
            yield from (_decompress(codec, archive[i], targets[i]) for i in some)
            continue
        for i, image in zip(some, images, strict=True):
            image_files.write_image(targets[i], image)
            yield None


def _any_size(
    codec: Codec, archive: Archive, items: Sequence[int], targets: Sequence[Path], artifact: str
) -> Iterator[Outcome]:
    jobs = ((archive[i], targets[i]) for i in items)
    return bulk.each(_decompress, jobs, len(items), codec, artifact, "decompress")


def _decompress(codec: Codec, payload: bytes, target: Path) -> Outcome:
    try:
        (image,) = codec.decompress([payload])
    except BitstreamError as error:
        return error
    image_files.write_image(target, image)
    return None
