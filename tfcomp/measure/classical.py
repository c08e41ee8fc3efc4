"""Classical codecs on the same images: image formats, lossy and lossless, and general compressors.

Each format has the options for small files: its slowest sensible effort, its smallest container, and colour subsampled
as usual. JPEG XL, zstd and brotli need packages of ``tfcomp[evaluate]``; the rest is in Pillow.
"""

from __future__ import annotations

import io
import lzma
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, features

from tfcomp.errors import InputError, MissingDependencyError, optional_import
from tfcomp.items import Images
from tfcomp.measure.evaluate import Point, ms_ssim, psnr_db
from tfcomp.progress import progress
from tfcomp.storage.image_files import register_jpeg_xl

__all__ = ["Format", "FORMATS", "measure", "round_trip", "curve", "lowest_quality", "lossless", "general_compressors"]


@dataclass(frozen=True)
class Format:
    """An image format and its options for small files.

    Attributes:
        title: its name in tables.
        kind: its name in Pillow.
        always: options of Pillow's ``save`` that do not depend on the quality.
        colour, grey: more options, for images of three channels and of one.
        sweep: qualities of its curve, rising; empty for a lossless format.
        lossy: function from a quality to its options.
        lossless: options of the lossless mode; None without one.
        unit: form of a quality in labels.

    Examples:
        >>> FORMATS["webp"].title, FORMATS["png"].lossless is not None
        ('WebP', True)
    """

    title: str
    kind: str
    always: Mapping[str, Any] = field(default_factory=dict)
    colour: Mapping[str, Any] = field(default_factory=dict)
    grey: Mapping[str, Any] = field(default_factory=dict)
    sweep: tuple[int, ...] = ()
    lossy: Callable[[int], Mapping[str, Any]] = lambda quality: {"quality": quality}
    lossless: Mapping[str, Any] | None = None
    unit: str = "q{}"

    def label(self, quality: int | None) -> str:
        """The name of a quality, None for lossless, in tables."""
        return f"{self.title}, lossless" if quality is None else f"{self.title} {self.unit.format(quality)}"


FORMATS = {
    "jpeg": Format(
        "JPEG",
        "JPEG",
        always={"optimize": True},
        colour={"subsampling": "4:2:0"},
        sweep=(1, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    ),
    "jpeg2000": Format(
        "JPEG 2000",
        "JPEG2000",
        always={"no_jp2": True},  # the bare codestream: 85 bytes less
        sweep=(14, 16, 18, 20, 22, 24, 26, 28, 30, 33, 36, 40, 45),
        lossy=lambda db: {"irreversible": True, "quality_mode": "dB", "quality_layers": [db]},
        lossless={"irreversible": False},
        unit="{} dB",
    ),
    "webp": Format(
        "WebP",
        "WEBP",
        always={"method": 6},
        sweep=(0, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        lossless={"lossless": True, "quality": 100},
    ),
    "avif": Format(
        "AVIF",
        "AVIF",
        # Speed 0 makes files 0.5 % smaller and takes eight times as long.
        always={"speed": 4, "max_threads": 1},
        colour={"subsampling": "4:2:0"},
        grey={"subsampling": "4:0:0"},
        sweep=(0, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    ),
    # Since libavif 1.4 the default is tuned for the eye, and takes a tenth more bytes at equal PSNR.
    "avif-psnr": Format(
        "AVIF for PSNR",
        "AVIF",
        always={"speed": 4, "max_threads": 1, "advanced": {"tune": "psnr"}},
        colour={"subsampling": "4:4:4"},
        grey={"subsampling": "4:0:0"},
        sweep=(0, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    ),
    "jxl": Format(
        "JPEG XL",
        "JXL",
        always={"effort": 9, "num_threads": 1},
        sweep=(1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
        lossless={"lossless": True},
    ),
    "png": Format("PNG", "PNG", always={"optimize": True}, lossless={}),
}
"""Image formats by the names that ``tfcomp evaluate --against`` knows."""


# === Image formats ===


def round_trip(
    images: Images | Sequence[Images], name: str, quality: int | None = None
) -> tuple[list[int], list[Images]]:
    """Compress and restore each image as a file of its own.

    Args:
        images: uint8 [N, H, W, C], C of 1 or 3, or a list of [H, W, C] whose shapes may differ.
        name: one of `FORMATS`.
        quality: quality in the format's unit (decibels for JPEG 2000); None for lossless.

    Returns:
        The N file sizes in bytes, and the restored images, uint8 [H, W, C] each.

    Raises:
        InputError: on other images, or if there is no such format, or no such mode of it.
        MissingDependencyError: if this installation cannot write it.

    Examples:
        >>> sizes, restored = round_trip(np.zeros((2, 8, 8, 1), np.uint8), "png")
        >>> len(sizes), restored[0].shape
        (2, (8, 8, 1))
    """
    how = require(name)
    if quality is None and how.lossless is None:
        raise InputError(f"expected a quality for {how.title}, which has no lossless mode here, found none")
    if quality is not None and not how.sweep:
        raise InputError(f"expected no quality for {how.title}, which is lossless, found {quality}")
    for image in images:
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
            raise InputError(
                f"expected images uint8 [N, H, W, 1 or 3], found {image.dtype} {list(image.shape)} in them"
            )

    def through_file(image: Images) -> tuple[int, Images]:
        file = encoded(image, how, quality)
        return len(file), decoded(file, image.shape[-1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(progress(pool.map(through_file, images), how.label(quality), len(images)))
    return [size for size, _ in results], [restored for _, restored in results]


def encoded(image: Images, how: Format, quality: int | None) -> bytes:
    """The file of one image, uint8 [H, W, 1 or 3], at a quality or, with None, lossless."""
    grey = image.shape[-1] == 1
    options = {**how.always, **(how.grey if grey else how.colour)}
    options |= (how.lossless or {}) if quality is None else how.lossy(quality)
    if how.kind == "JPEG2000":  # wavelet levels until about 8 pixels are left; each empty one costs 20 bytes
        options["num_resolutions"] = max(1, min(6, 1 + int(math.log2(max(1, min(image.shape[:2]) / 8)))))
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if grey else image).save(file, how.kind, **options)
    return file.getvalue()


def decoded(file: bytes, channels: int) -> Images:
    """The image of a file that `encoded` made: uint8 [H, W, channels]."""
    with Image.open(io.BytesIO(file)) as opened:
        restored = np.asarray(opened.convert("L" if channels == 1 else "RGB"), np.uint8)
    return restored.reshape(*restored.shape[:2], channels)


def require(name: str) -> Format:
    """The format of a name; errors as of `round_trip`."""
    if name not in FORMATS:
        raise InputError(f"expected an image format of {', '.join(FORMATS)}, found {name!r}")
    if name == "jxl":
        register_jpeg_xl()
    how = FORMATS[name]
    feature = {"JPEG2000": "jpg_2000", "WEBP": "webp", "AVIF": "avif"}.get(how.kind)
    if feature and not features.check(feature):
        raise MissingDependencyError(f"{how.title} needs a Pillow that was built with it")
    return how


def measure(
    images: Images | Sequence[Images], name: str, quality: int | None = None, *, structural: bool = False
) -> Point:
    """Mean file size in bytes and PSNR in dB of a format, with one file for each image.

    Args:
        images: see `round_trip`, which also raises the errors.
        name: likewise.
        quality: likewise.
        structural: whether to measure MS-SSIM too.

    Examples:
        >>> measure(np.zeros((2, 8, 8, 1), np.uint8), "png").psnr_db
        inf
    """
    sizes, restored = round_trip(images, name, quality)
    originals = list(images)
    similarity = ms_ssim(originals, restored) if structural else None
    return Point(FORMATS[name].label(quality), float(np.mean(sizes)), psnr_db(originals, restored), similarity)


def curve(
    images: Images | Sequence[Images], name: str, qualities: Iterable[int] | None = None, *, structural: bool = False
) -> list[Point]:
    """The points of a format over some qualities, by default its sweep, which is empty for a lossless format.

    Args:
        images: see `measure`.
        name: likewise.
        structural: likewise.
        qualities: qualities in the format's unit.

    Examples:
        >>> [point.codec for point in curve(np.zeros((1, 8, 8, 1), np.uint8), "jpeg", (50, 90))]
        ['JPEG q50', 'JPEG q90']
    """
    chosen = require(name).sweep if qualities is None else qualities
    return [measure(images, name, quality, structural=structural) for quality in chosen]


def lowest_quality(images: Images, name: str, target_psnr_db: float) -> tuple[int, Point]:
    """The lowest quality of a lossy format, 0 to 95, whose PSNR on ``images`` reaches the target, and its point.

    The search sees the images that are measured, in the classical format's favour; 95 if no quality reaches the target.

    Args:
        images: see `round_trip`, which also raises the errors.
        name: likewise.
        target_psnr_db: the target in dB.

    Examples:
        >>> lowest_quality(np.zeros((1, 8, 8, 1), np.uint8), "jpeg", 20.0)[0]
        0
    """
    low, high = 0, 95
    best = measure(images, name, high)
    while low < high:
        quality = (low + high) // 2
        point = measure(images, name, quality)
        low, high, best = (low, quality, point) if point.psnr_db >= target_psnr_db else (quality + 1, high, best)
    return high, best


# === General compressors ===


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=19, write_content_size=False).compress(data)


def _brotli(data: bytes) -> bytes:
    import brotli

    return bytes(brotli.compress(data, quality=11))


def _lzma(data: bytes) -> bytes:
    # The container of a stream would add 60 bytes to each image.
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}])


COMPRESSORS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zstd": ("zstd -19", _zstd),
    "brotli": ("brotli 11", _brotli),
    "lzma": ("lzma 9e", _lzma),
}
"""Title and function of each general compressor, by the names that ``tfcomp evaluate --against`` knows."""


def general_compressors(images: Images | Sequence[Images], names: Iterable[str] = tuple(COMPRESSORS)) -> list[Point]:
    """Points of general compressors on raw pixels: each image alone, and all images as one stream.

    A stream is smaller, but an image in it can be read only after all before it.

    Args:
        images: uint8 [N, H, W, C], or a list of [H, W, C] whose shapes may differ.
        names: some of `COMPRESSORS`.

    Raises:
        MissingDependencyError: if a compressor is not installed.

    Examples:
        >>> [point.codec for point in general_compressors(np.zeros((2, 8, 8, 1), np.uint8), ["lzma"])]
        ['lzma 9e, each image', 'lzma 9e, one stream']
    """
    raw = [image.tobytes() for image in images]
    points = []
    for title, compress in (COMPRESSORS[name] for name in names):
        with optional_import():
            alone = sum(len(compress(data)) for data in progress(raw, title, len(raw)))
        points.append(Point(f"{title}, each image", alone / len(raw), math.inf))
        points.append(Point(f"{title}, one stream", len(compress(b"".join(raw))) / len(raw), math.inf))
    return points


def lossless(images: Images | Sequence[Images], names: Sequence[str]) -> list[Point]:
    """The points of the lossless modes of some formats, without formats that have none; see `measure`.

    Examples:
        >>> [point.codec for point in lossless(np.zeros((1, 8, 8, 1), np.uint8), ["jpeg", "png"])]
        ['PNG, lossless']
    """
    return [measure(images, name) for name in names if require(name).lossless is not None]
