"""One autoencoder for several rates: the quality is a set of quantization steps, and the networks are shared.

Quality ``q`` quantizes each channel of the latent in steps of its own, learned with everything else (the gains of Cui
et al. 2021, "Asymmetric Gained Deep Image Compression with Continuous Rate Adaptation", as steps), and has a prior of
its own. Each example of a batch is trained at one quality, an equal share of the batch at each, for

    loss_q = w_q * (distortion + beta_q * rate),        w_q proportional to 1 / sqrt(beta_q)

Unweighted, the lowest quality, whose losses are largest, would have the networks for itself: both parts grow about as
``beta`` in the limit of high rates, and more slowly where the rate comes near zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcomp.errors import InputError
from tfcomp.models.latent_model import Distortion, LatentModel, Quantizer, Terms, check_shapes, sum_per_example
from tfcomp.models.priors import FactorizedPrior


@keras.saving.register_keras_serializable("tfcomp")
class VariableRateAutoEncoder(LatentModel):
    """An `AutoEncoder` of several qualities, 1 to ``len(betas)``; a higher one has more bytes and a better picture.

    Args:
        encoder, decoder, distortion: see `LatentModel`. The latent wants the size that suits the highest quality.
        betas: price of one nat of rate at each quality, falling, from the lowest quality to the highest.
        components: logistics per channel of each prior.

    ``beta`` is the price at the highest quality; assigning to it moves those of the others in proportion. Logged
    numbers are means over all qualities; ``loss`` is weighted as above.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        betas: Sequence[float],
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        **kwargs: Any,
    ) -> None:
        self.betas = tuple(float(beta) for beta in betas)
        falling = all(a > b for a, b in zip(self.betas, self.betas[1:], strict=False))
        if not (self.betas and falling and math.isfinite(self.betas[0]) and self.betas[-1] > 0):
            raise InputError(f"expected betas above 0, from the largest to the smallest, found {list(self.betas)}")
        super().__init__(encoder, decoder, beta=self.betas[-1], distortion=distortion, **kwargs)
        check_shapes(encoder, decoder, 1)
        self.components = components
        self.priors = [FactorizedPrior(components, name=f"prior_{q}") for q in range(1, len(self.betas) + 1)]
        self.noise = keras.random.SeedGenerator()
        relative = np.array(self.betas) / self.betas[-1]
        self._relative = relative.astype(np.float32)
        self._weights = (relative**-0.5 / np.mean(relative**-0.5)).astype(np.float32)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        shape = (len(self.betas), self.latent_shape[-1])
        # Where distortion grows with the square of the step, the best step grows with the square root of the price.
        # The highest quality starts at an `AutoEncoder`'s step of 1, so that networks of one can be trained on.
        first = np.log(self._relative) / 2
        self.log_steps = self.add_weight(
            shape=shape,
            initializer=lambda shape, dtype=None: ops.cast(np.repeat(first[:, None], shape[1], axis=1), dtype),
            name="log_steps",
            dtype="float32",
        )
        for prior in self.priors:
            prior.build((None, *self.latent_shape))
        super().build(input_shape)

    @property
    def latent_network(self) -> keras.Model:
        return self.encoder

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        steps = np.exp(ops.convert_to_numpy(self.log_steps))
        return tuple(Quantizer(s, np.zeros_like(s), prior) for s, prior in zip(steps, self.priors, strict=True))

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        latent = ops.cast(self.encoder(images, training=training), "float32")
        quality = self._turns(latent)
        aside = (-1, *[1] * (len(self.latent_shape) - 1), self.latent_shape[-1])
        step = ops.reshape(ops.take(ops.exp(self.log_steps), quality, axis=0), aside)
        scaled = latent / step
        if training:
            scaled = scaled + keras.random.uniform(ops.shape(scaled), -0.5, 0.5, seed=self.noise)
        else:
            scaled = ops.round(scaled)
        bounds = [-(-q * ops.shape(latent)[0] // len(self.betas)) for q in range(len(self.betas) + 1)]
        parts = [prior(scaled[a:b]) for prior, a, b in zip(self.priors, bounds, bounds[1:], strict=False)]
        rate = sum_per_example(ops.concatenate(parts))
        pixels = ops.cast(self.decoder(scaled * step, training=training), "float32")
        return Terms(self.distortion_function(targets, pixels), rate, pixels)

    def loss_of(self, terms: Terms) -> Any:
        quality = self._turns(terms.rate)
        price = self.beta_variable * ops.take(self._relative, quality)
        return ops.take(self._weights, quality) * (terms.distortion + price * terms.rate)

    def _turns(self, batch: Any) -> Any:
        """Which quality, from 0, each example of a batch is coded at: int32 [N], in equal blocks."""
        examples = ops.shape(batch)[0]
        return ops.arange(examples, dtype="int32") * len(self.betas) // examples

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["beta"]
        return {**config, "betas": list(self.betas), "components": self.components}
