"""Colours of a picture, and their conversion to sRGB.

A picture's colours are declared by an ICC profile, which littleCMS converts, or by primaries, white and a transfer
function, `Rgb`:

    linear = transfer(value / 255)                           of each channel, on [0, 1]
    XYZ    = matrix of the primaries . linear                relative to their white
    sRGB   = encode(matrix of sRGB's ^-1 . adaptation . XYZ)    clipped to [0, 1]

The adaptation from another white is Bradford's (Lindbloom, "Chromatic Adaptation"), as in ICC profiles. Code points are
those of ITU-T H.273, which PNG (cICP), AVIF and others cite.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tfcomp.errors import InputError

Float64 = NDArray[np.float64]
Curve = Callable[[Float64], Float64]

GREY_SPREAD = 1
"""Largest difference between the channels of a grey pixel: lossy WebP keeps grey no better."""
ROWS = 256
"""Number of rows that are converted at a time."""


# === Transfer functions, from values to linear light, both on [0, 1] ===


def srgb(value: Float64) -> Float64:
    """IEC 61966-2-1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def bt709(value: Float64) -> Float64:
    """The inverse of the camera's curve of ITU-R BT.709, which BT.601 and BT.2020 share."""
    return np.where(value < 0.081, value / 4.5, ((value + 0.099) / 1.099) ** (1 / 0.45))


def power(exponent: float) -> Curve:
    """A plain gamma."""

    def curve(value: Float64) -> Float64:
        return value**exponent

    return curve


def _encoded(linear: Float64) -> Float64:
    """The inverse of `srgb`."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


# === Primaries ===

D65 = (0.3127, 0.3290)
Primaries = tuple[float, ...]
"""Chromaticities x and y of red, green, blue and white."""
SRGB: Primaries = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *D65)
ADOBE_RGB: Primaries = (0.640, 0.330, 0.210, 0.710, 0.150, 0.060, *D65)
PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65),
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *D65),
}
"""Chromaticities by the code point of colour primaries (H.273, table 2), for colours that a display can show."""
TRANSFERS: dict[int, Curve] = {
    1: bt709,
    4: power(2.2),
    5: power(2.8),
    6: bt709,
    8: power(1.0),
    13: srgb,
    14: bt709,
    15: bt709,
}
"""Transfer functions by the code point of transfer characteristics (H.273, table 3)."""
UNSPECIFIED = 2
"""The code point that declares nothing."""
HDR = {16: "PQ", 18: "HLG"}

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Rgb:
    """Colours by primaries, white and transfer function; the defaults are sRGB's."""

    primaries: Primaries = SRGB
    transfer: Curve = srgb

    @property
    def is_srgb(self) -> bool:
        return self.primaries == SRGB and self.transfer is srgb


def by_code_points(primaries: int, transfer: int, source: str) -> Rgb | None:
    """The colours of two code points of H.273, None if both are unspecified; raises `InputError` on HDR and others."""
    if transfer in HDR:
        raise InputError(f"expected colours of standard dynamic range in {source}, found {HDR[transfer]}")
    if primaries not in {*PRIMARIES, UNSPECIFIED} or transfer not in {*TRANSFERS, UNSPECIFIED}:
        points = f"primaries {primaries} and transfer {transfer}"
        raise InputError(f"expected colours that can be converted to sRGB in {source}, found {points} of H.273")
    if primaries == transfer == UNSPECIFIED:
        return None
    return Rgb(PRIMARIES.get(primaries, SRGB), TRANSFERS.get(transfer, srgb))


def matrix(primaries: Primaries, source: str) -> Float64:
    """The matrix from linear light of some primaries to linear light of sRGB's: float64 [3, 3]."""
    return np.linalg.inv(_to_xyz(SRGB, source)) @ _adaptation(primaries) @ _to_xyz(primaries, source)


def _to_xyz(primaries: Primaries, source: str) -> Float64:
    points = np.array(primaries, np.float64).reshape(4, 2)
    if np.all(points[:, 1] > 0) and np.all(points >= 0) and np.all(points.sum(axis=1) <= 1.0001):
        xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)], axis=0) / points[:, 1]
        if abs(np.linalg.det(xyz[:, :3])) > 1e-6:
            scaled: Float64 = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
            return scaled
    raise InputError(f"expected primaries that span colours in {source}, found {primaries}")


def _adaptation(primaries: Primaries) -> Float64:
    """The matrix from XYZ relative to the primaries' white to XYZ relative to sRGB's: float64 [3, 3]."""
    x, y = primaries[6:]
    cones = [_BRADFORD @ np.array([a / b, 1, (1 - a - b) / b]) for a, b in (D65, (x, y))]
    adapted: Float64 = np.linalg.inv(_BRADFORD) @ np.diag(cones[0] / cones[1]) @ _BRADFORD
    return adapted


# === Conversion ===


def from_rgb(image: Image.Image, colours: Rgb, source: str) -> Image.Image:
    """A picture of mode L or RGB in sRGB; raises `InputError` if the primaries span no colours."""
    if colours.is_srgb:
        return image
    linear = colours.transfer(np.arange(256) / 255)
    if image.mode == "L":
        return image.point(_levels(linear).tolist())
    turned, pixels = matrix(colours.primaries, source), np.asarray(image)
    parts = [_levels(linear[pixels[i : i + ROWS]] @ turned.T) for i in range(0, len(pixels), ROWS)]
    return Image.fromarray(np.concatenate(parts))


def _levels(linear: Float64) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(_encoded(np.clip(linear, 0, 1)), 0, 1)).astype(np.uint8)


def from_profile(image: Image.Image, profile: bytes, source: str) -> Image.Image:
    """A picture of mode L or RGB in sRGB, in its mode.

    A profile of grey also serves an RGB picture of grey pixels alone, since some formats have no grey, and a profile of
    RGB serves a grey picture.

    Raises:
        InputError: if the profile is damaged, or its colours are not the picture's.
    """
    _refuse_high_dynamic_range(profile, source)
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        mode = {"GRAY": "L", "RGB": "RGB"}.get(space)
        if mode is None or (mode == "L" and not _is_grey(image)):
            expected = "grey" if image.mode == "L" else "RGB"
            raise InputError(f"expected a colour profile (ICC) of {expected} in {source}, found one of {space}")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image.convert(mode), opened, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a colour profile (ICC) that can be used in {source}, found: {error}") from error
    assert converted is not None
    return converted.convert(image.mode)


def _refuse_high_dynamic_range(profile: bytes, source: str) -> None:
    """Raises `InputError` if a profile names code points of high dynamic range (ICC.1:2022, tag cicp)."""
    for i in range(min(int.from_bytes(profile[128:132]), 100)):
        entry = profile[132 + 12 * i :][:12]
        if entry[:4] == b"cicp":
            code_points = profile[int.from_bytes(entry[4:8]) :][8:10]
            if len(code_points) == 2 and code_points[1] in HDR:
                by_code_points(code_points[0], code_points[1], source)


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return int((pixels.max(axis=-1) - pixels.min(axis=-1)).max(initial=0)) <= GREY_SPREAD
