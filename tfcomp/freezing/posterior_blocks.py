"""The entropy model of a posterior whose deviation depends on the input: blocks, quantiles, tables of the lengths.

Blocks. One index costs about ``log2 KL`` and a constant more than its block's divergence, so that few large blocks are
cheap to send; finding a candidate takes ``2**KL`` scores, so that small blocks are cheap to search. Positions are dealt
out by their mean divergence over the calibration images, the largest first, each to the block with the least so far.

Tables. The lengths of indices are counted on calibration images, whose samples are searched for that.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tfcomp import words
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy.candidate_search import bounded, divergence_bits, draws, search
from tfcomp.entropy.sample import CHUNK_BITS, INDEX_BITS, STREAM, UNIT, SampleModel, index_length
from tfcomp.errors import InputError
from tfcomp.items import Images

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK_BITS = 14.0
"""Largest mean divergence of a block; chosen with `MARGIN` by ``benchmarks/vae_sample.py``, on training images."""
MARGIN = 5
"""Bits beyond its divergence that a block has candidates for; see `tfcomp.entropy.candidate_search`."""
DRAW_BITS = 6
"""Bits of an item's draw; see `tfcomp.entropy.sample`."""
COLLAPSED_BITS = 0.03
"""Mean divergence, in all, of the positions whose posteriors are taken for the prior: those that carry least.

A bit of divergence is worth ``beta`` bits of distortion or more, and many positions that carry next to nothing add up.
"""
QUANTILE_BITS = 12
TABLE_IMAGES = 1000
"""Calibration images whose samples are searched for the tables."""
PSEUDO_COUNT = 1.0


def fit(posterior: Float32, images: Images, precision: int, seed: int) -> SampleModel:
    """The model of a posterior.

    Args:
        posterior: float32 [N, 2, *latent_shape], mean and deviation of calibration images, in units of 1 / `UNIT` of
            the prior's deviation.
        images: uint8 [N, H, W, C], of these posteriors.
        precision: bits of the tables' frequencies.
        seed: of the candidates, 0 to 2**32 - 1.
    """
    if precision < CHUNK_BITS:
        raise InputError(
            f"expected a precision of {CHUNK_BITS} bits or more for samples of a posterior, found {precision}"
        )
    words.key(seed, STREAM)  # raises InputError unless it is a seed
    divergence = divergence_bits(*bounded(posterior)).mean(axis=0)
    block, scored = blocks(divergence)
    flat = FrequencyTables.from_probabilities([np.ones(INDEX_BITS + 1)] * (int(block.max()) + 1), 0 * np.unique(block))
    model = SampleModel(flat, quantiles(QUANTILE_BITS), block, scored, posterior.shape[2:], seed, MARGIN, DRAW_BITS)
    sampled = slice(None, None, -(-len(images) // TABLE_IMAGES))
    names = search(model, posterior[sampled], draws(model, images[sampled]))
    lengths = index_length(names[:, 1:] + 1)
    return replace(model, tables=tables(lengths.T, precision))


def blocks(divergence: Float64) -> tuple[Int32, Int32]:
    """The block of each position, and whether it is scored, int32 [symbols] each.

    Args:
        divergence: float64 [symbols], mean over images, in bits.
    """
    count = max(1, min(math.ceil(divergence.sum() / BLOCK_BITS), len(divergence)))
    sums, sizes = np.zeros(count), np.zeros(count, np.int32)
    block = np.zeros(len(divergence), np.int32)
    for position in np.argsort(-divergence, kind="stable"):
        # Among equal blocks the one of fewer positions, so that collapsed positions are dealt out too.
        block[position] = lightest = min(range(count), key=lambda b: (round(float(sums[b]), 2), int(sizes[b])))
        sums[lightest] += divergence[position]
        sizes[lightest] += 1
    order = np.argsort(divergence, kind="stable")
    scored = np.ones(len(divergence), np.int32)
    scored[order[np.cumsum(divergence[order]) <= COLLAPSED_BITS]] = 0
    return block, scored


def quantiles(bits: int) -> Int32:
    """The mean of N(0, 1) in each of ``2**bits`` intervals of equal probability, int32, in units of 1 / `UNIT`."""
    normal, count = NormalDist(), 1 << bits
    inner = [normal.pdf(normal.inv_cdf(i / count)) for i in range(1, count)]
    return np.rint(-np.diff([0.0, *inner, 0.0]) * count * UNIT).astype(np.int32)


def tables(lengths: NDArray[np.integer], precision: int) -> FrequencyTables:
    """A table for each row of lengths, [blocks, N]: the counts, smoothed over neighbours."""
    weights = []
    for row in lengths:
        counts = np.bincount(row, minlength=INDEX_BITS + 1).astype(np.float64)
        smooth = np.convolve(counts, [0.25, 0.5, 0.25], "same")
        weights.append(smooth + PSEUDO_COUNT / (INDEX_BITS + 1))
    return FrequencyTables.from_probabilities(weights, [0] * len(weights), precision)
