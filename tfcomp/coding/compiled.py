"""The loops of `tfcomp.coding.lanes`, compiled by Numba: the same states and the same bytes, two to four times as fast.

`lanes.use_numba` turns it on, where Numba is installed (``pip install "tfcomp[fast]"``). Lanes are coded some at a
time, so that their states stay in the first-level cache, and each step of theirs is a few short loops without branches,
which the compiler turns into vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

Array = NDArray[Any]

LANES_AT_ONCE, STEPS_AT_ONCE = 128, 16

_OPTIONS = {"cache": True, "error_model": "numpy", "nogil": True}
_I, _L, _U = (types.Array(t, 1, "C", readonly=True) for t in (types.int32, types.int64, types.uint32))
_N, _I2 = types.int64, types.Array(types.int32, 2, "A", readonly=True)


@njit(**_OPTIONS)
def _emit(codes: Array, end: int, low: np.uint32, count: np.uint32) -> None:
    """Writes the digits of ``low``, of which ``count`` (0 to 2) stay, and adds its carry to the digits before them."""
    codes[end] = low >> np.uint32(22) & np.uint32(255)
    if (low >> np.uint32(30)) * count | count >> np.uint32(1):
        if count == 2:
            codes[end + 1] = low >> np.uint32(14) & np.uint32(255)
        if low >> np.uint32(30):
            end -= 1
            while codes[end] == 255:
                codes[end] = 0
                end -= 1
            codes[end] += np.uint8(1)


@njit((_I2, _U, types.int64, types.uint8[::1], types.int64[::1]), **_OPTIONS)
def encode(positions: Array, intervals: Array, precision: int, out: Array, sizes: Array) -> None:
    """Codes lanes of ``positions``, int32 [steps, lanes], under ``Coding.intervals``.

    Args:
        out: uint8 [lanes * (2 * steps + 1)], filled from the front with the codes, end to end.
        sizes: int64 [lanes], filled with the bytes of each code.
    """
    steps, lanes = positions.shape
    below = np.uint32((1 << precision) - 1)
    padding = intervals.size - 1
    lows, ranges = np.empty(LANES_AT_ONCE, np.uint32), np.empty(LANES_AT_ONCE, np.uint32)
    digits, counts = np.empty(LANES_AT_ONCE, np.uint32), np.empty(LANES_AT_ONCE, np.uint32)
    symbols = np.empty((STEPS_AT_ONCE, LANES_AT_ONCE), np.uint32)
    ends = np.empty(LANES_AT_ONCE, np.int64)
    share, total = 2 * steps + 1, 0
    codes = np.empty(min(lanes, LANES_AT_ONCE) * share, np.uint8)
    for begin in range(0, lanes, LANES_AT_ONCE):
        here = min(lanes - begin, LANES_AT_ONCE)
        for i in range(here):
            lows[i], ranges[i], ends[i] = 0, 1 << 30, i * share
        for step in range(steps):
            if step % STEPS_AT_ONCE == 0:  # whole cache lines of a lane whose symbols lie side by side
                for i in range(here):
                    for j in range(min(steps - step, STEPS_AT_ONCE)):
                        symbols[j, i] = intervals[min(positions[step + j, begin + i], padding)]
            for i in range(here):
                interval, range_ = symbols[step % STEPS_AT_ONCE, i], ranges[i]
                unit = range_ >> np.uint32(precision)
                low = np.uint32(lows[i] + np.uint32(unit * (interval & np.uint32(0xFFFF))))
                leftover = np.uint32(range_ & below) * (interval >> np.uint32(31))
                range_ = np.uint32(np.uint32(unit * (interval >> np.uint32(16) & np.uint32(0x7FFF))) + leftover)
                count = np.uint32(range_ < np.uint32(1 << 22)) + np.uint32(range_ < np.uint32(1 << 14))
                digits[i], counts[i] = low, count
                ranges[i] = range_ << (count << np.uint32(3))
                kept = np.uint32((1 << 31) - 1) >> np.uint32(count > 0)
                lows[i] = np.uint32(low << (count << np.uint32(3))) & kept
            for i in range(here):
                _emit(codes, ends[i], digits[i], counts[i])
                ends[i] += counts[i]
        for i in range(here):
            low, last = lows[i], np.uint32(lows[i] + ranges[i] - np.uint32(1))
            bits = np.uint32(30)
            while np.uint32(last >> bits << bits) < low:
                bits -= np.uint32(1)
            _emit(codes, ends[i], np.uint32(last >> bits << bits), np.uint32(1))
            size = ends[i] + 1 - i * share
            while size and not codes[i * share + size - 1]:
                size -= 1
            for j in range(size):
                out[total + j] = codes[i * share + j]
            sizes[begin + i] = size
            total += size


@njit(
    (_I2, _N, _N, _I, _L, _I, _U, _U, _L, *2 * [types.uint32[::1]], types.int64[::1], types.int32[:, :]),
    **_OPTIONS,
)
def decode(
    table: Array,
    precision: int,
    shared_bits: int,
    lookup: Array,
    keys: Array,
    order: Array,
    intervals: Array,
    pairs: Array,
    zeros: Array,
    codes: Array,
    ranges: Array,
    reads: Array,
    positions: Array,
) -> None:
    """Decodes ``positions``, int32 [steps, lanes], and moves the states on; see `lanes.Decoder` and `lanes.Coding`."""
    steps, lanes = positions.shape
    shared = table.shape[1] == 1
    below = np.uint32((1 << precision) - 1)
    targets, units = np.empty(LANES_AT_ONCE, np.int64), np.empty(LANES_AT_ONCE, np.uint32)
    symbols, counts = np.empty(LANES_AT_ONCE, np.uint32), np.empty(LANES_AT_ONCE, np.uint32)
    for begin in range(0, lanes, LANES_AT_ONCE):
        end = min(lanes, begin + LANES_AT_ONCE)
        code, range_, read, zero = codes[begin:end], ranges[begin:end], reads[begin:end], zeros[begin:end]
        for step in range(steps):
            for i in range(end - begin):
                targets[i] = table[step, 0 if shared else begin + i]
            for i in range(end - begin):
                units[i] = range_[i] >> np.uint32(precision)
                # Exact: a quotient of integers below 2**30 that is no integer is farther from one than float64 rounds.
                slot = np.int32(np.float64(np.int32(code[i])) / np.float64(np.int32(units[i])))
                targets[i] = (targets[i] << precision) + min(slot, np.int32(below))
            for i in range(end - begin):
                place = np.int64(lookup[targets[i] >> shared_bits])
                for bit in range(shared_bits - 1, -1, -1):
                    further = place + (1 << bit)
                    if further < keys.size and keys[further] <= targets[i]:
                        place = further
                positions[step, begin + i] = order[place]
                symbols[i] = intervals[order[place]]
            for i in range(end - begin):
                symbol, unit = symbols[i], units[i]
                rest = np.uint32(code[i] - np.uint32(unit * (symbol & np.uint32(0xFFFF))))
                leftover = np.uint32(range_[i] & below) * (symbol >> np.uint32(31))
                width = np.uint32(np.uint32(unit * (symbol >> np.uint32(16) & np.uint32(0x7FFF))) + leftover)
                count = np.uint32(width < np.uint32(1 << 22)) + np.uint32(width < np.uint32(1 << 14))
                counts[i] = count
                range_[i] = width << (count << np.uint32(3))
                code[i] = rest << (count << np.uint32(3))
            for i in range(end - begin):
                code[i] |= pairs[min(read[i], zero[i])] >> (np.uint32(16) - (counts[i] << np.uint32(3)))
                read[i] += np.int64(counts[i])
