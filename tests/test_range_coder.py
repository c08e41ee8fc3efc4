"""The payload format against a model of it in unbounded integers: any messages, its bounds, and corrupt bytes."""

from __future__ import annotations

import doctest
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payload_model import (
    Messages,
    check_coder,
    competing,
    messages,
    model_decode,
    model_encode,
    model_of,
    skewed,
    two_values,
    worst_bits,
)

from tfcomp import use_numba
from tfcomp.coding import lanes, range_coder
from tfcomp.coding.range_coder import decode, encode, max_payload_bytes, segment_count
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError

pytestmark = pytest.mark.usefixtures("either_loop")


def test_the_docstring_is_true() -> None:
    result = doctest.testmod(range_coder)
    assert result.attempted > 4
    assert result.failed == 0


# === Any messages ===


@settings(max_examples=200)
@given(messages())
def test_any_messages_round_trip_as_the_model_says(drawn: Messages) -> None:
    tables, latents, index, segments, sets = drawn
    check_coder(tables, latents, index, segments, sets)


@given(messages(), st.lists(st.binary(max_size=80), min_size=1, max_size=4))
def test_any_bytes_decode_into_the_support_or_are_refused(drawn: Messages, payloads: list[bytes]) -> None:
    tables, _, index, segments, sets = drawn
    index = index if index.ndim == 1 else index[:1].reshape(-1)
    for payload in payloads:
        try:
            latents = decode([payload], tables, index, segments, sets)
        except BitstreamError:
            continue
        # Raises if a latent is outside its support.
        (shortest,) = encode(latents, tables, index, segments, sets)
        assert len(shortest) <= len(payload) or sets > 1  # a set that costs more may by luck end in zeros
        if segments == 1:
            assert latents[0].tolist() == model_decode(payload, tables, index, sets)


@given(messages(), st.data())
def test_changed_payloads_decode_into_the_support_or_are_refused(drawn: Messages, data: st.DataObject) -> None:
    tables, latents, index, segments, sets = drawn
    for payload, row in zip(
        encode(latents, tables, index, segments, sets), np.broadcast_to(index, latents.shape), strict=True
    ):
        changed = bytearray(payload)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(changed)))
            changed[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
        try:
            restored = decode([bytes(changed)], tables, np.ascontiguousarray(row), segments, sets)
        except BitstreamError:
            continue
        assert np.isfinite(tables.ideal_bits(restored, row)).all()


# === Named cases ===


@pytest.mark.parametrize("boundary", ["05", "01", "0100ff", "ff"])
def test_carry_chains(boundary: str) -> None:
    # The symbols whose interval holds the boundary: low stays just under it, at digits 04 ff ff ff ..., until the end.
    tables, index = skewed(), np.zeros(900, np.int32)
    payload = bytes.fromhex(boundary)
    latents = decode([payload], tables, index)
    model = model_of(latents[0], tables, index)
    below = int.from_bytes(payload, "big") - 1
    chain = below.to_bytes(len(payload), "big") + b"\xff" * 50
    assert model.digits_of(model.low).startswith(chain)
    # Between other messages, so that a carry that left its message would be seen.
    neighbours = np.concatenate([latents, decode([b"\xff" * 90], tables, index), latents])
    assert check_coder(tables, neighbours, index)[0] == payload


def test_carry_in_the_middle() -> None:
    tables, index = skewed(), np.zeros(400, np.int32)
    latents = decode([b"\x05"], tables, index)
    for at in range(50, 400, 7):
        latents[0, at:] = tables.lower[0] + np.arange(400 - at) % 9
        check_coder(tables, latents, index)


@pytest.mark.parametrize(
    ("frequencies", "last_range", "digits"),
    [
        ([1024, 1024], 1 << 22, 0),
        ([1025, 1023], (1 << 22) - 4, 1),
        ([1024, 1024, 64], 1 << 14, 1),
        ([1024, 1024, 63], 63 << 8, 2),
        ([1024, 1024, 1], 1 << 8, 2),
    ],
)
def test_ranges_that_just_touch_their_bounds(frequencies: list[int], last_range: int, digits: int) -> None:
    probabilities = [np.array([f, (1 << 14) - f]) for f in frequencies]
    tables = FrequencyTables.from_probabilities([*probabilities, np.ones(2)], [0] * (len(frequencies) + 1), 14)
    index = np.arange(len(frequencies), dtype=np.int32)
    latents = np.zeros((1, len(frequencies)), np.int32)
    model = model_of(latents[0], tables, index)
    assert (model.ranges[-1], model.digits) == (last_range, digits)
    check_coder(tables, latents, index)
    # All start at 0, so low is 0, and these bytes decode to the same latents. There are too many by one.
    with pytest.raises(BitstreamError, match=f"at most {digits + 1} bytes, found {digits + 2}"):
        decode([bytes(digits + 1) + b"\1"], tables, index)
    for more in range(16):  # and what follows is read at the right place
        tail = np.int32([[more >> k & 1 for k in range(4)]])
        index_and_tail = np.append(index, np.full(4, len(frequencies), np.int32))
        check_coder(tables, np.concatenate([latents, tail], axis=1), index_and_tail)


def test_one_symbol_tables_cost_nothing() -> None:
    tables = FrequencyTables.from_probabilities([np.ones(1), np.ones(5)], [7, -2], 10)
    sevens = np.full((3, 40), 7, np.int32)
    assert check_coder(tables, sevens, np.zeros(40, np.int32)) == [b""] * 3
    assert check_coder(tables, sevens, np.zeros(40, np.int32), segments=4) == [b""] * 3
    assert max_payload_bytes(tables, np.zeros(40, np.int32)) == 0
    alone = np.int32([[-2, 0, 2, 1, 1, -1] * 5])
    among = np.full((1, 60), 7, np.int32)
    among[:, 1::2] = alone
    assert encode(among, tables, np.int32([0, 1] * 30)) == encode(alone, tables, np.ones(30, np.int32))


@pytest.mark.parametrize("segments", [1, 3])
def test_empty_messages(segments: int) -> None:
    tables, index = skewed(), np.zeros(0, np.int32)
    assert encode(np.zeros((2, 0), np.int32), tables, index, segments) == [b"", b""]
    assert decode([b"", b""], tables, index, segments).shape == (2, 0)
    assert encode(np.zeros((0, 5), np.int32), tables, np.zeros(5, np.int32), segments) == []
    assert decode([], tables, np.zeros(5, np.int32), segments).shape == (0, 5)
    assert decode([], tables, np.zeros((0, 5), np.int32), segments).shape == (0, 5)


def test_all_most_probable() -> None:
    tables = two_values(14, 1)
    (payload,) = check_coder(tables, np.ones((1, 5000), np.int32), np.zeros(5000, np.int32))
    assert len(payload) <= 1


def test_more_segments_than_symbols() -> None:
    check_coder(skewed(), np.int32([[1, -4, 2]]), np.zeros(3, np.int32), segments=8)


@pytest.mark.parametrize(("symbols", "expected"), [(0, 1), (1, 1), (600, 1), (601, 2), (1200, 2), (1201, 3)])
def test_segment_count(symbols: int, expected: int) -> None:
    assert segment_count(symbols, 600) == expected


def test_blocks_of_lanes_and_searched_tables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    arrays = FrequencyTables.from_probabilities([rng.random(n) ** 9 for n in (3, 1, 50)], [0, 5, -9], 11).arrays()
    index = rng.integers(0, 3, (23, 31), np.int32)
    tables = FrequencyTables.from_arrays(arrays)
    latents = tables.clip(rng.integers(-20, 60, index.shape), index)
    of_sets, shared = FrequencyTables.from_arrays(competing(5).arrays()), np.int32([0, 1, 2] * 7)
    in_sets = of_sets.clip(rng.integers(-4, 8, (23, 21)), shared)
    expected = [encode(latents, tables, index, segments) for segments in (1, 4)]
    expected += [encode(in_sets, of_sets, shared, segments, 5) for segments in (1, 4)]
    monkeypatch.setattr(range_coder, "_LANES_AT_ONCE", 10)
    monkeypatch.setattr(range_coder, "_SUMS_AT_ONCE", 15)
    monkeypatch.setattr(lanes, "_LOOKUP_ENTRIES", 0)
    tables = FrequencyTables.from_arrays(arrays)  # look-ups are kept with the tables that they were made for
    assert lanes.Coding.of(tables).shared_bits == tables.precision
    found = [check_coder(tables, latents, index, segments) for segments in (1, 4)]
    of_sets = competing(5)
    assert found + [check_coder(of_sets, in_sets, shared, segments, 5) for segments in (1, 4)] == expected


# === Bounds ===


@pytest.mark.parametrize("precision", [8, 12, 14])
def test_mean_bytes_are_within_half_a_byte_of_the_ideal(precision: int) -> None:
    # A single message may be shorter than its ideal: the zero bytes it ends in are dropped.
    rng = np.random.default_rng(precision)
    values = np.arange(-20, 21)
    tables = FrequencyTables.from_probabilities(
        [np.exp(-np.abs(values) / scale) for scale in np.geomspace(0.3, 5, 16)], [-20] * 16, precision
    )
    index = np.arange(48, dtype=np.int32) % 16
    latents = np.empty((4000, 48), np.int32)
    for column, table in enumerate(index):
        frequencies = tables.frequencies[tables.first[table] :][: tables.sizes[table]]
        latents[:, column] = rng.choice(values, len(latents), p=frequencies / (1 << precision))
    ideal_bytes = tables.ideal_bits(latents, index).sum(axis=1) / 8
    payload_bytes = np.array([len(payload) for payload in encode(latents, tables, index)])
    assert ideal_bytes.mean() <= payload_bytes.mean() <= ideal_bytes.mean() + 0.5
    worst = np.array([worst_bits(tables, x, index) for x in latents]) / 8 + 1
    assert np.all(payload_bytes <= worst)


@pytest.mark.parametrize("segments", [1, 4])
def test_max_payload_bytes_is_nearly_reached(segments: int) -> None:
    tables = two_values(12, 5)
    index = np.zeros(400, np.int32)
    bound = max_payload_bytes(tables, index, segments)
    (payload,) = check_coder(tables, np.zeros((1, 400), np.int32), index, segments)
    assert bound == 2 * (segments - 1) + segments * (math.floor(400 / segments * (12 - math.log2(5)) / 8) + 1)
    # The least value is coded first: low stays 0, and all digits are dropped. With the other value at the end none are.
    assert payload == b""
    latents = np.zeros((1, 400), np.int32)
    latents[:, 400 // segments - 1 :: 400 // segments] = 1
    (payload,) = check_coder(tables, latents, index, segments)
    assert bound - 3 * segments <= len(payload) <= bound


# === Refusals ===


@pytest.mark.parametrize(
    ("payloads", "segments", "message"),
    [
        ([b"\1", b"\1\0"], 1, r"message 1: expected a last byte other than zero, found zero"),
        ([b"", b"", b"\1" * 20], 1, r"message 2: expected at most \d+ bytes, found 20"),
        ([b"", "text"], 1, r"message 1: expected bytes, found str"),
        ([bytearray(b"\1")], 1, r"message 0: expected bytes, found bytearray"),
        ([b"", b"\x02\0\1\0\1"], 2, r"message 1, segment 0: expected a last byte other than zero, found zero"),
        ([b"\1\0\1\0"], 2, r"message 0: expected a last byte other than zero, found zero"),
        ([b"", b"\x05\0\1"], 2, r"message 1: expected 7 bytes or more for 2 segments, found 3"),
        ([b"\x05"], 2, r"message 0: expected 7 bytes or more for 2 segments, found 1"),
        ([b"\0\0" + b"\1" * 20], 2, r"message 0, segment 1: expected at most \d+ bytes, found 20"),
        ([b"\x14\0" + b"\1" * 20], 2, r"message 0, segment 0: expected at most \d+ bytes, found 20"),
    ],
)
def test_bytes_that_encode_cannot_make(payloads: list[bytes], segments: int, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        decode(payloads, skewed(), np.zeros(10, np.int32), segments)


def test_an_error_names_its_message_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_coder, "_LANES_AT_ONCE", 4)
    with pytest.raises(BitstreamError, match="message 7, segment 1: expected at most"):
        decode([b"\1\0\1\1"] * 7 + [b"\1\0\1" + b"\1" * 20], skewed(), np.zeros(10, np.int32), segments=2)


def test_the_longest_message_is_refused_with_one_byte_more() -> None:
    tables, index = skewed(), np.zeros(30, np.int32)
    latents = np.int32([[4, -4, 3] * 10])
    (payload,) = encode(latents, tables, index)
    longest = model_of(latents[0], tables, index).digits + 1
    filled = payload.ljust(longest, b"\0")[:-1] + bytes([payload[-1] if len(payload) == longest else 1])
    np.testing.assert_array_equal(decode([filled], tables, index), latents)
    with pytest.raises(BitstreamError, match=f"message 0: expected at most {longest} bytes, found {longest + 1}"):
        decode([filled + b"\1"], tables, index)


@pytest.mark.parametrize(
    ("latents", "index", "segments", "message"),
    [
        (np.zeros((2, 5), np.int64), np.zeros(5, np.int32), 1, r"latents as int32 \[N, S\], found int64 \[2, 5\]"),
        (np.zeros(5, np.int32), np.zeros(5, np.int32), 1, r"latents as int32 \[N, S\], found int32 \[5\]"),
        ([[0]], np.zeros(1, np.int32), 1, r"latents as int32 \[N, S\], found list"),
        (np.full((2, 5), 5, np.int32), np.zeros(5, np.int32), 1, "support"),
        (np.full((2, 5), -5, np.int32), np.zeros(5, np.int32), 1, "support"),
        (np.zeros((2, 5), np.int32), np.zeros(5), 1, r"index as int32 .* found float64 \[5\]"),
        (np.zeros((2, 5), np.int32), np.int32(0), 1, "index as int32"),
        (np.zeros((2, 5), np.int32), np.zeros(4, np.int32), 1, r"index of shape \[5\] or \[2, 5\], found \[4\]"),
        (np.zeros((2, 5), np.int32), np.zeros((1, 5), np.int32), 1, r"found \[1, 5\]"),
        (np.zeros((2, 5), np.int32), np.full(5, 1, np.int32), 1, "index of 0 to 0, found 1 to 1"),
        (np.zeros((2, 5), np.int32), np.full(5, -1, np.int32), 1, "index of 0 to 0, found -1 to -1"),
        (np.zeros((2, 5), np.int32), np.zeros(5, np.int32), 0, "1 segment or more, found 0"),
        (np.zeros((2, 5), np.int32), np.zeros(5, np.int32), 1.5, "1 segment or more, found 1.5"),
    ],
)
def test_input_that_cannot_be_encoded(latents: Int32, index: Int32, segments: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(latents, skewed(), index, segments)


def test_input_that_cannot_be_decoded() -> None:
    with pytest.raises(InputError, match=r"2 payloads, found one of shape \[3, 5\]"):
        decode([b"", b""], skewed(), np.zeros((3, 5), np.int32))
    with pytest.raises(InputError, match="index of 0 to 0, found 3 to 3"):
        decode([b"", b""], skewed(), np.full(5, 3, np.int32))
    with pytest.raises(InputError, match="segments of 1 symbol or more"):
        segment_count(10, 0)


def test_segments_that_could_outgrow_their_length_are_refused() -> None:
    tables, index = two_values(14, 1), np.zeros(2 * 37446, np.int32)
    latents = np.ones((1, index.size), np.int32)
    for call in (
        lambda: encode(latents, tables, index, 2),
        lambda: decode([b""], tables, index, 2),
        lambda: max_payload_bytes(tables, index, 2),
    ):
        with pytest.raises(InputError, match="cannot exceed 65535 bytes, found 2 of up to 65557 bytes"):
            call()
    assert max_payload_bytes(tables, index[:-100], 2) > 2 * 65000
    # The last segment may be of any length.
    tables = FrequencyTables.from_probabilities([np.ones(1), np.array([0.0, 1.0])], [0, 0], 14)
    index = np.repeat(np.int32([0, 1]), 40000)
    assert max_payload_bytes(tables, index, 2) > 70000
    latents = index[np.newaxis]
    assert encode(latents, tables, index, 1) == [model_encode(latents[0], tables, index, 1)]


def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tfcomp.coding.compiled", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfcomp\[fast\]"'):
        use_numba()
