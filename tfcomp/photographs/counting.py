"""The tables of a quality, counted on the coefficients of training photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy import tiles as coder
from tfcomp.entropy.context import BEYOND, BEYOND_TABLES, LEVELS, PARTS, REACHES, THRESHOLDS, UNIT, ContextModel

PRECISION = 12
ROUNDS = 2
"""Of counting: what the encoder chooses depends on the tables."""
PSEUDO_COUNT = 30.0

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def fit(model: ContextModel, latents: Sequence[Float32], price: Float32) -> ContextModel:
    """The model with tables as latents have them, float32 [h, w, CHANNELS]; where they say little, of Laplace."""
    for _ in range(ROUNDS):
        totals = np.zeros(model.tables.frequencies.size)
        for latent in latents:
            for positions in coder.choose(model, latent, price)[0]:
                totals += np.bincount(positions, minlength=totals.size)
        counts = np.split(totals, model.tables.first[1:])
        mixed = [n + PSEUDO_COUNT * prior for n, prior in zip(counts, densities(), strict=True)]
        model = replace(model, tables=tables(mixed))
    return model


def tables(probabilities: Sequence[Float64]) -> FrequencyTables:
    """`FrequencyTables` of the reaches that a `ContextModel` has; one distribution for each."""
    lower = [*(-REACHES), *[0] * BEYOND_TABLES]
    return FrequencyTables.from_probabilities(probabilities, np.array(lower, np.int32), PRECISION)


def densities() -> Iterator[Float64]:
    """Of each table, a Laplace density of its level's scale around what its part says."""
    edges = np.concatenate([[THRESHOLDS[0] / 2], THRESHOLDS, [THRESHOLDS[-1] * 2]]) / UNIT
    for i, reach in enumerate(REACHES):
        level, part = i // PARTS % LEVELS, i % PARTS
        scale, centre = np.sqrt(edges[level] * edges[level + 1]), (part + 0.5) / (2 * PARTS)
        bounds = np.arange(-reach, reach + 2) - 0.5 - centre
        bounds[0], bounds[-1] = -np.inf, np.inf
        below = np.where(bounds < 0, 0.5 * np.exp(-np.abs(bounds) / scale), 1 - 0.5 * np.exp(-np.abs(bounds) / scale))
        yield np.maximum(np.diff(below), 1e-9)
    for i in range(BEYOND_TABLES):
        yield 0.5 ** (np.arange(BEYOND + 1) / 4.0 / 2**i) + 1e-4
