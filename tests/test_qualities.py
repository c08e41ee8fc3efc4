"""One artifact, several qualities: every runtime makes the payloads of each, and each is a codec of its own."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfcomp.artifact import exporting
from tfcomp.artifact import manifest as artifacts
from tfcomp.cli import main as cli
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.entropy import qualities
from tfcomp.entropy.qualities import VariableRateCodec
from tfcomp.errors import BitstreamError, InputError
from tfcomp.measure import evaluate
from tfcomp.models.autoencoder import AutoEncoder, VariableRateAutoEncoder
from tfcomp.storage import container

SHAPE = (28, 28, 1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(1064, seed=7)


@pytest.fixture(scope="module")
def model(images: np.ndarray) -> VariableRateAutoEncoder:
    keras.utils.set_random_seed(0)
    made = VariableRateAutoEncoder.dense(SHAPE, 12, betas=(2.0, 0.4, 0.1), hidden=(64,))
    made.compile(optimizer=keras.optimizers.Adam(3e-3))
    made.fit(images[:1000], batch_size=50, epochs=8, verbose=0)
    return made


@pytest.fixture(scope="module")
def codec(model: VariableRateAutoEncoder, images: np.ndarray) -> Codec:
    return Codec.freeze(model, images[:1000])


@pytest.fixture(scope="module")
def artifact(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec.export(folder := tmp_path_factory.mktemp("qualities") / "artifact")
    return folder


# === Integers ===


@given(
    t=arrays.arrays(np.int32, 20, elements=st.integers(-(2**30), 2**30)),
    s=arrays.arrays(np.int32, 20, elements=st.integers(1, qualities.MOST_STEPS)),
    o=arrays.arrays(np.int32, 20, elements=st.integers(-qualities.MOST_STEPS, qualities.MOST_STEPS)),
)
def test_a_quality_rounds_to_its_nearest_step(t: np.ndarray, s: np.ndarray, o: np.ndarray) -> None:
    q = qualities.coarse(t, s, o)
    assert q.dtype == np.int32
    error = t.astype(np.int64) - (q.astype(np.int64) * s + o)
    assert np.all((-s.astype(np.int64) < 2 * error + 1) & (2 * error <= s))
    np.testing.assert_array_equal(qualities.coarse(qualities.fine(q % 8, s, o), s, o), q % 8)


# === Exactness ===


def test_every_runtime_makes_and_reads_the_payloads_of_each_quality(
    codec: VariableRateCodec, artifact: Path, images: np.ndarray
) -> None:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    test = images[1000:]
    quality = np.arange(len(test), dtype=np.int32) % 3 + 1
    encoder, decoder = (tf.saved_model.load(str(artifact / name)) for name in (artifacts.ENCODER, artifacts.DECODER))
    made = encoder.signatures["serving_default"](image=tf.constant(test), quality=tf.constant(quality))
    saved = made["payload_bytes"].numpy().tolist()
    shown = decoder.signatures["serving_default"](payload_bytes=tf.constant(saved), quality=tf.constant(quality))
    fine = np.asarray(encoder.signatures["latent"](image=tf.constant(test))["latent"])
    kept = [Interpreter(str(artifact / name)) for name in artifacts.RUNTIMES["litert"]]
    encode, decode, to_latent, _ = (interpreter.get_signature_runner() for interpreter in kept)
    for i, q in enumerate(quality):
        one, at = test[i : i + 1], codec.at(q)
        result = encode(image=one, quality=np.int32([q]))
        lite = result["payload"][: result["length"][0]].tobytes()
        assert not result["payload"][result["length"][0] :].any()
        # Networks may round a latent differently; the bytes are those of the latents that each one found.
        for payload, latent in ((saved[i], fine[i]), (lite, to_latent(image=one)["latent"][0])):
            coarse = at.entropy_model.clip(qualities.coarse(latent[None], *at.networks.scale))
            assert payload == at.entropy_model.encode(coarse)[0]
        expected = at.decompress([lite])[0].astype(int)
        found = decode(payload=result["payload"], length=result["length"], quality=np.int32([q]))["image"][0]
        assert np.abs(found - expected).max() <= 1
        assert np.abs(shown["image"][i].numpy() - at.decompress([saved[i]])[0].astype(int)).max() <= 1


def test_litert_files_take_the_quality_by_name_and_hold_it_to_the_ends(artifact: Path, images: np.ndarray) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreters = {name: Interpreter(str(artifact / name)) for name in artifacts.RUNTIMES["litert"]}
    for name, interpreter in interpreters.items():
        operators = exporting.operators((artifact / name).read_bytes())
        assert not [operator for operator in operators if operator.startswith("CUSTOM")]
        details = interpreter.get_signature_runner().get_input_details()
        assert ("quality" in details) == (name in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT))
        if "quality" in details:
            assert (details["quality"]["dtype"], [*details["quality"]["shape_signature"]]) == (np.int32, [1])
    encode = interpreters[artifacts.ENCODER_LITERT].get_signature_runner()
    lengths = [encode(image=images[:1], quality=np.int32([q]))["length"][0] for q in (-(2**31), 1, 3, 2**31 - 1)]
    assert lengths[0] == lengths[1] < lengths[2] == lengths[3]


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_a_loaded_codec_has_the_same_qualities(runtime: str, codec: Codec, artifact: Path, images: np.ndarray) -> None:
    loaded, test = Codec.load(artifact, runtime=runtime), images[1000:]
    assert isinstance(loaded, VariableRateCodec)
    assert [one.fingerprint for one in loaded.codecs] == [one.fingerprint for one in codec.codecs]
    assert len({one.fingerprint for one in codec.codecs}) == 3
    for quality in (1, 2, 3):
        latents = codec.at(quality).encode(test)
        assert np.mean(loaded.at(quality).encode(test) != latents) < 1e-3
        payloads = codec.compress(test, quality)
        np.testing.assert_array_equal(loaded.at(quality).entropy_model.decode(payloads), latents)
        found = loaded.decompress(payloads, quality).astype(int)
        assert np.abs(found - codec.decompress(payloads, quality)).max() <= 1
    with pytest.raises(InputError, match=r"a codec from Codec\.freeze"):
        loaded.export(artifact)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np
import tfcomp
codec = tfcomp.Codec.load(sys.argv[1])
images = np.load(sys.argv[2])
for quality in range(1, codec.qualities + 1):
    payloads = codec.compress(images, quality)
    print(sum(map(len, payloads)), codec.decompress(payloads, quality).shape)
"""


def test_without_tensorflow(codec: Codec, artifact: Path, images: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images[1000:])
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(artifact), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    expected = [f"{sum(map(len, codec.compress(images[1000:], q)))} (64, 28, 28, 1)" for q in (1, 2, 3)]
    assert done.stdout.splitlines() == expected


# === What a quality is ===


def test_a_higher_quality_has_more_bytes_and_a_better_picture(codec: Codec, images: np.ndarray) -> None:
    points = [evaluate.measure(one, images[1000:]) for one in codec.codecs]
    for worse, better in pairwise(points):
        assert worse.bytes_per_image < better.bytes_per_image
        assert worse.psnr_db < better.psnr_db
    assert codec.compress(images[:5]) == codec.compress(images[:5], 3) == codec.at(3).compress(images[:5])
    assert codec.fingerprint == codec.at(3).fingerprint


def test_a_quality_costs_what_a_codec_of_its_step_alone_does(images: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    model = AutoEncoder.dense(SHAPE, 12, hidden=(64,), beta=0.1)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(images[:1000], batch_size=50, epochs=8, verbose=0)
    codec, test = Codec.freeze(model, images[:1000], step=(4, 1)), images[1000:]
    for quality, step in ((1, 4.0), (2, 1.0)):
        alone = Codec.freeze(model, images[:1000], step=step)
        latents = alone.encode(test)
        assert np.mean(codec.at(quality).encode(test) != latents) < 0.01  # 1/512 of a step apart
        assert codec.at(quality).entropy_model.ideal_bits(latents).sum() == pytest.approx(
            alone.entropy_model.ideal_bits(latents).sum(), rel=0.01
        )
        one, other = codec.decompress(codec.compress(test, quality), quality), alone.decompress(alone.compress(test))
        assert evaluate.psnr_db(test, one) == pytest.approx(evaluate.psnr_db(test, other), abs=0.05)


def test_a_channel_that_is_collapsed_costs_nothing_at_its_quality(images: np.ndarray) -> None:
    model = AutoEncoder.dense(SHAPE, 4, hidden=(8,), beta=0.1)
    scale = np.abs(model.latents(images[:500])).max()
    codec = Codec.freeze(model, images[:500], step=(1e6 * scale, 1e4 * scale, scale / 8))
    assert codec.compress(images[1000:], 1) == codec.compress(images[1000:], 2) == [b""] * 64
    assert min(map(len, codec.compress(images[1000:], 3))) > 0


def test_int8_networks_keep_every_quality(codec: Codec, images: np.ndarray, tmp_path: Path) -> None:
    made = codec.export(tmp_path / "artifact", quantize="int8")
    assert made["fingerprints"] == tuple(one.fingerprint for one in codec.codecs)
    for quality in (1, 2, 3):
        plain, quantized = (made["measured"][f"{name}, quality {quality}"] for name in ("float32", "int8"))
        assert quantized["bytes_per_image"] <= 1.03 * plain["bytes_per_image"]
        assert quantized["psnr_db"] >= plain["psnr_db"] - 0.2
        payloads = codec.compress(codec.fine_networks.calibration, quality)
        assert plain["bytes_per_image"] == pytest.approx(np.mean([*map(len, payloads)]), rel=1e-3)


# === Refusals ===


def test_what_is_no_quality(codec: Codec, images: np.ndarray) -> None:
    payloads = codec.compress(images[:2], 1)
    for wrong in (0, 4, -1, 1.5, "1"):
        expected = f"expected a quality from 1 to 3, found {wrong!r}"
        with pytest.raises(InputError, match=expected):
            codec.compress(images[:2], wrong)
        with pytest.raises(InputError, match=expected):
            codec.decompress(payloads, wrong)
    with pytest.raises(InputError, match="expected a quality from 1 to 1, found 2"):
        codec.at(1).at(2)
    with pytest.raises(BitstreamError, match="expected payloads of the codec .* or .*, found those of 0000"):
        codec.that_made(bytes(16))


def test_freeze_refuses_what_the_model_fixes(model: VariableRateAutoEncoder, images: np.ndarray) -> None:
    for options in ({"step": 1}, {"target_bytes": 5}, {"target_psnr_db": 10}, {"sets": 2}, {"latents": "sample"}):
        with pytest.raises(InputError, match="for a model of 3 qualities"):
            Codec.freeze(model, images[:50], **options)
    plain = AutoEncoder.dense(SHAPE, 4, hidden=(8,), beta=0.1)
    for steps in ((1, 2), (2, 2), ()):
        with pytest.raises(InputError, match="one step or several from the largest"):
            Codec.freeze(plain, images[:50], step=steps)
    with pytest.raises(InputError, match="1 set of tables for several steps"):
        Codec.freeze(plain, images[:50], step=(2, 1), sets=2)


def test_tables_that_are_not_of_qualities(codec: Codec) -> None:
    arrays = qualities.arrays([one.entropy_model for one in codec.codecs])
    back = qualities.from_arrays(arrays)
    assert [one.fingerprint.hex() for one in back] == [one.fingerprint for one in codec.codecs]
    for name, wrong in (("step", 0.5), ("step", 0), ("step", np.nan), ("offset", 2.0**25)):
        changed = {**arrays, name: np.full_like(arrays[name], wrong)}
        with pytest.raises(BitstreamError, match="whole steps"):
            qualities.from_arrays(changed)
    with pytest.raises(BitstreamError, match="as many qualities"):
        qualities.from_arrays({**arrays, "step": arrays["step"][:2]})


# === The command line ===


def test_commands_choose_the_quality_and_find_it(
    codec: Codec, artifact: Path, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "images.npy", images[1000:1005])
    archive, common = str(tmp_path / "a.tfz"), ["--codec", str(artifact)]
    sizes = []
    for quality in (["--quality", "1"], ["--quality", "3"], []):
        assert cli.main(["compress", str(tmp_path / "images.npy"), "-o", archive, *common, *quality]) == 0
        with container.Archive.open(archive) as opened:
            sizes.append(opened.header.payload_bytes)
            at = codec.that_made(opened.header.fingerprint)
            expected = at.decompress(list(opened))
        folder = tmp_path / "-".join(["out", *quality])
        assert cli.main(["decompress", archive, "-o", str(folder), *common]) == 0
        from tfcomp.storage.image_files import image_files, read_images

        assert np.abs(read_images(image_files(folder)).astype(int) - expected).max() <= 1
    assert sizes[0] < sizes[1] == sizes[2]
    capsys.readouterr()
    assert cli.main(["compress", str(tmp_path / "images.npy"), "-o", archive, *common, "--quality", "4"]) == 2
    assert "expected a quality from 1 to 3, found 4" in capsys.readouterr().err
    assert cli.main(["info", str(artifact)]) == 0
    shown = capsys.readouterr().out
    assert all(one.fingerprint in shown for one in codec.codecs)
