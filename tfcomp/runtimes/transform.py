"""The two float networks of a codec, which propose integers; `tfcomp.entropy` decides, in integers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tfcomp.items import Images

Float32 = NDArray[np.float32]


class Transform(Protocol):
    """Analysis and synthesis, both deterministic; and where ``refines``, the error's gradient in the latent.

    The latent is in units: the encoder network's output, less ``zero``, over ``unit``, which an artifact records. Items
    of one shape come in batches; items of any size a window at a time, whose sides are multiples of the grid's stride.
    """

    def analyse(self, items: Images) -> Float32:
        """uint8 [N, H, W, C] -> float32 [N, *latent_shape], in units, not rounded.

        For samples of a posterior (`tfcomp.entropy.sample`): its mean and deviation, [N, 2, *latent_shape].
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
            InputError: where there is no slope.
        """
        ...
