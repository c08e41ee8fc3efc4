"""Contracts of the variable-rate model: each example at its own price, steps and prior; all that Keras promises."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder, VariableRateAutoEncoder, load_model

SHAPE = (8, 6, 1)
BETAS = (2.0, 0.5, 0.125)


def images(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def small() -> VariableRateAutoEncoder:
    keras.utils.set_random_seed(1)
    return VariableRateAutoEncoder.dense(SHAPE, 3, betas=BETAS, hidden=(16,))


def test_each_quality_is_an_autoencoder_with_steps_a_prior_and_a_price_of_its_own() -> None:
    model, x = small(), images(6)
    model.log_steps.assign(np.random.default_rng(2).normal(size=(3, 3)))
    target = x.astype(np.float32) / 255
    terms = model.objective(x, target, training=False)
    losses = np.asarray(model.loss_of(terms))
    weights = np.array(BETAS) ** -0.5
    weights /= weights.mean()
    for q, (unit, offset, prior) in enumerate(model.quantizers):
        block = slice(2 * q, 2 * q + 2)
        integers = np.round((np.asarray(model.encoder(x[block])) - offset) / unit)
        pixels = np.asarray(model.decoder(integers * unit + offset))
        distortion = np.sum(np.square(pixels - target[block]), axis=(1, 2, 3))
        rate = np.sum(prior(integers), axis=1)
        np.testing.assert_allclose(terms.distortion[block], distortion, rtol=1e-4)
        np.testing.assert_allclose(terms.rate[block], rate, rtol=1e-4)
        np.testing.assert_allclose(losses[block], weights[q] * (distortion + BETAS[q] * rate), rtol=1e-4)


def test_steps_start_in_proportion_to_the_square_root_of_the_price() -> None:
    units = np.array([quantizer.unit for quantizer in small().quantizers])
    np.testing.assert_allclose(units[0] / units[1], math.sqrt(BETAS[0] / BETAS[1]), rtol=1e-5)
    np.testing.assert_allclose(units[-1], 1)


def test_one_quality_is_the_autoencoder() -> None:
    x = images(4)
    keras.utils.set_random_seed(1)
    one = VariableRateAutoEncoder.dense(SHAPE, 3, betas=[0.5], hidden=(16,))
    keras.utils.set_random_seed(1)
    other = AutoEncoder.dense(SHAPE, 3, beta=0.5, hidden=(16,))
    for model in (one, other):
        model.compile(optimizer="sgd")
    assert one.evaluate(x, verbose=0) == pytest.approx(other.evaluate(x, verbose=0), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32])
def test_batches_of_any_size_train_and_every_price_moves_with_beta(count: int) -> None:
    model, x = small(), images(count)
    model.compile(optimizer="adam")
    assert np.isfinite(model.fit(x, epochs=1, verbose=0).history["loss"]).all()
    before = np.asarray(model.loss_of(terms := model.objective(x, x / np.float32(255), training=False)))
    model.beta = 2 * BETAS[-1]
    more = np.asarray(model.loss_of(terms)) - before
    quality = np.arange(count) * 3 // count
    weights = np.array(BETAS) ** -0.5 / np.mean(np.array(BETAS) ** -0.5)
    np.testing.assert_allclose(more, (weights * BETAS)[quality] * np.asarray(terms.rate), rtol=1e-3)


def test_training_moves_the_steps_of_every_quality_and_saves_them(tmp_path: Path) -> None:
    model, x = small(), images()
    before = model.log_steps.numpy()
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    losses = model.fit(x, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert (np.abs(model.log_steps.numpy() - before) > 1e-3).all()
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert isinstance(again, VariableRateAutoEncoder)
    for mine, theirs in zip(model.quantizers, again.quantizers, strict=True):
        np.testing.assert_array_equal(mine.unit, theirs.unit)
        np.testing.assert_array_equal(mine.prior(np.eye(3)), theirs.prior(np.eye(3)))


def test_mixed_precision_and_xla() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small()
        model.compile(optimizer="adam", jit_compile=True)
        history = model.fit(images(), validation_data=images(8), batch_size=8, epochs=3, verbose=0).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("betas", [(), (0.1, 0.2), (0.1, 0.1), (0.1, 0.0), (math.nan, 0.1), (math.inf, 0.1)])
def test_prices_that_do_not_fall_are_refused(betas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="from the largest to the smallest, found"):
        VariableRateAutoEncoder.dense(SHAPE, 3, betas=betas, hidden=(16,))
