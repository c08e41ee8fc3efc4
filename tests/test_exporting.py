"""What an export is: the same bytes in every runtime, from files that need neither tfcomp nor an unusual operator."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfcomp.artifact import exporting
from tfcomp.artifact import manifest as artifacts
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.errors import InputError
from tfcomp.models.autoencoder import VAE, AutoEncoder
from tfcomp.runtimes.keras_networks import KerasNetworks

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (28, 28, 1)


def script(name: str) -> Any:
    """A program of ``benchmarks/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(1064, seed=7)


@pytest.fixture(scope="module")
def codecs(images: np.ndarray) -> dict[str, Codec]:
    keras.utils.set_random_seed(0)
    made = {}
    for name, model in {
        "autoencoder": AutoEncoder.conv(SHAPE, 16, filters=(4, 8), hidden=32, beta=0.1),
        "spatial": AutoEncoder.spatial(SHAPE, 1, filters=(4, 8), beta=0.1),
        "vae": VAE.dense(SHAPE, 16, hidden=(64,), distortion="squared_error", beta=0.1),
    }.items():
        model.compile(optimizer=keras.optimizers.Adam(3e-3))
        model.fit(images[:1000], batch_size=50, epochs=8, verbose=0)
        made[name] = Codec.freeze(model, images[:1000])
        if name == "autoencoder":
            made["sets of tables"] = Codec.freeze(model, images[:1000], sets=5)
    return made


@pytest.fixture(scope="module")
def artifact(codecs: dict[str, Codec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "artifact"
    codecs["autoencoder"].export(folder)
    return folder


# === Exactness ===


@pytest.mark.parametrize("kind", ["autoencoder", "sets of tables", "spatial", "vae"])
def test_every_runtime_makes_and_reads_the_same_payloads(
    kind: str, codecs: dict[str, Codec], artifact: Path, images: np.ndarray, tmp_path: Path
) -> None:
    exactness = script("runtime_exactness")
    codec = codecs[kind]
    if kind != "autoencoder":
        codec.export(artifact := tmp_path / "artifact")
    found = exactness.runtimes(codec, artifact)
    report = exactness.compare(found, images[1000:])
    assert exactness.faults(report) == []
    assert {name for name, row in report.items() if isinstance(row, dict)} == set(found)

    payloads = codec.compress(images[1000:])
    assert min(map(len, payloads)) > 0
    capacity = found["LiteRT"].capacity
    bad = exactness.corrupted(payloads, capacity, 250, np.random.default_rng(1))
    report = exactness.compare_corrupt(found, bad, capacity)
    assert exactness.faults(report) == []
    assert 0 < report["refused_by_numpy"] < len(bad)

    # A runtime that is wrong by a byte, a latent or three levels does not pass.
    whole = type(found["LiteRT"])
    found["LiteRT"].encode = lambda latents: [p[:-1] for p in whole.encode(found["LiteRT"], latents)]
    found["LiteRT"].decode = lambda payloads: (
        whole.decode(found["LiteRT"], payloads) + np.eye(1, codec.entropy_model.symbols, 3, int)
    )
    found["LiteRT"].decompress = lambda p: found["NumPy"].decompress(p).astype(int) + 3
    assert set(exactness.faults(exactness.compare(found, images[1000:]))) == {
        "LiteRT: payloads_unlike_numpy_of_same_latents 64",
        "LiteRT: latents_unlike_those_coded 64",
        "LiteRT: latents_unlike_those_of_any_runtime 256",
        "LiteRT: levels_of_pixel_difference 3",
    }


@pytest.mark.parametrize("quantize", artifacts.QUANTIZATIONS)
def test_quantized_networks_leave_the_coder_exact(quantize: str, codecs: dict[str, Codec], images: np.ndarray) -> None:
    codec = codecs["autoencoder"]
    files = exporting.Graphs(codec).litert(quantize, codec.networks.calibration[:100])
    networks = artifacts.LiteRTNetworks(files[artifacts.ENCODER_LATENT], files[artifacts.DECODER_LATENT])
    quantized = Codec(networks, codec.entropy_model, codec.image_shape)
    interpreters = [Interpreter(model_content=files[n]) for n in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT)]
    encoder, decoder = (interpreter.get_signature_runner() for interpreter in interpreters)
    test = images[1000:]
    payloads = quantized.compress(test)
    for image, payload, restored in zip(test, payloads, quantized.decompress(payloads), strict=True):
        result = encoder(image=image[None])
        assert result["payload"][: result["length"][0]].tobytes() == payload
        found = decoder(payload=result["payload"], length=result["length"])["image"][0]
        np.testing.assert_array_equal(found, restored)
    # What is rounded stays so until the cast: 8 bits would hold 1 as 0.99, which the cast makes 0.
    for name in (artifacts.ENCODER_LATENT, artifacts.DECODER_LATENT):
        order = [operator["op_name"] for operator in Interpreter(model_content=files[name])._get_ops_details()]
        after = order[order.index("ROUND") + 1 :]
        assert "CAST" in after
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(after[: after.index("CAST")])
    reference = codec.compress(test)
    assert sum(map(len, payloads)) <= 1.03 * sum(map(len, reference))
    mean_error = np.mean((quantized.decompress(payloads).astype(float) - test) ** 2)
    assert mean_error <= 1.05 * np.mean((codec.decompress(reference).astype(float) - test) ** 2)  # 0.2 dB


def test_8_bit_encoders_resolve_fine_steps_about_an_offset(codecs: dict[str, Codec], images: np.ndarray) -> None:
    coarse = codecs["vae"]
    model = replace(coarse.entropy_model, step=coarse.entropy_model.step / 200)
    assert np.any(model.offset)
    networks = coarse.networks
    fine = KerasNetworks(networks.encoder, networks.decoder, model.step, model.offset, networks.calibration)
    files = exporting.Graphs(Codec(fine, model, SHAPE)).litert("int8", networks.calibration[:100])
    litert = artifacts.LiteRTNetworks(files[artifacts.ENCODER_LATENT], files[artifacts.DECODER_LATENT])
    expected = fine.encode(images[1000:])
    assert np.std(litert.encode(images[1000:]) - expected) < 2 * np.ptp(expected) / 255


# === LiteRT files ===


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        (
            "encoder.tflite",
            {"image": (np.uint8, (1, *SHAPE))},
            {"payload": (np.uint8, "MAX"), "length": (np.int32, (1,))},
        ),
        (
            "decoder.tflite",
            {"payload": (np.uint8, "MAX"), "length": (np.int32, (1,))},
            {"image": (np.uint8, (1, *SHAPE))},
        ),
        ("encoder_latent.tflite", {"image": (np.uint8, (1, *SHAPE))}, {"latent": (np.int32, (1, 16))}),
        ("decoder_latent.tflite", {"latent": (np.int32, (1, 16))}, {"image": (np.uint8, (1, *SHAPE))}),
    ],
)
def test_litert_files_bind_by_name_with_static_shapes_and_builtin_operators(
    name: str, inputs: dict[str, Any], outputs: dict[str, Any], artifact: Path
) -> None:
    content = (artifact / name).read_bytes()
    found = exporting.operators(content)
    assert found
    assert not found & exporting.FORBIDDEN
    assert not [operator for operator in found if operator.startswith("CUSTOM")]
    interpreter = Interpreter(model_content=content)
    maximum = artifacts.Manifest.read(artifact).max_payload_bytes
    (signature,) = interpreter.get_signature_list().values()
    assert set(signature["inputs"]) == set(inputs)
    assert set(signature["outputs"]) == set(outputs)
    runner = interpreter.get_signature_runner()
    for details, expected in ((runner.get_input_details(), inputs), (runner.get_output_details(), outputs)):
        for key, (dtype, shape) in expected.items():
            assert details[key]["dtype"] == dtype
            assert tuple(details[key]["shape_signature"]) == ((maximum,) if shape == "MAX" else shape)


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
        exporting.to_litert(graph)


def test_variables_become_constants() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def graph(x: Any) -> dict[str, Any]:
        return {"y": x * STATE}

    interpreter = Interpreter(model_content=exporting.to_litert(graph))
    runner = interpreter.get_signature_runner()
    np.testing.assert_array_equal(runner(x=np.float32([[3, 4]]))["y"], [[3, 8]])


@keras.saving.register_keras_serializable("tests")
class Inverse(keras.layers.Layer):
    """Its operator is in TensorFlow and not in LiteRT."""

    def call(self, x: Any) -> Any:
        return x + 0.0 * tf.reshape(tf.linalg.inv(tf.linalg.diag(tf.ones_like(x)))[:, 0, :1], [-1, 1])


def test_a_codec_that_cannot_be_exported_leaves_the_earlier_artifact(
    artifact: Path, images: np.ndarray, tmp_path: Path
) -> None:
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


def test_what_is_not_a_choice(codecs: dict[str, Codec], artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of \('float32', 'float16', 'dynamic', 'int8'\), found 'int4'"):
        codecs["vae"].export(tmp_path / "new", quantize="int4")
    with pytest.raises(InputError, match=r"a codec from Codec\.freeze"):
        Codec.load(artifact).export(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# === SavedModels ===

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
latents = encoder.signatures["latent"](image=tf.constant(images))["latent"]
again = decoder.signatures["latent"](latent=latents)["image"].numpy()
print(json.dumps([p.hex() for p in payloads.numpy()]))
print(json.dumps(restored.tolist()))
print(json.dumps(bool((again == restored).all())))
assert "tfcomp" not in sys.modules
"""


def test_saved_models_run_in_a_process_without_tfcomp(
    codecs: dict[str, Codec], artifact: Path, images: np.ndarray, tmp_path: Path
) -> None:
    few = images[1000:1005]
    np.save(tmp_path / "images.npy", few)
    command = [sys.executable, "-c", STRANGER, str(artifact), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    payloads, restored, same = map(json.loads, done.stdout.splitlines())
    expected = codecs["autoencoder"].compress(few)
    assert [bytes.fromhex(payload) for payload in payloads] == expected
    assert np.abs(np.array(restored) - codecs["autoencoder"].decompress(expected).astype(int)).max() <= 1
    assert same

    program = Path(sys.executable).with_name("saved_model_cli")
    command = [program, "run", "--dir", artifact / "encoder/1", "--tag_set", "serve"]
    command += ["--signature_def", "serving_default", "--inputs", f"image={tmp_path / 'images.npy'}"]
    done = subprocess.run([*command, "--outdir", tmp_path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(np.load(tmp_path / "payload_bytes.npy", allow_pickle=True)) == expected


def test_the_manifest_says_what_was_measured(codecs: dict[str, Codec], images: np.ndarray, tmp_path: Path) -> None:
    made = codecs["vae"].export(tmp_path / "artifact", quantize="int8")
    manifest = artifacts.Manifest.read(tmp_path / "artifact")
    assert vars(manifest) == made
    artifacts.verify(tmp_path / "artifact", manifest.files)
    assert manifest.measured["images"] == len(codecs["vae"].networks.calibration) == 500
    plain, quantized = manifest.measured["float32"], manifest.measured["int8"]
    sizes = {name: manifest.files[f"{name}.tflite"]["bytes"] for name in ("encoder", "decoder")}
    assert (quantized["encoder_bytes"], quantized["decoder_bytes"]) == (sizes["encoder"], sizes["decoder"])
    assert quantized["encoder_bytes"] < plain["encoder_bytes"]
    payloads = codecs["vae"].compress(codecs["vae"].networks.calibration)
    assert plain["bytes_per_image"] == pytest.approx(np.mean([len(p) for p in payloads]), rel=1e-3)
    loaded = Codec.load(tmp_path / "artifact")
    payloads = loaded.compress(codecs["vae"].networks.calibration)
    assert quantized["bytes_per_image"] == np.mean([len(p) for p in payloads])
    for row in manifest.table().splitlines()[2:]:
        assert row.startswith(("| float32 | ", "| int8 | "))
