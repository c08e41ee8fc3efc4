"""Trainable float densities of the latents. They propose the probabilities that `tables` turns into integers.

The density is learned on the noisy latent ``y + u, u ~ U(-1/2, 1/2)``, whose density at an integer equals the mass of
the rounding interval around it (Balle, Laparra and Simoncelli 2017, "End-to-end Optimized Image Compression", section
3, equations 10 to 13). So one function serves both: the mass of an interval of width ``step`` around a value.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfcomp")
class FactorizedPrior(keras.layers.Layer):
    """A mixture of ``components`` logistic densities for each channel of the latent, independent of one another.

        F(y) = sum_k w_k * sigmoid((y - m_k) / s_k)

    Called with latents float [..., C], it gives their rate: float32, same shape, in nats.

    Args:
        components: logistics per channel. One is the prior of TensorFlow Compression's small-image tutorial.
    """

    def __init__(self, components: int = 3, **kwargs: Any) -> None:
        # The rate is a small difference of large sums: it never computes below float32.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.components = components

    def build(self, latent_shape: tuple[int | None, ...]) -> None:
        shape = (latent_shape[-1], self.components)

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

    def log_mass(self, centre: Any, width: Any = 1.0) -> Any:
        """Natural logarithm of the probability of ``[centre - width / 2, centre + width / 2]``.

        Args:
            centre: float [..., C].
            width: float, broadcastable to ``centre``; positive.

        With ``a`` and ``b`` the standardised ends of the interval,
        ``sigmoid(b) - sigmoid(a) = (1 - exp(a - b)) * sigmoid(b) * sigmoid(-a)``, which keeps its precision far out in
        both tails, where the difference of the left side is zero in float32.
        """
        centre = ops.expand_dims(ops.cast(centre, "float32"), -1)
        half = ops.expand_dims(ops.cast(width, "float32"), -1) / 2 if ops.ndim(width) else width / 2
        inverse_scale = ops.exp(-ops.clip(self.log_scales, -7.0, 12.0))
        b = (centre - self.means + half) * inverse_scale
        a = (centre - self.means - half) * inverse_scale
        log_difference = ops.log(-ops.expm1(-2 * half * inverse_scale)) + ops.log_sigmoid(b) + ops.log_sigmoid(-a)
        return ops.logsumexp(ops.log_softmax(self.mixture_logits, axis=-1) + log_difference, axis=-1)

    def call(self, latent: Any) -> Any:
        return -self.log_mass(latent)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components}
