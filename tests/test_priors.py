"""Contracts of the learned prior: a distribution over every grid, exact far into the tails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp.errors import InputError
from tfcomp.models.priors import FactorizedPrior


def prior(channels: int = 2, components: int = 3, seed: int = 0) -> FactorizedPrior:
    layer = FactorizedPrior(components)
    layer.build((None, channels))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return layer


def exact_mass(layer: FactorizedPrior, centre: np.ndarray, width: float) -> np.ndarray:
    """float64 mass of the interval about ``centre`` for each channel, [K, C], from the definition."""
    logits, means, log_scales = (np.asarray(w, np.float64) for w in layer.get_weights())
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def below(y: np.ndarray) -> np.ndarray:
        standard = np.clip((y[:, None, None] - means) / np.exp(log_scales), -700, 700)
        return np.sum(weights / (1 + np.exp(-standard)), -1)

    return below(centre + width / 2) - below(centre - width / 2)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), width=st.floats(0.05, 4.0), components=st.integers(1, 4))
def test_masses_are_those_of_the_definition_and_sum_to_one(seed: int, width: float, components: int) -> None:
    layer = prior(2, components, seed)
    # The largest scale drawn is about exp(4): 60 of them hold all mass to float32 precision.
    centres = np.arange(-4000, 4001) * width
    masses = np.exp(np.asarray(layer.log_mass(np.repeat(centres[:, None], 2, 1), width), np.float64))
    np.testing.assert_allclose(masses, exact_mass(layer, centres, width), rtol=2e-3, atol=1e-7)
    assert masses.sum(0) == pytest.approx(1, abs=1e-3 + 2 * np.exp(-2000 * width / np.exp(4)))


def test_the_rate_is_finite_with_a_useful_gradient_a_million_away() -> None:
    import tensorflow as tf

    layer = prior()
    y = tf.Variable([[1e6, -1e6]])
    with tf.GradientTape() as tape:
        rate = layer(y)
    assert np.all(np.isfinite(rate))
    assert np.all(np.asarray(rate) > 1e3)
    gradient = np.asarray(tape.gradient(rate, y))
    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_components_start_apart() -> None:
    layer = FactorizedPrior(3)
    layer.build((None, 4))
    _, means, log_scales = layer.get_weights()
    assert len(np.unique(log_scales[0])) == 3
    assert np.ptp(means) < 1


def test_each_quality_has_densities_of_its_own() -> None:
    several = FactorizedPrior(2, qualities=3)
    several.build((None, 4))
    rng = np.random.default_rng(1)
    several.set_weights([rng.normal(size=w.shape) for w in several.get_weights()])
    assert [w.shape for w in several.get_weights()] == [(3, 4, 2)] * 3
    values = rng.normal(size=(5, 2, 3, 4)).astype(np.float32)
    quality = np.array([2, 0, 1, 1, 0], np.int32)
    found = np.asarray(several.log_mass(values, 0.5, quality))
    for i, q in enumerate(quality):
        one = FactorizedPrior(2)
        one.build((None, 4))
        one.set_weights([w[q] for w in several.get_weights()])
        np.testing.assert_allclose(found[i], one.log_mass(values[i], 0.5), rtol=1e-5)
        np.testing.assert_allclose(found[i], several.log_mass(values[i], 0.5, int(q)), rtol=1e-5)
    with pytest.raises(InputError, match="one of 3 qualities, from 0, found none"):
        several.log_mass(values)


def test_saves_its_configuration_and_refuses_what_is_none() -> None:
    again = FactorizedPrior.from_config(FactorizedPrior(5, qualities=2).get_config())
    assert (again.components, again.qualities) == (5, 2)
    with pytest.raises(InputError, match="1 or more components"):
        FactorizedPrior(0)
