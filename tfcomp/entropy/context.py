"""Which table codes each coefficient of a photograph: integers alone, from what was coded before.

For a coefficient ``q`` two sums over what earlier passes coded nearby are taken, in units of 1/UNIT of its step, with
whole-number weights that training found (`model.Contexts`) and `freeze` rounded::

    S = base + sum of w * min(|q'|, 255)        its expected magnitude
    M = sum of m * min(max(q', -255), 255)      its expectation

    |S|, |M| < 2**24,  so that float32 holds every partial sum exactly, and adds them in any order to the same end

What is coded is the residual ``r = q - m``, ``m`` the integer nearest to ``M / UNIT``, with the sign of ``r`` turned so
that what is left of ``M`` is not negative. Its table is that of the channel's kind, of the level of ``S`` between
fixed thresholds, and of which eighth of a step is left. A table reaches from ``-K`` to ``K``, ``K`` rising with the
level; its two last symbols mean "that or beyond", and how far beyond follows in a table of its own. ``K = 0`` is a
table of one symbol, which is not coded at all: a coefficient of high frequency where nothing is near is taken as
expected. (Adaptive scales from neighbours: Wu, "Lossless compression of continuous-tone images via context selection,
quantization, and modeling", IEEE Transactions on Image Processing 6 (5), 1997.)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.errors import BitstreamError
from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.old_layout import CHANNELS, GROUPS, LAST_PASSES, PASSES

UNIT_LOG2 = 10
UNIT = 1 << UNIT_LOG2
LARGEST = 255
"""Beyond it, a coefficient counts as this in contexts."""
BEYOND = 255
"""How far at most a residual lies beyond its table."""
PARTS_LOG2 = 2
PARTS = 1 << PARTS_LOG2
"""Of half a step, by what is left of the expectation."""
LEVELS = 32
FINENESS_LOG2 = 3
# fmt: off
THRESHOLDS = np.array([
    64, 80, 96, 128, 160, 192, 248, 304, 384, 480, 600, 744, 928, 1168, 1456, 1816, 2272, 2840, 3552, 4440, 5552, 6936,
    8672, 10840, 13552, 16944, 21176, 26472, 33088, 41360, 51696,
], np.int32)
# fmt: on
"""Between the levels, in units: from 1/16 to 50 steps, each about 1.25 times the last; whole, and written out, as no
float decides. Multiples of ``2**FINENESS_LOG2``."""
LEVEL_OF = np.searchsorted(
    THRESHOLDS >> FINENESS_LOG2, np.arange((THRESHOLDS[-1] >> FINENESS_LOG2) + 1), "right"
).astype(np.int32)
BEYOND_TABLES = 4

Float32 = NDArray[np.float32]
Sums = tuple[Float32, Float32]


KINDS = np.array([min(g, 1) if g < 3 else 3 if colour else 2 for g, colour, _, _ in layout.CHANNEL_LIST], np.int32)
"""Of channels that share tables: the means, low frequencies, higher ones of luma, and of chroma."""
KIND_COUNT = 4
NOT_CODED = (0, 0, 3, 3)
"""How many levels, of each kind, are so low that the coefficient is taken as expected."""


def _reach(kind: int, level: int) -> int:
    if level < NOT_CODED[kind]:
        return 0
    scale = THRESHOLDS[min(level, LEVELS - 2)] / UNIT
    return int(np.clip(np.ceil(4 * scale) + 2, 3, 40))


REACHES = np.array(
    [_reach(kind, level) for kind in range(KIND_COUNT) for level in range(LEVELS) for _ in range(PARTS)], np.int32
)
"""``K`` of each table: int32 [kinds * levels * parts]."""
LEAST = np.array([THRESHOLDS[NOT_CODED[kind] - 1] if NOT_CODED[kind] else -np.inf for kind in KINDS], np.float32)
"""From which magnitude on each channel is coded, that is, from which level on its table has more than one symbol."""


@dataclass(frozen=True)
class Asked:
    """What a pass needs to code its ``n`` coefficients, of which ``k`` are coded.

    Attributes:
        which: the pass.
        expected: int32 [n], ``m``; of those that are not coded, the coefficients themselves.
        coded: intp [k], which are.
        mean: int32 [k], ``m`` of these.
        table: int32 [k].
        sign: int32 [k], 1 or -1: the residual's, so that its table fits.
    """

    which: layout.Pass
    expected: Int32
    coded: NDArray[np.intp]
    mean: Int32
    table: Int32
    sign: Int32


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The integers of one quality.

    Attributes:
        base: int32 [CHANNELS].
        scales, means: the weights of the means' five phases, [5, 5, 3, 5 * 3], and of the chessboard's two for the
            others, [3, 3, CHANNELS, CHANNELS] each; float32 that hold integers.
        tables: those of the residuals, as `REACHES` has them, then `BEYOND_TABLES` of what lies beyond.
    """

    base: Int32
    scales: tuple[Float32, ...]
    means: tuple[Float32, ...]
    tables: FrequencyTables
    _made: dict[tuple[int, ...], Sums] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        expected = [(5, 5, GROUPS[0].stop, 5 * GROUPS[0].stop), *2 * [(3, 3, CHANNELS, CHANNELS)]]
        for name in ("scales", "means"):
            weights = getattr(self, name)
            if [w.shape for w in weights] != expected or self.base.shape != (CHANNELS,) or self.base.dtype != np.int32:
                raise BitstreamError(f"expected {name} of shapes {expected}, found {[w.shape for w in weights]}")
            for w in weights:
                most = np.abs(w.astype(np.float64)).sum(axis=(0, 1, 2)).max() * LARGEST + np.abs(self.base).max()
                if np.any(w != np.round(w)) or most >= 1 << 24:
                    raise BitstreamError(f"expected whole {name} whose sums stay below 2**24, found up to {most:.0f}")
        lower, sizes = self.tables.lower, self.tables.sizes
        beyond = np.full(BEYOND_TABLES, BEYOND + 1)
        if not np.array_equal(sizes, [*(2 * REACHES + 1), *beyond]) or np.any(lower != [*-REACHES, *0 * beyond]):
            raise BitstreamError(f"expected tables of {REACHES.size} reaches, found others, {len(sizes)} in all")

    def passes(self, height: int, width: int) -> Generator[Asked, Int32, None]:
        """For each pass, what codes its coefficients; send back the coefficients, int32 [n], as coded.

        The ``n`` are the pass's positions, row by row, each with the channels of its group.
        """
        plane = _Plane(height, width)
        boards = [plane.places(p) for p in PASSES if p.group == 1]
        totals = [self._no_sums(len(places), slice(0, CHANNELS)) for places in boards]
        for p in PASSES:
            own, places = p.channels, plane.places(p)
            if p.group == 0:
                sums = self._no_sums(len(places), own)
                _add(sums, plane.around(places, own, 2), self._kernels(0, own, _of_phase(p)))
                if p.phase == 0:  # where nothing is known
                    sums[0][:] = THRESHOLDS[-1]
            else:
                sums = (totals[p.phase][0][:, own], totals[p.phase][1][:, own])
                if p.phase == 1:
                    _add(sums, plane.around(places, own, 1), self._kernels(2, own, own))
            coefficients = yield _asked(p, *sums)
            plane.set(places, own, coefficients)
            if p in LAST_PASSES and own.stop < CHANNELS:  # the group is complete: what it says of the later ones
                later = slice(own.stop, CHANNELS)
                for kind, (board, total) in enumerate(zip(boards, totals, strict=True), 1):
                    _add([t[:, later] for t in total], plane.around(board, own, 1), self._kernels(kind, own, later))

    def _no_sums(self, count: int, channels: slice) -> Sums:
        scale = np.repeat(self.base[None, channels].astype(np.float32), count, axis=0)
        return scale, np.zeros_like(scale)

    def _kernels(self, kind: int, inputs: slice, outputs: slice) -> Sums:
        """Weights of scale and mean, float32 [taps * inputs, outputs], made once."""
        key = (kind, inputs.start, inputs.stop, outputs.start, outputs.stop)
        if key not in self._made:
            scales, means = (weights[kind][:, :, inputs, outputs] for weights in (self.scales, self.means))
            flat = (-1, scales.shape[-1])
            self._made[key] = np.ascontiguousarray(scales.reshape(flat)), np.ascontiguousarray(means.reshape(flat))
        return self._made[key]


class _Plane:
    """What is known of a latent: for each group, float32 [positions with a margin, channels]."""

    def __init__(self, height: int, width: int) -> None:
        edge = layout.REACH
        self.height, self.width, self.row = height, width, width + 2 * edge
        self._first = edge * self.row + edge
        self._known = {
            g.start: np.zeros(((height + 2 * edge) * self.row, g.stop - g.start), np.float32) for g in GROUPS
        }

    def places(self, p: layout.Pass) -> NDArray[np.intp]:
        """Where the pass's positions lie: intp [n]."""
        y, x = np.divmod(p.places(self.height, self.width), self.width)
        return self._first + y * self.row + x

    def around(self, places: NDArray[np.intp], group: slice, reach: int) -> Float32:
        """What is known around some positions: float32 [n, (2 * reach + 1)**2 * channels]."""
        sides = np.arange(-reach, reach + 1)
        taps = (sides[:, None] * self.row + sides).ravel()
        known = self._known[group.start]
        return known.take(places[:, None] + taps, axis=0).reshape(len(places), taps.size * known.shape[1])

    def set(self, places: NDArray[np.intp], group: slice, coefficients: Int32) -> None:
        known = self._known[group.start]
        known[places] = np.clip(coefficients, -LARGEST, LARGEST).reshape(-1, known.shape[1])


def _add(sums: Sequence[Float32], values: Float32, kernels: Sums) -> None:
    sums[0][...] += np.abs(values) @ kernels[0]
    sums[1][...] += values @ kernels[1]


def _of_phase(p: layout.Pass) -> slice:
    return slice(p.count * p.phase, p.count * (p.phase + 1))


def split(coefficients: Int32, asked: Asked) -> tuple[Int32, Int32]:
    """The symbols of the coded coefficients, int32 [k], and how far beyond the table those at its ends lie.

    The second has one value, 0 or more, for each symbol that is ``K`` or ``-K``, in order. No residual lies more than
    `BEYOND` outside its table; see `clip`.
    """
    reaches = REACHES.take(asked.table)
    residual = (coefficients - asked.mean) * asked.sign
    symbols = np.minimum(np.maximum(residual, -reaches), reaches)
    ends = at_ends(symbols, asked)
    return symbols, np.abs(residual[ends]) - reaches[ends]


def join(symbols: Int32, beyond: Int32, asked: Asked) -> Int32:
    """The inverse of `split`."""
    residual = symbols * asked.sign
    ends = at_ends(symbols, asked)
    residual[ends] += np.sign(residual[ends]) * beyond
    return asked.mean + residual


def at_ends(symbols: Int32, asked: Asked) -> NDArray[np.intp]:
    """Which symbols say "that or beyond"."""
    return np.flatnonzero(np.abs(symbols) == REACHES.take(asked.table))


def beyond_tables(symbols: Int32, asked: Asked) -> Int32:
    """The tables of what lies beyond, int32, one for each symbol that `at_ends` finds."""
    level = asked.table[at_ends(symbols, asked)] // PARTS % LEVELS
    return (REACHES.size + level * BEYOND_TABLES // LEVELS).astype(np.int32)


def clip(coefficients: Int32, asked: Asked) -> Int32:
    """Each coefficient, int32 [k], moved to the nearest one that can be coded."""
    most = REACHES.take(asked.table) + BEYOND
    return np.minimum(np.maximum(coefficients, asked.mean - most), asked.mean + most)


def _asked(which: layout.Pass, scale: Float32, mean: Float32) -> Asked:
    """From the two sums, float32 [positions, channels] that hold integers."""
    coded = np.flatnonzero(scale >= LEAST[which.channels])
    level = LEVEL_OF.take(scale.ravel().take(coded).astype(np.int32) >> FINENESS_LOG2, mode="clip")
    table = (level + LEVELS * KINDS[which.channels].take(coded % which.count)) * PARTS
    total = mean.astype(np.int32).ravel()
    expected = (total + UNIT // 2) >> UNIT_LOG2
    nearest = expected.take(coded)
    rest = total.take(coded) - (nearest << UNIT_LOG2)
    part = np.minimum(np.abs(rest) >> (UNIT_LOG2 - 1 - PARTS_LOG2), PARTS - 1)
    return Asked(which, expected, coded, nearest, table + part, 1 - 2 * (rest < 0).astype(np.int32))
