"""Contracts of an autoencoder of several prices: each example at its own price, with its own steps and prior."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.callbacks import BetaSchedule
from tfcomp.models.loading import load_model
from tfcomp.models.priors import FactorizedPrior

SHAPE = (8, 6, 1)
BETAS = (2.0, 0.5, 0.125)
WEIGHTS = np.array(BETAS) ** -0.5 / np.mean(np.array(BETAS) ** -0.5)


def images(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def small(**options: object) -> AutoEncoder:
    keras.utils.set_random_seed(1)
    return AutoEncoder.dense(SHAPE, 3, hidden=(16,), **{"beta": BETAS, **options})


def test_each_quality_is_an_autoencoder_with_steps_a_prior_and_a_price_of_its_own() -> None:
    model, x = small(), images(6)
    rng = np.random.default_rng(2)
    model.log_steps.assign(rng.normal(size=(3, 3)))
    assert isinstance(model.prior, FactorizedPrior)
    model.prior.set_weights([rng.normal(size=w.shape) for w in model.prior.get_weights()])
    target = x.astype(np.float32) / 255
    terms = model.objective(x, target, training=False)
    losses = np.asarray(model.loss_of(terms))
    assert model.betas == BETAS
    for q, step in enumerate(model.steps):
        block = slice(2 * q, 2 * q + 2)
        assert np.array_equal(terms.quality[block], [q, q])
        integers = np.round(np.asarray(model.encoder(x[block])) / step)
        pixels = np.asarray(model.decoder(integers * step))
        distortion = np.sum(np.square(pixels - target[block]), axis=(1, 2, 3))
        one = FactorizedPrior()
        one.build((None, 3))
        one.set_weights([w[q] for w in model.prior.get_weights()])
        rate = np.sum(one(integers), axis=1)
        np.testing.assert_allclose(np.sum(-model.prior.log_mass(integers, quality=q), axis=1), rate, rtol=1e-5)
        np.testing.assert_allclose(terms.distortion[block], distortion, rtol=1e-4)
        np.testing.assert_allclose(terms.rate[block], rate, rtol=1e-4)
        np.testing.assert_allclose(losses[block], WEIGHTS[q] * (distortion + BETAS[q] * rate), rtol=1e-4)


def test_qualities_are_weighed_anew() -> None:
    model, x = small(), images(6)
    terms = model.objective(x, x.astype(np.float32) / 255, training=False)
    usual = np.asarray(model.loss_of(terms)) / np.repeat(WEIGHTS, 2)
    model.weigh_qualities((2, 2, 8))
    np.testing.assert_allclose(model.loss_of(terms), usual * np.repeat([0.5, 0.5, 2.0], 2), rtol=1e-5)
    for bad in ((1, 2), (1, 0, 2), (1, math.nan, 2), (1, -1, 2)):
        with pytest.raises(InputError, match="expected 3 weights above 0, one for each quality"):
            model.weigh_qualities(bad)


def test_steps_start_in_proportion_to_the_square_root_of_the_price() -> None:
    steps = small().steps
    np.testing.assert_allclose(steps[0] / steps[1], math.sqrt(BETAS[0] / BETAS[1]), rtol=1e-5)
    np.testing.assert_allclose(steps[-1], 1)


def test_a_sequence_of_one_price_is_one_price() -> None:
    one, other = small(beta=[0.5]), small(beta=0.5)
    assert one.qualities == 1
    assert one.get_config()["beta"] == 0.5
    np.testing.assert_array_equal(one.steps, np.ones((1, 3)))
    for model in (one, other):
        model.compile(optimizer="sgd")
        model.fit(images(), epochs=1, shuffle=False, verbose=0)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert small(beta=0.0).steps is None


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32])
def test_batches_of_any_size_train_and_every_price_moves_with_beta(count: int) -> None:
    model, x = small(), images(count)
    model.compile(optimizer="adam", run_eagerly=count != 7)
    assert np.isfinite(model.fit(x, epochs=1, verbose=0).history["loss"]).all()
    terms = model.objective(x, x / np.float32(255), training=False)
    assert np.array_equal(terms.quality, np.arange(count) * 3 // count)
    before = np.asarray(model.loss_of(terms))
    model.beta = 2 * BETAS[-1]
    assert model.betas == tuple(2 * beta for beta in BETAS)
    more = np.asarray(model.loss_of(terms)) - before
    np.testing.assert_allclose(more, (WEIGHTS * BETAS)[terms.quality] * np.asarray(terms.rate), rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_small_batches_take_turns_so_that_every_quality_is_trained_alike(count: int) -> None:
    model, x = small(), images(count)
    target = x / np.float32(255)
    seen = np.concatenate([model.objective(x, target, training=True).quality for _ in range(6)])
    assert np.bincount(seen, minlength=3).tolist() == [2 * count] * 3
    model.compile(optimizer=keras.optimizers.Adam(1e-2), run_eagerly=True)
    before = model.log_steps.numpy()
    model.fit(images(3), batch_size=1, epochs=2, shuffle=False, verbose=0)
    assert (model.log_steps.numpy() != before).all()


def test_training_moves_the_steps_of_every_quality_and_saves_them(tmp_path: Path) -> None:
    model, x = small(), images()
    before = model.log_steps.numpy()
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    losses = model.fit(x, epochs=30, verbose=0, callbacks=[BetaSchedule(BETAS[-1], ramp=5)]).history["loss"]
    assert losses[-1] < losses[10]
    assert (np.abs(model.log_steps.numpy() - before) > 1e-3).all()
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.betas == BETAS
    np.testing.assert_array_equal(model.steps, again.steps)
    np.testing.assert_array_equal(model.prior(np.eye(3), quality=1), again.prior(np.eye(3), quality=1))


def test_a_decoder_may_be_told_the_quality() -> None:
    latent, quality = keras.Input((3,)), keras.Input((3,))
    x = keras.layers.Concatenate()([latent, quality])
    x = keras.layers.Reshape(SHAPE)(keras.layers.Dense(48, activation="sigmoid")(x))
    model = AutoEncoder(small().encoder, keras.Model([latent, quality], x), beta=BETAS)
    assert model.takes_quality
    assert not small().takes_quality
    model.compile(optimizer="adam")
    model.fit(images(), validation_data=images(4), verbose=0)
    latents = model.latents(images(2))
    assert np.array_equal(model.render(latents), model.render(latents, 3))
    assert not np.array_equal(model.render(latents, 1), model.render(latents, 2))
    assert np.array_equal(model.render(latents), np.rint(model.predict(images(2), verbose=0) * 255))
    with pytest.raises(InputError, match="a quality of 1 to 3, found 4"):
        model.render(latents, 4)
    with pytest.raises(InputError, match=r"one of 2 qualities, found .*\(3,\)"):
        AutoEncoder(model.encoder, model.decoder, beta=BETAS[:2])


@pytest.mark.parametrize("betas", [(), (0.1, 0.2), (0.1, 0.1), (0.1, 0.0), (math.nan, 0.1), (math.inf, 0.1)])
def test_prices_that_do_not_fall_are_refused(betas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="from the largest to the smallest, found"):
        small(beta=betas)


def test_several_prices_have_no_sample_of_the_posterior() -> None:
    with pytest.raises(InputError, match="of several qualities"):
        small().draw_noise(0)
