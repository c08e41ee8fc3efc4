"""What an export is: the same bytes in every runtime, from files that need neither tfcomp nor an unusual operator."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import runtime_exactness
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from kinds import Kind, WholeLiteRT, WholeSavedModels, scene
from tensorflow.lite.python import schema_py_generated as schema

import tfcomp
from tfcomp.artifact import conversion, exporting
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.tiled_graphs import TiledGraphs
from tfcomp.artifact.uniform_graphs import UniformGraphs
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.errors import BitstreamError, InputError
from tfcomp.measure import evaluate
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.vae import VAE
from tfcomp.parts import Parts
from tfcomp.runtimes.keras_networks import KerasTransform
from tfcomp.runtimes.litert import LiteRTTransform

SHAPE = (28, 28, 1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(1064, seed=7)


@pytest.fixture(scope="module")
def codecs(images: np.ndarray) -> dict[str, Codec]:
    """Codecs of one shape that are none of `kinds.KINDS`: with sets of tables, of latents with places, with offsets."""
    keras.utils.set_random_seed(0)
    made = {}
    for name, model in {
        "sets of tables": AutoEncoder.dense(SHAPE, 16, hidden=(32,), beta=0.1),
        "places": AutoEncoder.spatial(SHAPE, 1, filters=(4, 8), beta=0.1),
        "VAE": VAE.dense(SHAPE, 16, hidden=(64,), distortion="squared_error", beta=0.1),
    }.items():
        model.compile(optimizer=keras.optimizers.Adam(3e-3))
        model.fit(images[:1000], batch_size=50, epochs=4, verbose=0)
        made[name] = Codec.freeze(model, images[:200], sets=5 if name == "sets of tables" else 1)
    return made


# === Exactness; `test_one_codec` has the kinds ===


@pytest.mark.parametrize("name", ["sets of tables", "places"])
def test_whole_graphs_make_and_read_the_codecs_payloads(
    name: str, codecs: dict[str, Codec], images: np.ndarray, tmp_path: Path
) -> None:
    codec, test = codecs[name], images[1000:]
    codec.export(tmp_path / "artifact")
    payloads, integers = codec.compress(test), codec.encode(test)
    bad = [payload[: i % (len(payload) + 1)] + bytes([i]) * (i % 7) for i, payload in enumerate(payloads)]
    sound = [payload for payload in bad if not refused(codec, payload)]
    assert 0 < len(sound) < len(bad)
    graph = WholeSavedModels(tmp_path / "artifact", several=False, any_size=False)
    np.testing.assert_array_equal(graph.integers(sound, 1), codec.decode(sound))
    for whole in (graph, WholeLiteRT(tmp_path / "artifact")):
        made = whole.compress(test, 1)
        assert np.mean(codec.decode(made) != integers) < 2e-3
        assert codec.entropy_model.encode(codec.decode(made)) == made
        for written in (payloads, sound):
            assert np.abs(np.stack(whole.decompress(written, 1)).astype(int) - codec.decompress(written)).max() <= 1


def refused(codec: Codec, payload: bytes) -> bool:
    try:
        codec.decode([payload])
    except BitstreamError:
        return True
    return False


def test_the_benchmark_of_exactness_finds_what_is_wrong(
    codecs: dict[str, Codec], images: np.ndarray, tmp_path: Path
) -> None:
    codec, test = codecs["VAE"], images[1000:1032]
    codec.export(artifact := tmp_path / "artifact")
    found = runtime_exactness.runtimes(codec, artifact)
    report = runtime_exactness.compare(found, test)
    assert runtime_exactness.faults(report) == []
    assert {name for name, row in report.items() if isinstance(row, dict)} == set(found)

    payloads = codec.compress(test)
    capacity = found["LiteRT"].capacity
    bad = runtime_exactness.corrupted(payloads, capacity, 150, np.random.default_rng(1))
    report = runtime_exactness.compare_corrupt(found, bad, capacity)
    assert runtime_exactness.faults(report) == []
    assert 0 < report["refused_by_numpy"] < len(bad)

    # A runtime that is wrong by a byte, a latent or three levels does not pass.
    whole = type(found["LiteRT"])
    found["LiteRT"].encode = lambda latents: [p[:-1] for p in whole.encode(found["LiteRT"], latents)]
    found["LiteRT"].decode = lambda payloads: whole.decode(found["LiteRT"], payloads) + np.eye(1, 16, 3, int)
    found["LiteRT"].decompress = lambda p: found["NumPy"].decompress(p).astype(int) + 3
    assert set(runtime_exactness.faults(runtime_exactness.compare(found, test))) == {
        "LiteRT: payloads_unlike_numpy_of_same_latents 32",
        "LiteRT: latents_unlike_those_coded 32",
        "LiteRT: latents_unlike_those_of_any_runtime 128",
        "LiteRT: levels_of_pixel_difference 3",
    }


# === Quantized networks ===


def litert_files(parts: Parts, quantize: str, calibration: int = 100) -> dict[str, bytes]:
    """All ``.tflite`` files of a codec of one shape, calibrated on some of its items."""
    whole: Any = parts.transform
    some = KerasTransform(
        whole.encoder, whole.decoder, whole.unit, whole.zero, whole.qualities,
        takes_quality=whole.takes_quality, calibration=whole.calibration[:calibration],
    )  # fmt: skip
    parts = replace(parts, transform=some)
    return UniformGraphs(parts, some).litert(quantize) | exporting._networks(parts, some, quantize)


@pytest.mark.xdist_group("conv_qualities")
@pytest.mark.parametrize("quantize", artifacts.QUANTIZATIONS)
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


def test_8_bit_encoders_resolve_fine_steps_about_an_offset(codecs: dict[str, Codec], images: np.ndarray) -> None:
    parts = codecs["VAE"].parts
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


def interpreter_of(content: bytes) -> Any:
    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    runner.owner = interpreter  # a runner does not keep its interpreter
    return runner


def test_litert_halves_no_float_but_the_networks_weights(kind: Kind) -> None:
    """A threshold or a step that is not quite itself would choose other tables."""
    transform: Any = kind.codec.parts.transform
    shapes = {w.shape for network in (transform.encoder, transform.decoder) for w in network.get_weights()}
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


# === LiteRT files ===


def edges_of(kind: Kind, folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and outputs of each ``.tflite`` file, as the docstring of `manifest` states them; -1 is free."""
    manifest, transform = artifacts.Manifest.read(folder), kind.codec.parts.transform
    latent = np.float32, (1, *(-1 if n is None else n for n in manifest.latent_shape))
    image = np.uint8, (1, *(-1 if n is None else n for n in manifest.image_shape))
    quality = {"quality": (np.int32, (1,))}
    if manifest.grid:
        asked, payload = quality, {"payload": (np.uint8, (1, -1))}
        made, restored = {"payload": (np.uint8, (-1,))}, (np.uint8, (-1, -1, -1))
    else:
        asked, restored = quality if len(manifest.qualities) > 1 else {}, image
        made = {"payload": (np.uint8, (manifest.max_payload_bytes,)), "length": (np.int32, (1,))}
        payload = {**made, **asked}
    told = quality if getattr(transform, "takes_quality", False) else {}
    return {
        artifacts.ENCODER_LITERT: ({"image": image, **asked}, made),
        artifacts.DECODER_LITERT: (payload, {"image": restored}),
        artifacts.ENCODER_LATENT: ({"image": image}, {"latent": latent}),
        artifacts.DECODER_LATENT: ({"latent": latent, **told}, {"image": image}),
        artifacts.ENCODER_SLOPE: (
            {"image": image, "latent": latent, **told},
            {"error": (np.float32, (1,)), "gradient": latent},
        ),
    }


def test_litert_files_bind_by_name_with_the_stated_shapes_and_builtin_operators(kind: Kind) -> None:
    edges = edges_of(kind, kind.folder)
    assert {path.name for path in kind.folder.glob("*.tflite")} == set(edges)
    for name, expected in edges.items():
        content = (kind.folder / name).read_bytes()
        operators = conversion.operators(content)
        assert operators
        assert not operators & conversion.FORBIDDEN
        assert not [operator for operator in operators if operator.startswith("CUSTOM")]
        runner = interpreter_of(content)
        found = runner.get_input_details(), runner.get_output_details()
        for details, tensors in zip(found, expected, strict=True):
            assert set(details) == set(tensors), name
            for key, (dtype, shape) in tensors.items():
                assert details[key]["dtype"] == dtype, (name, key)
                signature = tuple(details[key]["shape_signature"])
                # An output's free sides are known to nobody before the graph runs.
                assert signature == shape or (-1 in shape and details is found[1]), (name, key, signature)


def test_a_quality_beyond_the_ends_is_the_end(kind: Kind) -> None:
    if kind.codec.qualities == 1 and not kind.codec.item.any_size:
        pytest.skip("its files take no quality")
    last = kind.codec.qualities
    graph = WholeSavedModels(kind.folder, last > 1, kind.codec.item.any_size)
    lite = WholeLiteRT(kind.folder)
    for whole in (graph, lite):
        assert whole.compress(kind.items[:1], 99) == whole.compress(kind.items[:1], last)
        assert whole.compress(kind.items[:1], -1) == whole.compress(kind.items[:1], 1)


@pytest.mark.xdist_group("own_any")
def test_files_of_a_fixed_side_take_smaller_images_and_say_what_does_not_fit(kinds: Callable[[str], Kind]) -> None:
    codec, side = kinds("own_any").codec, 40
    transform: Any = codec.parts.transform
    graphs = TiledGraphs(codec.parts, transform, side)
    assert graphs.capacity == 3 * side**2
    files = graphs.litert("float32")
    encoder, decoder = (interpreter_of(files[n]) for n in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT))
    for height, width in ((1, 1), (40, 40), (17, 33)):
        image = scene(height, width)
        whole = np.full((1, side, side, 3), 77, np.uint8)  # what lies beyond the size does not count
        whole[0, :height, :width] = image
        made = encoder(image=whole, size_and_quality=np.int32([height, width, 1]))
        payload = made["payload"][: made["length"][0]].tobytes()
        assert not made["payload"][made["length"][0] :].any()
        assert payload == codec.compress([image])[0]
        found = decoder(payload=made["payload"], length=made["length"])
        assert found["size"].tolist() == [height, width, 3]
        restored = found["image"][:height, :width]
        assert np.abs(restored.astype(int) - codec.decompress([payload])[0]).max() <= 1
        assert found["image"].sum() == restored.sum(dtype=int)
    [large] = codec.compress([scene(41, 40)])
    buffer = np.frombuffer(large.ljust(graphs.capacity, b"\0"), np.uint8)
    assert decoder(payload=buffer, length=np.int32([len(large)]))["size"].tolist() == [1, 1, 3]
    for wrong in (7, 4097):
        with pytest.raises(InputError, match=f"a side of 8 to 4096 pixels, found {wrong}"):
            TiledGraphs(codec.parts, transform, wrong)


STATE = tf.Variable([1.0, 2.0])


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x + tf.random.normal([2]), "RANDOM_STANDARD_NORMAL"),
        (lambda x: x + tf.random.stateless_normal([2], [1, 2]), "StatelessRandomNormalV2"),
        (lambda x: tf.numpy_function(np.sin, [x], tf.float32), "PyFunc"),
        (lambda x: tf.linalg.inv(tf.linalg.diag(x[0]))[None, 0], "MatrixInverse"),
        (lambda x: STATE.assign_add(x[0])[None], "AssignAddVariableOp"),
    ],
    ids=["random", "stateless random", "Python", "no builtin", "variable"],
)
def test_an_operator_that_cannot_be_everywhere_is_refused_by_name(function: Callable[..., Any], named: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")], autograph=False)
    def graph(x: Any) -> dict[str, Any]:
        return {"y": function(x)}

    with pytest.raises(InputError, match=f"built into LiteRT.*found .*{named}"):
        conversion.to_litert(graph)


def test_variables_become_constants() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def graph(x: Any) -> dict[str, Any]:
        return {"y": x * STATE}

    np.testing.assert_array_equal(interpreter_of(conversion.to_litert(graph))(x=np.float32([[3, 4]]))["y"], [[3, 8]])


# === The gradient ===


@keras.saving.register_keras_serializable("tests")
class OddGradient(keras.layers.Layer):
    """An operator whose gradient LiteRT lacks."""

    def call(self, x: Any) -> Any:
        return keras.ops.elu(x)


def test_a_gradient_that_litert_cannot_compute_is_left_out(images: np.ndarray, tmp_path: Path) -> None:
    model = AutoEncoder.dense(SHAPE, 4, hidden=(8,), beta=0.1)
    latent = keras.Input((4,))
    own = AutoEncoder(model.encoder, keras.Model(latent, model.decoder(OddGradient()(latent))), beta=0.1)
    codec = Codec.freeze(own, images[:50])
    codec.export(tmp_path / "artifact")
    assert not (tmp_path / "artifact" / artifacts.ENCODER_SLOPE).exists()
    plain = Codec.load(tmp_path / "artifact")
    assert plain.compress(images[:3]) == codec.compress(images[:3])
    with pytest.raises(InputError, match="expected effort=0 with an artifact whose encoder was exported without"):
        plain.compress(images[:3], effort=1)
    assert Codec.load(tmp_path / "artifact", runtime="tensorflow").compress(images[:3], effort=3) == codec.compress(
        images[:3], effort=3
    )


# === The folder ===


@keras.saving.register_keras_serializable("tests")
class Inverse(keras.layers.Layer):
    """Its operator is in TensorFlow and not in LiteRT."""

    def call(self, x: Any) -> Any:
        return x + 0.0 * tf.reshape(tf.linalg.inv(tf.linalg.diag(tf.ones_like(x)))[:, 0, :1], [-1, 1])


def test_a_codec_that_cannot_be_exported_leaves_the_earlier_artifact(images: np.ndarray, tmp_path: Path) -> None:
    model = AutoEncoder.dense(SHAPE, 4, hidden=(8,), beta=0.1)
    inputs = keras.Input(SHAPE, dtype="uint8")
    own = AutoEncoder(keras.Model(inputs, Inverse()(model.encoder(inputs))), model.decoder, beta=0.1)
    codec = Codec.freeze(own, images[:50])
    target = tmp_path / "artifact"
    target.mkdir()
    (target / artifacts.MANIFEST).write_text("earlier")
    with pytest.raises(InputError, match="MatrixInverse"):
        codec.export(target)
    assert [path.name for path in tmp_path.rglob("*")] == ["artifact", artifacts.MANIFEST]
    assert (target / artifacts.MANIFEST).read_text() == "earlier"


def test_what_is_not_a_choice(codecs: dict[str, Codec], tmp_path: Path) -> None:
    export = partial(codecs["VAE"].export, tmp_path / "new")
    with pytest.raises(InputError, match=r"one of \('float32', 'float16', 'dynamic', 'int8'\), found 'int4'"):
        export(quantize="int4")
    with pytest.raises(InputError, match=r"a side for items of any size alone, found one for \[28, 28, 1\]"):
        export(side=32)
    with pytest.raises(InputError, match=r"a codec from Codec\.freeze, or one that was loaded with runtime='keras'"):
        Codec.load().export(tmp_path / "new")
    bundled = Codec.load(runtime="keras")
    with pytest.raises(InputError, match="quantize='int8' with calibration items of one shape"):
        bundled.export(tmp_path / "new", quantize="int8")
    with pytest.raises(InputError, match="all its qualities to export, found one of them"):
        bundled.at(3).export(tmp_path / "new")
    with pytest.raises(InputError, match="a side of 8 to 4096 pixels, found 7"):
        bundled.export(tmp_path / "new", side=7)
    assert not (tmp_path / "new").exists()


@pytest.mark.xdist_group("lapped")
def test_an_artifact_that_keeps_its_model_is_a_codec_and_a_model_again(kinds: Callable[[str], Kind]) -> None:
    kind = kinds("lapped")
    loaded, items = kind.load("keras"), kind.items[:4]
    assert loaded.fingerprint == kind.codec.fingerprint
    for quality in (1, 2):
        assert loaded.compress(items, quality) == kind.codec.compress(items, quality)
        payloads = kind.codec.compress(items, quality, effort=2)
        assert loaded.compress(items, quality, effort=2) == payloads
        for a, b in zip(loaded.decompress(payloads), kind.codec.decompress(payloads), strict=True):
            np.testing.assert_array_equal(a, b)
    model = tfcomp.load_model(kind.folder)
    assert model.item == kind.codec.item
    assert model.qualities == 2


STRANGER = """
import importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tfcomp":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np
import tensorflow as tf

folder, images = sys.argv[1], np.load(sys.argv[2])
encoder, decoder = (tf.saved_model.load(f"{folder}/{name}/1") for name in ("encoder", "decoder"))
payloads = encoder.signatures["serving_default"](image=tf.constant(images))["payload_bytes"]
restored = decoder.signatures["serving_default"](payload_bytes=payloads)["image"].numpy()
integers = decoder.signatures["integers"](payload_bytes=payloads)["integers"]
latents = encoder.signatures["latent"](image=tf.constant(images))["latent"]
slope = encoder.signatures["slope"](image=tf.constant(images), latent=latents)
files = [tf.io.encode_png(image).numpy() for image in images]
from_files = encoder.signatures["file"](file_bytes=tf.constant(files))["payload_bytes"]
print(json.dumps([p.hex() for p in payloads.numpy()]))
print(json.dumps(restored.tolist()))
print(json.dumps(integers.numpy().tolist()))
print(json.dumps([sorted(slope), from_files.numpy().tolist() == payloads.numpy().tolist()]))
assert "tfcomp" not in sys.modules
"""


def test_saved_models_run_in_a_process_without_tfcomp(exported: Any, tmp_path: Path) -> None:
    codec, artifact, images = exported
    few = images[:5]
    np.save(tmp_path / "images.npy", few)
    command = [sys.executable, "-c", STRANGER, str(artifact), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    payloads, restored, integers, others = map(json.loads, done.stdout.splitlines())
    expected = codec.compress(few)
    assert [bytes.fromhex(payload) for payload in payloads] == expected
    assert np.abs(np.array(restored) - codec.decompress(expected).astype(int)).max() <= 1
    np.testing.assert_array_equal(integers, codec.encode(few))
    assert others == [["error", "gradient"], True]

    program = Path(sys.executable).with_name("saved_model_cli")
    command = [program, "run", "--dir", artifact / "encoder/1", "--tag_set", "serve"]
    command += ["--signature_def", "serving_default", "--inputs", f"image={tmp_path / 'images.npy'}"]
    done = subprocess.run([*command, "--outdir", tmp_path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(np.load(tmp_path / "payload_bytes.npy", allow_pickle=True)) == expected


def test_the_manifest_says_what_was_measured(codecs: dict[str, Codec], tmp_path: Path) -> None:
    codec = codecs["VAE"]
    made = codec.export(tmp_path / "artifact", quantize="int8")
    manifest = artifacts.Manifest.read(tmp_path / "artifact")
    assert manifest.as_dict() == made
    artifacts.verify(tmp_path / "artifact", manifest.files)
    calibration = codec.parts.transform.calibration
    assert manifest.measured["images"] == len(calibration) == 200
    plain, quantized = manifest.measured["float32"], manifest.measured["int8"]
    sizes = {name: manifest.files[f"{name}.tflite"]["bytes"] for name in ("encoder", "decoder")}
    assert (quantized["encoder_bytes"], quantized["decoder_bytes"]) == (sizes["encoder"], sizes["decoder"])
    assert quantized["encoder_bytes"] < plain["encoder_bytes"]
    payloads = codec.compress(calibration)
    assert plain["bytes_per_image"] == pytest.approx(np.mean([len(p) for p in payloads]), rel=1e-3)
    payloads = Codec.load(tmp_path / "artifact").compress(calibration)
    assert quantized["bytes_per_image"] == np.mean([len(p) for p in payloads])
    for row in manifest.table().splitlines()[2:]:
        assert row.startswith(("| float32 | ", "| int8 | "))
    dense_macs = {"encoder": (784 * 64 + 64 * 16) / 784, "decoder": (16 * 64 + 64 * 784) / 784}
    assert manifest.compute == pytest.approx(dense_macs, rel=0.05)
