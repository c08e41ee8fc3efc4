"""Measurement: real bytes, PSNR, MS-SSIM, the Bjontegaard rate difference, and what a figure's reader has to know.

The classical image formats and general compressors to measure against are in `tfcomp.measure.classical`.
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

from tfcomp.errors import InputError, missing_dependency
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
"""The smallest side in pixels that MS-SSIM is defined for: halved four times it still holds the window of 11."""

POINTS = 3
"""Fewest points that a curve must keep, after the dominated ones are gone, for a Bjontegaard difference."""


@dataclass(frozen=True)
class Point:
    """One measured operating point of one codec.

    Attributes:
        codec: what was run, with its setting, e.g. "WebP q20".
        bytes_per_image: mean length of what is stored for an image: a payload, or a whole file of a classical format.
        psnr_db: from the squared error pooled over all pixels of all images; infinite if nothing was lost.
        ms_ssim: mean over the images, on [0, 1]; None if it was not asked for or the images are too small for it.
        archive_bytes_per_image: a whole ``.tfz`` file of all images, divided by their number; None without one.

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
        """For JSON, which has no infinity: ``psnr_db`` is None where nothing was lost."""
        return {**asdict(self), "psnr_db": self.psnr_db if math.isfinite(self.psnr_db) else None}


# === One codec ===


def psnr_db(originals: Images | Sequence[Images], restored: Images | Sequence[Images]) -> float:
    """PSNR in dB of uint8 images, from the mean squared error pooled over all of their pixels.

    Args:
        originals: an array of any shape, or a list of arrays whose shapes may differ.
        restored: the same shape or shapes.
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
        restored: the same shape or shapes.
        batch: how many images of one shape at a time.

    Returns:
        None if a side is below `MS_SSIM_SIDE`: the measure's five scales and their weights were fitted together, so
        that with fewer of them, as images of 28x28 would need, the figure would be of another measure.
    """
    if not (isinstance(originals, np.ndarray) and isinstance(restored, np.ndarray)):
        each = [ms_ssim(a[None], b[None]) for a, b in zip(originals, restored, strict=True)]
        return None if None in each else float(np.mean([value for value in each if value is not None]))
    if originals.shape != restored.shape:
        raise InputError(f"expected images of equal shapes, found {originals.shape} and {restored.shape}")
    if min(originals.shape[1:3]) < MS_SSIM_SIDE:
        return None
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise missing_dependency(error) or error from error
    parts = [
        tf.image.ssim_multiscale(originals[i : i + batch], restored[i : i + batch], 255).numpy()
        for i in range(0, len(originals), batch)
    ]
    return float(np.mean(np.concatenate(parts)))


def archive_bytes(codec: Codec, payloads: Sequence[bytes]) -> int:
    """Size in bytes of the whole ``.tfz`` file of these payloads, with header, index and checksums."""
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
    """Real payload bytes and PSNR of a codec, and the ``.tfz`` file that holds all of the images.

    Args:
        codec: from `Codec.freeze` or `Codec.load`.
        images: uint8 [N, H, W, C], at least one; for a codec of any size also a list of [H, W, C] of several shapes.
        name: of the point.
        structural: whether to measure MS-SSIM too.
        quality: 1 to ``codec.qualities``. Default: the codec's own.
        effort: see `Codec.compress`.
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
    """The points of a curve that a user would choose, by rising bytes and PSNR.

    Of two points, the one with at least as many bytes and no more PSNR is left out; so are lossless points, whose PSNR
    is infinite. What remains is strictly monotonic, which interpolation needs and measured curves are not always.
    """
    kept: list[Point] = []
    for point in sorted(curve, key=lambda point: (point.bytes_per_image, -point.psnr_db)):
        if not (math.isfinite(point.psnr_db) and point.bytes_per_image > 0):
            continue
        if not kept or point.psnr_db > kept[-1].psnr_db:
            kept.append(point)
    return kept


def bytes_at(curve: Iterable[Point], target_psnr_db: float) -> float:
    """Bytes per image that a codec needs for a PSNR, between its measured points by piecewise cubic interpolation.

    The logarithm of the bytes is interpolated over the PSNR (PCHIP). Below the curve's range this is its smallest
    point: a codec with a least size cannot use less.

    Raises:
        InputError: if the curve does not reach the PSNR.
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
        minimum_overlap: the share of the narrower curve's PSNR range that the common range must cover.

    Raises:
        InputError: if a curve has too few points, or the ranges overlap less.
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
    try:
        from scipy.interpolate import PchipInterpolator
    except ModuleNotFoundError as error:
        raise missing_dependency(error) or error from error
    return PchipInterpolator([p.psnr_db for p in points], [math.log(p.bytes_per_image) for p in points])


# === Image formats by Pillow's names, which notebooks use; `tfcomp.measure.classical` has the rest ===


def measure_pillow(images: Images, kind: str, quality: int | None = None) -> Point:
    """`tfcomp.measure.classical.measure`, for a format by the name that Pillow gives it."""
    from tfcomp.measure import classical

    return classical.measure(images, kind.lower(), quality)


def lowest_quality(images: Images, kind: str, target_psnr_db: float) -> Point:
    """The point of `tfcomp.measure.classical.lowest_quality`, for a format by the name that Pillow gives it."""
    from tfcomp.measure import classical

    return classical.lowest_quality(images, kind.lower(), target_psnr_db)[1]


# === Reports ===


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table; the last column compares each one's bytes with the first point's."""
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
        first = points[0].bytes_per_image  # which is nothing for images that are as expected
        relative = f"{point.bytes_per_image / first:.1f}" if first else ""
        cells = [point.codec, f"{point.bytes_per_image:.2f}", quality, *others, relative]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def machine() -> str:
    """The kind of machine, without its name: processor, cores that this process may use, system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{models[0] if models else platform.machine()}, {cores} cores, {platform.system()}"


def provenance(packages: Iterable[str], *, seed: int | None = None, command: str | None = None) -> dict[str, Any]:
    """What a measured figure must be published with: command, seed, kind of machine, versions.

    Args:
        packages: distributions whose versions matter; those that are not installed are left out.
        seed: None if nothing random was involved.
        command: default: this process's own.
    """
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    script = Path(sys.argv[0])
    own = [script.name] if script.suffix != ".py" else ["python", os.path.relpath(script)]
    return {
        "command": command or shlex.join([*own, *sys.argv[1:]]),
        "seed": seed,
        "machine": machine(),
        "versions": versions,
    }
