"""Image files into a ``.tfz`` and out of it: the files of a list, their names in the archive, and where they come out.

Names in an archive are not trusted: see `names`. Images come out as PNG files, or as ``.npy`` if PNG has no such number
of channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import RAISED_BY
from tfcomp.storage import names as rule
from tfcomp.storage.container import MAGIC
from tfcomp.storage.image_files import ARRAY, image_files
from tfcomp.storage.writing import local

PNG_CHANNELS = (1, 3)

PIXELS_PER_BYTE = 4096
"""Most pixels that an archive larger than one image may claim for each of its bytes: fifteen times those of images of
one colour under the bundled codec."""

_SERIAL_BYTES = 16
"""Room in a name for a serial number and a suffix."""


def suffix_for(channels: int) -> str:
    """Suffix of the file of an image of so many channels."""
    return ".png" if channels in PNG_CHANNELS else ARRAY


def named_files(inputs: Sequence[str | os.PathLike[str]]) -> tuple[list[str], list[Path]]:
    """Portable names and paths of the image files of files and folders; raises `InputError` for an empty folder."""
    files, names = [], []
    for path in (Path(local(address)) for address in inputs):
        if path.is_dir():
            inside = image_files(path)
            files += inside
            names += [rule.portable(file.relative_to(path).as_posix()) for file in inside]
        else:
            files.append(path)
            names.append(rule.portable(path.name))
    return names, files


# === Where images come out ===


def targets(names: Any, count: int, source: str, suffix: str) -> list[PurePosixPath]:
    """The path of each item below the output folder. If a file system may take several names for one, all but the first
    get a serial number.

    Args:
        names: names in the archive, or None for numbers.
        count: number of items.
        source: name of the archive in messages.
        suffix: suffix of every file.

    Raises:
        BitstreamError: if the number of names differs from ``count``, or one breaks the rule of `names`.
    """
    if names is None:
        names = [f"{i:0{len(str(max(count - 1, 0)))}}" for i in range(count)]
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise BitstreamError(f"expected {count} names in {source}, found {str(names)[:60]!a}")
    checked = [rule.checked(name, source) for name in names]
    taken = {rule.key(str(folder)) for folder in _folders(checked)}  # names that no file can have
    serials: dict[str, int] = {}  # the last number that was tried for a name
    paths = []
    for path in checked:
        stem = path.stem if path.suffix.isascii() else path.name
        target = path.with_name(rule.shortened(stem, suffix))
        base = rule.shortened(path.name, spare=_SERIAL_BYTES)
        while rule.key(str(target)) in taken:
            key = rule.key(str(path.with_name(base)))
            serials[key] = serials.get(key, 0) + 1
            target = path.with_name(f"{base}-{serials[key]}{suffix}")
        taken.add(rule.key(str(target)))
        paths.append(target)
    return paths


def _folders(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """All folders above some paths."""
    folders: set[PurePosixPath] = set()
    for path in paths:
        for parent in path.parents:
            if parent in folders:
                break
            folders.add(parent)
    return folders


# === What an archive may claim ===


def most_pixels(archive_bytes: int, max_pixels: int) -> int:
    """Most pixels that an archive of so many bytes may claim; one image has at most ``max_pixels``."""
    return max(max_pixels, PIXELS_PER_BYTE * archive_bytes)


def check_pixels(pixels: int, archive_bytes: int, max_pixels: int, source: str) -> None:
    """Raises `BitstreamError` if an archive claims more pixels in all than its size allows."""
    limit = most_pixels(archive_bytes, max_pixels)
    if pixels > limit:
        claim = f"found a claim of {pixels}; {RAISED_BY}"
        raise BitstreamError(f"expected at most {limit} pixels in {source} of {archive_bytes} bytes, {claim}")


# === What may be replaced ===


def check_output(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]], *, force: bool) -> None:
    """Raises `InputError` if the output is an input, by any name, or, unless ``force``, a file that is no archive."""
    path = Path(local(output))
    _refuse_an_input(path, inputs)
    if path.is_file() and path.stat().st_size and not force:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"expected to make or replace a .tfz, found another file {path}; --force replaces it")


def check_targets(
    folder: Path, targets: Iterable[PurePosixPath], inputs: Sequence[str | os.PathLike[str]], *, force: bool
) -> list[Path]:
    """The paths of targets below a folder.

    Raises:
        InputError: if a target exists, unless ``force``; if one is an input, by any name; or if a folder below the
            folder is a link.
    """
    targets, paths = list(targets), []
    for parent in _folders(targets) - {PurePosixPath(".")}:
        if (folder / parent).is_symlink():
            raise InputError(f"expected folders in {folder}, found that {folder / parent} is a link")
    for target in targets:
        path = folder / rule.checked(str(target), str(folder))
        if os.path.lexists(path):
            _refuse_an_input(path, inputs)
            if not force:
                raise InputError(f"expected none of the images in {folder} yet, found {target}; --force replaces them")
        paths.append(path)
    return paths


def make_folders(paths: Iterable[Path]) -> None:
    """Makes the folder of each path."""
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def _refuse_an_input(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    try:
        output = path.stat()
    except OSError:
        return  # a new file
    for address in inputs:
        with suppress(OSError):  # the reader of an input says what is wrong with it
            if os.path.samestat(output, Path(address).stat()):
                raise InputError(f"expected an output that is none of the inputs, found that {path} is {address}")
