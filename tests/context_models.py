"""What the tests of context models share: layouts, models with random numbers in them, and latents."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy.context import ContextModel, residual_tables
from tfcomp.entropy.pass_tables import OVERFLOW
from tfcomp.layout import CHESSBOARD, MEAN_PHASES, ONE_PHASE, Layout, Pattern

Float32 = NDArray[np.float32]

QUARTERS: Pattern = ((0, 1), (2, 3))
DIAGONALS: Pattern = ((0, 1, 2), (2, 0, 1), (1, 2, 0))
PATTERNS = (ONE_PHASE, CHESSBOARD, QUARTERS, DIAGONALS, MEAN_PHASES)

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    groups = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    first, others = (draw(st.sampled_from(PATTERNS)) for _ in range(2))
    return Layout(tuple(groups), first, others, draw(st.integers(1, 3)))


def random_model(layout: Layout, seed: int, *, masked: bool = False, **numbers: Any) -> ContextModel:
    """A model of any numbers that are legal.

    Args:
        layout: its layout.
        seed: of the numbers.
        masked: whether weights are zero where a pass sees nothing, and moderate, as those of a trained model.
        numbers: ``levels``, ``parts_log2``, ``kinds``, ``overflow_tables``, ``not_coded``; by default random.
    """
    rng = np.random.default_rng(seed)
    levels = numbers.get("levels", int(rng.integers(1, 8)))
    parts_log2 = numbers.get("parts_log2", int(rng.integers(0, 4)))
    kinds = numbers.get("kinds", int(rng.integers(1, min(layout.channels, 3) + 1)))
    overflow_tables = numbers.get("overflow_tables", int(rng.integers(1, levels + 1)))
    not_coded = np.int32(numbers.get("not_coded", rng.integers(0, levels + 1, kinds)))
    thresholds = np.sort(8 * rng.choice(np.arange(1, 900), levels - 1, replace=False)).astype(np.int32)
    coded = np.arange(levels)[:, None] >= not_coded[:, None, None]
    reaches = (rng.integers(1, 6, (kinds, levels, 1 << parts_log2)) * coded).astype(np.int32).ravel()
    scales, means = [], []
    for number, shape in enumerate(layout.kernel_shapes):
        mask = kernel_mask(layout, number) if masked else rng.random(shape) < 0.3
        most = (12, 20) if masked else (200, 300)
        scales.append((rng.integers(0 if masked else -most[0], most[0], shape) * mask).astype(np.float32))
        means.append((rng.integers(-most[1], most[1], shape) * mask).astype(np.float32))
    base = rng.integers(20 if masked else -400, 400, layout.channels)
    return ContextModel(
        layout=layout,
        kinds=rng.integers(0, kinds, layout.channels).astype(np.int32),
        thresholds=thresholds,
        not_coded=not_coded,
        reaches=reaches,
        parts_log2=parts_log2,
        overflow_tables=overflow_tables,
        base=base.astype(np.int32),
        scales=tuple(scales),
        means=tuple(means),
        tables=random_tables(reaches, overflow_tables, rng),
    )


def random_tables(reaches: Int32, overflow_tables: int, rng: np.random.Generator) -> FrequencyTables:
    """Tables of Laplace densities of random scales around random centres."""
    found = []
    for reach in reaches:
        values = np.arange(-reach, reach + 1)
        found.append(np.exp(-np.abs(values - rng.uniform(-0.5, 0.5)) / rng.uniform(0.3, 1 + reach)))
    found += [0.5 ** (np.arange(OVERFLOW + 1) / rng.uniform(1, 20)) + 1e-4 for _ in range(overflow_tables)]
    return residual_tables(found, reaches)


def kernel_mask(layout: Layout, number: int) -> NDArray[np.bool_]:
    """Which weights of a kernel a pass can see with, bool of its shape."""
    mask = np.zeros(layout.kernel_shapes[number], bool)
    far, first = layout.reach, layout.groups[0]
    for p in layout.passes:
        if p.group == 0 and number == 0:
            mask[..., first * p.phase : first * (p.phase + 1)] = layout.seen(p)[..., :first, None]
        elif p.group and number == 1 + p.phase:
            mask[..., p.channels] = layout.seen(p)[far - 1 : far + 2, far - 1 : far + 2, :, None]
    return mask


@st.composite
def models(draw: st.DrawFn) -> ContextModel:
    return random_model(draw(layouts()), draw(st.integers(0, 2**32 - 1)), masked=draw(st.booleans()))


@cache
def trained_like(seed: int = 0) -> ContextModel:
    """Two groups of 2 and 4 channels with the bundled codec's patterns, and weights as training makes them."""
    numbers = {"levels": 9, "parts_log2": 2, "kinds": 2, "overflow_tables": 4, "not_coded": [0, 2]}
    return random_model(Layout((2, 4)), seed, masked=True, **numbers)


@cache
def static(channels: int = 5, seed: int = 0) -> ContextModel:
    """A table for each channel, of which one is not coded."""
    rng = np.random.default_rng(seed)
    reaches = [0, *rng.integers(1, 9, channels - 1)]
    return ContextModel.static([np.exp(-np.abs(np.arange(-k, k + 1)) / (0.3 + k / 3)) for k in reaches])


def latents(model: ContextModel, height: int, width: int, seed: int, spread: float = 1.5) -> Float32:
    rng = np.random.default_rng(seed)
    return rng.laplace(0, spread, (height, width, model.layout.channels)).astype(np.float32)


def weights(model: ContextModel, bits: float = 5) -> Float32:
    """The bits that a squared step of error is worth, alike in all channels."""
    return np.full(model.layout.channels, bits, np.float32)
