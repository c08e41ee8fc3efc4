"""Items of one shape whose latent is a sample of the posterior; see `tfcomp.entropy.sample`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcomp.coding.tables import Int32
from tfcomp.entropy.blas import one_blas_thread
from tfcomp.entropy.candidate_search import draws, search
from tfcomp.entropy.sample import SampleModel
from tfcomp.errors import InputError
from tfcomp.parts import Quality, Tally
from tfcomp.processors import processor
from tfcomp.uniform import UniformPipeline, batched


class SampledPipeline(UniformPipeline):
    """Runs the parts of a codec of samples: its encoder searches for a sample instead of rounding a latent."""

    def encode(self, items: Any, quality: Quality, effort: int = 0) -> tuple[Int32, int]:
        """The sample in whole numbers, int32 [N, *latent_shape]; none is clipped."""
        return _model(quality).integers(self._names(items, quality, effort)), 0

    def compress(
        self, items: Any, quality: Quality, effort: int, target_bytes: int | None
    ) -> tuple[list[bytes], Tally]:
        if target_bytes is not None:
            raise InputError("expected no target_bytes with samples of a posterior: the posterior fixes the bytes")
        images, model = self.parts.item.batch(items), _model(quality)
        with processor():
            names = self._names(images, quality, effort)
            return model.encode(names), Tally(len(names) * model.symbols, 0)

    def ideal_bits(self, payloads: Sequence[bytes], quality: Quality) -> float:
        model = _model(quality)
        return float(model.ideal_bits(model.decode_names(payloads)).sum())

    def measured(self, quality: Quality) -> Quality:
        """The quality as it is: samples take no effort."""
        return quality

    def _names(self, items: Any, quality: Quality, effort: int) -> Int32:
        if effort:
            raise InputError(f"expected effort=0 with samples of a posterior, found {effort}")
        images, model = self.parts.item.batch(items), _model(quality)
        posterior = batched(self.parts.transform.analyse, images, "encode")
        with one_blas_thread():
            return search(model, posterior.astype(np.float32, copy=False), draws(model, images))


def _model(quality: Quality) -> SampleModel:
    assert isinstance(quality.entropy, SampleModel), "samples of a posterior have models of their own"
    return quality.entropy
