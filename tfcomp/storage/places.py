"""Files and folders by their addresses: paths of this machine, or what fsspec knows, such as ``s3://bucket/photos``.

A file appears under its name when all of it is there. On this machine a rename does that (`writing`). Elsewhere the
file is first made here and then put as a whole: object stores put a file whole or not at all, but do not rename so. On
other remote file systems a put that was killed may leave a part of a file, which readers have to find by its checksum.

Credentials and other options of a file system come from fsspec's own configuration and environment variables.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tfcomp.errors import InputError, MissingDependencyError, everything_as, optional_import
from tfcomp.storage.writing import flush_folder, replacing_file, sweep

Address = str | os.PathLike[str]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/{1,2}|:)")
"""Beginnings of addresses that fsspec resolves: ``s3://``, ``memory://``, ``simplecache::s3://``."""
MAX_DEPTH = 64
"""Largest depth of folders that a search goes down to."""


class Place:
    """A folder, at a path or an address of fsspec, whose files are read and written whole; the first one makes it."""

    def __init__(self, address: Address) -> None:
        self.address = os.fspath(address)
        self._fs, self._root = resolve(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.address,)

    def __str__(self) -> str:
        return self.address

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's file system."""
        return self._fs is None

    @property
    def of_this_process(self) -> bool:
        """Whether no other process sees the folder, as ``memory://``."""
        return self._fs is not None and "memory" in _protocols(self._fs)

    def path(self, name: str) -> str:
        """The address of a file in the folder, for messages."""
        return f"{self.address.rstrip('/')}/{name}"

    def names(self) -> list[str]:
        """Names of the files in the folder itself, sorted; none if there is no such folder."""
        return sorted(name for name, is_folder in _entries(self._fs, self._root) if not is_folder)

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """A file for reading at any position; raises `InputError` if there is none."""
        return _opened(self._fs, self._join(name), self.path(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A context whose value is a temporary path of this machine; the file gets its name when the block ends."""
        if self._fs is None:
            with replacing_file(self._join(name), follow_links=False, one_of_many=True) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="tfcomp-") as folder:
            temporary = Path(folder) / f"file{PurePosixPath(name).suffix}"
            yield temporary
            target = self._join(name)
            with everything_as(InputError, f"cannot write {self.path(name)}"):
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(temporary), target)

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        with self.writing(name) as temporary:
            temporary.write_bytes(content)

    def sweep(self) -> None:
        """Removes temporary files that killed processes have left in a folder of this machine."""
        if self._fs is None:
            sweep(Path(self._root))

    def flush(self) -> None:
        """Brings the names in a folder of this machine to the disk."""
        if self._fs is None:
            flush_folder(Path(self._root))

    def _join(self, name: str) -> str:
        return str(Path(self._root) / name) if self._fs is None else f"{self._root}/{name}"


def resolve(address: Address) -> tuple[Any, str]:
    """The file system of fsspec, None for this machine's, and the path there; raises a `TfcompError` without either."""
    text = os.fspath(address)
    if not _SCHEME.match(text):
        return None, text or "."
    if "::" not in text and "://" not in text:  # `Path` drops a slash of an address
        raise InputError(f"expected an address as a string, found the path {text!r}")
    with optional_import():
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem
    try:
        fs, path = url_to_fs(text)
    except ImportError as error:  # its message names the package to install
        raise MissingDependencyError(f"cannot reach {text}: {error}") from error
    except Exception as error:
        raise InputError(f"expected an address that fsspec knows, found {text}: {error}") from error
    return (None, path) if isinstance(fs, LocalFileSystem) else (fs, path.rstrip("/"))


def is_folder(address: Address) -> bool:
    """Whether there is a folder at the address."""
    fs, path = resolve(address)
    if fs is None:
        return Path(path).is_dir()
    with everything_as(InputError, f"cannot read {os.fspath(address)}"):
        return bool(fs.isdir(path))


def opened(address: Address) -> BinaryIO:
    """A file for reading at any position; raises `InputError` if there is none."""
    return _opened(*resolve(address), os.fspath(address))


def found(folder: Address, suffixes: Collection[str]) -> Iterator[str]:
    """The files in a folder and its subfolders with one of the suffixes, sorted; one folder's names are held at a time.

    Args:
        folder: an address. Names that begin with a dot are left out; links to folders are not followed.
        suffixes: suffixes in small letters, with their dot.

    Returns:
        Paths relative to the folder, with slashes.
    """
    return _found(*resolve(folder), frozenset(suffixes), "", 0)


@contextmanager
def as_file(address: Address) -> Iterator[Path]:
    """A context whose value is a path of this machine with the content of the file at an address."""
    fs, path = resolve(address)
    if fs is None:
        yield Path(path)
        return
    with _opened(fs, path, os.fspath(address)) as file:
        content = file.read()
    with content_as_file(content, os.fspath(address)) as temporary:
        yield temporary


@contextmanager
def content_as_file(content: bytes, name: str) -> Iterator[Path]:
    """A context whose value is a temporary path with some content; errors in it call the path ``name``."""
    with tempfile.TemporaryDirectory(prefix="tfcomp-") as folder:
        temporary = Path(folder) / f"file{PurePosixPath(name).suffix.lower()}"
        temporary.write_bytes(content)
        try:
            yield temporary
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), name)) from error


# === Inside ===


def _found(fs: Any, folder: str, suffixes: frozenset[str], below: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise InputError(f"expected folders at most {MAX_DEPTH} deep, found {folder}")
    for name, is_a_folder in sorted(_entries(fs, folder)):
        if name.startswith("."):
            continue
        if is_a_folder:
            yield from _found(fs, f"{folder}/{name}", suffixes, f"{below}{name}/", depth + 1)
        elif PurePosixPath(name).suffix.lower() in suffixes:
            yield below + name


def _entries(fs: Any, folder: str) -> list[tuple[str, bool]]:
    """Names in a folder, and whether each is a folder; none if there is no such folder."""
    if fs is None:
        try:
            with os.scandir(folder) as entries:
                return [(e.name, e.is_dir(follow_symlinks=False)) for e in entries if _is_kept(e)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    try:
        listed = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:
        raise InputError(f"cannot read the folder {folder}: {error}") from error
    each = ((e["name"].rstrip("/").rpartition("/")[2], e["type"] == "directory", e["name"]) for e in listed)
    return [(name, is_dir) for name, is_dir, whole in each if name and whole.rstrip("/") != folder.rstrip("/")]


def _is_kept(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or entry.is_file()


def _opened(fs: Any, path: str, address: str) -> BinaryIO:
    try:
        return open(path, "rb") if fs is None else fs.open(path, "rb")  # noqa: PTH123 - the caller closes it
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise InputError(f"cannot read {address}: {' '.join(reason.split())}") from error


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
