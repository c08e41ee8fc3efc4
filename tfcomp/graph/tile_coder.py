"""`tfcomp.entropy.tiles` in stock TensorFlow operators: one tile's integers to bytes and back, in the graph.

The decoder reads exactly what `tiles.decode` reads. No bytes make it fail: those that `tiles` refuses become some
integers, for no more work than other bytes. The encoder follows the rules of `tiles.encode`, but weighs floats, whose
last bits differ from one runtime to another, so that now and then another integer is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.coding.lanes import RANGE_BITS
from tfcomp.coding.tables import COST_UNITS
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.pass_tables import OVERFLOW
from tfcomp.entropy.tiles import (
    BYTES_PER_LANE,
    CONTEXT_SHARE,
    MAX_LANES_LOG2,
    MAX_SYMBOLS_PER_LANE,
    SYMBOLS_PER_LANE,
)
from tfcomp.errors import InputError
from tfcomp.graph import lane_steps
from tfcomp.graph.context_tables import GraphContexts, PassTensors, at, by_quality, filled
from tfcomp.graph.operators import Tensor, mask, scan_rows, shift_right

NUMBER_BYTES = 4
"""Most bytes of a varint that is read or written: its 28 bits are more than any length of an item needs."""
COSTS_AT_ONCE = 1 << 10
"""Number of costs whose sum, in units, fits int32 many times over."""


class TileCoder:
    """Codes tiles.

    Args:
        models: of each quality, as `GraphContexts` takes them, with tables of one precision.
        error_weights: float32 [qualities, channels], the bits that one squared step of error is worth to the encoder.

    Raises:
        InputError: if the models do not fit one another, or int32.
    """

    def __init__(self, models: Sequence[ContextModel], error_weights: Any) -> None:
        self._contexts = GraphContexts(models)
        self._layout = layout = self._contexts.layout
        share = 1 + CONTEXT_SHARE if layout.contextual else 1.0
        self._error_weights = exact(np.asarray(error_weights, np.float32) / np.float32(share))
        tables = [model.tables for model in models]
        self._precision, self._padding_table = tables[0].precision, len(tables[0])
        keys = (self._padding_table + 1) * (lane_steps.end_of(self._precision) + 1)
        if any(t.precision != self._precision for t in tables) or keys > 2**30:
            raise InputError("expected tables of one precision for all qualities, and fewer than int32 has room for")
        # Tables of a quality may have fewer values than those of another: padding is after the most.
        self._padding = padding = max(t.frequencies.size for t in tables)
        self._first_position = by_quality([np.append(t.first - t.lower, padding) for t in tables])
        numbers = np.arange(self._padding_table + 1, dtype=np.int32)
        self._first_key = by_quality(
            [np.append(t.first, t.frequencies.size).astype(np.int32) + numbers for t in tables]
        )
        self._costs = by_quality([t.costs for t in tables], fill=0, size=padding + 1)
        starts, slopes = zip(*map(lane_steps.intervals, tables), strict=True)
        self._starts, self._slopes = by_quality(starts, fill=0), by_quality(slopes, fill=0)
        widest = max(int(t.sizes.max()) for t in tables)
        searches = [lane_steps.Search.of(t, widest) for t in tables]
        self._search = searches[0]
        self._keys = by_quality([search.keys for search in searches], fill=2**31 - 1)
        self._bounds = by_quality([search.bounds for search in searches], fill=0)
        self._values = by_quality([search.values for search in searches], fill=0)

    # === Reading ===

    def decode(self, code: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """The integers of a tile, int32 [height * width, channels]; and int32 1, or 0 if its symbols are too many.

        Args:
            code: int32 [n], the bytes of the tile.
            height, width: int32, rows and columns of its positions.
            quality: int32, from 0.
        """
        keys, bounds, values, first_key = (
            part(quality) for part in (self._keys, self._bounds, self._values, self._first_key)
        )
        lanes, pairs, state, limits = _lanes(code, len(self._layout.passes))
        left = MAX_SYMBOLS_PER_LANE * lanes

        def step(state: tuple[Tensor, ...], table: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            unit = shift_right(state[1], self._precision)
            raised = state[0] // unit + table * (self._search.end + 1)
            key = self._search.find(keys, tf.gather(first_key, table), raised)
            code, range_, place = lane_steps.narrow(state, unit, key, bounds, pairs)
            return (code, range_, tf.minimum(place, limits)), key

        def take(table: Tensor) -> Tensor:
            """The symbols of tables, int32 [n], which fill rows of the lanes."""
            nonlocal state, left
            left -= tf.reduce_sum(mask(table < self._padding_table))
            rows = tf.reshape(table, tf.stack([-1, 1, lanes]))
            state, keys_found = scan_rows(step, state, rows, left >= 0)
            return tf.gather(values, tf.reshape(keys_found, [-1]))

        def residuals(tensors: PassTensors) -> Tensor:
            symbols = take(tensors.table)
            ends = tensors.ends(symbols, lanes)
            symbols_at_ends = take(tensors.overflow_tables(ends))
            overflow = tf.scatter_nd(ends[:, None], symbols_at_ends, tf.stack([tf.size(symbols) + 1]))[:-1]
            return (symbols + tf.sign(symbols) * overflow) * tensors.sign

        integers = self._contexts.of(quality).coefficients(height, width, lanes, residuals)
        return integers, mask(left >= 0)

    # === Writing ===

    def encode(self, latent: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> Tensor:
        """The bytes of a tile, int32 [n].

        Args:
            latent: float32 [height * width, channels], in steps, not rounded.
            height, width: int32, rows and columns of the tile's positions.
            quality: int32, from 0.
        """
        costs, first_position = self._costs(quality), self._first_position(quality)
        error_weights, contextual = self._error_weights(quality), self._layout.contextual
        symbols: list[Tensor] = []  # places in the tables, two tensors for each pass, the second for its overflow

        def positions(values: Tensor, table: Tensor) -> Tensor:
            return values + tf.gather(first_position, table)

        def split(residual: Tensor, tensors: PassTensors) -> tuple[Tensor, Tensor, Tensor]:
            """Symbols, whether each is at an end of its table, and its overflow."""
            reach = tf.maximum(tensors.reach, 0)
            residual *= tensors.sign
            inside = tf.clip_by_value(residual, -reach, reach)
            return inside, tf.equal(tf.abs(inside), tensors.reach), tf.abs(residual) - reach

        def bits(residual: Tensor, tensors: PassTensors) -> Tensor:
            inside, at_end, overflow = split(residual, tensors)
            every = tf.range(tf.size(residual))
            table = tensors.overflow_tables(tf.where(at_end, every, tf.size(every)))
            further = tf.where(at_end, positions(overflow, table), self._padding)
            units = tf.gather(costs, positions(inside, tensors.table)) + tf.gather(costs, further)
            return tf.cast(units, tf.float32) / COST_UNITS

        def residuals(tensors: PassTensors) -> Tensor:
            group, mean = tensors.which.channels, tf.cast(tensors.mean, tf.float32)
            exact = at(latent[:, group], tensors.coded) - mean
            most = tf.maximum(tensors.reach, 0) + OVERFLOW
            # The cast of a larger magnitude to int32 would be undefined.
            exact = tf.clip_by_value(exact, -(2.0**15), 2.0**15)
            chosen = tf.clip_by_value(tf.cast(tf.round(exact), tf.int32), -most, most)
            if not contextual or tensors.which != self._layout.passes[0]:
                weight = tf.gather(error_weights[group], tensors.coded % tensors.which.count)
                nearer = chosen - tf.sign(chosen)
                cost, cost_nearer = (
                    bits(r, tensors) + weight * tf.square(tf.cast(r, tf.float32) - exact) for r in (chosen, nearer)
                )
                chosen = tf.where(cost_nearer < cost, nearer, chosen)
            inside, _, overflow = split(chosen, tensors)
            ends = tensors.ends(inside, tf.constant(1))
            symbols.append(positions(inside, tensors.table))
            symbols.append(positions(at(overflow, ends), tensors.overflow_tables(ends)))
            return tf.where(tensors.table < self._padding_table, chosen, 0)

        self._contexts.of(quality).coefficients(height, width, tf.constant(1), residuals)
        return self._lane_bytes(symbols, costs, quality)

    def _lane_bytes(self, symbols: Sequence[Tensor], costs: Tensor, quality: Tensor) -> Tensor:
        """The bytes of a tile whose symbols have these places in the tables, int32 [n]."""
        bits = tf.add_n([self._bits(positions, costs) for positions in symbols])
        count = tf.add_n([tf.reduce_sum(mask(positions < self._padding)) for positions in symbols])
        halfway = 2 ** (np.arange(MAX_LANES_LOG2) + 0.5)
        enough = [(halfway * each).astype(np.int32) for each in (8 * BYTES_PER_LANE, SYMBOLS_PER_LANE)]
        lanes_log2 = tf.reduce_sum(mask((bits > enough[0]) | (count > enough[1])))
        lanes = _power(lanes_log2)
        rows = tf.concat([filled(positions, lanes, self._padding) for positions in symbols], axis=0)
        rows = tf.reshape(rows, tf.stack([-1, 1, lanes]))
        starts, slopes = (tf.gather(part(quality), rows) for part in (self._starts, self._slopes))

        def step(state: tuple[Tensor, ...], slope: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return (lane_steps.next_range(state[0], slope, mask(slope <= 0), self._precision),), state[0]

        whole = tf.fill(tf.stack([1, lanes]), 1 << RANGE_BITS)
        (last,), ranges = scan_rows(step, (whole,), slopes)
        digits = lane_steps.digits(ranges, last, starts, slopes, self._precision)[0]
        place = tf.range(tf.shape(digits)[1])
        sizes = tf.reduce_max(mask(digits > 0) * (place + 1), axis=-1)
        data = kept(digits, place < sizes[:, None])
        more = sizes[:-1] - tf.concat([[0], sizes[:-2]], axis=0)[: lanes - 1]
        folded = tf.where(more < 0, -2 * more - 1, 2 * more)
        return tf.concat([lanes_log2[None], packed(folded), data], axis=0)

    def _bits(self, positions: Tensor, costs: Tensor) -> Tensor:
        """Whole bits of some symbols, int32; the units of all of them would not fit int32."""
        rows = tf.reshape(filled(positions, tf.constant(COSTS_AT_ONCE), self._padding), [-1, COSTS_AT_ONCE])
        return tf.reduce_sum(tf.reduce_sum(tf.gather(costs, rows), axis=-1) // COST_UNITS)


def exact(values: Any) -> Callable[[Tensor], Tensor]:
    """A gather of float32 rows that LiteRT keeps in 32 bits, as it sees integers of the same bits."""
    bits = np.asarray(values, np.float32).view(np.int32)
    return lambda row: tf.bitcast(tf.gather(bits, row), tf.float32)


# === Bytes ===


def kept(values: Tensor, which: Tensor) -> Tensor:
    """The values for which ``which`` is true, in order: [n]."""
    places = tf.reshape(tf.where(tf.reshape(which, [-1])), [-1])
    return tf.gather(tf.reshape(values, [-1]), tf.cast(places, tf.int32))


def packed(numbers: Tensor) -> Tensor:
    """Varints, int32 [n], of numbers below 2**28; see `tfcomp.coding.varints`."""
    rest = numbers[:, None] // (1 << 7 * np.arange(NUMBER_BYTES, dtype=np.int32))
    goes_on = mask(tf.pad(rest[:, 1:], [[0, 0], [0, 1]]) > 0)
    used = (rest > 0) | (tf.range(NUMBER_BYTES) < 1)
    return kept(rest % 128 + 128 * goes_on, used)


def unpacked(data: Tensor, offset: Any, count: Any) -> tuple[Tensor, Tensor]:
    """Varints from an offset on, int32 [count], zeros where there are fewer, and the offset after them."""
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
    return tf.gather(np.int32(1) << np.arange(MAX_LANES_LOG2 + 1, dtype=np.int32), log2)


def _lanes(code: Tensor, passes: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """Number of lanes of a tile, pairs of bytes, the state of each lane, and the last place that it reads from.

    Args:
        code: int32 [n], the bytes of the tile.
        passes: number of its passes; each may leave a lane out twice.
    """
    lanes = _power(tf.minimum(tf.pad(code, [[0, 1]])[0], MAX_LANES_LOG2))
    folded, offset = unpacked(code, 1, lanes - 1)
    half = folded // 2
    sizes = tf.cumsum(tf.where(folded % 2 > 0, -half - 1, half))
    total = tf.size(code)
    begins = tf.clip_by_value(offset + tf.concat([[0], tf.cumsum(sizes)], axis=0), 0, total)
    ends = tf.maximum(begins, tf.concat([begins[1:], [total]], axis=0))
    # No lane takes more steps than all lanes together, nor more than two bytes a step.
    longest = tf.clip_by_value(tf.reduce_max(ends - begins), 2, 2 * (MAX_SYMBOLS_PER_LANE + 2 * passes) + 4)
    place = tf.range(longest)
    data = tf.gather(tf.pad(code, [[0, longest + 1]]), begins[:, None] + place)
    pairs, state = lane_steps.begin((data * mask(place < (ends - begins)[:, None]))[None])
    return lanes, pairs, state, state[2] + longest - 2  # two more are zeros, as are all after them
