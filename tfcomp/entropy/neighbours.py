"""The coded neighbours of a position of a latent, and what they add to the sums that choose tables.

Known coefficients lie in a plane with a margin of zeros, so that every position has all its neighbours. Sums are
float32 products of whole numbers, exact as `tfcomp.entropy.context` says, whatever order they are added in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.entropy.pass_tables import Intp
from tfcomp.layout import Layout, Pass

LARGEST = 255
"""Largest magnitude with which a coefficient counts in contexts."""

Float32 = NDArray[np.float32]
Sums = tuple[Float32, Float32]


class Kernel(NamedTuple):
    """The weights between two ranges of channels.

    Attributes:
        reach: how far the contexts reach, in positions.
        taps: intp [t], the neighbours that have any weight, of ``(2 * reach + 1)**2``.
        scales, means: float32 [t * inputs, outputs].
    """

    reach: int
    taps: Intp
    scales: Float32
    means: Float32

    @classmethod
    def of(cls, scales: Float32, means: Float32) -> Kernel:
        """The kernel of both sums' weights, float32 [rows, columns, inputs, outputs]."""
        size, _, inputs, outputs = scales.shape
        grids = [weights.reshape(size * size, inputs, outputs) for weights in (scales, means)]
        taps = np.flatnonzero(np.any(grids[0] != 0, axis=(1, 2)) | np.any(grids[1] != 0, axis=(1, 2)))
        flat = [np.ascontiguousarray(grid[taps].reshape(taps.size * inputs, outputs)) for grid in grids]
        return cls(size // 2, taps, flat[0], flat[1])


class Plane:
    """The known coefficients of a latent: for each group, float32 [positions with a margin, channels]."""

    def __init__(self, layout: Layout, height: int, width: int) -> None:
        edge = layout.reach
        self.height, self.width, self.row = height, width, width + 2 * edge
        self._first = edge * self.row + edge
        size = (height + 2 * edge) * self.row
        self._known = {g.start: np.zeros((size, g.stop - g.start), np.float32) for g in layout.slices}

    def places(self, p: Pass) -> Intp:
        """The places of the pass's positions in the plane: intp [n]."""
        y, x = np.divmod(p.places(self.height, self.width), self.width)
        return self._first + y * self.row + x

    def add(self, sums: Sums, places: Intp, group: slice, kernel: Kernel) -> None:
        """Adds the weighted neighbours of one group to both sums, float32 [n, outputs], at ``n`` places."""
        y, x = np.divmod(kernel.taps, 2 * kernel.reach + 1)
        taps = (y - kernel.reach) * self.row + x - kernel.reach
        known = self._known[group.start]
        values = known.take(places[:, None] + taps, axis=0).reshape(len(places), taps.size * known.shape[1])
        sums[1][...] += values @ kernel.means
        sums[0][...] += np.abs(values, out=values) @ kernel.scales

    def set(self, places: Intp, group: slice, coefficients: Int32) -> None:
        """Stores the coefficients of a pass, int32 [n * channels]."""
        known = self._known[group.start]
        known[places] = np.clip(coefficients, -LARGEST, LARGEST).reshape(-1, known.shape[1])
