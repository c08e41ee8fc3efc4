"""Freezing: from a trained model to a codec. Quantization steps and tables are fitted here, on calibration images.

Steps. A model trained for rate already has its unit: the width 1 of its training noise. Any other latent gets its unit
from the decoder: the distance by which one latent must move for the reconstruction to move by 1,

    unit_c = 1 / sqrt(g_c),      g_c = mean over examples of sum_pixels (d pixel / d latent_c)^2

because, for small steps, distortion is ``sum_c g_c * step_c^2 / 12`` and a rate of ``-log2(step_c)`` bits per latent is
best spent when all ``g_c * step_c^2`` are equal (reverse water-filling; Cover and Thomas, section 10.3). A dimension
that the decoder ignores, such as a collapsed one of a VAE, gets so wide a step that it always rounds to 0, at no cost.

Tables. Counts of the calibration latents, plus ``PSEUDO_COUNT`` drawn from a smooth density (the model's prior, or a
logistic fitted to the mean and deviation), so that few calibration images suffice and none is trusted too far. The
support is what calibration saw and ``MARGIN`` values more on each side; a channel with one value has no margin.
``sets=M`` fits ``M`` such sets of tables, of which each message takes the one that suits it (see `table_sets`).

Qualities. Several steps, or a model trained for several rates, make a codec of as many qualities, each with tables of
its own; their steps and offsets are rounded to 1/256 of the finest (see `qualities`).

Mean or sample. By default the latent is the posterior's mean, in steps chosen as above. ``latents="sample"`` codes an
exact sample of the posterior the model was trained with, at the price of its rate (see `sampling`): steps and offsets
are drawn from a seed, and every position of the latent has a table of its own, for its own step and offset. Take the
mean for the best picture at a given number of bytes: rounding adds less noise than the posterior, and the steps are
yours to choose. Take the sample where the decoder is to see what it saw in training, noise and all: for measurements
of the rate that the objective promises, for reconstructions spread as the model believes, and as the building block of
schemes that need an error independent of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tfcomp.codec import Codec, EntropyModel, Images
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.data.datasets import as_images
from tfcomp.entropy.qualities import FINE_STEPS, MOST_STEPS, VariableRateCodec, coarse
from tfcomp.errors import InputError
from tfcomp.freezing import table_sets
from tfcomp.models.latent_model import LatentModel, Quantizer
from tfcomp.runtimes.keras_networks import KerasNetworks, frozen, sensitivity

PSEUDO_COUNT = 32.0
MARGIN = 1
# Half a decibel below the unquantized model: quantization adds 12 % to the squared error.
DEFAULT_LOSS_DB = 0.5
COARSEST = 2.0**16
BATCH = 256
# A table of a sample's position is fitted to this many latents of its channel.
LATENTS_PER_TABLE = 1 << 16
# Bisection looks at this many calibration images; the tables see all of them.
SEARCH_IMAGES = 1000
SENSITIVITY_IMAGES = 512
# This many go on with the codec: its export quantizes the networks to 8 bits by them, and measures itself on them.
KEPT_IMAGES = 500

Float32 = NDArray[np.float32]
Table = tuple[int, NDArray[np.float64]]
"""The smallest value and the probabilities of one table."""


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
) -> Codec:
    """Turn a trained model into a codec.

    Args:
        model: an `AutoEncoder`, a `VAE` or a `VariableRateAutoEncoder`.
        calibration: uint8 images like those to be compressed (an array, or a data set, batched or not). Use training
            images: steps and tables are fitted to them.
        step: multiple of each latent's unit (see the module's docstring). Default: 1 for a model trained with
            ``beta > 0`` as an `AutoEncoder`; otherwise what costs 0.5 dB against no quantization. Several, from the
            largest to the smallest, make a codec of as many qualities. A model trained for several has its own.
        target_psnr_db: choose ``step`` so that the calibration images have this PSNR.
        target_bytes: choose ``step`` so that the mean payload of the calibration images has this many bytes.
        precision: bits of the tables' frequencies, 1 to 14.
        sets: how many sets of tables compete for each message. On MNIST, 64 save 5 to 8 % of the bytes
            (``benchmarks/mnist_rate_distortion.py``); they ask for thousands of calibration images, and their size is
            in every artifact.
        latents: ``"mean"``, or ``"sample"`` for a sample of the posterior, of a VAE with ``scale="shared"`` or an
            `AutoEncoder` with ``beta > 0``; the posterior then fixes the steps. When to take which: see the module.
        seed: of the sample's shared randomness, 0 to 2**32 - 1. A codec holds one draw of it, the same for all images.

    Returns:
        A codec that runs on the Keras networks of ``model``, a `VariableRateCodec` where it has several qualities.

    Raises:
        InputError: on two of ``step`` and the targets at once, a target out of reach, too few or wrong images, latents
            that are not finite, or a model without a posterior that can be sampled.
    """
    if latents not in ("mean", "sample"):
        raise InputError(f"expected latents to be 'mean' or 'sample', found {latents!r}")
    if latents == "sample" and any(option is not None for option in (step, target_psnr_db, target_bytes)):
        raise InputError("expected no step and no target with latents='sample': the posterior fixes the steps")
    if sum(option is not None for option in (step, target_psnr_db, target_bytes)) > 1:
        raise InputError("expected at most one of step, target_psnr_db and target_bytes")
    steps = [float(s) for s in np.atleast_1d([] if step is None else step)]
    if not all(math.isfinite(s) and s > 0 for s in steps):
        raise InputError(f"expected a positive step, found {step}")
    if steps != sorted(set(steps), reverse=True) or (step is not None and not steps):
        raise InputError(f"expected one step or several from the largest to the smallest, found {step}")
    if len(model.quantizers) > 1 and (steps or target_psnr_db or target_bytes or sets > 1 or latents == "sample"):
        raise InputError(
            f"expected no step, target, sets or latents for a model of {len(model.quantizers)} qualities: "
            "each has the steps that it was trained with"
        )
    if len(steps) > 1 and sets > 1:
        raise InputError(f"expected 1 set of tables for several steps, found {sets}")
    if not 1 <= sets <= 1 << precision or (sets > 1 and latents == "sample"):
        raise InputError(
            f"expected 1 set of tables, or for the mean up to {1 << precision}, found {sets} for the {latents}"
        )
    images = as_images(calibration)
    if len(images) == 0 or images.shape[1:] != model.image_shape:
        raise InputError(f"expected calibration images of shape [N, *{model.image_shape}], N > 0, found {images.shape}")
    fit = _Fit(model, images, precision, sets)
    if latents == "sample":
        return fit.sample_codec(seed)
    if len(model.quantizers) > 1:
        return fit.variable_rate_codec([(quantizer, 1.0) for quantizer in model.quantizers])
    if len(steps) > 1:
        return fit.variable_rate_codec([(fit.quantizer, s) for s in steps])
    if target_bytes is not None:
        chosen = fit.solve_bytes(target_bytes)
    elif target_psnr_db is not None:
        chosen = fit.solve(fit.psnr_db, target_psnr_db, "target_psnr_db", limit=fit.unquantized_psnr_db())
    elif steps:
        (chosen,) = steps
    elif model.quantizers:
        chosen = 1.0
    else:
        target = fit.unquantized_psnr_db() - DEFAULT_LOSS_DB
        # A model that has learned nothing loses less than that whatever is sent.
        chosen = COARSEST if fit.psnr_db(COARSEST) >= target else fit.solve(fit.psnr_db, target, "target_psnr_db")
    return fit.mean_codec(chosen)


class _Fit:
    """Calibration latents of one model, and the codec that each step gives."""

    def __init__(self, model: LatentModel, images: Images, precision: int, sets: int) -> None:
        self.model, self.images, self.precision, self.sets = model, images, precision, sets
        # Copies, so that training the model further does not change a codec that was frozen before.
        self.encoder, self.decoder = frozen(model.latent_network), frozen(model.decoder)
        self.latents = _batched(lambda x: self.encoder(x, training=False), images).astype(np.float32)
        if not np.all(np.isfinite(self.latents)):
            raise InputError("expected finite latents, found NaN or infinity: the model's weights or training diverged")
        self.shape = self.latents.shape[1:]
        self.channels = self.shape[-1]

    @cached_property
    def quantizer(self) -> Quantizer:
        """The unit of each channel's step, and what the integer 0 stands for; see the module's docstring."""
        if self.model.quantizers:
            return self.model.quantizers[-1]
        latents = self.latents.reshape(-1, self.channels)
        # A million deviations round to zero as surely as infinity would, and stay finite in float32.
        widest = 1e6 * np.maximum(latents.std(axis=0), 1e-6)
        some = self.latents[:: max(1, len(self.latents) // SENSITIVITY_IMAGES)][:SENSITIVITY_IMAGES]
        of_channels = sensitivity(self.decoder, some).reshape(-1, self.channels).mean(axis=0)
        unit = np.minimum(1 / np.sqrt(np.maximum(of_channels, 1e-30)), widest)
        return Quantizer(unit.astype(np.float32), np.median(latents, axis=0).astype(np.float32), None)

    def quantize(self, step: float) -> Int32:
        """int32 [N, *latent_shape]: the calibration latents as integers."""
        return quantize(self.latents, self.quantizer.unit * np.float32(step), self.quantizer.offset)

    def entropy_model(self, step: float, sets: int) -> EntropyModel:
        """The mean in steps of ``step`` units: one table for each channel, in each set."""
        steps, offsets = self.quantizer.unit * np.float32(step), self.quantizer.offset
        integers = self.quantize(step)
        tables = self._tables(self.quantizer, integers, steps, offsets)
        if sets > 1:
            tables = self._sets(tables, integers.reshape(len(self.latents), -1), self.channel_of, sets)
        return self._entropy_model(tables, self.channel_of, self._everywhere(steps), self._everywhere(offsets), sets)

    def _tables(self, quantizer: Quantizer, integers: Int32, steps: Float32, offsets: Float32) -> list[Table]:
        """One for each channel, of the integers that the latents became in steps and offsets, float32 [C]."""
        columns = integers.reshape(-1, self.channels).T
        return [self._table(quantizer, c, v, steps[c], offsets[c]) for c, v in enumerate(columns)]

    def _everywhere(self, of_channels: Float32) -> Float32:
        """[C] -> [*latent_shape]."""
        return np.broadcast_to(of_channels, self.shape).copy()

    @property
    def channel_of(self) -> Int32:
        """int32 [symbols]: the channel of each position of the latent, in C order."""
        return np.broadcast_to(np.arange(self.channels, dtype=np.int32), self.shape).ravel()

    @staticmethod
    def _sets(tables: list[Table], integers: Int32, channel_of: Int32, sets: int) -> list[Table]:
        """The tables of all sets and the selector, from those of one; ``integers`` as int32 [N, S]."""
        lower, probabilities = zip(*tables, strict=True)
        sizes = np.array([p.size for p in probabilities], np.int32)
        first = np.cumsum(sizes) - sizes
        positions = integers + (first - np.array(lower))[channel_of].astype(np.int32)
        shared = np.concatenate([p / p.sum() for p in probabilities])
        share, of_sets = table_sets.fit(positions, shared, sizes, sets)
        pieces = [(low, piece) for row in of_sets for low, piece in zip(lower, np.split(row, first[1:]), strict=True)]
        return [*pieces, (0, share)]

    def mean_codec(self, step: float) -> Codec:
        return self._codec(self.entropy_model(step, self.sets))

    def variable_rate_codec(self, qualities: Sequence[tuple[Quantizer, float]]) -> VariableRateCodec:
        """The mean at each quality in steps of so many units of a quantizer; the lowest quality first."""
        steps = np.stack([quantizer.unit * np.float32(step) for quantizer, step in qualities])
        offsets = np.stack([quantizer.offset for quantizer, _ in qualities])
        fine_step = steps.min(axis=0) / np.float32(FINE_STEPS)
        # A step of this bound is wider than the finest quality's table can be: there, all is rounded to one value.
        steps = np.minimum(np.rint(steps / fine_step), np.float32(MOST_STEPS))
        offsets = np.clip(np.rint(offsets / fine_step), -MOST_STEPS, MOST_STEPS)
        fine = quantize(self.latents, fine_step, np.float32(0))
        tables = []
        for (quantizer, _), step, offset in zip(qualities, steps, offsets, strict=True):
            integers = coarse(fine, step.astype(np.int32), offset.astype(np.int32))
            tables += self._tables(quantizer, integers, step * fine_step, offset * fine_step)
        model = self._entropy_model(tables, self.channel_of, self._everywhere(steps[0]), self._everywhere(offsets[0]))
        models = []
        for q, (step, offset) in enumerate(zip(steps, offsets, strict=True)):
            index = self.channel_of + np.int32(q * self.channels)
            models.append(replace(model, index=index, step=self._everywhere(step), offset=self._everywhere(offset)))
        networks = self._networks(self._everywhere(fine_step), np.zeros(self.shape, np.float32))
        return VariableRateCodec(networks, models, self.model.image_shape)

    def sample_codec(self, seed: int) -> Codec:
        """A sample of the posterior: one table for each position, of how its channel's means fall in its own steps."""
        steps, offsets = self.model.draw_noise(seed)
        none = Quantizer(np.ones(self.channels, np.float32), np.zeros(self.channels, np.float32), None)
        (quantizer,) = self.model.quantizers or (none,)
        means = self.latents.reshape(-1, self.channels)
        means = means[:: -(-len(means) // LATENTS_PER_TABLE)]
        tables = [
            self._table(quantizer, i % self.channels, quantize(means[:, i % self.channels], step, offset), step, offset)
            for i, (step, offset) in enumerate(zip(steps.ravel(), offsets.ravel(), strict=True))
        ]
        return self._codec(self._entropy_model(tables, np.arange(len(tables), dtype=np.int32), steps, offsets))

    def _entropy_model(
        self, tables: list[Table], index: Int32, steps: Float32, offsets: Float32, sets: int = 1
    ) -> EntropyModel:
        lower, probabilities = zip(*tables, strict=True)
        frequencies = FrequencyTables.from_probabilities(probabilities, lower, self.precision)
        return EntropyModel(frequencies, index, steps, offsets, sets=sets)

    def _table(self, quantizer: Quantizer, channel: int, values: Int32, step: np.float32, offset: np.float32) -> Table:
        """Smallest value and probabilities of the table that codes integers like ``values``, int32 [N]."""
        low, high = int(values.min()), int(values.max())
        if high > low:
            low, high = low - MARGIN, high + MARGIN
        if high - low >= 1 << self.precision:
            raise InputError(
                f"expected at most {1 << self.precision} quantization values in latent channel {channel}, found "
                f"{high - low + 1}; take a larger step or precision"
            )
        counts = np.bincount(values - low, minlength=high - low + 1).astype(np.float64)
        support = np.arange(low, high + 1)
        if quantizer.prior is not None:
            unit, zero = quantizer.unit[channel], quantizer.offset[channel]
            centres = np.zeros((len(support), self.channels), np.float32)
            centres[:, channel] = (support * step + offset - zero) / unit
            mass = np.exp(np.asarray(quantizer.prior.log_mass(centres, step / unit), np.float64)[:, channel])
        else:
            # A logistic of standard deviation d has scale d * sqrt(3) / pi; 1/12 is the variance of the rounding.
            scale = math.sqrt(3 * (float(values.var()) + 1 / 12)) / math.pi
            edges = (np.arange(low, high + 2) - 0.5 - float(values.mean())) / scale
            mass = np.diff(1 / (1 + np.exp(-np.clip(edges, -500, 500))))
        mass = np.maximum(mass, 1e-12)
        return low, counts + PSEUDO_COUNT * mass / mass.sum()

    def _codec(self, entropy_model: EntropyModel) -> Codec:
        networks = self._networks(entropy_model.step, entropy_model.offset)
        return Codec(networks, entropy_model, self.model.image_shape)

    def _networks(self, steps: Float32, offsets: Float32) -> KerasNetworks:
        kept = self.images[:: -(-len(self.images) // KEPT_IMAGES)]
        return KerasNetworks(self.encoder, self.decoder, steps, offsets, kept)

    # === Choosing the step ===

    def _restored_psnr_db(self, latents: NDArray[Any]) -> float:
        pixels = _batched(lambda z: self.decoder(z, training=False), latents.astype(np.float32))
        error = self.images[: len(latents)] - np.clip(np.rint(pixels * 255.0), 0, 255)
        return float(10 * np.log10(255**2 / max(np.mean(np.square(error, dtype=np.float64)), 1e-10)))

    def unquantized_psnr_db(self) -> float:
        """PSNR of calibration images through the networks alone, rounded to 8 bits."""
        return self._restored_psnr_db(self.latents[:SEARCH_IMAGES])

    def psnr_db(self, step: float) -> float:
        unit, offset, _ = self.quantizer
        return self._restored_psnr_db(self.quantize(step)[:SEARCH_IMAGES] * (unit * np.float32(step)) + offset)

    def mean_bytes(self, step: float, sets: int = 1) -> float:
        payloads = self.entropy_model(step, sets).encode(self.quantize(step)[:SEARCH_IMAGES])
        return sum(map(len, payloads)) / len(payloads)

    def solve_bytes(self, target: float) -> float:
        """The step at which the mean payload has ``target`` bytes."""
        step = self.solve(self.mean_bytes, target, "target_bytes")
        if self.sets == 1:
            return step
        # Sets take seconds to fit, so the search does without them, towards what comes to the target with them.
        return self.solve(self.mean_bytes, target * target / self.mean_bytes(step, self.sets), "target_bytes")

    def solve(self, measure: Callable[[float], float], target: float, name: str, limit: float = math.inf) -> float:
        """The step at which ``measure``, which falls as the step grows, equals ``target``."""
        if not (math.isfinite(target) and 0 < target < limit):
            raise InputError(
                f"expected {name} between 0 and {limit:.4g}, the model's own without quantization, found {target}"
            )
        finest = coarsest = 1.0
        while (reached := measure(finest)) < target:
            finest /= 2
            if finest < 2.0**-16:
                raise InputError(f"expected {name} within reach, found {target}; the finest steps give {reached:.4g}")
        while (reached := measure(coarsest)) >= target:
            coarsest *= 2
            if coarsest > COARSEST:
                raise InputError(f"expected {name} within reach, found {target}; the coarsest steps give {reached:.4g}")
        while coarsest / finest > 1.001:
            middle = math.sqrt(finest * coarsest)
            finest, coarsest = (middle, coarsest) if measure(middle) >= target else (finest, middle)
        return finest


def quantize(latents: Float32, step: Any, offset: Any) -> Int32:
    """int32, the latents' shape: the nearest integer ``q`` such that ``q * step + offset`` is the latent."""
    return np.clip(np.rint((latents - offset) / step), -(2**30), 2**30).astype(np.int32)


def _batched(network: Callable[[NDArray[Any]], Any], items: NDArray[Any]) -> NDArray[Any]:
    bar = tqdm(range(0, len(items), BATCH), desc="calibrate", unit="batch", delay=1.0, leave=False, disable=None)
    return np.concatenate([keras.ops.convert_to_numpy(network(items[i : i + BATCH])) for i in bar])
