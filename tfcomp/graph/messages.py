r"""The payload format of `tfcomp.coding.range_coder` in stock TensorFlow operators: the same bytes, in int32 alone.

`GraphCoder.encode` and `GraphCoder.decode` are plain functions of tensors. They trace into a SavedModel with any batch
size, compile under XLA, and convert to LiteRT with ``TFLITE_BUILTINS`` alone. The ``N * K`` segments of a batch are the
lanes of one loop (`lane_steps`); no value leaves int32, no shape depends on a value, and no output is a loop's output.
Any bytes decode to symbols, and no symbols shift more digits than a segment can have: no read leaves the buffer.
Lengths are clamped, and bytes past the end of a segment or of the payload are zero.

Among sets of tables (see `range_coder`), the encoder chooses by a gather of ``[V, M]`` costs, a sum, and the
least; the selector is one step more in front. The decoder takes one step for it before its loop. Set ``m`` lies at a
fixed distance from set 0; padding, which is last everywhere, is not moved::

    positions   + m * V,    keys   + m * (V + T),    raised slots   + m * T * (END + 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfcomp.coding.lanes import DIGIT_BITS, RANGE_BITS
from tfcomp.coding.range_coder import LENGTH_BYTES, max_payload_bytes
from tfcomp.coding.tables import FrequencyTables, Int32, TableSets
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import InputError
from tfcomp.graph import lane_steps
from tfcomp.graph.lane_steps import DIGIT
from tfcomp.graph.operators import Tensor, cut, mask, nesting, of_rows, on_cpu, scan, scatter, shift_right

ROWS = 1 << 14  # entries, 4 bytes each, of the starts that the symbols of one message are compared with at once


class PayloadBuffers:
    """Payloads as strings and as buffers of one size.

    Attributes:
        capacity: ``MAX``, bytes of a payload buffer.
    """

    capacity: int

    @on_cpu
    def to_bytes(self, buffer: Tensor, length: Tensor) -> Tensor:
        """Payloads, string [N], from their buffers, uint8 [N, MAX], and lengths, int32 [N]."""
        characters = tf.gather([bytes([value]) for value in range(DIGIT)], tf.cast(buffer, tf.int32))
        return tf.strings.substr(tf.strings.reduce_join(characters, axis=-1), tf.zeros_like(length), length)

    @on_cpu
    def from_bytes(self, payloads: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers, uint8 [N, MAX], and lengths, int32 [N], from payloads, string [N]; no byte after ``MAX`` is kept."""
        return tf.io.decode_raw(payloads, tf.uint8, fixed_length=self.capacity), tf.strings.length(payloads)


class GraphCoder(PayloadBuffers):
    """Encodes and decodes messages of ``S`` latents each, in the graph.

    Examples:
        >>> tables = FrequencyTables.from_probabilities([np.float64([1, 6, 1])], [-1])
        >>> coder = GraphCoder(tables, np.zeros(6, np.int32))
        >>> coder.decode(*coder.encode(tf.constant([[0, 0, 1, 0, -1, 0]]))).numpy().tolist()
        [[0, 0, 1, 0, -1, 0]]

    Attributes:
        symbols: ``S``.
        segments: ``K``.
        sets: ``M``.
        capacity: ``MAX``, bytes of a payload buffer: what no payload exceeds, and at least 1.
    """

    def __init__(self, tables: FrequencyTables, index: Int32, segments: int = 1, sets: int = 1) -> None:
        """Prepares the constants.

        Args:
            tables: the frequency tables.
            index: int32 [S], the table of each latent, within a set; ``S >= 1``. Or [R, S]: `encode` and `decode` then
                take the row of each message.
            segments: ``K``, in how many segments each message is coded.
            sets: ``M``, how many sets the tables are.

        Raises:
            InputError: if the index, the segments or the sets do not fit the tables or int32, or a segment its two-byte
                length.
        """
        index = np.asarray(index)
        if index.ndim not in (1, 2) or index.size < 1:
            raise InputError(
                f"expected the index as int32 [S] or [R, S] of one latent or more, found shape {index.shape}"
            )
        index = np.atleast_2d(index)
        self.symbols, self.segments, self.sets = index.shape[1], segments, sets
        self.capacity = max(1, *(max_payload_bytes(tables, row, segments, sets) for row in index))
        self._of_sets = of_sets = TableSets.of(tables, sets)
        self._precision = tables.precision
        self._per_segment = -(-self.symbols // segments)
        self._nesting = nesting(self._per_segment)
        pieces = [row[k : k + self._per_segment] for row in index for k in range(0, self.symbols, self._per_segment)]
        self._digits = max(1, *(max_payload_bytes(tables, piece, 1, sets) for piece in pieces))
        keys = (len(tables) + 1) * (lane_steps.end_of(tables.precision) + 1)
        if max(keys, segments * (self._digits + 4), self.capacity) > 2**30:
            raise InputError(
                f"expected fewer tables or latents, found {len(tables)} and {self.symbols}: int32 is too small"
            )

        self._lower, self._upper = tables.lower[index], (tables.lower + (tables.sizes - 1))[index]
        self._offset = (tables.first - tables.lower)[index].astype(np.int32)
        self._starts, self._slopes = lane_steps.intervals(tables)

        self._search = search = lane_steps.Search.of(tables)
        end, widest = search.end, max(2, int(tables.sizes.max()))
        table = np.pad(index, ((0, 0), (0, 1)), constant_values=len(tables))[:, self._layout()].transpose(1, 0, 2)
        # The selector's table, of a segment that has latents: its first step is no padding.
        table = np.concatenate([np.where(table[:1] < len(tables), len(tables) - 1, len(tables)), table])
        first_key = np.append(tables.first, tables.frequencies.size)[table] + table
        raised = table * (end + 1)
        selector = np.where(table[0, :1] < len(tables), sets * of_sets.values, self._starts.size - 1)
        self._selector = selector.astype(np.int32)
        self._padding_key, self._padding_raised = tables.frequencies.size + len(tables), len(tables) * (end + 1)
        self._next_set_key, self._next_set_raised = of_sets.values + of_sets.tables, of_sets.tables * (end + 1)
        # Few symbols: compare each slot with all starts of its table but the first. Many: search among the keys.
        self._in_rows = segments == sets == 1 and widest * (len(table) - 1) <= ROWS
        if self._in_rows:
            raised = np.minimum(search.keys[first_key + np.arange(1, widest + 1)] - raised, end)
        self._first_key, self._compared = first_key.astype(np.int32), raised.astype(np.int32)

    @classmethod
    def of(cls, models: Sequence[StaticModel]) -> GraphCoder:
        """The coder of the models of all qualities: each quality is a row of the index.

        Raises:
            InputError: if more than the index differs between them.
        """
        first = models[0]
        shared = [(m.tables.digest(), m.latent_shape, m.segments, m.sets) for m in models]
        if any(each != shared[0] for each in shared):
            raise InputError("expected static models that differ in the index alone, found others")
        index = first.index if len(models) == 1 else np.stack([m.index for m in models])
        return cls(first.tables, index, first.segments, first.sets)

    # === Encoding ===

    @on_cpu
    def encode(self, latents: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Payload buffers and lengths.

        Args:
            latents: int32 [N, S]; each is clipped to its table's support.
            rows: int32 [N], the row of the index that codes each message, if it has several.

        Returns:
            uint8 [N, MAX], zero after the payload, and the payload's length in bytes, int32 [N].
        """
        lower, upper, offset = (of_rows(values, rows) for values in (self._lower, self._upper, self._offset))
        positions = tf.minimum(tf.maximum(latents, lower), upper) + offset
        digits, lengths = code(self._to_steps(positions), self._starts, self._slopes, self._precision, self._digits)
        if self.segments == 1:
            return tf.cast(digits[:, 0], tf.uint8), lengths[:, 0]
        return self._join(digits, lengths)

    def _join(self, digits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The payload and its length, from the segments' bytes, int32 [N, K, D], and lengths, int32 [N, K]."""
        header = LENGTH_BYTES * (self.segments - 1)
        begin = header + tf.cumsum(lengths, axis=-1, exclusive=True)
        size = self.capacity + self._digits
        row = tf.range(tf.shape(lengths)[0])[:, None, None] * size
        # What lies after a segment is zero, and adds nothing to the segments it falls on.
        data = scatter(row + begin[..., None] + tf.range(self._digits), digits, tf.shape(lengths)[0] * size)
        data = tf.reshape(data, [-1, size])
        high = shift_right(lengths, DIGIT_BITS)
        pairs = tf.stack([lengths - high * DIGIT, high], axis=-1)[:, :-1]
        payload = tf.concat([tf.reshape(pairs, [-1, header]), cut(data, -1, header, self.capacity)], axis=-1)
        total = tf.reduce_sum(lengths, axis=-1)
        return tf.cast(payload, tf.uint8), tf.where(total > 0, total + header, 0)

    # === Decoding ===

    @on_cpu
    def decode(self, buffer: Tensor, length: Tensor, rows: Tensor | None = None) -> Tensor:
        """The latents of payloads.

        Args:
            buffer: uint8 [N, MAX].
            length: int32 [N], bytes of each payload; what the buffer holds after it is not read.
            rows: as in `encode`.

        Returns:
            int32 [N, S], each inside its table's support, whatever the bytes and lengths.
        """
        data = tf.cast(buffer, tf.int32) * mask(tf.range(self.capacity) < length[:, None])
        pairs, state = lane_steps.begin(data[:, None] if self.segments == 1 else self._split(data))
        search = self._search

        def step(state: tuple[Tensor, ...], key: Tensor, compared: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            unit = shift_right(state[1], self._precision)
            slot = state[0] // unit
            if self._in_rows:
                key += tf.reduce_sum(mask(compared <= slot), axis=-1, keepdims=True)
            else:
                key = search.find(search.keys, key, slot + compared)
            return lane_steps.narrow(state, unit, key, search.bounds, pairs), key

        first_key, compared = (of_rows(values[1:], rows, axis=1) for values in (self._first_key, self._compared))
        if self.sets > 1:
            state, key = step(state, self._first_key[0, :1], self._compared[0, :1])
            chosen = tf.gather(search.values, key)
            first_key = tf.minimum(first_key + chosen * self._next_set_key, self._padding_key)
            compared = tf.minimum(compared + chosen * self._next_set_raised, self._padding_raised)
        _, keys = scan(step, state, (first_key, compared), self._nesting)
        values = tf.transpose(tf.gather(search.values, cut(keys, 0, 0, self._per_segment)), [1, 2, 0])
        return tf.reshape(values, [-1, self.segments * self._per_segment])[:, : self.symbols]

    def _split(self, data: Tensor) -> Tensor:
        """The bytes of each segment, int32 [N, K, D], zeros after its end, of payloads, int32 [N, MAX]."""
        header = LENGTH_BYTES * (self.segments - 1)
        pairs = tf.reshape(data[:, :header], [-1, self.segments - 1, LENGTH_BYTES])
        lengths = tf.pad(pairs[..., 0] + pairs[..., 1] * DIGIT, [[0, 0], [0, 1]], constant_values=self.capacity)
        begin = tf.minimum(header + tf.cumsum(lengths, axis=-1, exclusive=True), self.capacity)
        place, size = tf.range(self._digits), self.capacity + self._digits
        row = tf.range(tf.shape(data)[0])[:, None, None] * size
        data = tf.reshape(tf.pad(data, [[0, 0], [0, self._digits]]), [-1])
        return tf.gather(data, row + begin[..., None] + place) * mask(place < lengths[..., None])

    # === From latents in order to one row for each step, and one lane for each segment ===

    def _layout(self) -> Int32:
        """int32 [T, K]: which latent each step of each segment codes; ``S`` where it codes none."""
        per_segment, steps = self._per_segment, math.prod(self._nesting)
        places = np.minimum(np.arange(self.segments * per_segment), self.symbols).reshape(self.segments, per_segment)
        return np.pad(places, ((0, 0), (0, steps - per_segment)), constant_values=self.symbols).T.astype(np.int32)

    def _to_steps(self, positions: Tensor) -> Tensor:
        """int32 [T, N, K], with the selector of each segment if there are several sets, of int32 [N, S], of set 0."""
        padding = self._starts.size - 1
        missing = self.segments * self._per_segment - self.symbols
        if missing:
            positions = tf.pad(positions, [[0, 0], [0, missing]], constant_values=padding)
        positions = tf.reshape(positions, [-1, self.segments, self._per_segment])
        if self.sets > 1:
            chosen = self._cheapest_sets(positions)[..., None]
            selector = tf.minimum(self._selector[..., None] + chosen, padding)
            positions = tf.minimum(positions + chosen * self._of_sets.values, padding)
            positions = tf.concat([selector, positions], axis=-1)
        steps = tf.transpose(positions, [2, 0, 1])
        missing = math.prod(nesting(steps.shape[0])) - steps.shape[0]
        return tf.pad(steps, [[0, missing], [0, 0], [0, 0]], constant_values=padding) if missing else steps

    def _cheapest_sets(self, positions: Tensor) -> Tensor:
        """int32 [N, K], the set in which each segment costs least, the lowest of equals; positions: int32 [N, K, L]."""
        sets = self._of_sets
        costs = tf.gather(sets.costs, tf.minimum(positions, sets.values))
        sums = tf.reduce_sum(costs, axis=2) + sets.selector_costs
        # Not tf.argmin, which does not say which of equals it takes.
        least = sums <= tf.reduce_min(sums, axis=-1, keepdims=True)
        return tf.reduce_min(tf.where(least, tf.range(sets.count), sets.count), axis=-1)


def code(positions: Tensor, starts: Int32, slopes: Int32, precision: int, most: int) -> tuple[Tensor, Tensor]:
    """The bytes of each lane, int32 [N, K, most], and their number, int32 [N, K].

    Args:
        positions: int32 [T, N, K], where each symbol lies in ``starts`` and ``slopes``; `nesting` gives such a ``T``.
        starts, slopes, precision: see `lane_steps.intervals`.
        most: bytes that no lane exceeds.
    """
    start, slope = tf.gather(starts, positions), tf.gather(slopes, positions)
    whole = tf.fill(tf.shape(positions)[1:], 1 << RANGE_BITS)

    def step(state: tuple[Tensor, ...], slope: Tensor, is_last: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return (lane_steps.next_range(state[0], slope, is_last, precision),), state[0]

    (last,), ranges = scan(step, (whole,), (slope, mask(slope <= 0)), nesting(positions.shape[0]))
    digits = lane_steps.digits(ranges, last, start, slope, precision, most)
    return digits, tf.reduce_max(mask(digits > 0) * tf.range(1, most + 1), axis=-1)
