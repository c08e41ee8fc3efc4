"""Padding, tiles and mirroring of items of any size: one arithmetic for arrays and for tensors.

The networks make one position of the latent of ``stride x stride`` pixels. A height or width of at most ``4 * stride``
pixels is mirrored by ``stride`` pixels at both ends, since the networks see little of so small an item; then the item
is mirrored at its right and lower edge to a multiple of the stride. A tile has ``tile**2`` positions, fewer at those
edges, or as many in another form where there are fewer rows or columns::

    rows = min(rows of the latent, max(tile, tile**2 // columns of the latent)),    columns = tile**2 // rows

The integers of a tile need no other tile. Its pixels do, next to its edges: the networks see some positions beyond
them, its window, so that the pixels come out as they would from one large tile, and no seam shows::

    +-----------------+
    |  margin         |
    |   +---------+   |      window = tile + margin on each side, cut at the edges of the latent
    |   |  tile   |   |
    |   +---------+   |
    +-----------------+
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfcomp.errors import InputError

MAX_PIXELS = 1 << 28
"""Largest number of pixels of an item in any format, mirrored ones included."""
DEFAULT_MAX_PIXELS = MAX_PIXELS // 3
"""Default limit of a codec, in pixels, for items and for payloads; also Pillow's own limit."""
RAISED_BY = "--max-pixels or Codec.with_max_pixels raises the limit"
MAX_STRIDE, MAX_TILE, MAX_MARGIN = 256, 1024, 256
TILE_PIXELS = 1024
"""Side in pixels of a tile, unless a grid says otherwise."""
MAX_COEFFICIENTS = 1 << 21
"""Largest number of coefficients (positions times channels) of a tile: what `tfcomp.entropy.tiles` can always code."""

Area = tuple[slice, slice]


def too_many_pixels(max_pixels: int, height: int, width: int, source: str = "") -> str:
    """The message that an item, or the image of a source, has more pixels than the limit."""
    place = f" in {source}" if source else ""
    return f"expected at most {max_pixels} pixels, found {width}x{height}{place}; {RAISED_BY}"


class Arithmetic(NamedTuple):
    """The functions in which NumPy and TensorFlow differ."""

    minimum: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]
    arange: Callable[[Any], Any]


NUMPY = Arithmetic(np.minimum, np.maximum, np.arange)


@dataclass(frozen=True)
class Grid:
    """The division of an item's pixels into positions of the latent, and of positions into tiles.

    Attributes:
        stride: side of the square of pixels that becomes one position.
        margin: least number of positions beyond a tile's edge that the networks see.
        tile: side of a square tile, in positions.

    Raises:
        InputError: if a number is out of range.

    Examples:
        >>> plan = Grid(stride=8, margin=6, tile=128).plan(33, 20)
        >>> int(plan.rows), int(plan.columns), int(plan.top), int(plan.left)
        (5, 5, 0, 8)
    """

    stride: int
    margin: int
    tile: int

    def __post_init__(self) -> None:
        limits = ((self.stride, 1, MAX_STRIDE), (self.margin, 0, MAX_MARGIN), (self.tile, 1, MAX_TILE))
        if not all(isinstance(n, int) and low <= n <= high for n, low, high in limits):
            raise InputError(
                f"expected a stride of 1 to {MAX_STRIDE}, a margin of 0 to {MAX_MARGIN} and tiles of 1 to {MAX_TILE}, "
                f"found {self}"
            )

    @classmethod
    def of(cls, stride: int, margin: int, channels: int = 1) -> Grid:
        """The grid of the largest tiles within `TILE_PIXELS` and `MAX_COEFFICIENTS`, for so many latent channels."""
        return cls(stride, margin, max(1, min(TILE_PIXELS // stride, math.isqrt(MAX_COEFFICIENTS // channels))))

    def plan(self, height: Any, width: Any, arithmetic: Arithmetic = NUMPY) -> Plan:
        """The plan of an item of at least one pixel; sizes are integers, or int32 tensors with their arithmetic."""
        minimum, maximum = arithmetic.minimum, arithmetic.maximum
        # One stride where the size is at most four, else none.
        top, left = (self.stride * minimum(1, maximum(0, 4 * self.stride + 1 - n)) for n in (height, width))
        rows, columns = (
            (n + 2 * before + self.stride - 1) // self.stride for n, before in ((height, top), (width, left))
        )
        return self._tiled(height, width, top, left, rows, columns, arithmetic)

    def of_latent(self, rows: int, columns: int) -> Plan:
        """The plan of a latent whose item is taken as mirrored already."""
        return self._tiled(rows * self.stride, columns * self.stride, 0, 0, rows, columns, NUMPY)

    def _tiled(
        self, height: Any, width: Any, top: Any, left: Any, rows: Any, columns: Any, arithmetic: Arithmetic
    ) -> Plan:
        minimum, maximum = arithmetic.minimum, arithmetic.maximum
        down = minimum(rows, maximum(self.tile, self.tile**2 // columns))
        right = minimum(columns, self.tile**2 // down)
        across = (columns + right - 1) // right
        tiles = (rows + down - 1) // down * across
        return Plan(self, height, width, top, left, rows, columns, down, right, across, tiles, arithmetic)

    def fits(self, height: int, width: int, max_pixels: int = MAX_PIXELS) -> bool:
        """Whether an item has a pixel, and at most ``max_pixels``, mirrored ones included."""
        if height < 1 or width < 1 or max(height, width) > max_pixels:
            return False
        return self.plan(height, width).pixels_in_all <= max_pixels


@dataclass(frozen=True)
class Plan:
    """The latent of an item and its tiles; numbers are integers, or int32 tensors.

    Attributes:
        grid: the grid.
        height, width: pixels of the item.
        top, left: mirrored pixels above and to the left of the item.
        rows, columns: positions of the latent.
        down, right: positions of a whole tile.
        across: number of tiles side by side.
        tiles: number of tiles.
        arithmetic: the functions for these numbers.
    """

    grid: Grid
    height: Any
    width: Any
    top: Any
    left: Any
    rows: Any
    columns: Any
    down: Any
    right: Any
    across: Any
    tiles: Any
    arithmetic: Arithmetic

    @property
    def pixels_in_all(self) -> int:
        """Number of pixels of the mirrored item, which decoding takes time and memory for; of a plan of integers."""
        return int(self.rows) * int(self.columns) * self.grid.stride**2

    def tile(self, number: Any) -> tuple[Any, Any, Any, Any]:
        """First row and column of a tile, and its numbers of rows and columns; tiles are counted row by row."""
        y, x = number // self.across * self.down, number % self.across * self.right
        minimum = self.arithmetic.minimum
        return y, x, minimum(self.down, self.rows - y), minimum(self.right, self.columns - x)

    def sources(self) -> tuple[Any, Any]:
        """Rows and columns of the item that make the mirrored one: integers [rows * stride], [columns * stride]."""
        stride = self.grid.stride
        return (
            self._mirrored(self.height, self.top, self.rows * stride),
            self._mirrored(self.width, self.left, self.columns * stride),
        )

    def _mirrored(self, size: Any, before: Any, total: Any) -> Any:
        turn = (self.arithmetic.arange(total) - before) % (2 * size)
        return self.arithmetic.minimum(turn, 2 * size - 1 - turn)

    def areas(self) -> Iterator[Area]:
        """The positions of each tile, of a plan of integers."""
        for number in range(int(self.tiles)):
            y, x, down, right = (int(n) for n in self.tile(number))
            yield slice(y, y + down), slice(x, x + right)

    def windows(self) -> Iterator[tuple[Area, Area, Area]]:
        """For each tile: its positions, those of its window, and where the tile lies in the window."""
        edges = int(self.rows), int(self.columns)
        for tile in self.areas():
            seen = [
                slice(max(0, s.start - self.grid.margin), min(n, s.stop + self.grid.margin))
                for s, n in zip(tile, edges, strict=True)
            ]
            inner = [slice(s.start - w.start, s.stop - w.start) for s, w in zip(tile, seen, strict=True)]
            yield tile, (seen[0], seen[1]), (inner[0], inner[1])

    @property
    def lag(self) -> int:
        """Number of further tiles, in their order, that complete a tile's window; of a plan of integers.

        The last of them lies as many rows of tiles below it, and as many tiles to the right, as the margin reaches.
        """
        below, beside = (-(-self.grid.margin // int(n)) for n in (self.down, self.right))
        return below * int(self.across) + beside

    def pixels(self, area: Area) -> Area:
        """An area of positions as pixels of the mirrored item."""
        down, right = (slice(s.start * self.grid.stride, s.stop * self.grid.stride) for s in area)
        return down, right
