"""Colours that a file declares where Pillow does not look: converted to sRGB, or refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_colours import PICTURE, PIXELS, SAME, expected, linear_profile, power, read, refused

from tfcomp.storage import image_files


def bright(path: Path) -> NDArray[np.float64]:
    """The picture of a file, as if its numbers were linear light."""
    plain = image_files.read_image(path) / 255
    return 255 * np.where(plain <= 0.0031308, 12.92 * plain, 1.055 * plain ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("quality", [10, 60, 100])
def test_a_lossy_webp_file_of_a_grey_picture_takes_a_grey_profile(tmp_path: Path, quality: int) -> None:
    grey = PICTURE.convert("L").resize((64, 64))
    grey.save(file := io.BytesIO(), "WEBP", quality=quality, icc_profile=linear_profile(b"GRAY"))
    found = read(tmp_path, file.getvalue(), "a.webp")
    assert np.abs(found - bright(tmp_path / "a.webp")).mean() < 1.5
    PICTURE.save(file := io.BytesIO(), "WEBP", icc_profile=linear_profile(b"GRAY"))
    assert "profile (ICC) of RGB" in refused(tmp_path, file.getvalue(), "b.webp")


def bmp(kind: bytes | int, *, ends: Any = (0,) * 9, gamma: float = 0, profile: bytes = b"", version: int = 5) -> bytes:
    """A BMP file with a header of version 4 or 5: kind of colours, XYZ of the primaries, gamma, profile."""
    height, width, _ = PIXELS.shape
    rows = b"".join(row[:, ::-1].tobytes().ljust((3 * width + 3) // 4 * 4, b"\0") for row in PIXELS[::-1])
    size = {4: 108, 5: 124}[version]
    head = struct.pack("<IiiHHIIiiII16x", size, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    head += kind.to_bytes(4, "little") if isinstance(kind, int) else kind[::-1]
    head += struct.pack("<9i3I", *(round(2**30 * end) for end in ends), *[round(65536 * gamma)] * 3)
    head += struct.pack("<4I", 4, size + len(rows), len(profile), 0)
    first = 14 + size
    return struct.pack("<2sIHHI", b"BM", first + len(rows + profile), 0, 0, first) + head[:size] + rows + profile


SRGB_ENDS = (0.4124, 0.2126, 0.0193, 0.3576, 0.7152, 0.1192, 0.1805, 0.0722, 0.9505)
ADOBE_ENDS = (0.5767, 0.2973, 0.0270, 0.1856, 0.6274, 0.0707, 0.1882, 0.0753, 0.9911)


def test_bmp_declares_colours_in_its_header(tmp_path: Path) -> None:
    for data in (
        bmp(b"sRGB"),
        bmp(b"Win "),
        bmp(0),
        bmp(0, version=4),
        bmp(0, ends=SRGB_ENDS, gamma=2.2, version=4),
        bmp(0, ends=SRGB_ENDS, gamma=1 / 2.2),
    ):
        np.testing.assert_array_equal(read(tmp_path, data, "a.bmp"), PIXELS)
    found = read(tmp_path, bmp(b"MBED", profile=linear_profile()), "a.bmp")
    assert np.abs(found - expected(SAME, power(1))).mean() < 0.5
    assert "profile" in refused(tmp_path, bmp(b"MBED", profile=linear_profile()[:200]), "a.bmp")
    assert "one elsewhere" in refused(tmp_path, bmp(b"LINK", profile=b"C:\\a.icc\0"), "a.bmp")
    for data in (bmp(0, ends=ADOBE_ENDS, gamma=2.2), bmp(0, ends=SRGB_ENDS, gamma=1.0, version=4)):
        assert "expected sRGB or a colour profile" in refused(tmp_path, data, "a.bmp")


def test_gif_has_a_profile_in_an_extension(tmp_path: Path) -> None:
    few = PICTURE.quantize(16)
    few.save(file := io.BytesIO(), "GIF")
    data, profile = file.getvalue(), linear_profile()
    blocks = b"".join(bytes([len(profile[i : i + 255])]) + profile[i : i + 255] for i in range(0, len(profile), 255))
    at = data.index(b"\x2c\0\0\0\0")  # where the picture begins
    found = read(tmp_path, data[:at] + b"!\xff\x0bICCRGBG1012" + blocks + b"\0" + data[at:], "a.gif")
    assert np.abs(found - bright(tmp_path / "a.gif")).mean() < 0.6
    np.testing.assert_array_equal(read(tmp_path, data, "a.gif"), np.asarray(few.convert("RGB")))


def test_signed_values_and_profiles_of_odd_types_in_tiff_are_refused(tmp_path: Path) -> None:
    grey = PICTURE.convert("L")
    grey.save(file := io.BytesIO(), "TIFF", tiffinfo={339: 2})
    assert "found signed ones" in refused(tmp_path, file.getvalue(), "a.tif")
    grey.save(file := io.BytesIO(), "TIFF", icc_profile=linear_profile())
    data = file.getvalue()
    tag = struct.pack("<HH", 34675, 7)
    assert data.count(tag) == 1
    odd = tag[:2] + struct.pack("<HII", 4, 1, 7)
    at = data.index(tag)
    assert "found 7" in refused(tmp_path, data[:at] + odd + data[at + 12 :], "a.tif")
