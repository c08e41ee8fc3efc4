"""Items of one shape: arrays in batches, a payload that is the code alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.sample import SampleModel
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.parts import Parts, Quality, Tally
from tfcomp.processors import processor
from tfcomp.progress import progress
from tfcomp.refinement import BatchRefiner, Slope, lagrangian

BATCH = 256
"""Largest number of items that a network takes at a time."""
LARGEST = 2.0**30
"""Largest latent that is cast to int32, in steps; no table reaches that far."""


class UniformPipeline:
    """Runs the parts of a codec whose items have one shape."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._measured: dict[int, Quality] = {}

    def encode(self, items: Any, quality: Quality, effort: int = 0) -> tuple[Int32, int]:
        """Integers, int32 [N, *latent_shape], and the number of rounded ones outside their table's support."""
        images, model = self.parts.item.batch(items), _static(quality)
        rounded = batched(partial(self._rounded, quality), images, "encode")
        latents = model.clip(rounded)
        clipped = int(np.count_nonzero(rounded != latents))
        if effort:
            measured = self.measured(quality)
            assert measured.curvature is not None
            assert measured.lagrangian is not None
            refiner = BatchRefiner(model, self._slope(quality), measured.curvature, measured.lagrangian)
            latents = refiner.refine(images, latents, effort)
        return latents, clipped

    def compress(
        self, items: Any, quality: Quality, effort: int, target_bytes: int | None
    ) -> tuple[list[bytes], Tally]:
        """Payloads, and the numbers of their integers and of clipped ones."""
        if target_bytes is not None:
            raise InputError("expected target_bytes with items of any size; for items of one shape, freeze with it")
        images = self.parts.item.batch(items)
        with processor():
            latents, clipped = self.encode(images, quality, effort)
            return _static(quality).encode(latents), Tally(latents.size, clipped)

    def ideal_bits(self, payloads: Sequence[bytes], quality: Quality) -> float:
        """Ideal code length of payloads under the tables, in bits; they are decoded for that."""
        model = _static(quality)
        return float(model.ideal_bits(model.decode(payloads)).sum())

    def decode(self, payloads: Sequence[bytes], quality: Quality) -> Int32:
        """Integers of payloads, int32 [N, *latent_shape]."""
        return model_of(quality).decode(payloads)

    def decompress(self, payloads: Sequence[bytes], quality: Quality) -> Images:
        """Items of payloads, uint8 [N, *item_shape]."""
        with processor():
            return self.reconstruct(self.decode(payloads, quality), quality)

    def reconstruct(self, latents: Int32, quality: Quality) -> Images:
        """Items of integers, int32 [N, *latent_shape]."""
        model_of(quality).flat(latents)
        return batched(
            lambda some: self.parts.transform.synthesise(quality.to_units(some), quality.number), latents, "decode"
        )

    def claimed_pixels(self, _: bytes) -> int:
        """Number of pixels that decoding a payload takes: those of an item."""
        return math.prod(n or 1 for n in self.parts.item.shape[:2])

    def describe(self, payload: bytes, quality: Quality) -> str:
        """Shape, dtype and bytes of a payload, in a few words; raises `BitstreamError` if it cannot be decoded."""
        self.decode([payload], quality)
        return f"{self.parts.item} uint8, {len(payload)} bytes"

    def measured(self, quality: Quality) -> Quality:
        """The quality with curvature and lagrangian, which are measured on the calibration items at first."""
        if quality.curvature is not None and quality.lagrangian is not None:
            return quality
        if quality.number not in self._measured:
            transform: Any = self.parts.transform
            if getattr(transform, "calibration", None) is None:
                raise InputError("expected effort=0 with a codec that was exported without what effort needs")
            integers = self.encode(transform.calibration, quality)[0]
            square = np.square(quality.step, dtype=np.float64)
            curvature = (transform.sensitivity(quality.to_units(integers), quality.number) * square).astype(np.float32)
            weight = lagrangian(_static(quality), integers, curvature.astype(np.float64))
            self._measured[quality.number] = replace(quality, curvature=curvature, lagrangian=float(weight))
        return self._measured[quality.number]

    # === Inside ===

    def _rounded(self, quality: Quality, images: Images) -> Int32:
        latents = quality.to_steps(self.parts.transform.analyse(images))
        return np.rint(np.clip(latents, -LARGEST, LARGEST)).astype(np.int32)

    def _slope(self, quality: Quality) -> Slope:
        transform = self.parts.transform
        if not transform.refines:
            raise InputError("expected effort=0 with an artifact whose encoder was exported without a gradient")

        def slope(images: Images, latents: Int32) -> tuple[Any, Any]:
            error, gradient = transform.slope(images, quality.to_units(latents), quality.number)
            return error, gradient * quality.step

        return slope


def model_of(quality: Quality) -> StaticModel | SampleModel:
    """The entropy model of a quality of items of one shape."""
    assert not isinstance(quality.entropy, ContextModel), "parts of items of one shape have models of one shape"
    return quality.entropy


def _static(quality: Quality) -> StaticModel:
    assert isinstance(quality.entropy, StaticModel), "rounded latents of one shape have static models"
    return quality.entropy


def batched(network: Callable[[NDArray[Any]], NDArray[Any]], items: NDArray[Any], label: str) -> NDArray[Any]:
    """The results of a function of items [N, ...] that is called with `BATCH` of them at a time."""
    starts = range(0, len(items), BATCH)
    bar = progress(starts, label, unit="batch")
    parts = [network(items[i : i + BATCH]) for i in bar]
    return np.concatenate(parts) if parts else network(items)
