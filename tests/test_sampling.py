"""The claim of `latents="sample"`: what is decoded is the posterior's sample, and it costs the divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp import VAE, AutoEncoder, Codec
from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models import sampling
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.objective import LN2

Cdf = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Under the hypothesis, sqrt(n) times the Kolmogorov-Smirnov distance is above 1.95 once in a thousand.
CRITICAL = 1.95


def kolmogorov_smirnov(samples: NDArray[np.floating], cdf: Cdf) -> float:
    """``sqrt(n) * sup |empirical distribution - cdf|``."""
    x = np.sort(np.ravel(samples).astype(np.float64))
    p, n = cdf(x), len(x)
    return float(math.sqrt(n) * max(np.max(np.arange(1, n + 1) / n - p), np.max(p - np.arange(n) / n)))


def uniform_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x + 0.5, 0, 1)


def normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


CASES = pytest.mark.parametrize(
    ("draw", "cdf"), [(sampling.uniform, uniform_cdf), (sampling.gaussian, normal_cdf)], ids=["uniform", "gaussian"]
)


# === Shared randomness ===


@given(seed=st.integers(0, 2**32 - 1), stream=st.integers(0, 9), position=st.integers(0, 500))
def test_words_are_the_documented_function_of_integers(seed: int, stream: int, position: int) -> None:
    def mix(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    assert int(sampling.words(seed, stream, 501)[position]) == mix(mix(mix(stream) ^ seed) ^ position)


def test_words_are_uniform_and_uncorrelated_between_positions_seeds_and_streams() -> None:
    table = np.array([[sampling.words(seed, stream, 64) / 2**32 for seed in range(300)] for stream in (0, 1)])
    assert kolmogorov_smirnov(table, lambda x: np.clip(x, 0, 1)) < CRITICAL
    for a, b in (
        (table[..., 1:], table[..., :-1]),
        (table[:, 1:], table[:, :-1]),
        (table[0], table[1]),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / math.sqrt(a.size)


@given(seed=st.integers(0, 2**32 - 1), q=st.integers(-(2**12), 2**12), exponent=st.floats(-12, 6))
def test_a_sample_is_the_same_number_with_and_without_fused_arithmetic(seed: int, q: int, exponent: float) -> None:
    step, offset = sampling.gaussian(np.array([2.0**exponent]), seed)
    separate = np.float32(q) * step + offset
    fused = (q * step.astype(np.float64) + offset.astype(np.float64)).astype(np.float32)
    assert separate == fused


@CASES
def test_the_error_has_the_posteriors_distribution_and_only_with_the_dither(draw: Callable, cdf: Cdf) -> None:
    scale = np.array([0.01, 0.3, 1.0, 7.0])
    mean = np.float32([0.0, 0.11, -0.4, 3.3])
    dithered, plain = [], []
    for seed in range(4000):
        step, offset = draw(scale, seed)
        dithered.append((np.rint((mean - offset) / step) * step + offset - mean) / scale)
        plain.append((np.rint(mean / step) * step - mean) / scale)
    for position in range(4):
        assert kolmogorov_smirnov(np.array(dithered)[:, position], cdf) < CRITICAL
        assert kolmogorov_smirnov(np.array(plain)[:, position], cdf) > 3 * CRITICAL


def test_the_gap_of_the_layered_quantizer_at_high_rate() -> None:
    widths = np.concatenate([sampling.gaussian(np.full(1000, 0.7), seed)[0] for seed in range(50)]).astype(np.float64)
    gap = math.log2(0.7 * math.sqrt(2 * math.pi * math.e)) - np.mean(np.log2(widths))
    assert gap == pytest.approx(sampling.GAUSSIAN_GAP_BITS, abs=0.01)


# === Trained models ===


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    train, test = datasets.load_arrays("glyphs")
    return train[:2500], test[:250]


@pytest.fixture(scope="module", params=["uniform", "gaussian"])
def model(request: pytest.FixtureRequest, data: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> LatentModel:
    keras.utils.set_random_seed(0)
    shape = data[0].shape[1:]
    model = (
        AutoEncoder.dense(shape, 6, beta=0.1, hidden=(48,))
        if request.param == "uniform"
        else VAE.dense(shape, 6, scale="shared", hidden=(48,))
    )
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(data[0], batch_size=50, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def codecs(model: LatentModel, data: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> list[Codec]:
    return [Codec.freeze(model, data[0], latents="sample", seed=seed) for seed in range(24)]


def test_what_is_decoded_from_payloads_is_a_sample_of_the_posterior(
    model: LatentModel, codecs: list[Codec], data: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images = data[1][::10]
    mean = model.latents(images)
    if isinstance(model, VAE):
        scale, cdf = np.exp(np.asarray(model.log_variance) / 2), normal_cdf
    else:
        scale, cdf = np.ones(mean.shape[1]), uniform_cdf
    errors, means_only = [], []
    for codec in codecs:
        step, offset = codec.parts.unit, codec.parts.zero
        z = codec.decode(codec.compress(images)).astype(np.float32) * step + offset
        errors.append((z - mean) / scale)
        means_only.append((np.rint(mean / step) * step - mean) / scale)
    # Samples of one codec share their noise: one image at a time is a fair draw over seeds and positions.
    distances = [kolmogorov_smirnov(np.array(errors)[:, i], cdf) for i in range(len(images))]
    assert np.median(distances) < 1.0
    assert max(distances) < CRITICAL + 0.5
    assert kolmogorov_smirnov(np.array(means_only), cdf) > CRITICAL
    # All the draws together: their mean and variance.
    pooled = np.array(errors)
    draws = pooled.shape[0] * pooled.shape[2]
    variance = 1.0 if isinstance(model, VAE) else 1 / 12
    assert abs(pooled.mean()) < 4 * math.sqrt(variance / draws)
    assert pooled.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / draws))


def test_a_payload_costs_the_divergence(
    model: LatentModel, codecs: list[Codec], data: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images = data[1]
    bits = np.mean([8 * sum(map(len, codec.compress(images))) / len(images) for codec in codecs])
    if isinstance(model, VAE):
        divergence = model.kl_per_dimension(images).sum() / LN2
        gap = 0.6 * model.active_dimensions(images).sum()
    else:
        targets = images.astype(np.float32) / 255
        rates = [np.mean(model.objective(images, targets, training=True).rate) for _ in range(24)]
        divergence, gap = np.mean(rates) / LN2, 0.0
    assert divergence > 10, "the model must have learned something, or the bound says nothing"
    assert divergence - 8 < bits < divergence + gap + 8


def test_a_dimension_that_carries_nothing_costs_nothing_whatever_the_dither() -> None:
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1), np.uint8)
    model = VAE.dense((4, 4, 1), 8, scale="shared", hidden=(4,))
    head = model.encoder.get_layer("mean")
    head.kernel.assign(head.kernel * 0.02)  # collapsed: the variance is that of the prior, the mean hardly moves
    for seed in range(5):
        _, report = Codec.freeze(model, images, latents="sample", seed=seed).compress_with_report(images)
        assert report.ideal_bits / len(images) < 0.5, "a table averaged over the dither would cost a bit a dimension"


def transparent(spread: float) -> AutoEncoder:
    """Images [4, 4, 1] whose pixels are the latents, 0 to ``spread``, of a posterior of width 1."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1), dtype="uint8")
    encoder = keras.Model(image, keras.layers.Reshape((16,))(keras.layers.Rescaling(spread / 255)(image)))
    latent = keras.Input((16,))
    decoder = keras.Model(latent, keras.layers.Reshape((4, 4, 1))(keras.layers.Rescaling(1 / spread)(latent)))
    return AutoEncoder(encoder, decoder, beta=1.0)


def test_tables_know_the_dither() -> None:
    """Means uniform on [0, 0.3]: either all round alike, or a part ``t`` rounds down, at the entropy of ``t``."""
    spread = 0.3
    images = np.random.default_rng(0).integers(0, 256, (4000, 4, 4, 1), np.uint8)
    model = transparent(spread)
    for seed in range(5):
        codec = Codec.freeze(model, images, latents="sample", seed=seed)
        border = codec.parts.zero.astype(np.float64)
        border = np.where(border < 0, border + 0.5, border - 0.5)
        below = np.clip(border / spread, 0, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = np.nan_to_num(-below * np.log2(below) - (1 - below) * np.log2(1 - below))
        _, report = codec.compress_with_report(images)
        assert report.clipped == 0
        assert report.ideal_bits / len(images) == pytest.approx(entropy.sum(), rel=0.03, abs=0.15)


def test_tables_of_few_calibration_images_follow_the_prior_around_the_sample() -> None:
    model = transparent(4.0)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), np.uint8)
    codec = Codec.freeze(model, images, latents="sample", seed=1)
    tables = codec.entropy_model.tables
    for i, (first, size, lower) in enumerate(zip(tables.first, tables.sizes, tables.lower, strict=True)):
        z = (lower + np.arange(size)) + codec.parts.zero[i]
        mass = np.exp(np.asarray(model.prior.log_mass(np.repeat(z[:, None], 16, axis=1))))[:, i]
        found = tables.frequencies[first : first + size] / 2**tables.precision
        assert np.abs(found - mass / mass.sum()).sum() / 2 < 0.08


def test_seeds_give_other_samples_and_the_same_seed_the_same(model: LatentModel, data: tuple) -> None:
    images = data[1][:3]
    first, again, other = (Codec.freeze(model, data[0], latents="sample", seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    payloads = first.compress(images)
    assert payloads == again.compress(images)
    np.testing.assert_array_equal(first.decompress(payloads), again.decompress(payloads))


def test_latents_of_many_positions_have_tables_of_their_own() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), dtype="uint8")
    encoder = keras.Model(image, keras.layers.Conv2D(3, 2, 2)(keras.layers.Rescaling(1 / 64)(image)))
    decoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2DTranspose(1, 2, 2, activation="sigmoid")])
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    for model in (AutoEncoder(encoder, decoder, beta=1.0), VAE(encoder, decoder, scale="shared")):
        codec = Codec.freeze(model, images, latents="sample")
        assert len(codec.entropy_model.tables) == 48
        latents = codec.encode(images)
        np.testing.assert_array_equal(codec.entropy_model.decode(codec.compress(images)), latents)
        z = latents * codec.parts.unit + codec.parts.zero
        assert np.max(np.abs(z - model.latents(images)) / codec.parts.unit) < 0.501


@pytest.mark.further
def test_the_same_payload_gives_the_same_sample_in_every_runtime(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(40, 216, (40, 4, 4, 1), np.uint8)
    codec = Codec.freeze(transparent(8.0), images, latents="sample", seed=9)
    payloads = codec.compress(images)
    restored = codec.decompress(payloads)
    z = codec.entropy_model.decode(payloads).astype(np.float32) * codec.parts.unit + codec.parts.zero
    np.testing.assert_array_equal(restored.reshape(40, 16), np.rint(np.clip(z / 8, 0, 1) * np.float32(255)))
    folder = tmp_path / "artifact"
    manifest = codec.export(folder)
    for runtime in ("litert", "tensorflow"):
        loaded = Codec.load(folder, runtime=runtime)
        assert loaded.fingerprint == codec.fingerprint
        np.testing.assert_array_equal(loaded.decompress(payloads), restored)
        assert loaded.compress(images) == payloads
    # The graphs that hold the range coder too.
    encoder, decoder = (tf.saved_model.load(str(folder / part / "1")).signatures for part in ("encoder", "decoder"))
    assert encoder["serving_default"](image=tf.constant(images))["payload_bytes"].numpy().tolist() == payloads
    images_of = decoder["serving_default"](payload_bytes=tf.constant(payloads))["image"]
    np.testing.assert_array_equal(images_of, restored)
    encode, decode = (
        Interpreter(model_path=str(folder / f"{part}.tflite")).get_signature_runner() for part in ("encoder", "decoder")
    )
    for image, payload, expected in zip(images, payloads, restored, strict=True):
        coded = encode(image=image[None])
        assert coded["payload"][: int(coded["length"][0])].tobytes() == payload
        buffer = np.frombuffer(payload.ljust(manifest["max_payload_bytes"], b"\0"), np.uint8)
        np.testing.assert_array_equal(decode(payload=buffer, length=np.int32([len(payload)]))["image"][0], expected)


def test_what_cannot_be_sampled_is_refused_in_one_line() -> None:
    images = np.zeros((4, 4, 4, 1), np.uint8)
    plain, vae = AutoEncoder.dense((4, 4, 1), 2, hidden=(3,)), VAE.dense((4, 4, 1), 2, hidden=(3,))
    shared = VAE.dense((4, 4, 1), 2, hidden=(3,), scale="shared")
    for model, options, message in (
        (plain, {"latents": "sample"}, "beta > 0"),
        (vae, {"latents": "sample", "precision": 10}, "precision of 11"),
        (vae, {"latents": "sample", "seed": 2**32}, "seed of 0 to"),
        (shared, {"latents": "sample", "step": 1.0}, "no step and no target"),
        (shared, {"latents": "sample", "seed": -1}, "seed of 0 to"),
        (shared, {"latents": "median"}, "'mean' or 'sample'"),
    ):
        with pytest.raises(InputError, match=message):
            Codec.freeze(model, images, **options)
