"""Pictures that notebooks and commands share. They need Matplotlib, from ``tfcomp[evaluate]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfcomp.codec import Images
from tfcomp.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window and no global state, so that it works in a notebook, a test and a server."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError('plots need Matplotlib: pip install "tfcomp[evaluate]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def reconstructions(originals: Images, rows: Sequence[tuple[str, Images, Sequence[int]]]) -> Figure:
    """Originals above what each codec makes of them, each with its number of bytes.

    Args:
        originals: uint8 [N, H, W, C].
        rows: for each codec its name, the restored images uint8 [N, H, W, C], and the N sizes in bytes.
    """
    count, channels = len(originals), originals.shape[-1]
    if count == 0 or any(restored.shape != originals.shape or len(sizes) != count for _, restored, sizes in rows):
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
