"""The two float networks of a codec, wherever they run. They propose; `tfcomp.entropy` decides, in integers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tfcomp.items import Images

Float32 = NDArray[np.float32]


class Transform(Protocol):
    """Analysis and synthesis, both deterministic; and where ``refines``, how the error follows the latent.

    The latent is in units, which the artifact records as ``unit`` and ``zero``: what the encoder network gives, less
    ``zero``, over ``unit``. Items of one shape come in batches; of any size, a window at a time, with sides that are
    multiples of the grid's stride.
    """

    def analyse(self, items: Images) -> Float32:
        """uint8 [N, H, W, C] -> float32 [N, *latent_shape], in units, not rounded.

        For samples of a posterior (`tfcomp.entropy.sample`): [N, 2, *latent_shape], its mean and deviation.
        """
        ...

    def synthesise(self, latents: Float32, quality: int) -> Images:
        """float32 [N, *latent_shape], in units, quantized at a quality, from 1 -> uint8 [N, H, W, C]."""
        ...

    @property
    def refines(self) -> bool:
        """Whether there is a `slope`, which ``effort`` needs: networks may have been exported without."""
        ...

    def slope(self, items: Images, latents: Float32, quality: int) -> tuple[Float32, Float32]:
        """Squared error of each item, of pixels on [0, 1], and its gradient: float32 [N] and [N, *latent_shape].

        Raises:
            InputError: where there is none.
        """
        ...
