r"""Samples of a posterior that the decoder does not know, as payloads: relative entropy coding.

The latent's positions are cut into blocks. For each block, sender and receiver share a long list of candidates, drawn
from the prior N(0, 1) by integers; the sender sends the number of one that is distributed as its posterior (how it
finds one: `candidate_search`). A candidate is whole numbers, in units of 1/4096 of the prior's deviation::

    word    = mix(mix(key ^ (list << 24 | index)) ^ position)        in uint32; mix, key: `tfcomp.words`
    integer = quantiles[word >> (32 - Q)]                            2**Q quantiles of the prior, of equal probability

    list    = mix(index of the block before) >> 28                   the item's draw for the first block

``position`` is that of the latent in C order, which is in one block alone. Were there one list, items that are alike
would be given the same few candidates, and over many items of one codec the samples would be fewer than they seem. The
draw, a number of a few bits, is the encoder's choice, and so sent; the lists of later blocks cost nothing.

A payload is the code of `tfcomp.coding.range_coder` and nothing else, of one symbol and three for each block:

    draw    ``0 <= draw < 2**R``, as it is: a table of equal frequencies
    length  ``b = floor(log2(index + 1))``, 0 to 22, under the block's table; those of all blocks come first
    high    the upper ``max(b - 11, 0)`` bits of ``index + 1 - 2**b``, as they are
    low     its lower ``min(b, 11)`` bits likewise

`SampleModel` has them as one row of integers for each item, ``draw, index, index, ...``: the names of its candidates.

Any bytes decode to some index below ``2**23`` for each block, and an index to its integers at once: nothing is
searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tfcomp import words
from tfcomp.coding import lanes, range_coder
from tfcomp.coding.lanes import Coding
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy import base
from tfcomp.entropy.static import MAX_RANK
from tfcomp.errors import BitstreamError, InputError
from tfcomp.words import UInt32, mix

UNIT = 1 << 12
"""The prior's deviation in whole numbers."""
INDEX_BITS, CHUNK_BITS = 22, 11
"""Largest number of bits of an index, and of those that one symbol codes."""
LIST_SHIFT, LIST_BITS, MAX_DRAW_BITS = 24, 4, 7
"""First bit of a list's number in a counter, and its bits: in blocks after the first, and at most in the first."""
STREAM = 4
"""Stream of the candidates' words; `tfcomp.models.sampling` has other streams."""
MAX_INTEGER = 1 << 24
"""Largest magnitude of a quantile: float32 holds whole numbers up to it exactly."""


@dataclass(frozen=True, eq=False)
class SampleModel:
    """Names of candidates <-> payloads, and the integers that they stand for.

    Examples:
        >>> tables = FrequencyTables.from_probabilities([np.ones(INDEX_BITS + 1)], [0])
        >>> block, scored = np.zeros(6, np.int32), np.ones(6, np.int32)
        >>> model = SampleModel(tables, np.int32([-3000, 3000]), block, scored, (2, 3), seed=0, margin=5, draw_bits=6)
        >>> payloads = model.encode(np.int32([[9, 1000]]))  # the draw, and the index of the only block
        >>> model.decode_names(payloads).tolist(), model.decode(payloads).shape, len(payloads[0])
        ([[9, 1000]], (1, 2, 3), 3)

    Attributes:
        tables: a table of the lengths 0 to `INDEX_BITS` for each block.
        quantiles: int32 [2**Q], the prior's quantiles, in units of 1 / `UNIT` of its deviation.
        block: int32 [symbols], the block of each position of the latent, in C order.
        scored: int32 [symbols], 1 where the encoder looks at a position; 0 where posterior and prior are the same.
        latent_shape: shape of one item's latent.
        seed: the shared randomness, 0 to 2**32 - 1.
        margin: bits beyond a block's divergence that the encoder searches candidates for.
        draw_bits: ``R``, bits of the draw, 0 to `MAX_DRAW_BITS`.

    Raises:
        BitstreamError: if the arrays do not fit one another.
    """

    tables: FrequencyTables
    quantiles: Int32
    block: Int32
    scored: Int32
    latent_shape: tuple[int, ...]
    seed: int
    margin: int
    draw_bits: int

    format_id: ClassVar[str] = base.SAMPLE

    def __post_init__(self) -> None:
        if not 1 <= len(self.latent_shape) <= MAX_RANK or min(self.latent_shape) < 1:
            raise BitstreamError(f"expected a latent of one position or more, found {self.latent_shape}")
        for name in ("block", "scored", "quantiles"):
            array = getattr(self, name)
            if array.dtype != np.int32 or array.ndim != 1 or (name != "quantiles" and len(array) != self.symbols):
                raise BitstreamError(f"expected {name} of {self.symbols} positions, found {array.dtype} {array.shape}")
        if np.any(np.unique(self.block) != np.arange(self.blocks)) or not np.all(np.isin(self.scored, (0, 1))):
            raise BitstreamError(f"expected every position in one of {self.blocks} blocks, found others")
        size = len(self.quantiles)
        if not 2 <= size <= 1 << 16 or size & (size - 1) or np.abs(self.quantiles.astype(np.int64)).max() > MAX_INTEGER:
            raise BitstreamError(f"expected 2 to 2**16 quantiles within {MAX_INTEGER}, a power of two, found {size}")
        if np.any(self.tables.lower != 0) or np.any(self.tables.sizes != INDEX_BITS + 1):
            raise BitstreamError(f"expected tables of the lengths 0 to {INDEX_BITS}, found others")
        if not 0 <= self.draw_bits <= MAX_DRAW_BITS:
            raise BitstreamError(f"expected a draw of 0 to {MAX_DRAW_BITS} bits, found {self.draw_bits}")
        if self.tables.precision < CHUNK_BITS or not 0 <= self.margin <= INDEX_BITS or not 0 <= self.seed < 2**32:
            raise BitstreamError(
                f"expected a precision of {CHUNK_BITS} or more, a margin of 0 to {INDEX_BITS} and a seed of 32 bits, "
                f"found {self.tables.precision}, {self.margin} and {self.seed}"
            )

    @property
    def symbols(self) -> int:
        """Number of positions of one latent."""
        return math.prod(self.latent_shape)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.tables)

    @cached_property
    def key(self) -> UInt32:
        """Key of the candidates' words, uint32 [1]."""
        return words.key(self.seed, STREAM)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name the format and all arrays of the model."""
        return base.fingerprint(self.format_id, self.arrays())

    @cached_property
    def coded(self) -> FrequencyTables:
        """The blocks' tables, and after them a table of ``k`` raw bits for each ``k`` from 0 to `CHUNK_BITS`."""
        raw = [np.full(1 << k, 1 << (self.tables.precision - k), np.int32) for k in range(CHUNK_BITS + 1)]
        return FrequencyTables(
            self.tables.precision,
            np.append(self.tables.lower, np.zeros(len(raw), np.int32)),
            np.append(self.tables.sizes, np.array([len(r) for r in raw], np.int32)),
            np.concatenate([self.tables.frequencies, *raw]),
        )

    @cached_property
    def max_payload_bytes(self) -> int:
        """A length in bytes that no payload exceeds."""
        widest = np.full((1, self.blocks), CHUNK_BITS + CHUNK_BITS, np.int32)
        return range_coder.max_payload_bytes(self.coded, self._index(widest))

    # === Candidates ===

    def lists(self, names: Int32) -> UInt32:
        """The list of each block, uint32 [N, blocks], of names, int32 [N, 1 + blocks]."""
        later = mix(names[:, 1:-1].astype(np.uint32)) >> np.uint32(32 - LIST_BITS)
        return np.concatenate([names[:, :1].astype(np.uint32), later], axis=1)

    def begins(self, lists: UInt32, indices: NDArray[np.integer]) -> UInt32:
        """The value that a candidate's words are mixed from: ``mix(key ^ (list << 24 | index))``, uint32, broadcast."""
        return mix(self.key ^ (lists << np.uint32(LIST_SHIFT) | indices.astype(np.uint32)))

    def integers_at(self, begins: UInt32, positions: NDArray[np.integer]) -> Int32:
        """The integers of candidates at positions of the latent, int32, broadcast."""
        shift = np.uint32(32 - (len(self.quantiles).bit_length() - 1))
        return self.quantiles.take(mix(begins ^ positions.astype(np.uint32)) >> shift)

    def integers(self, names: Int32) -> Int32:
        """int32 [N, 1 + blocks] -> the integers that they stand for, int32 [N, *latent_shape]."""
        begins = self.begins(self.lists(names), names[:, 1:])[:, self.block]
        return self.integers_at(begins, np.arange(self.symbols)).reshape(len(names), *self.latent_shape)

    def flat(self, latents: NDArray[np.integer]) -> NDArray[np.integer]:
        """[N, *latent_shape] -> [N, symbols]."""
        return base.flat(latents, self.latent_shape)

    # === Payloads ===

    def encode(self, names: NDArray[np.integer]) -> list[bytes]:
        """int32 [N, 1 + blocks], draws below ``2**R`` and indices of 0 to ``2**23 - 2`` -> N payloads."""
        if names.ndim != 2 or names.shape[1] != 1 + self.blocks or not np.issubdtype(names.dtype, np.integer):
            raise InputError(f"expected names as int32 [N, {1 + self.blocks}], found {names.dtype} {list(names.shape)}")
        highest = np.append(1 << self.draw_bits, np.full(self.blocks, (2 << INDEX_BITS) - 1))
        if np.any(names < 0) or np.any(names >= highest):
            raise InputError(f"expected names below {highest.tolist()}, found others")
        draw, number = names[:, :1].astype(np.int32), names[:, 1:].astype(np.int32) + 1
        length = index_length(number)
        rest, below = number - (1 << length), np.minimum(length, CHUNK_BITS)
        symbols = np.concatenate([draw, length, rest >> below, rest - (rest >> below << below)], axis=1)
        return range_coder.encode(symbols.astype(np.int32), self.coded, self._index(length))

    def decode_names(self, payloads: Sequence[bytes]) -> Int32:
        """N payloads -> int32 [N, 1 + blocks]; raises `BitstreamError` on what cannot be a payload of this model."""
        coding, coded, first = Coding.of(self.coded), self.coded, 1 + self.blocks
        decoder = lanes.Decoder(payloads, coding)
        table = self._index(np.zeros((1, self.blocks), np.int32))[0, :first]
        draw, length = np.split(decoder.take(table[:, None]).T - coded.first[table], [1], axis=1)
        index = self._index(length)[:, first:]
        high, low = np.split(decoder.take(np.ascontiguousarray(index.T)).T - coded.first[index], 2, axis=1)
        _refuse(decoder.end_in_zero, "a last byte other than zero, found zero")
        _refuse(decoder.sizes > decoder.longest, "at most as many bytes as its symbols take, found more")
        indices = (1 << length) + (high << np.minimum(length, CHUNK_BITS)) + low - 1
        return np.concatenate([draw, indices], axis=1).astype(np.int32)

    def decode(self, payloads: Sequence[bytes]) -> Int32:
        """N payloads -> int32 [N, *latent_shape]; raises `BitstreamError` as `decode_names`."""
        return self.integers(self.decode_names(payloads))

    def ideal_bits(self, names: Int32) -> NDArray[np.float64]:
        """float64 [N], the ideal code length of each item's names, int32 [N, 1 + blocks], in bits."""
        length = index_length(names[:, 1:] + 1)
        return self.draw_bits + (self.tables.ideal_bits(length, np.arange(self.blocks, dtype=np.int32)) + length).sum(1)

    def _index(self, length: Int32) -> Int32:
        """The table of each symbol, int32 [N, 1 + 3 * blocks], of lengths, int32 [N, blocks]."""
        of_lengths = np.broadcast_to(np.arange(self.blocks), length.shape)
        raw = [np.full((len(length), 1), self.draw_bits), np.maximum(length - CHUNK_BITS, 0)]
        raw = [self.blocks + bits for bits in (*raw, np.minimum(length, CHUNK_BITS))]
        return np.concatenate([raw[0], of_lengths, *raw[1:]], axis=1).astype(np.int32)

    # === Files ===

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The whole model as named int32 arrays."""
        return {
            **self.tables.arrays(),
            "quantiles": self.quantiles,
            "block": self.block,
            "scored": self.scored,
            "latent_shape": np.array(self.latent_shape, np.int32),
            "seed": np.array(self.seed, np.uint32).view(np.int32),
            "margin": np.array(self.margin, np.int32),
            "draw_bits": np.array(self.draw_bits, np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SampleModel:
        """The inverse of `arrays`; raises `BitstreamError` on anything that is not a valid model."""
        ranks = dict.fromkeys(("quantiles", "block", "scored", "latent_shape"), 1)
        numbers = ("seed", "margin", "draw_bits")
        checked = base.int32_arrays(arrays, {**base.TABLE_RANKS, **ranks, **dict.fromkeys(numbers, 0)})
        shape = tuple(int(n) for n in checked["latent_shape"][: MAX_RANK + 1])
        quantiles, block, scored = (checked[name] for name in ("quantiles", "block", "scored"))
        seed, margin, draw_bits = (int(checked[name]) for name in numbers)
        tables = FrequencyTables.from_arrays(checked)
        return cls(tables, quantiles, block, scored, shape, seed % 2**32, margin, draw_bits)


def index_length(numbers: NDArray[np.integer]) -> Int32:
    """``floor(log2(n))``, int32, of numbers of 1 to 2**31 - 1."""
    return (np.frexp(numbers.astype(np.float64))[1] - 1).astype(np.int32)


def _refuse(bad: NDArray[np.bool_], expected: str) -> None:
    if np.any(bad):
        raise BitstreamError(f"message {int(np.argmax(bad))}: expected {expected}")
