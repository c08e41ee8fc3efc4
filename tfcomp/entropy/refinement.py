"""Integers that cost less than the rounded latent: gradient descent at the encoder, one image at a time.

An encoder network is trained to do well on average, and rounding minds neither bits nor neighbours. For one image, what
counts is known exactly: the bits under the integer tables, and the squared error through the decoder. So its integers
``q`` are improved for

    cost = bits(q) + price * ||x - decoder(q)||^2

by steps of one. Backpropagation gives the gradient ``g`` of the error at all positions at once; with a curvature ``c``
for each, that of the decoder's Jacobian, a step of one changes the cost by about ``bits(q_i +- 1) - bits(q_i) +
price * (+-g_i + c_i)``. The steps that promise most are taken together, as many as a limit says; where the true cost
has not fallen, they are taken back and the limit falls to a third, until it is none. So the cost never rises, and
nothing else changes: any decoder reads the payload. (Content-adaptive encoding: Campos et al. 2019, "Content adaptive
optimization for neural image compression"; with rounding in view: Yang, Bamler and Mandt 2020, "Improving inference for
neural image compression". Both move real-valued latents.)

The price is that of the codec's own rounding. A uniform quantizer of step 1 makes an error of ``c / 12`` at a position,
which falls fourfold with each bit: ``6 / (c * ln 2)`` bits a unit of error, of the ``c`` where the bits are spent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tfcomp.codec import Codec, Images, differentiable
from tfcomp.coding.tables import Int32
from tfcomp.errors import InputError

FIRST_SHARE = 4
"""Up to so many steps at first: positions over this."""

Float64 = NDArray[np.float64]


class Refiner:
    """What all images of a codec share.

    Args:
        codec: whose networks have gradients.

    Raises:
        InputError: if they have none.
    """

    def __init__(self, codec: Codec) -> None:
        self.model, self.networks = codec.entropy_model, differentiable(codec.networks)
        latents = codec.encode(self.networks.calibration)
        self.curvature: Float64 = self.networks.curvature(latents).ravel()
        _, table = self.model.tables_of(latents)
        spent = self.model.tables.ideal_bits(self.model.flat(latents).astype(np.int32), table).mean(axis=0)
        mean = float((spent * self.curvature).sum() / max(spent.sum(), 1e-9))
        self.price = 6 / (np.log(2) * max(mean, 1e-9))

    def refine(self, images: Images, latents: Int32, effort: int) -> Int32:
        """Better integers for some images.

        Args:
            images: uint8 [N, *image_shape].
            latents: int32 [N, *latent_shape], inside the tables' supports: where to begin.
            effort: how often at most to look.

        Returns:
            int32 [N, *latent_shape], inside the supports, of no higher cost for any image.

        Raises:
            InputError: if the effort is no whole number above 0.
        """
        if not isinstance(effort, int) or effort < 1:
            raise InputError(f"expected an effort as a whole number of 0 or more, found {effort!r}")
        starts = range(0, len(images), Codec.BATCH)
        bar = tqdm(starts, desc="refine", unit="batch", delay=1.0, leave=False, disable=None)
        parts = [self._refined(images[i : i + Codec.BATCH], latents[i : i + Codec.BATCH], effort) for i in bar]
        return np.concatenate([latents[:0], *parts])

    def _refined(self, images: Images, latents: Int32, effort: int) -> Int32:
        best = self.model.flat(latents).astype(np.int32)
        cost, gain, step = self._look(images, best)
        limit = np.full(len(best), -(-best.shape[1] // FIRST_SHARE))
        for _ in range(effort):
            # Of the steps that promise anything, those that promise most.
            rank = gain.argsort(axis=1)[:, ::-1].argsort(axis=1)
            moves = np.where((gain > 0) & (rank < limit[:, None]), step, 0)
            limit[~moves.any(axis=1)] = 0
            tried = np.flatnonzero(limit)
            if not tried.size:
                break
            trial = best[tried] + moves[tried]
            found = self._look(images[tried], trial)
            better = found[0] < cost[tried]
            at = tried[better]
            best[at], (cost[at], gain[at], step[at]) = trial[better], (part[better] for part in found)
            limit[tried[~better]] //= 3
        return best.reshape(latents.shape)

    def _look(self, images: Images, flat: Int32) -> tuple[Float64, Float64, Int32]:
        """The cost of each image, float64 [N]; by how much a step would lower it, and which, of 1 and -1, [N, S]."""
        error, gradient = self.networks.slope(images, flat.reshape(-1, *self.model.latent_shape))
        selectors, table = self.model.tables_of(flat.reshape(-1, *self.model.latent_shape))
        bits = self.model.tables.ideal_bits(flat, table)
        rise = gradient.reshape(flat.shape).astype(np.float64)
        gains = []
        for step in (1, -1):
            moved = self.model.tables.clip(flat + step, table)
            saved = bits - self.model.tables.ideal_bits(moved, table)
            gains.append(np.where(moved == flat, -np.inf, saved - self.price * (step * rise + self.curvature)))
        up = gains[0] > gains[1]
        cost = selectors + bits.sum(axis=1) + self.price * error
        return cost, np.where(up, *gains), np.where(up, 1, -1).astype(np.int32)
