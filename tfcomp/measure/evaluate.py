"""Measurement: real bytes, PSNR, MS-SSIM, the Bjontegaard rate difference, and the provenance of figures.

`tfcomp.measure.classical` has the classical image formats and general compressors to compare with.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcomp.errors import InputError, optional_import
from tfcomp.items import Images
from tfcomp.storage import container

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

    from tfcomp.codec import Codec

__all__ = [
    "Point", "measure", "psnr_db", "ms_ssim", "archive_bytes", "bd_rate", "frontier", "bytes_at", "measure_pillow",
    "lowest_quality", "table", "machine", "provenance",
]  # fmt: skip

MS_SSIM_SIDE = 161
"""Smallest side in pixels for MS-SSIM: halved four times it still holds the window of 11."""

POINTS = 3
"""Smallest number of points, without dominated ones, of a curve for a Bjontegaard difference."""


@dataclass(frozen=True)
class Point:
    """One measured operating point of one codec.

    Attributes:
        codec: name and setting, e.g. "WebP q20".
        bytes_per_image: mean bytes of an image: of its payload, or of its file in a classical format.
        psnr_db: PSNR in dB by the squared error pooled over all pixels of all images; infinite without error.
        ms_ssim: mean over the images, on [0, 1]; None if not measured, or for images that are too small.
        archive_bytes_per_image: bytes of a ``.tfz`` file of all images, over their number; None without one.

    Examples:
        >>> Point("WebP q20", bytes_per_image=1200.0, psnr_db=31.5).as_dict()["psnr_db"]
        31.5
    """

    codec: str
    bytes_per_image: float
    psnr_db: float
    ms_ssim: float | None = None
    archive_bytes_per_image: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The point for JSON, which has no infinity: ``psnr_db`` is None for lossless points."""
        return {**asdict(self), "psnr_db": self.psnr_db if math.isfinite(self.psnr_db) else None}


# === One codec ===


def psnr_db(originals: Images | Sequence[Images], restored: Images | Sequence[Images]) -> float:
    """PSNR in dB of uint8 images, from the mean squared error pooled over all of their pixels.

    Args:
        originals: an array of any shape, or a list of arrays whose shapes may differ.
        restored: as ``originals``.

    Raises:
        InputError: if shapes differ.

    Examples:
        >>> round(psnr_db(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)), 2)
        48.13
    """
    first, second = list(originals), list(restored)
    if isinstance(originals, np.ndarray) and isinstance(restored, np.ndarray):
        first, second = [originals], [restored]
    shapes = [[image.shape for image in images] for images in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(f"expected images of equal shapes, found {_shapes(first)} and {_shapes(second)}")
    pairs = zip(first, second, strict=True)
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs) / sum(a.size for a in first)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _shapes(images: Sequence[Images]) -> str:
    return f"{len(images)} of {', '.join(sorted({str(image.shape) for image in images}))}"


def ms_ssim(
    originals: Images | Sequence[Images], restored: Images | Sequence[Images], *, batch: int = 16
) -> float | None:
    """Mean multi-scale structural similarity of uint8 images, by TensorFlow, on [0, 1].

    Args:
        originals: [N, H, W, C], or a list of [H, W, C] whose shapes may differ.
        restored: as ``originals``.
        batch: number of images of one shape at a time.

    Returns:
        The mean; None if a side is below `MS_SSIM_SIDE`, since the measure's five scales and their weights were fitted
        together, and fewer scales would be another measure.

    Raises:
        InputError: if shapes differ.
        MissingDependencyError: if TensorFlow is not installed.

    Examples:
        >>> images = np.full((1, 176, 176, 3), 99, np.uint8)
        >>> ms_ssim(images, images)
        1.0
    """
    if not (isinstance(originals, np.ndarray) and isinstance(restored, np.ndarray)):
        each = [ms_ssim(a[None], b[None]) for a, b in zip(originals, restored, strict=True)]
        return None if None in each else float(np.mean([value for value in each if value is not None]))
    if originals.shape != restored.shape:
        raise InputError(f"expected images of equal shapes, found {originals.shape} and {restored.shape}")
    if min(originals.shape[1:3]) < MS_SSIM_SIDE:
        return None
    with optional_import():
        import tensorflow as tf
    parts = [
        tf.image.ssim_multiscale(originals[i : i + batch], restored[i : i + batch], 255).numpy()
        for i in range(0, len(originals), batch)
    ]
    return float(np.mean(np.concatenate(parts)))


def archive_bytes(codec: Codec, payloads: Sequence[bytes]) -> int:
    """Size in bytes of the ``.tfz`` file of a codec's payloads, with header, index and checksums.

    Examples:
        >>> from tfcomp import Codec
        >>> archive_bytes(Codec.load(), [b"first", b"second"])
        54
    """
    return container.size(map(len, payloads), item_shape=tuple(n or 0 for n in codec.item.shape))


def measure(
    codec: Codec,
    images: Images | Sequence[Images],
    name: str = "tfcomp",
    *,
    structural: bool = False,
    quality: int | None = None,
    effort: int = 0,
) -> Point:
    """Real payload bytes and PSNR of a codec, and the bytes of the ``.tfz`` file of all images.

    Args:
        codec: from `Codec.freeze` or `Codec.load`.
        images: uint8 [N, H, W, C], at least one; for a codec of any size also a list of [H, W, C] of several shapes.
        name: name of the point.
        structural: whether to measure MS-SSIM too.
        quality: 1 to ``codec.qualities``. Default: the codec's default.
        effort: see `Codec.compress`.

    Raises:
        InputError: if there is no image, and as `Codec.compress`.

    Examples:
        >>> from tfcomp import Codec
        >>> measure(Codec.load(), [np.full((40, 60, 3), 99, np.uint8)], quality=5).psnr_db > 40
        True
    """
    if len(images) == 0:
        raise InputError("expected at least one image to measure on, found none")
    payloads = codec.compress(images, quality, effort=effort)
    restored = codec.decompress(payloads, quality)
    return Point(
        name,
        sum(map(len, payloads)) / len(payloads),
        psnr_db(images, restored),
        ms_ssim(images, restored) if structural else None,
        archive_bytes(codec, payloads) / len(payloads),
    )


# === Curves ===


def frontier(curve: Iterable[Point]) -> list[Point]:
    """The undominated lossy points of a curve, by rising bytes and PSNR.

    A point is dominated by one of no more bytes and at least its PSNR. The others are strictly monotonic, as
    interpolation needs.

    Examples:
        >>> [p.codec for p in frontier([Point("a", 10, 30.0), Point("b", 20, 29.0), Point("c", 30, 31.0)])]
        ['a', 'c']
    """
    kept: list[Point] = []
    for point in sorted(curve, key=lambda point: (point.bytes_per_image, -point.psnr_db)):
        if not (math.isfinite(point.psnr_db) and point.bytes_per_image > 0):
            continue
        if not kept or point.psnr_db > kept[-1].psnr_db:
            kept.append(point)
    return kept


def bytes_at(curve: Iterable[Point], target_psnr_db: float) -> float:
    """Bytes per image of a codec at a PSNR in dB, interpolated between its measured points.

    The interpolation is piecewise cubic (PCHIP), of the logarithm of the bytes over the PSNR. Below the curve's range
    the result is its smallest point.

    Raises:
        InputError: if the curve does not reach the PSNR.
        MissingDependencyError: if SciPy is not installed.

    Examples:
        >>> points = [Point("a", 100, 30.0), Point("b", 200, 33.0), Point("c", 400, 36.0)]
        >>> round(bytes_at(points, 34.5))
        283
    """
    points = frontier(curve)
    if not points or target_psnr_db > points[-1].psnr_db:
        reached = f"at most {points[-1].psnr_db:.2f} dB" if points else "no lossy point"
        raise InputError(f"expected a curve that reaches {target_psnr_db:.2f} dB, found {reached}")
    if target_psnr_db <= points[0].psnr_db:
        return points[0].bytes_per_image
    return float(np.exp(_log_bytes(points)(target_psnr_db)))


def bd_rate(reference: Iterable[Point], test: Iterable[Point], *, minimum_overlap: float = 0.5) -> float:
    """Bjontegaard rate difference in percent: the bytes that ``test`` needs beyond ``reference`` at equal PSNR.

    The mean difference of the logarithms of the bytes over the common PSNR range, each curve interpolated piecewise
    cubically (PCHIP) through its `frontier`; negative where ``test`` needs fewer bytes. -30 means 0.7 times the bytes.

    Args:
        reference: the curve to compare with, at least `POINTS` undominated points.
        test: the curve that is judged, likewise.
        minimum_overlap: smallest share of the narrower curve's PSNR range that both curves must have in common.

    Raises:
        InputError: if a curve has too few points, or the ranges overlap less.
        MissingDependencyError: if SciPy is not installed.

    Examples:
        >>> reference = [Point("a", 100, 30.0), Point("b", 200, 33.0), Point("c", 400, 36.0)]
        >>> round(bd_rate(reference, [Point(p.codec, 0.7 * p.bytes_per_image, p.psnr_db) for p in reference]), 6)
        -30.0
    """
    curves = [frontier(reference), frontier(test)]
    for name, points in zip(("reference", "test"), curves, strict=True):
        if len(points) < POINTS:
            raise InputError(
                f"expected at least {POINTS} lossy points in the {name} curve of which none is at least as large and "
                f"no better than another, found {len(points)}"
            )
    ranges = [(points[0].psnr_db, points[-1].psnr_db) for points in curves]
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    narrower = min(high - low for low, high in ranges)
    if high - low < minimum_overlap * narrower or high <= low:
        (a, b), (c, d) = ranges
        raise InputError(
            f"expected PSNR ranges that share at least {minimum_overlap:.0%} of the narrower one, "
            f"found {a:.2f} to {b:.2f} dB and {c:.2f} to {d:.2f} dB"
        )
    areas = [float(_log_bytes(points).integrate(low, high)) for points in curves]
    return 100 * math.expm1((areas[1] - areas[0]) / (high - low))


def _log_bytes(points: Sequence[Point]) -> PchipInterpolator:
    """The natural logarithm of the bytes as a function of the PSNR, through the points of a `frontier`."""
    with optional_import():
        from scipy.interpolate import PchipInterpolator
    return PchipInterpolator([p.psnr_db for p in points], [math.log(p.bytes_per_image) for p in points])


# === Image formats by Pillow's names, which notebooks use; `tfcomp.measure.classical` has the rest ===


def measure_pillow(images: Images, kind: str, quality: int | None = None) -> Point:
    """`tfcomp.measure.classical.measure` for a format by its name in Pillow."""
    from tfcomp.measure import classical

    return classical.measure(images, kind.lower(), quality)


def lowest_quality(images: Images, kind: str, target_psnr_db: float) -> Point:
    """The point of `tfcomp.measure.classical.lowest_quality` for a format by its name in Pillow."""
    from tfcomp.measure import classical

    return classical.lowest_quality(images, kind.lower(), target_psnr_db)[1]


# === Reports ===


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table, whose last column is each point's bytes over the first point's.

    Examples:
        >>> print(table([Point("a", 100, 30.0), Point("b", 250, float("inf"))]))
        | codec | bytes per image | PSNR dB | bytes, relative |
        |---|---:|---:|---:|
        | a | 100.00 | 30.00 | 1.0 |
        | b | 250.00 | lossless | 2.5 |
    """
    optional = {
        ".tfz bytes per image": [p.archive_bytes_per_image for p in points],
        "MS-SSIM": [p.ms_ssim for p in points],
    }
    shown = {name: values for name, values in optional.items() if any(value is not None for value in values)}
    columns = ["codec", "bytes per image", "PSNR dB", *shown, "bytes, relative"]
    rows = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for i, point in enumerate(points):
        quality = "lossless" if math.isinf(point.psnr_db) else f"{point.psnr_db:.2f}"
        others = [
            "" if values[i] is None else f"{values[i]:.4f}" if name == "MS-SSIM" else f"{values[i]:.2f}"
            for name, values in shown.items()
        ]
        first = points[0].bytes_per_image  # 0 for images that need no bits
        relative = f"{point.bytes_per_image / first:.1f}" if first else ""
        cells = [point.codec, f"{point.bytes_per_image:.2f}", quality, *others, relative]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def machine() -> str:
    """Processor, number of cores that this process may use, and system of this machine, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{models[0] if models else platform.machine()}, {cores} cores, {platform.system()}"


def provenance(packages: Iterable[str], *, seed: int | None = None, command: str | None = None) -> dict[str, Any]:
    """The provenance of a measured figure, for JSON: command, seed, machine, versions.

    Args:
        packages: distributions whose versions matter; without those that are not installed.
        seed: seed of the measurement; None without one.
        command: the command. Default: that of this process.

    Examples:
        >>> sorted(provenance(["numpy"], seed=0))
        ['command', 'machine', 'seed', 'versions']
    """
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    script = Path(sys.argv[0])
    program = [script.name] if script.suffix != ".py" else ["python", os.path.relpath(script)]
    return {
        "command": command or shlex.join([*program, *sys.argv[1:]]),
        "seed": seed,
        "machine": machine(),
        "versions": versions,
    }
