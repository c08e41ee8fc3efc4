"""A trained model as it is at the time of freezing: training it further does not change a codec that was frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.models.latent_model import LatentModel
from tfcomp.progress import progress
from tfcomp.runtimes.frozen_network import FrozenNetwork

BATCH = 256

Float32 = NDArray[np.float32]


class Snapshot:
    """Copies of a model's networks and weights.

    Args:
        model: trained.

    Attributes:
        encoder: uint8 [N, H, W, C] -> the latent's mean, float32 [N, *latent_shape].
        decoder: its inverse, pixels on [0, 1]; of two inputs where the model's decoder takes the quality.
    """

    def __init__(self, model: LatentModel) -> None:
        half = model.item.any_size  # as their files keep them
        self.encoder, self.decoder = (
            FrozenNetwork(network, half=half) for network in (model.latent_network, model.decoder)
        )
        self._model, self._weights = model, model.get_weights()
        self._takes_quality, self._qualities = model.takes_quality, model.qualities

    def save(self, path: str | Path) -> None:
        """Writes a model with these weights, which is made only now, as few exports keep it."""
        model = type(self._model).from_config(self._model.get_config())
        model.set_weights(self._weights)
        model.save(path)

    def latents(self, images: Images) -> Float32:
        """The encoder network's output: uint8 [N, H, W, C] -> float32 [N, *latent_shape].

        Raises:
            InputError: if it holds NaN or infinity.
        """
        latents = batched(self.encoder, images).astype(np.float32)
        if not np.all(np.isfinite(latents)):
            raise InputError("expected finite latents, found NaN or infinity: the model's weights or training diverged")
        return latents

    def pixels(self, latents: NDArray[Any], quality: int) -> NDArray[Any]:
        """The decoder network's output for latents [N, *latent_shape] at a quality, from 1: float [N, H, W, C]."""

        def decode(batch: NDArray[Any]) -> Any:
            one_hot = np.eye(self._qualities, dtype=np.float32)[[quality - 1] * len(batch)]
            return self.decoder([batch, one_hot] if self._takes_quality else batch)

        return batched(decode, latents.astype(np.float32))


def batched(network: Callable[[NDArray[Any]], Any], items: NDArray[Any]) -> NDArray[Any]:
    """A network's output for all items, in batches."""
    bar = progress(range(0, len(items), BATCH), "calibrate", unit="batch")
    return np.concatenate([keras.ops.convert_to_numpy(network(items[i : i + BATCH])) for i in bar])


def psnr_db(images: Images, pixels: NDArray[Any]) -> float:
    """PSNR of pixels on [0, 1], rounded to 8 bits, against images."""
    error = images - np.clip(np.rint(pixels * 255.0), 0, 255)
    return float(10 * np.log10(255**2 / max(np.mean(np.square(error, dtype=np.float64)), 1e-10)))
