"""Names of files inside an archive or an artifact: one rule for readers and writers on every system.

A name is a path of parts between slashes. It is relative and normalised, stays in its folder, and can be written under
Linux, macOS and Windows: no drive, colon, backslash or control character, no part that Windows reserves or cuts short.
Two names that a file system may take for one, as it ignores case or composes letters, have one `key`.
"""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from tfcomp.errors import BitstreamError

MAX_BYTES = 4000
MAX_PART_BYTES = 255
MAX_PARTS = 64

_FORBIDDEN = frozenset(":\\")
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""
_PORTS = [f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"]
_RESERVED = frozenset(["con", "prn", "aux", "nul", "conin$", "conout$", *_PORTS])
"""Names of Windows' devices, whatever follows their first dot."""


def checked(name: str, source: str) -> PurePosixPath:
    """A name from ``source`` as a path below a folder; raises `BitstreamError` if it breaks the rule."""
    if problem := _problem(name):
        raise BitstreamError(f"expected names inside the output folder in {source}, found {name[:100]!a}: {problem}")
    return PurePosixPath(name)


def portable(name: str) -> str:
    """A file's name in a form that `checked` takes: characters that cannot stay become underscores.

    Examples:
        >>> portable("12:30.jpg"), portable("sub/nul.png")
        ('12_30.jpg', 'sub/_nul.png')
    """
    parts = [_portable_part(part) for part in name.split("/") if part not in ("", ".", "..")][-MAX_PARTS:]
    while len("/".join(parts).encode()) > MAX_BYTES:
        parts.pop(0)
    return "/".join(parts) or "_"


def key(name: str) -> str:
    """A form of a name, equal for names that a file system takes for one as it ignores case or composes letters."""
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded)


def shortened(part: str, suffix: str = "", *, spare: int = 0) -> str:
    """A part of a path and a suffix, with the part cut so that both and ``spare`` more bytes fit a file system."""
    room = MAX_PART_BYTES - len(suffix.encode()) - spare
    return part.encode(errors="replace")[:room].decode(errors="ignore") + suffix


# === Inside ===


def _problem(name: str) -> str | None:
    """The rule that a name breaks, in a few words; None if it breaks none."""
    if any(unicodedata.category(c) in _CONTROL for c in name):
        return "a control character or half of one"
    if not _FORBIDDEN.isdisjoint(name):
        return "a colon or backslash"
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name in ("", "."):
        return "not a plain relative path"
    if len(name.encode()) > MAX_BYTES or len(path.parts) > MAX_PARTS:
        return "too long"
    for part in path.parts:
        if len(part.encode()) > MAX_PART_BYTES:
            return "too long"
        if part[-1] in ". " or _is_reserved(part):
            return "a name that Windows reserves or cuts short"
    return None


def _is_reserved(part: str) -> bool:
    return part.partition(".")[0].rstrip(" ").casefold() in _RESERVED


def _portable_part(part: str) -> str:
    plain = "".join("_" if c in _FORBIDDEN or unicodedata.category(c) in _CONTROL else c for c in part)
    if _is_reserved(plain):
        plain = f"_{plain}"
    if len(plain.encode()) > MAX_PART_BYTES:
        stem, _, suffix = plain.rpartition(".")
        plain = shortened(stem, f".{suffix}") if stem and len(suffix) < 16 else shortened(plain)
    return f"{plain[:-1]}_" if plain[-1] in ". " else plain
