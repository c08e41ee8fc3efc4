"""What the tests of the range coder share: the payload format once more, its contract, and messages to hold it to."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.coding import lanes
from tfcomp.coding.range_coder import choose_sets, decode, encode, max_payload_bytes
from tfcomp.coding.tables import FrequencyTables, Int32

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


# === Contract ===


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


# === Any tables and messages ===


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


# === Certain tables ===


def skewed(precision: int = 12, size: int = 9) -> FrequencyTables:
    return FrequencyTables.from_probabilities([0.4 ** np.abs(np.arange(size) - size // 2)], [-(size // 2)], precision)


def two_values(precision: int, frequency: int) -> FrequencyTables:
    """The value 0 has the frequency, the value 1 the rest, and is coded last."""
    return FrequencyTables(precision, np.int32([0]), np.int32([2]), np.int32([frequency, (1 << precision) - frequency]))


def competing(sets: int, selector: list[int] | None = None) -> FrequencyTables:
    """Sets whose latents are around -1, 0, 1, ...; three tables in each, the second of one value."""
    values = np.arange(-4, 5)
    parts = [p for m in range(sets) for p in (0.5 ** np.abs(values - m + 1), np.ones(1), 0.6 ** np.abs(values - m + 1))]
    return FrequencyTables.from_probabilities([*parts, np.array(selector or [1] * sets)], [*[-4, 7, -4] * sets, 0], 10)
