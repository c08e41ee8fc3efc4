"""The coefficients of one tile as bytes: the passes of `context` through the range coder's lanes.

A tile's code is ``2**n`` lanes, each coded as a message of its own is (see `range_coder`). The symbols that a
pass codes, those whose table has more than one, go to the lanes in turn: symbol ``i`` is the next of lane
``i % 2**n``; then, in the same way, what lies beyond the tables. Every pass begins at lane 0, and a lane that a pass
leaves out waits. So all lanes step together, and the decoder has what it needs before each pass.

    bytes:  n;  varints, the lengths of all lanes but the last;  the lanes, end to end

A length ``l`` is stored by what it has more than the one before, ``d`` (before the first is 0): as ``2 * d``, or
``-2 * d - 1`` if it has less. The encoder chooses ``n``: a lane costs 1.3 bytes or more, and half of the lanes make
twice the steps. But a tile has at most ``4096 * 2**n`` symbols, so that no few bytes keep a decoder busy for long.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import lanes, varints
from tfcomp.coding.lanes import Coding
from tfcomp.coding.tables import COST_UNITS, Int32
from tfcomp.entropy import context
from tfcomp.entropy.context import Asked, ContextModel
from tfcomp.errors import BitstreamError
from tfcomp.photographs.old_layout import CHANNELS, PASSES

MOST_LANES_LOG2 = 10
MOST_SYMBOLS = 4096
"""Of a lane, on average."""
BYTES_PER_LANE, STEPS_PER_LANE = 256, 2000
CONTEXT_SHARE = 0.15
"""A coefficient's bits raise those of later ones: by this share, when the encoder weighs bits against error."""

Float32 = NDArray[np.float32]


def choose(model: ContextModel, latent: Float32, price: Float32) -> tuple[list[Int32], Int32]:
    """Chooses the integers, and what codes them.

    Args:
        model: of the quality.
        latent: float32 [h, w, CHANNELS], finite, in steps, not rounded.
        price: float32 [CHANNELS], the bits that one squared step of error is worth. Rounding is to the integer that
            costs least in all, of the nearest one and the next on the way to the expected one (Ramchandran and
            Vetterli 1994, without their search).

    Returns:
        For each pass and then what lies beyond its tables, where the symbols lie in ``model.tables``, int32 [n]; and
        the integers as a decoder finds them, int32 [h, w, CHANNELS].
    """
    height, width = latent.shape[:2]
    flat, found = latent.reshape(-1, CHANNELS), np.zeros((height * width, CHANNELS), np.int32)
    symbols: list[Int32] = []
    passes = model.passes(height, width)
    asked = next(passes, None)
    while asked is not None:
        own, where = asked.which.channels, asked.which.places(height, width)
        chosen = _cheapest(model, flat[where, own].ravel()[asked.coded], asked, price[own])
        coefficients = asked.expected.copy()
        coefficients[asked.coded] = chosen
        found[where, own] = coefficients.reshape(-1, asked.which.count)
        symbols += [model.tables.positions(values, table) for values, table in coded(chosen, asked)]
        asked = send(passes, coefficients)
    return symbols, found.reshape(latent.shape)


def encode(model: ContextModel, latent: Float32, price: Float32) -> tuple[bytes, Int32]:
    """The bytes of a tile, and its integers as a decoder finds them, int32 [h, w, CHANNELS]; arguments as `choose`."""
    symbols, found = choose(model, latent, price)
    units = sum(int(model.tables.costs.take(positions).sum()) for positions in symbols)
    steps = sum(positions.size for positions in symbols) / STEPS_PER_LANE
    wanted = max(units / COST_UNITS / 8 / BYTES_PER_LANE, steps, 1)
    lanes_log2 = int(min(round(np.log2(wanted)), MOST_LANES_LOG2))
    coding = Coding.of(model.tables)
    pieces = lanes.encode(np.concatenate([_rows(p, 1 << lanes_log2, coding.padding) for p in symbols]), coding)
    lengths = np.array([*map(len, pieces[:-1])], np.int64)
    more = np.diff(lengths, prepend=0)
    return bytes([lanes_log2]) + varints.pack(more * 2 ^ more >> 63) + b"".join(pieces), found


def decode(model: ContextModel, code: bytes, height: int, width: int) -> Int32:
    """The integers of a tile, int32 [height, width, CHANNELS]; the inverse of `encode`.

    Raises:
        BitstreamError: if the bytes are none that `encode` can make, as far as lengths can tell.
    """
    coding = Coding.of(model.tables)
    lanes_log2 = code[0] if code else MOST_LANES_LOG2 + 1
    if lanes_log2 > MOST_LANES_LOG2:
        begin = f"{code[0]}" if code else "no bytes"
        raise BitstreamError(f"expected a tile to begin with a number of 0 to {MOST_LANES_LOG2}, found {begin}")
    pieces = _pieces(code, 1 << lanes_log2)
    decoder = lanes.Decoder(pieces, coding)
    offset = model.tables.first - model.tables.lower
    left = MOST_SYMBOLS << lanes_log2

    def take(table: Int32) -> Int32:
        nonlocal left
        left -= table.size
        if left < 0:
            raise BitstreamError(f"expected at most {MOST_SYMBOLS << lanes_log2} symbols in a tile, found more")
        rows = _rows(table, 1 << lanes_log2, coding.padding_table)
        return decoder.take(rows).ravel()[: table.size] - offset[table]

    found = np.zeros((height * width, CHANNELS), np.int32)
    passes = model.passes(height, width)
    asked = next(passes, None)
    while asked is not None:
        symbols = take(asked.table)
        coefficients = asked.expected
        coefficients[asked.coded] = context.join(symbols, take(context.beyond_tables(symbols, asked)), asked)
        found[asked.which.places(height, width), asked.which.channels] = coefficients.reshape(-1, asked.which.count)
        asked = send(passes, coefficients)
    if np.any(bad := (decoder.sizes > decoder.longest) | decoder.end_in_zero):
        lane = int(np.argmax(bad))
        longest, size = decoder.longest[lane], decoder.sizes[lane]
        raise BitstreamError(f"lane {lane}: expected at most {longest} bytes that end in no zero, found {size}")
    return found.reshape(height, width, CHANNELS)


# === Inside ===


def send(passes: Generator[Asked, Int32, None], coefficients: Int32) -> Asked | None:
    """The next pass, once this one's coefficients are known; None after the last."""
    try:
        return passes.send(coefficients)
    except StopIteration:
        return None


def coded(coefficients: Int32, asked: Asked) -> list[tuple[Int32, Int32]]:
    """What a pass puts into the lanes for its coded coefficients: values and their tables."""
    symbols, beyond = context.split(coefficients, asked)
    return [(symbols, asked.table), (beyond, context.beyond_tables(symbols, asked))]


def _cheapest(model: ContextModel, exact: Float32, asked: Asked, price: Float32) -> Int32:
    """Of the two integers next to each value, the nearer and the more expected, the cheaper: int32 [k]."""
    nearest = context.clip(np.rint(exact).astype(np.int32), asked)
    if asked.which == PASSES[0]:  # where nothing is expected
        return nearest
    best = np.flatnonzero(nearest != asked.mean)
    at = replace(asked, coded=asked.coded[best], mean=asked.mean[best], table=asked.table[best], sign=asked.sign[best])
    here, worth = exact[best], price[at.coded % price.size]
    first, second = nearest[best], nearest[best] - np.sign(nearest[best] - at.mean)
    costs = []
    for candidate in (first, second):
        (symbols, table), (beyond, beyond_table) = coded(candidate, at)
        units = model.tables.costs.take(model.tables.positions(symbols, table)).astype(np.float32)
        units[context.at_ends(symbols, at)] += model.tables.costs.take(model.tables.positions(beyond, beyond_table))
        costs.append(units * np.float32((1 + CONTEXT_SHARE) / COST_UNITS) + worth * np.square(candidate - here))
    nearest[best] = np.where(costs[1] < costs[0], second, first)
    return nearest


def _rows(values: Int32, lanes: int, padding: int) -> Int32:
    """Values dealt to lanes: int32 [ceil(n / lanes), lanes]."""
    rows = np.full((-(-values.size // lanes), lanes), padding, np.int32)
    rows.reshape(-1)[: values.size] = values
    return rows


def _pieces(code: bytes, count: int) -> list[bytes]:
    """The lanes."""
    source = "the lengths of a tile's lanes"
    lasts = np.flatnonzero(np.frombuffer(code, np.uint8)[1:] < 0x80)[: count - 1]
    if len(lasts) < count - 1:
        raise BitstreamError(f"expected {count - 1} numbers in {source}, found {len(lasts)}")
    offset = int(lasts[-1]) + 2 if count > 1 else 1
    folded = varints.unpack(code[1:offset], source)
    sizes = np.cumsum(folded >> 1 ^ -(folded & 1)).tolist()
    left = len(code) - offset - sum(sizes)
    if left < 0 or min(sizes, default=0) < 0:
        raise BitstreamError(f"expected {source} within {len(code) - offset} bytes, found {sum(sizes)}")
    ends = np.cumsum([offset, *sizes, left]).tolist()
    return [code[a:b] for a, b in pairwise(ends)]
