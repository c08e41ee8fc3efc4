"""The latent of a photograph: which channel is which, and in which order a decoder learns them.

An image of ``H x W`` pixels has a latent of ``H / 8 x W / 8`` positions with 96 channels each. They begin, before
training, as the coefficients of a discrete cosine transform of 8x8 blocks: all 64 of the luma, and the 16 of lowest
frequency of either chroma. They are coded in `PASSES`, each with the positions of one `Phase` and the channels of one
group. What a pass may look at is what earlier passes have coded: the means at up to two positions' distance, all other
channels at one, of their own group the four nearest positions::

    group 0, the three means,           other groups, a chessboard
    five phases in 4x4 positions

        0 4 2 4                              0 1 0 1
        4 3 4 3                              1 0 1 0
        2 4 1 4                              0 1 0 1
        4 3 4 3                              1 0 1 0

so that a mean, from phase 1 on, has known neighbours on all sides, and any other channel the means and all lower
frequencies around it, and from phase 1 on also its own kind next to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

STRIDE = 8
LUMA, CHROMA = 64, 16
CHANNELS = LUMA + 2 * CHROMA
REACH = 2
"""Contexts are (2 * REACH + 1)**2 positions around the one that is coded."""

MEAN_PHASES = np.array([[0, 4, 2, 4], [4, 3, 4, 3], [2, 4, 1, 4], [4, 3, 4, 3]])
CHESSBOARD = np.array([[0, 1], [1, 0]])

Float32 = NDArray[np.float32]

_DIAGONALS = ((0,), (1,), (2,), (3,), (4,), (5,), (6, 7), (8, 9), (10, 11, 12, 13, 14))
"""Whose coefficients are the groups: those at (u, v) with this u + v."""


def _zigzag(count: int) -> list[tuple[int, int]]:
    """The ``count`` lowest frequencies of an 8x8 block."""
    every = [(u, v) for u in range(STRIDE) for v in range(STRIDE)]
    return sorted(every, key=lambda f: (sum(f), abs(f[0] - f[1])))[:count]


def _channels() -> Iterator[tuple[int, int, int, int]]:
    """(group, colour, u, v) of each channel, in order."""
    frequencies = [(colour, u, v) for colour, n in enumerate((LUMA, CHROMA, CHROMA)) for u, v in _zigzag(n)]
    for group, diagonals in enumerate(_DIAGONALS):
        yield from ((group, colour, u, v) for colour, u, v in frequencies if u + v in diagonals)


CHANNEL_LIST = tuple(_channels())
GROUPS = tuple(
    slice(min(found), max(found) + 1)
    for group in range(len(_DIAGONALS))
    if (found := [i for i, channel in enumerate(CHANNEL_LIST) if channel[0] == group])
)
"""The channels of each group, in coding order."""


@dataclass(frozen=True)
class Pass:
    """What is coded at once.

    Attributes:
        group: of `GROUPS`.
        phase: of the group's pattern of positions.
    """

    group: int
    phase: int

    @property
    def channels(self) -> slice:
        return GROUPS[self.group]

    @property
    def count(self) -> int:
        """How many channels."""
        return self.channels.stop - self.channels.start

    @property
    def pattern(self) -> NDArray[np.integer]:
        """The phase of each position, repeated over the plane."""
        return MEAN_PHASES if self.group == 0 else CHESSBOARD

    def positions(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which positions it codes: bool [height, width]."""
        n = len(self.pattern)
        return np.tile(self.pattern == self.phase, (-(-height // n), -(-width // n)))[:height, :width]

    def places(self, height: int, width: int) -> NDArray[np.intp]:
        """The same as indices into the plane, row by row: intp [n], not to be written to."""
        return _places(self, height, width)

    def context(self) -> NDArray[np.bool_]:
        """What it may look at: bool [5, 5, CHANNELS], around a position that it codes."""
        n, size = len(self.pattern), 2 * REACH + 1
        seen = np.zeros((size, size, CHANNELS), bool)
        seen[1:-1, 1:-1, : self.channels.start] = True  # of lower groups, the nearest alone
        own = self.pattern == self.phase
        for i, j in np.ndindex(size, size):
            at = [(y + i - REACH, x + j - REACH) for y, x in np.argwhere(own)]
            known = all(self.pattern[y % n, x % n] < self.phase for y, x in at)
            if known and (self.group == 0 or abs(i - REACH) + abs(j - REACH) == 1):
                seen[i, j, self.channels] = True
        return seen


@lru_cache(maxsize=256)  # tiles of one size follow one another
def _places(which: Pass, height: int, width: int) -> NDArray[np.intp]:
    return np.flatnonzero(which.positions(height, width))


PASSES = tuple(
    Pass(group, phase) for group in range(len(GROUPS)) for phase in range(MEAN_PHASES.max() + 1 if group == 0 else 2)
)

LAST_PASSES = tuple(p for p in PASSES if p.phase == max(q.phase for q in PASSES if q.group == p.group))
"""With which a group is complete."""


def basis() -> Float32:
    """The orthonormal transform that training begins with: float32 [8, 8, 3, CHANNELS], pixels (RGB) by channels.

    The cosine transform of blocks (Ahmed, Natarajan and Rao 1974), and that of length 3 across the colours, which is
    close to the principal axes of natural images.
    """

    def cosines(n: int) -> NDArray[np.float64]:
        k, x = np.arange(n)[:, None], np.arange(n)[None]
        matrix = np.cos(np.pi * (2 * x + 1) * k / (2 * n)) * np.sqrt(2 / n)
        matrix[0] /= np.sqrt(2)
        return matrix

    block, colours = cosines(STRIDE), cosines(3)
    columns = [np.einsum("y,x,c->yxc", block[u], block[v], colours[k]) for _, k, u, v in CHANNEL_LIST]
    return np.stack(columns, axis=-1).astype(np.float32)
