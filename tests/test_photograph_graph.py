"""Photographs in the graph: the exported artifact, in TensorFlow and LiteRT, reads and writes what the codec does."""

from __future__ import annotations

import hashlib
import json
import math
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from commands import failure
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from test_photographs import codec, scene

from tfcomp import Codec
from tfcomp.artifact import exporting
from tfcomp.cli.main import main
from tfcomp.coding.varints import pack
from tfcomp.errors import BitstreamError
from tfcomp.graph.any_size import GraphCodec, Plan
from tfcomp.graph.operators import FLAT, scan_rows
from tfcomp.graph.tile_coder import _lanes, packed, unpacked
from tfcomp.models.lapped import RANKS
from tfcomp.photographs import codec as module
from tfcomp.photographs.keras_networks import KerasNetworks

EXAMPLE = ROOT / "export" / "python" / "litert_photographs.py"
SIZES = [(1, 1, 3), (1, 300, 3), (33, 8, 1), (40, 50, 3), (300, 301, 3), (120, 97, 1)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: it takes a minute."""
    folder = tmp_path_factory.mktemp("photographs") / "artifact"
    assert main(["export", "photographs", str(folder)]) == 0
    return folder


@cache
def graph() -> GraphCodec:
    networks = KerasNetworks.bundled().graphs
    return GraphCodec(codec(), networks[module.ANALYSIS], networks[module.SYNTHESIS])


@cache
def served(folder: Path, model: str) -> Any:
    return tf.saved_model.load(str(folder / model / "1"))


@cache
def litert(folder: Path) -> Any:
    """`export/python`'s example."""
    return runpy.run_path(str(EXAMPLE))["Photographs"](folder)


def decoded(folder: Path, payload: bytes) -> dict[str, NDArray[np.uint8]]:
    """The image of a payload, by each runtime."""
    model = served(folder, "decoder").signatures["serving_default"]
    return {
        "tensorflow": np.asarray(model(payload_bytes=tf.constant(payload))["image"]),
        "litert": litert(folder).decompress(payload),
    }


def encoded(folder: Path, image: NDArray[np.uint8], quality: int) -> dict[str, bytes]:
    model = served(folder, "encoder").signatures["serving_default"]
    return {
        "tensorflow": bytes(model(image=tf.constant(image), quality=tf.constant(quality))["payload_bytes"].numpy()),
        "litert": litert(folder).compress(image, quality),
    }


def off(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """By how many levels two images of one shape differ at most."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def check(folder: Path, payload: bytes) -> None:
    """Every runtime reads the payload as the codec does: the same integers, pixels within one level."""
    integers = served(folder, "decoder").signatures["latent"](payload_bytes=tf.constant(payload))["latent"]
    assert np.array_equal(integers, codec().decode(payload))
    expected = codec().decompress(payload)
    for image in decoded(folder, payload).values():
        assert off(image, expected) <= 1


# === Reading ===


@pytest.mark.parametrize("quality", [1, 4, 8])
@pytest.mark.parametrize("shape", SIZES)
def test_every_runtime_reads_what_the_codec_wrote(artifact: Path, shape: tuple[int, int, int], quality: int) -> None:
    check(artifact, codec().compress(scene(*shape), quality))


def test_tiles_are_put_where_they_belong(artifact: Path) -> None:
    payload = codec().compress(scene(1100, 1300, seed=3), 2)
    assert "4 tiles" in codec().describe(payload)
    check(artifact, payload)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_plan_is_the_codecs(height: int, width: int) -> None:
    plan = Plan.of(tf.constant(height), tf.constant(width))
    rows, columns, before = module._positions(height, width)
    assert (int(plan.rows), int(plan.columns), (int(plan.top), int(plan.left))) == (rows, columns, before)
    tiles = [tuple(int(n) for n in plan.tile(tf.constant(i))) for i in range(int(plan.tiles))]
    assert tiles == [(y.start, x.start, y.stop - y.start, x.stop - x.start) for y, x in module._tiles(rows, columns)]


def test_the_golden_payloads_are_read_by_every_runtime(artifact: Path) -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "photographs.json").read_text())
    for case in golden["cases"]:
        check(artifact, bytes.fromhex(case["payload"]))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_bytes_give_an_image_of_the_size_that_they_claim(artifact: Path, data: st.DataObject) -> None:
    payload = bytearray(codec().compress(scene(24, 31), data.draw(st.integers(1, 8))))
    kind = data.draw(st.sampled_from(["cut", "changed", "random", "empty"]))
    if kind == "cut":
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    elif kind == "changed":
        payload[data.draw(st.integers(3, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "random":  # not so large an image that the test takes long
        payload = bytearray([data.draw(st.integers(0, 255)), 20, 30, *data.draw(st.binary(max_size=60))])
    else:
        payload = bytearray(data.draw(st.binary(max_size=1)))
    found = decoded(artifact, bytes(payload))
    assert off(found["tensorflow"], found["litert"]) <= 4  # pixels of integers without measure
    if kind == "random":
        assert found["litert"].shape == (20, 30, 1 if payload[0] & 8 else 3)
    elif kind == "changed" or (kind == "cut" and len(payload) >= 3):
        assert found["litert"].shape == (24, 31, 3)


@settings(deadline=None)
@given(st.integers(1, 3 << 14), st.integers(0, 2**28 - 1), st.integers(1, 200))
def test_a_claim_is_believed_where_the_codec_believes_it(height: int, width: int, size: int) -> None:
    """A size that the codec refuses, with what it is mirrored by or for want of bytes, is taken for one pixel."""
    payload = (bytes([4]) + pack(np.array([height, width], np.int64))).ljust(size, b"\1")
    fits = module._fits(height, width) and len(payload) >= len(
        list(module._tiles(*module._positions(height, width)[:2]))
    )
    assert graph().size(tf.constant([*payload], tf.uint8)).numpy().tolist() == (
        [height, width, 3] if fits else [1, 1, 3]
    )


def test_lanes_of_very_different_lengths_take_no_memory() -> None:
    """1,024 lanes, of which the last has all the bytes: a table of lanes times bytes would have 4 GB."""
    code = bytes([10]) + bytes(1023) + bytes(range(256)) * 4096
    lanes, pairs, _, _ = _lanes(tf.constant([*code], tf.int32))
    assert int(lanes) == 1024
    assert 1024 * 8192 < tf.size(pairs) < 1024 * 9000


# === Writing ===


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 50, 3), (1, 300, 3), (200, 131, 3)])
def test_the_codec_reads_what_every_runtime_writes(artifact: Path, shape: tuple[int, int, int]) -> None:
    image = scene(*shape)
    for quality in (1, 6):
        payload = codec().compress(image, quality)
        expected = codec().decompress(payload).astype(float)
        for found in encoded(artifact, image, quality).values():
            # Rounding in floats may now and then choose another integer.
            assert abs(len(found) - len(payload)) <= 2 + len(payload) // 100
            assert np.mean(np.square(codec().decompress(found) - expected)) < 1


def test_a_quality_beyond_the_ends_is_the_end(artifact: Path) -> None:
    image = scene(20, 20)
    assert encoded(artifact, image, 99) == encoded(artifact, image, 8)
    assert encoded(artifact, image, -1) == encoded(artifact, image, 1)


# === The folder ===


def test_the_manifest_names_the_files_and_operators_are_builtin(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["fingerprint"] == codec().fingerprint.hex()
    assert manifest["qualities"] == 8
    for name, file in manifest["files"].items():
        content = (artifact / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    for name in ("encoder.tflite", "decoder.tflite"):
        found = exporting.operators((artifact / name).read_bytes())
        assert not any(operator.startswith("CUSTOM") or operator in exporting.FORBIDDEN for operator in found)


def test_info_says_what_it_is_and_no_command_takes_it_for_another(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(artifact)]) == 0
    said = capsys.readouterr().out
    assert codec().fingerprint.hex() in said
    assert "photographs, 8 qualities, of any size" in said
    with pytest.raises(BitstreamError, match="expected a codec of one image size, found one of photographs"):
        Codec.load(artifact)


@pytest.mark.parametrize("options", [["--quantize", "int8"], ["--sets", "3"], ["--step", "2"], ["--side", "7"]])
def test_export_refuses_options_of_other_codecs(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected" in failure(capsys, "export", "photographs", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_litert_halves_no_float_but_the_networks_weights(artifact: Path) -> None:
    """A threshold or a step that is not quite itself would choose other tables."""
    shapes = {w.shape for n in KerasNetworks.bundled().networks.values() for w in n.get_weights()}
    # Where a layer has no bias, the converter adds zeros.
    elements = {math.prod(shape) for shape in shapes} | {*RANKS}
    for name in ("encoder.tflite", "decoder.tflite"):
        model = schema.Model.GetRootAs((artifact / name).read_bytes())
        parts = map(model.Subgraphs, range(model.SubgraphsLength()))
        tensors = [part.Tensors(i) for part in parts for i in range(part.TensorsLength())]
        halved = [
            math.prod(tensor.ShapeAsNumpy().tolist() if tensor.ShapeLength() else [])
            for tensor in tensors
            if tensor.Type() == schema.TensorType.FLOAT16
        ]
        assert len(halved) >= 8
        others = [n for n in halved if n not in elements]
        # The scalars by which pixels become the networks' inputs and outputs, which are whole or half numbers.
        assert all(n == 1 for n in others), others


# === Parts ===


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**28 - 1), max_size=20), st.binary(max_size=5))
def test_varints_in_the_graph(numbers: list[int], rest: bytes) -> None:
    data = pack(np.array(numbers, np.int64))
    written = packed(tf.constant(numbers, tf.int32, shape=[len(numbers)]))
    assert bytes(np.asarray(written, np.uint8)) == data
    read, offset = unpacked(tf.constant([*b"x", *data, *rest], tf.int32), 1, len(numbers))
    assert read.numpy().tolist() == numbers
    assert int(offset) == 1 + len(data)


def test_scan_rows_keeps_the_order_in_both_runtimes() -> None:
    def summed(rows: Any, run: Any) -> dict[str, Any]:
        def step(state: tuple[Any, ...], row: Any) -> tuple[tuple[Any, ...], Any]:
            return (state[0] + row,), state[0] * 3 + row

        (state,), outputs = scan_rows(step, (tf.zeros([2], tf.int32),), rows[0], run[0] > 0)
        return {"outputs": tf.concat([outputs, state[None]], axis=0)}

    signature = [tf.TensorSpec([1, None, 2], tf.int32, "rows"), tf.TensorSpec([1], tf.int32, "run")]
    function = tf.function(summed, input_signature=signature, autograph=False)
    interpreter = Interpreter(model_content=exporting.to_litert(function))
    run_litert = runpy.run_path(str(EXAMPLE))["run"]
    for count in (1, FLAT - 1, FLAT, FLAT + 1, 3 * FLAT + 5):
        rows = np.arange(2 * count, dtype=np.int32).reshape(1, count, 2)
        before = np.cumsum(rows[0], axis=0) - rows[0]
        expected = np.concatenate([3 * before + rows[0], rows[0].sum(axis=0, keepdims=True)])
        for run in (1, 0):
            inputs = {"rows": rows, "run": np.array([run], np.int32)}
            assert np.array_equal(function(**inputs)["outputs"], run * expected)
            assert np.array_equal(run_litert(interpreter, **inputs), run * expected)
