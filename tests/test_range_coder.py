"""The payload format against a model of it in unbounded integers; its bounds, golden payloads, and corrupt bytes."""

from __future__ import annotations

import doctest
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp import lanes, range_coder
from tfcomp.errors import BitstreamError, InputError
from tfcomp.range_coder import choose_sets, decode, encode, max_payload_bytes, segment_count
from tfcomp.tables import COST_UNITS, MAX_PRECISION, FrequencyTables, Int32

GOLDEN = Path(__file__).parent / "golden" / "payloads.json"

# === The format, once more: no digits and no carries, only one ever longer integer ===


class Model:
    """The interval ``[low, low + range) / 2**(30 + 8 * digits)`` of a message, exact."""

    def __init__(self, tables: FrequencyTables) -> None:
        self.tables = tables
        self.low, self.range, self.digits = 0, 1 << 30, 0
        self.ranges: list[int] = []  # after each symbol, before it grows again

    def narrow(self, position: int) -> None:
        start, frequency = int(self.tables.starts[position]), int(self.tables.frequencies[position])
        unit = self.range >> self.tables.precision
        self.low += unit * start
        is_last = start + frequency == 1 << self.tables.precision
        self.range = self.range - unit * start if is_last else unit * frequency
        self.ranges.append(self.range)
        while self.range < 1 << 22:
            self.low, self.range, self.digits = self.low << 8, self.range << 8, self.digits + 1
        assert 1 << 22 <= self.range <= 1 << 30

    def digits_of(self, value: int) -> bytes:
        return (value << 2).to_bytes(self.digits + 4, "big")

    def payload(self) -> bytes:
        zeros = next(k for k in range(30, -1, -1) if -(-self.low >> k) << k < self.low + self.range)
        return self.digits_of(-(-self.low >> zeros) << zeros).rstrip(b"\0")


def model_of(latents: Int32, tables: FrequencyTables, index: Int32) -> Model:
    model = Model(tables)
    for position in tables.positions(latents, index).tolist():
        model.narrow(position)
    return model


def under_set(m: int, latents: Int32, tables: FrequencyTables, index: Int32, sets: int) -> tuple[Int32, Int32]:
    """A segment of table sets as what it is: a segment of one symbol more."""
    if sets == 1 or not latents.size:
        return latents, index
    return np.append(np.int32(m), latents), np.append(np.int32(len(tables) - 1), index + m * (len(tables) // sets))


def model_choice(latents: Int32, tables: FrequencyTables, index: Int32, sets: int) -> int:
    def cost(m: int) -> int:
        frequencies = tables.frequencies[tables.positions(*under_set(m, latents, tables, index, sets))].tolist()
        return sum(round(256 * (tables.precision - math.log2(frequency))) for frequency in frequencies)

    return min(range(sets), key=cost) if latents.size else 0


def segments_of(latents: Int32, segments: int) -> list[slice]:
    length = math.ceil(len(latents) / segments)
    return [slice(k * length, (k + 1) * length) for k in range(segments)]


def model_encode(
    latents: Int32, tables: FrequencyTables, index: Int32, segments: int, sets: int = 1, chosen: list[int] | None = None
) -> bytes:
    cuts = segments_of(latents, segments)
    chosen = chosen or [model_choice(latents[cut], tables, index[cut], sets) for cut in cuts]
    whole = [under_set(m, latents[cut], tables, index[cut], sets) for m, cut in zip(chosen, cuts, strict=True)]
    pieces = [model_of(x, tables, i).payload() for x, i in whole]
    header = b"".join(bytes([len(piece) & 255, len(piece) >> 8]) for piece in pieces[:-1])
    return (header + b"".join(pieces)).rstrip(b"\0")


def model_decode(payload: bytes, tables: FrequencyTables, index: Int32, sets: int = 1) -> list[int]:
    model, latents, to_set = Model(tables), [], 0
    selector = [len(tables) - 1] if sets > 1 and index.size else []
    for step, table in enumerate([*selector, *index.tolist()]):
        if step == 1 and selector:
            to_set = latents.pop() * (len(tables) // sets)
        bits = 30 + 8 * model.digits
        code = (int.from_bytes(payload, "big") << bits >> 8 * len(payload)) - model.low
        slot = min(code // (model.range >> tables.precision), (1 << tables.precision) - 1)
        first, size = int(tables.first[table + to_set]), int(tables.sizes[table + to_set])
        position = next(
            p for p in range(first, first + size) if tables.starts[p] <= slot < tables.starts[p] + tables.frequencies[p]
        )
        model.narrow(position)
        latents.append(position - first + int(tables.lower[table + to_set]))
    return latents


# === Contracts ===


def worst_bits(tables: FrequencyTables, latents: Int32, index: Int32) -> float:
    """The docstring's bound on the cost of a message, without the byte that ends it."""
    rounding = -math.log2(1 - 2.0 ** (tables.precision - 22))
    return float(tables.ideal_bits(latents, index).sum()) + rounding * latents.size


def check_coder(tables: FrequencyTables, latents: Int32, index: Int32, segments: int = 1, sets: int = 1) -> list[bytes]:
    """All that the format promises of any messages that can be coded at all."""
    payloads = encode(latents, tables, index, segments, sets)
    rows = np.broadcast_to(index, latents.shape)
    assert payloads == [model_encode(x, tables, i, segments, sets) for x, i in zip(latents, rows, strict=True)]
    restored = decode(payloads, tables, index, segments, sets)
    assert restored.dtype == np.int32
    np.testing.assert_array_equal(restored, latents)
    chosen = choose_sets(latents, tables, index, segments, sets)
    assert (chosen.dtype, chosen.shape) == (np.int32, (len(latents), segments))
    for payload, x, i, of_segments in zip(payloads, latents, rows, chosen.tolist(), strict=True):
        cuts = segments_of(x, segments)
        assert of_segments == [model_choice(x[cut], tables, i[cut], sets) for cut in cuts]
        whole = [under_set(m, x[cut], tables, i[cut], sets) for m, cut in zip(of_segments, cuts, strict=True)]
        bits = sum(worst_bits(tables, *segment) for segment in whole)
        assert len(payload) <= max_payload_bytes(tables, np.ascontiguousarray(i), segments, sets)
        assert len(payload) <= bits / 8 + segments + 2 * (segments - 1) + 1e-6
    return payloads


@st.composite
def frequency_tables(draw: st.DrawFn, sets: int = 1, max_tables: int = 4) -> FrequencyTables:
    precision = draw(st.integers((sets - 1).bit_length() or 1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def probabilities(size: int) -> NDArray[np.float64]:
        return rng.random(size) ** draw(st.sampled_from([0.0, 1.0, 10.0, 200.0])) + 1e-300

    size = st.integers(1, min(1 << precision, 40)) | st.just(1) | st.just(min(1 << precision, 300))
    sizes = draw(st.lists(size, min_size=1, max_size=max_tables))
    lower = draw(st.lists(st.integers(-400, 400), min_size=len(sizes), max_size=len(sizes)))
    if sets == 1:
        return FrequencyTables.from_probabilities([*map(probabilities, sizes)], lower, precision)
    alike = draw(st.booleans())  # so that sets tie, wherever their selectors cost the same
    parts = [*map(probabilities, sizes)] * sets if alike else [*map(probabilities, sizes * sets)]
    return FrequencyTables.from_probabilities([*parts, probabilities(sets)], [*lower * sets, 0], precision)


Messages = tuple[FrequencyTables, Int32, Int32, int, int]


@st.composite
def messages(draw: st.DrawFn) -> Messages:
    sets = draw(st.sampled_from([1, 1, 2, 3, 16]))
    tables = draw(frequency_tables(sets))
    count, symbols = draw(st.integers(0, 4)), draw(st.integers(0, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    of_each = sets == 1 and draw(st.booleans())
    index = rng.integers(0, max(1, len(tables) // sets), (count, symbols) if of_each else symbols, np.int32)
    rows = index + rng.integers(0, sets, (count, 1)) * (len(tables) // sets)
    kind = draw(st.sampled_from(["uniform", "least", "most", "likely"]))
    if kind == "likely":
        slots = rng.integers(0, 1 << tables.precision, rows.shape)
        coding = lanes.Coding.of(tables)
        position = coding.order.take(coding.find((rows << tables.precision) + slots))
        latents = position - (tables.first - tables.lower)[rows]
    elif kind == "most":
        latents = (tables.most_probable - tables.first + tables.lower)[rows]
    elif kind == "least":
        parts = np.split(tables.frequencies, tables.first[1:])
        latents = (np.array([part.argmin() for part in parts]) + tables.lower)[rows]
    else:
        latents = tables.lower[rows] + (rng.random(rows.shape) * tables.sizes[rows]).astype(np.int32)
    return tables, latents.astype(np.int32), index, draw(st.integers(1, 6)), sets


@settings(max_examples=400)
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


def skewed(precision: int = 12, size: int = 9) -> FrequencyTables:
    return FrequencyTables.from_probabilities([0.4 ** np.abs(np.arange(size) - size // 2)], [-(size // 2)], precision)


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


def two_values(precision: int, frequency: int) -> FrequencyTables:
    """The value 0 has the frequency, the value 1 the rest, and is coded last."""
    return FrequencyTables(precision, np.int32([0]), np.int32([2]), np.int32([frequency, (1 << precision) - frequency]))


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


# === Table sets ===


def competing(sets: int, selector: list[int] | None = None) -> FrequencyTables:
    """Sets whose latents are around -1, 0, 1, ...; three tables in each, the second of one value."""
    values = np.arange(-4, 5)
    parts = [p for m in range(sets) for p in (0.5 ** np.abs(values - m + 1), np.ones(1), 0.6 ** np.abs(values - m + 1))]
    return FrequencyTables.from_probabilities([*parts, np.array(selector or [1] * sets)], [*[-4, 7, -4] * sets, 0], 10)


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


# === The docstring and the golden payloads ===


def test_the_docstring_is_true() -> None:
    result = doctest.testmod(range_coder)
    assert result.attempted > 4
    assert result.failed == 0


def golden_cases() -> list[dict[str, object]]:
    """Messages made by integer arithmetic alone, so that they are the same everywhere."""
    tables = FrequencyTables.from_arrays(
        {
            "precision": np.int32(8),
            "lower": np.int32([-2, 9, 0, -1]),
            "sizes": np.int32([5, 1, 2, 3]),
            "frequencies": np.int32([5, 60, 130, 60, 1, 256, 255, 1, 64, 128, 64]),
        }
    )
    draw = [pow(48271, k + 1, 2**31 - 1) >> 9 for k in range(400)]
    mixed = np.int32([k % 7 % 4 for k in range(400)])
    cases = []
    for name, index, segments in [
        ("one message of few symbols", mixed[:9], 1),
        ("one message of 400 symbols", mixed, 1),
        ("seven segments", mixed, 7),
        ("more segments than symbols", mixed[:5], 8),
        ("one-symbol tables alone", np.full(20, 1, np.int32), 3),
        ("no symbols", mixed[:0], 1),
    ]:
        latents = tables.lower[index] + np.int32(draw[: index.size]) % tables.sizes[index]
        cases.append((name, tables, index, segments, latents, 1))
    cases.append(("a carry through 50 digits", skewed(), *_carried(skewed()), 1))
    tables = _golden_sets()
    for name, index, segments in [
        ("three sets, one message", mixed[:40] % 2, 1),
        ("three sets, four segments, the last one empty", mixed[:9] % 2, 4),
        ("three sets, one-symbol tables alone", np.ones(6, np.int32), 2),
    ]:
        latents = tables.lower[index] + np.int32(draw[: index.size]) % tables.sizes[index]
        cases.append((name, tables, index, segments, latents, 3))
    return [
        {
            "name": name,
            "precision": used.precision,
            **{key: getattr(used, key).tolist() for key in ("lower", "sizes", "frequencies")},
            "index": index.tolist(),
            "segments": segments,
            **({"sets": sets} if sets > 1 else {}),
            "latents": latents.tolist(),
            "payload": encode(latents[np.newaxis], used, index, segments, sets)[0].hex(),
        }
        for name, used, index, segments, latents, sets in cases
    ]


def _golden_sets() -> FrequencyTables:
    frequencies = [
        [150, 40, 30, 26, 10],
        [256],
        [20, 50, 116, 50, 20],
        [256],
        [10, 10, 30, 70, 136],
        [256],
        [6, 50, 200],
    ]
    return FrequencyTables.from_arrays(
        {
            "precision": np.int32(8),
            "lower": np.int32([-2, 9, -2, 9, -2, 9, 0]),
            "sizes": np.int32([len(part) for part in frequencies]),
            "frequencies": np.concatenate(frequencies).astype(np.int32),
        }
    )


def _carried(tables: FrequencyTables) -> tuple[Int32, int, Int32]:
    index = np.zeros(250, np.int32)
    latents = decode([b"\x05"], tables, index)[0]
    latents[-8:] = 4
    return index, 1, latents


def test_golden_payloads(rewrite_golden: bool) -> None:
    if rewrite_golden:
        lines = ",\n".join(json.dumps(case) for case in golden_cases())
        GOLDEN.write_text(f'{{"format_version": {range_coder.FORMAT_VERSION}, "cases": [\n{lines}\n]}}\n')
    golden = json.loads(GOLDEN.read_text())
    assert golden["format_version"] == range_coder.FORMAT_VERSION
    assert len(golden["cases"]) == 10
    for case in golden["cases"]:
        arrays = {key: np.array(case[key], np.int32) for key in ("precision", "lower", "sizes", "frequencies")}
        tables, index = FrequencyTables.from_arrays(arrays), np.array(case["index"], np.int32)
        latents = np.array([case["latents"]], np.int32).reshape(1, -1)
        payloads = [bytes.fromhex(case["payload"])]
        how = case["segments"], case.get("sets", 1)
        np.testing.assert_array_equal(decode(payloads, tables, index, *how), latents, case["name"])
        assert check_coder(tables, latents, index, *how) == payloads, case["name"]
