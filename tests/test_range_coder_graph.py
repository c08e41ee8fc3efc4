"""The payload format in TensorFlow graphs, XLA and LiteRT, byte for byte against `tfcomp.coding.range_coder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.graph import messages as range_coder_graph
from tfcomp.graph.messages import GraphCoder

UInt8 = NDArray[np.uint8]

# === Tables and messages ===


@st.composite
def frequency_tables(draw: st.DrawFn, sets: int = 1) -> FrequencyTables:
    precision = draw(st.integers((sets - 1).bit_length() or 1, 14))
    sizes = draw(st.lists(st.integers(1, min(1 << precision, 20)) | st.just(1), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([0.0, 1.0, 10.0, 200.0]))  # with none, all sets are alike and may tie
    lower = [*np.tile(rng.integers(-400, 400, len(sizes)), sets), *[0] * (sets > 1)]
    sizes = [*sizes * sets, *[sets] * (sets > 1)]
    return FrequencyTables.from_probabilities([rng.random(n) ** skew + 1e-300 for n in sizes], lower, precision)


def likely(tables: FrequencyTables, index: Int32, messages: int, rng: np.random.Generator, sets: int = 1) -> Int32:
    """int32 [N, S], drawn from the tables; each message from those of a set."""
    per_set = max(1, len(tables) // sets)
    table = index + per_set * rng.integers(0, sets, (messages, 1))
    latents = np.zeros((messages, index.size), np.int32)
    for used in np.unique(table):
        frequencies = tables.frequencies[tables.first[used] :][: tables.sizes[used]]
        where = table == used
        drawn = rng.choice(frequencies.size, where.sum(), p=frequencies / (1 << tables.precision))
        latents[where] = drawn + tables.lower[used]
    return latents


def laplacian(count: int = 3, precision: int = 12, size: int = 19, sets: int = 1) -> FrequencyTables:
    """Tables of the values around 0; in further sets these are less or more spread."""
    values = np.arange(size) - size // 2
    scales = np.outer(np.linspace(1, 2, sets), np.geomspace(0.4, 3, count)).ravel()
    parts = [np.exp(-np.abs(values) / s) for s in scales]
    selector = [np.arange(sets) + 1.0] * (sets > 1)
    lower = [-(size // 2)] * len(scales) + [0] * (sets > 1)
    return FrequencyTables.from_probabilities([*parts, *selector], lower, precision)


# === Contract ===


def buffers_of(payloads: list[bytes], capacity: int) -> tuple[UInt8, Int32]:
    buffer = np.zeros((len(payloads), capacity), np.uint8)
    for row, payload in zip(buffer, payloads, strict=True):
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
    return buffer, np.array([len(payload) for payload in payloads], np.int32)


def check_graph(
    coder: GraphCoder, tables: FrequencyTables, index: Int32, latents: Int32, **runtime: Any
) -> list[bytes]:
    """The graph's buffers are the reference's payloads, to the last zero, and decode to the latents."""
    encode, decode = runtime.get("encode", coder.encode), runtime.get("decode", coder.decode)
    payloads = range_coder.encode(latents, tables, index, coder.segments, coder.sets)
    expected = buffers_of(payloads, coder.capacity)
    for found, wanted in zip(encode(latents), expected, strict=True):
        assert np.asarray(found).dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    restored = np.asarray(decode(*expected))
    assert restored.dtype == np.int32
    np.testing.assert_array_equal(restored, latents)
    return payloads


def inside(tables: FrequencyTables, index: Int32, latents: Int32) -> bool:
    return latents.shape[-1] == index.size and bool(np.isfinite(tables.ideal_bits(latents, index)).all())


def corrupt(payloads: list[bytes], capacity: int, count: int, rng: np.random.Generator) -> tuple[UInt8, Int32]:
    """Random, truncated, extended and flipped payloads, and lengths that no payload has."""
    buffer, length = buffers_of([payloads[i % len(payloads)] for i in range(count)], capacity)
    for i, row in enumerate(buffer):
        kind = i % 6
        if kind == 0:
            row[:] = rng.integers(0, 256, capacity)
            length[i] = rng.integers(0, capacity + 1)
        elif kind == 1:
            length[i] = rng.integers(0, length[i] + 1)
        elif kind == 2:
            row[length[i] :] = rng.integers(0, 256, capacity - length[i])
            length[i] = capacity
        elif kind == 3:
            row[rng.integers(0, max(1, length[i]))] ^= 1 << rng.integers(0, 8)
        elif kind == 4:
            row[:] = rng.integers(0, 256, capacity)
            length[i] = rng.choice([-(2**31), -1, 0, capacity + 1, 2**31 - 1])
        else:
            row[:] = rng.choice([0, 255])
            length[i] = rng.choice([0, capacity // 2, capacity])
    return buffer, length


# === Eager: each example costs no trace ===


@settings(max_examples=60)
@given(st.data())
def test_any_messages_are_coded_as_the_reference_does(data: st.DataObject) -> None:
    sets = data.draw(st.sampled_from([1, 1, 2, 3, 16]))
    tables = data.draw(frequency_tables(sets))
    symbols, segments, messages = (data.draw(st.integers(1, n)) for n in (24, 6, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    index = rng.integers(0, max(1, len(tables) // sets), symbols, np.int32)
    kind = data.draw(st.sampled_from(["likely", "uniform", "ends"]))
    if kind == "likely":
        latents = likely(tables, index, messages, rng, sets)
    else:
        share = rng.random((messages, symbols)) if kind == "uniform" else rng.integers(0, 2, (messages, symbols))
        latents = tables.clip(tables.lower[index] + np.floor(share * tables.sizes[index]).astype(np.int32), index)
    coder = GraphCoder(tables, index, segments, sets)
    check_graph(coder, tables, index, latents)

    buffer = rng.integers(0, 256, (messages, coder.capacity)).astype(np.uint8)
    length = rng.integers(-2, coder.capacity + 3, messages, np.int32)
    restored = coder.decode(buffer, length).numpy()
    assert inside(tables, index, restored)
    for row, size, latent in zip(buffer, np.clip(length, 0, coder.capacity), restored, strict=True):
        try:
            expected = range_coder.decode([row[:size].tobytes()], tables, index, segments, sets)
        except BitstreamError:
            continue
        np.testing.assert_array_equal(latent, expected[0])


@settings(max_examples=30)
@given(st.data())
def test_each_message_is_coded_by_its_row_of_the_index(data: st.DataObject) -> None:
    sets = data.draw(st.sampled_from([1, 1, 2, 3]))
    tables = data.draw(frequency_tables(sets))
    symbols, segments, messages, rows = (data.draw(st.integers(1, n)) for n in (24, 4, 8, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    index = rng.integers(0, max(1, len(tables) // sets), (rows, symbols), np.int32)
    coder, row_of = GraphCoder(tables, index, segments, sets), rng.integers(0, rows, messages, np.int32)
    latents = np.zeros((messages, symbols), np.int32)
    for row in np.unique(row_of):
        at = row_of == row
        latents[at] = likely(tables, index[row], at.sum(), rng, sets)
        encode, decode = partial(coder.encode, rows=row_of[at]), partial(coder.decode, rows=row_of[at])
        check_graph(coder, tables, index[row], latents[at], encode=encode, decode=decode)
    np.testing.assert_array_equal(coder.decode(*coder.encode(latents, row_of), row_of), latents)


@pytest.mark.parametrize("rows", [range_coder_graph.ROWS, 0], ids=["rows", "search"])
def test_wide_tables(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_coder_graph, "ROWS", rows)
    rng = np.random.default_rng(3)
    sizes = [1, 2, 3, 256, 257, 500]
    tables = FrequencyTables.from_probabilities([rng.random(n) ** 4 for n in sizes], np.arange(6) * 1000 - 9, 10)
    index = rng.permutation(np.arange(18, dtype=np.int32) % 6)
    coder = GraphCoder(tables, index)
    latents = tables.lower[index] + (rng.random((200, 18)) * tables.sizes[index]).astype(np.int32)
    latents[0], latents[1] = tables.lower[index], tables.lower[index] + tables.sizes[index] - 1
    check_graph(coder, tables, index, latents)


@pytest.mark.parametrize("boundary", ["05", "01", "0100ff", "ff"])
@pytest.mark.parametrize("segments", [1, 2])
def test_carry_chains(boundary: str, segments: int) -> None:
    # The symbols of these bytes hold low just under them, at digits 04 ff ff ff ..., until the message's end.
    tables = FrequencyTables.from_probabilities([0.4 ** np.abs(np.arange(9) - 4)], [-4], 12)
    index = np.zeros(300, np.int32)
    latents = range_coder.decode([bytes.fromhex(boundary)], tables, index)
    latents = np.concatenate([latents, range_coder.decode([b"\xff" * 40], tables, index), latents])
    latents = np.concatenate([latents, latents])
    latents[3:, 100:] = tables.lower[0] + np.arange(200) % 9  # a carry, or none, out of the middle
    latents[4, 100:] = 4
    check_graph(GraphCoder(tables, index, segments), tables, index, latents)


@pytest.mark.parametrize("frequencies", [[1024], [1025], [1024, 64], [1024, 63], [1024, 1]])
def test_ranges_that_just_touch_their_bounds(frequencies: list[int]) -> None:
    probabilities = [np.array([f, (1 << 14) - f]) for f in [1024, *frequencies]]
    tables = FrequencyTables.from_probabilities([*probabilities, np.ones(2)], [0] * (len(probabilities) + 1), 14)
    index = np.append(np.arange(len(probabilities)), [len(probabilities)] * 4).astype(np.int32)
    tails = (np.arange(16)[:, None] >> np.arange(4)) & 1
    latents = np.concatenate([np.zeros((16, len(probabilities)), int), tails], axis=1).astype(np.int32)
    check_graph(GraphCoder(tables, index), tables, index, latents)


@pytest.mark.parametrize("segments", [1, 4])
def test_one_symbol_tables_cost_nothing(segments: int) -> None:
    tables = FrequencyTables.from_probabilities([np.ones(1)], [7], 10)
    index = np.zeros(10, np.int32)
    coder = GraphCoder(tables, index, segments)
    assert check_graph(coder, tables, index, np.full((2, 10), 7, np.int32)) == [b"", b""]


def test_the_lowest_of_equal_sets_is_chosen() -> None:
    tables = FrequencyTables.from_probabilities([*[np.float64([1, 2, 1])] * 64, np.ones(64)], [0] * 65, 6)
    index, latents = np.zeros(4, np.int32), np.int32([[0, 1, 2, 2], [1, 1, 1, 1]])
    coder = GraphCoder(tables, index, 2, 64)
    check_graph(coder, tables, index, latents)
    assert not range_coder.choose_sets(latents, tables, index, 2, 64).any()
    encode, decode = traced(coder, jit_compile=True)
    check_graph(coder, tables, index, latents, encode=encode, decode=decode)


def test_latents_are_clipped_to_the_support() -> None:
    tables, index = laplacian(), np.array([0, 1, 2, 1], np.int32)
    latents = np.array([[-(2**31), 2**31 - 1, 10, -10]], np.int32)
    coder = GraphCoder(tables, index)
    buffer, length = coder.encode(latents)
    np.testing.assert_array_equal(coder.decode(buffer, length), [[-9, 9, 9, -9]])


def test_qualities_are_rows_of_the_index() -> None:
    rng, tables = np.random.default_rng(4), laplacian()
    models = [StaticModel(tables, rng.integers(0, 3, 12, np.int32), (3, 4), 5) for _ in range(3)]
    coder, rows = GraphCoder.of(models), np.int32([2, 0, 1, 1])
    assert (coder.symbols, coder.segments, coder.sets) == (12, 3, 1)
    latents = np.stack([likely(tables, models[row].index, 1, rng)[0] for row in rows])
    buffer, length = coder.encode(latents, rows)
    for i, row in enumerate(rows):
        assert bytes(buffer.numpy()[i, : length[i]]) == models[row].encode(latents[i].reshape(1, 3, 4))[0]
    np.testing.assert_array_equal(coder.decode(buffer, length, rows), latents)
    check_graph(GraphCoder.of(models[:1]), tables, models[0].index, latents[1:2])
    with pytest.raises(InputError, match="differ in the index alone"):
        GraphCoder.of([models[0], replace(models[1], symbols_per_segment=6)])


def test_no_messages() -> None:
    coder = GraphCoder(laplacian(), np.zeros(5, np.int32), 2)
    buffer, length = coder.encode(np.zeros((0, 5), np.int32))
    assert (buffer.shape, length.shape) == ((0, coder.capacity), (0,))
    assert coder.decode(buffer, length).shape == (0, 5)


def test_refuses_what_it_cannot_code() -> None:
    tables = laplacian()
    for index in (np.zeros(0, np.int32), np.zeros((2, 2, 2), np.int32), np.array([3], np.int32)):
        with pytest.raises(InputError, match="index"):
            GraphCoder(tables, index)
    with pytest.raises(InputError, match="tables for 3 sets"):
        GraphCoder(tables, np.zeros(4, np.int32), 1, 3)
    with pytest.raises(InputError, match="segment"):
        GraphCoder(tables, np.zeros(4, np.int32), 0)
    with pytest.raises(InputError, match="bytes"):
        GraphCoder(tables, np.zeros(200_000, np.int32), 2)


# === Traced: any batch, strings, XLA ===


def traced(coder: GraphCoder, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    n, s, m = None, coder.symbols, coder.capacity
    encode = tf.function(coder.encode, input_signature=[tf.TensorSpec([n, s], tf.int32)], **options)
    signature = [tf.TensorSpec([n, m], tf.uint8), tf.TensorSpec([n], tf.int32)]
    return encode, tf.function(coder.decode, input_signature=signature, **options)


@pytest.mark.further
@pytest.mark.parametrize(
    ("symbols", "segments", "sets"), [(300, 1, 1), (700, 3, 1), (6, 7, 1), (64, 1, 20), (300, 1, 2), (6, 7, 3)]
)
def test_one_trace_serves_any_batch(symbols: int, segments: int, sets: int) -> None:
    rng = np.random.default_rng(symbols)
    tables, index = laplacian(sets=sets), rng.integers(0, 3, symbols, np.int32)
    coder = GraphCoder(tables, index, segments, sets)
    encode, decode = traced(coder)
    for messages in (1, 5, 0):
        latents = likely(tables, index, messages, rng, sets)
        payloads = check_graph(coder, tables, index, latents, encode=encode, decode=decode)
        assert coder.to_bytes(*buffers_of(payloads, coder.capacity)).numpy().tolist() == payloads
    buffer, length = corrupt(payloads or [b"\5"], coder.capacity, 300, rng)
    assert inside(tables, index, decode(buffer, length).numpy())


def test_strings() -> None:
    coder = GraphCoder(laplacian(), np.zeros(8, np.int32))
    payloads = [b"", b"\0\1", b"\xff" * coder.capacity, b"\7" * (coder.capacity + 9)]
    buffer, length = coder.from_bytes(tf.constant(payloads))
    np.testing.assert_array_equal(buffer[:3], buffers_of(payloads[:3], coder.capacity)[0])
    assert coder.to_bytes(buffer[:3], length[:3]).numpy().tolist() == payloads[:3]
    assert buffer.shape == (4, coder.capacity)
    assert coder.decode(buffer, length).shape == (4, 8)


@pytest.mark.parametrize("sets", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_xla(sets: int) -> None:
    rng = np.random.default_rng(9)
    tables, index = laplacian(sets=sets), rng.integers(0, 3, 22, np.int32)
    coder = GraphCoder(tables, index, 2, sets)
    encode, decode = traced(coder, jit_compile=True)
    payloads = check_graph(coder, tables, index, likely(tables, index, 4, rng, sets), encode=encode, decode=decode)
    assert inside(tables, index, decode(*corrupt(payloads, coder.capacity, 4, rng)).numpy())


# === LiteRT ===


class LiteCoder:
    """A coder's two functions, converted with builtin operators alone, for one message at a time."""

    def __init__(self, coder: GraphCoder) -> None:
        latents = tf.TensorSpec([1, coder.symbols], tf.int32, name="latents")
        payload = [
            tf.TensorSpec([1, coder.capacity], tf.uint8, name="payload"),
            tf.TensorSpec([1], tf.int32, name="length"),
        ]
        self.encoder = self._convert(
            lambda x: dict(zip(("payload", "length"), coder.encode(x), strict=True)), [latents]
        )
        self.decoder = self._convert(lambda payload, length: {"latents": coder.decode(payload, length)}, payload)

    @staticmethod
    def _convert(function: Callable[..., Any], signature: list[Any]) -> Interpreter:
        module = tf.Module()
        module.run = tf.function(function, input_signature=signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return Interpreter(model_content=converter.convert(), num_threads=1)

    def encode(self, latents: Int32) -> tuple[UInt8, Int32]:
        run = self.encoder.get_signature_runner()
        rows = [run(latents=row[None]) for row in latents]
        return np.concatenate([row["payload"] for row in rows]), np.concatenate([row["length"] for row in rows])

    def decode(self, buffer: UInt8, length: Int32) -> Int32:
        run = self.decoder.get_signature_runner()
        return np.concatenate(
            [run(payload=buffer[i : i + 1], length=length[i : i + 1])["latents"] for i in range(len(length))]
        )


LITE = [(24, 1, 1), (300, 2, 1), (24, 1, 16)]


@pytest.fixture(
    scope="module", params=[(150, 8, 3), *(pytest.param(case, marks=pytest.mark.slow) for case in LITE)], ids=str
)
def lite(request: pytest.FixtureRequest) -> tuple[FrequencyTables, Int32, GraphCoder, LiteCoder]:
    symbols, segments, sets = request.param
    tables, index = laplacian(sets=sets), np.arange(symbols, dtype=np.int32) % 3
    coder = GraphCoder(tables, index, segments, sets)
    return tables, index, coder, LiteCoder(coder)


Lite = tuple[FrequencyTables, Int32, GraphCoder, LiteCoder]


def test_litert_makes_and_reads_the_same_bytes(lite: Lite) -> None:
    tables, index, coder, converted = lite
    latents = likely(tables, index, 40, np.random.default_rng(1), coder.sets)
    latents[0], latents[1] = tables.lower[index], tables.clip(np.zeros(index.size, np.int32), index)
    check_graph(coder, tables, index, latents, encode=converted.encode, decode=converted.decode)


def test_litert_uses_builtin_operators_and_static_shapes(lite: Lite) -> None:
    for interpreter in (lite[3].encoder, lite[3].decoder):
        operators = interpreter._get_ops_details()
        names = {operator["op_name"] for operator in operators}
        assert "WHILE" in names
        assert not [name for name in names if "Flex" in name or "CUSTOM" in name or "VAR" in name or "RANDOM" in name]
        loops = {i for operator in operators if operator["op_name"] == "WHILE" for i in operator["outputs"]}
        edges = [*interpreter.get_input_details(), *interpreter.get_output_details()]
        assert all((edge["shape"] == edge["shape_signature"]).all() and (edge["shape"] > 0).all() for edge in edges)
        assert not loops & {edge["index"] for edge in interpreter.get_output_details()}


def test_litert_decodes_anything_into_the_support(lite: Lite) -> None:
    tables, index, coder, converted = lite
    rng = np.random.default_rng(2)
    latents = likely(tables, index, 50, rng, coder.sets)
    payloads = range_coder.encode(latents, tables, index, coder.segments, coder.sets)
    buffer, length = corrupt(payloads, coder.capacity, 300, rng)
    restored = converted.decode(buffer, length)
    assert inside(tables, index, restored)
    np.testing.assert_array_equal(restored, coder.decode(buffer, length))
