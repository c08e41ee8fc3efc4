"""Contracts of the VAE's objective, its schedules, what it generates, and what it reports of itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.models.callbacks import BetaSchedule
from tfcomp.models.loading import load_model
from tfcomp.models.objective import LN2
from tfcomp.models.vae import VAE, gaussian_divergence

SHAPE = (5, 4, 1)


def images(count: int = 48) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def small(latent_dim: int = 3, **options: Any) -> VAE:
    keras.utils.set_random_seed(1)
    return VAE.dense(SHAPE, latent_dim, hidden=(8,), **options)


# === Objective and gradients ===


def test_divergence_and_its_gradients_by_finite_differences_in_float64() -> None:
    generator = np.random.default_rng(0)
    mean, log_variance = generator.normal(size=(2, 50))
    e = 1e-5

    def divergence(m: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.asarray(gaussian_divergence(m, v))
        assert values.dtype == np.float64
        return values

    by_mean = (divergence(mean + e, log_variance) - divergence(mean - e, log_variance)) / (2 * e)
    by_log_variance = (divergence(mean, log_variance + e) - divergence(mean, log_variance - e)) / (2 * e)
    np.testing.assert_allclose(by_mean, mean, atol=1e-8)
    np.testing.assert_allclose(by_log_variance, np.expm1(log_variance) / 2, atol=1e-8)
    assert gaussian_divergence(np.zeros(1), np.zeros(1)) == 0


@pytest.mark.parametrize("scale", ["input", "shared"])
@pytest.mark.parametrize("distortion", ["binary_cross_entropy", "squared_error"])
def test_a_training_step_follows_the_gradient_of_the_objective_in_float64(
    scale: str, distortion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objective once more, in NumPy and float64, against one step of stochastic gradient descent."""
    beta, rate = 0.6, 1e-2
    model = small(2, scale=scale, distortion=distortion, beta=beta)
    batch = images(6)
    epsilon = np.random.default_rng(2).normal(size=(6, 2))
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: tf.constant(epsilon, tf.float32))
    names = [variable.path for variable in model.trainable_variables]
    weights = [variable.numpy().astype(np.float64) for variable in model.trainable_variables]

    def loss(values: list[NDArray[np.float64]]) -> float:
        of = dict(zip(names, values, strict=True))

        def dense(x: NDArray[np.float64], index: int) -> NDArray[np.float64]:
            kernel, bias = layers[index]
            return x @ kernel + bias

        shared = next((value for name, value in of.items() if value.ndim == 1 and name.endswith("/log_variance")), None)
        flat = [value for name, value in of.items() if not name.endswith("/log_variance")]
        layers = list(zip(flat[::2], flat[1::2], strict=True))
        heads = 1 if scale == "shared" else 2
        x = batch.reshape(6, -1) / 255
        features = np.maximum(dense(x, 0), 0)
        mean = dense(features, 1)
        log_variance = np.broadcast_to(shared, mean.shape) if heads == 1 else dense(features, 2)
        z = mean + np.exp(log_variance / 2) * epsilon
        pixels = 1 / (1 + np.exp(-dense(np.maximum(dense(z, heads + 1), 0), heads + 2)))
        if distortion == "squared_error":
            error = np.square(x - pixels).sum()
        else:
            error = -(x * np.log(pixels) + (1 - x) * np.log(1 - pixels)).sum()
        divergence = (np.exp(log_variance) + mean**2 - 1 - log_variance).sum() / 2
        return float(error + beta * divergence) / len(batch)

    model.compile(optimizer=keras.optimizers.SGD(rate))
    logged = model.train_on_batch(batch, return_dict=True)
    assert logged["loss"] == pytest.approx(loss(weights), rel=1e-5)
    generator = np.random.default_rng(3)
    for index, variable in enumerate(model.trainable_variables):
        gradient = (weights[index] - variable.numpy()) / rate
        for flat_position in generator.choice(gradient.size, min(6, gradient.size), replace=False):
            at = np.unravel_index(flat_position, gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = [w.copy() for w in weights]
                moved[index][at] += sign * 1e-6
                ends.append(loss(moved))
            assert gradient[at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=2e-4), variable.path


def test_free_bits_floor_the_rate_in_training_alone_and_stop_its_gradient() -> None:
    model, free = small(), small(free_bits=0.5)
    x = images()
    target = tf.cast(x, tf.float32) / 255
    head = free.encoder.get_layer("mean")
    head.bias.assign([2.0, 0.0, 0.0])  # one dimension well above the floor
    nats = free.kl_per_dimension(x)
    assert nats[0] > 0.5 > nats[1:].max()
    rate = np.mean(free.objective(x, target, training=True).rate)
    assert rate == pytest.approx(np.maximum(nats, 0.5).sum(), rel=1e-5)
    assert np.mean(free.objective(x, target, training=False).rate) == pytest.approx(nats.sum(), rel=1e-5)
    with tf.GradientTape() as tape:
        total = tf.reduce_mean(free.objective(x, target, training=True).rate)
    gradient = np.asarray(tape.gradient(total, head.bias.value))
    assert gradient[0] != 0
    np.testing.assert_array_equal(gradient[1:], 0)
    free.compile(optimizer="adam")
    logs = free.fit(x, epochs=1, verbose=0).history
    assert logs["loss"][0] == pytest.approx(logs["distortion"][0] + LN2 * logs["rate_bits"][0], rel=1e-5)
    assert model.free_bits == 0


def test_a_shared_scale_is_one_trainable_variance_per_channel(tmp_path: Path) -> None:
    model = small(scale="shared", free_bits=0.1)
    assert len(model.encoder.outputs) == 1
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(images(), epochs=2, verbose=0)
    learned = np.asarray(model.log_variance)
    assert learned.shape == (3,)
    assert np.all(learned != 0)
    _, log_variance = model.posterior(images(4))
    np.testing.assert_array_equal(log_variance, np.broadcast_to(learned, (4, 3)))
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_variance, learned)
    assert (loaded.scale, loaded.free_bits) == ("shared", 0.1)
    np.testing.assert_array_equal(loaded.reconstruct(images(4)), model.reconstruct(images(4)))


# === Schedules ===


def test_schedules_of_beta() -> None:
    warm_up = BetaSchedule(2.0, ramp=10)
    assert [warm_up.at(step) for step in (0, 5, 10, 1000)] == [0, 1, 2, 2]
    cyclic = BetaSchedule(2.0, ramp=10, period=20)
    assert [cyclic.at(step) for step in (0, 5, 10, 19, 20, 25, 39)] == [0, 1, 2, 2, 0, 1, 2]


def test_a_schedule_acts_on_every_step_of_fit_and_goes_on_where_it_stopped() -> None:
    class Recorder(keras.callbacks.Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append(self.model.beta)

    model = small(beta=5.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    history = model.fit(
        images(), batch_size=16, epochs=2, verbose=0, callbacks=[BetaSchedule(1.0, ramp=6), Recorder()]
    ).history
    assert Recorder.seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert history["beta"] == pytest.approx([2 / 6, 5 / 6])
    assert model.beta == 1.0
    # What each step minimised is what its beta says: the mean over the epoch shows it.
    rate, distortion = history["rate_bits"][0] * LN2, history["distortion"][0]
    assert history["loss"][0] == pytest.approx(distortion + rate / 6, rel=1e-2)
    model.fit(images(), batch_size=16, epochs=1, verbose=0, callbacks=[BetaSchedule(1.0, ramp=12), Recorder()])
    assert Recorder.seen[6:] == pytest.approx([6 / 12, 7 / 12, 8 / 12])


# === Generation ===


def test_sample_interpolate_reconstruct_and_traverse() -> None:
    model = small()
    x = images(5)
    drawn = model.sample(7, seed=3)
    assert drawn.shape == (7, *SHAPE)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, model.sample(7, seed=3))
    assert np.any(drawn != model.sample(7, seed=4))
    restored = model.reconstruct(x)
    np.testing.assert_array_equal(restored, np.clip(np.rint(np.asarray(model(x)) * 255), 0, 255))
    path = model.interpolate(x[0], x[1], 5)
    assert path.shape == (5, *SHAPE)
    np.testing.assert_array_equal(path[[0, -1]], restored[:2])
    np.testing.assert_array_equal(path[2], model.render(model.latents(x[:2]).mean(axis=0, keepdims=True))[0])
    moved = model.traverse(x[0], [2, 0], [-3.0, float(model.latents(x[:1])[0, 2]), 3.0])
    assert moved.shape == (2, 3, *SHAPE)
    np.testing.assert_array_equal(moved[0, 1], restored[0])
    assert np.any(moved[0, 0] != moved[0, 2])


# === Reports ===


def test_reports_of_what_each_dimension_carries() -> None:
    model = small()
    x = images()
    head = model.encoder.get_layer("mean")
    kernel = head.kernel.numpy() * 10
    kernel[:, 1] = 0.0
    head.kernel.assign(kernel)
    head.bias.assign([0.0, 3.0, 0.0])  # a constant mean: far from the prior, at a cost, and yet inactive
    np.testing.assert_array_equal(model.active_dimensions(x), [True, False, True])
    nats = model.kl_per_dimension(x)
    assert nats[1] > 4
    rate = model.objective(x, tf.cast(x, tf.float32) / 255, training=False).rate
    assert nats.sum() == pytest.approx(np.mean(rate), rel=1e-5)
    mean = model.latents(x)
    threshold = float(mean[:, 0].var())
    assert not model.active_dimensions(x, threshold=threshold * 1.01)[0]
    assert model.active_dimensions(x, threshold=threshold * 0.99)[0]


@pytest.mark.parametrize("distortion", ["binary_cross_entropy", "squared_error"])
def test_the_evidence_bound_is_what_numerical_integration_gives_and_bounds_the_evidence(distortion: str) -> None:
    model = small(1, distortion=distortion, beta=0.3)
    x = images(3)
    target = x.reshape(3, -1) / 255
    grid = np.linspace(-9, 9, 4001)
    pixels = np.asarray(model.decoder(grid[:, None].astype(np.float32)), np.float64).reshape(len(grid), -1)
    if distortion == "squared_error":
        variance = 0.3 / 2
        log_p = -np.square(target[:, None] - pixels) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    else:
        log_p = target[:, None] * np.log(pixels) + (1 - target[:, None]) * np.log(1 - pixels)
    log_p = log_p.sum(axis=2)
    mean, log_variance = (np.asarray(head, np.float64) for head in model.posterior(x))
    log_q = -np.square(grid - mean) / (2 * np.exp(log_variance)) - (log_variance + math.log(2 * math.pi)) / 2
    log_prior = -np.square(grid) / 2 - math.log(2 * math.pi) / 2
    step = grid[1] - grid[0]
    expected = np.sum(np.exp(log_q) * (log_q - log_prior - log_p), axis=1) * step
    evidence = np.log(np.sum(np.exp(log_prior + log_p), axis=1) * step)
    found = model.negative_elbo(np.repeat(x, 500, axis=0), samples=4).reshape(3, 500).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-2)
    assert np.all(expected > -evidence)
    np.testing.assert_array_equal(model.negative_elbo(x, seed=5), model.negative_elbo(x, seed=5))


def test_wrong_options_get_one_clear_error() -> None:
    model = small()
    x = images(4)
    for call, message in (
        (lambda: small(scale="global"), "'input', 'shared'"),
        (lambda: small(free_bits=-1.0), "free_bits >= 0"),
        (lambda: VAE(model.encoder, model.decoder, scale="shared"), r"outputs \[\(3,\)\]"),
        (lambda: BetaSchedule(-1.0, 5), "beta >= 0"),
        (lambda: BetaSchedule(1.0, 5, period=4), "5 and 4"),
        (lambda: model.interpolate(x[0], x[1], 1), "at least 2 steps"),
        (lambda: model.kl_per_dimension(x / 255), r"uint8 images \[N, \*\(5, 4, 1\)\]"),
        (lambda: model.render(np.zeros((2, 4))), r"latents of shape \[N, \*\(3,\)\]"),
        (lambda: model.traverse(x[0], [3], [0.0]), "dimensions of 0 to 2"),
        (lambda: model.negative_elbo(x, samples=0), "at least one sample"),
        (lambda: small(distortion=lambda a, b: a[:, 0, 0, 0]).negative_elbo(x), "likelihood that tfcomp knows"),
    ):
        with pytest.raises(InputError, match=message):
            call()
