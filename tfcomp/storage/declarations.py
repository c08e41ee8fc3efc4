"""Colours that an image file declares in its headers, by the precedence of its format.

    PNG                    cICP, iCCP, sRGB, gAMA and cHRM, then EXIF (PNG specification, third edition, 4.3)
    AVIF, HEIF, JPEG 2000  an ICC profile, code points or an enumerated colour space in a colr box, then EXIF
    BMP                    an ICC profile, or primaries and gammas, in a header of version 4 or 5
    others                 an ICC profile, then EXIF: the interoperability index or the colour space

The profile of a JPEG, PNG, BMP or GIF file is read here and not by Pillow, which ignores profiles that are damaged,
come late or come twice. A file without declarations is taken for sRGB, and so is one whose only declaration is
"uncalibrated" in EXIF data.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from tfcomp.errors import InputError
from tfcomp.storage import exif
from tfcomp.storage.colours import ADOBE_RGB, SRGB, Curve, Primaries, Rgb, by_code_points, power, srgb

MAX_PROFILE_BYTES = 1 << 24
MAX_HEADER_BYTES = 1 << 26

Declared = Rgb | bytes
"""Primaries and a transfer function, or an ICC profile."""

_GAMMA_OF_SRGB = 0.45455
"""The gAMA of sRGB's curve, the nearest power to it."""
_ADOBE_GAMMA = 563 / 256
_ADOBE_BY_EXIF, _UNKNOWN_BY_EXIF = 2, (0xFFFD, 0xFFFE)
_CALIBRATED, _EMBEDDED, _LINKED = 0, 0x4D424544, 0x4C494E4B
"""Colour spaces in a BMP file's header; all others are sRGB."""
_ENUMERATED = {16: SRGB, 17: SRGB, 18: SRGB}
"""Colour spaces of JPEG 2000 that its decoder converts to sRGB or grey."""


def declared(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> Declared:
    """The declared colours of an opened image file, sRGB if it has none; raises `InputError` on damaged ones."""
    colours: Declared | None
    with open(path, "rb") as file:  # noqa: PTH123 - any path
        match image.format:
            case "PNG":
                colours = _of_png(file, str(path))
            case "JPEG" | "MPO":
                colours = _of_jpeg(file, str(path))
            case "AVIF" | "JPEG2000":
                colours = _of_boxes(file, str(path))
            case "BMP" | "DIB":
                colours = _of_bmp(file, str(path))
            case "GIF":
                colours = _of_gif(file.read(MAX_HEADER_BYTES))
            case _:
                colours = image.info.get("icc_profile") or None
                if not isinstance(colours, bytes | None):  # a TIFF tag of an odd type
                    found = f"found {colours!r:.40}"
                    raise InputError(f"expected a colour profile (ICC) that can be used in {path}, {found}")
    return colours or _of_exif(exif.data_of(image.info), str(path)) or Rgb()


# === EXIF ===


def _of_exif(data: bytes, source: str) -> Rgb | None:
    """Adobe RGB, if the interoperability index or the colour space names it; None otherwise."""
    tags = exif.parse(data)
    if tags.colour_space in _UNKNOWN_BY_EXIF:
        space = f"colour space {tags.colour_space:#x}"
        raise InputError(f"expected colours that can be converted to sRGB in {source}, found {space}")
    if tags.interoperability_index == "R03" or tags.colour_space == _ADOBE_BY_EXIF:
        return Rgb(ADOBE_RGB, power(_ADOBE_GAMMA))
    return None


# === PNG ===


def _of_png(file: BinaryIO, source: str) -> Declared | None:
    chunks: dict[bytes, bytes] = {}
    for name, content in _png_chunks(file):
        if chunks.setdefault(name, content) != content:
            raise InputError(f"expected one chunk {name.decode()} in {source}, found two")
    if b"cICP" in chunks:
        if len(chunks[b"cICP"]) != 4 or chunks[b"cICP"][2:] != b"\0\1":
            raise InputError(f"expected a cICP of RGB in full range in {source}, found {chunks[b'cICP'].hex(' ')}")
        primaries, transfer = chunks[b"cICP"][:2]
        return by_code_points(primaries, transfer, source)
    if b"iCCP" in chunks:
        return _png_profile(chunks[b"iCCP"], source)
    if b"sRGB" in chunks or not chunks.keys() & {b"gAMA", b"cHRM"}:
        return Rgb() if chunks else None
    return Rgb(_chromaticities(chunks.get(b"cHRM"), source), _gamma(chunks.get(b"gAMA"), source))


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The chunks before the pixels that declare colours."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in (b"IDAT", b"IEND"):
            return
        if name in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"):
            yield name, file.read(min(length, MAX_PROFILE_BYTES))
            file.seek(max(0, length - MAX_PROFILE_BYTES) + 4, os.SEEK_CUR)
        else:
            file.seek(length + 4, os.SEEK_CUR)


def _png_profile(content: bytes, source: str) -> bytes:
    _, _, rest = content.partition(b"\0")
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(rest[1:], MAX_PROFILE_BYTES)
        if rest[:1] == b"\0" and inflater.eof and profile:
            return profile
        problem = "it is incomplete or too large"
    except zlib.error as error:
        problem = str(error)
    raise InputError(f"expected a colour profile (ICC) that can be used in {source}, found: {problem}")


def _chromaticities(content: bytes | None, source: str) -> tuple[float, ...]:
    if content is None:
        return SRGB
    if len(content) != 32:
        raise InputError(f"expected a cHRM of 32 bytes in {source}, found {len(content)}")
    white_x, white_y, *colours = (n / 100_000 for n in struct.unpack(">8I", content))
    return _or_srgb((*colours, white_x, white_y))


def _or_srgb(primaries: Primaries) -> Primaries:
    """The primaries, or sRGB's if they are nearly equal."""
    return SRGB if max(abs(a - b) for a, b in zip(primaries, SRGB, strict=True)) < 0.001 else primaries


def _gamma(content: bytes | None, source: str) -> Curve:
    if content is None:
        return srgb
    gamma = int.from_bytes(content) / 100_000
    if len(content) != 4 or not 0.05 <= gamma <= 20:
        raise InputError(f"expected a gAMA that can be used in {source}, found {gamma:g}")
    return _power_or_srgb(1 / gamma)


def _power_or_srgb(exponent: float) -> Curve:
    return srgb if abs(exponent * _GAMMA_OF_SRGB - 1) < 0.01 else power(exponent)


# === JPEG ===


def _of_jpeg(file: BinaryIO, source: str) -> bytes | None:
    """The ICC profile, whose parts may be anywhere before the pixels (ICC.1, annex B.4)."""
    parts: dict[int, bytes] = {}
    counts = set()
    for content in _jpeg_profile_parts(file):
        if len(content) < 2 or parts.setdefault(content[0], content[2:]) != content[2:]:
            raise InputError(f"expected one colour profile (ICC) in {source}, found two")
        counts.add(content[1])
    if not parts:
        return None
    if len(counts) != 1 or sorted(parts) != list(range(1, max(counts) + 1)):
        have = f"parts {', '.join(map(str, sorted(parts)))} of {' or '.join(map(str, sorted(counts)))}"
        raise InputError(f"expected a colour profile (ICC) that is whole in {source}, found {have}")
    return b"".join(parts[number] for number in sorted(parts))


def _jpeg_profile_parts(file: BinaryIO) -> Iterator[bytes]:
    """The content of each segment APP2 of a profile after its identifier: number, count, bytes."""
    label = b"ICC_PROFILE\0"
    file.seek(2)
    while byte := file.read(1):
        if byte != b"\xff":
            continue
        while (byte := file.read(1)) == b"\xff":
            pass
        if byte in (b"\xda", b"\xd9", b""):
            return
        if byte == b"\0" or byte == b"\1" or b"\xd0" <= byte <= b"\xd8":
            continue
        length = int.from_bytes(file.read(2)) - 2
        content = file.read(max(0, length))
        if byte == b"\xe2" and content.startswith(label):
            yield content[len(label) :]


# === BMP and GIF ===


def _of_bmp(file: BinaryIO, source: str) -> Declared | None:
    """The colours of a header of version 4 or 5 (BITMAPV4HEADER, BITMAPV5HEADER); a profile follows the pixels."""
    data = file.read(138)
    if int.from_bytes(data[14:18], "little") < 108 or len(data) < 122:
        return None
    space = int.from_bytes(data[70:74], "little")
    ends = np.array(struct.unpack_from("<9i", data, 74)).reshape(3, 3) / 2**30  # XYZ of red, green and blue
    gammas = np.array(struct.unpack_from("<3I", data, 110)) / 2**16
    if space == _LINKED:
        raise InputError(f"expected a colour profile (ICC) in {source}, found the name of one elsewhere")
    if space == _EMBEDDED:
        at, size = struct.unpack_from("<2I", data.ljust(138, b"\0"), 126)
        file.seek(14 + at)
        profile = file.read(min(size, MAX_HEADER_BYTES))
        if not 0 < size == len(profile):
            raise InputError(f"expected a colour profile (ICC) of {size} bytes in {source}, found {len(profile)}")
        return profile
    if space == _CALIBRATED and ends.any() and not _is_like_srgb(ends, gammas):
        calibration = f"red, green and blue at {ends.round(3).tolist()} and gammas {gammas.round(3).tolist()}"
        raise InputError(f"expected sRGB or a colour profile (ICC) in {source}, found {calibration}")
    return None


def _is_like_srgb(ends: NDArray[np.float64], gammas: NDArray[np.float64]) -> bool:
    """Whether primaries, at any brightness, and gammas are sRGB's; some programs write the inverse of the gamma."""
    points = ends[:, :2] / np.maximum(np.abs(ends.sum(axis=1)), 1e-9)[:, None]
    near = [abs(gammas - gamma).max() < 0.02 for gamma in (0, 2.2, 1 / 2.2)]
    return any(near) and abs(points - np.reshape(SRGB[:6], (3, 2))).max() < 0.002


def _of_gif(data: bytes) -> bytes | None:
    """The profile of an application extension (ICC.1:2010, annex B.5), in blocks of up to 255 bytes."""
    label = b"!\xff\x0bICCRGBG1012"
    at = data.find(label) + len(label)
    parts = []
    while at >= len(label) and at < len(data) and data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts) or None


# === AVIF and JPEG 2000: boxes (ISO/IEC 14496-12, 23008-12, 15444-1) ===


def _of_boxes(file: BinaryIO, source: str) -> Declared | None:
    profile: bytes | None = None
    other: Rgb | None = None
    for content in _colr_boxes(file):
        method = content[:4]
        if method in (b"prof", b"rICC"):
            profile = profile or content[4:]
        elif method == b"nclx" and len(content) >= 10:
            primaries, transfer = struct.unpack(">HH", content[4:8])
            other = other or by_code_points(primaries, transfer, source)
        elif content[:1] in (b"\2", b"\3"):  # JPEG 2000
            profile = profile or content[3:]
        elif content[:1] == b"\1" and len(content) >= 7:
            space = int.from_bytes(content[3:7])
            if space not in _ENUMERATED:
                raise InputError(f"expected colours that can be converted to sRGB in {source}, found space {space}")
            other = other or Rgb(_ENUMERATED[space])
    return profile or other


def _colr_boxes(file: BinaryIO) -> list[bytes]:
    """The contents of the colr boxes of the main picture."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        size = int.from_bytes(file.read(8)) - 16 if size == 1 else size - 8
        if name in (b"meta", b"jp2h"):
            content = file.read(min(size, MAX_HEADER_BYTES) if size >= 0 else MAX_HEADER_BYTES)
            if name == b"jp2h":
                return [inner for name, inner in _boxes(content) if name == b"colr"]
            return _of_main_item(content[4:])
        if size < 0:
            break
        file.seek(size, os.SEEK_CUR)
    return []


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    while len(data) >= 8:
        size, name = struct.unpack(">I4s", data[:8])
        start = 16 if size == 1 else 8
        size = int.from_bytes(data[8:16]) if size == 1 else size or len(data)
        if size < start:
            return
        yield name, data[start:size]
        data = data[size:]


def _of_main_item(meta: bytes) -> list[bytes]:
    """The colr boxes among the properties of a HEIF file's primary item."""
    boxes = dict(reversed(list(_boxes(meta))))
    within = dict(reversed(list(_boxes(boxes.get(b"iprp", b"")))))
    properties = list(_boxes(within.get(b"ipco", b"")))
    main, mine = boxes.get(b"pitm", b""), within.get(b"ipma", b"")
    try:
        wanted = struct.unpack_from(">I" if main[:1] == b"\1" else ">H", main, 4)[0]
        wide, large = mine[3] & 1, mine[0] >= 1
        (entries,) = struct.unpack_from(">I", mine, 4)
        offset = 8
        for _ in range(entries):
            (item,) = struct.unpack_from(">I" if large else ">H", mine, offset)
            offset += 4 if large else 2
            count, offset = mine[offset], offset + 1
            numbers = struct.unpack_from(f">{count}{'H' if wide else 'B'}", mine, offset)
            offset += count * (2 if wide else 1)
            if item == wanted:
                indices = [(n & (0x7FFF if wide else 0x7F)) - 1 for n in numbers]
                assigned = [properties[i] for i in indices if 0 <= i < len(properties)]
                return [content for name, content in assigned if name == b"colr"]
    except (struct.error, IndexError):
        pass
    return [content for name, content in properties if name == b"colr"]
