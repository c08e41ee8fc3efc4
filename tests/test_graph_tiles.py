"""Tiles and items of any size in the graph: in TensorFlow and LiteRT, they read and write what NumPy does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from context_models import latents, models, random_model, static, trained_like, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.coding.varints import pack as varints
from tfcomp.entropy import payloads, tiles
from tfcomp.entropy.context import MAX_WEIGHT, ContextModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import Grid
from tfcomp.graph.any_size import AnySizeGraph
from tfcomp.graph.operators import FLAT, scan_rows
from tfcomp.graph.tile_coder import TileCoder, _lanes, packed, unpacked
from tfcomp.layout import CHESSBOARD, Layout

Images = NDArray[np.uint8]

# === Tiles, without a trace ===


def as_tensor(code: bytes) -> Any:
    return tf.constant([*code], tf.int32, shape=[len(code)])


def decoded(coder: TileCoder, code: bytes, height: int, width: int, quality: int = 0) -> Int32:
    found = coder.decode(as_tensor(code), tf.constant(height), tf.constant(width), tf.constant(quality))
    return found.numpy().reshape(height, width, -1)


def encoded(coder: TileCoder, latent: NDArray[np.float32], quality: int = 0) -> bytes:
    height, width, channels = latent.shape
    flat = tf.constant(latent.reshape(-1, channels))
    return bytes(coder.encode(flat, tf.constant(height), tf.constant(width), tf.constant(quality)).numpy().tolist())


@settings(max_examples=7, deadline=None)
@given(models(), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(0, 2**32 - 1), st.floats(0.05, 80))
def test_tiles_are_coded_as_numpy_does(model: ContextModel, size: tuple[int, int], seed: int, spread: float) -> None:
    coder, exact = TileCoder([model], weights(model)[None]), latents(model, *size, seed, spread)
    code, found = tiles.encode(model, exact, weights(model))
    np.testing.assert_array_equal(decoded(coder, code, *size), found)
    written = encoded(coder, exact)
    restored = tiles.decode(model, written, *size)
    assert written == code or np.mean(restored != found) < 0.2  # a tie, and what follows from it
    assert (written == code) == np.array_equal(restored, found)


@settings(max_examples=6, deadline=None)
@given(models(), st.binary(max_size=60))
def test_any_bytes_are_some_integers(model: ContextModel, data: bytes) -> None:
    found = decoded(TileCoder([model], weights(model)[None]), data, 4, 3)
    try:
        expected = tiles.decode(model, data, 4, 3)
    except BitstreamError:
        return
    np.testing.assert_array_equal(found, expected)


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


class Blocks:
    """A codec whose transform are blocks of pixels, which are exact in every runtime; in NumPy, and in the graph.

    Args:
        qualities: models of ``channels * stride**2`` channels.
        channels: of the items.
        stride: pixels a side of a block.
    """

    def __init__(self, qualities: list[ContextModel], channels: int, stride: int) -> None:
        self.models, self.channels, self.grid = qualities, channels, Grid(stride, 1, 9)
        self.k, count = channels * stride**2, len(qualities)
        self.steps = np.outer(np.geomspace(16, 5, count), np.linspace(1, 1.5, self.k)).astype(np.float32)
        self.offsets = np.outer(np.ones(count), np.linspace(-3, 3, self.k)).astype(np.float32)
        self.weights = np.full((count, self.k), 4, np.float32)
        self.graph = AnySizeGraph(
            qualities,
            self.steps,
            self.offsets,
            self.weights,
            grid=self.grid,
            channels=channels,
            analyse=lambda image: tf.nn.space_to_depth(tf.cast(image, tf.float32) - 128.0, stride),
            synthesise=self._synthesise,
        )

    def _synthesise(self, latent: Any, quality: Any) -> Any:
        pixels = tf.nn.depth_to_space(latent, self.grid.stride) + 128.0
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)

    def compress(self, image: Images, quality: int, grey: bool = False) -> bytes:
        plan, s = self.grid.plan(*image.shape[:2]), self.grid.stride
        rows, columns = plan.sources()
        blocks = image[rows][:, columns].reshape(int(plan.rows), s, int(plan.columns), s, -1).transpose(0, 2, 1, 3, 4)
        latent = blocks.reshape(int(plan.rows), int(plan.columns), -1).astype(np.float32) - 128
        latent = (latent - self.offsets[quality - 1]) / self.steps[quality - 1]
        model, weight = self.models[quality - 1], self.weights[quality - 1]
        codes = [tiles.encode(model, latent[area], weight)[0] for area in plan.areas()]
        return payloads.pack(payloads.Header(quality, grey, *image.shape[:2]), codes)

    def decode(self, payload: bytes) -> Int32:
        qualities = range(1, len(self.models) + 1)
        header, plan, codes = payloads.parse(payload, self.grid, qualities, grey_allowed=self.channels == 3)
        latent = np.zeros((int(plan.rows), int(plan.columns), self.k), np.int32)
        for area, code in zip(plan.areas(), codes, strict=True):
            part = latent[area]
            part[:] = tiles.decode(self.models[header.quality - 1], code, *part.shape[:2])
        return latent

    def decompress(self, payload: bytes) -> Images:
        qualities = range(1, len(self.models) + 1)
        header, plan, _ = payloads.parse(payload, self.grid, qualities, grey_allowed=self.channels == 3)
        quality, s = header.quality - 1, self.grid.stride
        units = self.decode(payload).astype(np.float32) * self.steps[quality] + self.offsets[quality]
        blocks = units.reshape(*units.shape[:2], s, s, self.channels).transpose(0, 2, 1, 3, 4)
        whole = blocks.reshape(units.shape[0] * s, units.shape[1] * s, self.channels) + 128
        image = np.rint(np.clip(whole, 0, 255)).astype(np.uint8)
        image = image[int(plan.top) :][: header.height, int(plan.left) :][:, : header.width]
        return np.rint(image.mean(axis=-1, keepdims=True)).astype(np.uint8) if header.grey else image


@cache
def blocks(name: str) -> Blocks:
    numbers = {"levels": 6, "parts_log2": 1, "kinds": 2, "overflow_tables": 2}
    if name == "contexts":
        qualities = [
            random_model(Layout((3, 9), CHESSBOARD), seed, masked=True, not_coded=[0, seed], **numbers)
            for seed in (0, 1)
        ]
        return Blocks(qualities, channels=3, stride=2)
    return Blocks([static(9, 3)], channels=1, stride=3)


def scene(height: int, width: int, channels: int) -> Images:
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    image = 120 + 50 * np.sin(x / 7 + y / 5)[..., None] + rng.normal(0, 6, (height, width, channels))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


Runtime = dict[str, Callable[..., NDArray[Any]]]


@cache
def functions(name: str) -> dict[str, Any]:
    graph = blocks(name).graph
    image = tf.TensorSpec([1, None, None, graph.channels], tf.uint8, "image")
    quality, payload = tf.TensorSpec([1], tf.int32, "quality"), tf.TensorSpec([1, None], tf.uint8, "payload")

    def traced(function: Callable[..., Any], *signature: Any) -> Any:
        return tf.function(function, input_signature=signature, autograph=False)

    latent = traced(graph.decode, tf.TensorSpec([None], tf.uint8))

    def decompress(payload: Any) -> dict[str, Any]:
        return {"image": graph.decompress(payload[0], latent(payload[0]))}

    return {
        "compress": traced(lambda image, quality: {"payload": graph.compress(image[0], quality[0])}, image, quality),
        "decode": traced(lambda payload: {"latent": latent(payload[0])}, payload),
        "decompress": traced(decompress, payload),
    }


@cache
def in_tensorflow(name: str) -> Runtime:
    def call(function: Any) -> Callable[..., NDArray[Any]]:
        return lambda **inputs: next(iter(function(**inputs).values())).numpy()

    return {key: call(function) for key, function in functions(name).items()}


@cache
def in_litert(name: str) -> Runtime:
    """Converted with builtin operators alone, and floats halved: nothing that matters may be one."""

    def convert(function: Any) -> Callable[..., NDArray[Any]]:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        interpreter = Interpreter(model_content=converter.convert(), num_threads=1)

        def run(**inputs: NDArray[Any]) -> NDArray[Any]:
            details = {key: index_of(interpreter, key) for key in inputs}
            for key, value in inputs.items():
                interpreter.resize_tensor_input(details[key], value.shape)
            interpreter.allocate_tensors()
            for key, value in inputs.items():
                interpreter.set_tensor(details[key], value)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

        return run

    return {key: convert(functions(name)[key]) for key in ("compress", "decompress")}


def index_of(interpreter: Interpreter, key: str) -> int:
    (index,) = [detail["index"] for detail in interpreter.get_input_details() if key in detail["name"]]
    return index


def octets(payload: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(payload, np.uint8)[None]


both = pytest.mark.parametrize("name", ["contexts", "static"])
SIZES = [(1, 1), (1, 40), (33, 5), (31, 44)]


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


@both
@settings(max_examples=25, deadline=None)
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
    if damage == "random" and len(payload) > 15:
        grey = codec.channels == 3 and payload[0] & 64
        assert found[0].shape == (20, 30, 1 if grey else codec.channels)
    elif damage == "changed":
        assert found[0].shape == (24, 31, codec.channels)
    try:
        expected = codec.decompress(bytes(payload))
    except BitstreamError:
        return
    assert np.abs(found[0].astype(int) - expected).max() <= 1


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3 << 12), st.integers(0, 2**28 - 1), st.integers(1, 200))
def test_a_claim_is_believed_where_numpy_believes_it(height: int, width: int, size: int) -> None:
    """A size that is refused, with what it is mirrored by or for want of bytes, is taken for one pixel."""
    codec = blocks("contexts")
    payload = (bytes([1]) + varints(np.array([height, width], np.int64))).ljust(size, b"\1")
    fits = codec.grid.fits(height, width) and len(payload) >= codec.grid.plan(height, width).tiles
    expected = [height, width, 3] if fits else [1, 1, 3]
    assert codec.graph.size(tf.constant([*payload], tf.uint8)).numpy().tolist() == expected


def test_what_does_not_fit_is_refused() -> None:
    one = np.ones((1, 5), np.float32)
    options: dict[str, Any] = {"channels": 1, "analyse": None, "synthesise": None}
    with pytest.raises(InputError, match=r"error weights \[1, 5\], found \[\(1, 5\), \(5,\), \(1, 5\)\]"):
        AnySizeGraph([static(5)], one, one[0], one, grid=Grid(8, 1, 8), **options)
    with pytest.raises(InputError, match="tiles of up to 2097152 coefficients"):
        AnySizeGraph([static(5)], one, one, one, grid=Grid(1, 1, 1000), **options)


# === Parts ===


@settings(deadline=None)
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
