"""What a decompression that did not end has written, so that the next one goes on from there.

The journal lies in the output folder while images are written, and is gone when all of them are::

    .tfcomp-KEY.unfinished    a line for each image that is there: number, size and CRC-32 of its file

``KEY`` is made of the archive and of what decodes it, so that another archive or another codec has another journal.
Lines may be missing after a kill; a file that none tells of is compared with what is to be written.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.storage.image_files import read_image, write_image


class Journal:
    """The journal of one archive in one folder.

    Args:
        folder: where the images go.
        key: whatever names the archive, and what decodes it.

    Attributes:
        begun: whether an earlier run has left it.
    """

    def __init__(self, folder: Path, *key: object) -> None:
        self._path = folder / f".tfcomp-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.unfinished"
        self.begun = self._path.is_file()

    def kept(self, targets: Sequence[Path]) -> set[int]:
        """Numbers of the images whose files are there, whole, as they were written."""
        found = set()
        for line in self._path.read_text(errors="replace").splitlines() if self.begun else []:
            words = line.split()
            if len(words) == 3 and all(word.isascii() and word.isdecimal() and len(word) < 19 for word in words):
                number, *described = map(int, words)
                if number < len(targets) and described == _described(targets[number]):
                    found.add(number)
        return found

    def begin(self) -> None:
        """Images are about to be written."""
        self._path.touch()

    def add(self, number: int, target: Path) -> None:
        """Notes that an image is there."""
        size, checksum = _described(target)
        with self._path.open("a") as file:
            file.write(f"{number} {size} {checksum}\n")

    def end(self) -> None:
        """All images are there, or none."""
        self._path.unlink(missing_ok=True)


def put(target: Path, image: Images, *, replace: bool) -> None:
    """Writes an image, unless the file is there and holds it.

    Args:
        target: the file.
        image: uint8 [H, W, C].
        replace: replace a file that holds another one.

    Raises:
        InputError: if it holds another one, and must not be replaced.
    """
    if os.path.lexists(target) and not replace:
        there = None
        with suppress(InputError):
            there = None if target.is_symlink() else read_image(target)
        if there is None or not np.array_equal(there, image):
            raise InputError(f"expected {target} to be absent or the image of that name; --force replaces it")
        return
    write_image(target, image)


def _described(path: Path) -> list[int]:
    """Size and checksum of a file; of none, what no file has."""
    if path.is_symlink() or not path.is_file():
        return [-1, -1]
    content = path.read_bytes()
    return [len(content), zlib.crc32(content)]
