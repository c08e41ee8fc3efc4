"""The variational autoencoder: beta-KL objective, free bits, generation, and reports on what each dimension carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.models import networks, sampling
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.networks import InputShape
from tfcomp.models.objective import Distortion, Terms, sum_per_example
from tfcomp.models.replicas import Seeds, mean_of_batch

SCALES = ("input", "shared")


def gaussian_divergence(mean: Any, log_variance: Any) -> Any:
    """``KL(N(mean, exp(log_variance)) || N(0, 1))`` in nats, element by element.

    The closed form of Kingma and Welling 2014, "Auto-Encoding Variational Bayes", appendix B.
    """
    return (ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance) / 2


@keras.saving.register_keras_serializable("tfcomp")
class VAE(LatentModel):
    """Variational autoencoder: ``q(z|x) = N(mean, diag(exp(log_variance)))`` against the prior ``N(0, I)``.

    Examples:
        >>> model = VAE.dense((28, 28, 1), latent_dim=16, beta=1.0)
        >>> model.compile(optimizer="adam")
        >>> history = model.fit(np.zeros((64, 28, 28, 1), np.uint8), epochs=1, verbose=0)

    ``rate`` is the KL divergence in nats, in closed form; ``beta`` is that of Higgins et al. 2017. ``z = mean + sigma *
    epsilon`` in training and in evaluation alike, so that ``loss`` with ``beta = 1`` and binary cross-entropy is the
    negative evidence lower bound. With squared error, the loss is that of a Gaussian likelihood of variance
    ``beta / 2``; see `squared_error` and `negative_elbo`.

    Args:
        encoder: see `LatentModel`; outputs ``[mean, log_variance]``, or ``mean`` alone with ``scale="shared"``.
        decoder: a built Keras model; see `networks`.
        beta: price of a nat of divergence in units of distortion. `callbacks.BetaSchedule` changes it in training.
        distortion: ``"binary_cross_entropy"``, ``"squared_error"`` or a function; see `AutoEncoder`.
        stride: see `AutoEncoder`.
        reach: see `AutoEncoder`.
        name: the model's.
        scale: ``"input"``: the encoder gives each input its own variances. ``"shared"``: one variance for each channel
            of the latent, a trainable weight. ``Codec.freeze(..., latents="sample")`` codes samples of either, by
            candidates (`tfcomp.entropy.sample`) where the decoder does not know the variance, else by dither
            (`tfcomp.models.sampling`).
        free_bits: nats per dimension of the latent that cost nothing more in training: the rate of a dimension counts
            as at least this, on the mean of a batch (Kingma et al. 2016, "Improved Variational Inference with Inverse
            Autoregressive Flow", appendix C.8). The rate logged in training includes the floor; that of evaluation is
            the divergence.
    """

    # Beyond this range exp() helps nobody: sigma would be below 5e-5 or above 148. No useful posterior lies there.
    LOG_VARIANCE_RANGE = (-20.0, 10.0)

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: float = 1.0,
        distortion: str | Distortion = "binary_cross_entropy",
        scale: str = "input",
        free_bits: float = 0.0,
        stride: int | None = None,
        reach: int | None = None,
        name: str | None = None,
    ) -> None:
        if scale not in SCALES:
            raise InputError(f"expected scale to be one of {SCALES}, found {scale!r}")
        if not (math.isfinite(free_bits) and free_bits >= 0):
            raise InputError(f"expected finite free_bits >= 0, in nats per dimension, found {free_bits}")
        super().__init__(encoder, decoder, beta=beta, distortion=distortion, stride=stride, reach=reach, name=name)
        self.scale = scale
        self.free_bits = float(free_bits)
        self.noise = Seeds()
        self._mean_network = keras.Model(encoder.inputs[0], encoder.outputs[0], name="mean_encoder")
        if scale == "shared":
            self.log_variance = self.add_weight(
                shape=(self.latent_shape[-1],), initializer="zeros", name="log_variance", dtype="float32"
            )
        self._complete(heads=2 if scale == "input" else 1)

    # === Builders ===

    @classmethod
    def dense(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (512, 256),
        beta: float = 1.0,
        distortion: str | Distortion = "binary_cross_entropy",
        scale: str = "input",
        free_bits: float = 0.0,
        name: str | None = None,
    ) -> Self:
        """A model of multilayer perceptrons.

        Args:
            input_shape: (height, width, channels).
            latent_dim: numbers of the latent.
            hidden: widths of the hidden layers, from the image inwards.
            beta: price of a nat of divergence; see `VAE`.
            distortion: see `VAE`.
            scale: ``"input"`` or ``"shared"``; see `VAE`.
            free_bits: see `VAE`.
            name: the model's.
        """
        encoder = networks.dense_encoder(input_shape, latent_dim, hidden=hidden, heads=_heads(scale))
        decoder = networks.dense_decoder(input_shape, latent_dim, hidden=hidden)
        return cls(encoder, decoder, beta=beta, distortion=distortion, scale=scale, free_bits=free_bits, name=name)

    @classmethod
    def conv(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        filters: Sequence[int] = (32, 64),
        hidden: int = 500,
        beta: float = 1.0,
        distortion: str | Distortion = "binary_cross_entropy",
        scale: str = "input",
        free_bits: float = 0.0,
        name: str | None = None,
    ) -> Self:
        """A model of strided convolutions around dense layers.

        Args:
            input_shape: (height, width, channels).
            latent_dim: numbers of the latent.
            filters: widths of the convolutions, from the image inwards; each halves height and width.
            hidden: width of the dense layer.
            beta: price of a nat of divergence; see `VAE`.
            distortion: see `VAE`.
            scale: ``"input"`` or ``"shared"``; see `VAE`.
            free_bits: see `VAE`.
            name: the model's.
        """
        encoder = networks.conv_encoder(input_shape, latent_dim, filters=filters, hidden=hidden, heads=_heads(scale))
        decoder = networks.conv_decoder(input_shape, latent_dim, filters=filters, hidden=hidden)
        return cls(encoder, decoder, beta=beta, distortion=distortion, scale=scale, free_bits=free_bits, name=name)

    @classmethod
    def spatial(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        filters: Sequence[int] = (32, 64),
        beta: float = 1.0,
        distortion: str | Distortion = "squared_error",
        scale: str = "input",
        free_bits: float = 0.0,
        name: str | None = None,
    ) -> Self:
        """A model of convolutions alone, for high rates, and for images of any size.

        Args:
            input_shape: (height, width, channels), or (None, None, channels) for any size.
            latent_dim: numbers of the latent for each cell of ``2**len(filters)`` pixels a side.
            filters: widths of the convolutions, from the image inwards; each halves height and width.
            distortion: not binary cross-entropy: the pixels have no bounds.
            beta: price of a nat of divergence; see `VAE`.
            scale: ``"input"`` or ``"shared"``; see `VAE`.
            free_bits: see `VAE`.
            name: the model's.
        """
        networks.check_unbounded(distortion)
        encoder = networks.spatial_encoder(input_shape, latent_dim, filters=filters, heads=_heads(scale))
        decoder = networks.spatial_decoder(input_shape, latent_dim, filters=filters)
        return cls(encoder, decoder, beta=beta, distortion=distortion, scale=scale, free_bits=free_bits, name=name)

    # === What a codec is made of ===

    @property
    def latent_network(self) -> keras.Model:
        return self._mean_network

    @property
    def posterior_network(self) -> keras.Model | None:
        if self.scale != "input" or self.item.any_size:
            return None
        mean, log_variance = (ops.cast(head, "float32") for head in self.encoder.outputs)
        deviation = ops.exp(ops.clip(log_variance, *self.LOG_VARIANCE_RANGE) / 2)
        return keras.Model(self.encoder.inputs[0], ops.stack([mean, deviation], axis=1), name="posterior_encoder")

    def posterior(self, images: Any, training: bool = False) -> tuple[Any, Any]:
        """Mean and log-variance of ``q(z|x)``, float32 [N, *latent_shape] each."""
        outputs = self.encoder(images, training=training)
        mean, log_variance = outputs if self.scale == "input" else (outputs, self.log_variance)
        mean = ops.cast(mean, "float32")
        log_variance = ops.clip(ops.cast(log_variance, "float32"), *self.LOG_VARIANCE_RANGE)
        return mean, ops.broadcast_to(log_variance, ops.shape(mean))

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        mean, log_variance = self.posterior(images, training)
        epsilon = keras.random.normal(ops.shape(mean), seed=self.noise)
        pixels = self.decode(mean + ops.exp(log_variance / 2) * epsilon, training=training)
        divergence = gaussian_divergence(mean, log_variance)
        if training and self.free_bits:
            above = mean_of_batch(divergence) > self.free_bits
            divergence = ops.where(above, divergence, self.free_bits)
        return Terms(self.distortion_function(targets, pixels), sum_per_example(divergence), pixels)

    def draw_noise(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.scale != "shared":
            raise InputError(
                "expected a posterior whose scale the decoder knows, found one that depends on the input, which is "
                "sampled by candidates"
            )
        if self.item.any_size:
            raise InputError(f"expected items of one shape to sample a posterior of, found {self.item}")
        log_variance = np.clip(ops.convert_to_numpy(self.log_variance).astype(np.float64), *self.LOG_VARIANCE_RANGE)
        return sampling.gaussian(np.broadcast_to(np.exp(log_variance / 2), self.latent_shape), seed)

    # === Generation ===

    def sample(self, n: int, *, seed: int = 0, positions: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Images that the decoder makes of ``n`` draws from the prior: uint8 [n, *image_shape].

        Args:
            n: number of images.
            seed: of the draws.
            positions: rows and columns of the latent, for a model of any size.
        """
        if (positions is None) == self.item.any_size:
            raise InputError(f"expected positions for items of any size, and for no others, found {positions}")
        shape = self.latent_shape if positions is None else (*positions, self.latent_shape[2])
        return self.render(np.random.default_rng(seed).standard_normal((n, *shape), np.float32))

    def traverse(self, image: Any, dimensions: Sequence[int], values: Sequence[float]) -> NDArray[np.uint8]:
        """The decoder's images of a latent of which one dimension at a time is set to other values.

        Args:
            image: uint8 [*image_shape].
            dimensions: positions of the latent in C order, e.g. those of the largest `kl_per_dimension`.
            values: what each is set to in turn; the prior's standard deviation is 1.

        Returns:
            uint8 [dimensions, values, *image_shape].
        """
        whole = self.latents(np.asarray(image)[None])
        latent = whole.ravel()
        if not all(0 <= d < latent.size for d in dimensions) or not (len(dimensions) and len(values)):
            raise InputError(f"expected dimensions of 0 to {latent.size - 1} and values, found {list(dimensions)}")
        moved = np.tile(latent, (len(dimensions), len(values), 1))
        for row, dimension in enumerate(dimensions):
            moved[row, :, dimension] = values
        images = self.render(moved.reshape(-1, *whole.shape[1:]))
        return images.reshape(len(dimensions), len(values), *images.shape[1:])

    # === Reports ===

    def kl_per_dimension(self, images: Any) -> NDArray[np.float64]:
        """float64 [*latent_shape]: mean KL divergence over the images, uint8 [N, *image_shape], in nats.

        The sum over dimensions is the mean rate.
        """
        return np.asarray(ops.convert_to_numpy(gaussian_divergence(*self._posteriors(images))).mean(axis=0))

    def active_dimensions(self, images: Any, *, threshold: float = 0.01) -> NDArray[np.bool_]:
        """Whether the posterior's mean varies from image to image: bool [*latent_shape].

        The criterion of Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders": the variance of the
        mean over the images, uint8 [N, *image_shape], is above ``threshold``.
        """
        return np.asarray(self._posteriors(images)[0].var(axis=0) > threshold)

    def negative_elbo(self, images: Any, *, samples: int = 1, seed: int = 0) -> NDArray[np.float64]:
        """Negative evidence lower bound in nats, whatever beta the model was trained with: float64 [N].

        Args:
            images: uint8 [N, *image_shape]. Under a Bernoulli likelihood, grey values count as probabilities.
            samples: draws of the posterior per image, over which the distortion is averaged.
            seed: of those draws.

        With squared error the likelihood is Gaussian, a density of pixels on [0, 1], of variance ``beta / 2`` for each
        element, or of the one that fits the images best where beta is 0.

        Raises:
            InputError: if the distortion is the user's own: its likelihood is unknown.
        """
        if self.distortion not in ("binary_cross_entropy", "squared_error"):
            raise InputError(f"expected a likelihood that tfcomp knows, found the distortion {self.distortion!r}")
        if samples < 1:
            raise InputError(f"expected at least one sample, found {samples}")
        images = self.check_images(images)
        mean, log_variance = self._posteriors(images)
        divergence = ops.convert_to_numpy(gaussian_divergence(mean, log_variance)).sum(axis=tuple(range(1, mean.ndim)))
        sigma = np.exp(log_variance / 2)
        generator = np.random.default_rng(seed)
        distortion = np.zeros(len(images))
        for _ in range(samples):
            latents = (mean + sigma * generator.standard_normal(mean.shape)).astype(np.float32)
            for i in range(0, len(images), 512):
                pixels = self.decode(latents[i : i + 512])
                targets = images[i : i + 512].astype(np.float32) / 255
                distortion[i : i + 512] += ops.convert_to_numpy(self.distortion_function(targets, pixels))
        distortion /= samples
        if self.distortion == "squared_error":
            elements = math.prod(images.shape[1:])
            variance = self.beta / 2 or max(float(distortion.mean()) / elements, 1e-12)
            distortion = distortion / (2 * variance) + elements / 2 * math.log(2 * math.pi * variance)
        return np.asarray(distortion + divergence)

    def _posteriors(self, images: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        images = self.check_images(images)
        parts = [self.posterior(images[i : i + 512]) for i in range(0, len(images), 512)]
        mean, log_variance = (
            np.concatenate([ops.convert_to_numpy(part) for part in heads]) for heads in zip(*parts, strict=True)
        )
        return mean.astype(np.float64), log_variance.astype(np.float64)

    # === Config ===

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "free_bits": self.free_bits}


def _heads(scale: str) -> tuple[str, ...]:
    """Names of the encoder's outputs."""
    return ("mean",) if scale == "shared" else ("mean", "log_variance")
