"""Photographs in the graph: the exported artifact, in TensorFlow and LiteRT, reads and writes what the codec does."""

from __future__ import annotations

import hashlib
import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_photographs import codec, scene

from tfcomp import exporting
from tfcomp.cli import main
from tfcomp.graph_ops import FLAT, scan_rows
from tfcomp.photographs.graph_coder import packed, unpacked
from tfcomp.varints import pack

SIZES = [(1, 1, 3), (1, 300, 3), (33, 8, 1), (40, 50, 3), (300, 301, 3), (120, 97, 1)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: it takes a minute."""
    folder = tmp_path_factory.mktemp("photographs") / "artifact"
    assert main(["export", "photographs", str(folder)]) == 0
    return folder


@cache
def served(folder: Path, model: str) -> Any:
    return tf.saved_model.load(str(folder / model / "1"))


@cache
def litert(folder: Path) -> Any:
    """`export/python`'s example."""
    return runpy.run_path(str(ROOT / "export" / "python" / "litert_photographs.py"))["Photographs"](folder)


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


# === Reading ===


@pytest.mark.parametrize("quality", [1, 4, 8])
@pytest.mark.parametrize("shape", SIZES)
def test_every_runtime_reads_what_the_codec_wrote(artifact: Path, shape: tuple[int, int, int], quality: int) -> None:
    payload = codec().compress(scene(*shape), quality)
    integers = served(artifact, "decoder").signatures["latent"](payload_bytes=tf.constant(payload))["latent"]
    assert np.array_equal(integers, codec().decode(payload))
    expected = codec().decompress(payload)
    for image in decoded(artifact, payload).values():
        assert off(image, expected) <= 1


def test_tiles_are_put_where_they_belong(artifact: Path) -> None:
    payload = codec().compress(scene(1100, 1300, seed=3), 2)
    assert "4 tiles" in codec().describe(payload)
    integers = served(artifact, "decoder").signatures["latent"](payload_bytes=tf.constant(payload))["latent"]
    assert np.array_equal(integers, codec().decode(payload))
    expected = codec().decompress(payload)
    for image in decoded(artifact, payload).values():
        assert off(image, expected) <= 1


def test_the_golden_payloads_are_read_by_every_runtime(artifact: Path) -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "photographs.json").read_text())
    for entry in golden["cases"]:
        payload = bytes.fromhex(entry["payload"])
        integers = served(artifact, "decoder").signatures["latent"](payload_bytes=tf.constant(payload))["latent"]
        assert np.array_equal(integers, codec().decode(payload))


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
    assert found["tensorflow"].shape == found["litert"].shape
    if kind == "changed":
        assert found["litert"].shape == (24, 31, 3)


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


def test_it_is_no_codec_of_one_image_size(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(artifact)]) != 0
    assert "photographs" in capsys.readouterr().err


# === Parts ===


@given(st.lists(st.integers(0, 2**28 - 1), max_size=20), st.binary(max_size=5))
def test_varints_in_the_graph(numbers: list[int], rest: bytes) -> None:
    data = pack(np.array(numbers, np.int64))
    written = packed(tf.constant(numbers, tf.int32, shape=[len(numbers)]))
    assert bytes(np.asarray(written, np.uint8)) == data
    read, offset = unpacked(tf.constant([*b"x", *data, *rest], tf.int32), 1, len(numbers))
    assert read.numpy().tolist() == numbers
    assert int(offset) == 1 + len(data)


@pytest.mark.parametrize("rows", [1, FLAT - 1, FLAT, FLAT + 1, 3 * FLAT + 5])
def test_scan_rows_keeps_the_order(rows: int) -> None:
    given_rows = np.arange(2 * rows, dtype=np.int32).reshape(rows, 2)
    (state,), outputs = tf.function(scan_rows, autograph=False)(
        lambda state, row: ((state[0] + row,), state[0] * 3 + row), (tf.zeros([2], tf.int32),), given_rows, rows
    )
    before = np.cumsum(given_rows, axis=0) - given_rows
    assert np.array_equal(outputs, 3 * before + given_rows)
    assert np.array_equal(state, given_rows.sum(axis=0))
