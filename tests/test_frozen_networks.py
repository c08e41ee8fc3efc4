"""Whatever trains freezes: every layer of Keras, every operator, networks of one's own, under every policy."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from keras_networks import (
    LAYERS,
    NO_LAYERS_OF_A_NETWORK,
    NOT_IN_LITERT,
    SHAPE,
    decoder_around,
    encoder_around,
    of_layer,
    pair_around,
)
from kinds import interpreter_of

from tfcomp.artifact.conversion import to_litert
from tfcomp.codec import Codec
from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
IMAGES = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)


@pytest.fixture(params=[POLICIES[0], *(pytest.param(policy, marks=pytest.mark.slow) for policy in POLICIES[1:])])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def trained(encoder: keras.Model, decoder: keras.Model) -> AutoEncoder:
    """A model after one step."""
    model = AutoEncoder(encoder, decoder, beta=0.01)
    model.compile(optimizer="adam", run_eagerly=True)
    model.train_on_batch(IMAGES)
    return model


def frozen(model: AutoEncoder) -> Codec:
    """Its codec; what the codec computes is checked against the networks themselves."""
    encoder, decoder = model.encoder, model.decoder
    codec = Codec.freeze(model, IMAGES)
    restored = codec.decompress(codec.compress(IMAGES))
    transform: Any = codec.parts.transform
    if keras.config.dtype_policy().name == "float32":
        latent = np.rint(np.asarray(encoder(IMAGES, training=False)))
        pixels = np.asarray(decoder(latent, training=False))
        expected = np.clip(np.rint(pixels * 255), 0, 255)
        assert np.abs(expected - restored).max() <= 1
    else:
        for graph in (transform.analyse_graph, transform.synthesise_graph):
            for operation in graph.get_concrete_function().graph.get_operations():
                if operation.type in ("MatMul", "Conv2D", "BatchMatMulV2", "Einsum"):
                    assert {tensor.dtype.name for tensor in operation.outputs} == {"float32"}, operation.name
        assert keras.config.dtype_policy().name in {layer.dtype_policy.name for layer in decoder._flatten_layers()}
    return codec


def converted(codec: Codec) -> None:
    transform: Any = codec.parts.transform
    for graph in (transform.analyse_graph, transform.synthesise_graph):
        to_litert(graph)


# === Every layer ===


def test_every_public_layer_of_keras_is_in_the_walk() -> None:
    classes = {value for value in vars(layers).values() if inspect.isclass(value) and issubclass(value, layers.Layer)}
    walked = {getattr(layers, name) for name in (*LAYERS, *NO_LAYERS_OF_A_NETWORK)}
    assert sorted(c.__name__ for c in classes - walked) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # no gradient goes through a layer of whole numbers
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Keras's constants below what 16 bits hold
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_that_trains_freezes_and_is_exported(name: str, policy: str) -> None:
    try:
        model = trained(*of_layer(name))
    except Exception as error:
        if policy == "float32":
            raise
        pytest.skip(f"Keras does not train it under {policy} on this machine: {type(error).__name__}")
    codec = frozen(model)
    if policy == "mixed_bfloat16":
        return
    if name in NOT_IN_LITERT:
        with pytest.raises(InputError, match="expected networks of operators that are built into LiteRT"):
            converted(codec)
    else:
        converted(codec)
    keras.backend.clear_session()


def zoo(x: Any) -> Any:
    """Layers of many kinds one after another: attention, recurrence, normalisation, nested networks, noise."""
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, activation="relu"), layers.BatchNormalization()])
    outer = keras.Sequential([keras.Input((8,)), inner, layers.Dense(8)])
    x = layers.RandomFlip()(layers.SpectralNormalization(layers.Conv2D(2, 3, padding="same"))(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.GaussianNoise(0.1)(layers.AveragePooling2D(2)(x)))
    x = layers.Reshape((8, 16))(layers.Lambda(lambda values: values * 2)(x))
    x = layers.TimeDistributed(outer)(layers.Dense(8)(x))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True))
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(layers.Dropout(0.1)(x))
    return layers.RMSNormalization()(x)


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)], indirect=True)
def test_layers_of_many_kinds_freeze_and_are_exported(policy: str) -> None:
    codec = frozen(trained(encoder_around(zoo), decoder_around(lambda x: x)))
    if policy == "mixed_float16":
        converted(codec)


# === Every operator ===


def operators(x: Any) -> Any:
    x = layers.Flatten()(x)
    h = abs(-(2.0 - (x * 2 + x - 0.5) / 3)) // 0.5 % 0.7 + 1 / (x + 1.0) + x**2
    compared = (h > 0.5, h >= 0.9, h < 0.2, h <= 0.1, h == 0, h != 0)
    for mask in compared:
        h = h * (ops.cast(mask, h.dtype) + 1)
    h = h[:, 3:20] + h[:, 20:3:-1] + h[:, None, 0] + h[..., -1:]
    square = ops.reshape(h[:, :16], (-1, 4, 4))
    square = ops.tanh(square @ square) + ops.softmax(ops.transpose(square, (0, 2, 1)))
    return ops.concatenate(
        [ops.where(square > 0, square, ops.sqrt(ops.abs(square))), ops.pad(square, ((0, 0), (1, 1), (0, 0)))], 1
    )


def test_every_operator_that_converts_freezes_and_is_exported(policy: str) -> None:
    codec = frozen(trained(*pair_around(operators)))
    if policy != "mixed_bfloat16":
        converted(codec)


# === Networks of one's own ===


class Scaled(layers.Layer):
    """No registration, no configuration, no dtype argument, and a function among its arguments."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.inner = function, layers.Dense(3)

    def call(self, x: Any) -> Any:
        return tf.nn.relu(self.function(self.inner(x)))


class Encoder(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.flat, self.out = layers.Flatten(), layers.Dense(4, dtype="float32")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="float32")

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return self.out(self.flat(ops.cast(x, "float32") / 255)) + 0.0 * ops.cast(self.calls, "float32")


class Decoder(keras.Model):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = [layers.Dense(width, activation="relu"), layers.Dense(64, activation="sigmoid")]

    def call(self, x: Any) -> Any:
        for stage in self.stages:
            x = stage(x)
        return ops.reshape(x, (-1, *SHAPE))


def test_subclassed_networks_and_layers_without_configuration_freeze(policy: str) -> None:
    encoder, decoder = Encoder(), Decoder(5)
    encoder(IMAGES[:1])
    decoder(np.zeros((1, 4), np.float32))
    codec = frozen(trained(encoder, decoder))
    image = keras.Input(SHAPE, dtype="uint8")
    own = decoder_around(Scaled(lambda x: x * ops.cast(2, x.dtype)))
    frozen(trained(keras.Model(image, Encoder()(image)), own))
    if policy == "mixed_float16":
        converted(codec)


def test_training_on_changes_no_codec_and_freezing_changes_no_model() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = AutoEncoder(*pair_around(operators), beta=0.01)
        model.compile(optimizer=keras.optimizers.Adam(0.1), run_eagerly=True)
        policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
        codec = Codec.freeze(model, IMAGES, step=0.5)
        payloads = codec.compress(IMAGES)
        model.train_on_batch(IMAGES)
        assert codec.compress(IMAGES) == payloads
        assert [layer.dtype_policy.name for layer in model._flatten_layers()] == policies
    finally:
        keras.config.set_dtype_policy("float32")


def test_regularisation_of_16_bits_is_part_of_the_loss(policy: str) -> None:
    dense = layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l1")
    model = AutoEncoder(encoder_around(dense), decoder_around(lambda x: x))
    model.compile(optimizer="sgd")
    logs = model.train_on_batch(IMAGES, return_dict=True)
    assert logs["loss"] > logs["distortion"]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_enlarging_images_of_any_size_freezes_and_is_exported(interpolation: str) -> None:
    image, z = keras.Input((None, None, 1), dtype="uint8"), keras.Input((None, None, 3))
    x = layers.Conv2D(3, 4, strides=4, padding="same")(layers.Rescaling(1 / 255)(image))
    twice = layers.UpSampling2D(2, interpolation=interpolation)  # shared: of two inputs
    y = layers.Conv2D(1, 3, padding="same")(twice(layers.Conv2D(3, 3, padding="same")(twice(z))))
    decoder = keras.Model(z, y)
    model = AutoEncoder(keras.Model(image, x), decoder, beta=0.01)
    model.compile("adam", run_eagerly=True)
    model.train_on_batch(np.repeat(np.repeat(IMAGES, 2, 1), 2, 2))
    codec = Codec.freeze(model, [np.tile(IMAGES[0], (4, 4, 1))])
    transform: Any = codec.parts.transform
    latent = np.random.default_rng(0).normal(0, 3, (1, 5, 7, 3)).astype(np.float32)
    expected = np.clip(np.rint(np.asarray(decoder(latent * transform.unit + transform.zero)) * 255), 0, 255)
    assert np.abs(transform.synthesise(latent, 1) - expected).max() <= 1  # weights of 16 bits
    content = to_litert(transform.synthesise_graph)
    found = interpreter_of(content)(latent=latent)["image"]
    assert np.abs(found.astype(int) - expected).max() <= 1


# === Refused when the model is made ===


class Drawn(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), dtype=x.dtype, seed=self.seeds)


class InPython(layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda values: values * 2, [x], x.dtype), x.shape)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class Branching(layers.Layer):
    def call(self, x: Any) -> Any:
        return x if tf.executing_eagerly() and float(ops.sum(x)) > 0 else x * int(ops.sum(x))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Drawn, "draw nothing at random once it is trained, found .*Random"),
        (InPython, "call no Python .*found .*PyFunc"),
        (lambda: layers.RandomCrop(4, 4), "TensorFlow makes a graph of, .* found ValueError: .*incompatible"),
        (Branching, "TensorFlow makes a graph of, as freezing does"),
    ],
)
def test_what_cannot_be_frozen_is_refused_when_the_model_is_made(layer: Any, message: str) -> None:
    whole = lambda x: x  # noqa: E731
    for role, pair in (
        ("encoder", (encoder_around(layer()), decoder_around(whole))),
        ("decoder", (encoder_around(whole), decoder_around(layer()))),
    ):
        with pytest.raises(InputError, match=f"expected the {role} to .*{message}") as raised:
            AutoEncoder(*pair)
        assert "\n" not in str(raised.value)


def test_networks_without_an_input_or_with_named_outputs_are_refused_in_a_line() -> None:
    image = keras.Input(SHAPE, dtype="uint8")
    named = keras.Model(image, {"latent": layers.Dense(4)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))})
    decoder = decoder_around(lambda x: x)
    for encoder, message in (
        (named, r"a tensor, or a list of them, found a dict of \['latent'\]"),
        (Encoder(), "built networks: give the encoder an Input, or call it once"),
        (layers.Dense(3), "a Keras model as the encoder, found Dense"),
    ):
        with pytest.raises(InputError, match=message):
            AutoEncoder(encoder, decoder)
