"""From a trained `ContextPrior` to the integers of a `ContextModel`: weights rounded, tables counted, contexts refined.

The weights of the contexts are rounded to 1/1024 of a step, and held within what every processor adds up exactly::

    |weight| <= MAX_WEIGHT,       sum of |weights| * LARGEST + |base| < MAX_SUM         for each channel

so that whatever was trained becomes a valid model. Tables are counted on the calibration latents, as the encoder would
choose their integers; the choice depends on the tables, so that they are counted twice. A table that saw little is
close to a Laplace density. In between, the contexts of each quality are trained further, on those integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables, Int32, allot
from tfcomp.entropy import tiles
from tfcomp.entropy.blas import one_blas_thread
from tfcomp.entropy.context import MAX_SUM, MAX_WEIGHT, UNIT, ContextModel
from tfcomp.entropy.neighbours import LARGEST
from tfcomp.entropy.pass_tables import OVERFLOW
from tfcomp.errors import InputError
from tfcomp.freezing.steps import Float32, Float64
from tfcomp.layout import Layout
from tfcomp.models.context_prior import ContextPrior, laplace_nats
from tfcomp.progress import progress

# fmt: off
THRESHOLDS = np.array([
    64, 80, 96, 128, 160, 192, 248, 304, 384, 480, 600, 744, 928, 1168, 1456, 1816, 2272, 2840, 3552, 4440, 5552, 6936,
    8672, 10840, 13552, 16944, 21176, 26472, 33088, 41360, 51696,
], np.int32)
# fmt: on
"""Thresholds between the levels, in units: from 1/16 to 50 steps, each about 1.25 times the last."""
LEVELS = THRESHOLDS.size + 1
PARTS_LOG2 = 2
OVERFLOW_TABLES = 4
ALWAYS_CODED_GROUPS, LEVELS_NOT_CODED = 3, 3
"""Number of first groups that are always coded, and of lowest levels at which other kinds are taken as expected."""
MAX_REACH = 40
MAX_BASE = 1 << 20
"""Largest expected magnitude where all neighbours are zero: a thousand steps, far beyond the last threshold."""
ROUNDS = 2
PSEUDO_COUNT = 30.0
TURNS, BATCH, SIDE, LEARNING_RATE = 200, 2, 64, 3e-3
"""Steps of training the contexts of a quality further, crops in each, and largest side of a crop in positions."""


@dataclass(frozen=True)
class ContextFitter:
    """Fits the entropy model of each quality to calibration latents.

    Attributes:
        prior: trained; it is not changed.
        latents: float32 [h, w, C], the encoder network's outputs, one for each image.
        precision: bits of the tables' frequencies, 8 or more.
    """

    prior: ContextPrior
    latents: Sequence[Float32]
    precision: int

    def model(self, quality: int, step: Float32, error_weight: Float32, multiple: float = 1.0) -> ContextModel:
        """The entropy model of one quality.

        Args:
            quality: from 0.
            step: float32 [C], the quantization steps, in the encoder network's unit.
            error_weight: float32 [C], bits that one squared step of error is worth.
            multiple: ratio of the steps to those that the prior was trained with.
        """
        first = self.quick_model(quality, step, error_weight, multiple)
        chosen = self.integers(first, step, error_weight)
        contexts = refined(self.prior, step, quality, chosen)
        return self._counted(self.rounded(contexts, quality, step, multiple), step, error_weight)

    def quick_model(self, quality: int, step: Float32, error_weight: Float32, multiple: float = 1.0) -> ContextModel:
        """`model` without refined contexts."""
        return self._counted(self.rounded(self.prior, quality, step, multiple), step, error_weight)

    def integers(self, model: ContextModel, step: Float32, error_weight: Float32) -> list[Int32]:
        """The integers that the encoder chooses for each image, int32 [h, w, C]."""
        with one_blas_thread():
            return [tiles.choose(model, latent / step, error_weight)[1] for latent in self.latents]

    def rounded(self, prior: ContextPrior, quality: int, step: Float32, multiple: float = 1.0) -> ContextModel:
        """The contexts of a quality as integers, with tables of Laplace densities; arguments as `model`.

        Raises:
            InputError: if a weight is not finite.
        """
        base = np.exp(np.minimum(10 * np.asarray(prior.base, np.float64)[quality], 30)) / multiple
        scales, means = _weights(prior, step, squared=True), _weights(prior, step, squared=False)
        if not all(np.all(np.isfinite(values)) for values in (base, *scales, *means)):
            raise InputError("expected finite contexts, found NaN or infinity: the model's training diverged")
        kinds = np.unique(prior.kinds, return_inverse=True)[1].astype(np.int32)
        not_coded = _not_coded(kinds, prior.layout)
        reaches = _reaches(not_coded)
        return ContextModel(
            layout=prior.layout,
            kinds=kinds,
            thresholds=THRESHOLDS,
            not_coded=not_coded,
            reaches=reaches,
            parts_log2=PARTS_LOG2,
            overflow_tables=OVERFLOW_TABLES,
            base=np.rint(np.minimum(UNIT * base, MAX_BASE)).astype(np.int32),
            scales=tuple(_bounded(values) for values in scales),
            means=tuple(_bounded(values) for values in means),
            tables=_tables(self._unseen(reaches), reaches, self.precision),
        )

    def _counted(self, model: ContextModel, step: Float32, error_weight: Float32) -> ContextModel:
        """The model with tables counted on the latents; tables that saw little are close to Laplace densities."""
        priors, unseen = list(densities(model.reaches)), self._unseen(model.reaches)
        for _ in range(ROUNDS):
            totals = np.zeros(model.tables.frequencies.size)
            with one_blas_thread():
                for latent in self.latents:
                    for positions in tiles.choose(model, latent / step, error_weight)[0]:
                        totals += np.bincount(positions, minlength=totals.size)
            counts = np.split(totals, model.tables.first[1:])
            frequencies = [
                allot(n + PSEUDO_COUNT * prior, self.precision) if n.any() else without
                for n, prior, without in zip(counts, priors, unseen, strict=True)
            ]
            model = replace(model, tables=_tables(frequencies, model.reaches, self.precision))
        return model

    def _unseen(self, reaches: Int32) -> list[Int32]:
        """The frequencies of each table before it saw anything."""
        return _laplace_frequencies(tuple(reaches.tolist()), self.precision)


def _tables(frequencies: Sequence[Int32], reaches: Int32, precision: int) -> FrequencyTables:
    """The tables of residuals and overflow, as a `ContextModel` has them."""
    lower = np.append(-reaches, np.zeros(len(frequencies) - reaches.size, np.int32))
    sizes = np.array([part.size for part in frequencies], np.int32)
    return FrequencyTables(precision, lower, sizes, np.concatenate(frequencies))


# === Integers ===


def _weights(prior: ContextPrior, step: Float32, squared: bool) -> list[Float64]:
    """Weights of scales (the squares of their roots) or means, in units: those of `Layout.kernel_shapes`."""
    if not prior.layout.contextual:
        return []
    first, weights = prior.layout.groups[0], []
    for part, (kernel, mask) in enumerate(zip(prior.scale_roots if squared else prior.means, prior.masks, strict=True)):
        inputs = step[:first] if part == 0 else step
        outputs = np.tile(inputs.astype(np.float64), kernel.shape[-1] // inputs.size)
        values = np.asarray(kernel, np.float64) * mask
        weights.append(UNIT * (np.square(values) if squared else values) * inputs[:, None] / outputs)
    return weights


def _bounded(weights: Float64) -> Float32:
    """Whole weights [rows, columns, inputs, outputs] within the limits of the module's docstring."""
    whole = np.clip(np.rint(weights), -MAX_WEIGHT, MAX_WEIGHT)
    most = (MAX_SUM - 1 - MAX_BASE) // LARGEST
    total = np.abs(whole).sum(axis=(0, 1, 2))
    # Towards zero, so that no sum is above the limit.
    return np.trunc(whole * np.where(total > most, most / np.maximum(total, 1), 1.0)).astype(np.float32)


def _not_coded(kinds: Int32, layout: Layout) -> Int32:
    """int32 [kinds]: how many of the lowest levels are not coded."""
    low = kinds[: sum(layout.groups[:ALWAYS_CODED_GROUPS])]
    always = np.isin(np.arange(kinds.max() + 1), low)
    return np.where(always, 0, LEVELS_NOT_CODED).astype(np.int32)


def _reaches(not_coded: Int32) -> Int32:
    """int32 [kinds * levels * parts]: ``K`` of each table, rising with the level."""
    level = np.arange(LEVELS)
    scale = THRESHOLDS[np.minimum(level, LEVELS - 2)] / UNIT
    reach = np.clip(np.ceil(4 * scale) + 2, 3, MAX_REACH)
    of_kinds = np.where(level >= not_coded[:, None], reach, 0)
    return np.repeat(of_kinds.ravel(), 1 << PARTS_LOG2).astype(np.int32)


def densities(reaches: Int32) -> Iterator[Float64]:
    """For each table, a Laplace density with its level's scale and its part's centre; then the overflow tables."""
    edges = np.concatenate([[THRESHOLDS[0] / 2], THRESHOLDS, [THRESHOLDS[-1] * 2]]) / UNIT
    parts = 1 << PARTS_LOG2
    for i, reach in enumerate(reaches):
        level, part = i // parts % LEVELS, i % parts
        scale, centre = np.sqrt(edges[level] * edges[level + 1]), (part + 0.5) / (2 * parts)
        bounds = np.arange(-reach, reach + 2) - 0.5 - centre
        bounds[0], bounds[-1] = -np.inf, np.inf
        tail = 0.5 * np.exp(-np.abs(bounds) / scale)
        yield np.maximum(np.diff(np.where(bounds < 0, tail, 1 - tail)), 1e-9)
    for i in range(OVERFLOW_TABLES):
        yield 0.5 ** (np.arange(OVERFLOW + 1) / 4.0 / 2**i) + 1e-4


@lru_cache(maxsize=4)
def _laplace_frequencies(reaches: tuple[int, ...], precision: int) -> list[Int32]:
    """The frequencies of `densities`, which all qualities share."""
    return [allot(density, precision) for density in densities(np.array(reaches, np.int32))]


# === Training further ===


def refined(prior: ContextPrior, step: Float32, quality: int, latents: Sequence[Int32]) -> ContextPrior:
    """The contexts trained further for one quality alone; ``prior`` itself if that training diverges.

    Args:
        prior: trained.
        step: float32 [C].
        quality: from 0.
        latents: int32 [h, w, C], the integers that the encoder chose.
    """
    if not prior.layout.contextual:
        return prior
    trained = type(prior).from_config(prior.get_config())
    trained.build()
    trained.set_weights(prior.get_weights())
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, TURNS))
    optimizer.build(trained.trainable_variables)
    steps, chosen = tf.constant(step[None, None, None]), tf.one_hot([quality], prior.qualities)

    @tf.function(autograph=False)
    def turn(latent: Any) -> None:
        with tf.GradientTape() as tape:
            mean, scale = trained(latent, steps, chosen)
            nats = tf.reduce_mean(laplace_nats(latent - mean, scale))
        gradients = tape.gradient(nats, trained.trainable_variables)
        optimizer.apply_gradients(zip(gradients, trained.trainable_variables, strict=True))

    crops = _Crops(prior, latents, quality)
    for _ in progress(range(TURNS), f"contexts {quality + 1}"):
        turn(tf.constant(crops.draw(), tf.float32))
    return trained if all(np.all(np.isfinite(weight)) for weight in trained.get_weights()) else prior


class _Crops:
    """Batches of crops of one size, from where the pattern of the phases begins anew."""

    def __init__(self, prior: ContextPrior, latents: Sequence[Int32], seed: int) -> None:
        sides = [min(latent.shape[:2]) for latent in latents]
        # As large as half of the images are.
        self.side = min(SIDE, int(np.median(sides)))
        self.latents = [latent for latent, side in zip(latents, sides, strict=True) if side >= self.side]
        self.period = int(np.lcm(len(prior.layout.first), len(prior.layout.others)))
        self.rng = np.random.default_rng(seed)

    def draw(self) -> NDArray[np.int32]:
        """int32 [BATCH, side, side, C]."""
        crops = []
        for i in self.rng.integers(len(self.latents), size=BATCH):
            latent = self.latents[i]
            y, x = (self.period * self.rng.integers((n - self.side) // self.period + 1) for n in latent.shape[:2])
            crops.append(latent[y : y + self.side, x : x + self.side])
        return np.stack(crops)
