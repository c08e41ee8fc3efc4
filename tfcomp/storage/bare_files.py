"""Image files without metadata that change no pixel.

Pillow reads some metadata when it opens a file, and takes the file for damaged if one tag or chunk is odd. Metadata
about the display of pixels stay: transparency, animation, orientation, colours.
"""

from __future__ import annotations

import re
import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset([b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"])
"""Ancillary chunks that matter to a picture, and that Pillow does not parse when it opens a file."""
_TIFF_KEPT = frozenset(
    n
    for first, last in ((256, 259), (262, 262), (266, 266), (273, 274), (277, 279), (284, 284), (292, 293), (317, 317),
                        (320, 325), (330, 332), (338, 339), (347, 347), (512, 521), (529, 532), (34675, 34675))
    for n in range(first, last + 1)
)  # fmt: skip
"""Tags of the position, coding and meaning of pixels."""
_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{3}(?:..|....)..)Exif", re.DOTALL)
"""The box of a HEIF file that makes an item EXIF data; in HEIF the orientation is a property of the picture."""


def without_metadata(data: bytes) -> bytes | None:
    """The file without metadata; None if there are none to leave out, or its format is none of the ones below."""
    if data.startswith(_PNG):
        bare = _png(data)
    elif data.startswith(b"\xff\xd8"):
        bare = _jpeg(data)
    elif data[:4] in (b"II*\0", b"MM\0*") and len(data) >= 8:
        bare = _tiff(data)
    elif data[4:8] == b"ftyp":
        bare = _EXIF_ITEM.sub(rb"\1free", data)
    else:
        return None
    return bare if bare != data else None


def _png(data: bytes) -> bytes:
    """Critical chunks, whose names begin with a capital letter, and those that are kept."""
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name[:1].isupper() or name in _PNG_KEPT:
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def _jpeg(data: bytes) -> bytes:
    """The file without comments and application segments, but with EXIF data and Adobe's, which name the channels."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:
            break
        segment = data[at : at + length]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or segment[4:10] == b"Exif\0\0" or marker == 0xEE:
            parts.append(segment)
        at += length
    return b"".join([*parts, data[at:]])


def _tiff(data: bytes) -> bytes:
    """The file with a new first directory, of the kept tags, at its end."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at) if at + 2 <= len(data) else (0,)
    end = at + 2 + 12 * count
    if not count or end + 4 > len(data):
        return data
    entries = [data[i : i + 12] for i in range(at + 2, end, 12)]
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_KEPT]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + data[end : end + 4]
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory
