"""Latents of one shape as payloads: a table for each position of the latent, chosen when the codec was frozen.

A payload is the code of `tfcomp.coding.range_coder` and nothing else: the decoder knows shape, tables and segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.entropy import base
from tfcomp.errors import BitstreamError, InputError

MAX_RANK = 8
"""Largest number of axes of a latent."""


@dataclass(frozen=True, eq=False)
class StaticModel:
    """Integer latents of one shape <-> payloads.

    Attributes:
        tables: the integer tables, in any number; with several sets, all of them and the selector (see
            `tfcomp.coding.range_coder`).
        index: int32 [symbols], the table of each position of a message within its set, in C order of the latent.
        latent_shape: shape of one item's latent, of one axis or more.
        symbols_per_segment: a message of more symbols than this is coded in parallel segments. 2,048 symbols of 3 bits
            cost 0.3 % in segments and let LiteRT code 10 million symbols a second (`benchmarks/graph_coder_speed.py`).
        sets: how many sets of tables compete for each segment.

    Raises:
        BitstreamError: if the arrays do not fit one another.

    Examples:
        >>> tables = FrequencyTables.from_probabilities([np.float64([1, 6, 1])], [-1])
        >>> model = StaticModel(tables, np.zeros(6, np.int32), latent_shape=(2, 3))
        >>> payloads = model.encode(np.int32([[[0, 0, 1], [0, -1, 0]]]))
        >>> model.decode(payloads).tolist(), len(payloads[0])
        ([[[0, 0, 1], [0, -1, 0]]], 1)
    """

    tables: FrequencyTables
    index: Int32
    latent_shape: tuple[int, ...]
    symbols_per_segment: int = 2048
    sets: int = 1

    format_id: ClassVar[str] = base.STATIC

    def __post_init__(self) -> None:
        shape = self.latent_shape
        if not 1 <= len(shape) <= MAX_RANK or min(shape) < 1 or self.symbols_per_segment < 1:
            raise BitstreamError(
                f"expected a latent of one position or more and at least one symbol per segment, "
                f"found {shape} and {self.symbols_per_segment}"
            )
        if self.index.dtype != np.int32 or self.index.shape != (self.symbols,):
            actual = f"{self.index.dtype} {self.index.shape}"
            raise BitstreamError(f"expected a table index as int32 ({self.symbols},), found {actual}")
        if self.index.min() < 0 or self.index.max() >= len(self.tables):
            raise BitstreamError(f"expected table indices below {len(self.tables)}, found up to {self.index.max()}")
        try:
            range_coder.max_payload_bytes(self.tables, self.index, self.segments, self.sets)
        except InputError as error:
            raise BitstreamError(str(error)) from error

    @property
    def symbols(self) -> int:
        """Number of symbols of one message."""
        return math.prod(self.latent_shape)

    @property
    def segments(self) -> int:
        """Number of segments of one message."""
        return range_coder.segment_count(self.symbols, self.symbols_per_segment)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name the format and all arrays of the model."""
        return base.fingerprint(self.format_id, self.arrays())

    def flat(self, latents: NDArray[np.integer]) -> NDArray[np.integer]:
        """[N, *latent_shape] -> [N, symbols]."""
        return base.flat(latents, self.latent_shape)

    def clip(self, latents: NDArray[np.integer]) -> Int32:
        """int32 [N, *latent_shape], each value moved to the nearest one that its table holds."""
        return self.tables.clip(self.flat(latents), self.index).reshape(latents.shape)

    def encode(self, latents: NDArray[np.integer]) -> list[bytes]:
        """int32 [N, *latent_shape], inside the tables' supports -> N payloads."""
        flat = self.flat(latents).astype(np.int32)
        return range_coder.encode(flat, self.tables, self.index, self.segments, self.sets)

    def decode(self, payloads: Sequence[bytes]) -> Int32:
        """N payloads -> int32 [N, *latent_shape]. Raises `BitstreamError` on what cannot be a payload of this model."""
        latents = range_coder.decode(payloads, self.tables, self.index, self.segments, self.sets)
        return latents.reshape(len(latents), *self.latent_shape)

    def ideal_bits(self, latents: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 [N], the ideal code length of each item under the integer tables in bits, selectors included."""
        selectors, table = self.tables_of(latents)
        return selectors + self.tables.ideal_bits(self.flat(latents).astype(np.int32), table).sum(axis=1)

    def tables_of(self, latents: NDArray[np.integer]) -> tuple[NDArray[np.float64], Int32]:
        """Bits of each item's selectors, float64 [N], and the table that codes each symbol, int32 [N, symbols]."""
        flat = self.flat(latents).astype(np.int32)
        if self.sets == 1:
            return np.zeros(len(flat)), np.broadcast_to(self.index, flat.shape)
        chosen = range_coder.choose_sets(flat, self.tables, self.index, self.segments, self.sets)
        per_segment = -(-self.symbols // self.segments)
        in_use = -(-self.symbols // per_segment)
        selectors = self.tables.ideal_bits(chosen[:, :in_use], np.array([len(self.tables) - 1], np.int32))
        of_set = np.repeat(chosen, per_segment, axis=1)[:, : self.symbols] * np.int32(len(self.tables) // self.sets)
        return selectors.sum(axis=1), of_set + self.index

    # === Files ===

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The whole model as named int32 arrays."""
        return {
            **self.tables.arrays(),
            "index": self.index,
            "latent_shape": np.array(self.latent_shape, np.int32),
            "symbols_per_segment": np.array(self.symbols_per_segment, np.int32),
            "sets": np.array(self.sets, np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> StaticModel:
        """The inverse of `arrays`; raises `BitstreamError` on anything that is not a valid model."""
        ranks = {**base.TABLE_RANKS, "index": 1, "latent_shape": 1, "symbols_per_segment": 0, "sets": 0}
        checked = base.int32_arrays(arrays, ranks)
        shape = tuple(int(n) for n in checked["latent_shape"][: MAX_RANK + 1])
        segment, sets = int(checked["symbols_per_segment"]), int(checked["sets"])
        return cls(FrequencyTables.from_arrays(checked), checked["index"], shape, segment, sets)
