"""The coder of `range_coder` for many messages at once: one step of all lanes is a few operations of NumPy.

A lane is coded as a message of its own: it is a message of one segment, or one segment of a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables, Int32, TableSets
from tfcomp.errors import optional_import

RANGE_BITS, DIGIT_BITS = 30, 8
LEAST_BITS = RANGE_BITS - DIGIT_BITS  # 2**22 <= range between two symbols

_LOOKUP_ENTRIES = 1 << 22  # 16 MiB of int32; where slots are more, some share an entry, and a search goes on from it
_PADDING = bytes(4)  # between messages: the zeros a reader that stops at its message's end may meet

UInt32 = NDArray[np.uint32]
Intp = NDArray[np.intp]


@dataclass(frozen=True)
class Coding:
    """The look-ups of both directions, made once for each `FrequencyTables`.

    Attributes:
        precision: ``P``.
        sets: the sets that the tables fall into.
        intervals: uint32 [V + 1], ``start | frequency << 16 | is_last << 31`` of each of the tables' ``V`` values. One
            more entry pads: the whole range.
        keys: int64 [V + 2], ascending, ``(table << P) + start``; the padding is a table of its own, after the others.
            The last is larger than any.
        order: int32 [V + 1], the position in `intervals` of each key.
        ordered: what `_unpack` returns for the intervals in that order, three times uint32 [V + 1].
        shared_bits: ``2**shared_bits`` slots share an entry of `lookup`.
        lookup: int32, for each ``(table << P) + slot >> shared_bits``, the place in `order` of the first of its slots.
    """

    precision: int
    sets: TableSets
    intervals: UInt32
    keys: NDArray[np.int64]
    order: Int32
    ordered: tuple[UInt32, UInt32, UInt32]
    shared_bits: int
    lookup: Int32

    @classmethod
    def of(cls, tables: FrequencyTables, sets: int = 1) -> Coding:
        """The look-ups of ``tables``; raises `InputError` unless the tables fall into ``sets`` sets."""
        made = _CODINGS.setdefault(tables, {})
        if sets not in made:
            made[sets] = cls._make(tables, sets)
        return made[sets]

    @classmethod
    def _make(cls, tables: FrequencyTables, sets: int) -> Coding:
        precision = tables.precision
        starts, frequencies = np.append(tables.starts, 0), np.append(tables.frequencies, 1 << precision)
        last = starts + frequencies == 1 << precision
        table = np.append(np.repeat(np.arange(len(tables)), tables.sizes), len(tables))
        keys = (table.astype(np.int64) << precision) + starts
        order = np.argsort(keys).astype(np.int32)
        slots = len(tables) + 1 << precision
        shared_bits = next(
            bits for bits in range(precision + 1) if bits == precision or slots >> bits <= _LOOKUP_ENTRIES
        )
        from_entry = np.append(-(-keys[order] >> shared_bits), slots >> shared_bits)
        intervals = (starts | frequencies << 16).astype(np.uint32) | last.astype(np.uint32) << np.uint32(31)
        return cls(
            precision,
            TableSets.of(tables, sets),
            intervals,
            np.append(keys[order], np.iinfo(np.int64).max),
            order,
            _unpack(intervals[order], precision),
            shared_bits,
            np.repeat(np.arange(order.size, dtype=np.int32), np.diff(from_entry)),
        )

    @property
    def padding(self) -> int:
        """The position in `intervals` of a symbol that changes no state; any larger one stands for it, too."""
        return self.intervals.size - 1

    @property
    def padding_table(self) -> int:
        """The table of the padding symbol, after all others."""
        return int(self.keys[-2] >> self.precision)

    def find(self, keys: Intp) -> Int32:
        """The places in `order` of ``(table << P) + slot``."""
        places = self.lookup.take(keys >> self.shared_bits if self.shared_bits else keys)
        for bit in reversed(range(self.shared_bits)):
            places += (self.keys.take(places + (1 << bit), mode="clip") <= keys).astype(np.int32) << bit
        return places


_CODINGS: WeakKeyDictionary[FrequencyTables, dict[int, Coding]] = WeakKeyDictionary()


_compiled: Any = None  # `tfcomp.coding.compiled`, if it is to be used


def use_numba(on: bool = True) -> None:
    """Switches the range coder's loops in this process to Numba, two to four times as fast, or back to NumPy.

    The bytes are the same. Importing Numba takes half a second, in which NumPy codes ten million symbols; its first use
    on a machine takes some seconds more.

    Examples:
        >>> use_numba(False)

    Args:
        on: whether Numba's loops are used from now on.

    Raises:
        MissingDependencyError: if Numba is not installed.
    """
    global _compiled
    with optional_import():
        _compiled = import_module("tfcomp.coding.compiled") if on else None


def encode(positions: Int32, coding: Coding) -> list[bytes]:
    """The bytes of each lane.

    Args:
        positions: int32 [steps, lanes], where each symbol lies in ``coding.intervals``; larger ones are padding.
        coding: the tables' look-ups.
    """
    if _compiled:
        steps, lanes = positions.shape
        out, sizes = np.empty(lanes * (2 * steps + 1), np.uint8), np.empty(lanes, np.int64)
        _compiled.encode(positions, coding.intervals, coding.precision, out, sizes)
        ends = np.cumsum(sizes)
        joined = out[: ends[-1] if lanes else 0].tobytes()
        return [*map(joined.__getitem__, map(slice, (ends - sizes).tolist(), ends.tolist()))]
    return _lane_bytes(*_narrow(coding.intervals.take(positions, mode="clip"), coding.precision))


def _narrow(intervals: UInt32, precision: int) -> tuple[UInt32, NDArray[np.uint8]]:
    """Codes lanes side by side.

    Args:
        intervals: uint32 [steps, lanes], packed as in `Coding`.
        precision: ``P``.

    Returns:
        For each step, and one more for the end: uint32 [steps + 1, lanes], ``low`` before its digits leave it; and
        uint8 [steps + 1, lanes], how many digits (0, 1, 2) leave, from bit 22 down.
    """
    steps, lanes = intervals.shape
    lows, counts = np.empty((steps + 1, lanes), np.uint32), np.empty((steps + 1, lanes), np.uint8)
    low, range_ = np.zeros(lanes, np.uint32), np.full(lanes, 1 << RANGE_BITS, np.uint32)
    starts, frequencies, leftovers = _unpack(intervals, precision)
    for step in range(steps):
        unit = range_ >> precision
        np.add(low, unit * starts[step], out=lows[step])
        range_ = unit * frequencies[step] + (range_ & leftovers[step])
        count, shift = _digits_due(range_)
        counts[step] = count
        range_ <<= shift
        # Where digits leave, bits from 30 up go with them; elsewhere bit 30 may hold a carry and stays.
        low = lows[step] << shift
        low &= np.right_shift(np.uint32(2**31 - 1), count > 0, dtype=np.uint32)
    for bits in range(LEAST_BITS, RANGE_BITS + 1):
        multiple = (low + range_ - 1) >> bits << bits
        lows[-1] = np.where(multiple >= low, multiple, lows[-1] if bits > LEAST_BITS else multiple)
    counts[-1] = 1
    return lows, counts


class Decoder:
    """Reads lanes side by side, some steps at a time.

    Args:
        lanes: the bytes of each lane.
        coding: the tables' look-ups.

    Attributes:
        sizes: intp [lanes], the number of bytes of each lane.
        end_in_zero: bool [lanes], whether a lane's last byte is zero, which `encode` never writes.
    """

    def __init__(self, lanes: Sequence[bytes], coding: Coding) -> None:
        self.coding = coding
        sizes = np.fromiter(map(len, lanes), np.intp, len(lanes))
        data = np.frombuffer(_PADDING + _PADDING.join(lanes) + _PADDING, np.uint8)
        self._begin = np.cumsum(sizes + len(_PADDING)) - sizes
        self._zeros = self._begin + sizes + 1
        self.sizes, self.end_in_zero = sizes, (sizes > 0) & (data[self._begin + sizes - 1] == 0)

        # Each lane is read through two zero bits put before it; they push its last two bits into the padding.
        data = data >> np.uint8(2) | np.roll(data, 1) << np.uint8(6)
        self._pairs = data[:-1].astype(np.uint32) << 8 | data[1:]
        self._code = self._pairs[self._begin] << 16 | self._pairs[self._begin + 2]
        self._range = np.full(len(lanes), 1 << RANGE_BITS, np.uint32)
        self._read = self._begin + 4

    def take(self, table: Int32) -> Int32:
        """The next symbols' positions in ``coding.intervals``, int32 [steps, lanes].

        Args:
            table: int32 [steps, lanes or 1], the table of each symbol; ``coding.padding_table`` of padding.
        """
        coding, pairs, zeros = self.coding, self._pairs, self._zeros
        precision, code, range_, read = coding.precision, self._code, self._range, self._read
        if _compiled:
            positions = np.empty((code.size, len(table)), np.int32).T  # a lane's lie side by side in memory
            looked_up = coding.shared_bits, coding.lookup, coding.keys, coding.order, coding.intervals
            _compiled.decode(table, precision, *looked_up, pairs, zeros, code, range_, read, positions)
            return positions
        starts, frequencies, leftovers = coding.ordered
        places = np.empty((len(table), code.size), np.int32)
        for step, keys in enumerate(table.astype(np.intp) << precision):
            unit = range_ >> precision
            slot = np.minimum(code // unit, (1 << precision) - 1)
            places[step] = place = coding.find(keys + slot)
            code -= unit * starts.take(place)
            range_ = unit * frequencies.take(place) + (range_ & leftovers.take(place))
            count, shift = _digits_due(range_)
            range_ <<= shift
            code <<= shift
            code |= pairs.take(np.minimum(read, zeros)) >> (2 * DIGIT_BITS - shift)
            read += count
        self._code, self._range, self._read = code, range_, read
        return coding.order.take(places)

    @property
    def longest(self) -> Intp:
        """Largest number of bytes that `encode` could write for the symbols read so far, intp [lanes]."""
        return self._read - self._begin - 4 + 1


def _unpack(intervals: UInt32, precision: int) -> tuple[UInt32, UInt32, UInt32]:
    """Starts, frequencies, and a mask of the part of the range that the interval adds to ``u * frequency``."""
    frequency = intervals >> np.uint32(16) & np.uint32(0x7FFF)
    leftover = (intervals >> np.uint32(31)) * np.uint32((1 << precision) - 1)
    return intervals & np.uint32(0xFFFF), frequency, leftover


def _digits_due(range_: UInt32) -> tuple[NDArray[np.uint8], UInt32]:
    """Number of digits, 0 to 2, that bring a range back to ``2**22`` or more; and their number of bits."""
    count = (range_ < 1 << LEAST_BITS).view(np.uint8)
    count += range_ < 1 << LEAST_BITS - DIGIT_BITS
    return count, count.astype(np.uint32) * np.uint32(DIGIT_BITS)


def _lane_bytes(lows: UInt32, counts: NDArray[np.uint8]) -> list[bytes]:
    """The bytes of each lane, from what `_narrow` returns."""
    totals = counts.sum(axis=0, dtype=np.intp)
    counts = counts.T.ravel()
    emitting = np.flatnonzero(counts > 0)
    lows, counts = lows.T.ravel().take(emitting), counts.take(emitting)
    first = np.cumsum(counts, dtype=np.intp) - counts
    second = counts == 2
    digits = np.empty(totals.sum(), np.uint16)
    digits[first] = lows >> LEAST_BITS
    digits[first[second] + 1] = lows[second] >> (LEAST_BITS - DIGIT_BITS) & 255

    # A ninth bit carries through all digits 255 before it, to the last that is not 255, which is in the same lane.
    stops = np.flatnonzero(digits != 255)
    if stops.size:
        digits[stops[0] : stops[-1]] += np.repeat(digits[stops[1:]] >> DIGIT_BITS, np.diff(stops))
    data = digits.astype(np.uint8)

    ends = np.cumsum(totals)
    nonzero = np.flatnonzero(data)
    last_nonzero = np.append(-1, nonzero)[np.searchsorted(nonzero, ends)]
    joined = data.tobytes()
    # Where a lane has no byte but zero, the last that is none lies before its begin, and the slice is empty.
    return [joined[a:b] for a, b in zip((ends - totals).tolist(), (last_nonzero + 1).tolist(), strict=True)]
