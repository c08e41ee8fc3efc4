"""The table of each coefficient of a latent of any size, chosen in integers from the coefficients coded before.

For a coefficient ``q``, two sums are taken over the coefficients ``q'`` that earlier passes coded nearby, in units of
1/UNIT of its step, with whole-number weights that training found and freezing rounded::

    S = base + sum of w * min(|q'|, LARGEST)                  its expected magnitude
    M = sum of m * min(max(q', -LARGEST), LARGEST)            its expectation

    |S|, |M| < 2**24,  so that float32 holds every partial sum exactly, and adds them in any order to the same end

What is coded is the residual ``r = q - m``, ``m`` the integer nearest to ``M / UNIT``, with the sign of ``r`` turned so
that the rest of ``M`` is not negative. Three numbers choose its table: the channel's kind; the level of ``S``, which is
the number of thresholds that ``S`` reaches; and the part of half a step in which the rest of ``M`` lies::

    table = (kind * levels + level) * parts + part

    level   0     1       2           3                     part    0     1     2     3
          |-----|-----|-------|---------------> S                 |-----|-----|-----|-----|  |M - UNIT * m|
               t[0]  t[1]    t[2]                                 0                    UNIT / 2

See `pass_tables` for what a table codes. The lowest levels of a kind may have tables of one symbol, which cost nothing:
a coefficient of high frequency among zeros is taken as expected. In the first pass, which has no neighbours, the level
is the highest and the expectation 0. (Adaptive scales from neighbours: Wu, "Lossless compression of
continuous-tone images via context selection, quantization, and modeling", IEEE Transactions on Image Processing 6 (5),
1997.)

A model of one pass, one level and one part has a table for each kind and no weights: `ContextModel.static`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy import base as formats
from tfcomp.entropy.neighbours import LARGEST, Float32, Kernel, Plane, Sums
from tfcomp.entropy.pass_tables import OVERFLOW, PassTables
from tfcomp.errors import BitstreamError, InputError
from tfcomp.layout import ONE_PHASE, Layout, Pass

UNIT_LOG2 = 10
UNIT = 1 << UNIT_LOG2
MAX_SUM = 1 << 24
MAX_WEIGHT = 1 << 11
"""Largest weight that freezing makes and `tfcomp.graph` takes: processors whose float32 products are products of 19-bit
floats keep 11 bits of a weight."""
FINENESS_LOG2 = 3
"""Thresholds are multiples of ``2**FINENESS_LOG2``, so that a level can be looked up."""
MAX_THRESHOLD = 1 << 20
MAX_LEVELS = 256
MAX_PARTS_LOG2 = UNIT_LOG2 - 1

_RANKS = {
    **formats.TABLE_RANKS,
    **dict.fromkeys(("groups", "kinds", "thresholds", "not_coded", "reaches", "base"), 1),
    **dict.fromkeys(("first_phases", "other_phases"), 2),
    **dict.fromkeys(("reach", "parts_log2", "overflow_tables"), 0),
}


class Lookups(NamedTuple):
    """Arrays in which the passes look up thresholds and tables.

    Attributes:
        least: int32 [channels], the least magnitude ``S`` whose coefficients are coded, by channel.
        level_table: int32 [n], ``level * parts`` of each ``S >> FINENESS_LOG2``; the last also of all larger ones.
        kind_table: int32 [channels], the first table of each channel's kind.
        overflow_table: int32 [tables], the overflow table of each residual's table; 0 of an overflow table.
    """

    least: Int32
    level_table: Int32
    kind_table: Int32
    overflow_table: Int32


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The tables of the latents of one quality, and the integer arithmetic that chooses among them.

    Attributes:
        layout: passes, and the shapes of the weights.
        kinds: int32 [channels], the kind of each channel, from 0: channels of one kind share tables.
        thresholds: int32 [levels - 1], ascending multiples of 8: where the next level of ``S`` begins.
        not_coded: int32 [kinds], number of each kind's lowest levels, at which a coefficient is taken as expected.
        reaches: int32 [kinds * levels * parts], ``K`` of each residual's table; 0 in the levels that are not coded.
        parts_log2: the logarithm of the number of parts.
        overflow_tables: number of overflow tables; level ``l`` uses number ``l * overflow_tables // levels``.
        base: int32 [channels], the value of ``S`` where all neighbours are zero.
        scales, means: the weights ``w`` and ``m``, float32 that hold integers, of `Layout.kernel_shapes`.
        tables: a table for each of ``reaches``, then the overflow tables.

    Raises:
        BitstreamError: if the arrays do not fit one another, or a sum could reach ``2**24``.

    Examples:
        >>> model = ContextModel.static([np.float64([1, 2, 9, 2, 1]), np.float64([1, 3, 1])])
        >>> model.layout.channels, model.reaches.tolist()
        (2, [2, 1])
    """

    layout: Layout
    kinds: Int32
    thresholds: Int32
    not_coded: Int32
    reaches: Int32
    parts_log2: int
    overflow_tables: int
    base: Int32
    scales: tuple[Float32, ...]
    means: tuple[Float32, ...]
    tables: FrequencyTables

    format_id: ClassVar[str] = formats.CONTEXT

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_weights()
        lower, sizes = [*-self.reaches, *[0] * self.overflow_tables], [*(2 * self.reaches + 1)]
        sizes += [OVERFLOW + 1] * self.overflow_tables
        if not np.array_equal(self.tables.sizes, sizes) or not np.array_equal(self.tables.lower, lower):
            count = len(self.tables)
            raise BitstreamError(f"expected tables of {self.reaches.size} reaches, found others, {count} in all")

    @classmethod
    def static(
        cls,
        distributions: Sequence[NDArray[np.floating]],
        overflow: NDArray[np.floating] | None = None,
        precision: int = 12,
    ) -> ContextModel:
        """The model that codes each channel by one table.

        Args:
            distributions: for each channel float [2 * K + 1], how probable each integer from ``-K`` to ``K`` is; the
                first and the last value are those of all integers beyond, too. A channel of one value is always 0.
            overflow: float [256], how probable each distance from the tables is; by default it decays.
            precision: bits of every frequency's denominator, 8 or more.

        Raises:
            InputError: if a distribution has no middle, or more values than the precision allows.
        """
        if not distributions or any(np.ndim(p) != 1 or np.size(p) % 2 == 0 for p in distributions):
            raise InputError("expected a distribution of an odd number of values, -K to K, for each channel")
        reaches = np.array([np.size(p) // 2 for p in distributions], np.int32)
        if overflow is None:
            overflow = 0.5 ** (np.arange(OVERFLOW + 1) / 8) + 1e-4
        channels, none = len(reaches), np.zeros(0, np.int32)
        return cls(
            layout=Layout((channels,), ONE_PHASE, ONE_PHASE, reach=1),
            kinds=np.arange(channels, dtype=np.int32),
            thresholds=none,
            not_coded=(reaches == 0).astype(np.int32),
            reaches=reaches,
            parts_log2=0,
            overflow_tables=1,
            base=np.zeros(channels, np.int32),
            scales=(),
            means=(),
            tables=residual_tables([*distributions, overflow], reaches, precision),
        )

    @property
    def levels(self) -> int:
        """Number of levels of ``S``."""
        return self.thresholds.size + 1

    @property
    def parts(self) -> int:
        """Number of parts of half a step."""
        return 1 << self.parts_log2

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name the format and all arrays of the model."""
        return formats.fingerprint(self.format_id, self.arrays())

    @cached_property
    def lookups(self) -> Lookups:
        """The look-ups of all passes, made once."""
        lowest, highest = -MAX_SUM, MAX_SUM
        least = np.array([lowest, *self.thresholds, highest], np.int32)[self.not_coded][self.kinds]
        last = int(self.thresholds[-1]) if self.thresholds.size else 0
        steps = np.arange((last >> FINENESS_LOG2) + 1)
        level = np.searchsorted(self.thresholds >> FINENESS_LOG2, steps, "right").astype(np.int32)
        level_of_table = np.arange(self.reaches.size, dtype=np.int32) // self.parts % self.levels
        overflow = self.reaches.size + level_of_table * self.overflow_tables // self.levels
        return Lookups(
            least,
            level * np.int32(self.parts),
            self.kinds * np.int32(self.levels * self.parts),
            np.append(overflow, np.zeros(self.overflow_tables)).astype(np.int32),
        )

    # === Passes ===

    def passes(self, height: int, width: int) -> Generator[PassTables, Int32, None]:
        """The tables of each pass; send back its coefficients, int32 [n], as coded.

        The ``n`` coefficients are those of the pass's positions, row by row, each with the channels of its group.
        """
        layout = self.layout
        plane = Plane(layout, height, width)
        phase_places = [plane.places(p) for p in layout.passes if p.group == 1]
        everything = slice(0, layout.channels)
        totals = [self._no_sums(len(places), everything) for places in phase_places]
        for p in layout.passes:
            group, places = p.channels, plane.places(p)
            if p.group:
                sums = totals[p.phase][0][:, group], totals[p.phase][1][:, group]
            else:
                sums = self._no_sums(len(places), group)
            if p.phase:
                first = slice(p.count * p.phase, p.count * (p.phase + 1))
                kernel = self._kernel(1 + p.phase, group, group) if p.group else self._kernel(0, group, first)
                plane.add(sums, places, group, kernel)
            elif not p.group and self.thresholds.size:
                sums[0].fill(self.thresholds[-1])
            coefficients = yield self._pass_tables(p, *sums)
            plane.set(places, group, coefficients)
            if p.last and group.stop < layout.channels:  # the group is complete: add it to the sums of the later ones
                later = slice(group.stop, layout.channels)
                for i, (at, (scale, mean)) in enumerate(zip(phase_places, totals, strict=True), 1):
                    plane.add((scale[:, later], mean[:, later]), at, group, self._kernel(i, group, later))

    def _no_sums(self, count: int, channels: slice) -> Sums:
        scale = np.repeat(self.base[None, channels].astype(np.float32), count, axis=0)
        return scale, np.zeros_like(scale)

    def _kernel(self, number: int, inputs: slice, outputs: slice) -> Kernel:
        """Weights of scales and means from some channels to others, made once."""
        key = (number, inputs.start, inputs.stop, outputs.start, outputs.stop)
        if key not in self._kernels:
            scales, means = (weights[number][:, :, inputs, outputs] for weights in (self.scales, self.means))
            self._kernels[key] = Kernel.of(scales, means)
        return self._kernels[key]

    @cached_property
    def _kernels(self) -> dict[tuple[int, ...], Kernel]:
        return {}

    def _pass_tables(self, which: Pass, scale: Float32, mean: Float32) -> PassTables:
        """The tables of a pass, from its two sums: float32 [positions, channels] that hold integers."""
        least, level_table, kind_table, overflow_table = self.lookups
        coded = np.flatnonzero(scale >= least[which.channels].astype(np.float32))
        steps = scale.ravel().take(coded).astype(np.int32) >> FINENESS_LOG2
        table = level_table.take(steps, mode="clip") + kind_table[which.channels].take(coded % which.count)
        total = mean.astype(np.int32).ravel()
        expected = (total + UNIT // 2) >> UNIT_LOG2
        nearest = expected.take(coded)
        rest = total.take(coded) - (nearest << UNIT_LOG2)
        table += np.minimum(np.abs(rest) >> (MAX_PARTS_LOG2 - self.parts_log2), self.parts - 1)
        sign = 1 - 2 * (rest < 0).astype(np.int32)
        return PassTables(which, expected, coded, nearest, table, self.reaches.take(table), sign, overflow_table)

    # === Files ===

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The whole model as named int32 arrays."""
        return {
            **self.layout.arrays(),
            **self.tables.arrays(),
            **{name: getattr(self, name) for name in ("kinds", "thresholds", "not_coded", "reaches", "base")},
            "parts_log2": np.array(self.parts_log2, np.int32),
            "overflow_tables": np.array(self.overflow_tables, np.int32),
            **{f"scales_{i}": weights.astype(np.int32) for i, weights in enumerate(self.scales)},
            **{f"means_{i}": weights.astype(np.int32) for i, weights in enumerate(self.means)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ContextModel:
        """The inverse of `arrays`; raises `BitstreamError` on anything that is not a valid model."""
        checked = formats.int32_arrays(arrays, _RANKS)
        layout = Layout.from_arrays(checked)
        # No weights are read before the file has shown as many channels.
        if checked["base"].size != layout.channels:
            raise BitstreamError(f"expected {layout.channels} channels, found {checked['base'].size}")
        weights: list[tuple[Float32, ...]] = []
        for name in ("scales", "means"):
            numbered = [f"{name}_{i}" for i in range(len(layout.kernel_shapes))]
            kernels = formats.int32_arrays(arrays, dict.fromkeys(numbered, 4)).values()
            weights.append(tuple(array.astype(np.float32) for array in kernels))
        return cls(
            layout=layout,
            kinds=checked["kinds"],
            thresholds=checked["thresholds"],
            not_coded=checked["not_coded"],
            reaches=checked["reaches"],
            parts_log2=int(checked["parts_log2"]),
            overflow_tables=int(checked["overflow_tables"]),
            base=checked["base"],
            scales=weights[0],
            means=weights[1],
            tables=FrequencyTables.from_arrays(checked),
        )

    # === Checks ===

    def _check_choices(self) -> None:
        channels = self.layout.channels
        for name in ("kinds", "thresholds", "not_coded", "reaches", "base"):
            array = getattr(self, name)
            if array.dtype != np.int32 or array.ndim != 1:
                raise BitstreamError(f"expected {name} as int32 of rank 1, found {array.dtype} {list(array.shape)}")
        if not self.kinds.size == self.base.size == channels:
            raise BitstreamError(f"expected {channels} channels, found {self.kinds.size} and {self.base.size}")
        kinds = self.not_coded.size
        if not 1 <= kinds <= channels or self.kinds.min() < 0 or self.kinds.max() >= kinds:
            raise BitstreamError(f"expected channels of {kinds} kinds, found {self.kinds.min()} to {self.kinds.max()}")
        bounds = np.concatenate([[0], self.thresholds, [MAX_THRESHOLD + 1]])
        if self.levels > MAX_LEVELS or np.any(np.diff(bounds) < 1) or np.any(self.thresholds % (1 << FINENESS_LOG2)):
            raise BitstreamError(
                f"expected up to {MAX_LEVELS - 1} ascending thresholds, multiples of {1 << FINENESS_LOG2} up to "
                f"{MAX_THRESHOLD}, found {self.thresholds.tolist()[:MAX_LEVELS]}"
            )
        if not 0 <= self.parts_log2 <= MAX_PARTS_LOG2 or not 1 <= self.overflow_tables <= self.levels:
            raise BitstreamError(
                f"expected up to {1 << MAX_PARTS_LOG2} parts and 1 to {self.levels} overflow tables, found "
                f"2**{self.parts_log2} and {self.overflow_tables}"
            )
        if self.not_coded.min() < 0 or self.not_coded.max() > self.levels:
            raise BitstreamError(f"expected 0 to {self.levels} levels that are not coded, found {self.not_coded}")
        coded = np.arange(self.levels)[:, None] >= self.not_coded[:, None, None]
        coded = np.broadcast_to(coded, (kinds, self.levels, self.parts)).ravel()
        if self.reaches.shape != coded.shape or self.reaches.min() < 0 or np.any((self.reaches > 0) != coded):
            raise BitstreamError(
                f"expected {coded.size} reaches, 1 or more where a level is coded and else 0, found {self.reaches.size}"
            )

    def _check_weights(self) -> None:
        start = np.abs(self.base.astype(np.float64)).max()
        for name in ("scales", "means"):
            weights, expected = getattr(self, name), [*self.layout.kernel_shapes]
            shapes = [w.shape for w in weights]
            if shapes != expected or any(w.dtype != np.float32 for w in weights):
                raise BitstreamError(f"expected {name} as float32 of shapes {expected}, found {shapes}")
            for w in weights:
                largest = np.abs(w.astype(np.float64)).sum(axis=(0, 1, 2)).max() * LARGEST + start
                if not largest < MAX_SUM or np.any(w != np.round(w)):
                    raise BitstreamError(
                        f"expected whole {name} whose sums stay below 2**24, found up to {largest:.0f}"
                    )
        if not start < MAX_SUM:
            raise BitstreamError(f"expected a base below 2**24, found up to {start:.0f}")


def residual_tables(
    distributions: Sequence[NDArray[np.floating]], reaches: Int32, precision: int = 12
) -> FrequencyTables:
    """The tables of a `ContextModel`.

    Args:
        distributions: for each of ``reaches`` float [2 * K + 1], then for each overflow table float [256].
        reaches: int32 [n], ``K`` of each residual's table.
        precision: bits of every frequency's denominator, 8 or more.
    """
    lower = np.append(-reaches, np.zeros(len(distributions) - reaches.size, np.int32))
    return FrequencyTables.from_probabilities(distributions, lower, precision)
