"""Plots of notebooks and commands, by Matplotlib, which ``tfcomp[evaluate]`` installs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError, optional_import
from tfcomp.items import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window and no global state, so that it works in a notebook, a test and a server."""
    with optional_import():
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


MARKERS = "osD^v<>Phd"
"""Markers of curves, which stay apart in black and white."""


def _ticks(low: float, high: float) -> list[float]:
    """Marks 1, 2, 5, 10, 20, ... from the last before ``low`` to the first after ``high``."""
    marks = [digit * 10.0**power for power in range(-4, 12) for digit in (1, 2, 5)]
    below = max((mark for mark in marks if mark <= low), default=marks[0])
    above = min((mark for mark in marks if mark >= high), default=marks[-1])
    return [mark for mark in marks if below <= mark <= above]


def reconstructions(originals: Images, rows: Sequence[tuple[str, Sequence[Images], Sequence[int]]]) -> Figure:
    """Originals above the images that each codec restores, with their numbers of bytes.

    Args:
        originals: uint8 [N, H, W, C].
        rows: for each codec its name, the restored images uint8 [N, H, W, C], and the N sizes in bytes.
    """
    count, channels = len(originals), originals.shape[-1]
    if count == 0 or any(np.shape(restored) != originals.shape or len(sizes) != count for _, restored, sizes in rows):
        raise InputError(f"expected restored images of shape {originals.shape} and as many sizes in each row")
    raw = [int(originals[0].size)] * count
    lines = [("original", originals, raw), *rows]
    figure = _figure(1.0 * count + 0.8, 1.25 * len(lines) + 0.2)
    axes = figure.subplots(len(lines), count, squeeze=False)
    for line, (name, images, sizes) in zip(axes, lines, strict=True):
        for axis, image, size in zip(line, images, sizes, strict=True):
            axis.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{size} B", fontsize=9, pad=2)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=10)
    return figure


def rate_distortion(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    rate: str = "bytes per image",
    quality: str = "PSNR in dB",
    logarithmic: bool = False,
) -> Figure:
    """Quality over real bytes, one line and marker for each codec; a single point is drawn large.

    Args:
        curves: name -> points (mean bytes per image, quality), in any order.
        rate: label of the first number.
        quality: label of the second number.
        logarithmic: whether the axis of the bytes is logarithmic, so that equal savings look equal.
    """
    if not curves or not all(curves.values()):
        raise InputError(f"expected at least one curve, and points in each, found {[*curves] or 'none'}")
    figure = _figure(6.0, 4.0)
    axis = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        size = 4.5 if len(points) > 1 else 8
        marker = MARKERS[i % len(MARKERS)]
        axis.plot(*zip(*sorted(points), strict=True), marker=marker, markersize=size, linewidth=1.3, label=name)
    if logarithmic:
        axis.set_xscale("log")
        every = [rate for points in curves.values() for rate, _ in points]
        axis.set_xticks(_ticks(min(every), max(every)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axis.set_xlabel(rate)
    axis.set_ylabel(quality)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def kl_per_dimension(nats: NDArray[np.floating], *, active: NDArray[np.bool_] | None = None) -> Figure:
    """The divergence of each dimension of a VAE in bits, the largest first.

    Args:
        nats: float [*latent_shape], as `VAE.kl_per_dimension` returns them.
        active: bool [*latent_shape], as `VAE.active_dimensions` returns them; inactive dimensions are drawn pale.
    """
    if np.size(nats) == 0 or (active is not None and np.shape(active) != np.shape(nats)):
        raise InputError(f"expected one divergence and one activity per dimension, found {np.shape(nats)}")
    bits = np.ravel(nats) / math.log(2)
    order = np.argsort(-bits, kind="stable")
    shown = np.ones(bits.size, bool) if active is None else np.ravel(active)
    figure = _figure(6.0, 3.0)
    axis = figure.subplots()
    axis.bar(np.arange(bits.size), bits[order], color=["C0" if shown[i] else "lightgray" for i in order], width=0.9)
    axis.set_xlabel("latent dimension, sorted")
    axis.set_ylabel("KL in bits")
    axis.set_title(f"{shown.sum()} of {bits.size} dimensions active, {bits.sum():.1f} bits in all", fontsize=10)
    return figure


def traversals(images: Images, labels: Sequence[str] | None = None) -> Figure:
    """A grid of images without margins, e.g. one row for each latent dimension, moved from left to right.

    Args:
        images: uint8 [rows, columns, H, W, C].
        labels: one for each row.
    """
    if images.ndim != 5 or 0 in images.shape or (labels is not None and len(labels) != len(images)):
        raise InputError(f"expected images [rows, columns, H, W, C] and a label for each row, found {images.shape}")
    rows, columns, height, width, channels = images.shape
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    figure = _figure(0.6 * columns + 0.6, 0.6 * rows * height / width + 0.2)
    axis = figure.subplots()
    axis.imshow(sheet[..., 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([(i + 0.5) * height for i in range(rows)] if labels else [], labels or [], fontsize=8)
    return figure


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], metric: str = "loss") -> Figure:
    """A metric over the epochs, one colour for each run; validation, where there is one, in dashes.

    Args:
        histories: name -> what Keras's ``History.history`` holds.
        metric: name of the metric; with ``val_`` before it, that of validation.
    """
    missing = [name for name, history in histories.items() if metric not in history]
    if not histories or missing:
        raise InputError(f"expected {metric!r} in the history of every run, found none in {missing or 'no history'}")
    figure = _figure(6.0, 3.5)
    axis = figure.subplots()
    for i, (name, history) in enumerate(histories.items()):
        for key, style, label in ((metric, "-", name), (f"val_{metric}", "--", f"{name}, validation")):
            if key in history:
                axis.plot(range(1, 1 + len(history[key])), history[key], style, color=f"C{i % 10}", label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
