"""The integers of the photograph codec: what is coded when, from what, and back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp.coding.lanes import LEAST_BITS
from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy import context
from tfcomp.entropy import tiles as coder
from tfcomp.entropy.context import Asked, ContextModel
from tfcomp.errors import BitstreamError
from tfcomp.photographs import counting
from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.old_layout import CHANNELS, GROUPS, PASSES


@cache
def model() -> ContextModel:
    """Contexts of random weights, with the tables of Laplace densities."""
    rng = np.random.default_rng(1)
    means = GROUPS[0].stop
    shapes = [(5, 5, means, 5 * means), *2 * [(3, 3, CHANNELS, CHANNELS)]]
    masks = [np.zeros(shape, bool) for shape in shapes]
    for p in PASSES:
        if p.group == 0:
            masks[0][..., means * p.phase : means * (p.phase + 1)] = p.context()[..., :means, None]
        else:
            masks[1 + p.phase][..., p.channels] = p.context()[1:4, 1:4, :, None]
    scales = [rng.integers(0, 12, shape) * mask for shape, mask in zip(shapes, masks, strict=True)]
    signed = [rng.integers(-20, 21, shape) * mask for shape, mask in zip(shapes, masks, strict=True)]
    base = rng.integers(20, 400, CHANNELS).astype(np.int32)
    kernels = [tuple(w.astype(np.float32) for w in ws) for ws in (scales, signed)]
    return ContextModel(base, kernels[0], kernels[1], counting.tables(list(counting.densities())))


def latents(height: int, width: int, seed: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.laplace(0, spread, (height, width, CHANNELS)).astype(np.float32)


PRICE = np.full(CHANNELS, 5, np.float32)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


# === Order ===


def test_the_first_transform_is_orthonormal() -> None:
    basis = layout.basis().reshape(-1, CHANNELS)
    np.testing.assert_allclose(basis.T @ basis, np.eye(CHANNELS), atol=1e-5)


@given(sizes)
def test_every_coefficient_is_coded_once(size: tuple[int, int]) -> None:
    times = np.zeros((*size, CHANNELS), int)
    for p in PASSES:
        times[p.positions(*size), p.channels] += 1
    assert (times == 1).all()


def test_a_pass_sees_earlier_passes_alone() -> None:
    size = 24
    when = np.empty((size, size, CHANNELS), int)
    for i, p in enumerate(PASSES):
        when[p.positions(size, size), p.channels] = i
    for i, p in enumerate(PASSES):
        seen = p.context()
        for y, x in np.argwhere(p.positions(size, size)):
            if 2 <= y < size - 2 and 2 <= x < size - 2:
                assert (when[y - 2 : y + 3, x - 2 : x + 3][seen] < i).all()


# === Symbols ===


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 100))
def test_symbols_and_what_lies_beyond_give_the_coefficients_back(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    coded = np.flatnonzero(context.REACHES)
    table = rng.choice(coded, 200).astype(np.int32)
    mean, sign = rng.integers(-50, 51, (200,), np.int32), rng.choice(np.int32([-1, 1]), 200)
    asked = Asked(PASSES[0], mean, np.arange(200), mean, table, sign)
    wanted = np.rint(rng.laplace(0, spread, 200)).astype(np.int32)
    clipped = context.clip(wanted, asked)
    within = np.abs(wanted - mean) <= context.REACHES[table] + context.BEYOND
    np.testing.assert_array_equal(clipped[within], wanted[within])
    symbols, beyond = context.split(clipped, asked)
    assert (np.abs(symbols) <= context.REACHES[table]).all()
    assert ((beyond >= 0) & (beyond <= context.BEYOND)).all()
    assert len(beyond) == len(context.beyond_tables(symbols, asked))
    np.testing.assert_array_equal(context.join(symbols, beyond, asked), clipped)


def test_sums_that_float32_could_not_hold_are_refused() -> None:
    large = tuple(np.where(w != 0, np.float32(3e4), 0).astype(np.float32) for w in model().scales)
    with pytest.raises(BitstreamError, match=r"whole scales whose sums stay below 2\*\*24"):
        replace(model(), scales=large)
    broken = tuple(w + np.float32(0.5) for w in model().means)
    with pytest.raises(BitstreamError, match="whole means"):
        replace(model(), means=broken)
    with pytest.raises(BitstreamError, match="scales of shapes"):
        replace(model(), scales=model().scales[:2])
    with pytest.raises(BitstreamError, match="tables of"):
        replace(model(), tables=FrequencyTables.from_probabilities([np.ones(3)], [-1]))


# === Bytes ===


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 2**32 - 1), st.floats(0.05, 80))
def test_a_tile_comes_back(size: tuple[int, int], seed: int, spread: float) -> None:
    code, found = coder.encode(model(), latents(*size, seed, spread), PRICE)
    np.testing.assert_array_equal(coder.decode(model(), code, *size), found)
    assert len(code) >= 1


@given(sizes, st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_high_price_rounds_to_nearest_where_a_coefficient_is_coded(size: tuple[int, int], seed: int) -> None:
    exact = latents(*size, seed, 3.0)
    _, found = coder.encode(model(), exact, np.full(CHANNELS, 1e9, np.float32))
    passes = model().passes(*size)
    asked = next(passes, None)
    while asked is not None:
        where, own = asked.which.positions(*size), asked.which.channels
        chosen = found[where, own].ravel()
        np.testing.assert_array_equal(chosen[asked.coded], np.rint(exact[where][:, own].ravel()[asked.coded]))
        asked = coder.send(passes, chosen)


def test_bytes_are_those_of_the_tables() -> None:
    exact = latents(16, 16, 5, 1.5)
    code, found = coder.encode(model(), exact, PRICE)
    bits, symbols = 0.0, 0
    passes = model().passes(16, 16)
    asked = next(passes, None)
    while asked is not None:
        chosen = found[asked.which.positions(16, 16), asked.which.channels].ravel()
        for values, table in coder.coded(chosen[asked.coded], asked):
            bits += model().tables.ideal_bits(values, table).sum()
            symbols += values.size
        asked = coder.send(passes, chosen)
    lanes = 1 << code[0]
    assert lanes > 1
    rounding = symbols * -np.log2(1 - 2.0 ** (counting.PRECISION - LEAST_BITS))
    assert bits / 8 <= len(code) <= (bits + rounding) / 8 + 1 + 3 * lanes


def test_a_lower_price_needs_fewer_bytes() -> None:
    exact = latents(16, 16, 6, 1.5)
    sizes = [len(coder.encode(model(), exact, PRICE * np.float32(worth))[0]) for worth in (0.3, 1, 3, 30)]
    assert sizes == sorted(sizes)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), sizes)
def test_any_bytes_decode_or_are_refused(data: bytes, size: tuple[int, int]) -> None:
    try:
        found = coder.decode(model(), data, *size)
    except BitstreamError:
        return
    assert found.shape == (*size, CHANNELS)


def test_cut_and_extended_tiles_are_refused() -> None:
    code, _ = coder.encode(model(), latents(9, 9, 7, 1.0), PRICE)
    assert code[0] > 0
    for bad in (b"", code[:1], code[:3], bytes([11]) + code[1:], code + bytes(8), code + b"\1" * 400):
        with pytest.raises(BitstreamError):
            coder.decode(model(), bad, 9, 9)


# === Counting ===


def test_counted_tables_need_fewer_bytes() -> None:
    shown = [latents(12, 12, seed, 0.7) for seed in range(4)]
    fitted = counting.fit(model(), shown, PRICE)
    before, after = (len(coder.encode(m, latents(12, 12, 9, 0.7), PRICE)[0]) for m in (model(), fitted))
    assert after < before
