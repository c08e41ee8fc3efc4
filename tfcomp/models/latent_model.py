"""What AutoEncoder and VAE have in common: the objective, the training step and the metrics. Nothing of bytes.

Per example, with sums over the example's elements,

    loss = distortion + beta * rate

    distortion  squared error ||x - x_hat||^2, or binary cross-entropy in nats, of pixels scaled to [0, 1]
    rate        nats that the latent costs under the prior

and every logged number is a mean over examples, except ``psnr_db``, which pools the squared error of all pixels.
The identity holds for the logged numbers too, as ``loss == distortion + beta * ln(2) * rate_bits``, when the networks
have no regularisation losses of their own (these are added to ``loss``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models import networks
from tfcomp.models.priors import FactorizedPrior

LN2 = math.log(2.0)

Distortion = Callable[[Any, Any], Any]


# === Distortions: (target, pixels), both float32 [N, ...] on [0, 1] -> float32 [N] ===


@keras.saving.register_keras_serializable("tfcomp")
def squared_error(target: Any, pixels: Any) -> Any:
    """``||x - x_hat||^2`` per example: the negative logarithm of a Gaussian likelihood, scaled and shifted.

    With variance ``v`` per element that logarithm is ``||x - x_hat||^2 / (2 v) + elements / 2 * ln(2 pi v)`` nats. So
    ``distortion + beta * rate`` is, up to a constant, ``2 v`` times the negative evidence lower bound that belongs to
    ``v = beta / 2``.
    """
    return sum_per_example(ops.square(target - pixels))


@keras.saving.register_keras_serializable("tfcomp")
def binary_cross_entropy(target: Any, pixels: Any) -> Any:
    """Negative Bernoulli log-likelihood in nats per example; grey values count as probabilities."""
    return sum_per_example(ops.binary_crossentropy(target, pixels))


DISTORTIONS: dict[str, Distortion] = {
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
}


def sum_per_example(values: Any) -> Any:
    """[N, ...] -> [N]."""
    return ops.sum(values, axis=tuple(range(1, ops.ndim(values))))


class Terms(NamedTuple):
    """What one pass of a model gives: ``distortion`` and ``rate`` float32 [N], ``pixels`` float32 [N, ...]."""

    distortion: Any
    rate: Any
    pixels: Any


class Quantizer(NamedTuple):
    """What a model was trained to have its latent rounded to: the integer ``q`` stands for ``q * unit + offset``.

    Attributes:
        unit, offset: float32 [C], for each channel of the latent; units are positive.
        prior: of ``(latent - offset) / unit``; None if the model has none of it.
    """

    unit: NDArray[np.float32]
    offset: NDArray[np.float32]
    prior: FactorizedPrior | None


@keras.saving.register_keras_serializable("tfcomp")
class PeakSignalToNoise(keras.metrics.Metric):
    """PSNR in dB from the mean squared error pooled over every pixel seen, of pixels on [0, 1]."""

    def __init__(self, name: str = "psnr_db", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.squared_error = self.add_variable(shape=(), initializer="zeros", name="squared_error")
        self.elements = self.add_variable(shape=(), initializer="zeros", name="elements")

    def update_state(self, target: Any, pixels: Any) -> None:
        self.squared_error.assign_add(ops.sum(ops.square(target - pixels)))
        self.elements.assign_add(ops.cast(ops.size(target), self.elements.dtype))

    def result(self) -> Any:
        mean = self.squared_error / ops.maximum(self.elements, 1.0)
        return -10.0 * ops.log10(ops.maximum(mean, 1e-10))


# === The shared part ===


class LatentModel(keras.Model):
    """What AutoEncoder and VAE have in common; not for use by itself.

    Args:
        encoder: built Keras model; see `networks` for the contract of both networks.
        decoder: built Keras model.
        beta: price of one nat of rate in units of distortion, >= 0.
        distortion: ``"squared_error"``, ``"binary_cross_entropy"``, or a function of (target, pixels), float32
            [N, ...] on [0, 1], that returns float32 [N] (registered with Keras if the model is to be saved).

    ``fit``, ``evaluate`` and ``predict`` take uint8 images [N, *input_shape], in arrays or a batched data set; a pair
    ``(images, targets)`` trains towards other images of the same shape, e.g. clean ones.
    """

    def __init__(
        self, encoder: keras.Model, decoder: keras.Model, *, beta: float, distortion: str | Distortion, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not (encoder.built and decoder.built):
            raise InputError("expected built networks: give both an Input, or call them once")
        if not (math.isfinite(beta) and beta >= 0):
            raise InputError(f"expected a finite beta >= 0, found {beta}")
        if isinstance(distortion, str) and distortion not in DISTORTIONS:
            raise InputError(
                f"expected distortion to be one of {sorted(DISTORTIONS)} or a function, found {distortion!r}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.distortion = distortion
        self.distortion_function = DISTORTIONS[distortion] if isinstance(distortion, str) else distortion
        self.initial_beta = float(beta)
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.distortion_metric = keras.metrics.Mean(name="distortion")
        self.rate_metric = keras.metrics.Mean(name="rate_bits")
        self.psnr_metric = PeakSignalToNoise()

    @classmethod
    def dense(cls, input_shape: tuple[int, int, int], latent_dim: int, **options: Any) -> Self:
        """A model of multilayer perceptrons; ``hidden=(512, 256)`` and the constructor's options as keywords."""
        builders = networks.dense_encoder, networks.dense_decoder
        return cls._from_builders(*builders, {"hidden"}, input_shape, latent_dim, options)

    @classmethod
    def conv(cls, input_shape: tuple[int, int, int], latent_dim: int, **options: Any) -> Self:
        """A model of strided convolutions; ``filters=(32, 64)``, ``hidden=500`` and the constructor's options."""
        builders = networks.conv_encoder, networks.conv_decoder
        return cls._from_builders(*builders, {"filters", "hidden"}, input_shape, latent_dim, options)

    @classmethod
    def spatial(cls, input_shape: tuple[int, int, int], latent_dim: int, **options: Any) -> Self:
        """A model of convolutions alone, for high rates; ``filters=(32, 64)`` and the constructor's options.

        ``latent_dim`` is of each cell of 4x4 pixels, for two entries of ``filters``. The distortion is squared error.
        """
        if options.setdefault("distortion", "squared_error") == "binary_cross_entropy":
            raise InputError("expected spatial networks to be trained for squared error: their pixels have no bounds")
        builders = networks.spatial_encoder, networks.spatial_decoder
        return cls._from_builders(*builders, {"filters"}, input_shape, latent_dim, options)

    @classmethod
    def heads(cls, options: dict[str, Any]) -> tuple[str, ...]:  # noqa: ARG003 - a VAE's depend on them
        """Names of the encoder's outputs, for a model with these constructor's options."""
        return ("latent",)

    @classmethod
    def _from_builders(
        cls,
        encoder: Callable[..., keras.Model],
        decoder: Callable[..., keras.Model],
        names: set[str],
        input_shape: tuple[int, int, int],
        latent_dim: int,
        options: dict[str, Any],
    ) -> Self:
        widths = {name: options.pop(name) for name in names & set(options)}
        return cls(
            encoder(input_shape, latent_dim, heads=cls.heads(options), **widths),
            decoder(input_shape, latent_dim, **widths),
            **options,
        )

    # === What the two models differ in ===

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        """One pass: distortion and rate of each example."""
        raise NotImplementedError

    def loss_of(self, terms: Terms) -> Any:
        """The loss of each example, float32 [N]."""
        return terms.distortion + self.beta_variable * terms.rate

    @property
    def latent_network(self) -> keras.Model:
        """Keras model: uint8 images -> the float latent [N, *latent_shape] that a codec quantizes."""
        raise NotImplementedError

    def draw_noise(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Step and offset of each latent, float32 [*latent_shape], that give one sample of the posterior.

        The integer ``q = round((mean - offset) / step)`` stands for the sample ``q * step + offset``; see `sampling`.

        Raises:
            InputError: if the model has no posterior, or one that the decoder cannot know.
        """
        raise NotImplementedError

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """One for each rate that the model was trained for, of the lowest rate first; none if it left that open."""
        return ()

    @property
    def has_rate(self) -> bool:
        """Whether a beta can have an effect."""
        return True

    # === Shapes and passes ===

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.encoder.input_shape[1:])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self.decoder.input_shape[1:])

    @property
    def beta(self) -> float:
        """The price of rate; assign to change it, in the middle of training too."""
        return float(self.beta_variable.numpy())

    @beta.setter
    def beta(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"expected a finite beta >= 0, found {value}")
        if value > 0 and not self.has_rate:
            raise InputError(f"expected beta = 0, as the model was made without a prior, found {value}")
        self.beta_variable.assign(value)

    def build(self, input_shape: Any = None) -> None:  # noqa: ARG002 - Keras calls it with one
        # A variable, so that a change reaches a training step that is already traced.
        self.beta_variable = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_beta),
            trainable=False,
            name="beta",
            dtype="float32",
        )
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        """Reconstruct: uint8 [N, *image_shape] -> float32 pixels [N, *image_shape] on [0, 1], without quantization."""
        return self.decoder(self.latent_network(images, training=training), training=training)

    def render(self, latents: Any) -> NDArray[np.uint8]:
        """Decode: float latents [N, *latent_shape] -> uint8 images [N, *image_shape]."""
        latents = np.asarray(latents, np.float32)
        if latents.shape[1:] != self.latent_shape:
            raise InputError(f"expected latents of shape [N, *{self.latent_shape}], found {latents.shape}")
        pixels = _batched(lambda z: self.decoder(z, training=False), latents)
        return np.clip(np.rint(pixels.astype(np.float32) * 255), 0, 255).astype(np.uint8)

    def latents(self, images: Any) -> NDArray[np.float32]:
        """Encode: uint8 images [N, *image_shape] -> float32 latents [N, *latent_shape], a VAE's being the means."""
        return _batched(lambda x: self.latent_network(x, training=False), self.check_images(images)).astype(np.float32)

    def reconstruct(self, images: Any) -> NDArray[np.uint8]:
        """uint8 images [N, *image_shape] -> uint8 [N, *image_shape], through both networks without quantization."""
        return self.render(self.latents(images))

    def interpolate(self, a: Any, b: Any, steps: int) -> NDArray[np.uint8]:
        """Images on the straight line between the latents of two.

        Args:
            a, b: uint8 images [*image_shape].
            steps: how many, at least 2; the first is the reconstruction of ``a`` and the last that of ``b``.

        Returns:
            uint8 [steps, *image_shape].
        """
        if steps < 2:
            raise InputError(f"expected at least 2 steps, found {steps}")
        start, end = self.latents(np.stack([a, b]))
        share = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *[1] * start.ndim)
        return self.render((1 - share) * start + share * end)

    def check_images(self, images: Any) -> NDArray[np.uint8]:
        """The images as an array; raises `InputError` unless they are uint8 [N, *image_shape], N > 0."""
        array = np.asarray(images)
        if array.dtype != np.uint8 or array.shape[1:] != self.image_shape or not len(array):
            raise InputError(
                f"expected uint8 images [N, *{self.image_shape}], N > 0, found {array.dtype} {array.shape}"
            )
        return array

    # === The training and test steps ===

    def fit(self, x: Any = None, y: Any = None, batch_size: int | None = None, epochs: int = 1, **options: Any) -> Any:
        """Keras's `fit`. An array of images alone is read by `datasets.batches`, so that no epoch ends in a wait."""
        for_arrays = {"validation_split", "sample_weight"} & set(options)
        if isinstance(x, np.ndarray) and x.dtype == np.uint8 and len(x) and y is None and not for_arrays:
            x = datasets.batches(x, batch_size or 32, shuffle=options.get("shuffle", True))
        if isinstance(x, tf.data.Dataset):
            options["shuffle"] = False  # with its default, True, Keras warns that it cannot shuffle a data set
        return super().fit(x, y, batch_size, epochs, **options)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_metric, self.distortion_metric, self.rate_metric, self.psnr_metric]

    def _unpack(self, data: Any) -> tuple[Any, Any]:
        images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise InputError("expected images alone, found sample weights; tfcomp's models do not use them")
        targets = images if targets is None else targets
        for name, value in (("images", images), ("targets", targets)):
            dtype = getattr(value, "dtype", type(value).__name__)
            if dtype != tf.uint8:
                found = getattr(dtype, "name", dtype)
                raise InputError(f"expected {name} as uint8 with values 0 to 255, found {found}")
            # TensorFlow leaves the rank open once it has seen two.
            shape = tf.TensorShape(value.shape)
            if shape.rank is None or tuple(shape[1:]) != self.image_shape:
                raise InputError(
                    f"expected {name} of shape [N, *{self.image_shape}], found {shape}; "
                    "a data set must be batched and hold no labels"
                )
        return images, ops.cast(targets, "float32") / 255

    def train_step(self, data: Any) -> dict[str, Any]:
        """Forward pass, loss, gradients, one step of the optimizer."""
        images, targets = self._unpack(data)
        with tf.GradientTape() as tape:
            terms = self.objective(images, targets, training=True)
            loss = ops.mean(self.loss_of(terms)) + sum(self.losses)
            # Replicas sum their gradients: each contributes its share of the mean over the whole batch.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
            share = self.optimizer.scale_loss(share)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self._log(targets, terms)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same objective, without noise where the model can do without."""
        images, targets = self._unpack(data)
        return self._log(targets, self.objective(images, targets, training=False))

    def _log(self, targets: Any, terms: Terms) -> dict[str, Any]:
        regularisation = sum(self.losses)
        self.loss_metric.update_state(self.loss_of(terms) + regularisation)
        self.distortion_metric.update_state(terms.distortion)
        self.rate_metric.update_state(terms.rate / LN2)
        self.psnr_metric.update_state(targets, terms.pixels)
        return self.get_metrics_result()

    # === Config ===

    def get_config(self) -> dict[str, Any]:
        distortion = self.distortion
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "beta": self.initial_beta,
            "distortion": distortion
            if isinstance(distortion, str)
            else keras.saving.serialize_keras_object(distortion),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config = dict(config)
        for name in ("encoder", "decoder", "distortion"):
            if isinstance(config[name], dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(**config)


def check_shapes(encoder: keras.Model, decoder: keras.Model, heads: int) -> None:
    """Raise `InputError` unless encoder and decoder fit each other."""
    found = [tuple(output.shape[1:]) for output in encoder.outputs]
    expected = [tuple(decoder.input_shape[1:])] * heads
    if found != expected:
        raise InputError(f"expected an encoder with outputs {expected}, as the decoder takes, found {found}")
    if tuple(decoder.output_shape[1:]) != tuple(encoder.input_shape[1:]):
        raise InputError(
            f"expected a decoder that returns the encoder's input shape {tuple(encoder.input_shape[1:])}, "
            f"found {tuple(decoder.output_shape[1:])}"
        )


def _batched(network: Callable[[Any], Any], items: NDArray[Any], size: int = 512) -> NDArray[Any]:
    parts = [ops.convert_to_numpy(network(items[i : i + size])) for i in range(0, max(len(items), 1), size)]
    return np.concatenate(parts)
