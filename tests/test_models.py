"""Contracts of the models: one objective in fit and evaluate, and everything that Keras promises of a model."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.objective import LN2, binary_cross_entropy, squared_error
from tfcomp.models.priors import FactorizedPrior
from tfcomp.models.vae import VAE

SHAPE = (8, 6, 1)


def images(count: int = 32, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def small(kind: str) -> LatentModel:
    keras.utils.set_random_seed(1)
    match kind:
        case "autoencoder":
            return AutoEncoder.dense(SHAPE, 3, hidden=(16,))
        case "rate":
            return AutoEncoder.conv(SHAPE, 3, beta=0.5, filters=(4,), hidden=8)
        case "spatial":
            return AutoEncoder.spatial(SHAPE, 2, beta=0.5, filters=(4,))
        case "vae":
            return VAE.dense(SHAPE, 3, beta=0.7, hidden=(16,))
    raise AssertionError(kind)


def loss_of(model: LatentModel, *data: np.ndarray) -> float:
    return float(model.evaluate(*data, verbose=0, return_dict=True)["loss"])


KINDS = ("autoencoder", "rate", "spatial", "vae")


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_distortion_plus_beta_times_rate_in_fit_and_in_evaluate(kind: str) -> None:
    model = small(kind)
    model.compile(optimizer="adam")
    history = model.fit(images(), validation_data=images(7), batch_size=8, epochs=2, verbose=0).history
    logs = {name: values[-1] for name, values in history.items()}
    for prefix in ("", "val_"):
        rate = logs[prefix + "rate_bits"] * LN2
        assert logs[prefix + "loss"] == pytest.approx(logs[prefix + "distortion"] + model.beta * rate, rel=1e-5)
    assert (logs["rate_bits"] > 0) == (kind != "autoencoder")
    assert set(model.evaluate(images(), verbose=0, return_dict=True)) == {"loss", "distortion", "rate_bits", "psnr_db"}


def test_fit_takes_every_image_of_an_array_once_an_epoch_in_a_new_order_and_without_autotuning() -> None:
    x = np.arange(10, dtype=np.uint8)[:, None] * np.ones(3, np.uint8)
    for shuffle in (True, False):
        data = datasets.batches(x, 4, shuffle=shuffle)
        assert data.options().autotune.enabled is False
        first, second = (np.concatenate(list(data.as_numpy_iterator())) for _ in range(2))
        assert np.array_equal(np.sort(first, axis=0), x)
        assert np.array_equal(np.sort(second, axis=0), x)
        assert np.array_equal(first, x) == np.array_equal(first, second) == (not shuffle)
    model = small("autoencoder")
    model.compile(optimizer="sgd")
    seen = []
    step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    model.fit(images(10), batch_size=4, epochs=2, callbacks=[step], verbose=0)
    assert seen == [0, 1, 2] * 2
    assert "val_loss" in model.fit(images(10), validation_split=0.3, verbose=0).history


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_any_keras_optimizer_lowers_the_loss(name: str) -> None:
    model = small("autoencoder")
    optimizer = keras.optimizers.get({"class_name": name, "config": {"learning_rate": 1e-3}})
    model.compile(optimizer=optimizer)
    losses = model.fit(images(), batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_gradient_step_is_that_of_the_stated_objective() -> None:
    model = small("autoencoder")
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    batch = images(8)
    before = [v.numpy() for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        target = tf.cast(batch, tf.float32) / 255
        loss = tf.reduce_mean(tf.reduce_sum(tf.square(model(batch) - target), axis=(1, 2, 3)))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    model.train_on_batch(batch)
    for old, gradient, new in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(new.numpy(), old - 0.01 * gradient.numpy(), atol=1e-6)


def test_psnr_pools_the_squared_error_over_unequal_batches() -> None:
    model = small("autoencoder")
    model.compile(optimizer="sgd")
    x = images(21)
    pixels = np.asarray(model(x), np.float64)
    expected = -10 * np.log10(np.mean(np.square(pixels - x / 255.0)))
    assert model.evaluate(x, batch_size=8, verbose=0, return_dict=True)["psnr_db"] == pytest.approx(expected, abs=1e-3)


def test_distortions_are_sums_over_the_elements_of_each_example() -> None:
    x, y = np.random.default_rng(3).random((2, 5, 4, 4, 1))
    expected = np.sum(np.square(x - y), axis=(1, 2, 3))
    np.testing.assert_allclose(squared_error(np.float32(x), np.float32(y)), expected, rtol=1e-5)
    expected = -np.sum(x * np.log(y) + (1 - x) * np.log(1 - y), axis=(1, 2, 3))
    np.testing.assert_allclose(binary_cross_entropy(np.float32(x), np.float32(y)), expected, rtol=1e-5)


def test_the_rate_of_a_vae_is_the_divergence_that_numerical_integration_gives() -> None:
    model = small("vae")
    x = images(2)
    mean, log_variance = (np.asarray(head, np.float64) for head in model.posterior(x))
    grid = np.linspace(-12, 12, 200_001)
    total = np.zeros(2)
    for i in range(2):
        for m, variance in zip(mean[i], np.exp(log_variance[i]), strict=True):
            q = np.exp(-((grid - m) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            log_ratio = -((grid - m) ** 2) / (2 * variance) - np.log(variance) / 2 + grid**2 / 2
            total[i] += np.sum(q * log_ratio) * (grid[1] - grid[0])
    target = tf.cast(x, tf.float32) / 255
    np.testing.assert_allclose(model.objective(x, target, training=False).rate, total, rtol=1e-4)


def test_extreme_log_variances_keep_the_loss_finite() -> None:
    model = small("vae")
    head = model.encoder.get_layer("log_variance")
    for bias in (-1e4, 1e4):
        head.bias.assign(np.full(3, bias, np.float32))
        terms = model.objective(images(4), tf.zeros((4, *SHAPE)), training=True)
        assert np.all(np.isfinite(terms.rate))
        assert np.all(np.isfinite(terms.distortion))


def test_beta_can_change_between_steps_that_are_already_traced() -> None:
    model = small("rate")
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    for beta in (0.5, 2.0):
        model.beta = beta
        logs = model.evaluate(images(), verbose=0, return_dict=True)
        assert logs["loss"] == pytest.approx(logs["distortion"] + beta * LN2 * logs["rate_bits"], rel=1e-5)


def test_a_model_without_a_prior_refuses_a_price_of_rate() -> None:
    model = small("autoencoder")
    model.beta = 0.0
    with pytest.raises(InputError, match=r"beta = 0, as the model was made without a prior, found 0.1"):
        model.beta = 0.1


def test_regularisation_losses_are_part_of_the_loss() -> None:
    image = keras.Input(SHAPE, dtype="uint8")
    penalised = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(1.0))
    encoder = keras.Model(image, penalised(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))))
    model = AutoEncoder(encoder, small("autoencoder").decoder)
    model.compile(optimizer="sgd")
    logs = model.evaluate(images(), verbose=0, return_dict=True)
    penalty = float(np.sum(np.square(penalised.kernel.numpy())))
    assert logs["loss"] == pytest.approx(logs["distortion"] + penalty, rel=1e-5)


def test_callbacks_of_keras_work(tmp_path: Path) -> None:
    model = small("rate")
    model.compile(optimizer="adam")
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=1e6),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
    ]
    history = model.fit(images(), validation_data=images(8), epochs=5, verbose=0, callbacks=callbacks).history
    assert len(history["loss"]) == 2, "EarlyStopping must see val_loss"
    assert list((tmp_path / "logs").rglob("events*"))
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert loss_of(best, images(8)) == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_networks_and_distortions_of_ones_own(tmp_path: Path) -> None:
    encoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(2, 2, 2)])
    decoder = keras.Sequential([keras.Input((2, 2, 2)), keras.layers.Conv2DTranspose(3, 2, 2, activation="sigmoid")])

    @keras.saving.register_keras_serializable("tests")
    def absolute_error(target: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.abs(target - pixels), axis=(1, 2, 3))

    model = AutoEncoder(encoder, decoder, beta=0.1, distortion=absolute_error)
    model.compile(optimizer="adam")
    x = images(9, (4, 4, 3))
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(4), epochs=1, verbose=0)
    model.save(tmp_path / "own.keras")
    again = keras.saving.load_model(tmp_path / "own.keras")
    assert loss_of(again, x) == pytest.approx(loss_of(model, x), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 3), (28, 28, 1), (33, 17, 1)])
@pytest.mark.parametrize("builder", ["dense", "conv", "spatial"])
def test_builders_take_any_image_shape(builder: str, shape: tuple[int, int, int]) -> None:
    widths = {"dense": {"hidden": (4,)}, "conv": {"hidden": 4}, "spatial": {"filters": (4, 6)}}
    model = getattr(VAE, builder)(shape, 2, **widths[builder])
    assert model(images(2, shape)).shape == (2, *shape)


def test_a_spatial_latent_changes_where_the_image_does() -> None:
    model = AutoEncoder.spatial((40, 24, 1), 3, filters=(4, 6), beta=0.1)
    assert model.latent_shape == (10 * 6 * 3,)
    image = images(1, (40, 24, 1))
    other = image.copy()
    other[:, :4, :4] ^= 255
    moved = np.asarray(model.encoder(image) != model.encoder(other)).reshape(10, 6, 3).any(axis=-1)
    assert moved[0, 0]
    assert not moved[7:].any()
    assert not moved[:, 5:].any()


def test_denoising_trains_towards_the_given_targets() -> None:
    model = small("autoencoder")
    model.compile(optimizer="sgd")
    clean = np.zeros((16, *SHAPE), np.uint8)
    noisy = images(16)
    expected = np.sum(np.square(np.asarray(model(noisy), np.float64))) / 16
    assert loss_of(model, noisy, clean) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (images().astype("float32") / 255, "images as uint8 with values 0 to 255, found float32"),
        (images(4, (8, 6, 3)), r"images of shape \[N, \*\(8, 6, 1\)\], found \(.*, 8, 6, (3|None)\)"),
        (tf.data.Dataset.from_tensor_slices(images(4)), "must be batched"),
        (tf.data.Dataset.from_tensors((images(4), np.zeros(4, np.uint8))), "hold no labels"),
        (tf.data.Dataset.from_tensors({"image": images(4)}), "images as uint8 with values 0 to 255, found dict"),
        (tf.data.Dataset.from_tensors(["seven"]), "images as uint8 with values 0 to 255, found string"),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_wrong_data_gets_one_clear_error(data: object, message: str, trained: bool) -> None:
    model = small("autoencoder")
    model.compile(optimizer="sgd")
    if trained:  # TensorFlow then knows what the step takes, and would speak first
        model.fit(images(4), verbose=0)
    with pytest.raises(InputError, match=message):
        model.fit(data, verbose=0)


def test_wrong_parts_get_one_clear_error() -> None:
    parts = small("autoencoder")
    with pytest.raises(InputError, match="beta >= 0, found -1"):
        AutoEncoder(parts.encoder, parts.decoder, beta=-1)
    with pytest.raises(InputError, match="binary_cross_entropy"):
        AutoEncoder(parts.encoder, parts.decoder, distortion="mse")
    with pytest.raises(InputError, match=r"outputs \[\(3,\), \(3,\)\]"):
        VAE(parts.encoder, parts.decoder)
    with pytest.raises(InputError, match="input shape"):
        AutoEncoder(parts.encoder, AutoEncoder.dense((5, 5, 1), 3, hidden=(4,)).decoder)
    with pytest.raises(InputError, match="built networks"):
        AutoEncoder(keras.Sequential([keras.layers.Dense(3)]), parts.decoder)
    with pytest.raises(InputError, match="height, width, channels"):
        AutoEncoder.dense((784,), 3)
    with pytest.raises(InputError, match="stride and a reach for items of any size alone"):
        AutoEncoder(parts.encoder, parts.decoder, stride=4)
    with pytest.raises(InputError, match="a beta > 0 for a model with a prior"):
        AutoEncoder(parts.encoder, parts.decoder, prior=FactorizedPrior())
    with pytest.raises(InputError, match="a prior of 1 qualities, found one of 2"):
        AutoEncoder(parts.encoder, parts.decoder, beta=1.0, prior=FactorizedPrior(qualities=2))
