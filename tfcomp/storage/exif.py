"""The three EXIF tags that matter to a picture: its orientation, and two about its colours.

This module reads no other tags, since in many photographs some other tag has an odd type, which changes nothing. The
layout is TIFF's: a header, and directories of entries of 12 bytes::

    II or MM, 42, offset of the first directory          count, entries, offset of the next
    entry: tag, type, count, the value itself if it takes 4 bytes or fewer, else its offset
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

ORIENTATION, COLOUR_SPACE, INTEROPERABILITY_INDEX = 0x0112, 0xA001, 0x0001
_EXIF, _INTEROPERABILITY = 0x8769, 0xA005
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
"""Struct formats of the integer types, by their EXIF code."""
MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Exif:
    """Values of tags, None where they are absent or of a type that makes no sense.

    Attributes:
        orientation: 1 to 8; any other number says nothing.
        colour_space: a number of the EXIF specification.
        interoperability_index: such as "R98".
    """

    orientation: int | None = None
    colour_space: int | None = None
    interoperability_index: str | None = None


def data_of(info: Mapping[Any, Any]) -> bytes:
    """The EXIF data in ``Image.info``, or empty; ImageMagick writes them into PNG files as hexadecimal text."""
    if data := info.get("exif"):
        return bytes(data)
    for profile in ("exif", "APP1"):
        digits = str(info.get(f"Raw profile type {profile}", "")).split()[2:]  # after a name and a length
        with suppress(ValueError):
            if data := bytes.fromhex("".join(digits)):
                return data
    return b""


def parse(data: bytes) -> Exif:
    """The tags of EXIF data; damaged ones are None."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return Exif()
    main = _directory(data, struct.unpack_from(order + "I", data, 4)[0], order)
    inner = _directory(data, _whole(main.get(_EXIF), order), order)
    interoperability = _directory(data, _whole(inner.get(_INTEROPERABILITY), order), order)
    index = interoperability.get(INTEROPERABILITY_INDEX, b"")[8:12].split(b"\0")[0]
    return Exif(
        _whole(main.get(ORIENTATION), order),
        _whole(inner.get(COLOUR_SPACE), order),
        index.decode("ascii", "replace").strip() or None,
    )


def _directory(data: bytes, offset: int | None, order: str) -> dict[int, bytes]:
    """The entries of a directory by tag."""
    if offset is None or not 8 <= offset <= len(data) - 2:
        return {}
    (count,) = struct.unpack_from(order + "H", data, offset)
    entries = (data[at : at + 12] for at in range(offset + 2, offset + 2 + 12 * min(count, MAX_ENTRIES), 12))
    return {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries if len(entry) == 12}


def _whole(entry: bytes | None, order: str) -> int | None:
    """The value of an entry that holds one whole number, else None."""
    if entry is None:
        return None
    code, count = struct.unpack_from(order + "HI", entry, 2)
    if code not in _INTEGERS or count != 1:
        return None
    return int(struct.unpack_from(order + _INTEGERS[code], entry, 8)[0])
