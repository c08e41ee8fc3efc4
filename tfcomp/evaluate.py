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


def pillow_round_trip(images: Images, kind: str, **options: Any) -> tuple[list[int], Images]:
    """Each image through a file of one of Pillow's formats.

    Args:
        images: uint8 [N, H, W, C], C of 1 or 3.
        kind: the format, as Pillow names it, e.g. ``"WEBP"``.
        options: for Pillow's ``save``, e.g. ``quality=20, method=6``.

    Returns:
        The N file sizes in bytes, and the restored images, uint8 [N, H, W, C].
    """
    sizes, restored = [], np.empty_like(images)
    for i, image in enumerate(tqdm(images, desc=kind, unit="image", delay=1.0, leave=False, disable=None)):
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        picture.save(file, kind, **options)
        sizes.append(file.tell())
        decoded = Image.open(file).convert("L" if image.shape[-1] == 1 else "RGB")
        restored[i] = np.asarray(decoded, np.uint8).reshape(image.shape)
    return sizes, restored


# What someone who wants small files would choose.
SMALL_FILES: dict[str, dict[str, Any]] = {"PNG": {"optimize": True}, "WEBP": {"method": 6}, "JPEG": {"optimize": True}}


def measure_pillow(images: Images, kind: str, **options: Any) -> Point:
    """Bytes and PSNR of one of Pillow's formats at its options for small files, one file per image."""
    sizes, restored = pillow_round_trip(images, kind, **SMALL_FILES.get(kind, {}), **options)
    setting = f"{kind} q{options['quality']}" if "quality" in options else f"{kind}, lossless"
    return Point(setting, float(np.mean(sizes)), psnr_db(images, restored))


def lowest_quality(images: Images, kind: str, target_psnr_db: float) -> Point:
    """The smallest quality of a lossy Pillow format, 0 to 95, whose PSNR on ``images`` reaches the target.

    It is searched on the very images that are measured, in the classical format's favour; 95 if none reaches it.
    """
    low, high = 0, 95
    found = measure_pillow(images, kind, quality=high)
    while low < high:
        quality = (low + high) // 2
        point = measure_pillow(images, kind, quality=quality)
        low, high, found = (low, quality, point) if point.psnr_db >= target_psnr_db else (quality + 1, high, found)
    return found


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table; the last column compares each one's bytes with the first point's."""
    rows = ["| codec | bytes per image | PSNR dB | bytes, relative |", "|---|---:|---:|---:|"]
    for point in points:
        relative = point.bytes_per_image / points[0].bytes_per_image
        rows.append(f"| {point.codec} | {point.bytes_per_image:.2f} | {point.psnr_db:.2f} | {relative:.1f} |")
    return "\n".join(rows)
