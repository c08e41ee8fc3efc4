"""Measurement: PSNR from pooled error, and what the classical image formats need for the same images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tfcomp.codec import Codec, Images
from tfcomp.errors import InputError


@dataclass(frozen=True)
class Point:
    """One measured operating point of one codec.

    Attributes:
        codec: what was run, with its setting, e.g. "WebP q20".
        bytes_per_image: mean length of what is stored for an image: a payload, or a whole file of a classical format.
        psnr_db: from the squared error pooled over all pixels of all images; infinite if nothing was lost.
    """

    codec: str
    bytes_per_image: float
    psnr_db: float


def psnr_db(originals: Images, restored: Images) -> float:
    """PSNR in dB of uint8 images of equal shapes, from their pooled mean squared error."""
    if originals.shape != restored.shape:
        raise InputError(f"expected images of equal shapes, found {originals.shape} and {restored.shape}")
    error = np.mean(np.square(originals.astype(np.float64) - restored))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def measure(codec: Codec, images: Images, name: str = "tfcomp") -> Point:
    """Real payload bytes and PSNR of a codec."""
    payloads = codec.compress(images)
    return Point(name, sum(map(len, payloads)) / len(payloads), psnr_db(images, codec.decompress(payloads)))


def measure_pillow(images: Images, kind: str, name: str, **options: Any) -> Point:
    """Bytes and PSNR of one of Pillow's formats, one file per image.

    Args:
        images: uint8 [N, H, W, C], C of 1 or 3.
        kind: as Pillow names it, e.g. ``"WEBP"``.
        name: what to call the point.
        options: for Pillow's ``save``, e.g. ``quality=20, method=6``.
    """
    sizes, restored = [], np.empty_like(images)
    for i, image in enumerate(tqdm(images, desc=name, unit="image", delay=1.0, leave=False, disable=None)):
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        picture.save(file, kind, **options)
        sizes.append(file.tell())
        decoded = Image.open(file).convert("L" if image.shape[-1] == 1 else "RGB")
        restored[i] = np.asarray(decoded, np.uint8).reshape(image.shape)
    return Point(name, float(np.mean(sizes)), psnr_db(images, restored))


def classical_points(images: Images, target_psnr_db: float) -> list[Point]:
    """PNG (lossless), and WebP and JPEG at their smallest setting that reaches ``target_psnr_db``.

    The settings are those that someone who wants small files would choose: WebP with ``method=6``, JPEG and PNG with
    ``optimize=True``. Quality is chosen on all of ``images``, in the classical format's favour.
    """
    points = [measure_pillow(images, "PNG", "PNG, lossless", optimize=True)]
    for kind, options in (("WEBP", {"method": 6}), ("JPEG", {"optimize": True})):
        low, high = 0, 95
        found = measure_pillow(images, kind, f"{kind} q{high}", quality=high, **options)
        while low < high:
            quality = (low + high) // 2
            point = measure_pillow(images, kind, f"{kind} q{quality}", quality=quality, **options)
            low, high, found = (low, quality, point) if point.psnr_db >= target_psnr_db else (quality + 1, high, found)
        points.append(found)
    return points


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table; the last column compares each one's bytes with the first point's."""
    rows = ["| codec | bytes per image | PSNR dB | bytes, relative |", "|---|---:|---:|---:|"]
    for point in points:
        relative = point.bytes_per_image / points[0].bytes_per_image
        rows.append(f"| {point.codec} | {point.bytes_per_image:.2f} | {point.psnr_db:.2f} | {relative:.1f} |")
    return "\n".join(rows)
