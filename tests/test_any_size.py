"""Contracts of models of items of any size: latents with places, crops in batches, stride and reach by measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcomp.errors import InputError
from tfcomp.geometry import Grid
from tfcomp.models import receptive_field
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.loading import load_model
from tfcomp.models.vae import VAE


def crops(count: int = 4, sides: tuple[int, int] = (16, 24), colours: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *sides, colours), np.uint8)


def networks(
    stride: int = 3, kernel: int = 3, extra: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None
) -> tuple[keras.Model, keras.Model]:
    """A pair of one's own, of one strided layer each."""
    image, latent = keras.Input((None, None, 3), dtype="uint8"), keras.Input((None, None, 2))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = extra(x) if extra else x
    x = keras.layers.Conv2D(2, kernel, strides=stride, padding="same")(x)
    y = keras.layers.Conv2DTranspose(3, kernel, strides=stride, padding="same")(latent)
    return keras.Model(image, x), keras.Model(latent, y)


@pytest.mark.further
@pytest.mark.parametrize(
    "kind", ["autoencoder", "prices", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vae", "shared"))]
)
def test_every_pass_takes_crops_of_one_size(kind: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model: LatentModel
    match kind:
        case "autoencoder":
            model = AutoEncoder.spatial((None, None, 3), 5, filters=(4, 6), beta=0.1)
        case "prices":
            model = AutoEncoder.spatial((None, None, 3), 5, filters=(4, 6), beta=(1.0, 0.1))
        case "vae":
            model = VAE.spatial((None, None, 3), 5, filters=(4, 6))
        case "shared":
            model = VAE.spatial((None, None, 3), 5, filters=(4, 6), scale="shared")
    assert (model.item.any_size, model.latent_shape, model.stride) == (True, (None, None, 5), 4)
    x = crops()
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=kind != "prices")
    history = model.fit(x, validation_data=x, batch_size=2, epochs=3, verbose=0).history
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert np.isfinite(model.evaluate(crops(2, (32, 8)), verbose=0)).all()
    assert model.latents(x).shape == (4, 4, 6, 5)
    assert np.array_equal(model.reconstruct(x), np.clip(np.rint(model.predict(x, verbose=0) * 255), 0, 255))
    assert model.interpolate(x[0], x[1], 3).shape == (3, 16, 24, 3)
    if isinstance(model, VAE):
        assert model.sample(2, positions=(3, 2)).shape == (2, 12, 8, 3)
        assert model.kl_per_dimension(x).shape == (4, 6, 5)
        assert model.traverse(x[0], [0, 119], [0.0, 1.0]).shape == (2, 2, 16, 24, 3)
        with pytest.raises(InputError, match="positions for items of any size"):
            model.sample(2)
    with pytest.raises(InputError, match=r"items of (one shape|any size)|whose scale"):
        model.draw_noise(0)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.grid == model.grid
    assert np.array_equal(again.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize("trained", [False, True])
def test_sides_that_are_no_multiples_of_the_stride_get_one_clear_error(trained: bool) -> None:
    model = AutoEncoder.spatial((None, None, 3), 2, filters=(4, 4))
    model.compile(optimizer="sgd")
    if trained:
        model.fit(crops(), verbose=0)
    message = r"sides that are multiples of 4, found .*18"
    for call in (model.fit, model.evaluate, model.predict, model.latents, model, model.reconstruct):
        with pytest.raises(InputError, match=message):
            call(crops(2, (18, 16)))
    with pytest.raises(InputError, match=message):
        model.fit(crops(), validation_data=(crops(2, (18, 16)),), verbose=0)


@pytest.mark.parametrize("build", [AutoEncoder.dense, AutoEncoder.conv, VAE.dense, VAE.conv])
def test_networks_with_dense_layers_take_one_size_alone(build: Callable[..., LatentModel]) -> None:
    with pytest.raises(InputError, match=r"a fixed height and width, found \(None, None, 3\)"):
        build((None, None, 3), 4)


def test_items_of_one_shape_have_no_grid() -> None:
    assert AutoEncoder.spatial((16, 16, 1), 2, filters=(4,)).grid is None


# === Stride and reach ===


@pytest.mark.parametrize(("stride", "kernel", "reach"), [(1, 1, 0), (1, 7, 3), (3, 3, 0), (2, 7, 2), (5, 9, 1)])
def test_stride_and_reach_of_ones_own_networks_are_measured(stride: int, kernel: int, reach: int) -> None:
    model = AutoEncoder(*networks(stride, kernel), beta=0.1)
    assert model.grid == Grid.of(stride, reach)
    model.compile(optimizer="adam")
    model.fit(crops(2, (3 * stride, 2 * stride)), verbose=0)


def test_a_given_reach_is_taken_as_it_is_and_a_given_stride_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receptive_field, "reach_of", lambda *_: pytest.fail("measured"))
    assert AutoEncoder(*networks(3), stride=3, reach=7).grid == Grid.of(3, 7)
    for wrong in (2, "a"):
        with pytest.raises(InputError, match=f"expected the networks' stride, 3, found stride={wrong!r}"):
            AutoEncoder(*networks(3), stride=wrong, reach=7)


def test_zeros_in_new_kernels_do_not_hide_the_reach() -> None:
    model = AutoEncoder(*networks(2, 7))
    for network in (model.encoder, model.decoder):
        network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    assert model.grid == Grid.of(2, 2)
    assert not any(np.any(w) for w in model.encoder.get_weights())


def test_long_reaches_are_measured_to_their_end() -> None:
    def deep(x: keras.KerasTensor) -> keras.KerasTensor:
        for _ in range(5):
            x = keras.layers.Conv2D(3, 9, padding="same", activation="relu")(x)
        return x

    assert AutoEncoder(*networks(1, 3, deep)).grid == Grid.of(1, 21)


def pooled(x: keras.KerasTensor) -> keras.KerasTensor:
    gate = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.layers.Multiply()([x, gate])


def normalised(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.GroupNormalization(groups=-1)(x)


@pytest.mark.parametrize("layer", [pooled, normalised])
def test_what_looks_at_the_whole_image_is_refused(layer: Callable[[keras.KerasTensor], keras.KerasTensor]) -> None:
    with pytest.raises(InputError, match=r"bounded reach, found .* as with global pooling, attention") as error:
        AutoEncoder(*networks(extra=layer))
    assert "\n" not in str(error.value)


def test_networks_that_do_not_fit_are_refused() -> None:
    (encoder, _), (_, decoder) = networks(2), networks(3)
    with pytest.raises(InputError, match="multiplies height and width by 2"):
        AutoEncoder(encoder, decoder)
    image = keras.Input((None, None, 3), dtype="uint8")
    valid = keras.layers.Conv2D(2, 5, strides=2)(keras.layers.Rescaling(1 / 255)(image))
    with pytest.raises(InputError, match="divides any height and width by one whole number"):
        AutoEncoder(keras.Model(image, valid), networks(2)[1])
    flat = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    latent = keras.Input((3,))
    one = keras.layers.UpSampling2D(4)(keras.layers.Reshape((1, 1, 3))(latent))
    with pytest.raises(InputError, match="returns the encoder's input shape|latent \\(None, None, channels\\)"):
        AutoEncoder(keras.Model(image, flat), keras.Model(latent, one))
