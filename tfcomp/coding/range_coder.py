r"""The payload format, version 1, and its reference implementation in NumPy.

A payload is a range coder's code (Martin, "Range encoding: an algorithm for removing redundancy from a digitised
message", 1979) of integer symbols under `FrequencyTables`: 8-bit digits, integers below ``2**31`` and nothing else.
This text is the whole format. ``//`` and ``>>`` round down.

The interval
    A table of precision ``P`` gives a symbol a ``start`` and a ``frequency``, out of ``2**P``; the most probable symbol
    of each table is last in the coding order (see `tfcomp.coding.tables`). A coder's state is an interval of integers::

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

Table sets
    Tables may come in ``M > 1`` complete sets, of which each segment uses the one that suits it. Of ``M * T + 1``
    tables, ``m * T + t`` belongs to set ``m``; the tables ``t``, ``T + t``, ``2 * T + t``, ... have equal supports; the
    last table is the selector, of the values ``0 <= m < M``. The index holds ``0 <= t < T`` and is the same for all
    messages. Each segment, also that of a message of one segment, begins with one symbol of the selector, ``m``; its
    latents are then coded by the tables ``m * T + index``. A segment without latents has no selector, and no bytes.
    ``M`` is known to the decoder.

    Any ``m`` decodes, but all encoders choose alike: the one with the least sum of `FrequencyTables.costs` over the
    selector and the segment's latents, the lowest of equals. A segment has at most ``2**19`` latents, so that the sum
    is less than ``2**31``.

Cost
    Rounding ``u`` down makes a symbol's share of the range smaller than its probability by a factor above
    ``1 - 2**P / range``, hence it costs at most ``-log2(1 - 2**(P - 22))`` bits over the ideal (0.006 at ``P = 14``);
    the last symbol of a table costs no more than the ideal. ``n`` digits cost at least ``8 * n`` bits, and one ends the
    message::

        bytes <= (ideal bits + symbols * -log2(1 - 2**(P - 22))) / 8 + 1

    A selector counts as a symbol. The costs of the sets are rounded to 1/256 bit, so the set chosen costs at most
    ``1/256`` bit more for each symbol than the best one.

Examples:
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
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import lanes
from tfcomp.coding.lanes import DIGIT_BITS, LEAST_BITS, Coding
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.errors import BitstreamError, InputError

FORMAT_VERSION = 1

LENGTH_BYTES = 2  # of a segment's length, little-endian
SEGMENT_SYMBOLS = 1 << 19  # the most in a segment that chooses among sets

_LANES_AT_ONCE = 6144  # a step's arrays of this many lanes stay in a core's second-level cache
_SUMS_AT_ONCE = 1 << 16  # so do these sums of costs, of some lanes and all sets

Intp = NDArray[np.intp]


def segment_count(symbols: int, symbols_per_segment: int) -> int:
    """Number of segments of a message, ``max(1, ceil(symbols / symbols_per_segment))``."""
    if symbols < 0 or symbols_per_segment < 1:
        raise InputError(f"expected segments of 1 symbol or more, found {symbols_per_segment} for {symbols} symbols")
    return max(1, -(-symbols // symbols_per_segment))


def max_payload_bytes(tables: FrequencyTables, index: Int32, segments: int = 1, sets: int = 1) -> int:
    """A bound of a payload's length in bytes, as if every symbol were the least frequent one of its table.

    Args:
        tables: the tables.
        index: int32 [S], or, of one set, [N, S] for the bound over all messages: the table of each symbol.
        segments: ``K``, in how many segments a message is coded.
        sets: ``M``, how many sets the tables are. Payloads are bounded whichever set a segment uses.

    Raises:
        InputError: if an argument is not as above, or if a segment could be too long for its length's two bytes.
    """
    index = _checked_index(tables, index, segments, sets)
    bounds = _segment_bounds(tables, np.atleast_2d(index), segments, sets).sum(axis=1)
    return LENGTH_BYTES * (segments - 1) + int(bounds.max(initial=0))


def encode(latents: Int32, tables: FrequencyTables, index: Int32, segments: int = 1, sets: int = 1) -> list[bytes]:
    """The payloads of ``N`` messages of ``S`` symbols each.

    Args:
        latents: int32 [N, S], each inside its table's support.
        tables: the tables.
        index: int32 [S], or, of one set, [N, S]: the table of each latent, within a set.
        segments: ``K``, in how many segments each message is coded.
        sets: ``M``, how many sets the tables are.

    Returns:
        ``N`` bytes objects; that of a message of most probable symbols alone may be empty.

    Raises:
        InputError: if an argument is not as above, or if a segment could be too long for its length's two bytes.
    """
    payloads: list[bytes] = []
    for positions, coding in _positions(latents, tables, index, segments, sets):
        if sets > 1 and len(positions):
            chosen = _cheapest_sets(positions, coding)
            selector = np.where(_empty(positions, coding), coding.padding, sets * coding.sets.values + chosen)
            positions = np.vstack([selector, positions + chosen * coding.sets.values])
        payloads += _join(lanes.encode(positions, coding), segments)
    return payloads


def choose_sets(latents: Int32, tables: FrequencyTables, index: Int32, segments: int, sets: int) -> Int32:
    """The set that `encode` uses for each segment, int32 [N, K], 0 without latents; arguments as `encode`."""
    blocks = [_cheapest_sets(*block) for block in _positions(latents, tables, index, segments, sets)]
    return np.concatenate([np.zeros(0, np.int32), *blocks]).astype(np.int32).reshape(len(latents), segments)


def decode(payloads: Sequence[bytes], tables: FrequencyTables, index: Int32, segments: int = 1, sets: int = 1) -> Int32:
    """The latents of ``N`` payloads; the inverse of `encode` under the same tables, index, segments and sets.

    Args:
        payloads: ``N`` bytes objects.
        tables: the tables.
        index: int32 [S], or, of one set, [N, S]: the table of each latent, within a set.
        segments: ``K``, in how many segments each message was coded.
        sets: ``M``, how many sets the tables are.

    Returns:
        int32 [N, S], each inside its table's support, whatever the bytes.

    Raises:
        InputError: if the index, segments or sets are not as above.
        BitstreamError: if a payload is not bytes or not one that `encode` can make, as far as its length can tell.
    """
    index = _checked_index(tables, index, segments, sets)
    messages, symbols = len(payloads), index.shape[-1]
    if index.ndim == 2 and len(index) != messages:
        raise InputError(f"expected an index for {messages} payloads, found one of shape {list(index.shape)}")
    coding = Coding.of(tables, sets)
    latents = np.empty((messages, symbols), np.int32)
    offset = (tables.first - tables.lower)[index]
    for block in _blocks(messages, segments):
        pieces = _split(payloads[block], segments, block.start)
        rows = block.stop - block.start
        table = np.atleast_2d(_rows(index, block))
        if segments > 1:
            table = np.broadcast_to(table, (rows, symbols))
        table = _lanes(table, segments, fill=coding.padding_table)

        refuse = partial(_refuse, segments=segments, first_message=block.start)
        decoder = lanes.Decoder(pieces, coding)
        refuse(decoder.end_in_zero, "a last byte other than zero, found zero")
        if sets > 1 and symbols:
            selector = np.where(table[:1] < coding.padding_table, len(tables) - 1, coding.padding_table).astype(
                np.int32
            )
            chosen = decoder.take(selector) - sets * coding.sets.values
            positions = decoder.take(np.minimum(table + chosen * coding.sets.tables, coding.padding_table))
            positions -= chosen * coding.sets.values
        else:
            positions = decoder.take(table)
        refuse(decoder.sizes > decoder.longest, "at most {} bytes, found {}", decoder.longest, decoder.sizes)
        np.subtract(positions.T.reshape(rows, -1)[:, :symbols], _rows(offset, block), out=latents[block])
    return latents


def _positions(
    latents: Int32, tables: FrequencyTables, index: Int32, segments: int, sets: int
) -> Iterator[tuple[Int32, Coding]]:
    """Positions in set 0 of the symbols of some messages at a time, int32 [L, N * K], a column for each segment."""
    if not isinstance(latents, np.ndarray) or latents.dtype != np.int32 or latents.ndim != 2:
        raise InputError(f"expected latents as int32 [N, S], found {_described(latents)}")
    index = _checked_index(tables, index, segments, sets, latents.shape)
    coding = Coding.of(tables, sets)
    for block in _blocks(len(latents), segments):
        positions = tables.positions(latents[block], _rows(index, block))
        yield _lanes(positions, segments, fill=coding.padding), coding


def _empty(positions: Int32, coding: Coding) -> NDArray[np.bool_]:
    """Whether a lane has padding alone: bool [N * K]."""
    return np.all(positions[:1] == coding.padding, axis=0)


def _cheapest_sets(positions: Int32, coding: Coding) -> Int32:
    """The set in which each lane costs least, the lowest of equals, 0 where it is empty: int32 [N * K]."""
    sets, chosen = coding.sets, np.zeros(positions.shape[1], np.int32)
    at_once = max(1, _SUMS_AT_ONCE // sets.count)
    for begin in range(0, chosen.size if sets.count > 1 else 0, at_once):
        block = positions[:, begin : begin + at_once]
        sums = np.tile(sets.selector_costs, (block.shape[1], 1))
        costs = np.empty_like(sums)
        for step in block:
            sums += sets.costs.take(step, axis=0, out=costs, mode="clip")  # what is past the end is padding, and free
        chosen[begin : begin + at_once] = sums.argmin(axis=1)
    return np.where(_empty(positions, coding), 0, chosen)


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


def _split(payloads: Sequence[bytes], segments: int, first_message: int) -> list[bytes]:
    """The segments of payloads."""
    pieces: list[bytes] = []
    for message, payload in enumerate(payloads, first_message):
        if not isinstance(payload, bytes):
            raise BitstreamError(f"message {message}: expected bytes, found {type(payload).__name__}")
        if segments == 1:
            pieces.append(payload)
            continue
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
        pieces += [payload[a:b] for a, b in pairwise(bounds)]
    return pieces


def _refuse(bad: NDArray[np.bool_], expected: str, *figures: Intp, segments: int, first_message: int) -> None:
    if np.any(bad):
        lane = int(np.argmax(bad))
        message, segment = divmod(lane, segments)
        where = f"message {first_message + message}" + (f", segment {segment}" if segments > 1 else "")
        raise BitstreamError(f"{where}: expected {expected.format(*(int(figure[lane]) for figure in figures))}")


def _blocks(messages: int, segments: int) -> Iterator[slice]:
    """Slices of the messages, about equal, each with at most `_LANES_AT_ONCE` segments or of one message."""
    blocks = -(-messages // max(1, _LANES_AT_ONCE // segments))
    return (slice(messages * i // blocks, messages * (i + 1) // blocks) for i in range(blocks))


def _rows(values: NDArray[Any], block: slice) -> NDArray[Any]:
    """The values of a block of messages: rows of [N, S], or the [S] that all messages share."""
    return values if values.ndim == 1 else values[block]


def _lanes(values: NDArray[Any], segments: int, fill: float) -> NDArray[Any]:
    """[N, S] -> [L, N * K]: a column for each segment of each message, the last ones filled up."""
    messages, symbols = values.shape
    steps = -(-symbols // segments)
    if segments * steps != symbols:
        padded = np.full((messages, segments * steps), fill, values.dtype)
        padded[:, :symbols] = values
        values = padded
    return values.reshape(messages * segments, steps).T


def _segment_bounds(tables: FrequencyTables, index: Int32, segments: int, sets: int) -> Intp:
    """A length in bytes that no segment exceeds: intp [N, K]; index: int32 [N, S]."""
    if sets > 1:
        index = index + np.arange(sets)[:, None] * Coding.of(tables, sets).sets.tables
    least = np.minimum.reduceat(tables.frequencies, tables.first)
    rounding = -np.log2(1 - 2.0 ** (tables.precision - LEAST_BITS))
    bits = np.where(tables.sizes > 1, tables.precision - np.log2(least) + rounding, 0)
    steps = _lanes(bits[index], segments, 0).sum(axis=0).reshape(-1, segments)
    if sets > 1:
        selector = tables.precision - np.log2(tables.frequencies[-sets:]) + rounding
        begins = np.arange(segments) * -(-index.shape[1] // segments)
        steps += np.where(begins < index.shape[1], selector[:, None], 0)
        steps = steps.max(axis=0, keepdims=True)
    # One part in 10**9 is for the float sum's own rounding.
    bounds = np.where(steps > 0, np.floor(steps / DIGIT_BITS * (1 + 1e-9)) + 1, 0).astype(np.intp)
    longest = int(bounds[:, :-1].max(initial=0))
    if longest >= 1 << 8 * LENGTH_BYTES:
        raise InputError(
            f"expected segments that cannot exceed {(1 << 8 * LENGTH_BYTES) - 1} bytes, found {segments} of up to "
            f"{longest} bytes; use more segments"
        )
    return bounds


def _checked_index(
    tables: FrequencyTables, index: Int32, segments: int, sets: int, shape: tuple[int, ...] | None = None
) -> Int32:
    """The index, if it is one of messages of that shape."""
    within = Coding.of(tables, sets).sets.tables
    if (
        not isinstance(index, np.ndarray)
        or index.dtype != np.int32
        or index.ndim not in (1, 2)[: 2 if sets == 1 else 1]
    ):
        expected = "int32 [S] or [N, S]" if sets == 1 else f"int32 [S], that of all messages, with {sets} sets"
        raise InputError(f"expected an index as {expected}, found {_described(index)}")
    if shape is not None and index.shape != shape[2 - index.ndim :]:
        raise InputError(f"expected an index of shape {[*shape[1:]]} or {[*shape]}, found {[*index.shape]}")
    if index.size and (index.min() < 0 or index.max() >= within):
        raise InputError(f"expected an index of 0 to {within - 1}, found {index.min()} to {index.max()}")
    if not isinstance(segments, int) or segments < 1:
        raise InputError(f"expected 1 segment or more, found {segments}")
    if sets > 1 and -(-index.size // segments) > SEGMENT_SYMBOLS:
        raise InputError(
            f"expected segments of at most {SEGMENT_SYMBOLS} symbols to choose a set for, "
            f"found {index.size} symbols in {segments} segments"
        )
    if segments > 1:
        _segment_bounds(tables, np.atleast_2d(index), segments, sets)
    return index


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
