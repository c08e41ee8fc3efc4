"""The payload of an item of any size: a header, then its tiles.

    1 byte    quality - 1 in bits 0 to 5; bit 6: grey, one channel that was given to a codec of three; bit 7: 0
    varints   height, width in pixels; then the lengths of all tiles but the last (see `tfcomp.coding.varints`)
    tiles     end to end, row by row: see `tiles`

A tile has at least one byte, and so has the length of each but the last, so that a payload of ``n`` bytes claims at
most ``n / 2`` tiles, and memory for no more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError
from tfcomp.geometry import MAX_PIXELS, Grid, Plan, too_many_pixels

GREY = 1 << 6
RESERVED = 1 << 7


@dataclass(frozen=True)
class Header:
    """Beginning of a payload: quality and size of its item.

    Attributes:
        quality: from 1.
        grey: whether one channel was given to a codec of three.
        height, width: pixels of the item.
    """

    quality: int
    grey: bool
    height: int
    width: int


def pack(header: Header, tiles: Sequence[bytes]) -> bytes:
    """The payload of an item.

    Args:
        header: quality and size of the item.
        tiles: the codes of all tiles of its plan, row by row.
    """
    numbers = [header.height, header.width, *map(len, tiles[:-1])]
    first = header.quality - 1 | GREY * header.grey
    return bytes([first]) + varints.pack(np.array(numbers, np.int64)) + b"".join(tiles)


def parse(
    payload: bytes, grid: Grid, qualities: Collection[int], *, grey_allowed: bool, max_pixels: int = MAX_PIXELS
) -> tuple[Header, Plan, list[bytes]]:
    """The parts of a payload; the inverse of `pack`.

    Args:
        payload: the bytes.
        grid: the codec's.
        qualities: the codec's, from 1.
        grey_allowed: whether the codec has three channels.
        max_pixels: the most pixels that the item may have, mirrored ones included.

    Returns:
        The header, the plan of the item's latent, and the codes of the plan's tiles.

    Raises:
        BitstreamError: if the bytes are no payload of such a codec, as far as can be told without decoding.
    """
    source = "an item's payload"
    if not isinstance(payload, bytes) or not payload:
        raise BitstreamError(f"expected {source}, found {'no bytes' if payload == b'' else type(payload).__name__}")
    quality, grey = (payload[0] & GREY - 1) + 1, bool(payload[0] & GREY)
    height, offset = varints.unpack_one(payload, 1, source)
    width, offset = varints.unpack_one(payload, offset, source)
    legal = quality in qualities and not payload[0] & RESERVED and (grey_allowed or not grey)
    if not legal or not grid.fits(height, width):
        limits = f"a quality of {min(qualities)} to {max(qualities)} and 1 to {MAX_PIXELS} pixels"
        raise BitstreamError(f"expected {limits}, found a first byte {payload[0]:#04x} and {width}x{height}")
    plan = grid.plan(height, width)
    count = int(plan.tiles)
    if (least := offset + 2 * count - 1) > len(payload):
        raise BitstreamError(f"expected {least} bytes or more for {width}x{height} pixels, found {len(payload)}")
    if plan.pixels_in_all > max_pixels:
        raise BitstreamError(too_many_pixels(max_pixels, height, width))
    sizes = []
    for _ in range(count - 1):
        size, offset = varints.unpack_one(payload, offset, source)
        sizes.append(size)
    ends = [offset]
    for size in sizes:
        ends.append(ends[-1] + size)
    if ends[-1] >= len(payload) or min(sizes, default=1) < 1:
        expected = f"{ends[-1] + 1} bytes or more in {source} and no empty tile"
        raise BitstreamError(f"expected {expected}, found {len(payload)} bytes")
    return Header(quality, grey, height, width), plan, [payload[a:b] for a, b in pairwise([*ends, len(payload)])]
