"""Sets of tables: which set each segment takes, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from payload_model import check_coder, competing, model_encode

from tfcomp.coding import range_coder
from tfcomp.coding.range_coder import choose_sets, decode, encode, max_payload_bytes
from tfcomp.coding.tables import COST_UNITS, MAX_PRECISION, FrequencyTables, Int32
from tfcomp.errors import InputError

pytestmark = pytest.mark.usefixtures("either_loop")


@pytest.mark.parametrize("segments", [1, 3, 5, 8])
def test_each_segment_chooses_its_set(segments: int) -> None:
    tables, index = competing(3), np.int32([0, 1, 2, 2, 0, 1])
    latents = np.int32([[-1, 7, 0, 0, 1, 7], [1, 7, 2, 1, 0, 7], [0] * 6])
    latents = tables.clip(latents, index)
    check_coder(tables, latents, index, segments, 3)
    if segments == 3:
        assert choose_sets(latents, tables, index, 3, 3).tolist() == [[0, 1, 2], [2, 2, 1], [1, 1, 1]]


def test_segments_without_latents_have_no_selector() -> None:
    tables, index, latents = competing(4, [1, 1, 1, 900]), np.int32([0, 2]), np.int32([[-4, -4]])
    assert choose_sets(latents, tables, index, 5, 4).tolist() == [[3, 3, 0, 0, 0]]
    (payload,) = check_coder(tables, latents, index, 5, 4)
    pieces = b"".join(encode(latents[:, [s]], tables, index[[s]], 1, 4)[0] for s in range(2))
    assert payload == (bytes([payload[0], 0, payload[2], 0, 0, 0, 0, 0]) + pieces)
    for segments in (1, 3):
        assert check_coder(tables, np.zeros((2, 0), np.int32), index[:0], segments, 4) == [b"", b""]
        assert max_payload_bytes(tables, index[:0], segments, 4) == 2 * (segments - 1)


def test_the_lowest_of_equal_sets_is_chosen() -> None:
    probabilities = [*[np.float64([1, 2, 1])] * 4, np.ones(4)]
    tables = FrequencyTables.from_probabilities(probabilities, [0] * 5, 6)
    latents = np.int32([[0, 1, 2, 2], [1, 1, 1, 1]])
    assert choose_sets(latents, tables, np.zeros(4, np.int32), 2, 4).tolist() == [[0, 0], [0, 0]]
    check_coder(tables, latents, np.zeros(4, np.int32), 2, 4)


def test_any_set_decodes_and_stays_within_the_bound() -> None:
    tables, index = competing(3, [500, 1, 1]), np.int32([0, 1, 2, 2, 0])
    latents = np.int32([-4, 7, 4, 4, -3])
    for chosen in itertools.product(range(3), repeat=2):
        payload = model_encode(latents, tables, index, 2, 3, [*chosen])
        np.testing.assert_array_equal(decode([payload], tables, index, 2, 3), [latents])
        assert len(payload) <= max_payload_bytes(tables, index, 2, 3)


def test_sums_of_costs_fit_32_bits() -> None:
    assert (range_coder.SEGMENT_SYMBOLS + 1) * COST_UNITS * MAX_PRECISION < 2**31
    index = np.zeros(range_coder.SEGMENT_SYMBOLS + 1, np.int32)
    with pytest.raises(InputError, match=r"segments of at most 524288 symbols .* found 524289 symbols in 1 segments"):
        max_payload_bytes(competing(2), index, 1, 2)


@pytest.mark.parametrize(
    ("index", "sets", "message"),
    [
        (np.zeros((1, 5), np.int32), 3, r"int32 \[S\], that of all messages, with 3 sets, found int32 \[1, 5\]"),
        (np.full(5, 3, np.int32), 3, "index of 0 to 2, found 3 to 3"),
        (np.zeros(5, np.int32), 2, "tables for 2 sets and a selector, found 10"),
        (np.zeros(5, np.int32), 10, "tables for 10 sets and a selector, found 10"),
        (np.zeros(5, np.int32), 9, "same lowest values in each of 9 sets"),
        (np.zeros(5, np.int32), 0, "1 set of tables or more, found 0"),
        (np.zeros(5, np.int32), 2.0, "1 set of tables or more, found 2.0"),
    ],
)
def test_tables_and_indices_that_are_no_sets(index: Int32, sets: int, message: str) -> None:
    tables = competing(3)
    latents = np.zeros((1, 5), np.int32)
    for call in (
        lambda: encode(latents, tables, index, 1, sets),
        lambda: decode([b""], tables, index, 1, sets),
        lambda: max_payload_bytes(tables, index, 1, sets),
        lambda: choose_sets(latents, tables, index, 1, sets),
    ):
        with pytest.raises(InputError, match=message):
            call()
