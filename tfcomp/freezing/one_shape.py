"""Freezing for items of one shape: steps by targets, static tables, the parts of a codec."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tfcomp.entropy.sample import UNIT, SampleModel
from tfcomp.entropy.static import StaticModel
from tfcomp.freezing import posterior_blocks
from tfcomp.freezing.snapshot import Snapshot, batched, psnr_db
from tfcomp.freezing.static_tables import Mass, TableFitter, trained_mass
from tfcomp.freezing.steps import Float32, Rounding, measured, trained
from tfcomp.items import Images
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.priors import FactorizedPrior
from tfcomp.parts import Parts, Quality
from tfcomp.runtimes.frozen_network import FrozenNetwork
from tfcomp.runtimes.keras_networks import KerasTransform, sensitivity

SEARCH_IMAGES = 1000
"""Calibration images that the search for a step looks at; the tables see all of them."""
SENSITIVITY_IMAGES = 512
KEPT_IMAGES = 500
"""Largest number of calibration images that a codec keeps: for 8-bit networks at export, and effort's curvature."""


class OneShape:
    """Calibration latents of one model, and the codec that each step gives; `steps.Trials`.

    Args:
        model: trained on items of one shape.
        images: uint8 [N, H, W, C], N > 0.
        precision: bits of the tables' frequencies.
        sets: number of sets of tables of a codec of one quality; the search for a step uses one.
    """

    def __init__(self, model: LatentModel, images: Images, precision: int, sets: int = 1) -> None:
        self.model, self.images, self.precision, self.sets = model, images, precision, sets
        self.snapshot, self._trained = Snapshot(model), trained(model.steps)
        self.latents = self.snapshot.latents(images)
        self.tables = TableFitter(self.latents, precision)

    @cached_property
    def rounding(self) -> Rounding:
        """The rounding of the highest quality at step 1."""
        return self._trained[-1] if self._trained else self._measured()

    @cached_property
    def prior(self) -> Mass | None:
        """The trained prior of the highest quality."""
        return self._priors[-1]

    # === Codecs ===

    def at_steps(self, steps: Sequence[float]) -> Parts:
        """A quality for each multiple of the units, the widest first."""
        roundings = [self.rounding.times(step) for step in steps]
        if self.sets > 1:
            return self._parts(roundings, [self.tables.model_of_sets(roundings[0], self.prior, self.sets)])
        return self._parts(roundings, self.tables.models(roundings, [self.prior] * len(steps)))

    def as_trained(self) -> Parts:
        """The qualities that the model was trained for."""
        return self._parts(self._trained, self.tables.models(self._trained, self._priors))

    def of_sample(self, seed: int) -> Parts:
        """A sample of the posterior: by candidates where its deviation depends on the input, else by dither."""
        network = self.model.posterior_network
        if network is not None:
            encoder = FrozenNetwork(network)
            posterior = batched(encoder, self.images) * np.float32(UNIT)
            unit = np.full(self.latents.shape[1:], 1 / UNIT, np.float32)
            model = posterior_blocks.fit(posterior, self.images, self.precision, seed)
            return self._parts([Rounding(unit, np.zeros_like(unit))], [model], encoder)
        steps, offsets = self.model.draw_noise(seed)
        of_dither = self.tables.model_of_sample(steps, offsets, self.prior)
        return self._parts([Rounding(steps, offsets)], [of_dither])

    # === Trials ===

    def unquantized_psnr_db(self) -> float:
        return self._psnr_db(self.latents[:SEARCH_IMAGES])

    def psnr_db(self, step: float) -> float:
        rounding = self.rounding.times(step)
        return self._psnr_db(rounding.integers(self.latents)[:SEARCH_IMAGES] * rounding.step + rounding.offset)

    def mean_bytes(self, step: float) -> float:
        return self._mean_bytes(step, 1)

    def final_psnr_db(self, step: float) -> None:  # noqa: ARG002 - the search uses the codec's models
        return None

    def final_mean_bytes(self, step: float) -> float | None:
        # Sets take seconds to fit.
        return self._mean_bytes(step, self.sets) if self.sets > 1 else None

    def _mean_bytes(self, step: float, sets: int) -> float:
        rounding = self.rounding.times(step)
        model = self.tables.model_of_sets(rounding, self.prior, sets)
        payloads = model.encode(rounding.integers(self.latents)[:SEARCH_IMAGES])
        return sum(map(len, payloads)) / len(payloads)

    # === Inside ===

    @cached_property
    def _priors(self) -> list[Mass | None]:
        prior = self.model.prior
        if not isinstance(prior, FactorizedPrior):
            return [None] * self.model.qualities
        return [trained_mass(prior, quality, rounding) for quality, rounding in enumerate(self._trained)]

    def _measured(self) -> Rounding:
        channels = self.latents.shape[-1]
        sampled = self.latents[:: max(1, len(self.latents) // SENSITIVITY_IMAGES)][:SENSITIVITY_IMAGES]
        energy = sensitivity(self.snapshot.decoder, sampled).reshape(-1, channels).mean(axis=0)
        return measured(self.latents.reshape(-1, channels), energy)

    def _psnr_db(self, latents: Float32) -> float:
        return psnr_db(self.images[: len(latents)], self.snapshot.pixels(latents, self.model.qualities))

    def _parts(
        self, roundings: Sequence[Rounding], models: Sequence[StaticModel | SampleModel], encoder: Any = None
    ) -> Parts:
        unit, zero = roundings[-1].step, roundings[-1].offset
        shape = self.latents.shape[1:]

        def everywhere(values: Any) -> Float32:
            return np.broadcast_to(values, shape).astype(np.float32)

        qualities = tuple(
            Quality(number, everywhere(r.step / unit), everywhere((r.offset - zero) / unit), model)
            for number, (r, model) in enumerate(zip(roundings, models, strict=True), 1)
        )
        kept = self.images[:: -(-len(self.images) // KEPT_IMAGES)]
        transform = KerasTransform(
            encoder or self.snapshot.encoder,
            self.snapshot.decoder,
            unit,
            zero,
            len(qualities),
            takes_quality=self.model.takes_quality,
            calibration=kept,
            model=self.snapshot,
        )
        return Parts(transform, self.model.item, qualities, unit, zero, default_quality=len(qualities))
