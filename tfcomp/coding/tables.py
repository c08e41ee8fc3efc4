"""Integer frequency tables: the one place where probabilities cross from float to integer.

A table gives every integer value of its support, ``lower <= value < lower + size``, a frequency:

    1 <= frequency,    sum(frequency) == 2**precision,    size <= 2**precision

so that ``-log2(frequency / 2**precision)`` bits is the exact ideal cost of the value, on every machine. In the coding
order, the values ascend and the most probable one (the lowest of equals) is moved to the end:

    starts[value] = sum of the frequencies of all values before it in that order

    0                                                              2**precision
    |-- value 0 --|-- value 1 --|-- value 3 --|-- value 2, the most probable --|

The range coder gives the last interval the remainder of its division, so that a table of one value costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError, InputError

MAX_PRECISION = 14
COST_UNITS = 1 << 8  # units of FrequencyTables.costs in a bit

Int32 = NDArray[np.int32]


def allot(probabilities: NDArray[np.floating], precision: int) -> Int32:
    """Integer frequencies for one table that minimise the expected code length.

    Args:
        probabilities: float [size], non-negative, with a positive sum; need not be normalised.
        precision: the frequencies sum to ``2**precision``.

    Returns:
        int32 [size], each at least 1. Of all such tables it has the least ``-sum(p * log2(frequency))``. Raising a
        frequency ``f`` by one gains ``p * log((f + 1) / f)``, less each time, so the best table is the one that has
        taken all gains above some threshold ``1 / c``; those are the ``f < 1 / (exp(1 / (c * p)) - 1)``.

    Raises:
        InputError: on an empty, negative or non-finite distribution, or one with more values than ``2**precision``.
    """
    p = np.asarray(probabilities, np.float64)
    total = 1 << precision
    if p.ndim != 1 or not 1 <= p.size <= total:
        raise InputError(f"expected 1 to {total} probabilities for one table, found an array of shape {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0) or p.max() <= 0:
        extremes = f"{p.min()} to {p.max()}"
        raise InputError(f"expected finite, non-negative probabilities with a positive sum, found {extremes}")
    p = p / p.max()  # first, as the sum of large numbers could overflow
    p /= p.sum()

    def above_threshold(c: float) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", over="ignore"):
            return np.maximum(1, np.ceil(1 / np.expm1(1 / (c * p))))

    enough, too_much = 0.0, 2.0 * total  # an entry gets c * p - 1/2 or more, so 2 * total hands out too much
    frequency, left = np.ones_like(p), total - p.size
    # The end: nothing is left, or no float lies between the two.
    while left and enough < (c := (enough + too_much) / 2) < too_much:
        more = above_threshold(c)
        if more.sum() <= total:
            enough, frequency, left = c, more, total - int(more.sum())
        else:
            too_much = c
    # What is left are equal gains, at most one for each entry.
    frequency[np.argsort(-p * np.log1p(1 / frequency), kind="stable")[:left]] += 1
    return frequency.astype(np.int32)


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """``T`` tables of one precision, stored end to end.

    Examples:
        >>> tables = FrequencyTables.from_probabilities([np.float64([1, 6, 1])], lower=[-1], precision=4)
        >>> tables.frequencies.tolist(), tables.ideal_bits(np.int32([0, 1]), np.int32([0, 0])).round(2).tolist()
        ([2, 12, 2], [0.42, 3.0])

    Attributes:
        precision: ``1 <= precision <= 14``; every table sums to ``2**precision``.
        lower: int32 [T], the smallest latent value of each table.
        sizes: int32 [T], how many consecutive values each table holds.
        frequencies: int32 [sum(sizes)], table by table, values ascending.

    Raises:
        BitstreamError: if the arrays break an invariant of the module's docstring. A ``FrequencyTables`` that exists is
            valid, so no coder checks it again.
    """

    precision: int
    lower: Int32
    sizes: Int32
    frequencies: Int32

    def __post_init__(self) -> None:
        if not 1 <= self.precision <= MAX_PRECISION:
            raise BitstreamError(f"expected a table precision of 1 to {MAX_PRECISION} bits, found {self.precision}")
        for name in ("lower", "sizes", "frequencies"):
            array = np.asarray(getattr(self, name))
            if array.ndim != 1 or array.dtype != np.int32:
                raise BitstreamError(f"expected {name} as int32 of rank 1, found {array.dtype} of shape {array.shape}")
        total = 1 << self.precision
        if not 0 < self.sizes.size == self.lower.size:
            raise BitstreamError(f"expected one size for each of {self.lower.size} tables, found {self.sizes.size}")
        values = int(self.sizes.sum(dtype=np.int64))
        if self.sizes.min() < 1 or self.sizes.max() > total or values != self.frequencies.size:
            limits = f"1 to 2**{self.precision} that add up to {self.frequencies.size}"
            raise BitstreamError(f"expected table sizes of {limits}, found {self.sizes.min()} or more, {values} in all")
        if np.any(self.lower.astype(np.int64) + self.sizes > 2**31 - 1):
            raise BitstreamError(f"expected every table's support within int32, found lower up to {self.lower.max()}")
        sums = np.add.reduceat(self.frequencies.astype(np.int64), self.first)
        if self.frequencies.min() < 1 or np.any(sums != total):
            extremes = f"{self.frequencies.min()} or more and sums of {sums.min()} to {sums.max()}"
            raise BitstreamError(f"expected positive frequencies that sum to {total} in every table, found {extremes}")

    @classmethod
    def from_probabilities(
        cls, probabilities: Sequence[NDArray[np.floating]], lower: Sequence[int] | Int32, precision: int = 12
    ) -> FrequencyTables:
        """Tables with the least expected code length under the given distributions.

        Args:
            probabilities: ``T`` float arrays; entry ``j`` of array ``t`` belongs to the latent value ``lower[t] + j``.
            lower: [T] integers, the smallest value of each support.
            precision: bits of every frequency's denominator.
        """
        frequencies = [allot(p, precision) for p in probabilities]
        sizes = np.array([len(f) for f in frequencies], np.int32)
        return cls(precision, np.asarray(lower, np.int32), sizes, np.concatenate(frequencies))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FrequencyTables:
        """The inverse of `arrays`; raises `BitstreamError` on anything that is not a valid set of tables."""
        missing = {"precision", "lower", "sizes", "frequencies"} - set(arrays)
        if missing:
            raise BitstreamError(f"expected the arrays of frequency tables, found none named {sorted(missing)}")
        return cls(int(arrays["precision"]), arrays["lower"], arrays["sizes"], arrays["frequencies"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that defines the tables, as named arrays for an ``.npz``."""
        return {
            "precision": np.array(self.precision, np.int32),
            "lower": self.lower,
            "sizes": self.sizes,
            "frequencies": self.frequencies,
        }

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the tables; equal tables, and only they, have equal digests."""
        header = np.array([self.precision, self.sizes.size], "<i4")
        parts = [header, *(np.asarray(a, "<i4") for a in (self.lower, self.sizes, self.frequencies))]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()

    def __len__(self) -> int:
        return int(self.sizes.size)

    @cached_property
    def first(self) -> Int32:
        """int32 [T]: where each table's values begin in `frequencies` and `starts`."""
        return (np.cumsum(self.sizes) - self.sizes).astype(np.int32)

    @cached_property
    def most_probable(self) -> NDArray[np.int64]:
        """int64 [T]: the flat position, in `frequencies`, of each table's most probable value."""
        return np.array(
            [f + np.argmax(self.frequencies[f : f + n]) for f, n in zip(self.first, self.sizes, strict=True)], np.int64
        )

    @cached_property
    def starts(self) -> Int32:
        """int32 [sum(sizes)]: where each value's interval begins in the coding order, table by table."""
        before = np.cumsum(self.frequencies, dtype=np.int64) - self.frequencies
        before -= np.repeat(before[self.first], self.sizes)
        top = np.repeat(self.most_probable, self.sizes)
        frequency_of_top = self.frequencies[top]
        before[np.arange(before.size) > top] -= frequency_of_top[np.arange(before.size) > top]
        before[self.most_probable] = (1 << self.precision) - self.frequencies[self.most_probable]
        return before.astype(np.int32)

    @cached_property
    def costs(self) -> Int32:
        """int32 [sum(sizes)]: the ideal code length of each value, in units of 1/256 bit, rounded.

        Every machine rounds alike: of all frequencies up to ``2**14``, none has a length within 1e-5 of a half-integer.
        """
        return np.rint(COST_UNITS * (self.precision - np.log2(self.frequencies))).astype(np.int32)

    def clip(self, latents: NDArray[np.integer], index: Int32) -> Int32:
        """int32, the latents' shape: the nearest value inside the support of each one's table.

        Args:
            latents: integers [..., S].
            index: int32, broadcastable to ``latents``: the table of each latent.
        """
        return np.clip(latents, self.lower[index], self.lower[index] + self.sizes[index] - 1).astype(np.int32)

    def positions(self, latents: Int32, index: Int32) -> Int32:
        """int32, the latents' shape: where each latent's value lies in `frequencies` and `starts`.

        Raises:
            InputError: if a latent lies outside its table's support; clip first.
        """
        # Modulo 2**32, as int32 subtracts, what lies below a support lies far above it.
        symbols = np.subtract(latents, self.lower.take(index), dtype=np.int32, casting="safe")
        if np.any(symbols.view(np.uint32) >= self.sizes.take(index).view(np.uint32)):
            raise InputError("expected latents inside their tables' support, found others; clip them first")
        symbols += self.first.take(index)
        return symbols

    def ideal_bits(self, latents: Int32, index: Int32) -> NDArray[np.float64]:
        """float64, the latents' shape: the ideal code length of each latent, ``precision - log2(frequency)`` bits."""
        return self.precision - np.log2(self.frequencies[self.positions(latents, index)])


@dataclass(frozen=True, eq=False)
class TableSets:
    """The division of tables into ``M`` sets of ``T`` tables and ``V`` values each.

    Where ``M > 1``, there are ``M * T + 1`` tables. Table ``m * T + t`` belongs to set ``m``; it has the support of
    table ``t``. The last table, of the values ``0 <= m < M``, is the selector. So the value at position ``p`` of set 0,
    ``0 <= p < V``, lies at ``m * V + p`` in set ``m``, and the selector's value ``m`` at ``M * V + m``.

    Attributes:
        count: ``M``.
        tables: ``T``.
        values: ``V``.
        costs: int32 [V + 1, M], `FrequencyTables.costs` of the same value in each set; the last row is zero.
        selector_costs: int32 [M], the costs of the selector's values; zero where ``M = 1``.
    """

    count: int
    tables: int
    values: int
    costs: Int32
    selector_costs: Int32

    @classmethod
    def of(cls, tables: FrequencyTables, count: int) -> TableSets:
        """The sets of these tables.

        Raises:
            InputError: if the tables are not ``count`` sets.
        """
        if not isinstance(count, int) or count < 1:
            raise InputError(f"expected 1 set of tables or more, found {count}")
        if count == 1:
            return cls(1, len(tables), tables.costs.size, np.append(tables.costs, 0)[:, None], np.zeros(1, np.int32))
        per_set, left = divmod(len(tables) - 1, count)
        if per_set < 1 or left:
            raise InputError(f"expected tables for {count} sets and a selector, found {len(tables)}")
        for name, array in (("lowest values", tables.lower), ("sizes", tables.sizes)):
            rows = array[:-1].reshape(count, per_set)
            if np.any(rows != rows[0]):
                raise InputError(f"expected tables of the same {name} in each of {count} sets, found others")
        if tables.lower[-1] != 0 or tables.sizes[-1] != count:
            raise InputError(
                f"expected a last table of {count} values from 0, the selector of {count} sets, "
                f"found one of {tables.sizes[-1]} values from {tables.lower[-1]}"
            )
        of_sets, selector_costs = np.split(tables.costs, [-count])
        columns = np.ascontiguousarray(of_sets.reshape(count, -1).T)
        return cls(count, per_set, len(columns), np.pad(columns, ((0, 1), (0, 0))), selector_costs)
