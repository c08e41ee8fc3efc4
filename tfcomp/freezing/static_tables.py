"""Static tables of latents of one shape: a table for each channel or, for samples, for each position.

A table has the counts of the calibration latents, plus ``PSEUDO_COUNT`` drawn from a smooth density (the model's prior,
or a logistic fitted to the mean and deviation), so that few calibration images suffice and none is trusted too far. Its
support is what calibration saw and ``MARGIN`` values more on each side; a channel with one value has no margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import InputError
from tfcomp.freezing import table_sets
from tfcomp.freezing.steps import Float32, Float64, Rounding, quantize
from tfcomp.models.priors import FactorizedPrior

PSEUDO_COUNT = 32.0
MARGIN = 1
LATENTS_PER_TABLE = 1 << 16
"""Largest number of a channel's latents that the table of a sample's position is fitted to."""

Table = tuple[int, Float64]
"""The smallest value of a table, and the weight of each value."""
Mass = Callable[[int, Float64, np.float32], Float64]
"""The trained prior of a quality: channel, centres of intervals [n] and their width -> probabilities [n]."""


@dataclass(frozen=True)
class TableFitter:
    """Fits tables to the calibration latents of one shape.

    Attributes:
        latents: float32 [N, *latent_shape], what the encoder network gives.
        precision: bits of the tables' frequencies.
    """

    latents: Float32
    precision: int

    def models(self, roundings: Sequence[Rounding], priors: Sequence[Mass | None]) -> list[StaticModel]:
        """The entropy model of each quality, a table for each channel; all of them hold the same tables.

        Args:
            roundings: of each quality.
            priors: of each quality; a logistic takes the place of None.
        """
        tables: list[Table] = []
        for rounding, prior in zip(roundings, priors, strict=True):
            tables += self._of_channels(rounding, prior)
        frequencies, channels = self._frequencies(tables), np.int32(self._channels)
        return [
            StaticModel(frequencies, self._channel_of + np.int32(q) * channels, self._latent_shape)
            for q in range(len(roundings))
        ]

    def model_of_sets(self, rounding: Rounding, prior: Mass | None, sets: int) -> StaticModel:
        """The entropy model of one quality, with several sets of a table for each channel."""
        tables = self._of_channels(rounding, prior)
        if sets > 1:
            tables = self._sets(tables, rounding.integers(self.latents).reshape(len(self.latents), -1), sets)
        return StaticModel(self._frequencies(tables), self._channel_of, self._latent_shape, sets=sets)

    def model_of_sample(self, steps: Float32, offsets: Float32, prior: Mass | None) -> StaticModel:
        """The entropy model of a posterior's sample: a table for each position, for its own step and offset.

        Args:
            steps, offsets: float32 [*latent_shape], as `models.sampling` draws them.
            prior: of the latent.
        """
        means = self.latents.reshape(-1, self._channels)
        means = means[:: -(-len(means) // LATENTS_PER_TABLE)]
        tables = [
            self._table(i % self._channels, quantize(means[:, i % self._channels], step, offset), step, offset, prior)
            for i, (step, offset) in enumerate(zip(steps.ravel(), offsets.ravel(), strict=True))
        ]
        return StaticModel(self._frequencies(tables), np.arange(len(tables), dtype=np.int32), self._latent_shape)

    # === Inside ===

    @property
    def _channels(self) -> int:
        return int(self.latents.shape[-1])

    @property
    def _latent_shape(self) -> tuple[int, ...]:
        return tuple(self.latents.shape[1:])

    @property
    def _channel_of(self) -> Int32:
        """int32 [symbols]: the channel of each position of the latent, in C order."""
        return np.broadcast_to(np.arange(self._channels, dtype=np.int32), self._latent_shape).ravel()

    def _frequencies(self, tables: Sequence[Table]) -> FrequencyTables:
        lower, weights = zip(*tables, strict=True)
        return FrequencyTables.from_probabilities(weights, lower, self.precision)

    def _of_channels(self, rounding: Rounding, prior: Mass | None) -> list[Table]:
        columns = rounding.integers(self.latents).reshape(-1, self._channels).T
        return [self._table(c, values, rounding.step[c], rounding.offset[c], prior) for c, values in enumerate(columns)]

    def _table(self, channel: int, values: Int32, step: np.float32, offset: np.float32, prior: Mass | None) -> Table:
        """The table of integers that are distributed like ``values``, int32 [n]."""
        low, high = int(values.min()), int(values.max())
        if high > low:
            low, high = low - MARGIN, high + MARGIN
        if high - low >= 1 << self.precision:
            raise InputError(
                f"expected at most {1 << self.precision} quantization values in latent channel {channel}, found "
                f"{high - low + 1}; take a larger step or precision"
            )
        counts = np.bincount(values - low, minlength=high - low + 1).astype(np.float64)
        return low, smoothed(counts, low, values, channel, step, offset, prior)

    def _sets(self, tables: list[Table], integers: Int32, sets: int) -> list[Table]:
        """The tables of all sets and the selector, from the tables of one set; integers: int32 [N, symbols]."""
        lower, weights = zip(*tables, strict=True)
        sizes = np.array([w.size for w in weights], np.int32)
        first = np.cumsum(sizes) - sizes
        positions = integers + (first - np.array(lower))[self._channel_of].astype(np.int32)
        shared = np.concatenate([w / w.sum() for w in weights])
        share, of_sets = table_sets.fit(positions, shared, sizes, sets)
        pieces = [(low, piece) for row in of_sets for low, piece in zip(lower, np.split(row, first[1:]), strict=True)]
        return [*pieces, (0, share)]


def smoothed(
    counts: Float64, low: int, values: Int32, channel: int, step: np.float32, offset: np.float32, prior: Mass | None
) -> Float64:
    """The weight of each value from ``low`` on: its count, plus its part of `PSEUDO_COUNT` under a smooth density."""
    support = np.arange(low, low + counts.size, dtype=np.int32)
    centres = support.astype(np.float64) * step + offset
    mass = np.maximum(logistic(support, values) if prior is None else prior(channel, centres, step), 1e-12)
    return counts + PSEUDO_COUNT * mass / mass.sum()


def trained_mass(prior: FactorizedPrior, quality: int, rounding: Rounding) -> Mass:
    """The probabilities of intervals of the latent under a prior of ``(latent - offset) / step``.

    Args:
        prior: trained.
        quality: number of the prior's densities, from 0.
        rounding: the one that the prior was trained with.
    """

    def mass(channel: int, centres: Float64, width: np.float32) -> Float64:
        step, offset = rounding.step[channel], rounding.offset[channel]
        columns = np.zeros((len(centres), len(rounding.step)), np.float32)
        columns[:, channel] = (centres - offset) / step
        return np.exp(np.asarray(prior.log_mass(columns, width / step, quality), np.float64)[:, channel])

    return mass


def logistic(support: Int32, values: Int32) -> Float64:
    """Probabilities of consecutive integers under a logistic with the mean and deviation of ``values``."""
    # A logistic of standard deviation d has scale d * sqrt(3) / pi; 1/12 is the variance of the rounding.
    scale = math.sqrt(3 * (float(values.var()) + 1 / 12)) / math.pi
    edges = (np.arange(support[0], support[-1] + 2) - 0.5 - float(values.mean())) / scale
    return np.diff(1 / (1 + np.exp(-np.clip(edges, -500, 500))))
