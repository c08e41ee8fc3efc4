"""Small models of samples, and names of samples for them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy.sample import INDEX_BITS, SampleModel
from tfcomp.freezing import posterior_blocks

LAST = (2 << INDEX_BITS) - 2
"""The largest index."""
POSITIONS = 8


@cache
def model(blocks: int = 3, precision: int = 12, draw_bits: int = 4, seed: int = 5) -> SampleModel:
    rng = np.random.default_rng(blocks)
    weights = [rng.dirichlet(np.full(INDEX_BITS + 1, 0.3)) for _ in range(blocks)]
    tables = FrequencyTables.from_probabilities(weights, [0] * blocks, precision)
    block = np.arange(POSITIONS, dtype=np.int32) % blocks
    return SampleModel(
        tables, posterior_blocks.quantiles(10), block, np.ones(POSITIONS, np.int32), (2, 4), seed, 4, draw_bits
    )


def names_of(of: SampleModel, count: int, seed: int = 0) -> NDArray[np.int32]:
    """Names whose indices have all lengths, int32 [count, 1 + blocks]."""
    rng = np.random.default_rng(seed)
    indices = np.minimum(2 ** rng.uniform(0, INDEX_BITS + 1, (count, of.blocks)) - 1, LAST)
    return np.concatenate([rng.integers(0, 1 << of.draw_bits, (count, 1)), indices], axis=1).astype(np.int32)
