r"""The payload format, version 1, and its reference implementation in NumPy.

A payload is a range coder's code (Martin, "Range encoding: an algorithm for removing redundancy from a digitised
message", 1979) of integer symbols under `FrequencyTables`: 8-bit digits, integers below ``2**31`` and nothing else.
This text is the whole format. ``//`` and ``>>`` round down.

The interval
    A table of precision ``P`` gives a symbol a ``start`` and a ``frequency``, out of ``2**P``; the most probable symbol
    of each table is last in the coding order (see `tfcomp.tables`). A coder's state is an interval of integers::

        0          low                                     low + range              2**31
        |-----------|----------------------|---------------------|---------------------|
                    |    symbol, from low + u * start            |
                    |                      [   u * frequency   ) |        u = range >> P

        2**22 <= range <= 2**30,    low + range <= 2**31              between two symbols

Encoding a message: ``low = 0``, ``range = 2**30``, then for each symbol in turn
    1.  ``u = range >> P``; ``low += u * start``; ``range = u * frequency``, except that a table's last symbol takes all
        that is left, ``range -= u * start``. That remainder is ``range & (2**P - 1)``, so that the last symbol's new
        range is ``u * frequency + (range & (2**P - 1))``, and a table of one symbol leaves the state as it was.
    2.  Twice: if ``range < 2**22``, emit the digit ``low >> 22``, then ``low = (low & (2**22 - 1)) << 8`` and
        ``range <<= 8``. Twice is enough: ``u >= 2**(22 - P) >= 2**8``, so that ``range >= 2**8``.

    A digit can have a ninth bit: ``low`` passed ``2**30``, and the digit before it is to be one more. A message's
    interval never leaves ``[0, 2**30)`` of its first state, so its first digit never has one, and of two digits in a
    row at most one carries into the digit before.

The end of a message
    Of the integers in ``[low, low + range)``, the one with the most trailing zero bits ends the message. It is unique
    (between two equal ones lies a better) and a multiple of ``2**22``, as ``range >= 2**22``: so it is one more
    digit, ``value >> 22``. Carries are now added, from the last digit to the first, and trailing zero bytes dropped.

Decoding a message
    A payload is followed by as many zero bytes as anyone reads. ``code`` is its first 30 bits, and begins at
    ``0 <= code < range = 2**30``; later 8 bits are read at a time. For each symbol
    1.  ``u = range >> P``; ``slot = min(code // u, 2**P - 1)``; the symbol is the one with
        ``start <= slot < start + frequency``; ``code -= u * start``; ``range`` becomes what it became in the encoder.
    2.  Twice: if ``range < 2**22``, ``code = (code << 8) | next 8 bits`` and ``range <<= 8``.

    ``code < range`` holds throughout, whatever the bytes: anything decodes to some symbols. What can be told is told by
    `BitstreamError`: with ``n`` the number of times that step 2 read 8 bits, a message has at most ``n + 1`` bytes,
    and its last byte is not zero.

    30 bits are not whole bytes. With two zero bits put before the payload they are: then ``code`` is the first four
    bytes, big-endian, and each later read is one byte.

Segments
    A payload of ``S`` symbols in ``K`` segments: segment ``k`` holds the symbols ``k * L <= s < (k + 1) * L``, with
    ``L = ceil(S / K)``, so that the last ones may be shorter or empty. Each is encoded as a message of its own. The
    payload is the lengths in bytes of the first ``K - 1`` segments, 2 bytes each, little-endian; then the segments;
    without trailing zero bytes (there are some only if all segments are empty: then the payload is ``b""``). To decode,
    zero bytes are again read past the end; the last segment is what the others leave. With ``K > 1`` the largest
    possible length of a segment (`max_payload_bytes` bounds it) must fit its two bytes. ``K`` and the tables' index
    are known to the decoder and are no part of the payload.

    A symbol of a one-symbol table leaves the state as it was, so lanes of unequal length may be padded with such.

Cost
    Rounding ``u`` down makes a symbol's share of the range smaller than its probability by a factor above
    ``1 - 2**P / range``, hence it costs at most ``-log2(1 - 2**(P - 22))`` bits over the ideal (0.006 at ``P = 14``);
    the last symbol of a table costs no more than the ideal. ``n`` digits cost at least ``8 * n`` bits, and one ends the
    message::

        bytes <= (ideal bits + symbols * -log2(1 - 2**(P - 22))) / 8 + 1

Example:
    ``P = 5``; the values -1, 0, 1 have the frequencies 3, 28, 1. Zero is coded last, so their starts are 0, 4, 3. The
    latents -1, 0, 1, 1, 1 take the coder through

    ======  ===========  ===========  =====
    latent  low          range        digit
    ======  ===========  ===========  =====
    .                 0   1073741824
    -1                0    100663296
    0          12582912     88080384
    1        1040187392    704643072      4
    1        1106247680     22020096
    1         260046848    176160768    264
    ======  ===========  ===========  =====

    and in ``[260046848, 436207616)`` the value with the most trailing zeros is ``2**28``, the digit 64. The digits
    4, 264, 64 are the bytes 05 08 40: 264 is 8, and one carried into the 4.

    >>> tables = FrequencyTables(5, np.int32([-1]), np.int32([3]), np.int32([3, 28, 1]))
    >>> tables.starts.tolist()
    [0, 4, 3]
    >>> index = np.zeros(5, np.int32)
    >>> [payload.hex() for payload in encode(np.int32([[-1, 0, 1, 1, 1]]), tables, index)]
    ['050840']
    >>> decode([bytes.fromhex("050840")], tables, index).tolist()
    [[-1, 0, 1, 1, 1]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError, InputError
from tfcomp.tables import FrequencyTables, Int32

FORMAT_VERSION = 1

LENGTH_BYTES = 2  # of a segment's length, little-endian
RANGE_BITS, DIGIT_BITS = 30, 8
LEAST_BITS = RANGE_BITS - DIGIT_BITS  # 2**22 <= range between two symbols

_LANES_AT_ONCE = 6144  # a step's arrays of this many lanes stay in a core's second-level cache
_LOOKUP_ENTRIES = 1 << 24  # 64 MiB of int32; larger sets of tables are searched
_PADDING = bytes(4)  # between messages: the zeros a reader that stops at its message's end may meet

UInt32 = NDArray[np.uint32]
Intp = NDArray[np.intp]


def segment_count(symbols: int, symbols_per_segment: int) -> int:
    """How many segments hold a message, ``max(1, ceil(symbols / symbols_per_segment))``."""
    if symbols < 0 or symbols_per_segment < 1:
        raise InputError(f"expected segments of 1 symbol or more, found {symbols_per_segment} for {symbols} symbols")
    return max(1, -(-symbols // symbols_per_segment))


def max_payload_bytes(tables: FrequencyTables, index: Int32, segments: int = 1) -> int:
    """A length in bytes that no payload exceeds: every symbol the least frequent one of its table.

    Args:
        tables: the tables.
        index: int32 [S], or [N, S] for the bound over all messages: the table of each symbol.
        segments: ``K``, in how many segments a message is coded.

    Raises:
        InputError: if the index is not one, or if a segment could be too long for its length's two bytes.
    """
    index = _checked_index(tables, index, segments)
    bounds = _segment_bounds(tables, np.atleast_2d(index), segments).sum(axis=1)
    return LENGTH_BYTES * (segments - 1) + int(bounds.max(initial=0))


def encode(latents: Int32, tables: FrequencyTables, index: Int32, segments: int = 1) -> list[bytes]:
    """The payloads of ``N`` messages of ``S`` symbols each.

    Args:
        latents: int32 [N, S], each inside its table's support.
        tables: the tables.
        index: int32 [S] or [N, S]: the table of each latent.
        segments: ``K``, in how many segments each message is coded.

    Returns:
        ``N`` bytes objects; those of messages that are all as expected as can be may be empty.

    Raises:
        InputError: if an argument is not as above, or if a segment could be too long for its length's two bytes.
    """
    if not isinstance(latents, np.ndarray) or latents.dtype != np.int32 or latents.ndim != 2:
        raise InputError(f"expected latents as int32 [N, S], found {_kind(latents)}")
    index = _checked_index(tables, index, segments, latents.shape)
    coding = _Coding.of(tables)
    payloads: list[bytes] = []
    for block in _blocks(len(latents), segments):
        intervals = coding.intervals.take(tables.positions(latents[block], _rows(index, block)))
        records, counts = _encode_lanes(_lanes(intervals, segments, fill=coding.intervals[-1]), coding.precision)
        payloads += _join(_segment_bytes(records, counts), segments)
    return payloads


def decode(payloads: Sequence[bytes], tables: FrequencyTables, index: Int32, segments: int = 1) -> Int32:
    """The latents of ``N`` payloads; the inverse of `encode` under the same tables, index and segments.

    Args:
        payloads: ``N`` bytes objects.
        tables: the tables.
        index: int32 [S] or [N, S]: the table of each latent.
        segments: ``K``, in how many segments each message was coded.

    Returns:
        int32 [N, S], each inside its table's support, whatever the bytes.

    Raises:
        InputError: if the index or segments are not as above.
        BitstreamError: if a payload is not bytes or not one that `encode` can make, as far as its length can tell.
    """
    index = _checked_index(tables, index, segments)
    messages, symbols = len(payloads), index.shape[-1]
    if index.ndim == 2 and len(index) != messages:
        raise InputError(f"expected an index for {messages} payloads, found one of shape {list(index.shape)}")
    coding = _Coding.of(tables)
    latents = np.empty((messages, symbols), np.int32)
    offset = (tables.first - tables.lower)[index]
    for block in _blocks(messages, segments):
        pieces = [piece for i in range(block.start, block.stop) for piece in _split(payloads[i], segments, i)]
        table = np.atleast_2d(_rows(index, block))
        rows = block.stop - block.start
        if segments > 1:
            table = np.broadcast_to(table, (rows, symbols))
        positions = _decode_lanes(pieces, _lanes(table, segments, fill=len(tables)), coding, segments, block.start)
        latents[block] = positions.T.reshape(rows, -1)[:, :symbols] - _rows(offset, block)
    return latents


@dataclass(frozen=True)
class _Coding:
    """What both directions look up, made once for each `FrequencyTables`.

    Attributes:
        precision: ``P``.
        intervals: uint32 [V + 1], ``start | frequency << 16 | is_last << 31`` of each of the tables' ``V`` values. One
            more entry pads: the whole range.
        keys: int64 [V + 1], ascending, ``(table << P) + start``; the padding is a table of its own, after the others.
        order: int32 [V + 1], the position in `intervals` of each key.
        lookup: int32 [(T + 1) << P], the position in `intervals` for each ``(table << P) + slot``; None where that
            would take too much memory.
    """

    precision: int
    intervals: UInt32
    keys: NDArray[np.int64]
    order: Int32
    lookup: Int32 | None

    @classmethod
    def of(cls, tables: FrequencyTables) -> _Coding:
        if tables not in _CODINGS:
            _CODINGS[tables] = cls._make(tables)
        return _CODINGS[tables]

    @classmethod
    def _make(cls, tables: FrequencyTables) -> _Coding:
        precision = tables.precision
        starts, frequencies = np.append(tables.starts, 0), np.append(tables.frequencies, 1 << precision)
        last = starts + frequencies == 1 << precision
        table = np.append(np.repeat(np.arange(len(tables)), tables.sizes), len(tables))
        keys = (table.astype(np.int64) << precision) + starts
        order = np.argsort(keys).astype(np.int32)
        fits = len(tables) + 1 <= _LOOKUP_ENTRIES >> precision
        return cls(
            precision,
            (starts | frequencies << 16).astype(np.uint32) | last.astype(np.uint32) << np.uint32(31),
            keys[order],
            order,
            np.repeat(order, frequencies[order]) if fits else None,
        )

    def find(self, keys: Intp) -> Int32:
        """The positions in `intervals` of ``(table << P) + slot``."""
        if self.lookup is not None:
            return self.lookup.take(keys)
        return self.order.take(np.searchsorted(self.keys, keys, side="right") - 1)


_CODINGS: WeakKeyDictionary[FrequencyTables, _Coding] = WeakKeyDictionary()


def _encode_lanes(intervals: UInt32, precision: int) -> tuple[UInt32, NDArray[np.uint8]]:
    """Codes lanes side by side.

    Args:
        intervals: uint32 [steps, lanes], packed as in `_Coding`.
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


def _decode_lanes(pieces: list[bytes], table: Intp, coding: _Coding, segments: int, first_message: int) -> Int32:
    """The positions in `_Coding.intervals`, int32 [steps, lanes], of lanes decoded side by side.

    Args:
        pieces: one segment of bytes for each lane.
        table: intp [steps, lanes or 1], the table of each symbol.
        coding: the tables' look-ups.
        segments, first_message: to name a message in an error.
    """
    precision, lanes = coding.precision, len(pieces)
    sizes = np.fromiter(map(len, pieces), np.intp, lanes)
    data = np.frombuffer(_PADDING + _PADDING.join(pieces) + _PADDING, np.uint8)
    begin = np.cumsum(sizes + len(_PADDING)) - sizes
    end = begin + sizes
    _refuse((sizes > 0) & (data[end - 1] == 0), segments, first_message, "a last byte other than zero, found zero")

    # Each lane is read through two zero bits put before it; they push its last two bits into the padding.
    data = data >> np.uint8(2) | np.roll(data, 1) << np.uint8(6)
    pairs = data[:-1].astype(np.uint32) << 8 | data[1:]
    code = pairs[begin] << 16 | pairs[begin + 2]
    range_ = np.full(lanes, 1 << RANGE_BITS, np.uint32)
    read = begin + 4
    zeros = end + 1

    positions = np.empty((len(table), lanes), np.int32)
    for step, keys in enumerate(table.astype(np.intp) << precision):
        unit = range_ >> precision
        slot = np.minimum(code // unit, (1 << precision) - 1)
        positions[step] = position = coding.find(keys + slot)
        start, frequency, leftover = _unpack(coding.intervals.take(position), precision)
        code -= unit * start
        range_ = unit * frequency + (range_ & leftover)
        count, shift = _digits_due(range_)
        range_ <<= shift
        code <<= shift
        code |= pairs.take(np.minimum(read, zeros)) >> (2 * DIGIT_BITS - shift)
        read += count
    longest = read - begin - 4 + 1
    _refuse(sizes > longest, segments, first_message, "at most {} bytes, found {}", longest, sizes)
    return positions


def _unpack(intervals: UInt32, precision: int) -> tuple[UInt32, UInt32, UInt32]:
    """Starts, frequencies, and a mask of the part of the range that the interval adds to ``u * frequency``."""
    frequency = intervals >> np.uint32(16) & np.uint32(0x7FFF)
    leftover = (intervals >> np.uint32(31)) * np.uint32((1 << precision) - 1)
    return intervals & np.uint32(0xFFFF), frequency, leftover


def _digits_due(range_: UInt32) -> tuple[NDArray[np.uint8], UInt32]:
    """How many digits, 0 to 2, bring a range back to ``2**22`` or more; and how many bits they are."""
    count = (range_ < 1 << LEAST_BITS).view(np.uint8)
    count += range_ < 1 << LEAST_BITS - DIGIT_BITS
    return count, count.astype(np.uint32) * np.uint32(DIGIT_BITS)


def _segment_bytes(lows: UInt32, counts: NDArray[np.uint8]) -> list[bytes]:
    """The bytes of each lane, from what `_encode_lanes` returns."""
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


def _join(pieces: list[bytes], segments: int) -> list[bytes]:
    """Payloads from their segments."""
    if segments == 1:
        return pieces
    payloads = []
    for i in range(0, len(pieces), segments):
        message = pieces[i : i + segments]
        lengths = b"".join(len(piece).to_bytes(LENGTH_BYTES, "little") for piece in message[:-1])
        payloads.append((lengths + b"".join(message)).rstrip(b"\0"))
    return payloads


def _split(payload: bytes, segments: int, message: int) -> list[bytes]:
    """The segments of a payload."""
    if not isinstance(payload, bytes):
        raise BitstreamError(f"message {message}: expected bytes, found {type(payload).__name__}")
    if segments == 1:
        return [payload]
    if payload.endswith(b"\0"):
        raise BitstreamError(f"message {message}: expected a last byte other than zero, found zero")
    header = LENGTH_BYTES * (segments - 1)
    lengths = np.frombuffer(payload[:header].ljust(header, b"\0"), f"<u{LENGTH_BYTES}").astype(np.intp)
    ends = header + np.cumsum(lengths)
    if payload and ends[-1] > len(payload):
        raise BitstreamError(
            f"message {message}: expected {ends[-1]} bytes or more for {segments} segments, found {len(payload)}"
        )
    bounds = [header, *ends.tolist(), len(payload)]
    return [payload[a:b] for a, b in pairwise(bounds)]


def _refuse(bad: NDArray[np.bool_], segments: int, first_message: int, expected: str, *figures: Intp) -> None:
    if bad.any():
        lane = int(bad.argmax())
        message, segment = divmod(lane, segments)
        where = f"message {first_message + message}" + (f", segment {segment}" if segments > 1 else "")
        raise BitstreamError(f"{where}: expected {expected.format(*(int(figure[lane]) for figure in figures))}")


def _blocks(messages: int, segments: int) -> Iterator[slice]:
    """Slices of the messages, about equal, each with at most `_LANES_AT_ONCE` segments or of one message."""
    blocks = -(-messages // max(1, _LANES_AT_ONCE // segments))
    return (slice(messages * i // blocks, messages * (i + 1) // blocks) for i in range(blocks))


def _rows(values: NDArray[Any], block: slice) -> NDArray[Any]:
    """What belongs to a block of messages: rows of [N, S], or the [S] that all messages share."""
    return values if values.ndim == 1 else values[block]


def _lanes(values: NDArray[Any], segments: int, fill: float) -> NDArray[Any]:
    """[N, S] -> [L, N * K]: a column for each segment of each message, the last ones filled up."""
    messages, symbols = values.shape
    steps = -(-symbols // segments)
    padded = np.full((messages, segments * steps), fill, values.dtype)
    padded[:, :symbols] = values
    return np.ascontiguousarray(padded.reshape(messages * segments, steps).T)


def _segment_bounds(tables: FrequencyTables, index: Int32, segments: int) -> Intp:
    """A length in bytes that no segment exceeds: intp [N, K]; index: int32 [N, S]."""
    least = np.minimum.reduceat(tables.frequencies, tables.first)
    rounding = -np.log2(1 - 2.0 ** (tables.precision - LEAST_BITS))
    bits = np.where(tables.sizes > 1, tables.precision - np.log2(least) + rounding, 0)
    steps = _lanes(bits[index], segments, 0).sum(axis=0).reshape(-1, segments)
    # One part in 10**9 is for the float sum's own rounding.
    bounds = np.where(steps > 0, np.floor(steps / DIGIT_BITS * (1 + 1e-9)) + 1, 0).astype(np.intp)
    longest = int(bounds[:, :-1].max(initial=0))
    if longest >= 1 << 8 * LENGTH_BYTES:
        raise InputError(
            f"expected segments that cannot exceed {(1 << 8 * LENGTH_BYTES) - 1} bytes, found {segments} of up to "
            f"{longest} bytes; use more segments"
        )
    return bounds


def _checked_index(tables: FrequencyTables, index: Int32, segments: int, shape: tuple[int, int] | None = None) -> Int32:
    """The index, if it is one of messages of that shape."""
    if not isinstance(index, np.ndarray) or index.dtype != np.int32 or index.ndim not in (1, 2):
        raise InputError(f"expected an index as int32 [S] or [N, S], found {_kind(index)}")
    if shape is not None and index.shape != shape[2 - index.ndim :]:
        raise InputError(f"expected an index of shape {[*shape[1:]]} or {[*shape]}, found {[*index.shape]}")
    if index.size and (index.min() < 0 or index.max() >= len(tables)):
        raise InputError(f"expected an index of 0 to {len(tables) - 1}, found {index.min()} to {index.max()}")
    if not isinstance(segments, int) or segments < 1:
        raise InputError(f"expected 1 segment or more, found {segments}")
    if segments > 1:
        _segment_bounds(tables, np.atleast_2d(index), segments)
    return index


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
