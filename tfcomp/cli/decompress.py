"""``tfcomp decompress``: the images of a ``.tfz`` file into a folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfcomp.artifact import reading
from tfcomp.cli import bulk
from tfcomp.cli.console import say
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError
from tfcomp.storage import archives, image_files
from tfcomp.storage.container import Archive
from tfcomp.storage.writing import flush_folder, local

BATCH_BYTES = 1 << 26
"""Largest size of the images of one shape that are held at a time."""


def run(args: argparse.Namespace) -> None:
    """The command."""
    folder = Path(local(args.output))
    with Archive.open(args.input) as archive, held_native_lines():
        artifact = args.codec or bundled_that_made(archive)
        codec = Codec.load(artifact)
        try:
            codec = codec.that_made(archive.header.fingerprint)
        except BitstreamError as error:
            raise BitstreamError(f"{args.input}: {error}; --codec is {args.codec}") from error
        suffix = archives.suffix_for(codec.item.channels)
        names = archives.targets(archive.metadata.get("names"), len(archive), args.input, suffix)
        targets = archives.check_targets(folder, names, [args.input], force=args.force)
        _check(archive, codec)
        archives.make_folders([folder / "any", *targets])
        write = _any_size if codec.item.any_size else _one_shape
        for _ in write(codec, archive, targets, artifact):
            pass
        for parent in {target.parent for target in targets}:
            flush_folder(parent)
    say(f"{args.output}: {len(targets)} image{'s' if len(targets) != 1 else ''}")


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


def _check(archive: Archive, codec: Codec) -> None:
    """Refuses what its first bytes show to be no payload, before any file is made."""
    if codec.item.any_size:
        for payload in archive:
            codec.describe(payload)
    elif len(archive) and not archive.lengths.all():
        codec.describe(b"")


def _one_shape(codec: Codec, archive: Archive, targets: Sequence[Path], _: str) -> Iterator[None]:
    at_once = max(1, BATCH_BYTES // math.prod(n or 1 for n in codec.item.shape))
    for start in range(0, len(archive), at_once):
        some = targets[start : start + at_once]
        for target, image in zip(some, codec.decompress(archive[start : start + at_once]), strict=True):
            image_files.write_image(target, image)
            yield


def _any_size(codec: Codec, archive: Archive, targets: Sequence[Path], artifact: str) -> Iterator[None]:
    jobs = zip(archive, targets, strict=True)
    return bulk.each(_decompress, jobs, len(archive), codec, artifact, "decompress")


def _decompress(codec: Codec, payload: bytes, target: Path) -> None:
    (image,) = codec.decompress([payload])
    image_files.write_image(target, image)
