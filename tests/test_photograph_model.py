"""The trained side of the photograph codec, and that the integers made of it are its counterpart."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tfcomp.entropy.context import LEVELS, PARTS, THRESHOLDS, UNIT
from tfcomp.errors import InputError
from tfcomp.models import lapped as model_module
from tfcomp.models.lapped import STEPS, Contexts, PhotographModel, laplace_bits, to_blocks
from tfcomp.photographs import freeze, keras_networks, train
from tfcomp.photographs.codec import PhotographCodec
from tfcomp.photographs.litert import LiteRTNetworks
from tfcomp.photographs.old_layout import CHANNELS


def photographs(count: int = 2, side: int = 200) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    waves = [np.sin(y / rng.uniform(5, 30) + x / rng.uniform(5, 30) + c) for _ in range(count) for c in range(3)]
    return list(np.uint8(128 + 90 * np.array(waves)).reshape(count, 3, side, side).transpose(0, 2, 3, 1))


@cache
def model() -> PhotographModel:
    """Some steps old, its contexts shaken so that every weight matters."""
    keras.utils.set_random_seed(3)
    made = PhotographModel(seed=3)
    made.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    made.fit(train.crops(photographs(), 4, seed=0), steps_per_epoch=2, epochs=1, verbose=0, shuffle=False)
    rng = np.random.default_rng(4)
    for weight in (*made.contexts.scale_roots, *made.contexts.means):
        weight.assign(weight + rng.normal(0, 0.03, weight.shape).astype(np.float32))
    return made


def test_the_first_networks_transform_and_transform_back() -> None:
    fresh = PhotographModel()
    image = photographs(1, 64)[0][None]
    blocks = to_blocks(image.astype(np.float32) - 127.5)
    steps, quality = np.ones((1, 1, 1, CHANNELS), np.float32), np.eye(len(STEPS), dtype=np.float32)[:1]
    restored = np.asarray(fresh.synthesis(fresh.analysis(blocks), steps, quality))
    # What the 96 of 192 coefficients leave out is the fine chroma.
    assert np.sqrt(np.mean(np.square(restored - blocks))) < 3


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.07), (0.3, 0.5), (-1.7, 4.0)])
def test_intervals_of_the_density_have_the_mass_one(mean: float, scale: float) -> None:
    values = np.arange(-60, 61).astype(np.float32)
    mass = np.exp2(-np.asarray(laplace_bits(values - np.float32(mean), np.float32(scale)), np.float64))
    assert mass.sum() == pytest.approx(1, abs=1e-3)


def test_training_lowers_the_loss() -> None:
    keras.utils.set_random_seed(0)
    made = PhotographModel()
    made.compile(optimizer=keras.optimizers.Adam(3e-5), jit_compile=False)
    batch = next(train.crops(photographs(), 4, seed=1))
    before = made.test_on_batch(batch[0], return_dict=True)
    for _ in range(8):
        made.train_on_batch(batch[0])
    after = made.test_on_batch(batch[0], return_dict=True)
    assert np.isfinite(list(before.values())).all()
    assert after["loss"] < before["loss"]


def test_crops_are_whole_and_of_every_quality() -> None:
    seen = set()
    for _, ((images, qualities),) in zip(range(4), train.crops(photographs(), 4, seed=0), strict=False):
        assert images.shape == (4, train.SIDE, train.SIDE, 3)
        seen |= set(qualities.tolist())
    assert seen == set(range(len(STEPS)))


@pytest.mark.parametrize("quality", [0, 7])
def test_integer_contexts_are_those_of_training(quality: int) -> None:
    rng = np.random.default_rng(5)
    latent = np.rint(rng.laplace(0, 1, (1, 10, 11, CHANNELS))).astype(np.float32)
    step, chosen = freeze.steps(model())[quality], np.eye(len(STEPS), dtype=np.float32)[quality]
    contexts = model().contexts
    means, scales = (np.asarray(x)[0] for x in contexts(latent, step[None, None, None], chosen[None]))
    passes = freeze.context_model(contexts, step, quality).passes(10, 11)
    asked = next(passes)
    compared = 0
    while asked is not None:
        where, own = asked.which.positions(10, 11), asked.which.channels
        if asked.which.group or asked.which.phase:  # of the very first, nothing is expected
            rounding = 0.02  # of some hundred weights, each to 1/1024
            assert np.abs(asked.expected - means[where, own].ravel()).max() <= 0.5 + rounding
            level = asked.table // PARTS % LEVELS
            low, high = np.append(0, THRESHOLDS)[level] / UNIT, np.append(THRESHOLDS, 1 << 30)[level] / UNIT
            scale = scales[where, own].ravel()[asked.coded]
            assert (scale > 0.9 * low - rounding).all()
            assert (scale < 1.1 * high + rounding).all()
            compared += scale.size
        try:
            asked = passes.send(latent[0][where, own].ravel().astype(np.int32))
        except StopIteration:
            break
    assert compared > 1000


def test_refined_contexts_expect_what_they_were_shown() -> None:
    rng = np.random.default_rng(6)
    shown = [np.rint(rng.laplace(0, 0.5, (8, 9, CHANNELS))).astype(np.int32) for _ in range(3)]
    steps, chosen = freeze.steps(model())[2], np.eye(len(STEPS), dtype=np.float32)[2]

    def bits(contexts: Contexts) -> float:
        mean, scale = contexts(shown[0][None].astype(np.float32), steps[None, None, None], chosen[None])
        return float(np.mean(laplace_bits(shown[0] - mean, scale)))

    assert bits(freeze.refined(model().contexts, steps, 2, shown)) < bits(model().contexts)


def test_a_frozen_model_is_the_same_in_litert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "TURNS", 3)
    codec = freeze.freeze(model(), photographs(1, 64))
    freeze.write(codec, tmp_path)
    networks = LiteRTNetworks((tmp_path / "analysis.tflite").read_bytes(), (tmp_path / "synthesis.tflite").read_bytes())
    loaded = PhotographCodec(networks, codec.models, codec.steps, codec.prices, codec.macs_per_pixel)
    image = photographs(1, 120)[0][:77]
    for quality in (1, 5, 8):
        payload = codec.compress(image, quality)
        difference = codec.decompress(payload).astype(int) - loaded.decompress(payload)
        assert np.abs(difference).max() <= 1
        other = loaded.decompress(loaded.compress(image, quality)).astype(int)
        assert np.abs(codec.decompress(payload) - other).mean() < 0.5
    with pytest.raises(InputError, match="expected a codec from freeze"):
        freeze.write(loaded, tmp_path)


def test_the_networks_stay_within_their_budget() -> None:
    macs = PhotographCodec.load().macs_per_pixel
    assert macs["synthesis"] <= 25_000
    assert macs["analysis"] <= 60_000
    assert macs == keras_networks.KerasNetworks(model().analysis, freeze.narrowed(model().synthesis)).macs_per_pixel()


def test_photographs_are_read_at_every_scale(shared_data: Path) -> None:
    found = train.read(shared_data / "bsds500" / "val", (1.0, 0.5))
    assert len(found) == 200
    assert found[0].shape[0] == pytest.approx(2 * found[1].shape[0], abs=1)


def test_a_synthesis_of_low_rank_is_narrowed_without_loss() -> None:
    rng = np.random.default_rng(5)
    made = model_module.Synthesis().built_on_zeros()
    weights = [rng.normal(0, 0.05, w.shape).astype(np.float32) for w in made.get_weights()]
    made.set_weights(weights)
    first, last = made.first.get_weights(), made.last.get_weights()
    low = rng.normal(0, 0.1, (first[0].shape[2], 40)), rng.normal(0, 0.1, (40, 9 * first[0].shape[3]))
    first[0] = np.float32(low[0] @ low[1]).reshape(-1, 3, 3, first[0].shape[3]).transpose(1, 2, 0, 3)
    last[0] = np.float32(rng.normal(0, 0.1, (9 * 128, 20)) @ rng.normal(0, 0.1, (20, 192))).reshape(last[0].shape)
    made.first.set_weights(first)
    made.last.set_weights(last)
    narrow = freeze.narrowed(made)
    assert sum(w.size for w in narrow.get_weights()) * 4 < 3_000_000
    latent = np.float32(rng.normal(0, 2, (1, 9, 7, CHANNELS)))
    steps, quality = np.full((1, 1, 1, CHANNELS), 3, np.float32), np.eye(len(STEPS), dtype=np.float32)[3:4]
    expected = np.asarray(made(latent, steps, quality))
    assert np.allclose(narrow(latent, steps, quality), expected, atol=1e-4 * np.abs(expected).max())


def test_what_jax_trains_is_the_same_model_under_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    script = """
        import sys
        import keras
        import numpy as np
        from tfcomp.photographs import train
        from tfcomp.models.lapped import PhotographModel

        out, crops = sys.argv[1:]
        assert keras.backend.backend() == "jax"
        model = PhotographModel(seed=1)
        model.compile(optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=5.0))
        images = list(np.load(crops))
        batches = train.crops(images, 4, seed=0)
        losses = model.fit(batches, steps_per_epoch=3, epochs=2, verbose=0, shuffle=False).history["loss"]
        assert losses[1] < losses[0]
        model.save_weights(f"{out}/{train.WEIGHTS}")
        bits, error = model((np.stack(images)[:, :192, :192], np.array([1, 6], np.int32)))
        np.savez(f"{out}/terms.npz", bits=bits, error=error)
        assert "tensorflow" not in sys.modules
    """
    images = np.stack(photographs())
    np.save(tmp_path / "crops.npy", images)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(tmp_path / "crops.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    bits, error = train.load(tmp_path)((images[:, :192, :192], np.array([1, 6], np.int32)))
    with np.load(tmp_path / "terms.npz") as terms:
        assert np.allclose(bits, terms["bits"], rtol=1e-3)
        assert np.allclose(error, terms["error"], rtol=1e-3)
