"""How the parts of a codec are run: items of one shape in batches, items of any size in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tfcomp.parts import Parts, Quality, Tally
from tfcomp.tiled import TiledPipeline
from tfcomp.uniform import UniformPipeline


class Pipeline(Protocol):
    """From items to payloads and back; arrays for items of one shape, lists for items of any size."""

    def encode(self, items: Any, quality: Quality, effort: int = 0) -> tuple[Any, int]:
        """Integers, and how many of them were clipped."""
        ...

    def compress(
        self, items: Any, quality: Quality, effort: int, target_bytes: int | None
    ) -> tuple[list[bytes], Tally]:
        """Payloads, and what is counted of them."""
        ...

    def ideal_bits(self, payloads: Sequence[bytes], quality: Quality, /) -> float:
        """Ideal code length of payloads under their tables, in bits."""
        ...

    def decode(self, payloads: Sequence[bytes], quality: Quality, /) -> Any:
        """Integers of payloads."""
        ...

    def decompress(self, payloads: Sequence[bytes], quality: Quality, /) -> Any:
        """Items of payloads."""
        ...

    def describe(self, payload: bytes, quality: Quality, /) -> str:
        """What is known of a payload, in a few words."""
        ...

    def measured(self, quality: Quality) -> Quality:
        """The quality with curvature and lagrangian."""
        ...


def pipeline_of(parts: Parts) -> Pipeline:
    """The pipeline for a codec's items."""
    return TiledPipeline(parts) if parts.item.any_size else UniformPipeline(parts)
