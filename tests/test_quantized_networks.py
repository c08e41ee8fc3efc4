"""Networks of 8 and 16 bits in ``.tflite`` files: they cost little, and leave the integers of the coder exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from kinds import Kind, interpreter_of, off
from tensorflow.lite.python import schema_py_generated as schema

from tfcomp.artifact import conversion, exporting
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.uniform_graphs import UniformGraphs
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.measure import evaluate
from tfcomp.models.vae import VAE
from tfcomp.parts import Parts
from tfcomp.runtimes.keras_networks import KerasTransform
from tfcomp.runtimes.litert import LiteRTTransform


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(1064, seed=7)


def litert_files(parts: Parts, quantize: str, calibration: int = 100) -> dict[str, bytes]:
    """All ``.tflite`` files of a codec of one shape, calibrated on some of its items."""
    whole: Any = parts.transform
    some = KerasTransform(
        whole.encoder, whole.decoder, whole.unit, whole.zero, whole.qualities,
        takes_quality=whole.takes_quality, calibration=whole.calibration[:calibration],
    )  # fmt: skip
    parts = replace(parts, transform=some)
    return exporting._litert_files(parts, some, UniformGraphs(parts, some), quantize)


@pytest.mark.further
@pytest.mark.xdist_group("conv_qualities")
@pytest.mark.parametrize(
    "quantize", [pytest.param(q, marks=[] if q == "int8" else pytest.mark.slow) for q in artifacts.QUANTIZATIONS]
)
def test_quantized_networks_leave_the_coder_exact(
    quantize: str, kinds: Callable[[str], Kind], images: np.ndarray
) -> None:
    codec, test = kinds("conv_qualities").codec, images[1000:1032]
    files = litert_files(codec.parts, quantize)
    networks = LiteRTTransform(files[artifacts.ENCODER_LATENT], files[artifacts.DECODER_LATENT])
    quantized = Codec(replace(codec.parts, transform=networks))
    interpreters = [Interpreter(model_content=files[n]) for n in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT)]
    encoder, decoder = (interpreter.get_signature_runner() for interpreter in interpreters)
    for quality in range(1, codec.qualities + 1):
        told, entropy_model = np.int32([quality]), codec.parts.quality(quality).entropy
        made = [encoder(image=image[None], quality=told) for image in test]
        payloads = [result["payload"][: result["length"][0]].tobytes() for result in made]
        shown = [decoder(payload=r["payload"], length=r["length"], quality=told)["image"][0] for r in made]
        integers, restored = quantized.decode(payloads, quality), quantized.decompress(payloads, quality)
        assert entropy_model.encode(integers) == payloads
        # LiteRT has two implementations of 8-bit operators, which round otherwise.
        eight = quantize == "int8"
        assert np.mean(integers != quantized.encode(test, quality)) <= (0.1 if eight else 0)
        assert np.abs(np.stack(shown).astype(int) - restored).max() <= (12 if eight else 1)
        reference = codec.compress(test, quality)
        assert sum(map(len, payloads)) <= 1.03 * sum(map(len, reference)) + len(test) / 4
        plain = evaluate.psnr_db(test, codec.decompress(reference, quality))
        for images_of_graph in (np.stack(shown), restored):
            assert evaluate.psnr_db(test, images_of_graph) > plain - 0.2
    # What is rounded stays so until the cast: 8 bits would hold 1 as 0.99, which the cast makes 0.
    for name in (artifacts.DECODER_LITERT, artifacts.DECODER_LATENT):
        order = [operator["op_name"] for operator in Interpreter(model_content=files[name])._get_ops_details()]
        after = order[order.index("ROUND") + 1 :]
        assert "CAST" in after
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(after[: after.index("CAST")])


def test_8_bit_encoders_resolve_fine_steps_about_an_offset(images: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    model = VAE.dense((28, 28, 1), 16, hidden=(64,), distortion="squared_error", beta=0.1)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(images[:1000], batch_size=50, epochs=4, verbose=0)
    parts = Codec.freeze(model, images[:200]).parts
    coarse: Any = parts.transform
    assert np.any(coarse.zero)
    unit = (coarse.unit / 200).astype(np.float32)
    fine = KerasTransform(coarse.encoder, coarse.decoder, unit, coarse.zero, calibration=coarse.calibration[:100])
    image = {"image": coarse.calibration[:100, None]}
    runner = interpreter_of(conversion.to_litert(fine.analyse_graph, "int8", image))
    found = np.concatenate([runner(image=i[None])["latent"] for i in images[1000:]])
    assert found.dtype == np.float32
    expected = fine.analyse(images[1000:])
    assert np.std(found - expected) < 2 * np.ptp(expected) / 255


@pytest.mark.further
@pytest.mark.xdist_group("lapped")
def test_weights_of_8_bits_cost_nothing_that_is_seen(kinds: Callable[[str], Kind]) -> None:
    kind = kinds("lapped")
    parts: Any = kind.codec.parts
    halves, eighths = (
        exporting._litert_files(parts, parts.transform, None, quantize) for quantize in ("float16", "int8-weights")
    )
    for name in (artifacts.ENCODER_LATENT, artifacts.DECODER_LATENT):
        details = Interpreter(model_content=eighths[name]).get_tensor_details()
        stored = [tensor["dtype"] for tensor in details if len(tensor["shape"]) == 4]
        assert stored.count(np.int8) > 2
        assert stored.count(np.float16) == 1  # the linear transform's
    rows = {}
    for name, files in (("float16", halves), ("int8-weights", eighths)):
        rows |= exporting._measure(parts, parts.transform.calibration, name, files)
    for quality in range(1, kind.codec.qualities + 1):
        plain, eight = (rows[f"{name}, quality {quality}"] for name in ("float16", "int8-weights"))
        assert eight["bytes_per_image"] <= 1.01 * plain["bytes_per_image"]
        assert eight["psnr_db"] >= plain["psnr_db"] - 0.1
        assert eight["encoder_bytes"] < plain["encoder_bytes"]
        assert eight["decoder_bytes"] < plain["decoder_bytes"]


@pytest.mark.further
@pytest.mark.xdist_group("lapped")
def test_a_folder_of_8_bit_weights_is_an_artifact_like_any_other(kinds: Callable[[str], Kind], tmp_path: Path) -> None:
    kind = kinds("lapped")
    folder = tmp_path / "artifact"
    kind.codec.export(folder, quantize="int8-weights", side=64)
    litert, whole = Codec.load(folder, runtime="litert"), Codec.load(folder, runtime="tensorflow")
    assert litert.fingerprint == whole.fingerprint == kind.codec.fingerprint
    assert json.loads((folder / artifacts.MANIFEST).read_text())["quantize"] == "int8-weights"
    for name in (artifacts.ENCODER_LATENT, artifacts.DECODER_LATENT):
        assert (folder / name).stat().st_size < (kind.folder / name).stat().st_size
    for quality in range(1, kind.codec.qualities + 1):
        payloads = litert.compress(kind.items, quality=quality)
        assert off(litert.decompress(payloads), kind.codec.decompress(payloads)) <= 4
        for one, other in zip(litert.decode(payloads), whole.decode(payloads), strict=True):
            np.testing.assert_array_equal(one, other)


def test_weights_of_8_bits_are_off_by_half_a_step_of_their_channel() -> None:
    rng = np.random.default_rng(0)
    shapes = {"conv2d": (3, 3, 4, 64), "depthwise": (3, 3, 64, 1), "transpose": (3, 3, 48, 64), "dense": (48, 32)}
    weights = {name: tf.constant(rng.normal(size=shape), tf.float32) for name, shape in shapes.items()}

    @tf.function(input_signature=[tf.TensorSpec([1, 6, 6, 4], tf.float32, "x")], autograph=False)
    def graph(x: Any) -> dict[str, Any]:
        x = tf.nn.conv2d(x, weights["conv2d"], 1, "SAME")
        x = tf.nn.depthwise_conv2d(x, weights["depthwise"], [1] * 4, "SAME")
        x = tf.nn.conv2d_transpose(x, weights["transpose"], [1, 12, 12, 48], 2)
        return {"y": tf.matmul(tf.reshape(x, [-1, 48]), weights["dense"])}

    halves, eighths = (
        Interpreter(model_content=conversion.to_litert(graph, quantize)) for quantize in ("float16", "int8-weights")
    )
    for interpreter in (halves, eighths):
        interpreter.allocate_tensors()
    stored = [t for t in eighths.get_tensor_details() if t["dtype"] == np.int8]
    assert len(stored) == len(weights)
    for tensor in stored:
        parameters = tensor["quantization_parameters"]
        axis, scales = parameters["quantized_dimension"], parameters["scales"]
        scale = scales.reshape([-1 if i == axis else 1 for i in range(len(tensor["shape"]))])
        found, exact = (interpreter.get_tensor(tensor["index"]) for interpreter in (eighths, halves))
        assert scales.size == tensor["shape"][axis]
        assert np.all(np.abs(found * scale - exact.astype(np.float32)) <= scale * 0.501)


def test_litert_halves_no_float_but_the_networks_weights(kind: Kind) -> None:
    """A threshold or a step that is not quite itself would choose other tables."""
    transform: Any = kind.codec.parts.transform
    shapes = {tuple(w.shape) for network in (transform.encoder, transform.decoder) for w in network.weights}
    # Where a layer of the lapped networks has no bias, the converter adds zeros.
    elements = {math.prod(shape) for shape in shapes} | {shape[-1] for shape in shapes if len(shape) == 4}
    half_wanted = kind.codec.item.any_size  # whose networks are rounded to 16 bits when they are frozen
    for name in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT):
        model = schema.Model.GetRootAs((kind.folder / name).read_bytes())
        parts = map(model.Subgraphs, range(model.SubgraphsLength()))
        tensors = [part.Tensors(i) for part in parts for i in range(part.TensorsLength())]
        halved = [
            math.prod(tensor.ShapeAsNumpy().tolist() if tensor.ShapeLength() else [])
            for tensor in tensors
            if tensor.Type() == schema.TensorType.FLOAT16
        ]
        assert bool(halved) == half_wanted
        # The scalars by which pixels become the networks' inputs and outputs are whole or half numbers.
        assert not [n for n in halved if n not in elements and n != 1]
