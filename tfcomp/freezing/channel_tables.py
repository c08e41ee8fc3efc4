"""Static tables for items of any size: one for each channel of the latent, from ``-K`` to ``K``, with overflow beyond.

As in `static_tables`, a table has the counts of the calibration latents, plus ``PSEUDO_COUNT`` drawn from the model's
prior or from a logistic. It reaches one value further than calibration saw, and at most ``2**precision /
MAX_REACH_SHARE``; what lies beyond is coded by the overflow table (see `entropy.pass_tables`). A channel that is always
0 costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfcomp.coding.tables import Int32
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.pass_tables import OVERFLOW
from tfcomp.errors import InputError
from tfcomp.freezing.static_tables import MARGIN, Mass, smoothed
from tfcomp.freezing.steps import Float32, Float64, Rounding

MAX_REACH_SHARE = 16
"""Ratio of all frequencies to a table's largest reach: rare values must not take the frequencies of others."""


def fit(latents: Sequence[Float32], rounding: Rounding, prior: Mass | None, precision: int) -> ContextModel:
    """The entropy model of one quality.

    Args:
        latents: float32 [h, w, C], what the encoder network gives, one for each image.
        rounding: of the quality.
        prior: of the quality; a logistic takes the place of None.
        precision: bits of the tables' frequencies, 8 or more.

    Raises:
        InputError: if the integers are too many for tables and overflow.
    """
    columns = np.concatenate([rounding.integers(latent).reshape(-1, latent.shape[-1]) for latent in latents]).T
    distributions = [
        _distribution(c, values, rounding.step[c], rounding.offset[c], prior, precision)
        for c, values in enumerate(columns)
    ]
    return ContextModel.static(distributions, precision=precision)


def _distribution(
    channel: int, values: Int32, step: np.float32, offset: np.float32, prior: Mass | None, precision: int
) -> Float64:
    """The weight of each integer from ``-K`` to ``K``, all beyond added to the ends: float64 [2 * K + 1]."""
    most = int(np.abs(values.astype(np.int64)).max())
    if most == 0:
        return np.ones(1)
    reach = min(most + MARGIN, (1 << precision) // MAX_REACH_SHARE)
    if most > reach + OVERFLOW:
        raise InputError(
            f"expected quantization values within {reach + OVERFLOW} of zero in latent channel {channel}, found "
            f"{most}; take a larger step or precision"
        )
    counts = np.bincount(np.clip(values, -reach, reach) + reach, minlength=2 * reach + 1).astype(np.float64)
    return smoothed(counts, -reach, values, channel, step, offset, prior)
