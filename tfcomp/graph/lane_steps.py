r"""The coder of `tfcomp.coding.lanes` in stock TensorFlow operators, int32 throughout: one step of all lanes.

Only the range is sequential::

    range[t + 1] = shift(u[t] * slope[t] + last[t] * range[t]),    u[t] = range[t] >> P

    slope = frequency, last = 0     of a symbol that is not its table's last
    slope = -start,    last = 1     of one that is: range - u * start

so the encoder's loop does nothing else. All the rest follows from the ranges for all symbols at once: a symbol adds
``u[t] * start[t]`` to ``low`` after ``n[t]`` digits, ``n`` being the running sum of the shifts. With ``B[n]`` the sum
of what is added after ``n`` digits (``B < 2**30``, since it stays inside one range), ``low`` is

    low[n] = B[n] + ((low[n - 1] & (2**22 - 1)) << 8)
           = B[n] + 2**8 * ((B[n - 1] + 2**8 * ((B[n - 2] + 2**8 * (B[n - 3] & 63)) & (2**14 - 1))) & (2**22 - 1))

because only 6 bits of ``B[n - 3]`` get that far. Carries take no loop either. After each digit's ninth bit is added to
the digit before, a digit is at most 256; one carries out exactly if the first digit from it on that is not 255 is 256,
and that one is found by counting the digits from the end that are not 255.

The decoder's search runs over ``keys``: for each table the starts in coding order, then one end that no slot reaches,
``END = 2**P + max(1, 2**(2 * P - 22))``, all raised by ``table * (END + 1)`` so that they ascend throughout. As
``u >= 2**(22 - P)``, ``u * END >= range``, and the last symbol's upper bound is ``min(u * END, range)``, its remainder
included. Any bytes decode to symbols; whoever calls `narrow` sees to it that no place lies beyond a lane's last two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfcomp.coding.lanes import DIGIT_BITS, LEAST_BITS, RANGE_BITS
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.graph.operators import Tensor, ahead, delayed, mask, scatter, shift_right

DIGIT = 1 << DIGIT_BITS
LEAST = 1 << LEAST_BITS

_SHIFTS = np.array([1, DIGIT, DIGIT * DIGIT], np.int32)

# === Encoding ===


def intervals(tables: FrequencyTables) -> tuple[Int32, Int32]:
    """Starts and slopes of the tables' values, int32 [V + 1]; one more, the only symbol of its table, pads at no cost.

    The last symbol of a table, and only that, has a slope of 0 or less.
    """
    is_last = tables.starts + tables.frequencies == 1 << tables.precision
    slopes = np.where(is_last, -tables.starts, tables.frequencies)
    return np.append(tables.starts, 0).astype(np.int32), np.append(slopes, 0).astype(np.int32)


def next_range(range_: Tensor, slope: Tensor, is_last: Tensor, precision: int) -> Tensor:
    """The range of each lane after a symbol, whose ``is_last`` is 0 or 1."""
    after = shift_right(range_, precision) * slope + is_last * range_
    return after * tf.gather(_SHIFTS, _digits_due(after))


def digits(
    ranges: Tensor, last: Tensor, starts: Tensor, slopes: Tensor, precision: int, most: int | Tensor | None = None
) -> Tensor:
    """The bytes of each lane, int32 [N, K, D], zeros after the last.

    Args:
        ranges: int32 [T, N, K], before each symbol.
        last: int32 [N, K], after the last one.
        starts, slopes: int32 [T, N, K], of each symbol.
        precision: ``P``.
        most: ``D``; by default as many as the longest lane has.
    """
    units = shift_right(ranges, precision)
    due = _digits_due(units * slopes + mask(slopes <= 0) * ranges)
    total = tf.reduce_sum(due, axis=0)
    most = tf.reduce_max(total) + 1 if most is None else most
    emitted = tf.cumsum(due, axis=0, exclusive=True)

    lanes = tf.reshape(tf.range(tf.size(total)), tf.shape(total))
    lane = lanes * most
    shape = tf.concat([tf.shape(total), [most]], axis=0)
    added = tf.reshape(scatter(lane + emitted, units * starts, tf.size(total) * most), shape)
    low = added % (1 << 6)
    for bits in (14, 22):
        low = (added + delayed(low) * DIGIT) % (1 << bits)
    low = added + delayed(low) * DIGIT

    low_end = tf.gather(tf.reshape(low, [-1]), lane + total)
    least, limit = shift_right(low_end + (LEAST - 1), LEAST_BITS), shift_right(low_end + last - 1, LEAST_BITS)
    closing = limit
    for bits in range(1, DIGIT_BITS + 1):
        multiple = shift_right(limit, bits) * (1 << bits)
        closing = tf.where(multiple >= least, multiple, closing)
    place, total = tf.range(most), total[..., None]
    values = shift_right(low, LEAST_BITS) * mask(place < total) + closing[..., None] * mask(tf.equal(place, total))

    ninth = mask(values >= DIGIT)
    values = values - ninth * DIGIT + ahead(ninth)
    # A carry that enters a run of 255 leaves it: each digit asks the next one that is not 255.
    lane = lanes[..., None] * (most + 2) + tf.cumsum(mask(tf.not_equal(values, DIGIT - 1)), axis=-1)
    carries = scatter(lane, mask(values >= DIGIT), tf.size(lanes) * (most + 2))
    values += tf.gather(carries, lane + 1)
    return values * mask(values < DIGIT)


# === Decoding ===


def end_of(precision: int) -> int:
    """``END``: the bound, in slots, that no slot reaches."""
    return (1 << precision) + (1 << max(0, 2 * precision - LEAST_BITS))


@dataclass(frozen=True)
class Search:
    """Keys among which the symbol of a slot is found. One more table is padding: its symbol changes no state.

    Attributes:
        end: ``END``.
        keys, bounds, values: int32: the keys of the module's docstring, the bound of each before it was raised, and its
            symbol.
        widths: widths of the steps of the search.
    """

    end: int
    keys: Int32
    bounds: Int32
    values: Int32
    widths: tuple[int, ...]

    @classmethod
    def of(cls, tables: FrequencyTables, widest: int = 1) -> Search:
        """The search among tables; its steps also suit others of up to ``widest`` values."""
        end, count = end_of(tables.precision), len(tables)
        owner = np.concatenate([np.repeat(np.arange(count), tables.sizes), [count], np.arange(count + 1)])
        bounds = np.concatenate([tables.starts, [0], np.full(count + 1, end)])
        values = np.arange(tables.frequencies.size) - np.repeat(tables.first - tables.lower, tables.sizes)
        keys = owner * (end + 1) + bounds
        order = np.argsort(keys)
        widest = max(2, widest, int(tables.sizes.max()))  # at least one step: it also spreads a key over the batch
        steps = (widest - 1).bit_length()
        return cls(
            end,
            np.append(keys[order], np.full(2 << steps, 2**31 - 1)).astype(np.int32),
            bounds[order].astype(np.int32),
            np.append(values, np.zeros(count + 2))[order].astype(np.int32),
            tuple(1 << bit for bit in reversed(range(steps))),
        )

    def find(self, keys: Tensor, key: Tensor, raised: Tensor) -> Tensor:
        """The last place in ``keys``, from ``key`` on, of one that is not above ``raised``."""
        for width in self.widths:
            probe = key + width
            key = tf.where(tf.gather(keys, probe) <= raised, probe, key)
        return key


def begin(data: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Pairs of bytes, int32, and the state of each lane, int32 [N, K]: code, range, and the place that it reads next.

    Args:
        data: int32 [N, K, D], the bytes of each lane, zeros after its end.
    """
    # Two zero bits in front make the code's first 30 bits four bytes; then pairs of bytes.
    data = tf.pad(data, [[0, 0], [0, 0], [0, 3]])
    data = (delayed(data) % 4) * (DIGIT // 4) + shift_right(data, 2)
    pairs = data * DIGIT + ahead(data)
    code = pairs[..., 0] * DIGIT**2 + pairs[..., 2]
    place = tf.reshape(tf.range(tf.size(code)), tf.shape(code)) * tf.shape(data)[-1] + 2
    return tf.reshape(pairs, [-1]), (code, tf.fill(tf.shape(code), 1 << RANGE_BITS), place)


def narrow(
    state: tuple[Tensor, ...], unit: Tensor, key: Tensor, bounds: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state of lanes after the symbols whose keys were found."""
    code, range_, place = state
    low = unit * tf.gather(bounds, key)
    after = tf.minimum(unit * tf.gather(bounds, key + 1), range_) - low
    due = _digits_due(after)
    shift, place = tf.gather(_SHIFTS, due), place + due
    return (code - low) * shift + tf.gather(pairs, place) % shift, after * shift, place


def _digits_due(range_: Tensor) -> Tensor:
    """Number of digits, 0 to 2, that bring a range back to ``2**22`` or more."""
    return mask(range_ < LEAST) + mask(range_ < LEAST // DIGIT)
