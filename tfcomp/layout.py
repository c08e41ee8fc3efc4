"""The order in which a decoder learns the integers of a latent: groups of channels, phases of positions.

A latent ``[h, w, C]`` is coded in passes. A pass codes the positions of one phase, for the channels of one group.
Its contexts are integers of earlier passes: of its own group, positions of earlier phases; of all earlier groups, the
positions around it. The first group, whose channels carry the mean of a place, has contexts of up to
``reach`` positions away; all other groups have the nearest alone. The layout of the bundled codec::

    group 0: five phases,               other groups: a chessboard,
    repeated every 4x4 positions        repeated every 2x2 positions

        0 4 2 4                              0 1 0 1
        4 3 4 3                              1 0 1 0
        2 4 1 4                              0 1 0 1
        4 3 4 3                              1 0 1 0

so that a mean has, from phase 1 on, known neighbours on all sides; any other channel has the means and all lower
frequencies around it, and from phase 1 on its own channel beside it. A layout of one group and one phase is coded in
one pass without contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError, InputError, everything_as

MAX_PATTERN = 16
"""Largest side of a pattern of phases, in positions."""
MAX_LATENT_CHANNELS = 1 << 12
"""Largest number of channels of a latent."""

Pattern = tuple[tuple[int, ...], ...]

MEAN_PHASES: Pattern = ((0, 4, 2, 4), (4, 3, 4, 3), (2, 4, 1, 4), (4, 3, 4, 3))
CHESSBOARD: Pattern = ((0, 1), (1, 0))
ONE_PHASE: Pattern = ((0,),)


@dataclass(frozen=True)
class Pass:
    """One pass: the channels of a group at the positions of a phase.

    Attributes:
        group: index of the group, from 0.
        phase: number of the phase in ``pattern``.
        channels: channels of the group.
        pattern: phase of each position, repeated over the plane.
        last: whether it is the last pass of its group.
    """

    group: int
    phase: int
    channels: slice
    pattern: Pattern
    last: bool

    @property
    def count(self) -> int:
        """Number of channels."""
        return int(self.channels.stop - self.channels.start)

    def positions(self, height: int, width: int) -> NDArray[np.bool_]:
        """Whether each position is coded: bool [height, width]."""
        return _mask(self.pattern, self.phase, height, width)

    def places(self, height: int, width: int) -> NDArray[np.intp]:
        """Indices into the plane of the positions that are coded, row by row: intp [n], not to be written to."""
        return _places(self.pattern, self.phase, height, width)


def _mask(pattern: Pattern, phase: int, height: int, width: int) -> NDArray[np.bool_]:
    n = len(pattern)
    return np.tile(np.array(pattern) == phase, (-(-height // n), -(-width // n)))[:height, :width]


@lru_cache(maxsize=256)  # tiles of one size follow one another
def _places(pattern: Pattern, phase: int, height: int, width: int) -> NDArray[np.intp]:
    return np.flatnonzero(_mask(pattern, phase, height, width))


@dataclass(frozen=True)
class Layout:
    """Groups of channels, phases of positions, and the reach of contexts.

    Attributes:
        groups: number of channels of each group, in coding order.
        first: phases of the first group's positions, a square of numbers from 0.
        others: phases of all other groups' positions.
        reach: how far the first group's contexts reach, in positions; all others reach 1.

    Raises:
        InputError: if the numbers are no layout.

    Examples:
        >>> layout = Layout(groups=(3, 5))
        >>> [(p.group, p.phase, p.channels) for p in layout.passes][-2:]
        [(1, 0, slice(3, 8, None)), (1, 1, slice(3, 8, None))]
    """

    groups: tuple[int, ...]
    first: Pattern = MEAN_PHASES
    others: Pattern = CHESSBOARD
    reach: int = 2

    def __post_init__(self) -> None:
        if not self.groups or min(self.groups) < 1 or sum(self.groups) > MAX_LATENT_CHANNELS:
            raise InputError(f"expected groups of 1 to {MAX_LATENT_CHANNELS} channels in all, found {self.groups}")
        if not 1 <= self.reach <= MAX_PATTERN:
            raise InputError(f"expected contexts that reach 1 to {MAX_PATTERN} positions, found {self.reach}")
        for pattern in (self.first, self.others):
            phases = sorted({phase for row in pattern for phase in row})
            square = 1 <= len(pattern) <= MAX_PATTERN and all(len(row) == len(pattern) for row in pattern)
            if not square or phases != list(range(len(phases))):
                raise InputError(f"expected a square of phases numbered from 0, found {pattern}")

    @property
    def channels(self) -> int:
        """Number of channels of the latent."""
        return sum(self.groups)

    @property
    def contextual(self) -> bool:
        """Whether there is more than one pass, so that later ones have contexts."""
        return len(self.passes) > 1

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The channels of each group."""
        ends = np.cumsum(self.groups).tolist()
        return tuple(slice(end - count, end) for end, count in zip(ends, self.groups, strict=True))

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """All passes, in coding order."""
        made = []
        for group, channels in enumerate(self.slices):
            pattern = self.others if group else self.first
            phases = max(map(max, pattern)) + 1
            made += [Pass(group, phase, channels, pattern, phase == phases - 1) for phase in range(phases)]
        return tuple(made)

    @cached_property
    def other_phases(self) -> int:
        """Number of phases of the groups after the first."""
        return max(map(max, self.others)) + 1 if len(self.groups) > 1 else 0

    @cached_property
    def first_phases(self) -> int:
        """Number of phases of the first group."""
        return max(map(max, self.first)) + 1

    @property
    def kernel_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Shapes of the context weights, [rows, columns, inputs, outputs]; none if there is only one pass.

        The first kernel is that of the first group, the outputs of all its phases side by side. Then each phase of the
        other groups has one kernel, between all channels.
        """
        if not self.contextual:
            return ()
        size, n = 2 * self.reach + 1, self.groups[0]
        return ((size, size, n, n * self.first_phases), *[(3, 3, self.channels, self.channels)] * self.other_phases)

    def seen(self, which: Pass) -> NDArray[np.bool_]:
        """The context of a position of a pass: bool [2 * reach + 1, 2 * reach + 1, channels], centred on it."""
        n, size, far = len(which.pattern), 2 * self.reach + 1, self.reach
        mask = np.zeros((size, size, self.channels), bool)
        mask[far - 1 : far + 2, far - 1 : far + 2, : which.channels.start] = True  # the nearest of earlier groups
        pattern = np.array(which.pattern)
        for i, j in np.ndindex(size, size):
            at = [(y + i - far, x + j - far) for y, x in np.argwhere(pattern == which.phase)]
            known = all(pattern[y % n, x % n] < which.phase for y, x in at)
            if known and (which.group == 0 or abs(i - far) + abs(j - far) == 1):
                mask[i, j, which.channels] = True
        return mask

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The layout as named arrays, for an ``.npz``."""
        return {
            "groups": np.array(self.groups, np.int32),
            "first_phases": np.array(self.first, np.int32),
            "other_phases": np.array(self.others, np.int32),
            "reach": np.array(self.reach, np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """The inverse of `arrays`; raises `BitstreamError` on other arrays, `KeyError` if one is missing."""
        patterns = [arrays[name] for name in ("first_phases", "other_phases")]
        ranks = arrays["groups"].ndim, *(p.ndim for p in patterns), arrays["reach"].ndim
        sizes = arrays["groups"].size, *(max(p.shape, default=0) for p in patterns)
        limits = MAX_LATENT_CHANNELS, MAX_PATTERN, MAX_PATTERN
        if ranks != (1, 2, 2, 0) or any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            raise BitstreamError(f"expected the arrays of a layout, found ranks {ranks} and sizes {sizes}")
        first, others = (tuple(tuple(int(n) for n in row) for row in p) for p in patterns)
        with everything_as(BitstreamError, "expected the arrays of a layout"):
            return cls(tuple(int(n) for n in arrays["groups"]), first, others, int(arrays["reach"]))
