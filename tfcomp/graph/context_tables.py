"""`tfcomp.entropy.context` in stock TensorFlow operators: the tables of a tile's coefficients, pass by pass.

The sums that choose tables are float32 products of whole numbers, exact as in `context`, so that no operator's order of
adding matters: on a CPU, or wherever a float32 product is one. All else is int32, and no constant that matters is a
float, as LiteRT may halve those. `context` takes the sums around the positions of a pass; here they are taken around
all positions at once, and those of the pass are looked at afterwards. Their order, row by row, is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.coding.tables import Int32
from tfcomp.entropy.context import FINENESS_LOG2, MAX_PARTS_LOG2, MAX_WEIGHT, UNIT, ContextModel
from tfcomp.entropy.neighbours import LARGEST
from tfcomp.errors import InputError
from tfcomp.graph.operators import Tensor, mask
from tfcomp.layout import Layout, Pass

ByQuality = Callable[[Tensor], Any]
"""From a quality, int32 from 0, to the values of that quality."""


def by_quality(arrays: Sequence[Int32], fill: int | None = None, size: int = 0) -> ByQuality:
    """The int32 array of a quality.

    Args:
        arrays: int32 [n], one for each quality.
        fill: value that shorter ones are filled up with at their end; by default their last.
        size: least length that all are filled up to.
    """
    most = max(size, *(len(array) for array in arrays))
    rows = [np.append(a, np.full(most - len(a), a[-1] if fill is None else fill)).astype(np.int32) for a in arrays]
    if all(np.array_equal(row, rows[0]) for row in rows):
        return lambda _: rows[0]
    stacked = np.stack(rows)
    return lambda quality: tf.gather(stacked, quality)


@dataclass(frozen=True)
class PassTensors:
    """The tables of the ``k`` coefficients of a pass that have symbols; see `tfcomp.entropy.pass_tables.PassTables`.

    Attributes:
        which: the pass.
        count: int32, number of coefficients of all positions.
        coded: int32 [k], the coefficients that have symbols, in order; ``count`` for padding up to whole rows of lanes.
        mean: int32 [k], the expected integer of each such coefficient.
        table: int32 [k], the table of each residual; for padding the padding table, one after all others.
        reach: int32 [k], ``K`` of each table; -1 of padding, so that it has no ends.
        sign: int32 [k], 1 or -1.
        overflow_table: int32 [T], the overflow table of each of the model's tables.
        padding: the padding table.
    """

    which: Pass
    count: Tensor
    coded: Tensor
    mean: Tensor
    table: Tensor
    reach: Tensor
    sign: Tensor
    overflow_table: Tensor
    padding: int

    def ends(self, symbols: Tensor, rows: Tensor) -> Tensor:
        """Places of the symbols that say "that or beyond", int32, filled up with ``k``."""
        places = tf.reshape(tf.where(tf.equal(tf.abs(symbols), self.reach)), [-1])
        return filled(tf.cast(places, tf.int32), rows, tf.size(self.table))

    def overflow_tables(self, ends: Tensor) -> Tensor:
        """The tables of the overflow at these places, int32."""
        return tf.where(ends < tf.size(self.table), tf.gather(self.overflow_table, at(self.table, ends)), self.padding)


CodePass = Callable[[PassTensors], Tensor]
"""From the tables of a pass to the distance of each coefficient from its mean, int32 [k]."""


class GraphContexts:
    """The contexts of all qualities.

    Args:
        models: of each quality, with one layout and the same numbers of kinds, levels, parts and overflow tables.

    Raises:
        InputError: if the models differ in these, or a weight is too large.
    """

    def __init__(self, models: Sequence[ContextModel]) -> None:
        first, most = models[0], 0.0
        for m in models:
            shape = (m.layout, m.not_coded.size, m.levels, m.parts, m.overflow_tables)
            if shape != (first.layout, first.not_coded.size, first.levels, first.parts, first.overflow_tables):
                raise InputError("expected models of one layout, with as many kinds, levels, parts and overflow tables")
            most = max([most, *(float(np.abs(w).max()) for w in (*m.scales, *m.means))])
        if most > MAX_WEIGHT:
            raise InputError(f"expected weights of contexts up to {MAX_WEIGHT}, found {most:.0f}")
        self.layout, self.parts_log2, self.padding = first.layout, first.parts_log2, len(first.tables)
        self._base = by_quality([m.base for m in models])
        self._least = by_quality([m.lookups.least for m in models])
        self._level_table = by_quality([m.lookups.level_table for m in models])
        self._kind_table = by_quality([m.lookups.kind_table for m in models])
        # No overflow table has ends, nor has padding.
        no_ends = np.full(first.overflow_tables + 1, -1, np.int32)
        self._reaches = by_quality([np.append(m.reaches, no_ends) for m in models])
        self._overflow_table = np.append(first.lookups.overflow_table, self.padding).astype(np.int32)
        self._top = by_quality([m.thresholds[-1:] if m.thresholds.size else m.base[:1] for m in models])
        everything = slice(0, first.layout.channels)
        self._kernels: dict[tuple[int, int, int, int, int], _Kernel] = {}
        for p in first.layout.passes:
            if p.phase:
                phase = slice(p.count * p.phase, p.count * (p.phase + 1))
                self._add(models, 1 + p.phase if p.group else 0, p.channels, p.channels if p.group else phase)
            if p.last and p.channels.stop < first.layout.channels:
                for number in range(1, 1 + first.layout.other_phases):
                    self._add(models, number, p.channels, slice(p.channels.stop, everything.stop))

    def _add(self, models: Sequence[ContextModel], number: int, inputs: slice, outputs: slice) -> None:
        self._kernels[_key(number, inputs, outputs)] = _Kernel.of(models, number, inputs, outputs)

    def of(self, quality: Tensor) -> Contexts:
        """The contexts of one quality, int32 from 0."""
        return Contexts(
            layout=self.layout,
            parts_log2=self.parts_log2,
            padding=self.padding,
            base=self._base(quality),
            least=self._least(quality),
            level_table=self._level_table(quality),
            kind_table=self._kind_table(quality),
            reaches=self._reaches(quality),
            overflow_table=self._overflow_table,
            top=self._top(quality),
            kernel=lambda number, inputs, outputs: self._kernels[_key(number, inputs, outputs)].at(quality),
        )


def _key(number: int, inputs: slice, outputs: slice) -> tuple[int, int, int, int, int]:
    return number, inputs.start, inputs.stop, outputs.start, outputs.stop


@dataclass(frozen=True)
class Contexts:
    """The contexts of one quality; see `ContextModel` and its `Lookups`.

    Attributes:
        layout, parts_log2: as in the model.
        padding: the padding table, one after all others.
        base, least, kind_table: int32 [channels].
        level_table, reaches, overflow_table: int32, the last two with padding.
        top: int32 [1], the highest threshold, which is ``S`` in the first pass.
        kernel: from a kernel's number, inputs and outputs to its weights.
    """

    layout: Layout
    parts_log2: int
    padding: int
    base: Tensor
    least: Tensor
    level_table: Tensor
    kind_table: Tensor
    reaches: Tensor
    overflow_table: Int32
    top: Tensor
    kernel: Callable[[int, slice, slice], _Kernel]

    def coefficients(self, height: Tensor, width: Tensor, rows: Tensor, code_pass: CodePass) -> Tensor:
        """Codes all passes of a tile: int32 [height * width, channels], the coefficients.

        Args:
            height, width: int32, positions of the tile.
            rows: int32, the length of a row of lanes; `PassTensors` are filled up to whole rows.
            code_pass: codes one pass.
        """
        layout, positions = self.layout, height * width
        none = tf.zeros(tf.stack([positions, layout.channels]), tf.int32)
        totals = [(none + self.base, none) for _ in range(layout.other_phases)]
        phases = [_phases(np.array(pattern), height, width) for pattern in (layout.first, layout.others)]
        planes: list[Tensor] = []
        for p in layout.passes:
            group, here = p.channels, tf.equal(phases[min(p.group, 1)], p.phase)[:, None]
            if p.phase == 0:
                planes.append(tf.zeros(tf.stack([positions, p.count]), tf.int32))
            if p.group:
                scale, mean = (total[:, group] for total in totals[p.phase])
            else:
                scale, mean = none[:, group] + (self.base[group] if p.phase else self.top), none[:, group]
            if p.phase:
                first = slice(p.count * p.phase, p.count * (p.phase + 1))
                kernel = self.kernel(1 + p.phase, group, group) if p.group else self.kernel(0, group, first)
                more = kernel.sums(planes[-1], height, width)
                scale, mean = scale + more[0], mean + more[1]
            expected, tensors = self._pass_tensors(p, scale, mean, here, rows)
            residuals = tf.scatter_nd(tensors.coded[:, None], code_pass(tensors), tf.stack([tensors.count + 1]))[:-1]
            planes[-1] += expected * mask(here) + tf.reshape(residuals, tf.stack([-1, p.count]))
            if p.last and group.stop < layout.channels:  # the group is complete: add it to the sums of the later ones
                later = slice(group.stop, layout.channels)
                for i, total in enumerate(totals):
                    sums = self.kernel(1 + i, group, later).sums(planes[-1], height, width)
                    padded = [tf.pad(part, [[0, 0], [group.stop, 0]]) for part in sums]
                    totals[i] = (total[0] + padded[0], total[1] + padded[1])
        return tf.concat(planes, axis=-1)

    def _pass_tensors(
        self, p: Pass, scale: Tensor, mean: Tensor, here: Tensor, rows: Tensor
    ) -> tuple[Tensor, PassTensors]:
        """The expected integers everywhere, int32 [positions, channels], and the tables of the pass.

        Args:
            p: the pass.
            scale, mean: int32 [positions, channels], the two sums.
            here: bool [positions, 1], whether a position is the pass's.
            rows: as `coefficients` takes them.
        """
        count, group = tf.size(scale), p.channels
        coded = tf.reshape(tf.where(tf.reshape((scale >= self.least[group]) & here, [-1])), [-1])
        coded = filled(tf.cast(coded, tf.int32), rows, count)
        expected = tf.math.floordiv(mean + UNIT // 2, UNIT)
        rest = at(mean - expected * UNIT, coded)
        steps = tf.maximum(at(scale, coded), 0) // (1 << FINENESS_LOG2)
        table = tf.gather(self.level_table, tf.minimum(steps, self.level_table.shape[0] - 1))
        table += tf.gather(self.kind_table[group], coded % p.count)
        parts = 1 << self.parts_log2
        table += tf.minimum(tf.abs(rest) // (1 << (MAX_PARTS_LOG2 - self.parts_log2)), parts - 1)
        table = tf.where(coded < count, table, self.padding)
        reach, sign = tf.gather(self.reaches, table), 1 - 2 * mask(rest < 0)
        tensors = PassTensors(
            p, count, coded, at(expected, coded), table, reach, sign, self.overflow_table, self.padding
        )
        return expected, tensors


@dataclass(frozen=True)
class _Kernel:
    """The weights between two ranges of channels, of all qualities or of one.

    Attributes:
        reach: how far the contexts reach, in positions.
        taps: the neighbours that have any weight, of ``(2 * reach + 1)**2``.
        scales, means: int16 [qualities, taps * inputs, outputs], or float32 [taps * inputs, outputs].
    """

    reach: int
    taps: tuple[int, ...]
    scales: Any
    means: Any

    @classmethod
    def of(cls, models: Sequence[ContextModel], number: int, inputs: slice, outputs: slice) -> _Kernel:
        weights = [
            np.stack([getattr(m, name)[number][:, :, inputs, outputs] for m in models]) for name in ("scales", "means")
        ]
        qualities, size, _, channels, count = weights[0].shape
        grids = [w.reshape(qualities, size**2, channels, count) for w in weights]
        used = np.any(grids[0] != 0, axis=(0, 2, 3)) | np.any(grids[1] != 0, axis=(0, 2, 3))
        used[size**2 // 2] |= not used.any()
        flat = [grid[:, used].reshape(qualities, -1, count).astype(np.int16) for grid in grids]
        return cls(size // 2, tuple(np.flatnonzero(used).tolist()), *flat)

    def at(self, quality: Tensor) -> _Kernel:
        """The weights of one quality."""
        scales, means = (tf.cast(tf.gather(w, quality), tf.float32) for w in (self.scales, self.means))
        return _Kernel(self.reach, self.taps, scales, means)

    def sums(self, plane: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sums over each position's neighbours, of magnitudes and of values: int32 [positions, n] each."""
        reach, channels = self.reach, plane.shape[1]
        known = tf.cast(tf.clip_by_value(plane, -LARGEST, LARGEST), tf.float32)
        known = tf.reshape(known, tf.stack([height, width, channels]))
        known = tf.pad(known, [[reach, reach], [reach, reach], [0, 0]])
        begins = [divmod(tap, 2 * reach + 1) for tap in self.taps]
        seen = [tf.slice(known, [y, x, 0], tf.stack([height, width, channels])) for y, x in begins]
        around = tf.reshape(tf.concat(seen, axis=-1), [-1, channels * len(seen)])
        scale, mean = tf.matmul(tf.abs(around), self.scales), tf.matmul(around, self.means)
        return tf.cast(scale, tf.int32), tf.cast(mean, tf.int32)


# === Places ===


def at(values: Tensor, places: Tensor) -> Tensor:
    """The values, in order, at some places, int32 [n]; zero at the place after the last."""
    flat = tf.reshape(values, [-1])
    return tf.gather(tf.concat([flat, tf.zeros([1], flat.dtype)], axis=0), places)


def filled(places: Tensor, rows: Tensor, fill: Tensor) -> Tensor:
    """Places, int32 [n], filled up with ``fill`` to whole rows, one at least."""
    missing = tf.maximum(over(tf.size(places), rows), 1) * rows - tf.size(places)
    return tf.concat([places, tf.fill(tf.stack([missing]), fill)], axis=0)


def over(a: Tensor, b: Tensor) -> Tensor:
    """``ceil(a / b)`` of positive integers."""
    return (a + b - 1) // b


def _phases(pattern: Int32, height: Tensor, width: Tensor) -> Tensor:
    """The phase of each position, int32 [height * width]."""
    n = len(pattern)
    places = tf.range(height)[:, None] % n * n + tf.range(width) % n
    return tf.gather(pattern.ravel().astype(np.int32), tf.reshape(places, [-1]))
