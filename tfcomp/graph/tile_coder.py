"""`coder` in stock TensorFlow operators: one tile's integers to bytes and back, in the graph.

What is read is exactly what `coder.decode` reads. What is written is a code like that of `coder.encode`, by the same
rules; but they weigh floats, whose last bits differ from one runtime to another, and with them now and then an integer.

No bytes make the decoder fail: those that `coder` refuses become some integers, for no more work than other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.coding.lanes import RANGE_BITS
from tfcomp.coding.tables import COST_UNITS
from tfcomp.entropy import context
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.tiles import BYTES_PER_LANE, CONTEXT_SHARE, MOST_LANES_LOG2, MOST_SYMBOLS, STEPS_PER_LANE
from tfcomp.graph import lane_steps as graph_lanes
from tfcomp.graph.context_tables import PADDING, Asked, GraphContexts, at, filled
from tfcomp.graph.operators import Tensor, mask, scan_rows, shift_right
from tfcomp.photographs.old_layout import PASSES

NUMBER_BYTES = 4
"""The most of a varint that is read or written: 28 bits are more than any length of a photograph needs."""


class TileCoder:
    """Codes tiles.

    Args:
        models: of each quality.
        prices: float32 [qualities, CHANNELS], the bits that a squared step of error is worth to the encoder.
    """

    def __init__(self, models: Sequence[ContextModel], prices: Any) -> None:
        self._contexts, self._prices = GraphContexts(models), exact(prices / np.float32(1 + CONTEXT_SHARE))
        # Every quality's tables have the same sizes: what depends on these alone is of all of them.
        tables = models[0].tables
        self._precision, self._padding = tables.precision, tables.frequencies.size
        self._first_position = np.append(tables.first - tables.lower, self._padding).astype(np.int32)
        self._first_key = np.append(tables.first, self._padding).astype(np.int32) + np.arange(
            PADDING + 1, dtype=np.int32
        )
        self._costs = np.stack([np.append(model.tables.costs, 0) for model in models]).astype(np.int32)
        intervals = [graph_lanes.intervals(model.tables) for model in models]
        self._starts, self._slopes = (np.stack(values) for values in zip(*intervals, strict=True))
        searches = [graph_lanes.Search.of(model.tables) for model in models]
        self._search = searches[0]
        self._keys, self._bounds, self._values = (
            np.stack([getattr(search, name) for search in searches]) for name in ("keys", "bounds", "values")
        )

    # === Reading ===

    def decode(self, code: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> Tensor:
        """The integers of a tile, int32 [height * width, CHANNELS].

        Args:
            code: int32 [n], its bytes.
            height, width: int32, its positions.
            quality: int32, from 0.
        """
        keys, bounds, values = (tf.gather(x, quality) for x in (self._keys, self._bounds, self._values))
        lanes, pairs, state, limits = _lanes(code)
        left = MOST_SYMBOLS * lanes

        def step(state: tuple[Tensor, ...], table: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            unit = shift_right(state[1], self._precision)
            raised = state[0] // unit + table * (self._search.end + 1)
            key = self._search.find(keys, tf.gather(self._first_key, table), raised)
            code, range_, place = graph_lanes.narrow(state, unit, key, bounds, pairs)
            return (code, range_, tf.minimum(place, limits)), key

        def take(table: Tensor) -> Tensor:
            """The symbols of so many tables, which fill rows of the lanes."""
            nonlocal state, left
            left -= tf.reduce_sum(mask(table < PADDING))
            rows = tf.reshape(table, tf.stack([-1, 1, lanes]))
            state, found = scan_rows(step, state, rows, left >= 0)
            return tf.gather(values, tf.reshape(found, [-1]))

        def residuals(asked: Asked) -> Tensor:
            symbols = take(asked.table)
            ends = asked.ends(symbols, lanes)
            beyond = tf.scatter_nd(ends[:, None], take(asked.beyond_tables(ends)), tf.stack([tf.size(symbols) + 1]))
            return (symbols + tf.sign(symbols) * beyond[:-1]) * asked.sign

        return self._contexts.of(quality).coefficients(height, width, lanes, residuals)

    # === Writing ===

    def encode(self, latent: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> Tensor:
        """The bytes of a tile, int32 [n].

        Args:
            latent: float32 [height * width, CHANNELS], in steps, not rounded.
            height, width: int32, its positions.
            quality: int32, from 0.
        """
        costs, prices = tf.gather(self._costs, quality), self._prices(quality)
        symbols: list[Tensor] = []  # of each pass, then of what lies beyond: where they lie in the tables

        def positions(values: Tensor, table: Tensor) -> Tensor:
            return values + tf.gather(self._first_position, table)

        def split(residual: Tensor, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
            """Symbols, whether they are at an end, and how far beyond it lies what they stand for."""
            reach = tf.maximum(asked.reach, 0)
            residual *= asked.sign
            inside = tf.clip_by_value(residual, -reach, reach)
            return inside, tf.equal(tf.abs(inside), asked.reach), tf.abs(residual) - reach

        def bits(residual: Tensor, asked: Asked) -> Tensor:
            inside, at_end, beyond = split(residual, asked)
            every = tf.range(tf.size(residual))
            table = asked.beyond_tables(tf.where(at_end, every, tf.size(every)))
            further = tf.where(at_end, positions(beyond, table), self._padding)
            units = tf.gather(costs, positions(inside, asked.table)) + tf.gather(costs, further)
            return tf.cast(units, tf.float32) / COST_UNITS

        def residuals(asked: Asked) -> Tensor:
            exact = at(latent[:, asked.which.channels], asked.coded) - tf.cast(asked.mean, tf.float32)
            most = tf.maximum(asked.reach, 0) + context.BEYOND
            # Beyond that the cast to int32 would be undefined.
            exact = tf.clip_by_value(exact, -(2.0**15), 2.0**15)
            chosen = tf.clip_by_value(tf.cast(tf.round(exact), tf.int32), -most, most)
            if asked.which != PASSES[0]:  # where nothing is expected
                price = tf.gather(prices[asked.which.channels], asked.coded % asked.which.count)
                nearer = chosen - tf.sign(chosen)
                cost, cost_nearer = (
                    bits(r, asked) + price * tf.square(tf.cast(r, tf.float32) - exact) for r in (chosen, nearer)
                )
                chosen = tf.where(cost_nearer < cost, nearer, chosen)
            inside, _, beyond = split(chosen, asked)
            ends = asked.ends(inside, tf.constant(1))
            symbols.append(positions(inside, asked.table))
            symbols.append(positions(at(beyond, ends), asked.beyond_tables(ends)))
            return tf.where(asked.table < PADDING, chosen, 0)

        self._contexts.of(quality).coefficients(height, width, tf.constant(1), residuals)
        return self._lane_bytes(symbols, costs, quality)

    def _lane_bytes(self, symbols: Sequence[Tensor], costs: Tensor, quality: Tensor) -> Tensor:
        """The bytes of a tile whose passes have these positions in the tables, int32 [n]."""
        # Bits of each pass: units of all would not fit int32.
        bits = tf.add_n([tf.reduce_sum(tf.gather(costs, positions)) // COST_UNITS for positions in symbols])
        count = tf.add_n([tf.reduce_sum(mask(positions < self._padding)) for positions in symbols])
        halfway = 2 ** (np.arange(MOST_LANES_LOG2) + 0.5)
        enough = [(halfway * each).astype(np.int32) for each in (8 * BYTES_PER_LANE, STEPS_PER_LANE)]
        lanes_log2 = tf.reduce_sum(mask((bits > enough[0]) | (count > enough[1])))
        lanes = _power(lanes_log2)
        rows = tf.concat([filled(positions, lanes, self._padding) for positions in symbols], axis=0)
        rows = tf.reshape(rows, tf.stack([-1, 1, lanes]))
        starts, slopes = (tf.gather(tf.gather(x, quality), rows) for x in (self._starts, self._slopes))

        def step(state: tuple[Tensor, ...], slope: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return (graph_lanes.next_range(state[0], slope, mask(slope <= 0), self._precision),), state[0]

        whole = tf.fill(tf.stack([1, lanes]), 1 << RANGE_BITS)
        (last,), ranges = scan_rows(step, (whole,), slopes)
        digits = graph_lanes.digits(ranges, last, starts, slopes, self._precision)[0]
        place = tf.range(tf.shape(digits)[1])
        sizes = tf.reduce_max(mask(digits > 0) * (place + 1), axis=-1)
        data = kept(digits, place < sizes[:, None])
        more = sizes[:-1] - tf.concat([[0], sizes[:-2]], axis=0)[: lanes - 1]
        folded = tf.where(more < 0, -2 * more - 1, 2 * more)
        return tf.concat([lanes_log2[None], packed(folded), data], axis=0)


def exact(values: Any) -> Callable[[Tensor], Tensor]:
    """A gather of float32 rows that LiteRT does not halve: it sees integers of the same bits."""
    bits = np.asarray(values, np.float32).view(np.int32)
    return lambda row: tf.bitcast(tf.gather(bits, row), tf.float32)


# === Bytes ===


def kept(values: Tensor, which: Tensor) -> Tensor:
    """Those values, in order, for which it is true: [n]."""
    places = tf.reshape(tf.where(tf.reshape(which, [-1])), [-1])
    return tf.gather(tf.reshape(values, [-1]), tf.cast(places, tf.int32))


def packed(numbers: Tensor) -> Tensor:
    """Varints, int32 [n], of numbers below 2**28; see `tfcomp.coding.varints`."""
    rest = numbers[:, None] // (1 << 7 * np.arange(NUMBER_BYTES, dtype=np.int32))
    goes_on = mask(tf.pad(rest[:, 1:], [[0, 0], [0, 1]]) > 0)
    used = (rest > 0) | (tf.range(NUMBER_BYTES) < 1)
    return kept(rest % 128 + 128 * goes_on, used)


def unpacked(data: Tensor, offset: Any, count: Any) -> tuple[Tensor, Tensor]:
    """So many varints, int32 [count], zeros where there are fewer, and the offset after them."""
    # LiteRT cuts out what is there, and nothing that begins or ends beyond.
    offset, size = tf.minimum(offset, tf.size(data)), NUMBER_BYTES * (count + 1)
    window = tf.pad(data, [[0, size]])[offset : offset + size]
    goes_on = mask(window >= 128)
    values = from_here = window % 128
    for _ in range(NUMBER_BYTES - 1):
        from_here = values + 128 * goes_on * tf.pad(from_here[1:], [[0, 1]])
    after_end = tf.concat([[True], goes_on[:-1] < 1], axis=0)
    starts = tf.cast(tf.reshape(tf.where(after_end), [-1]), tf.int32)
    starts = tf.concat([starts, tf.fill(tf.stack([count + 1]), tf.size(window) - 1)], axis=0)[: count + 1]
    return tf.gather(from_here, starts[:-1]), tf.minimum(offset + starts[-1], tf.size(data))


def _power(log2: Tensor) -> Tensor:
    return tf.gather(np.int32(1) << np.arange(MOST_LANES_LOG2 + 1, dtype=np.int32), log2)


def _lanes(code: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """How many lanes a tile has, what they are read from, the state of each, and the place that none reads beyond."""
    lanes = _power(tf.minimum(tf.pad(code, [[0, 1]])[0], MOST_LANES_LOG2))
    folded, offset = unpacked(code, 1, lanes - 1)
    half = folded // 2
    sizes = tf.cumsum(tf.where(folded % 2 > 0, -half - 1, half))
    total = tf.size(code)
    begins = tf.clip_by_value(offset + tf.concat([[0], tf.cumsum(sizes)], axis=0), 0, total)
    ends = tf.maximum(begins, tf.concat([begins[1:], [total]], axis=0))
    # No lane takes more steps than all of them together, nor more than two bytes a step.
    longest = tf.clip_by_value(tf.reduce_max(ends - begins), 2, 2 * (MOST_SYMBOLS + 2 * len(PASSES)) + 4)
    place = tf.range(longest)
    data = tf.gather(tf.pad(code, [[0, longest + 1]]), begins[:, None] + place)
    pairs, state = graph_lanes.begin((data * mask(place < (ends - begins)[:, None]))[None])
    return lanes, pairs, state, state[2] + longest - 2  # two more are zeros, as are all after them
