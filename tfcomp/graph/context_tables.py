"""`context` in stock TensorFlow operators: the tables of a tile's coefficients, pass by pass, in the graph.

The sums that choose tables are float32 products of whole numbers, exact as in `context`, so that no operator's order of
adding matters: on a CPU, or wherever a float32 product is one. All else is int32, and no constant that matters is a
float, as LiteRT may halve those. `context` takes the sums around the positions of a pass; here they are taken around
all positions at once, and those of the pass are looked at afterwards. Their order, row by row, is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfcomp.coding.tables import Int32
from tfcomp.entropy import context
from tfcomp.entropy.context import LEVELS, PARTS, PARTS_LOG2, UNIT, UNIT_LOG2, ContextModel
from tfcomp.errors import InputError
from tfcomp.graph.operators import Tensor, mask
from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.old_layout import CHANNELS, LAST_PASSES, PASSES, Pass

MOST_WEIGHT = 1 << 11
PADDING = context.REACHES.size + context.BEYOND_TABLES
"""The table of what fills up: one after all others."""
# No table of what lies beyond has ends, nor has padding.
_REACHES = np.append(context.REACHES, np.full(context.BEYOND_TABLES + 1, -1, np.int32))


@dataclass(frozen=True)
class Asked:
    """What a pass needs to code its ``k`` coefficients; see `context.Asked`.

    Attributes:
        which: the pass.
        count: int32, how many coefficients all positions have.
        coded: int32 [k], which of them are coded: in order, and ``count`` where that fills up a row of lanes.
        mean: int32 [k], the integer that is expected.
        level: int32 [k], of the expected magnitude.
        table: int32 [k], `PADDING` of what fills up.
        sign: int32 [k], 1 or -1.
    """

    which: Pass
    count: Tensor
    coded: Tensor
    mean: Tensor
    level: Tensor
    table: Tensor
    sign: Tensor

    @property
    def reach(self) -> Tensor:
        """int32 [k], ``K`` of each table; -1 of padding."""
        return tf.gather(_REACHES, self.table)

    def ends(self, symbols: Tensor, rows: Tensor) -> Tensor:
        """Which symbols say "that or beyond", filled up with ``k``: int32."""
        found = tf.reshape(tf.where(tf.equal(tf.abs(symbols), self.reach)), [-1])
        return filled(tf.cast(found, tf.int32), rows, tf.size(self.table))

    def beyond_tables(self, ends: Tensor) -> Tensor:
        """The tables of what lies beyond, of those at some ends."""
        table = context.REACHES.size + at(self.level, ends) * context.BEYOND_TABLES // LEVELS
        return tf.where(ends < tf.size(self.table), table, PADDING)


CodePass = Callable[[Asked], Tensor]
"""From what a pass asks, to how far each coefficient lies from its mean, int32 [k]."""


class GraphContexts:
    """The contexts of all qualities.

    Args:
        models: of each quality.
    """

    def __init__(self, models: Sequence[ContextModel]) -> None:
        self._base = np.stack([model.base for model in models])
        kernels = [
            [np.stack([getattr(model, name)[kind] for model in models]) for kind in range(3)]
            for name in ("scales", "means")
        ]
        # 11 bits of each weight are what processors keep whose float32 products are of 19-bit floats.
        if (most := max(np.abs(k).max() for kinds in kernels for k in kinds)) > MOST_WEIGHT:
            raise InputError(f"expected weights of contexts up to {MOST_WEIGHT}, found {most:.0f}")
        self._kernels = [[k.astype(np.int16) for k in kinds] for kinds in kernels]

    def of(self, quality: Tensor) -> OfQuality:
        """Those of one quality, int32 from 0."""
        return OfQuality(
            tf.gather(self._base, quality),
            [[tf.cast(tf.gather(k, quality), tf.float32) for k in kinds] for kinds in self._kernels],
        )


@dataclass(frozen=True)
class OfQuality:
    """The contexts of one quality: see `ContextModel`.

    Attributes:
        base: int32 [CHANNELS].
        kernels: those of scales, and those of means, float32 that hold integers.
    """

    base: Tensor
    kernels: Sequence[Sequence[Tensor]]

    def coefficients(self, height: Tensor, width: Tensor, rows: Tensor, code_pass: CodePass) -> Tensor:
        """Codes all passes of a tile: int32 [height * width, CHANNELS], the coefficients.

        Args:
            height, width: int32, positions of the tile.
            rows: int32, what `Asked` fills up to a multiple of.
            code_pass: what codes each pass.
        """
        positions = height * width
        none = tf.zeros(tf.stack([positions, CHANNELS]), tf.int32)
        totals = [(none + self.base, none) for _ in range(2)]
        phases = [_phases(pattern, height, width) for pattern in (layout.MEAN_PHASES, layout.CHESSBOARD)]
        planes: list[Tensor] = []
        for p in PASSES:
            own, here = p.channels, tf.equal(phases[min(p.group, 1)], p.phase)[:, None]
            if p.phase == 0:
                planes.append(tf.zeros(tf.stack([positions, p.count]), tf.int32))
            if p == PASSES[0]:  # where nothing is known
                scale, mean = none[:, own] + context.THRESHOLDS[-1], none[:, own]
            elif p.group == 0:
                phase = slice(p.count * p.phase, p.count * (p.phase + 1))
                scale, mean = _sums(planes[-1], height, width, [kinds[0][..., phase] for kinds in self.kernels])
                scale += self.base[own]
            else:
                scale, mean = (total[:, own] for total in totals[p.phase])
                if p.phase == 1:
                    more = _sums(planes[-1], height, width, [kinds[2][:, :, own, own] for kinds in self.kernels])
                    scale, mean = scale + more[0], mean + more[1]
            expected, asked = _asked(p, scale, mean, here, rows)
            residuals = tf.scatter_nd(asked.coded[:, None], code_pass(asked), tf.stack([asked.count + 1]))[:-1]
            planes[-1] += expected * mask(here) + tf.reshape(residuals, tf.stack([-1, p.count]))
            if p in LAST_PASSES and own.stop < CHANNELS:  # the group is complete: what it says of the later ones
                for kind in (1, 2):
                    later = [kinds[kind][:, :, own, own.stop :] for kinds in self.kernels]
                    totals[kind - 1] = tuple(
                        total + tf.pad(part, [[0, 0], [own.stop, 0]])
                        for total, part in zip(totals[kind - 1], _sums(planes[-1], height, width, later), strict=True)
                    )
        return tf.concat(planes, axis=-1)


# === Places ===


def at(values: Tensor, places: Tensor) -> Tensor:
    """Of a tensor in order, what lies at some places, int32 [n]; zero at the one after the last."""
    flat = tf.reshape(values, [-1])
    return tf.gather(tf.concat([flat, tf.zeros([1], flat.dtype)], axis=0), places)


def filled(places: Tensor, rows: Tensor, more: Tensor) -> Tensor:
    """Places, int32 [n], filled up with another to whole rows, at least one."""
    missing = tf.maximum(over(tf.size(places), rows), 1) * rows - tf.size(places)
    return tf.concat([places, tf.fill(tf.stack([missing]), more)], axis=0)


def over(a: Tensor, b: Tensor) -> Tensor:
    """``ceil(a / b)`` of positive integers."""
    return (a + b - 1) // b


# === Inside ===


def _phases(pattern: Int32, height: Tensor, width: Tensor) -> Tensor:
    """The phase of each position, int32 [height * width]."""
    n = len(pattern)
    places = tf.range(height)[:, None] % n * n + tf.range(width) % n
    return tf.gather(pattern.ravel().astype(np.int32), tf.reshape(places, [-1]))


def _sums(plane: Tensor, height: Tensor, width: Tensor, kernels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What is known around each position, times weights: of magnitudes, and of the values, int32 [positions, n]."""
    size, _, channels, outputs = kernels[0].shape
    reach = size // 2
    known = tf.cast(tf.clip_by_value(plane, -context.LARGEST, context.LARGEST), tf.float32)
    known = tf.pad(tf.reshape(known, tf.stack([height, width, channels])), [[reach, reach], [reach, reach], [0, 0]])
    taps = [
        tf.reshape(tf.slice(known, [i, j, 0], tf.stack([height, width, channels])), [-1, channels])
        for i in range(size)
        for j in range(size)
    ]
    around = tf.concat(taps, axis=-1)
    scale, mean = (tf.reshape(kernel, [size * size * channels, outputs]) for kernel in kernels)
    return tf.cast(tf.matmul(tf.abs(around), scale), tf.int32), tf.cast(tf.matmul(around, mean), tf.int32)


def _asked(p: Pass, scale: Tensor, mean: Tensor, here: Tensor, rows: Tensor) -> tuple[Tensor, Asked]:
    """What is expected everywhere, int32 [positions, channels], and what the pass asks; see `context`.

    Args:
        p: the pass.
        scale, mean: int32 [positions, channels], the two sums.
        here: bool [positions, 1], which positions are the pass's.
        rows: as `OfQuality.coefficients` takes them.
    """
    count = tf.size(scale)
    least = np.maximum(context.LEAST[p.channels], -(2.0**30)).astype(np.int32)
    coded = tf.reshape(tf.where(tf.reshape((scale >= least) & here, [-1])), [-1])
    coded = filled(tf.cast(coded, tf.int32), rows, count)
    expected = tf.math.floordiv(mean + UNIT // 2, UNIT)
    rest = at(mean - expected * UNIT, coded)
    fine = at(scale, coded) // (1 << context.FINENESS_LOG2)
    level = tf.gather(context.LEVEL_OF, tf.clip_by_value(fine, 0, len(context.LEVEL_OF) - 1))
    part = tf.minimum(tf.abs(rest) // (1 << (UNIT_LOG2 - 1 - PARTS_LOG2)), PARTS - 1)
    kind = tf.gather(context.KINDS[p.channels], coded % p.count)
    table = tf.where(coded < count, (level + LEVELS * kind) * PARTS + part, PADDING)
    return expected, Asked(p, count, coded, at(expected, coded), level, table, 1 - 2 * mask(rest < 0))
