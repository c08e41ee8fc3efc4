"""The encoder's half of `tfcomp.entropy.sample`: finds a candidate that is distributed as the posterior.

Ordered random coding (Theis and Yosri 2022, "Algorithms for the Communication of Samples"). Each candidate ``z`` of a
block, drawn from the prior, has a weight ``w = q(z) / p(z)`` under the posterior ``q``, and a time ``t``: the times of
a list's candidates are the arrivals of a Poisson process, in the list's order. The encoder sends the candidate of the
least ``t / w`` among the first ``N``. Over the randomness of candidates and times, the chosen one is distributed as
``q`` where ``N`` is infinite (Li and El Gamal 2018), and nearly as by importance sampling with ``N`` candidates where
it is large (Havasi, Peharz and Hernandez-Lobato 2019, "Minimal Random Code Learning"),

    P(n) = w_n / (w_1 + ... + w_N),

but early ones are chosen more often, so that the index costs ``KL + log2(KL + 1) + O(1)`` bits, however large ``N``.

The margin. A block of divergence ``D`` bits gets ``N = 2**ceil(D + margin)`` candidates, ``2**INDEX_BITS`` at most.
The choice among them is not quite distributed as the posterior: about ``2**margin`` candidates lie where the posterior
does, and the bias falls with the margin as fast as ``log w`` leaves less of its mass above ``D + margin`` (Chatterjee
and Diaconis 2018, "The sample size required in importance sampling", theorem 1.1).

Times are words too (`times`), and the draw is a word of the item's pixels (`draws`), so that an encoder has no state
and no randomness of its own: one image has one payload. Weights are floats, which only propose: an encoder that rounds
differently now and then sends another candidate, which is as good.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.entropy.sample import INDEX_BITS, UNIT, SampleModel
from tfcomp.items import Images
from tfcomp.words import UInt32, mix

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

AT_ONCE = 1 << 12
"""Number of candidates that are made at once."""
SCORES_AT_ONCE = 1 << 18
"""Number of scores that are computed at once, of some images and `AT_ONCE` candidates: a core's second-level cache."""
TIME_POSITION = 0xFFFFFFFF
"""Position whose word makes a candidate's time; no latent has it."""
LARGEST, LEAST = 64.0, 1e-4
"""Bounds of the posterior's mean and deviation, in the prior's deviations: numbers outside would overflow."""


def divergence_bits(mean: Any, deviation: Any) -> Any:
    """``KL(N(mean, deviation**2) || N(0, 1))`` in bits, element by element, float64."""
    variance = np.square(np.asarray(deviation, np.float64))
    return (variance + np.square(mean, dtype=np.float64) - 1 - np.log(variance)) / (2 * np.log(2))


def bounded(posterior: Float32) -> tuple[Float32, Float32]:
    """Mean and deviation of a posterior, held within bounds: float32 [N, symbols] each, in the prior's deviations.

    Args:
        posterior: float32 [N, 2, *latent_shape], mean and deviation as a transform gives them, in units of 1 / `UNIT`.
    """
    flat = posterior.reshape(len(posterior), 2, math.prod(posterior.shape[2:])) / np.float32(UNIT)
    mean = np.clip(np.nan_to_num(flat[:, 0]), -LARGEST, LARGEST)
    return mean, np.clip(np.nan_to_num(flat[:, 1], nan=1.0), LEAST, LARGEST)


def draws(model: SampleModel, items: Images) -> Int32:
    """The draw of each item, uint8 [N, H, W, C]: int32 [N], from a word of the sum of its pixels."""
    if not model.draw_bits:
        return np.zeros(len(items), np.int32)
    sums = items.sum(axis=(1, 2, 3), dtype=np.uint32)
    return (mix(sums) >> np.uint32(32 - model.draw_bits)).astype(np.int32)


def search(model: SampleModel, posterior: Float32, draw: Int32) -> Int32:
    """The names of a sample of each posterior, int32 [N, 1 + blocks].

    Args:
        model: blocks, candidates and margin.
        posterior: as `bounded` takes it.
        draw: int32 [N], as `draws` gives it.
    """
    mean, deviation = bounded(posterior)
    names = np.zeros((len(mean), 1 + model.blocks), np.int32)
    names[:, 0] = draw
    for block in range(model.blocks):
        positions = np.flatnonzero((model.block == block) & (model.scored == 1))
        m, d = mean[:, positions], deviation[:, positions]
        bits = np.ceil(divergence_bits(m, d).sum(axis=1) + model.margin)
        counts = 1 << np.clip(bits, 0, INDEX_BITS).astype(np.int32)
        # log w = m / d**2 * z + (1 - 1 / d**2) / 2 * z**2, plus a term that is equal for all candidates
        precision = 1 / np.square(d)
        factors = np.concatenate([m * precision, (1 - precision) / 2], axis=1)
        lists = model.lists(names)[:, block]
        for number in np.unique(lists):
            rows = np.flatnonzero(lists == number)
            names[rows, 1 + block] = _choose(model, positions, number, factors[rows], counts[rows])
    return names


def _choose(model: SampleModel, positions: NDArray[np.intp], number: Any, factors: Float32, counts: Int32) -> Int32:
    """The index in one list for each of ``n`` posteriors, int32 [n], of the first ``counts`` candidates, int32 [n]."""
    order = np.argsort(-counts, kind="stable")
    factors, counts = factors[order], counts[order]
    best, chosen = np.full(len(order), -np.inf, np.float32), np.zeros(len(order), np.int32)
    clock = 0.0
    for begin in range(0, int(counts.max(initial=0)), AT_ONCE):
        candidates = np.arange(begin, min(begin + AT_ONCE, int(counts[0])))
        begins = model.begins(number, candidates)
        z = model.integers_at(begins, positions[:, None]).astype(np.float32) / np.float32(UNIT)
        features = np.concatenate([z, np.square(z)])
        arrivals = clock + np.cumsum(times(begins))
        clock = float(arrivals[-1])
        log_arrivals = np.log(arrivals).astype(np.float32)
        for at in range(0, int(np.count_nonzero(counts > begin)), SCORES_AT_ONCE // AT_ONCE):
            some = slice(at, min(at + SCORES_AT_ONCE // AT_ONCE, int(np.count_nonzero(counts > begin))))
            scores = factors[some] @ features - log_arrivals
            if begin == 0 and counts[some][-1] < len(candidates):
                scores[candidates >= counts[some][:, None]] = -np.inf
            winner = scores.argmax(axis=1)
            score = scores[np.arange(len(winner)), winner]
            better = score > best[some]
            best[some] = np.where(better, score, best[some])
            chosen[some] = np.where(better, candidates[winner], chosen[some])
    indices = np.empty_like(chosen)
    indices[order] = chosen
    return indices


def times(begins: UInt32) -> Float64:
    """The wait from the time of the candidate before to each candidate's own, exponential of mean 1: float64."""
    return -np.log(((mix(begins ^ np.uint32(TIME_POSITION)) >> np.uint32(8)) + 0.5) / 2.0**24)
