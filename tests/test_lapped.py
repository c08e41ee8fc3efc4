"""Contracts of the lapped model: its networks, its prior, its objective, and one model of any number of qualities."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.geometry import Grid
from tfcomp.layout import CHESSBOARD, Layout
from tfcomp.models import receptive_field
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.context_prior import ContextPrior, laplace_nats
from tfcomp.models.lapped import BETAS, DepthToSpace, Frequencies, SpaceToDepth
from tfcomp.models.loading import load_model
from tfcomp.models.objective import LN2

STEPS = np.array([128 * (9 / 128) ** (i / 7) for i in range(8)])
"""Steps of the bundled codec's qualities before training, in levels of 8-bit pixels."""


def photographs(count: int = 2, side: int = 64, colours: int = 3) -> NDArray[np.uint8]:
    """Waves: uint8 [count, side, side, colours]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    waves = [np.sin(y / rng.uniform(5, 30) + x / rng.uniform(5, 30) + c) for _ in range(count) for c in range(colours)]
    return np.uint8(128 + 90 * np.array(waves)).reshape(count, colours, side, side).transpose(0, 2, 3, 1)


def shaken(model: AutoEncoder, seed: int = 4) -> AutoEncoder:
    """The model with all weights moved a little, so that every one of them matters."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(ops.convert_to_numpy(weight) + rng.normal(0, 0.01, weight.shape).astype(np.float32))
    return model


@cache
def eight() -> AutoEncoder:
    """The default model, of eight qualities."""
    keras.utils.set_random_seed(3)
    return shaken(AutoEncoder.lapped((None, None, 3)))


def tiny(colours: int = 3, **options: object) -> AutoEncoder:
    keras.utils.set_random_seed(1)
    first, others = options.pop("coefficients", (10, 3))
    given = {"stride": 4, "hidden": (8, 8), "blocks": 1, "ranks": (6, 4), "beta": (0.02, 0.004), **options}
    return AutoEncoder.lapped((None, None, colours), coefficients=(first, others), **given)


# === Channels ===


def test_frequencies_of_eight_pixels_are_the_bundled_layout() -> None:
    found = Frequencies(8, 3, (64, 16))
    assert found.groups == (3, 6, 9, 12, 15, 8, 15, 13, 15)
    assert found.channels[:4] == ((0, 0, 0, 0), (0, 1, 0, 0), (0, 2, 0, 0), (1, 0, 0, 1))
    assert np.bincount(found.kinds).tolist() == [3, 15, 58, 20]
    assert np.allclose(found.basis().T @ found.basis(), np.eye(96), atol=1e-6)


@pytest.mark.parametrize(("stride", "colours", "coefficients"), [(4, 1, (16, 1)), (16, 3, (256, 64)), (2, 8, (4, 2))])
def test_frequencies_of_other_strides_and_colours_are_orthonormal_and_rise(
    stride: int, colours: int, coefficients: tuple[int, int]
) -> None:
    found = Frequencies(stride, colours, coefficients)
    count = coefficients[0] + (colours - 1) * coefficients[1]
    assert len(found.channels) == sum(found.groups) == count
    assert found.groups[0] == colours
    assert np.allclose(found.basis().T @ found.basis(), np.eye(count), atol=1e-5)
    groups, _, u, v = np.array(found.channels).T
    for group in range(groups.max()):
        assert (u + v)[groups == group].max() < (u + v)[groups == group + 1].min()
    Layout(found.groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": (17, 1)}, "1 to 16 for a stride of 4"),
        ({"groups": (1, 2)}, "rising from 0"),
        ({"beta": 0.0}, "beta > 0, found 0"),
        ({"beta": (0.1, 0.2)}, "from the largest to the smallest"),
        ({"colours": 9}, "1 to 8 channels"),
    ],
)
def test_what_is_no_lapped_model_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(None, None, channels\)"):
        AutoEncoder.lapped((32, 32, 3))


# === Networks ===


def test_blocks_are_pixels_in_rows_and_come_back() -> None:
    image = np.arange(2 * 6 * 4 * 3, dtype=np.float32).reshape(2, 6, 4, 3)
    blocks = np.asarray(SpaceToDepth(2)(image))
    assert np.array_equal(blocks[1, 2, 1], image[1, 4:6, 2:4].ravel())
    assert np.array_equal(DepthToSpace(2)(blocks), image)
    assert SpaceToDepth(2).compute_output_shape((None, None, 4, 3)) == (None, None, 2, 12)
    assert DepthToSpace.from_config(DepthToSpace(2).get_config()).side == 2


def test_the_first_networks_transform_and_transform_back() -> None:
    image = photographs()
    restored = AutoEncoder.lapped((None, None, 3)).reconstruct(image)
    # What the 96 of 192 coefficients leave out is the fine chroma.
    assert np.sqrt(np.mean(np.square(restored - image.astype(float)))) < 3
    exact = tiny(1, coefficients=(16, 1), ranks=None)
    assert np.array_equal(exact.reconstruct(photographs(colours=1)), photographs(colours=1))


def test_the_networks_stay_within_their_budget() -> None:
    for network, most in ((eight().encoder, 60_000), (eight().decoder, 25_000)):
        assert sum(w.size for w in network.get_weights() if w.ndim == 4) / 64 <= most


@pytest.mark.parametrize(
    ("colours", "beta"),
    [
        pytest.param(1, 0.01, marks=pytest.mark.slow),
        (3, (0.02, 0.004)),
        pytest.param(8, (0.02, 0.01, 0.004), marks=pytest.mark.slow),
    ],
)
def test_a_model_of_one_price_or_more_trains_and_is_saved(
    colours: int, beta: float | tuple[float, ...], tmp_path: Path
) -> None:
    model, crops = tiny(colours, beta=beta), photographs(3, 32, colours)
    several = not isinstance(beta, float)
    assert model.takes_quality == several
    assert model.steps is not None
    assert model.steps.shape == (model.qualities, model.latent_shape[-1])
    np.testing.assert_allclose(model.steps[-1], 1)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), run_eagerly=True)
    before = model.evaluate(crops, verbose=0, return_dict=True)
    model.fit(crops, epochs=6, verbose=0)
    after = model.evaluate(crops, verbose=0, return_dict=True)
    assert after["loss"] < before["loss"]
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.evaluate(crops, verbose=0, return_dict=True) == pytest.approx(after, rel=1e-5)
    assert isinstance(again.prior, ContextPrior)
    assert (again.prior.layout, again.prior.kinds) == (model.prior.layout, model.prior.kinds)
    assert again.grid == model.grid
    assert again.get_config()["beta"] == model.get_config()["beta"] == (list(beta) if several else beta)


def test_the_stated_reach_and_stride_are_those_that_are_measured() -> None:
    model = tiny(blocks=2)
    assert receptive_field.stride_of(model.encoder, model.decoder) == model.stride == 4
    kept = model.get_weights()
    assert model.grid == Grid.of(4, receptive_field.reach_of(model.encoder, model.decoder, 4)) == Grid.of(4, 4)
    assert all(np.array_equal(a, b) for a, b in zip(kept, model.get_weights(), strict=True))


# === Prior ===


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.07), (0.3, 0.5), (-1.7, 4.0)])
def test_intervals_of_the_density_have_the_mass_one(mean: float, scale: float) -> None:
    values = np.arange(-60, 61).astype(np.float32)
    mass = np.exp(-np.asarray(laplace_nats(values - np.float32(mean), np.float32(scale)), np.float64))
    assert mass.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "layout", [Layout((2, 3, 4)), Layout((3,), reach=1), Layout((1, 2), CHESSBOARD, ((0, 1), (2, 3)), 3)]
)
def test_an_element_looks_at_what_its_pass_may_see_and_at_nothing_else(layout: Layout) -> None:
    prior = ContextPrior(layout, qualities=2)
    prior.build()
    for weight in (*prior.scale_roots, *prior.means):
        weight.assign(np.random.default_rng(1).normal(0, 1, weight.shape))
    assert tuple(w.shape for w in prior.means) == tuple(w.shape for w in prior.scale_roots) == layout.kernel_shapes
    rng = np.random.default_rng(2)
    latent = rng.integers(-3, 4, (1, 9, 10, layout.channels)).astype(np.float32)
    step, quality = np.ones((1, 1, 1, layout.channels), np.float32), np.eye(2, dtype=np.float32)[:1]
    before = np.stack(prior(latent, step, quality))[:, 0]
    for _ in range(20):
        y, x, channel = (int(rng.integers(n)) for n in latent.shape[1:])
        other = latent.copy()
        other[0, y, x, channel] += 2
        changed = (np.stack(prior(other, step, quality))[:, 0] != before).any(axis=0)
        for which in layout.passes:
            seen = layout.seen(which)
            for i, j in np.argwhere(which.positions(9, 10)):
                at = y - i + layout.reach, x - j + layout.reach
                allowed = min(at) >= 0 and max(at) <= 2 * layout.reach and seen[(*at, channel)]
                assert allowed or not changed[i, j, which.channels].any()


def test_a_prior_keeps_its_configuration_and_refuses_what_does_not_fit() -> None:
    prior = ContextPrior(Layout((1, 2), CHESSBOARD, reach=3), qualities=4, kinds=(0, 1, 5), first_scale=2.0)
    again = ContextPrior.from_config(prior.get_config())
    assert (again.layout, again.qualities, again.kinds, again.first_scale) == (prior.layout, 4, (0, 1, 5), 2.0)
    with pytest.raises(InputError, match="a kind, from 0, for each of 3 channels"):
        ContextPrior(prior.layout, kinds=(0, 1))
    networks = AutoEncoder.spatial((None, None, 1), 2, filters=(4,))
    with pytest.raises(InputError, match=r"a latent \(rows, columns, 3\)"):
        AutoEncoder(networks.encoder, networks.decoder, beta=1.0, prior=ContextPrior(prior.layout))


def test_a_prior_of_ones_own_layout_goes_with_any_networks() -> None:
    networks = AutoEncoder.spatial((None, None, 1), 3, filters=(4,))
    model = AutoEncoder(
        networks.encoder, networks.decoder, beta=(0.2, 0.1), prior=ContextPrior(Layout((1, 2)), qualities=2)
    )
    model.compile(optimizer="adam", run_eagerly=True)
    assert np.isfinite(model.fit(photographs(5, 16, 1), verbose=0).history["loss"]).all()


# === Objective ===


def old_loss(model: AutoEncoder, image: NDArray[np.uint8], quality: int) -> float:
    """The loss that the first photograph model was trained on: bits and levels per pixel, weighted by the step."""
    prior, step = model.prior, model.steps[quality][None, None, None]
    assert isinstance(prior, ContextPrior)
    chosen = np.eye(8, dtype=np.float32)[quality : quality + 1]
    exact = np.asarray(model.encoder(image[None])) / step
    scale = np.asarray(prior(np.round(exact), step, chosen)[1])
    less = np.minimum(np.minimum(1 / (np.log(2) * scale), 8) / (2 * 5.0), 0.4) * (np.arange(96) >= 3)
    rounded = np.round(np.sign(exact) * np.maximum(np.abs(exact) - less, 0)).astype(np.float32)
    mean, scale = (np.asarray(x, np.float64) for x in prior(rounded, step, chosen))

    def below(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(x < 0, np.exp(np.minimum(x, 0)) / 2, 1 - np.exp(-np.maximum(x, 0)) / 2)

    scale, off = np.maximum(scale, 0.05), -np.abs(rounded - mean)
    mass = below((off + 0.5) / scale) - below((off - 0.5) / scale)
    bits = -np.log2(np.maximum(mass, 1e-30)).sum() / image[..., 0].size
    levels = np.asarray(model.decoder([rounded * step, chosen]))[0] * 255 - image
    return float((bits + 3 * 5.0 * np.mean(np.square(levels)) / STEPS[quality] ** 2) * STEPS[quality] / STEPS[4])


def test_the_objective_is_that_of_the_first_photograph_model_up_to_one_factor() -> None:
    model, crops = eight(), np.repeat(photographs(1, 48), 8, axis=0)
    np.testing.assert_allclose(BETAS, STEPS**2 / (5 * 255**2 * LN2))
    terms = model.objective(crops, crops.astype(np.float32) / 255, training=False)
    assert np.array_equal(terms.quality, np.arange(8))
    losses = np.asarray(model.loss_of(terms), np.float64)
    old = np.array([old_loss(model, crops[0], quality) for quality in range(8)])
    pixels = 48 * 48
    factor = pixels * STEPS[4] / (np.mean(1 / STEPS) * 5 * 255**2)
    np.testing.assert_allclose(losses / old, factor, rtol=2e-3)


def test_the_decoder_sees_whole_steps_of_each_quality_and_gradients_pass() -> None:
    import tensorflow as tf

    model, crops = eight(), photographs(8, 32)
    with tf.GradientTape() as tape:
        terms = model.objective(crops, crops.astype(np.float32) / 255, training=True)
        loss = ops.mean(model.loss_of(terms))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(g is not None and np.isfinite(g).all() for g in gradients)
    assert sum(bool(np.any(g)) for g in gradients) == len(gradients)


def test_a_value_that_becomes_zero_gets_no_gradient_and_others_get_all() -> None:
    """With any, the encoder's values and the rate grow in long training, and the loss with them."""
    import tensorflow as tf

    prior = ContextPrior(Layout((1, 3)))
    scaled = tf.constant(np.random.default_rng(0).normal(0, 0.7, (2, 6, 6, 4)).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(scaled)
        sent, nats = prior.transmit(scaled, None, None, None, training=False)
        error = tf.reduce_sum(tf.square(sent - scaled.numpy()))
    exact = np.asarray(prior._shrunk(scaled, prior(np.round(scaled), np.ones((1, 1, 1, 4)), np.eye(1))[1]))
    zero = (exact == 0) & (np.arange(4) > 0)
    assert 20 < zero.sum() < 160
    assert not np.any(tape.gradient(error, scaled).numpy()[zero])
    assert not np.any(tape.gradient(nats, scaled).numpy()[zero])
    np.testing.assert_allclose(
        tape.gradient(error, scaled).numpy()[~zero], 2 * (np.asarray(sent) - scaled.numpy())[~zero], rtol=1e-5
    )
