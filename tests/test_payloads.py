"""The payload of an item of any size: its header, its tiles' lengths, and what is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcomp.coding.varints import pack as varints
from tfcomp.entropy.payloads import Header, pack, parse
from tfcomp.errors import BitstreamError
from tfcomp.geometry import Grid

GRID = Grid(8, 6, 16)
QUALITIES = range(1, 9)

headers = st.builds(
    Header, quality=st.integers(1, 64), grey=st.booleans(), height=st.integers(1, 700), width=st.integers(1, 700)
)
grids = st.builds(Grid, stride=st.sampled_from([1, 3, 8, 16]), margin=st.just(2), tile=st.integers(50, 200))


@given(headers, grids, st.randoms(use_true_random=False))
def test_a_payload_comes_apart_as_it_was_put_together(header: Header, grid: Grid, random: object) -> None:
    count = int(grid.plan(header.height, header.width).tiles)
    codes = [bytes([random.randrange(256)]) * random.randrange(1, 300) for _ in range(count)]  # type: ignore[attr-defined]
    payload = pack(header, codes)
    found, plan, tiles = parse(payload, grid, range(1, 65), grey_allowed=True)
    assert found == header
    assert tiles == codes
    assert (plan.height, plan.width, plan.tiles) == (header.height, header.width, count)


@given(st.binary(max_size=80))
def test_any_bytes_are_parts_or_refused(data: bytes) -> None:
    try:
        header, plan, tiles = parse(data, GRID, QUALITIES, grey_allowed=False)
    except BitstreamError:
        return
    assert not header.grey
    assert header.quality in QUALITIES
    assert len(tiles) == plan.tiles <= len(data)
    assert data.endswith(b"".join(tiles))


def payload(first: int, *numbers: int, tiles: bytes = b"") -> bytes:
    return bytes([first]) + varints(np.array(numbers, np.int64)) + tiles


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found no bytes"),
        ("text", "found str"),
        (bytearray(b"\4\10\10\0"), "found bytearray"),
        (payload(4), "variable-length integer"),
        (payload(8, 8, 8, tiles=b"\0"), "1 to 8 and 1 to 268435456 pixels, found a first byte 0x08 and 8x8"),
        (payload(0x84, 8, 8, tiles=b"\0"), "byte 0x84 and 8x8"),
        (payload(0x44, 8, 8, tiles=b"\0"), "byte 0x44 and 8x8"),
        (payload(4, 0, 8, tiles=b"\0"), "byte 0x04 and 8x0"),
        (payload(4, 2**31 - 1, 1, tiles=b"\0"), "1 to 268435456 pixels"),
        (payload(4, 2**62, 2**62, tiles=b"\0"), "1 to 268435456 pixels"),
        (payload(4, 1 << 28, 1, tiles=bytes(9000)), "1 to 268435456 pixels"),
        (payload(4, 1 << 14, 1 << 13, tiles=b"\0"), "bytes or more for 8192x16384 pixels, found 7"),
        (payload(4, 200, 200, 5, tiles=b"\0" * 3), "expected 12 bytes or more for 200x200 pixels, found 9"),
        (payload(4, 200, 200, 2**62, 2**62, 2**62, tiles=b"\0"), "bytes or more in an item's payload"),
    ],
)
def test_claims_are_checked_before_memory_is_taken(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(data, GRID, QUALITIES, grey_allowed=False)


def test_grey_is_for_codecs_of_three_channels() -> None:
    data = pack(Header(5, grey=True, height=8, width=9), [b"\1"])
    assert parse(data, GRID, QUALITIES, grey_allowed=True)[0].grey
    with pytest.raises(BitstreamError, match="byte 0x44 and 9x8"):
        parse(data, GRID, QUALITIES, grey_allowed=False)


def test_a_limit_of_pixels_counts_those_that_are_mirrored() -> None:
    data = pack(Header(1, grey=False, height=8, width=8), [b"\1"])
    parse(data, GRID, QUALITIES, grey_allowed=True, max_pixels=24 * 24)
    with pytest.raises(BitstreamError, match="at most 575 pixels, found 8x8"):
        parse(data, GRID, QUALITIES, grey_allowed=True, max_pixels=24 * 24 - 1)


def test_qualities_need_not_be_all() -> None:
    data = pack(Header(3, grey=False, height=8, width=8), [b"\1"])
    assert parse(data, GRID, [3], grey_allowed=True)[0].quality == 3
    with pytest.raises(BitstreamError, match="a quality of 2 to 4"):
        parse(data, GRID, {2, 4}, grey_allowed=True)
