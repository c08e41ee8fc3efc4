"""AutoEncoder and VAE: the objective, the training step and the metrics. They know nothing of bytes.

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
from pathlib import Path
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf
from keras import ops

from tfcomp import networks
from tfcomp.errors import InputError
from tfcomp.priors import FactorizedPrior

LN2 = math.log(2.0)

Distortion = Callable[[Any, Any], Any]


# === Distortions: (target, pixels), both float32 [N, ...] on [0, 1] -> float32 [N] ===


@keras.saving.register_keras_serializable("tfcomp")
def squared_error(target: Any, pixels: Any) -> Any:
    """``||x - x_hat||^2`` per example: the negative logarithm of a Gaussian likelihood, scaled."""
    return _sum_per_example(ops.square(target - pixels))


@keras.saving.register_keras_serializable("tfcomp")
def binary_cross_entropy(target: Any, pixels: Any) -> Any:
    """Negative Bernoulli log-likelihood in nats per example; grey values count as probabilities."""
    return _sum_per_example(ops.binary_crossentropy(target, pixels))


DISTORTIONS: dict[str, Distortion] = {
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
}


def _sum_per_example(values: Any) -> Any:
    return ops.sum(values, axis=tuple(range(1, ops.ndim(values))))


class Terms(NamedTuple):
    """What one pass of a model gives: ``distortion`` and ``rate`` float32 [N], ``pixels`` float32 [N, ...]."""

    distortion: Any
    rate: Any
    pixels: Any


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
        return cls._from_builders(
            networks.dense_encoder, networks.dense_decoder, {"hidden"}, input_shape, latent_dim, options
        )

    @classmethod
    def conv(cls, input_shape: tuple[int, int, int], latent_dim: int, **options: Any) -> Self:
        """A model of strided convolutions; ``filters=(32, 64)``, ``hidden=500`` and the constructor's options."""
        names = {"filters", "hidden"}
        return cls._from_builders(networks.conv_encoder, networks.conv_decoder, names, input_shape, latent_dim, options)

    heads: tuple[str, ...] = ("latent",)

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
            encoder(input_shape, latent_dim, heads=cls.heads, **widths),
            decoder(input_shape, latent_dim, **widths),
            **options,
        )

    # === What the two models differ in ===

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        """One pass: distortion and rate of each example."""
        raise NotImplementedError

    @property
    def latent_network(self) -> keras.Model:
        """Keras model: uint8 images -> the float latent [N, *latent_shape] that a codec quantizes."""
        raise NotImplementedError

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

    # === The training and test steps ===

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_metric, self.distortion_metric, self.rate_metric, self.psnr_metric]

    def _unpack(self, data: Any) -> tuple[Any, Any]:
        images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise InputError("expected images alone, found sample weights; tfcomp's models do not use them")
        targets = images if targets is None else targets
        for name, value in (("images", images), ("targets", targets)):
            if tf.as_dtype(value.dtype) != tf.uint8:
                raise InputError(
                    f"expected {name} as uint8 with values 0 to 255, found {tf.as_dtype(value.dtype).name}"
                )
            if tuple(value.shape[1:]) != self.image_shape:
                raise InputError(
                    f"expected {name} of shape [N, *{self.image_shape}], found {tuple(value.shape)}; "
                    "a data set must be batched and hold no labels"
                )
        return images, ops.cast(targets, "float32") / 255

    def train_step(self, data: Any) -> dict[str, Any]:
        """Forward pass, loss, gradients, one step of the optimizer."""
        images, targets = self._unpack(data)
        with tf.GradientTape() as tape:
            terms = self.objective(images, targets, training=True)
            loss = ops.mean(terms.distortion + self.beta_variable * terms.rate) + sum(self.losses)
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
        self.loss_metric.update_state(terms.distortion + self.beta_variable * terms.rate + regularisation)
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


# === The two models ===


@keras.saving.register_keras_serializable("tfcomp")
class AutoEncoder(LatentModel):
    """Encoder and decoder trained end to end by gradient descent; with ``beta > 0``, for rate as well.

    With ``beta = 0`` it is the plain reconstruction autoencoder. With ``beta > 0`` the latent is trained under uniform
    noise of width 1, the stand-in for rounding, and pays for its rate under a learned `FactorizedPrior` (Balle,
    Laparra and Simoncelli 2017, section 3); in evaluation it is rounded. ``beta = elements / (lambda * ln 2)`` with
    squared error is a paper's ``bits + lambda * mean squared error``.

    Args:
        encoder, decoder, distortion: see `LatentModel`.
        beta: price of one nat of rate; 0 trains for reconstruction alone.
        components: logistics per channel of the prior.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: float = 0.0,
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, beta=beta, distortion=distortion, **kwargs)
        _check_shapes(encoder, decoder, 1)
        self.components = components
        # Fixed at construction: a plain autoencoder has no prior, and raising beta later cannot give it one.
        self.prior = FactorizedPrior(components, name="prior") if beta > 0 else None
        self.noise = keras.random.SeedGenerator()
        if self.prior is not None:
            self.prior.build((None, *self.latent_shape))
        self.build()

    @property
    def latent_network(self) -> keras.Model:
        return self.encoder

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        latent = self.encoder(images, training=training)
        if self.prior is None:
            rate = ops.zeros_like(latent)
        else:
            latent = ops.cast(latent, "float32")
            if training:
                latent = latent + keras.random.uniform(ops.shape(latent), -0.5, 0.5, seed=self.noise)
            else:
                latent = ops.round(latent)
            rate = self.prior(latent)
        pixels = ops.cast(self.decoder(latent, training=training), "float32")
        return Terms(self.distortion_function(targets, pixels), ops.cast(_sum_per_example(rate), "float32"), pixels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components}


@keras.saving.register_keras_serializable("tfcomp")
class VAE(LatentModel):
    """Variational autoencoder: ``q(z|x) = N(mean, diag(exp(log_variance)))`` against the prior ``N(0, I)``.

    ``rate`` is the KL divergence in nats, in closed form (Kingma and Welling 2014, appendix B); ``beta`` is that of
    Higgins et al. 2017. ``z = mean + sigma * epsilon`` in training and in evaluation alike, so that ``loss`` with
    ``beta = 1`` and binary cross-entropy is the negative evidence lower bound.

    Args:
        encoder: gives the list ``[mean, log_variance]``; see `networks`.
        decoder, distortion: see `LatentModel`.
        beta: price of one nat of rate.
    """

    heads = ("mean", "log_variance")
    # exp of either end is harmless in float32, and no useful posterior lies beyond.
    LOG_VARIANCE_RANGE = (-20.0, 10.0)

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: float = 1.0,
        distortion: str | Distortion = "binary_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, beta=beta, distortion=distortion, **kwargs)
        _check_shapes(encoder, decoder, 2)
        self.noise = keras.random.SeedGenerator()
        self._mean_network = keras.Model(encoder.inputs[0], encoder.outputs[0], name="mean_encoder")
        self.build()

    @property
    def latent_network(self) -> keras.Model:
        return self._mean_network

    def posterior(self, images: Any, training: bool = False) -> tuple[Any, Any]:
        """Mean and log-variance of ``q(z|x)``, float32 [N, *latent_shape] each."""
        mean, log_variance = (ops.cast(head, "float32") for head in self.encoder(images, training=training))
        return mean, ops.clip(log_variance, *self.LOG_VARIANCE_RANGE)

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        mean, log_variance = self.posterior(images, training)
        epsilon = keras.random.normal(ops.shape(mean), seed=self.noise)
        pixels = ops.cast(self.decoder(mean + ops.exp(log_variance / 2) * epsilon, training=training), "float32")
        divergence = (ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance) / 2
        return Terms(self.distortion_function(targets, pixels), _sum_per_example(divergence), pixels)


def _check_shapes(encoder: keras.Model, decoder: keras.Model, heads: int) -> None:
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


def load_model(path: str | Path) -> LatentModel:
    """Load a ``.keras`` file of an `AutoEncoder` or a `VAE`, with Keras's safe mode on.

    It is ``keras.saving.load_model``, which knows the two classes once this module is imported, with errors in a line.

    Raises:
        InputError: if the file is absent, is no Keras model, or holds another kind of model.
    """
    try:
        model = keras.saving.load_model(path, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"expected a saved model of tfcomp at {path}: {reason}") from error
    if not isinstance(model, LatentModel):
        raise InputError(f"expected an AutoEncoder or a VAE in {path}, found {type(model).__name__}")
    return model
