"""Integers that an encoder chooses with effort: they cost less, and every decoder reads them as it reads others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import tfcomp
from tfcomp.codec import Codec, EntropyModel
from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy.qualities import AtQuality
from tfcomp.entropy.refinement import Refiner
from tfcomp.errors import InputError
from tfcomp.runtimes.keras_networks import KerasNetworks

Exported = tuple[Codec, Path, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def kinds() -> dict[str, Codec]:
    """Codecs trained for seconds: a VAE, sets of tables, and the lower of two qualities."""
    train = tfcomp.datasets.load_arrays("glyphs")[0][:6000]
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


def costs(codec: Codec, images: NDArray[np.uint8], latents: NDArray[np.int32]) -> NDArray[np.float64]:
    """What `refinement` says it lowers, from the codec's own bits: float64 [N]."""
    networks: Any = codec.networks
    error, _ = networks.slope(images, latents)
    return codec.entropy_model.ideal_bits(latents) + Refiner(codec).price * error


@pytest.mark.parametrize("kind", ["VAE", "sets", "quality"])
def test_effort_costs_no_image_more_and_all_together_less(kinds: dict[str, Codec], kind: str) -> None:
    codec, images = kinds[kind], tfcomp.datasets.load_arrays("glyphs")[1][:300]
    before = costs(codec, images, codec.encode(images))
    found = [costs(codec, images, codec.encode(images, effort)) for effort in (1, 4, 16)]
    assert found[0].mean() < before.mean()
    assert found[1].mean() < 0.98 * before.mean()
    for less, more in zip([before, *found], found, strict=False):
        # In batches of another size the networks' sums round otherwise.
        assert np.all(more <= less + 1e-4 * before)


def test_any_decoder_reads_what_effort_made(exported: Exported) -> None:
    codec, folder, images = exported
    payloads, report = codec.compress_with_report(images, effort=8)
    assert payloads != codec.compress(images)
    assert payloads == codec.compress(images, effort=8)
    loaded = Codec.load(folder)
    np.testing.assert_array_equal(loaded.entropy_model.decode(payloads), codec.encode(images, effort=8))
    assert np.abs(loaded.decompress(payloads).astype(int) - codec.decompress(payloads)).max() <= 1
    assert report.payload_bytes == sum(map(len, payloads))


def test_effort_is_refused_where_it_cannot_be(exported: Exported) -> None:
    codec, folder, images = exported
    with pytest.raises(InputError, match="expected effort=0 with a codec that was loaded"):
        Codec.load(folder).compress(images, effort=1)
    for effort in (-1, 1.5):
        with pytest.raises(InputError, match=f"whole number of 0 or more, found {effort}"):
            codec.compress(images, effort=effort)  # type: ignore[arg-type]
    assert codec.compress(images[:0], effort=3) == []


@pytest.mark.parametrize("coarser", [False, True])
def test_slope_and_curvature_are_exact_where_the_decoder_is_linear(coarser: bool) -> None:
    """Then the error is a parabola: a step of one changes it by the slope, up or down, and by the curvature."""
    draw, shape = np.random.default_rng(0), (4, 4, 1)
    image, latent = keras.Input(shape, dtype="uint8"), keras.Input((3,))
    encoder = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))))
    decoder = keras.Model(latent, keras.layers.Reshape(shape)(keras.layers.Dense(16)(latent)))
    decoder.set_weights([draw.normal(0, 0.01, (3, 16)), np.full(16, 0.5)])
    images = draw.integers(0, 256, (512, *shape), np.uint8)
    networks: Any = KerasNetworks(encoder, decoder, np.float32([1, 2, 0.5]), np.float32([0, 1, -1]), images)
    if coarser:
        tables = FrequencyTables.from_probabilities([np.ones(9)], [-4], 4)
        index, step = np.zeros(3, np.int32), np.float32([3, 1, 2])
        networks = AtQuality(networks, EntropyModel(tables, index, step, np.float32([1, 0, 0])))
    latents = draw.integers(-2, 3, (512, 3), np.int32)
    error, slope = networks.slope(images, latents)
    curvature = networks.curvature(latents)
    for i, step in np.ndindex(3, 2):
        moved, _ = networks.slope(images, latents + (2 * step - 1) * np.eye(3, dtype=np.int32)[i])
        bend = moved - error - (2 * step - 1) * slope[:, i]
        np.testing.assert_allclose(bend, bend.mean(), atol=1e-5)
        assert curvature[i] == pytest.approx(bend.mean(), rel=0.1)  # it is drawn at random
