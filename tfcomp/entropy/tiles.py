"""The coefficients of one tile as bytes: the passes of `context` through the range coder's lanes.

A tile's code is ``2**n`` lanes, each coded as a message of its own (see `tfcomp.coding.range_coder`). The symbols that
a pass codes go to the lanes in turn: symbol ``i`` is the next of lane ``i % 2**n``; then, in the same way, the overflow
of the pass. Every pass begins at lane 0, and a lane that a pass leaves out waits. So all lanes step together, and the
decoder has what it needs before each pass::

    bytes:  n;  varints, the lengths of all lanes but the last;  the lanes, end to end

A length is stored as its difference ``d`` to the one before (the first as its difference to 0): as ``2 * d``, or as
``-2 * d - 1`` where ``d`` is negative. The encoder chooses ``n``: a lane costs 1.3 bytes or more, and half of the lanes
make twice the steps. But a tile has at most ``4096 * 2**n`` symbols, so that no few bytes keep a decoder busy for long.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import lanes, varints
from tfcomp.coding.lanes import Coding
from tfcomp.coding.tables import COST_UNITS, Int32
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.pass_tables import PassTables
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import MAX_COEFFICIENTS

MAX_LANES_LOG2 = 10
MAX_SYMBOLS_PER_LANE = 4096
"""Largest mean number of symbols per lane. A tile of `MAX_COEFFICIENTS`, each with overflow, fits the most lanes."""
BYTES_PER_LANE, SYMBOLS_PER_LANE = 256, 2000
"""Approximate numbers of bytes and symbols that the encoder gives a lane."""
LARGEST_VALUE = float(1 << 24)
"""Magnitude that coefficients are held to before they are rounded: far more than any table reaches."""
CONTEXT_SHARE = 0.15
"""Share of a coefficient's bits by which it raises the bits of later ones, as the encoder weighs bits against error."""

Float32 = NDArray[np.float32]


def choose(model: ContextModel, latent: Float32, error_weight: Float32) -> tuple[list[Int32], Int32]:
    """Chooses the integers of a tile, and their symbols.

    Args:
        model: the model of the quality.
        latent: float32 [h, w, channels], finite, in steps, not rounded.
        error_weight: float32 [channels], the bits that one squared step of error is worth. Rounding is to the integer
            that costs least in all, of the nearest one and the next on the way to the expected one (Ramchandran and
            Vetterli 1994, without their search).

    Returns:
        The places of the symbols in ``model.tables``, int32 [n], for each pass two arrays, the second of its overflow;
        and the integers as a decoder finds them, int32 [h, w, channels].
    """
    height, width, channels = latent.shape
    flat = np.clip(latent.reshape(-1, channels), -LARGEST_VALUE, LARGEST_VALUE)
    integers = np.zeros((height * width, channels), np.int32)
    symbols: list[Int32] = []
    passes = model.passes(height, width)
    tables = next(passes, None)
    while tables is not None:
        group, where = tables.which.channels, tables.which.places(height, width)
        chosen = rd_quantize(model, flat[where, group].ravel().take(tables.coded), tables, error_weight[group])
        coefficients = tables.expected.copy()
        coefficients[tables.coded] = chosen
        integers[where, group] = coefficients.reshape(-1, tables.which.count)
        symbols += [model.tables.positions(values, table) for values, table in tables.values(chosen)]
        tables = advance(passes, coefficients)
    return symbols, integers.reshape(latent.shape)


def encode(model: ContextModel, latent: Float32, error_weight: Float32) -> tuple[bytes, Int32]:
    """The bytes of a tile, and its integers as a decoder finds them, int32 [h, w, channels]; arguments as `choose`.

    Raises:
        InputError: if the tile has more than `MAX_COEFFICIENTS`, or other channels than the model.
    """
    if latent.ndim != 3 or latent.shape[2] != model.layout.channels or latent.size > MAX_COEFFICIENTS:
        raise InputError(
            f"expected a tile of {model.layout.channels} channels and up to {MAX_COEFFICIENTS} coefficients, "
            f"found {list(latent.shape)}"
        )
    symbols, integers = choose(model, latent, error_weight)
    units = sum(int(model.tables.costs.take(positions).sum()) for positions in symbols)
    steps = sum(positions.size for positions in symbols) / SYMBOLS_PER_LANE
    wanted = max(units / COST_UNITS / 8 / BYTES_PER_LANE, steps, 1)
    lanes_log2 = int(min(round(np.log2(wanted)), MAX_LANES_LOG2))
    coding = Coding.of(model.tables)
    pieces = lanes.encode(np.concatenate([_rows(p, 1 << lanes_log2, coding.padding) for p in symbols]), coding)
    lengths = np.array([*map(len, pieces[:-1])], np.int64)
    differences = np.diff(lengths, prepend=0)
    return bytes([lanes_log2]) + varints.pack(differences * 2 ^ differences >> 63) + b"".join(pieces), integers


def decode(model: ContextModel, code: bytes, height: int, width: int) -> Int32:
    """The integers of a tile, int32 [height, width, channels]; the inverse of `encode`.

    Raises:
        BitstreamError: if the bytes are none that `encode` can make, as far as lengths can tell.
    """
    coding, channels = Coding.of(model.tables), model.layout.channels
    lanes_log2 = code[0] if code else MAX_LANES_LOG2 + 1
    if lanes_log2 > MAX_LANES_LOG2:
        begin = f"{code[0]}" if code else "no bytes"
        raise BitstreamError(f"expected a tile to begin with a number of 0 to {MAX_LANES_LOG2}, found {begin}")
    pieces = _pieces(code, 1 << lanes_log2)
    decoder = lanes.Decoder(pieces, coding)
    offset = model.tables.first - model.tables.lower
    left = MAX_SYMBOLS_PER_LANE << lanes_log2

    def take(table: Int32) -> Int32:
        nonlocal left
        left -= table.size
        if left < 0:
            most = MAX_SYMBOLS_PER_LANE << lanes_log2
            raise BitstreamError(f"expected at most {most} symbols in a tile, found more")
        rows = _rows(table, 1 << lanes_log2, coding.padding_table)
        return decoder.take(rows).ravel()[: table.size] - offset.take(table)

    integers = np.zeros((height * width, channels), np.int32)
    passes = model.passes(height, width)
    tables = next(passes, None)
    while tables is not None:
        symbols = take(tables.table)
        ends = tables.ends(symbols)
        coefficients = tables.expected
        coefficients[tables.coded] = tables.join(symbols, ends, take(tables.overflow_tables(ends)))
        places = tables.which.places(height, width)
        integers[places, tables.which.channels] = coefficients.reshape(-1, tables.which.count)
        tables = advance(passes, coefficients)
    if np.any(bad := (decoder.sizes > decoder.longest) | decoder.end_in_zero):
        lane = int(np.argmax(bad))
        longest, size = decoder.longest[lane], decoder.sizes[lane]
        raise BitstreamError(f"lane {lane}: expected at most {longest} bytes that end in no zero, found {size}")
    return integers.reshape(height, width, channels)


def rd_quantize(model: ContextModel, exact: Float32, tables: PassTables, error_weight: Float32) -> Int32:
    """The integers that cost least in bits and weighted error, int32 [k].

    Args:
        model: the model of the quality.
        exact: float32 [k], the coefficients that have symbols, in steps.
        tables: of the pass.
        error_weight: float32 [channels of the pass].

    Returns:
        For each coefficient the nearest integer, or the next on the way to the expected one. In the first of several
        passes, on which all later ones depend, rounding is to the nearest.
    """
    nearest = tables.clip(np.rint(exact).astype(np.int32))
    contextual = model.layout.contextual
    if contextual and tables.which == model.layout.passes[0]:
        return nearest
    some = np.flatnonzero(nearest != tables.mean)
    of_some, here, first = tables.take(some), exact.take(some), nearest.take(some)
    weight = error_weight.take(of_some.coded % error_weight.size)
    second = first - np.sign(first - of_some.mean)
    share = np.float32((1 + CONTEXT_SHARE if contextual else 1) / COST_UNITS)
    costs = []
    for candidate in (first, second):
        symbols, ends, overflow = of_some.split(candidate)
        units = model.tables.costs.take(model.tables.positions(symbols, of_some.table)).astype(np.float32)
        units[ends] += model.tables.costs.take(model.tables.positions(overflow, of_some.overflow_tables(ends)))
        costs.append(units * share + weight * np.square(candidate - here))
    nearest[some] = np.where(costs[1] < costs[0], second, first)
    return nearest


def advance(passes: Generator[PassTables, Int32, None], coefficients: Int32) -> PassTables | None:
    """The next pass, once the coefficients of this one are known; None after the last."""
    try:
        return passes.send(coefficients)
    except StopIteration:
        return None


# === Lanes ===


def _rows(values: Int32, lanes: int, padding: int) -> Int32:
    """Values dealt to lanes: int32 [ceil(n / lanes), lanes]."""
    rows = np.full((-(-values.size // lanes), lanes), padding, np.int32)
    rows.reshape(-1)[: values.size] = values
    return rows


def _pieces(code: bytes, count: int) -> list[bytes]:
    """The bytes of each lane."""
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
