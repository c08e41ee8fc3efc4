"""The journal of a decompression, by which the next one resumes it if it did not end.

The journal lies in the output folder while images are written, and is removed when all of them are::

    .tfcomp-KEY.unfinished    a line for each image that is there: number, size and CRC-32 of its file

``KEY`` is made of the archive and of its codec, so that another archive or another codec has another journal. Lines may
be missing after a kill; a file without a line is compared with the image that is to be written.
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
from tfcomp.storage.pixel_limit import pixel_limit


class Journal:
    """The journal of one archive in one folder.

    Args:
        folder: the folder of the images.
        key: values that identify the archive and its codec.

    Attributes:
        begun: whether an earlier run has left its journal.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "a.png"
        ...     journal = Journal(Path(folder), "archive", "codec")
        ...     journal.begin()
        ...     put(target, np.zeros((4, 6, 3), np.uint8), replace=False)
        ...     journal.add(0, target)  # and here the process is killed
        ...     resumed = Journal(Path(folder), "archive", "codec")
        ...     resumed.begun, resumed.kept([target])
        (True, {0})
    """

    def __init__(self, folder: Path, *key: object) -> None:
        self._path = folder / f".tfcomp-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.unfinished"
        self.begun = self._path.is_file()

    def kept(self, targets: Sequence[Path]) -> set[int]:
        """Numbers of the images whose files are there as they were written."""
        kept = set()
        for line in self._path.read_text(errors="replace").splitlines() if self.begun else []:
            words = line.split()
            if len(words) == 3 and all(word.isascii() and word.isdecimal() and len(word) < 19 for word in words):
                number, *described = map(int, words)
                if number < len(targets) and described == _described(targets[number]):
                    kept.add(number)
        return kept

    def begin(self) -> None:
        """Makes the journal, before any image is written."""
        self._path.touch()

    def add(self, number: int, target: Path) -> None:
        """Notes an image that was written."""
        size, checksum = _described(target)
        with self._path.open("a") as file:
            file.write(f"{number} {size} {checksum}\n")

    def end(self) -> None:
        """Removes the journal, when all images are there or none is."""
        self._path.unlink(missing_ok=True)


def put(target: Path, image: Images, *, replace: bool) -> None:
    """Writes an image, uint8 [H, W, C], unless the file holds it; raises `InputError` if it holds another, unless
    ``replace``.
    """
    if os.path.lexists(target) and not replace:
        there = None
        with suppress(InputError), pixel_limit(image.shape[0] * image.shape[1]):
            there = None if target.is_symlink() else read_image(target)
        if there is None or not np.array_equal(there, image):
            raise InputError(f"expected no file {target}, or one of this image, found another; --force replaces it")
        return
    write_image(target, image)


def _described(path: Path) -> list[int]:
    """Size and checksum of a file; negative without one."""
    if path.is_symlink() or not path.is_file():
        return [-1, -1]
    content = path.read_bytes()
    return [len(content), zlib.crc32(content)]
