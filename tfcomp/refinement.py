"""Integers of a lower cost than the rounded latent: gradient descent at the encoder, one item at a time.

An encoder network is trained to do well on average, and rounding regards neither bits nor neighbours. For one item the
bits under the integer tables and the squared error through the decoder are known exactly. So its integers ``q`` are
improved for

    cost = bits(q) + lagrangian * ||x - decoder(q)||^2        lagrangian: bits a unit of error, pixels on [0, 1]

Backpropagation gives the gradient ``g`` of the error at all positions at once; the curvature ``c`` at each, from the
decoder's Jacobian, comes with the codec. The cost never rises, and any decoder reads the payload. (Content-adaptive
encoding: Campos et al. 2019, "Content adaptive optimization for neural image compression"; with rounding in view: Yang,
Bamler and Mandt 2020, "Improving inference for neural image compression". Both move real-valued latents.)

Items of one shape. A step of one changes the cost by about ``bits(q_i +- 1) - bits(q_i) + lagrangian * (+-g_i + c_i)``.
The steps of the largest promised gain are taken together, up to a limit; where the true cost has not fallen, they are
undone and the limit falls to a third, until it is 0.

Items of any size. The error near ``q`` is about ``sum c_i * (q_i + d_i - t_i)^2`` with its minimum at the target
``t_i = q_i - g_i / (2 * c_i)``. Integers are chosen anew for a target between ``q`` and ``t``, with the bits that they
take in their contexts; where the true cost has not fallen, the next target lies at half the distance.

A codec of items of one shape takes its lagrangian from its own rounding. A uniform quantizer of step 1 makes an error
of ``c / 12`` at a position, which falls fourfold with each bit: ``6 / (c * ln 2)`` bits a unit of error, of the ``c``
where the bits are spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.progress import progress

FIRST_SHARE = 4
"""The first limit of steps taken together is the number of positions over this."""
BATCH = 256
"""Largest number of items that are refined at a time."""
LEAST_DISTANCE = 1 / 16
"""Smallest share of the way to the target; the search ends below it."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Slope = Callable[[Images, Int32], tuple[Float32, Float32]]
"""A function from items and integers [N, ...] to the squared error of each item and its gradient by the integers."""


def checked_effort(effort: int) -> int:
    """The effort; raises `InputError` unless it is a whole number of 0 or more."""
    if isinstance(effort, bool) or not isinstance(effort, int | np.integer) or effort < 0:
        raise InputError(f"expected an effort as a whole number of 0 or more, found {effort!r}")
    return int(effort)


# === Items of one shape ===


def lagrangian(model: StaticModel, latents: Int32, curvature: Float64) -> float:
    """Price of a unit of error, in bits, of a codec that rounds.

    Latents, int32 [N, *latent_shape], are those of calibration images; curvature is as of `BatchRefiner`.
    """
    _, table = model.tables_of(latents)
    spent = model.tables.ideal_bits(model.flat(latents).astype(np.int32), table).mean(axis=0)
    mean = float((spent * curvature.ravel()).sum() / max(spent.sum(), 1e-9))
    return 6 / (np.log(2) * max(mean, 1e-9))


@dataclass(frozen=True)
class BatchRefiner:
    """Better integers for items of one shape.

    Attributes:
        model: the tables.
        slope: error and gradient through the decoder.
        curvature: float32 [*latent_shape], squared error of a squared step at each position.
        lagrangian: price of a unit of error, in bits.
    """

    model: StaticModel
    slope: Slope
    curvature: Float32
    lagrangian: float

    def refine(self, images: Images, latents: Int32, effort: int) -> Int32:
        """Integers of no higher cost for any image, after at most ``effort`` looks through the decoder.

        Images are uint8 [N, H, W, C]; latents, before and after, int32 [N, *latent_shape] inside the tables' supports.
        """
        starts = range(0, len(images), BATCH)
        bar = progress(starts, "refine", unit="batch")
        parts = [self._refined(images[i : i + BATCH], latents[i : i + BATCH], effort) for i in bar]
        return np.concatenate([latents[:0], *parts])

    def _refined(self, images: Images, latents: Int32, effort: int) -> Int32:
        best = self.model.flat(latents).astype(np.int32)
        cost, gain, step = self._look(images, best)
        limit = np.full(len(best), -(-best.shape[1] // FIRST_SHARE))
        for _ in range(effort):
            # The steps of the largest promised gain.
            rank = gain.argsort(axis=1)[:, ::-1].argsort(axis=1)
            moves = np.where((gain > 0) & (rank < limit[:, None]), step, 0)
            limit[~moves.any(axis=1)] = 0
            tried = np.flatnonzero(limit)
            if not tried.size:
                break
            trial = best[tried] + moves[tried]
            looked = self._look(images[tried], trial)
            better = looked[0] < cost[tried]
            at = tried[better]
            best[at], (cost[at], gain[at], step[at]) = trial[better], (part[better] for part in looked)
            limit[tried[~better]] //= 3
        return best.reshape(latents.shape)

    def _look(self, images: Images, flat: Int32) -> tuple[Float64, Float64, Int32]:
        """The cost of each image, float64 [N]; the gain of the better step at each position, and that step, 1 or -1."""
        latents = flat.reshape(-1, *self.model.latent_shape)
        error, gradient = self.slope(images, latents)
        selectors, table = self.model.tables_of(latents)
        bits = self.model.tables.ideal_bits(flat, table)
        rise, curvature = gradient.reshape(flat.shape).astype(np.float64), self.curvature.ravel().astype(np.float64)
        gains = []
        for step in (1, -1):
            moved = self.model.tables.clip(flat + step, table)
            saved = bits - self.model.tables.ideal_bits(moved, table)
            gains.append(np.where(moved == flat, -np.inf, saved - self.lagrangian * (step * rise + curvature)))
        up = gains[0] > gains[1]
        cost = selectors + bits.sum(axis=1) + self.lagrangian * error
        return cost, np.where(up, *gains), np.where(up, 1, -1).astype(np.int32)


# === Items of any size ===


def refine_tile(
    choose: Callable[[Float32], tuple[Int32, float]],
    slope: Callable[[Int32], tuple[float, Float32]],
    latent: Float32,
    curvature: Float32,
    lagrangian: float,
    effort: int,
) -> Int32:
    """Better integers for one tile.

    Args:
        choose: from a target in steps, float32 [h, w, C], to integers that weigh bits against the distance from it,
            and their bits.
        slope: from integers to the squared error of the tile's window, and its gradient by them, float32 [h, w, C].
        latent: float32 [h, w, C], in steps: the first target.
        curvature: float32 [C], squared error of a squared step.
        lagrangian: price of a unit of error, in bits.
        effort: largest number of looks through the decoder.

    Returns:
        int32 [h, w, C], of no higher cost than what ``choose`` makes of the latent.
    """
    best, bits = choose(latent)
    error, gradient = slope(best)
    cost, distance = bits + lagrangian * error, 1.0
    for _ in range(effort):
        pull = np.float32(distance) * gradient / np.maximum(2 * curvature, np.float32(1e-30))
        target = (best - pull).astype(np.float32)
        trial, bits = choose(target)
        error, trial_gradient = slope(trial)
        if bits + lagrangian * error < cost:
            best, gradient, cost = trial, trial_gradient, bits + lagrangian * error
        else:
            distance /= 2
            if distance < LEAST_DISTANCE:
                break
    return best
