"""Image files into a ``.tfz`` and out of it: which files, the names they have there, and where they come out.

A name from a file is trusted in nothing: see `names`. Files come out as PNG, and as ``.npy`` where their channels make
no PNG.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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
"""Most pixels that an archive may claim for each of its bytes, beyond what one image may have: fifteen times what the
bundled codec needs for images of one colour."""

_SERIAL_BYTES = 16
"""Room in a name for a serial number and a suffix."""


def suffix_for(channels: int) -> str:
    """How the name of a file ends that holds an image of so many channels."""
    return ".png" if channels in PNG_CHANNELS else ARRAY


def named_files(inputs: Sequence[str | os.PathLike[str]]) -> tuple[list[str], list[Path]]:
    """The image files that paths of files and folders name, and the portable name of each.

    Raises:
        InputError: if a folder has none.
    """
    files, names = [], []
    for path in (Path(local(given)) for given in inputs):
        if path.is_dir():
            found = image_files(path)
            files += found
            names += [rule.portable(file.relative_to(path).as_posix()) for file in found]
        else:
            files.append(path)
            names.append(rule.portable(path.name))
    return names, files


# === Where images come out ===


def targets(names: Any, count: int, source: str, suffix: str) -> list[PurePosixPath]:
    """Where each item goes, below the output folder; of names that a file system may take for one, all but the first
    get a serial number.

    Args:
        names: the archive's own, or None: then they are numbered.
        count: number of items.
        source: the archive's name, for messages.
        suffix: of every file.

    Raises:
        BitstreamError: if these are not as many names, or one breaks the rule of `names`.
    """
    if names is None:
        names = [f"{i:0{len(str(max(count - 1, 0)))}}" for i in range(count)]
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise BitstreamError(f"expected {count} names in {source}, found {str(names)[:60]!a}")
    given = [rule.checked(name, source) for name in names]
    taken = {rule.key(str(folder)) for folder in _folders(given)}  # which no file can be called
    serials: dict[str, int] = {}  # each number is tried once for a name
    found = []
    for path in given:
        stem = path.stem if path.suffix.isascii() else path.name
        target = path.with_name(rule.shortened(stem, suffix))
        base = rule.shortened(path.name, spare=_SERIAL_BYTES)
        while rule.key(str(target)) in taken:
            own = rule.key(str(path.with_name(base)))
            serials[own] = serials.get(own, 0) + 1
            target = path.with_name(f"{base}-{serials[own]}{suffix}")
        taken.add(rule.key(str(target)))
        found.append(target)
    return found


def _folders(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """All folders that paths lie in."""
    found: set[PurePosixPath] = set()
    for path in paths:
        for parent in path.parents:
            if parent in found:
                break
            found.add(parent)
    return found


# === What an archive may claim ===


def most_pixels(archive_bytes: int, max_pixels: int) -> int:
    """The most pixels of all images of an archive of this size; one image has ``max_pixels`` at most."""
    return max(max_pixels, PIXELS_PER_BYTE * archive_bytes)


def check_pixels(pixels: int, archive_bytes: int, max_pixels: int, source: str) -> None:
    """Raises `BitstreamError` if an archive claims more pixels in all than its size allows."""
    most = most_pixels(archive_bytes, max_pixels)
    if pixels > most:
        found = f"found a claim of {pixels}; {RAISED_BY}"
        raise BitstreamError(f"expected at most {most} pixels in {source} of {archive_bytes} bytes, {found}")


# === What may be replaced ===


def check_output(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]], *, force: bool) -> None:
    """Whether an archive may be written there.

    Raises:
        InputError: if it is one of the inputs, by whatever name; or a file of another kind, unless ``force``.
    """
    path = Path(local(output))
    _refuse_an_input(path, inputs)
    if path.is_file() and path.stat().st_size and not force:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"expected to make or replace a .tfz, found that {path} is another file; --force does")


def check_targets(
    folder: Path, found: Iterable[PurePosixPath], inputs: Sequence[str | os.PathLike[str]], *, force: bool
) -> list[Path]:
    """The targets below a folder, if they may be written there.

    Raises:
        InputError: if one exists, unless ``force``; if one is an input, by whatever name; or if a link below the folder
            leads away from it.
    """
    found, paths = list(found), []
    for parent in _folders(found) - {PurePosixPath(".")}:
        if (folder / parent).is_symlink():
            raise InputError(f"expected folders in {folder}, found that {folder / parent} is a link")
    for target in found:
        path = folder / rule.checked(str(target), str(folder))
        if os.path.lexists(path):
            _refuse_an_input(path, inputs)
            if not force:
                raise InputError(f"expected none of the images in {folder} yet, found {target}; --force replaces them")
        paths.append(path)
    return paths


def make_folders(paths: Iterable[Path]) -> None:
    """The folders that the files of these paths lie in."""
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def _refuse_an_input(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    try:
        own = path.stat()
    except OSError:
        return  # there is none yet
    for given in inputs:
        try:
            if os.path.samestat(own, Path(given).stat()):
                raise InputError(f"expected an output that is none of the inputs, found that {path} is {given}")
        except OSError:
            continue  # its reader says what is wrong
