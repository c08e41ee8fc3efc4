"""Several qualities of one artifact: its networks see one fine latent, and a quality is a coarser rounding of it.

Qualities are the numbers 1 to ``Q``; a higher one has more bytes and a better picture. All share the networks, whose
integers ``t`` are in steps far finer than any quality's. A quality has a step ``s`` and an offset ``o`` at each
position, whole numbers of those fine steps, and a table. All that depends on the quality is integer arithmetic::

    encoder network  --t-->  q = (t - o + s // 2) // s   --range coder-->  payload           // rounds down
    decoder network  <--t--  t = q * s + o               <--range coder--  payload

        -2**30 <= t <= 2**30,    1 <= s <= 2**24,    -2**24 <= o <= 2**24

so that it is exact in every runtime, whatever computes the networks. No payload says of which quality it is: the codec
of each quality has a fingerprint of its own, by which a ``.tfz`` file tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.codec import Codec, DifferentiableNetworks, EntropyModel, Images, Networks, differentiable
from tfcomp.coding.tables import Int32
from tfcomp.errors import BitstreamError

FINE_STEPS = 256
"""In the finest step of each position: rounded twice, a latent is at most 1/512 of a step further off."""
MOST_STEPS = 1 << 24
"""The bound of steps and offsets: up to it, float32 holds every integer."""


def coarse(fine: Any, step: Any, offset: Any) -> Any:
    """The integers of a quality, of fine ones: int32 arrays or tensors that broadcast."""
    return (fine - offset + step // 2) // step


def fine(coarse: Any, step: Any, offset: Any) -> Any:
    """What the integers of a quality stand for, in fine steps: int32 arrays or tensors that broadcast."""
    return coarse * step + offset


class VariableRateCodec(Codec):
    """A codec of several qualities. Make one with `Codec.freeze` or `Codec.load`.

    ``compress`` and ``decompress`` take a ``quality``, and ``at(quality)`` is the codec of one alone. In all else it is
    the codec of the highest quality.

    Args:
        fine_networks: between images and fine latents.
        entropy_models: of each quality, the lowest first; with the same tables, and ``step`` and ``offset`` in fine
            steps.
        image_shape: (height, width, channels) of the uint8 images.
    """

    def __init__(
        self, fine_networks: Networks, entropy_models: Sequence[EntropyModel], image_shape: tuple[int, ...]
    ) -> None:
        self.fine_networks = fine_networks
        self._codecs = tuple(Codec(AtQuality(fine_networks, m), m, image_shape) for m in entropy_models)
        super().__init__(self._codecs[-1].networks, entropy_models[-1], image_shape)

    @property
    def codecs(self) -> tuple[Codec, ...]:
        return self._codecs


@dataclass(frozen=True)
class AtQuality:
    """The `Networks` of one quality."""

    networks: Networks
    entropy_model: EntropyModel

    @cached_property
    def scale(self) -> tuple[Int32, Int32]:
        """Step and offset, int32 [*latent_shape]."""
        return self.entropy_model.step.astype(np.int32), self.entropy_model.offset.astype(np.int32)

    def encode(self, images: Images) -> Int32:
        """uint8 [N, *image_shape] -> int32 [N, *latent_shape]."""
        found: Int32 = coarse(self.networks.encode(images), *self.scale)
        return found

    def decode(self, latents: Int32) -> Images:
        """int32 [N, *latent_shape] -> uint8 [N, *image_shape]."""
        return self.networks.decode(fine(latents, *self.scale))

    @property
    def calibration(self) -> Images:
        return self._differentiable.calibration

    def slope(self, images: Images, latents: Int32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        error, gradient = self._differentiable.slope(images, fine(latents, *self.scale))
        return error, gradient * self.entropy_model.step

    def curvature(self, latents: Int32) -> NDArray[np.float64]:
        return self._differentiable.curvature(fine(latents, *self.scale)) * np.square(self.entropy_model.step)

    @property
    def _differentiable(self) -> DifferentiableNetworks:
        return differentiable(self.networks)


# === In one file ===

_OWN = ("index", "step", "offset")
"""What each quality has of its own in an `EntropyModel`."""


def arrays(models: Sequence[EntropyModel]) -> dict[str, NDArray[Any]]:
    """`EntropyModel.arrays`; of several models, what is each one's own has one more axis, in front."""
    if len(models) == 1:
        return models[0].arrays()
    return models[0].arrays() | {name: np.stack([getattr(m, name) for m in models]) for name in _OWN}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[EntropyModel, ...]:
    """The inverse of `arrays`; raises `BitstreamError` on anything that is not valid models."""
    if "index" not in arrays or np.ndim(arrays["index"]) < 2:
        return (EntropyModel.from_arrays(arrays),)
    own = {name: arrays[name] for name in _OWN}
    count = len(own["index"])
    if not count or any(len(array) != count for array in own.values()):
        raise BitstreamError(f"expected {', '.join(_OWN)} of as many qualities, found others")
    whole = all(np.all(np.abs(own[name]) <= MOST_STEPS) and np.all(own[name] % 1 == 0) for name in ("step", "offset"))
    if not whole or np.any(own["step"] < 1):
        raise BitstreamError(f"expected whole steps from 1 and offsets, up to {MOST_STEPS}, found others")
    first, *others = ({name: array[q] for name, array in own.items()} for q in range(count))
    model = EntropyModel.from_arrays({**arrays, **first})
    return (model, *(replace(model, **other) for other in others))
