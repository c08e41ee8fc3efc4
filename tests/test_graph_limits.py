"""What the graph believes of a payload's claims: what the library does, and one pixel for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from block_codec import Blocks, blocks
from context_models import static
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp.coding.varints import pack as varints
from tfcomp.errors import BitstreamError
from tfcomp.geometry import DEFAULT_MAX_PIXELS


def claim(codec: Blocks, payload: bytes) -> list[int]:
    """The size of the item that a payload claims, as the graph believes it."""
    _, grey, plan, _, _ = codec.graph._header(tf.constant([*payload], tf.uint8))
    return codec.graph._size(plan, grey).numpy().tolist()


@pytest.mark.parametrize("size", [(120, 120), (240, 120)])
def test_a_claim_of_too_many_symbols_is_one_pixel(size: tuple[int, int]) -> None:
    """The library refuses it at its first tile; the graph's networks see no item of the claimed size."""
    codec = Blocks([static(9, 3)], channels=1, stride=3, tile=40)
    count = int(codec.grid.plan(*size).tiles)
    header = bytes([0]) + varints(np.array(size, np.int64))
    payload = header + bytes([1] * (count - 1)) + bytes([0] * count)  # a byte for each: one lane, of no bytes
    with pytest.raises(BitstreamError, match="symbols in a tile"):
        codec.decompress(payload)
    data = tf.constant([*payload], tf.uint8)
    latent = codec.graph.decode(data)
    assert codec.graph.decompress(data, latent).shape == (1, 1, 1)
    assert codec.graph.size(data, latent).numpy().tolist() == [1, 1, 1]


@settings(max_examples=40)
@given(st.integers(1, 3 << 12), st.integers(0, 2**28 - 1), st.integers(1, 200))
def test_a_claim_is_believed_where_numpy_believes_it(height: int, width: int, size: int) -> None:
    """A size that is refused, with what it is mirrored by or for want of bytes, is taken for one pixel."""
    codec = blocks("contexts")
    payload = (bytes([1]) + varints(np.array([height, width], np.int64))).ljust(size, b"\1")
    header = 1 + len(varints(np.array([height, width], np.int64)))
    fits = codec.grid.fits(height, width, DEFAULT_MAX_PIXELS)
    fits = fits and len(payload) >= header + 2 * codec.grid.plan(height, width).tiles - 1
    expected = [height, width, 3] if fits else [1, 1, 3]
    assert claim(codec, payload) == expected


@pytest.mark.parametrize("limit", [4, 24 * 31, 40 * 50])
def test_the_graph_takes_the_codec_s_limit_of_pixels(limit: int) -> None:
    codec = Blocks(blocks("contexts").models, channels=3, stride=2, max_pixels=limit)
    for size in ((1, 1), (20, 20), (24, 31), (40, 50), (90, 90)):
        payload = (bytes([1]) + varints(np.array(size, np.int64))).ljust(200, b"\1")
        expected = [*size, 3] if codec.grid.fits(*size, limit) else [1, 1, 3]
        assert claim(codec, payload) == expected
