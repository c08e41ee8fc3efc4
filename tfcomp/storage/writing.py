"""Writing files and folders whole or not at all.

The new content is made under a temporary name beside the target, flushed to disk and renamed when complete; then the
target's folder is flushed. Any failure before, an interrupt included, leaves the target as it was and no temporary name
behind; a power cut leaves the old content or the new one.

A process that is killed leaves its temporary name behind. The name identifies the process, and the next process that
writes into the folder removes it::

    .NAME.tfcomp-PID-PLACE-TARGET-RANDOM.SUFFIX    PLACE: of the machine and its process numbers; TARGET: of the name
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tfcomp.errors import InputError

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}")
"""Beginnings of addresses elsewhere, ``gs://`` or ``memory://``, also after `Path` has dropped a slash."""


def local(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path, if it is one of this machine; raises `InputError` on one with a scheme, which would become a folder."""
    if _REMOTE.match(os.fspath(path)):
        raise InputError(f"expected a path on this machine, found {os.fspath(path)!r}; copy from or to it")
    return path


_TEMPORARY = re.compile(r"\..*\.tfcomp-(?P<pid>\d+)-(?P<place>[0-9a-f]{8})-(?P<target>[0-9a-f]{8})(?P<old>-old)?-.*")


def _eight(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


@cache
def _place() -> str:
    """The scope of process numbers: this machine, and the container on it."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    with suppress(OSError):
        numbers += Path("/etc/machine-id").read_text()
    return _eight(f"{socket.gethostname()} {numbers}")


def _is_gone(pid: int) -> bool:
    """Whether no process of this machine has the number, or one that has ended; False if that is unknown."""
    if os.name == "nt":  # there `os.kill` would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    # A worker whose parent was killed may stay a zombie: the first process of a container need not wait for any.
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1] == ["Z"]
    return False


def _left_behind(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Temporary names in a folder whose processes have ended."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in sorted(names):
        parsed = _TEMPORARY.fullmatch(name)
        if parsed and parsed["place"] == _place() and _is_gone(int(parsed["pid"])):
            yield folder / name, parsed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path) -> None:
    """Removes the temporary files and folders that killed processes have left in a folder."""
    for path, parsed in _left_behind(folder):
        if not parsed["old"]:  # an old folder may be the only copy
            _remove(path)


def _put_back(target: Path) -> None:
    """Gives a folder its name again, if the process that replaced it was killed between two renames."""
    for path, parsed in _left_behind(target.parent):
        if parsed["old"] and parsed["target"] == _eight(target.name):
            if os.path.lexists(target):
                _remove(path)
            else:
                path.rename(target)


def _beside(target: Path, old: str = "") -> Path:
    """A free name in the target's folder, with the target's suffix, by which some writers choose the format."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {target.parent}: {error.strerror}") from error
    begun = os.fsencode(target.stem)[:60].decode(sys.getfilesystemencoding(), "ignore")  # file systems limit bytes
    suffix = target.suffix if len(os.fsencode(target.suffix)) < 60 else ""
    owner = f"tfcomp-{os.getpid()}-{_place()}-{_eight(target.name)}{old}-{secrets.token_hex(4)}"
    return target.with_name(f".{begun}.{owner}{suffix}")


def _flush(path: Path, flags: int = os.O_RDONLY) -> None:
    """Brings a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Brings the names in a folder to the disk, where the file system can."""
    with suppress(OSError):
        _flush(path)


def _flush_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path, os.O_RDWR)
        else:
            flush_folder(path)
    flush_folder(folder)


@contextmanager
def replacing_file(
    path: str | os.PathLike[str], *, follow_links: bool = True, one_of_many: bool = False
) -> Iterator[Path]:
    """A context whose value is a temporary path: write the file there, and it becomes ``path`` when the block ends.

    Args:
        path: the file to make or replace; its parents are made as needed.
        follow_links: whether a link of this name stays and the file that it leads to is replaced, or the link is.
        one_of_many: whether the caller calls `sweep` and `flush_folder`, once for many files.

    Raises:
        InputError: if ``path`` is a folder or a device, or cannot be written.
    """
    link = Path(local(path))
    target = link.resolve() if follow_links else link.parent.resolve() / link.name
    if target.exists() and not target.is_file():
        raise InputError(
            f"expected a file to write, found that {path} is a {'folder' if target.is_dir() else 'device'}"
        )
    if not one_of_many:
        sweep(target.parent)
    temporary = _beside(target)
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)  # the content reaches the disk before the name does
        temporary.replace(target)
        if not one_of_many:
            flush_folder(target.parent)
    except OSError as error:
        # Only errors about the temporary path or about none (a full disk); other files are the caller's.
        if error.errno is None or error.filename not in (None, os.fspath(temporary)):
            raise
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], marker: str, own: Collection[str] = ()) -> Iterator[Path]:
    """A context whose value is a temporary folder: fill it, and it becomes ``path`` when the block ends.

    Linux exchanges the old folder and the new one in one call. Elsewhere there are two renames, between which neither
    folder has the name; the old one gets it back if the second rename fails, or by the next run.

    Args:
        path: the folder to make; its parents are made as needed.
        marker: a file that every folder of this kind contains.
        own: names of all else in such folders. An existing folder is replaced only if it is empty, or holds the marker
            and no other names, so that no file of the user's is ever deleted.

    Raises:
        InputError: if ``path`` is a file, a folder of another kind or with other files, or cannot be written.
    """
    target = Path(local(path)).resolve()
    _put_back(target)
    sweep(target.parent)
    _refuse_others(target, marker, own)
    temporary = _beside(target)
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    old = _beside(target, "-old")
    try:
        yield temporary
        _flush_all(temporary)
        _refuse_others(target, marker, own)  # again: filling the new one may have taken hours
        if not target.is_dir() or not _exchanged(temporary, target):
            try:
                if target.is_dir():
                    target.rename(old)
                temporary.rename(target)
            except BaseException:
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
        flush_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_others(target: Path, marker: str, own: Collection[str]) -> None:
    """Raises `InputError` if replacing the folder would delete a file that does not belong there."""
    if target.exists() and not target.is_dir():
        raise InputError(f"expected a folder to write, found that {target} is a file")
    there = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else []
    if there and not (target / marker).is_file():
        raise InputError(f"expected {target} to be new, empty or an earlier result, found other files and no {marker}")
    others = set(there) - {marker, *own}
    if others:
        raise InputError(
            f"expected {target} to be new, empty or an earlier result, found {min(others)!a} in it as well"
        )


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one call, and returns whether the system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
