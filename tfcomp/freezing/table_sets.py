"""Several sets of tables for one latent: a mixture of priors that compete for each message, fitted by hard EM.

A factorized prior cannot know that a 1 has other latents than an 8. ``M`` sets of tables can: each segment is coded by
the set that makes it shortest, which its first symbol names (see `range_coder`, "Table sets"; as a "competition of
priors", Brummer and De Vleeschouwer 2021). A message ``q`` then costs

    min over m of   -log2 w_m - sum_s log2 p_{m,s}(q_s)     bits

and each turn of `fit` lowers the mean cost: every message goes to the set where it costs least, then ``w`` and ``p``
become the frequencies of each set's messages (classification EM; Celeux and Govaert 1992), with a share of the table of
all messages as pseudo-counts, so that a set of few messages is not trusted too far.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32

PSEUDO_COUNT = 64.0
TURNS = 30
FITTED = 1 << 16
"""Largest number of messages that the sets are fitted to: more would cost time and change little."""

_ELEMENTS = 1 << 20  # of a block of costs: it stays in a core's second-level cache
_EVERYWHERE = 1e-4  # of the mass is spread evenly, so that no value of a table costs without bound

Float64 = NDArray[np.float64]


def fit(positions: Int32, shared: Float64, sizes: Int32, count: int, seed: int = 0) -> tuple[Float64, Float64]:
    """Sets of tables for messages.

    Args:
        positions: int32 [N, S], where each symbol lies among the ``V`` values of one set of tables.
        shared: float64 [V], the probabilities of the tables of all messages, table by table.
        sizes: int32 [T], values of each table; they sum to ``V``.
        count: ``M``, how many sets; more than there are distinct messages are of no use.
        seed: of the first assignment.

    Returns:
        The share of each set, float64 [M], and its probabilities, float64 [M, V]; sets in order of falling share.
    """
    rng = np.random.default_rng(seed)
    if len(positions) > FITTED:
        positions = positions[np.sort(rng.choice(len(positions), FITTED, replace=False))]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    # Each set begins as the table of all, leaning to the values of one message.
    examples = positions[rng.choice(len(positions), count, replace=len(positions) < count)]
    probabilities = np.repeat(shared[None], count, axis=0)
    for row, example in zip(probabilities, examples, strict=True):
        row[example] += 1.0
    share, assigned = np.full(count, 1 / count), np.full(len(positions), -1)
    probabilities = _normalised(probabilities, first, sizes)
    for _ in range(TURNS):
        before, assigned = assigned, _cheapest(positions, share, probabilities)
        counts = np.zeros((count, shared.size))
        np.add.at(counts, (assigned[:, None], positions), 1.0)
        share = np.bincount(assigned, minlength=count) + 1.0
        share /= share.sum()
        probabilities = _normalised(counts + PSEUDO_COUNT * shared, first, sizes)
        if np.mean(before != assigned) < 1e-3:
            break
    order = np.argsort(-share, kind="stable")
    return share[order], probabilities[order]


def _normalised(weights: Float64, first: NDArray[np.integer], sizes: Int32) -> Float64:
    """[M, V], each table's part with the sum 1, a little of it spread evenly."""
    weights = weights / np.repeat(np.add.reduceat(weights, first, axis=1), sizes, axis=1)
    return (1 - _EVERYWHERE) * weights + _EVERYWHERE / np.repeat(sizes, sizes)


def _cheapest(positions: Int32, share: Float64, probabilities: Float64) -> NDArray[np.intp]:
    """The set in which each message costs least: intp [N]."""
    bits = np.ascontiguousarray(-np.log2(probabilities).T.astype(np.float32))
    block = max(1, _ELEMENTS // (bits.shape[1] * positions.shape[1]))
    return np.concatenate(
        [
            (bits[positions[i : i + block]].sum(axis=1) - np.log2(share)).argmin(axis=1)
            for i in range(0, len(positions), block)
        ]
    )
