"""`tfcomp.entropy.sample` and `tfcomp.entropy.candidate_search` in stock TensorFlow operators.

The decoder reads what `SampleModel.decode` reads: words are uint32, whose products, shifts and exclusive ors LiteRT
has, and all else is int32; no bytes make it fail. The encoder follows the rules of the one in NumPy, but weighs floats,
whose last bits differ from one runtime to another, so that now and then another candidate is chosen. Floats stay inside
of loops, where no converter quantizes them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.entropy.candidate_search import AT_ONCE, LARGEST, LEAST, TIME_POSITION
from tfcomp.entropy.sample import CHUNK_BITS, INDEX_BITS, LIST_BITS, LIST_SHIFT, UNIT, SampleModel
from tfcomp.graph import lane_steps
from tfcomp.graph.messages import PayloadBuffers, code
from tfcomp.graph.operators import Tensor, cut, mask, nesting, on_cpu, scan, shift_right
from tfcomp.words import STEPS

NEVER = -3e38
"""Score of an index that is no candidate's."""


class SampleCoder(PayloadBuffers):
    """Encodes and decodes samples of a posterior, in the graph.

    Examples:
        >>> from tfcomp.coding.tables import FrequencyTables
        >>> tables = FrequencyTables.from_probabilities([np.ones(INDEX_BITS + 1)], [0])
        >>> block, scored = np.zeros(6, np.int32), np.ones(6, np.int32)
        >>> model = SampleModel(tables, np.int32([-3000, 3000]), block, scored, (2, 3), seed=0, margin=5, draw_bits=6)
        >>> coder = SampleCoder(model)
        >>> buffer, length = coder.encode(tf.fill([1, 2, 2, 3], 4096.0), tf.zeros([1, 4, 4, 1], tf.uint8))
        >>> coder.decode(buffer, length).shape
        TensorShape([1, 6])

    Args:
        model: blocks, candidates and tables.

    Attributes:
        symbols: number of positions of a latent.
        capacity: ``MAX``, bytes of a payload buffer.
    """

    def __init__(self, model: SampleModel) -> None:
        self._model, coded = model, model.coded
        self.symbols, self.capacity = model.symbols, model.max_payload_bytes
        self._precision, self._padding = coded.precision, len(coded)
        self._starts, self._slopes = lane_steps.intervals(coded)
        self._first = np.append(coded.first, coded.frequencies.size).astype(np.int32)
        self._search = lane_steps.Search.of(coded)
        self._scored = [np.flatnonzero((model.block == b) & (model.scored == 1)) for b in range(model.blocks)]

    # === Encoding ===

    @on_cpu
    def encode(self, posterior: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Payload buffers, uint8 [N, MAX], zero after the payload, and lengths in bytes, int32 [N].

        Args:
            posterior: float32 [N, 2, *latent_shape], mean and deviation in units of 1 / `UNIT`.
            images: uint8 [N, H, W, C], from whose pixels the draws are made.
        """
        flat = tf.reshape(posterior, [-1, 2, self.symbols])
        draw = tf.zeros_like(tf.reshape(images, [-1, math.prod(images.shape[1:])])[:, 0], tf.int32)
        if self._model.draw_bits:
            sums = tf.reduce_sum(tf.cast(images, tf.int32), axis=[1, 2, 3])
            draw = tf.cast(_shift(_mix(tf.cast(sums, tf.uint32)), 32 - self._model.draw_bits), tf.int32)
        if flat.shape[0] == 1:
            names = self._names(flat[0], draw[0])[None]
        else:
            names = tf.map_fn(lambda item: self._names(*item), (flat, draw), fn_output_signature=tf.int32)
        names = tf.reshape(names, [-1, 1 + self._model.blocks])
        number = names[:, 1:] + 1
        powers = np.int32(1) << np.arange(INDEX_BITS + 1, dtype=np.int32)
        length = tf.reduce_sum(mask(number[..., None] >= powers), axis=-1) - 1
        rest, unit = number - tf.gather(powers, length), tf.gather(powers, tf.minimum(length, CHUNK_BITS))
        symbols = tf.concat([names[:, :1], length, rest // unit, rest % unit], axis=1)
        positions = symbols + tf.gather(self._first, self._tables(length))
        positions = self._in_steps(tf.transpose(positions), self._starts.size - 1)
        digits, lengths = code(positions, self._starts, self._slopes, self._precision, self.capacity)
        return tf.cast(digits[:, 0], tf.uint8), lengths[:, 0]

    def _names(self, posterior: Tensor, draw: Tensor) -> Tensor:
        """The names of one sample, int32 [1 + blocks], of a posterior, float32 [2, symbols]."""
        names, number = [draw], draw
        for positions in self._scored:
            names.append(self._best(posterior, positions, number))
            number = _next_list(names[-1])
        return tf.stack(names)

    def _best(self, posterior: Tensor, positions: Any, number: Tensor) -> Tensor:
        """The index of a block's candidate in one list, int32 []; see `candidate_search.search`."""
        if not len(positions):
            return tf.zeros_like(number)
        table = self._model.quantiles.astype(np.float32) / np.float32(UNIT)
        of_block = tf.gather(posterior, positions.astype(np.int32), axis=1)
        powers = np.int32(1) << np.arange(INDEX_BITS + 1, dtype=np.int32)

        def body(begin: Tensor, _: Tensor, clock: Tensor, best: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
            mean = tf.clip_by_value(of_block[0] / UNIT, -LARGEST, LARGEST)
            deviation = tf.clip_by_value(of_block[1] / UNIT, LEAST, LARGEST)
            variance = tf.square(deviation)
            nats = tf.reduce_sum(variance + tf.square(mean) - 1.0 - tf.math.log(variance)) / 2.0
            bits = tf.math.ceil(nats * np.float32(1 / np.log(2)) + self._model.margin)
            count = tf.gather(powers, tf.cast(tf.clip_by_value(bits, 0.0, INDEX_BITS), tf.int32))
            precision = 1.0 / variance

            indices = begin + tf.range(AT_ONCE)
            begins = self._begins(number, indices)
            z = tf.gather(table, self._slots(begins[:, None], positions[None]))
            scores = tf.reduce_sum(z * (mean * precision) + tf.square(z) * ((1.0 - precision) / 2.0), axis=1)
            word = _shift(_mix(tf.bitwise.bitwise_xor(begins, tf.constant(TIME_POSITION, tf.uint32))), 8)
            waits = -tf.math.log((tf.cast(tf.cast(word, tf.int32), tf.float32) + 0.5) / 2.0**24)
            arrivals = clock + tf.cumsum(waits)
            scores = tf.where(indices < count, scores - tf.math.log(arrivals), NEVER)
            winner = tf.argmax(scores, output_type=tf.int32)
            score = tf.gather(scores, winner)
            chosen = tf.where(score > best, begin + winner, chosen)
            return begin + AT_ONCE, count, arrivals[-1], tf.maximum(score, best), chosen

        start = (tf.constant(0), tf.constant(1), tf.constant(0.0), tf.constant(NEVER), tf.constant(0))
        *_, chosen = tf.while_loop(lambda begin, count, *_: begin < count, body, start, parallel_iterations=1)
        return chosen + 0 * number  # no result is a loop's own

    # === Decoding ===

    @on_cpu
    def decode(self, buffer: Tensor, length: Tensor, rows: None = None) -> Tensor:  # noqa: ARG002 - as `GraphCoder`
        """The integers of payloads, int32 [N, symbols], whatever the bytes and lengths.

        Args:
            buffer: uint8 [N, MAX].
            length: int32 [N], bytes of each payload; what the buffer holds after it is not read.
            rows: None, as there is one quality.
        """
        blocks = self._model.blocks
        data = tf.cast(buffer, tf.int32) * mask(tf.range(self.capacity) < length[:, None])
        pairs, state = lane_steps.begin(data[:, None])

        def step(state: tuple[Tensor, ...], table: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            unit = shift_right(state[1], self._precision)
            raised = state[0] // unit + table * (self._search.end + 1)
            key = self._search.find(self._search.keys, tf.gather(self._first, table) + table, raised)
            return lane_steps.narrow(state, unit, key, self._search.bounds, pairs), key

        def take(state: tuple[Tensor, ...], tables: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            """The symbols of tables, int32 [T, N or 1], as int32 [T, N]."""
            steps = self._in_steps(tables, self._padding)
            state, keys = scan(step, state, (steps,), nesting(tables.shape[0]))
            return state, tf.gather(self._search.values, cut(keys, 0, 0, tables.shape[0]))[:, :, 0]

        first = self._tables(tf.zeros([1, blocks], tf.int32))[:, : 1 + blocks]
        state, first_symbols = take(state, tf.transpose(first))
        draw, lengths = cut(first_symbols, 0, 0, 1), tf.transpose(cut(first_symbols, 0, 1, 1 + blocks))
        _, rest = take(state, tf.transpose(self._tables(lengths)[:, 1 + blocks :]))
        high, low = (tf.transpose(cut(rest, 0, i * blocks, (i + 1) * blocks)) for i in (0, 1))
        powers = np.int32(1) << np.arange(INDEX_BITS + 1, dtype=np.int32)
        unit = tf.gather(powers, tf.minimum(lengths, CHUNK_BITS))
        indices = tf.gather(powers, lengths) + high * unit + low - 1
        numbers = tf.transpose(draw)
        if blocks > 1:
            numbers = tf.concat([numbers, _next_list(cut(indices, 1, 0, blocks - 1))], axis=1)
        begins = self._begins(*(tf.gather(x, self._model.block, axis=1) for x in (numbers, indices)))
        return tf.gather(self._model.quantiles, self._slots(begins, np.arange(self.symbols)[None]))

    # === Inside ===

    def _begins(self, number: Tensor, indices: Tensor) -> Tensor:
        """`SampleModel.begins` of int32 tensors, uint32."""
        counter = tf.cast(number * (1 << LIST_SHIFT) + indices, tf.uint32)
        return _mix(tf.bitwise.bitwise_xor(counter, tf.constant(int(self._model.key[0]), tf.uint32)))

    def _slots(self, begins: Tensor, positions: Any) -> Tensor:
        """Places of candidates at positions in the table of quantiles, int32."""
        words = _mix(tf.bitwise.bitwise_xor(begins, tf.constant(positions.astype(np.uint32))))
        return tf.cast(_shift(words, 33 - len(self._model.quantiles).bit_length()), tf.int32)

    def _tables(self, length: Tensor) -> Tensor:
        """`SampleModel`'s table of each symbol, int32 [N, 1 + 3 * blocks]."""
        blocks = self._model.blocks
        of_draw = tf.zeros_like(length[:, :1]) + (blocks + self._model.draw_bits)
        of_lengths = tf.zeros_like(length) + np.arange(blocks, dtype=np.int32)
        high, low = tf.maximum(length - CHUNK_BITS, 0), tf.minimum(length, CHUNK_BITS)
        return tf.concat([of_draw, of_lengths, blocks + high, blocks + low], axis=1)

    def _in_steps(self, rows: Tensor, padding: int) -> Tensor:
        """[T, N] as [T', N, 1], where `nesting` gives ``T'`` steps, filled up with padding."""
        missing = math.prod(nesting(rows.shape[0])) - rows.shape[0]
        return tf.pad(rows, [[0, missing], [0, 0]], constant_values=padding)[..., None]


def _next_list(index: Tensor) -> Tensor:
    """The list of the block after that of an index, int32."""
    return tf.cast(_shift(_mix(tf.cast(index, tf.uint32)), 32 - LIST_BITS), tf.int32)


def _shift(x: Tensor, bits: int) -> Tensor:
    return tf.bitwise.right_shift(x, tf.constant(bits, tf.uint32))


def _mix(x: Tensor) -> Tensor:
    """`tfcomp.words.mix` of a tensor of uint32."""
    for shift, factor in STEPS:
        x = tf.bitwise.bitwise_xor(x, _shift(x, shift))
        x = x if factor is None else x * tf.constant(factor, tf.uint32)
    return x
