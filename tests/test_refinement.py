"""Integers that an encoder chooses with effort: they cost less, and every decoder reads them as it reads others."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import tfcomp
from tfcomp.codec import Codec
from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy.static import StaticModel
from tfcomp.items import Item
from tfcomp.parts import Parts, Quality
from tfcomp.refinement import refine_tile
from tfcomp.runtimes.frozen_network import FrozenNetwork
from tfcomp.runtimes.keras_networks import KerasTransform
from tfcomp.uniform import UniformPipeline


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    """Codecs trained for seconds: a VAE, sets of tables, and the lower of two qualities."""
    train = tfcomp.datasets.load_arrays("glyphs")[0][:3000]
    vae = tfcomp.VAE.dense(train.shape[1:], 12, hidden=(64,), beta=0.01, distortion="squared_error")
    rate = tfcomp.AutoEncoder.dense(train.shape[1:], 12, hidden=(64,), beta=0.05)
    for model in (vae, rate):
        model.compile(optimizer=keras.optimizers.Adam(3e-3))
        model.fit(train, epochs=6, batch_size=64, verbose=0)
    return {
        "VAE": Codec.freeze(vae, train),
        "sets": Codec.freeze(rate, train, sets=3),
        "quality": Codec.freeze(rate, train, step=(2, 1)).at(1),
    }


def costs(codec: Codec, images: NDArray[np.uint8], integers: NDArray[np.int32]) -> NDArray[np.float64]:
    """What `refinement` says it lowers, from the codec's own bits: float64 [N]."""
    pipeline: Any = codec._pipeline
    quality = pipeline.measured(codec.parts.quality())
    error, _ = pipeline.parts.transform.slope(images, quality.to_units(integers), quality.number)
    return quality.entropy.ideal_bits(integers) + quality.lagrangian * error


@pytest.mark.parametrize("name", ["VAE", "sets", "quality"])
def test_effort_costs_no_image_more_and_all_together_less(codecs: dict[str, Codec], name: str) -> None:
    codec, images = codecs[name], tfcomp.datasets.load_arrays("glyphs")[1][:200]
    before = costs(codec, images, codec.encode(images))
    found = [costs(codec, images, codec.encode(images, effort=effort)) for effort in (1, 4, 16)]
    assert found[0].mean() < before.mean()
    assert found[1].mean() < 0.98 * before.mean()
    for less, more in zip([before, *found], found, strict=False):
        # In batches of another size the networks' sums round otherwise.
        assert np.all(more <= less + 1e-4 * before)


def test_any_decoder_reads_what_effort_made(exported: Any) -> None:
    codec, folder, images = exported
    payloads, report = codec.compress_with_report(images, effort=8)
    assert payloads != codec.compress(images)
    assert payloads == codec.compress(images, effort=8)
    loaded = Codec.load(folder)
    np.testing.assert_array_equal(loaded.decode(payloads), codec.encode(images, effort=8))
    assert np.abs(loaded.decompress(payloads).astype(int) - codec.decompress(payloads)).max() <= 1
    assert report.payload_bytes == sum(map(len, payloads))
    assert codec.compress(images[:0], effort=3) == []


@pytest.mark.parametrize("step", [[1.0, 1.0, 1.0], [3.0, 1.0, 2.0]])
def test_slope_and_curvature_are_exact_where_the_decoder_is_linear(step: list[float]) -> None:
    """Then the error is a parabola: a step of one changes it by the slope, up or down, and by the curvature."""
    draw, shape = np.random.default_rng(0), (4, 4, 1)
    image, latent = keras.Input(shape, dtype="uint8"), keras.Input((3,))
    encoder = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))))
    decoder = keras.Model(latent, keras.layers.Reshape(shape)(keras.layers.Dense(16)(latent)))
    decoder.set_weights([draw.normal(0, 0.01, (3, 16)), np.full(16, 0.5)])
    images = draw.integers(0, 256, (512, *shape), np.uint8)
    unit, zero = np.float32([1, 2, 0.5]), np.float32([0, 1, -1])
    tables = FrequencyTables.from_probabilities([np.ones(9)], [-4], 4)
    model = StaticModel(tables, np.zeros(3, np.int32), (3,))
    quality = Quality(1, np.float32(step), np.float32([1, 0, 0]), model)
    transform = KerasTransform(FrozenNetwork(encoder), FrozenNetwork(decoder), unit, zero, calibration=images)
    pipeline = UniformPipeline(Parts(transform, Item(shape), (quality,), unit, zero))
    slope, measured = pipeline._slope(quality), pipeline.measured(quality)
    assert measured.curvature is not None
    integers = draw.integers(-2, 3, (512, 3), np.int32)
    error, gradient = slope(images, integers)
    for i, up in np.ndindex(3, 2):
        moved, _ = slope(images, integers + (2 * up - 1) * np.eye(3, dtype=np.int32)[i])
        bend = moved - error - (2 * up - 1) * gradient[:, i]
        np.testing.assert_allclose(bend, bend.mean(), atol=1e-5)
        assert measured.curvature[i] == pytest.approx(bend.mean(), rel=0.1)  # it is drawn at random


def test_a_tile_s_cost_never_rises_and_reaches_the_least_of_a_parabola() -> None:
    """Bits of a Laplace density, an error that is a parabola about a hidden target."""
    draw = np.random.default_rng(1)
    hidden = draw.normal(0, 3, (5, 6, 4)).astype(np.float32)
    curvature = draw.uniform(0.5, 2, 4).astype(np.float32)

    def bits(integers: NDArray[np.int32]) -> float:
        return float(np.abs(integers).sum())

    def slope(integers: NDArray[np.int32]) -> tuple[float, NDArray[np.float32]]:
        off = integers - hidden
        return float((curvature * np.square(off)).sum()), (2 * curvature * off).astype(np.float32)

    def choose(target: NDArray[np.float32]) -> tuple[NDArray[np.int32], float]:
        near = np.rint(target).astype(np.int32)
        found = np.where(np.abs(near) > 0, near - np.sign(near), near)
        worth = 4.0 * curvature
        better = worth * np.square(found - target) + np.abs(found) < worth * np.square(near - target) + np.abs(near)
        chosen = np.where(better, found, near).astype(np.int32)
        return chosen, bits(chosen)

    started_at = (hidden + draw.normal(0, 2, hidden.shape)).astype(np.float32)
    found = [refine_tile(choose, slope, started_at, curvature, 4.0, effort) for effort in (0, 1, 8)]
    costs = [bits(integers) + 4.0 * slope(integers)[0] for integers in found]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(bits(choose(hidden)[0]) + 4.0 * slope(choose(hidden)[0])[0])
