"""The models, under one roof with the function that loads them from files. They know nothing of bytes.

What they share, the objective first of all, is in `latent_model`; `vae` and `variable_rate` have the other two.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.models import sampling
from tfcomp.models.latent_model import (
    LN2,
    Distortion,
    LatentModel,
    PeakSignalToNoise,
    Quantizer,
    Terms,
    binary_cross_entropy,
    check_shapes,
    squared_error,
    sum_per_example,
)
from tfcomp.models.priors import FactorizedPrior
from tfcomp.models.vae import VAE
from tfcomp.models.variable_rate import VariableRateAutoEncoder

__all__ = [
    "LN2",
    "VAE",
    "AutoEncoder",
    "LatentModel",
    "PeakSignalToNoise",
    "Terms",
    "VariableRateAutoEncoder",
    "binary_cross_entropy",
    "load_model",
    "squared_error",
]


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
        check_shapes(encoder, decoder, 1)
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

    @property
    def has_rate(self) -> bool:
        return self.prior is not None

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        if self.prior is None:
            return ()
        channels = self.latent_shape[-1]
        return (Quantizer(np.ones(channels, np.float32), np.zeros(channels, np.float32), self.prior),)

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
        return Terms(self.distortion_function(targets, pixels), ops.cast(sum_per_example(rate), "float32"), pixels)

    def draw_noise(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.prior is None:
            raise InputError(
                "expected a model with a posterior to sample, found an AutoEncoder of beta=0; give it a beta > 0"
            )
        return sampling.uniform(np.ones(self.latent_shape), seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components}


def load_model(path: str | Path) -> LatentModel:
    """Load a ``.keras`` file of one of tfcomp's models, with Keras's safe mode on.

    It is ``keras.saving.load_model``, which knows the classes once this module is imported, with errors in a line.

    Raises:
        InputError: if the file is absent, is no Keras model, or holds another kind of model.
    """
    try:
        model = keras.saving.load_model(path, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"expected a saved model of tfcomp at {path}: {reason}") from error
    if not isinstance(model, LatentModel):
        raise InputError(f"expected a model of tfcomp in {path}, found {type(model).__name__}")
    return model
