"""Trainable float densities of the latents. They propose the probabilities that `tables` turns into integers.

A prior is a Keras layer that says what it costs to send a latent. An `AutoEncoder` trains through its method `transmit`
(`Prior`); `context_prior` has the prior that looks at neighbours.

The density of a `FactorizedPrior` is learned on the noisy latent ``y + u, u ~ U(-1/2, 1/2)``, whose density at an
integer equals the mass of the rounding interval around it (Balle, Laparra and Simoncelli 2017, "End-to-end Optimized
Image Compression", section 3, equations 10 to 13). So one function serves both: the mass of an interval of width
``step`` around a value.
"""

from __future__ import annotations

from typing import Any, Protocol

import keras
from keras import ops

from tfcomp.errors import InputError


class Prior(Protocol):
    """The protocol of an `AutoEncoder`'s prior."""

    qualities: int

    def transmit(self, scaled: Any, step: Any, quality: Any, noise: Any, training: bool) -> tuple[Any, Any]:
        """A latent as the decoder is to see it, and its rate.

        Args:
            scaled: float32 [N, ..., C], the latent in steps.
            step: float32, broadcastable to ``scaled``, the steps themselves; None where all are 1.
            quality: int32 [N], the quality of each example, from 0; None where there is one.
            noise: `keras.random.SeedGenerator`.
            training: whether noise stands for rounding wherever rounding has no gradient.

        Returns:
            float32 of the shape of ``scaled``, in steps, and the rate of each element in nats.
        """
        ...


@keras.saving.register_keras_serializable("tfcomp")
class FactorizedPrior(keras.layers.Layer):
    """A mixture of ``components`` logistic densities for each channel of the latent, independent of one another.

    Examples:
        >>> prior = FactorizedPrior(components=3)
        >>> prior.build((None, 8))
        >>> prior(keras.ops.zeros((2, 8))).shape       # the rate of each element, in nats
        TensorShape([2, 8])

    The distribution function of a channel is

        F(y) = sum_k w_k * sigmoid((y - m_k) / s_k)

    Args:
        components: logistics per channel. One is the prior of TensorFlow Compression's small-image tutorial.
        qualities: number of sets of densities. The weights have the shape [C, components], or
            [qualities, C, components] where there are several.
    """

    def __init__(self, components: int = 3, qualities: int = 1, **kwargs: Any) -> None:
        # The rate is a small difference of large sums: it never computes below float32.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if components < 1 or qualities < 1:
            raise InputError(f"expected 1 or more components and qualities, found {components} and {qualities}")
        self.components = components
        self.qualities = qualities

    def build(self, latent_shape: tuple[int | None, ...]) -> None:
        several = (self.qualities,) if self.qualities > 1 else ()
        shape = (*several, latent_shape[-1], self.components)

        def spread(width: float) -> keras.initializers.Initializer:
            # Components that start alike stay alike; they start at different scales about zero.
            offsets = [
                width * (2 * k - self.components + 1) / max(self.components - 1, 1) for k in range(self.components)
            ]
            return lambda shape, dtype=None: ops.broadcast_to(ops.convert_to_tensor(offsets, dtype), shape)

        self.mixture_logits = self.add_weight(shape=shape, initializer="zeros", name="mixture_logits")
        self.means = self.add_weight(shape=shape, initializer=spread(0.1), name="means")
        self.log_scales = self.add_weight(shape=shape, initializer=spread(1.0), name="log_scales")
        super().build(latent_shape)

    def log_mass(self, centre: Any, width: Any = 1.0, quality: Any = None) -> Any:
        """Natural logarithm of the probability of ``[centre - width / 2, centre + width / 2]``.

        Args:
            centre: float [..., C].
            width: float, broadcastable to ``centre``; positive.
            quality: which densities, counted from 0: a number, or int32 [N] for a centre of [N, ..., C]. A prior of
                one quality needs none.

        Returns:
            float32, the shape of ``centre``.

        With ``a`` and ``b`` the standardised ends of the interval,
        ``sigmoid(b) - sigmoid(a) = (1 - exp(a - b)) * sigmoid(b) * sigmoid(-a)``, which keeps its precision far out in
        both tails, where the difference of the left side is zero in float32.
        """
        centre = ops.expand_dims(ops.cast(centre, "float32"), -1)
        half = ops.expand_dims(ops.cast(width, "float32"), -1) / 2 if ops.ndim(width) else width / 2
        logits, means, log_scales = self._densities(quality, ops.ndim(centre))
        inverse_scale = ops.exp(-ops.clip(log_scales, -7.0, 12.0))
        b = (centre - means + half) * inverse_scale
        a = (centre - means - half) * inverse_scale
        log_difference = ops.log(-ops.expm1(-2 * half * inverse_scale)) + ops.log_sigmoid(b) + ops.log_sigmoid(-a)
        return ops.logsumexp(ops.log_softmax(logits, axis=-1) + log_difference, axis=-1)

    def _densities(self, quality: Any, rank: int) -> list[Any]:
        """The three weights of a quality, [C, components], or of one for each example, [N, 1, ..., C, components]."""
        weights = [self.mixture_logits, self.means, self.log_scales]
        if self.qualities == 1:
            return weights
        if quality is None:
            raise InputError(f"expected one of {self.qualities} qualities, from 0, found none")
        # From a product: the gradient of a gather from the variable itself has rows for some qualities alone, and
        # TensorFlow's optimizers would leave the moments of the others as they are.
        taken = [ops.take(weight * 1.0, quality, axis=0) for weight in weights]
        if ops.ndim(quality) == 0:
            return taken
        return [ops.reshape(weight, (-1, *[1] * (rank - 3), *weight.shape[-2:])) for weight in taken]

    def call(self, latent: Any, quality: Any = None) -> Any:
        """The rate of latents, float [..., C], at integer steps: float32, the same shape, in nats."""
        return -self.log_mass(latent, quality=quality)

    def transmit(self, scaled: Any, step: Any, quality: Any, noise: Any, training: bool) -> tuple[Any, Any]:  # noqa: ARG002
        """Uniform noise in training, for the decoder and the rate alike; rounding otherwise. See `Prior`."""
        if training:
            seen = scaled + keras.random.uniform(ops.shape(scaled), -0.5, 0.5, seed=noise)
        else:
            seen = ops.round(scaled)
        return seen, -self.log_mass(seen, quality=quality)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components, "qualities": self.qualities}
