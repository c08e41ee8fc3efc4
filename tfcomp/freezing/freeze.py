"""Freezing: from a trained model to the parts of a codec. Quantization steps and tables are fitted here.

They are fitted to calibration images (`calibration`), in one of two ways:

- Items of one shape (`one_shape`): a static table for each channel of the latent, or for each of its positions.
- Items of any size (`free_size`): where the model has a `ContextPrior`, tables that contexts choose; else a static
  table for each channel.

Steps. A model trained for rate has its own, the width 1 of its training noise. Any other latent gets them from the
decoder, or by a target; see `steps`.

Qualities. Several steps, or a model trained for several prices, make a codec of as many qualities, each with tables of
its own. The unit of the transform's latent is the step of the highest.

Mean or sample. By default the latent is the posterior's mean, in steps chosen as above. ``latents="sample"`` codes a
sample of the posterior that the model was trained with, at the price of its rate, in one of two ways:

- Where the decoder knows the posterior's deviation, as with ``scale="shared"`` and an autoencoder's noise, by dither
  (`models.sampling`): exact; steps and offsets are drawn from a seed, and every position of the latent has a table of
  its own, for its own step and offset.
- Where the encoder gives the deviation, by candidates (`entropy.sample`, `posterior_blocks`): exact but for a bias that
  a margin makes small; each block of the latent has a table of how long its index is.

Take the mean for the best picture at a given number of bytes: rounding adds less noise than the posterior, and the
steps are yours to choose. Take the sample where the decoder is to see what it saw in training, noise and all: for
measurements of the rate that the objective promises, for reconstructions spread as the model believes, and as the
building block of schemes that need an error independent of the image. ``docs/explanation/sampling.md`` has what each
costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcomp.coding.tables import MAX_PRECISION
from tfcomp.errors import InputError
from tfcomp.freezing import calibration as sources
from tfcomp.freezing.free_size import FreeSize
from tfcomp.freezing.one_shape import OneShape
from tfcomp.freezing.steps import Trials, default, for_bytes, for_psnr_db
from tfcomp.models.latent_model import LatentModel
from tfcomp.parts import Parts


def freeze(
    model: LatentModel,
    calibration: Any,
    *,
    step: float | Sequence[float] | None = None,
    target_psnr_db: float | None = None,
    target_bytes: float | None = None,
    precision: int = 12,
    sets: int = 1,
    latents: str = "mean",
    seed: int = 0,
) -> Parts:
    """The parts of a codec of a trained model; arguments and errors are those of `tfcomp.Codec.freeze`."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"expected Keras on TensorFlow to freeze and export, found {keras.backend.backend()}; load the trained "
            "model in a process with KERAS_BACKEND=tensorflow"
        )
    if not isinstance(model, LatentModel):
        raise InputError(f"expected an AutoEncoder or a VAE to freeze, found {type(model).__name__}")
    for name, number in (("target_psnr_db", target_psnr_db), ("target_bytes", target_bytes)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise InputError(f"expected {name} as a number, found {number!r}")
    for name, whole in (("precision", precision), ("sets", sets), ("seed", seed)):
        if isinstance(whole, bool) or not isinstance(whole, int | np.integer):
            raise InputError(f"expected {name} as a whole number, found {whole!r}")
    if seed and latents != "sample":
        raise InputError(f"expected a seed with latents='sample' alone, found {seed} for the {latents}")
    options = _Options(_listed(step), target_psnr_db, target_bytes, precision, sets, latents)
    options.check(model)
    trained = model.steps is not None
    if model.grid is not None:
        free = FreeSize(model, sources.of_any_size(model.item, model.grid, calibration), precision)
        return free.as_trained() if model.qualities > 1 else free.at_steps(options.chosen_steps(free, trained))
    one = OneShape(model, sources.of_one_shape(model.item, calibration), precision, sets)
    if latents == "sample":
        return one.of_sample(seed)
    return one.as_trained() if model.qualities > 1 else one.at_steps(options.chosen_steps(one, trained))


@dataclass(frozen=True)
class _Options:
    """The options of `freeze`, of which some exclude others."""

    steps: tuple[float, ...] | None
    target_psnr_db: float | None
    target_bytes: float | None
    precision: int
    sets: int
    latents: str

    def check(self, model: LatentModel) -> None:
        """Raises `InputError` unless the options go together, and with the model."""
        choices = [self.steps, self.target_psnr_db, self.target_bytes]
        chosen = sum(choice is not None for choice in choices)
        if self.latents not in ("mean", "sample"):
            raise InputError(f"expected latents to be 'mean' or 'sample', found {self.latents!r}")
        if self.latents == "sample" and chosen:
            raise InputError("expected no step and no target with latents='sample', which fixes the steps, found one")
        if chosen > 1:
            raise InputError(f"expected at most one of step, target_psnr_db and target_bytes, found {chosen}")
        if self.steps is not None and not all(math.isfinite(step) and step > 0 for step in self.steps):
            raise InputError(f"expected a positive step, found {_shown(self.steps)}")
        if self.steps is not None and (not self.steps or [*self.steps] != sorted(set(self.steps), reverse=True)):
            raise InputError(f"expected one step or several from the largest to the smallest, found {self.steps}")
        if model.qualities > 1 and (chosen or self.sets > 1 or self.latents == "sample"):
            raise InputError(
                f"expected no step, target, sets or latents for a model of {model.qualities} qualities: "
                "each has the steps that it was trained with"
            )
        several = self.steps is not None and len(self.steps) > 1
        if several and model.takes_quality:
            raise InputError(f"expected one step for a model whose decoder takes the quality, found {self.steps}")
        if several and self.sets > 1:
            raise InputError(f"expected 1 set of tables for several steps, found {self.sets}")
        fewest = 8 if model.grid is not None else 1  # an overflow table has 256 values
        if not fewest <= self.precision <= MAX_PRECISION:
            raise InputError(f"expected a precision of {fewest} to {MAX_PRECISION} bits, found {self.precision}")
        if not 1 <= self.sets <= 1 << self.precision or (self.sets > 1 and self.latents == "sample"):
            most = 1 << self.precision
            raise InputError(
                f"expected 1 set of tables, or for the mean up to {most}, found {self.sets} for the {self.latents}"
            )
        if model.grid is not None and (self.sets > 1 or self.latents == "sample"):
            raise InputError(
                f"expected 1 set of tables and latents='mean' for items of any size, found {self.sets} for the "
                f"{self.latents}"
            )

    def chosen_steps(self, trials: Trials, trained: bool) -> tuple[float, ...]:
        """The step of each quality, as multiples of the units."""
        if self.target_bytes is not None:
            return (for_bytes(trials, self.target_bytes),)
        if self.target_psnr_db is not None:
            return (for_psnr_db(trials, self.target_psnr_db),)
        if self.steps is not None:
            return self.steps
        return (1.0 if trained else default(trials),)


def _listed(step: float | Sequence[float] | None) -> tuple[float, ...] | None:
    try:
        return None if step is None else tuple(float(s) for s in np.atleast_1d(step))
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a step as a number, or several, found {step!r}") from error


def _shown(steps: tuple[float, ...]) -> str:
    return f"{steps[0]:g}" if len(steps) == 1 else f"{steps}"
