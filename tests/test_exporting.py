"""What an export is: the same bytes in every runtime, from files that need neither tfcomp nor an unusual operator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import runtime_exactness
import tensorflow as tf
from kinds import Kind, WholeLiteRT, WholeSavedModels

import tfcomp
from tfcomp.artifact import manifest as artifacts
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.errors import BitstreamError, InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.vae import VAE

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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sets of tables", marks=pytest.mark.further),
        pytest.param("places", marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.slow
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
    with pytest.raises(
        InputError, match=r"one of \('float32', 'float16', 'int8-weights', 'dynamic', 'int8'\), found 'int4'"
    ):
        export(quantize="int4")
    with pytest.raises(InputError, match=r"a side for items of any size alone, found one for \[28, 28, 1\]"):
        export(side=32)
    with pytest.raises(InputError, match=r"a codec from Codec\.freeze, or one that was loaded with runtime='keras'"):
        Codec.load().export(tmp_path / "new")
    bundled = Codec.load(runtime="keras")
    with pytest.raises(InputError, match="int8-weights for items of any size, found quantize='int8'"):
        bundled.export(tmp_path / "new", quantize="int8")
    with pytest.raises(InputError, match="all its qualities to export, found one of them"):
        bundled.at(3).export(tmp_path / "new")
    with pytest.raises(InputError, match="a side of 8 to 4096 pixels, found 7"):
        bundled.export(tmp_path / "new", side=7)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
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


@pytest.mark.further
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


@pytest.mark.slow
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
