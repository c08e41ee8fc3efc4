"""Tiles and items of any size in the graph: in TensorFlow and LiteRT, they read and write what NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from block_codec import blocks, in_litert, in_tensorflow, octets, scene
from context_models import latents, models, random_model, static, trained_like, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.coding.varints import pack as varints
from tfcomp.entropy import tiles
from tfcomp.entropy.context import MAX_WEIGHT, ContextModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import Grid
from tfcomp.graph.any_size import AnySizeGraph
from tfcomp.graph.operators import FLAT, scan_rows
from tfcomp.graph.tile_coder import TileCoder, _lanes, packed, unpacked
from tfcomp.layout import Layout

Images = NDArray[np.uint8]

# === Tiles, without a trace ===


def as_tensor(code: bytes) -> Any:
    return tf.constant([*code], tf.int32, shape=[len(code)])


def decoded(coder: TileCoder, code: bytes, height: int, width: int, quality: int = 0) -> Int32:
    found, few = coder.decode(as_tensor(code), tf.constant(height), tf.constant(width), tf.constant(quality))
    assert int(few) == 1
    return found.numpy().reshape(height, width, -1)


def encoded(coder: TileCoder, latent: NDArray[np.float32], quality: int = 0) -> bytes:
    height, width, channels = latent.shape
    flat = tf.constant(latent.reshape(-1, channels))
    return bytes(coder.encode(flat, tf.constant(height), tf.constant(width), tf.constant(quality)).numpy().tolist())


@settings(max_examples=7)
@given(models(), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(0, 2**32 - 1), st.floats(0.05, 80))
def test_tiles_are_coded_as_numpy_does(model: ContextModel, size: tuple[int, int], seed: int, spread: float) -> None:
    coder, exact = TileCoder([model], weights(model)[None]), latents(model, *size, seed, spread)
    code, found = tiles.encode(model, exact, weights(model))
    np.testing.assert_array_equal(decoded(coder, code, *size), found)
    written = encoded(coder, exact)
    restored = tiles.decode(model, written, *size)
    assert written == code or np.mean(restored != found) < 0.2  # a tie, and what follows from it
    assert (written == code) == np.array_equal(restored, found)


@settings(max_examples=6)
@given(models(), st.binary(max_size=60))
def test_any_bytes_are_some_integers(model: ContextModel, data: bytes) -> None:
    coder = TileCoder([model], weights(model)[None])
    found, _ = coder.decode(as_tensor(data), tf.constant(4), tf.constant(3), tf.constant(0))
    try:
        expected = tiles.decode(model, data, 4, 3)
    except BitstreamError:
        return
    np.testing.assert_array_equal(found.numpy().reshape(4, 3, -1), expected)
    np.testing.assert_array_equal(decoded(coder, data, 4, 3), expected)


def test_too_many_symbols_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("graph.tile_coder", "entropy.tiles"):
        monkeypatch.setattr(f"tfcomp.{module}.MAX_SYMBOLS_PER_LANE", 9)
    model = static(5)  # a symbol of each channel at least
    coder = TileCoder([model], weights(model)[None])
    _, few = coder.decode(as_tensor(bytes([0, 5])), tf.constant(2), tf.constant(2), tf.constant(0))
    assert int(few) == 0
    with pytest.raises(BitstreamError, match="at most 9 symbols in a tile"):
        tiles.decode(model, bytes([0, 5]), 2, 2)
    code = bytes([2, 0, 0, 0, 5])  # four lanes have room for 36
    np.testing.assert_array_equal(decoded(coder, code, 2, 2), tiles.decode(model, code, 2, 2))


@pytest.mark.parametrize("qualities", [[static(5, 1), static(5, 2), static(5, 3)], [trained_like(0), trained_like(1)]])
def test_each_quality_has_its_own_tables_of_any_sizes(qualities: list[ContextModel]) -> None:
    assert len({model.tables.frequencies.size for model in qualities}) == len(qualities)
    coder = TileCoder(qualities, np.stack([weights(model, 1e6) for model in qualities]))
    for quality, model in enumerate(qualities):
        exact = latents(model, 6, 5, quality, 4.0)
        code, found = tiles.encode(model, exact, weights(model, 1e6))
        assert encoded(coder, exact, quality) == code
        np.testing.assert_array_equal(decoded(coder, code, 6, 5, quality), found)


def test_lanes_of_very_different_lengths_take_no_memory() -> None:
    """1,024 lanes, of which the last has all the bytes: a table of lanes times bytes would have 4 GB."""
    code = bytes([10]) + bytes(1023) + bytes(range(256)) * 4096
    lanes, pairs, _, _ = _lanes(as_tensor(code), 20)
    assert int(lanes) == 1024
    assert 1024 * 8192 < tf.size(pairs) < 1024 * 9000


def test_models_that_cannot_be_coded_together_are_refused() -> None:
    other = random_model(Layout((2, 3)), 0)
    for several in ([trained_like(), other], [static(5), static(4)]):
        with pytest.raises(InputError, match="models of one layout"):
            TileCoder(several, np.ones((2, 6)))
    finer = ContextModel.static([np.ones(3)] * 4, precision=13)
    with pytest.raises(InputError, match="tables of one precision"):
        TileCoder([static(4), finer], np.ones((2, 4)))
    large = random_model(Layout((2,)), 1)
    large.scales[0][0, 0, 0, 0] = MAX_WEIGHT + 1
    with pytest.raises(InputError, match="weights of contexts up to 2048, found 2049"):
        TileCoder([large], np.ones((1, 2)))


# === Items of any size ===


both = pytest.mark.parametrize("name", ["contexts", "static"])
SIZES = [(1, 1), (1, 40), (33, 5), (31, 44)]


@pytest.mark.slow
@both
def test_items_of_any_size_in_every_runtime(name: str) -> None:
    codec, runtimes = blocks(name), (in_tensorflow(name), in_litert(name))
    several = 0
    for shape in SIZES:
        image = scene(*shape, codec.channels)
        for quality in range(1, len(codec.models) + 1):
            payload = codec.compress(image, quality)
            several += codec.grid.plan(*shape).tiles > 1
            expected = codec.decompress(payload)
            np.testing.assert_array_equal(runtimes[0]["decode"](payload=octets(payload)), codec.decode(payload))
            for runtime in runtimes:
                shown = runtime["decompress"](payload=octets(payload))
                assert shown.shape == image.shape
                assert np.abs(shown.astype(int) - expected).max() <= 1
                written = runtime["compress"](image=image[None], quality=np.int32([quality])).tobytes()
                assert np.mean(codec.decode(written) != codec.decode(payload)) < 0.02
                assert abs(len(written) - len(payload)) <= 2
    assert several


@pytest.mark.further
def test_grey_comes_back_as_one_channel() -> None:
    codec = blocks("contexts")
    image = np.repeat(scene(21, 30, 1), 3, axis=2)
    payload = codec.compress(image, 2, grey=True)
    expected = codec.decompress(payload)
    assert expected.shape == (21, 30, 1)
    for runtime in (in_tensorflow("contexts"), in_litert("contexts")):
        shown = runtime["decompress"](payload=octets(payload))
        assert shown.shape == (21, 30, 1)
        assert np.abs(shown.astype(int) - expected).max() <= 1
    # Bit 6 says nothing to a codec of another number of channels.
    payload = blocks("static").compress(scene(9, 9, 1), 1)
    shown = [in_tensorflow("static")["decompress"](payload=octets(p)) for p in (payload, b"\x40" + payload[1:])]
    np.testing.assert_array_equal(*shown)


def test_qualities_that_are_none_are_the_nearest() -> None:
    image, compress = scene(20, 20, 3)[None], in_tensorflow("contexts")["compress"]
    found = [compress(image=image, quality=np.int32([q])).tobytes() for q in (-(2**31), 1, 2, 2**31 - 1)]
    assert found[0] == found[1] != found[2] == found[3]


@pytest.mark.further
@both
@settings(max_examples=25)
@given(data=st.data())
def test_any_bytes_give_an_item_of_the_size_that_they_claim(name: str, data: st.DataObject) -> None:
    codec = blocks(name)
    payload = bytearray(codec.compress(scene(24, 31, codec.channels), 1))
    damage = data.draw(st.sampled_from(["cut", "changed", "random", "empty"]))
    if damage == "cut":
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    elif damage == "changed":
        payload[data.draw(st.integers(3, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    elif damage == "random":  # not so large an item that the test takes long
        payload = bytearray([data.draw(st.integers(0, 255)), 20, 30, *data.draw(st.binary(max_size=60))])
    else:
        payload = bytearray(data.draw(st.binary(max_size=1)))
    found = [
        runtime["decompress"](payload=octets(bytes(payload))) for runtime in (in_tensorflow(name), in_litert(name))
    ]
    assert np.abs(found[0].astype(int) - found[1]).max() <= 1
    grey = codec.channels == 3 and len(payload) > 0 and payload[0] & 64
    channels = 1 if grey else codec.channels
    claims = {"random": (20, 30, channels), "changed": (24, 31, channels)}
    try:
        expected = codec.decompress(bytes(payload))
    except BitstreamError as error:
        if damage in claims and (damage == "changed" or len(payload) > 15):
            assert found[0].shape in {claims[damage], (1, 1, channels)}
        if "symbols in a tile" in str(error):
            assert found[0].shape == (1, 1, channels)
        return
    assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_what_does_not_fit_is_refused() -> None:
    one = np.ones((1, 5), np.float32)
    options: dict[str, Any] = {"channels": 1, "analyse": None, "synthesise": None}
    with pytest.raises(InputError, match=r"error weights \[1, 5\], found \[\(1, 5\), \(5,\), \(1, 5\)\]"):
        AnySizeGraph([static(5)], one, one[0], one, grid=Grid(8, 1, 8), **options)
    with pytest.raises(InputError, match="tiles of up to 2097152 coefficients"):
        AnySizeGraph([static(5)], one, one, one, grid=Grid(1, 1, 1000), **options)


# === Parts ===


@given(st.lists(st.integers(0, 2**28 - 1), max_size=20), st.binary(max_size=5))
def test_varints_in_the_graph(numbers: list[int], rest: bytes) -> None:
    data = varints(np.array(numbers, np.int64))
    written = packed(tf.constant(numbers, tf.int32, shape=[len(numbers)]))
    assert bytes(np.asarray(written, np.uint8)) == data
    read, offset = unpacked(tf.constant([*b"x", *data, *rest], tf.int32), 1, len(numbers))
    assert read.numpy().tolist() == numbers
    assert int(offset) == 1 + len(data)


def test_scan_rows_keeps_the_order() -> None:
    def step(state: tuple[Any, ...], row: Any) -> tuple[tuple[Any, ...], Any]:
        return (state[0] + row,), state[0] * 3 + row

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([], tf.int32)], autograph=False)
    def summed(rows: Any, run: Any) -> Any:
        (state,), outputs = scan_rows(step, (tf.zeros([2], tf.int32),), rows, run > 0)
        return tf.concat([outputs, state[None]], axis=0)

    for count in (1, FLAT - 1, FLAT, FLAT + 1, 3 * FLAT + 5):
        rows = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
        before = np.cumsum(rows, axis=0) - rows
        expected = np.concatenate([3 * before + rows, rows.sum(axis=0, keepdims=True)])
        for run in (1, 0):
            np.testing.assert_array_equal(summed(rows, run), run * expected)
