"""Writing files and folders whole or not at all.

The new content is made under a temporary name beside the target and renamed when complete. Whatever goes wrong before,
an interrupt included, leaves the target as it was and no temporary name behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfcomp.errors import InputError


def _beside(target: Path) -> Path:
    """A free name in the target's folder, with the target's suffix: some writers choose the format by it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {target.parent}: {error.strerror}") from error
    return target.with_name(f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}")


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A context whose value is a temporary path: write the file there, and it becomes ``path`` when the block ends.

    Raises:
        InputError: if ``path`` is a folder or a device, or cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(
            f"expected a file to write, found that {path} is a {'folder' if target.is_dir() else 'device'}"
        )
    temporary = _beside(target)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # the content reaches the disk before the name does
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        # Ours: about the temporary path, or about none (a full disk). Other files are the caller's affair.
        if error.errno is None or error.filename not in (None, os.fspath(temporary)):
            raise
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """A context whose value is a temporary folder: fill it, and it becomes ``path`` when the block ends.

    Args:
        path: the folder to make; its parents are made as needed.
        marker: a file that every folder of this kind contains. An existing folder is replaced only if it is empty or
            contains the marker, so that no folder of the user's is ever deleted.

    Raises:
        InputError: if ``path`` is a file, a folder of another kind, or cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"expected a folder to write, found that {path} is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise InputError(f"expected {path} to be new, empty or an earlier result, found other files and no {marker}")
    temporary = _beside(target)
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    old = _beside(target)
    try:
        yield temporary
        if target.is_dir():
            target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
