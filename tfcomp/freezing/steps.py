"""Quantization steps: the unit of each channel of a latent, and the search for the multiple of it that meets a target.

A model trained for rate already has its unit, the width of its training noise. Any other latent gets its unit from the
decoder: the distance by which one latent must move for the reconstruction to move by 1,

    unit_c = 1 / sqrt(g_c),      g_c = mean over examples of sum_pixels (d pixel / d latent_c)^2

because, for small steps, distortion is ``sum_c g_c * step_c^2 / 12`` and a rate of ``-log2(step_c)`` bits per latent is
best spent when all ``g_c * step_c^2`` are equal (reverse water-filling; Cover and Thomas, section 10.3). A dimension
that the decoder ignores, such as a collapsed one of a VAE, gets so wide a step that it always rounds to 0, at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.errors import InputError

DEFAULT_LOSS_DB = 0.5
"""Loss of PSNR by quantization where no step is named: 12 % more squared error."""
COARSEST, FINEST = 2.0**16, 2.0**-16
"""Bounds of the search, in units."""
TOLERANCE = 1.001
"""Ratio of two steps, one too fine and one too coarse, between which the search ends."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Rounding:
    """The rounding of the latent at one quality: integer ``q`` of a channel stands for ``q * step + offset``.

    Examples:
        >>> Rounding(np.float32([0.5, 2]), np.float32([0, 1])).integers(np.float32([[1.1, 4.6]])).tolist()
        [[2, 2]]

    Attributes:
        step, offset: float32 [C], in the encoder network's unit.
    """

    step: Float32
    offset: Float32

    def times(self, multiple: float) -> Rounding:
        """The rounding with steps ``multiple`` times as wide."""
        return Rounding(self.step * np.float32(multiple), self.offset)

    def integers(self, latents: Float32) -> Int32:
        """int32 [..., C]: the nearest integers of latents, float32 [..., C]."""
        return quantize(latents, self.step, self.offset)


def trained(steps: Float32 | None) -> list[Rounding]:
    """The rounding of each quality at a model's trained steps, float32 [qualities, C]; none where they are open."""
    return [] if steps is None else [Rounding(step, np.zeros_like(step)) for step in steps]


def quantize(latents: Float32, step: Any, offset: Any) -> Int32:
    """int32, the latents' shape: the nearest integer ``q`` such that ``q * step + offset`` is the latent."""
    return np.clip(np.rint((latents - offset) / step), -(2**30), 2**30).astype(np.int32)


def measured(latents: Float32, energy: Float64) -> Rounding:
    """The unit of each channel as step, and the median as offset; see the module's docstring.

    Args:
        latents: float32 [n, C].
        energy: float64 [C], the squared error that one squared unit of the latent makes.
    """
    # A million deviations round to zero as surely as infinity would, and stay finite in float32.
    widest = 1e6 * np.maximum(latents.std(axis=0), 1e-6)
    unit = np.minimum(1 / np.sqrt(np.maximum(energy, 1e-30)), widest)
    return Rounding(unit.astype(np.float32), np.median(latents, axis=0).astype(np.float32))


# === Targets ===


class Trials(Protocol):
    """Measures of the calibration images at each step; they fall as the step grows.

    A search measures often, and may use models that are quick to fit. Where the codec at a step has other models, the
    ``final`` measures use those; elsewhere they are None.
    """

    def unquantized_psnr_db(self) -> float:
        """PSNR of the calibration images through the networks alone, rounded to 8 bits."""
        ...

    def psnr_db(self, step: float) -> float:
        """PSNR of the calibration images at this multiple of the units."""
        ...

    def mean_bytes(self, step: float) -> float:
        """Mean length of the calibration images' payloads at this multiple of the units."""
        ...

    def final_psnr_db(self, step: float) -> float | None:
        """`psnr_db` with the codec's own models."""
        ...

    def final_mean_bytes(self, step: float) -> float | None:
        """`mean_bytes` with the codec's own models."""
        ...


def default(trials: Trials) -> float:
    """The step that costs `DEFAULT_LOSS_DB` against no quantization."""
    target = trials.unquantized_psnr_db() - DEFAULT_LOSS_DB
    # A model that has learned nothing loses less than that, whatever its step.
    return COARSEST if trials.psnr_db(COARSEST) >= target else solve(trials.psnr_db, target, "target_psnr_db")


def for_psnr_db(trials: Trials, target: float) -> float:
    """The step at which the calibration images have a PSNR of ``target`` dB."""
    limit = trials.unquantized_psnr_db()
    step = solve(trials.psnr_db, target, "target_psnr_db", limit)
    final = trials.final_psnr_db(step)
    if final is None:
        return step
    return solve(trials.psnr_db, min(2 * target - final, (target + limit) / 2), "target_psnr_db", limit)


def for_bytes(trials: Trials, target: float) -> float:
    """The step at which the calibration images' payloads have a mean length of ``target`` bytes."""
    step = solve(trials.mean_bytes, target, "target_bytes")
    final = trials.final_mean_bytes(step)
    return step if final is None else solve(trials.mean_bytes, target * target / final, "target_bytes")


def solve(measure: Callable[[float], float], target: float, name: str, limit: float = math.inf) -> float:
    """The step at which a measure that falls as the step grows equals a target.

    Raises:
        InputError: if no step reaches the target, or it is not between 0 and the limit.
    """
    if not (math.isfinite(target) and 0 < target < limit):
        raise InputError(
            f"expected {name} between 0 and {limit:.4g}, the model's own without quantization, found {target}"
        )
    finest = coarsest = 1.0
    while (reached := measure(finest)) < target:
        finest /= 2
        if finest < FINEST:
            raise InputError(f"expected {name} within reach, found {target}; the finest steps give {reached:.4g}")
    while (reached := measure(coarsest)) >= target:
        coarsest *= 2
        if coarsest > COARSEST:
            raise InputError(f"expected {name} within reach, found {target}; the coarsest steps give {reached:.4g}")
    while coarsest / finest > TOLERANCE:
        middle = math.sqrt(finest * coarsest)
        finest, coarsest = (middle, coarsest) if measure(middle) >= target else (finest, middle)
    return finest
