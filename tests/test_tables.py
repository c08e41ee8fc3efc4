"""Frequency tables: optimal, summing exactly, and refused when they are not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding.tables import COST_UNITS, MAX_PRECISION, FrequencyTables, TableSets, allot
from tfcomp.errors import BitstreamError, InputError


@st.composite
def probabilities(draw: st.DrawFn, max_size: int = 40) -> NDArray[np.float64]:
    weights = draw(st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1e-300, 1.0]), min_size=1, max_size=max_size))
    return np.array(weights) + (0 if sum(weights) > 0 else 1)


@st.composite
def frequency_tables(draw: st.DrawFn) -> FrequencyTables:
    precision = draw(st.integers(1, MAX_PRECISION))
    parts = draw(st.lists(probabilities(min(40, 1 << precision)), min_size=1, max_size=5))
    lower = draw(st.lists(st.integers(-(2**31), 2**31 - 50), min_size=len(parts), max_size=len(parts)))
    return FrequencyTables.from_probabilities(parts, lower, precision)


def tables_of(*frequencies: list[int], lower: list[int] | None = None) -> FrequencyTables:
    return FrequencyTables(
        (sum(frequencies[0]) - 1).bit_length(),
        np.int32(lower or [0] * len(frequencies)),
        np.int32([len(f) for f in frequencies]),
        np.concatenate([np.int32(f) for f in frequencies]),
    )


# === Allotting frequencies ===


@given(st.integers(1, MAX_PRECISION), st.data())
def test_frequencies_are_positive_and_sum_to_the_total(precision: int, data: st.DataObject) -> None:
    p = data.draw(probabilities(min(40, 1 << precision)))
    frequencies = allot(p, precision)
    assert frequencies.dtype == np.int32
    assert frequencies.min() >= 1
    assert frequencies.sum() == 1 << precision


@given(st.integers(1, 4), st.data())
def test_no_other_table_has_a_shorter_expected_code(precision: int, data: st.DataObject) -> None:
    total = 1 << precision
    p = data.draw(probabilities(min(4, total)))
    cuts = itertools.combinations(range(1, total), p.size - 1)
    every = np.array([np.diff([0, *cut, total]) for cut in cuts])

    def expected_bits(frequencies: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        return -(np.log2(frequencies / total) @ (p / p.sum()))

    assert expected_bits(allot(p, precision)) <= expected_bits(every).min() + 1e-9


def test_frequencies_follow_the_probabilities() -> None:
    assert allot(np.array([1, 2, 1]) / 4, 4).tolist() == [4, 8, 4]
    assert allot(np.array([1.0, 0.0, 0.0]), 3).tolist() == [6, 1, 1]
    assert allot(np.ones(8), 3).tolist() == [1] * 8
    assert allot(np.array([3.0]), 14).tolist() == [1 << 14]
    assert allot(np.array([1e308, 1e308, 5e-324]), 3).tolist() == [4, 3, 1]


@pytest.mark.parametrize("p", [[], [0.0, 0.0], [1.0, -0.1], [np.nan, 1.0], [np.inf, 1.0], [1.0] * 9, [[0.5, 0.5]]])
def test_what_is_no_distribution_is_refused(p: list[Any]) -> None:
    with pytest.raises(InputError, match=r"^expected .*probabilities"):
        allot(np.array(p), 3)


# === The tables ===


@given(frequency_tables())
def test_starts_follow_the_coding_order(tables: FrequencyTables) -> None:
    for t, (first, size) in enumerate(zip(tables.first, tables.sizes, strict=True)):
        frequencies = tables.frequencies[first : first + size].tolist()
        top = frequencies.index(max(frequencies))
        order = [*(v for v in range(size) if v != top), top]
        before = dict(zip(order, itertools.accumulate([0, *(frequencies[v] for v in order)]), strict=False))
        assert tables.most_probable[t] == first + top
        assert tables.starts[first : first + size].tolist() == [before[v] for v in range(size)]


@given(frequency_tables())
def test_arrays_restore_the_tables(tables: FrequencyTables) -> None:
    restored = FrequencyTables.from_arrays(tables.arrays())
    assert restored.digest() == tables.digest()
    assert len(restored) == len(tables) == tables.sizes.size
    for name, array in tables.arrays().items():
        np.testing.assert_array_equal(restored.arrays()[name], array)


def test_the_digest_is_of_all_that_defines_the_tables() -> None:
    one = tables_of([1, 2, 1], [1, 3])
    assert one.digest() == tables_of([1, 2, 1], [1, 3]).digest()
    assert len(one.digest()) == 32
    others = [
        tables_of([1, 3], [1, 2, 1]),
        tables_of([2, 1, 1], [1, 3]),
        tables_of([1, 2, 1], [1, 3], lower=[0, 1]),
        tables_of([2, 4, 2], [2, 6]),
        tables_of([1, 2, 1], [1, 3], [4]),
    ]
    assert len({tables.digest() for tables in (one, *others)}) == 6


def test_the_digest_is_part_of_the_format() -> None:
    # The codec's fingerprint: were it to change, no artifact would know its own payloads.
    assert tables_of([1, 2, 1], [1, 3], lower=[-1, 5]).digest().hex().startswith("940c54350781154a")


@given(frequency_tables(), st.data())
def test_clip_moves_a_latent_to_the_nearest_value_of_its_table(tables: FrequencyTables, data: st.DataObject) -> None:
    table = data.draw(st.integers(0, len(tables) - 1))
    latent = data.draw(st.integers(-(2**31), 2**31 - 1))
    clipped = tables.clip(np.int32([latent]), np.int32([table]))
    support = range(tables.lower[table], tables.lower[table] + tables.sizes[table])
    assert clipped.dtype == np.int32
    assert clipped.tolist() == [min(support, key=lambda value: abs(value - latent))]
    position = tables.positions(clipped, np.int32([table]))[0]
    assert position - tables.first[table] + tables.lower[table] == clipped[0]
    if latent not in support:
        with pytest.raises(InputError, match="support"):
            tables.positions(np.int32([latent]), np.int32([table]))


def test_ideal_bits() -> None:
    tables = tables_of([1, 2, 1], [4], lower=[-1, 9])
    bits = tables.ideal_bits(np.int32([[-1, 0, 1, 9], [0, 0, 0, 9]]), np.int32([0, 0, 0, 1]))
    assert bits.tolist() == [[2, 1, 2, 0], [1, 1, 1, 0]]


@given(frequency_tables())
def test_costs_are_ideal_bits_in_units(tables: FrequencyTables) -> None:
    values = np.concatenate([np.arange(n) for n in tables.sizes]).astype(np.int32)
    index = np.repeat(np.arange(len(tables), dtype=np.int32), tables.sizes)
    bits = tables.ideal_bits(values + tables.lower[index], index)
    assert tables.costs.dtype == np.int32
    assert np.abs(tables.costs / COST_UNITS - bits).max() <= 0.5 / COST_UNITS


def test_costs_round_alike_on_every_machine() -> None:
    bits = COST_UNITS * np.log2(np.arange(1, 2**MAX_PRECISION + 1))
    from_half = np.abs(bits % 1 - 0.5).min()
    assert from_half > 1e-5
    assert 1e6 * np.spacing(bits.max()) < from_half


# === Sets of tables ===


def test_values_of_a_set_lie_together() -> None:
    tables = tables_of([4, 12], [16], [2, 14], [16], [12, 4], [16], [5, 5, 6], lower=[3, 0] * 3 + [0])
    sets = TableSets.of(tables, 3)
    assert (sets.count, sets.tables, sets.values) == (3, 2, 3)
    for m in range(3):
        at = m * sets.values
        np.testing.assert_array_equal(sets.costs[:-1, m], tables.costs[at : at + sets.values])
    assert sets.costs[-1].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(sets.selector_costs, tables.costs[-3:])
    alone = TableSets.of(tables, 1)
    assert (alone.count, alone.tables, alone.values) == (1, 7, 12)
    np.testing.assert_array_equal(alone.costs[:, 0], [*tables.costs, 0])


@pytest.mark.parametrize(
    ("frequencies", "lower", "message"),
    [
        ([[2, 2], [1, 3]], [0, 0], "tables for 2 sets and a selector, found 2"),
        ([[2, 2]], [0], "tables for 2 sets and a selector, found 1"),
        ([[2, 2], [1, 3], [2, 2]], [0, 1, 0], "same lowest values in each of 2 sets"),
        ([[2, 2], [1, 1, 2], [2, 2]], [0, 0, 0], "same sizes in each of 2 sets"),
        ([[2, 2], [1, 3], [2, 1, 1]], [0, 0, 0], "last table of 2 values from 0, .* found one of 3 values from 0"),
        ([[2, 2], [1, 3], [2, 2]], [0, 0, 1], "last table of 2 values from 0, .* found one of 2 values from 1"),
    ],
)
def test_tables_that_are_no_sets_are_refused(frequencies: list[list[int]], lower: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TableSets.of(tables_of(*frequencies, lower=lower), 2)


# === Arrays ===

VALID = tables_of([1, 2, 1], [1, 3], lower=[-1, 5]).arrays()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("precision", np.int32(0), "precision of 1 to 14 bits, found 0"),
        ("precision", np.int32(15), "precision of 1 to 14 bits, found 15"),
        ("precision", np.int32(3), "sum to 8"),
        ("lower", np.int32([0]), "one size for each of 1 tables, found 2"),
        ("lower", np.int32([0, 2**31 - 2]), "within int32"),
        ("lower", np.int64([0, 0]), "lower as int32 of rank 1, found int64"),
        ("sizes", np.int32([[3, 2]]), "sizes as int32 of rank 1"),
        ("sizes", np.int32([3, 3]), "add up"),
        ("sizes", np.int32([5, 0]), "1 to 2"),
        ("sizes", np.int32([6, -1]), "1 to 2"),
        ("sizes", np.int32([2, 3]), "sum to 4"),
        ("frequencies", np.int32([1, 2, 1, 1, 4]), "sum to 4"),
        ("frequencies", np.int32([1, 2, 1, 0, 4]), "positive"),
        ("frequencies", np.int32([1, 4, -1, 1, 3]), "positive"),
        ("frequencies", np.int32([1, 2, 1, 1]), "add up"),
        ("frequencies", np.array([1.0, 2, 1, 1, 3]), "frequencies as int32"),
    ],
)
def test_arrays_that_are_no_tables_are_refused(name: str, array: NDArray[Any], message: str) -> None:
    FrequencyTables.from_arrays(VALID)
    with pytest.raises(BitstreamError, match=message):
        FrequencyTables.from_arrays({**VALID, name: array})


def test_missing_arrays_are_named() -> None:
    with pytest.raises(BitstreamError, match=r"none named \['lower', 'sizes'\]"):
        FrequencyTables.from_arrays({key: VALID[key] for key in ("precision", "frequencies")})


def test_no_tables_are_refused() -> None:
    none = np.zeros(0, np.int32)
    with pytest.raises(BitstreamError, match="one size for each of 0 tables"):
        FrequencyTables(4, none, none, none)
