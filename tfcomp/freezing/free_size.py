"""Freezing for items of any size: steps by targets, contexts or a static table for each channel, the parts of a codec.

The latents of whole calibration images are taken. How much error a step of a channel makes is measured through the
decoder, by random projections of its Jacobian (see `runtimes.keras_networks.sensitivity`), and averaged over positions:

    curvature_c = step_c^2 * mean over positions of sum_pixels (d pixel / d latent_c)^2

A model with a `ContextPrior` weighs bits against that error when it encodes. A unit of squared error is then worth
``CONTEXT_ERROR_FACTOR`` times as many bits as in training, ``1 / (beta * ln 2)``. Static tables round to the nearest,
and weigh bits against error only for ``effort`` or to meet a number of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfcomp.coding.tables import Int32
from tfcomp.entropy import payloads, tiles
from tfcomp.entropy.blas import one_blas_thread
from tfcomp.entropy.context import ContextModel
from tfcomp.freezing import channel_tables
from tfcomp.freezing.context_fit import ContextFitter
from tfcomp.freezing.snapshot import Snapshot, psnr_db
from tfcomp.freezing.static_tables import Mass, trained_mass
from tfcomp.freezing.steps import Float32, Float64, Rounding, measured, trained
from tfcomp.items import Images
from tfcomp.models.context_prior import ERROR_WEIGHT, ContextPrior
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.objective import LN2
from tfcomp.models.priors import FactorizedPrior
from tfcomp.parts import NEAREST, Parts, Quality
from tfcomp.progress import progress
from tfcomp.runtimes.keras_networks import KerasTransform

CONTEXT_ERROR_FACTOR = 1.6
"""Factor of the price of error over the one in training, chosen on BSDS500's ``val`` for photographs."""
SEARCH_PIXELS = 1 << 20
"""Pixels of the calibration images that the search for a step looks at; the tables see all of them."""
SENSITIVITY_IMAGES, SENSITIVITY_SIDE, PROBES = 8, 256, 2
"""Numbers of calibration images, of pixels a side of their middle, and of projections that measure the decoder."""


@dataclass(frozen=True)
class _Point:
    """A quality before its tables are fitted.

    Attributes:
        quality: number of the model's quality that it comes from, from 0.
        rounding: of the latent.
        multiple: ratio of the steps to the trained ones.
    """

    quality: int
    rounding: Rounding
    multiple: float = 1.0


@dataclass(frozen=True)
class _Price:
    """Price of error at one quality.

    Attributes:
        curvature: float32 [C], squared error that one squared step makes.
        lagrangian: bits that one unit of squared error is worth; None where integers are rounded to the nearest.
    """

    curvature: Float32
    lagrangian: float | None

    @property
    def error_weight(self) -> Float32:
        """Bits that one squared step of error is worth, float32 [C]; `NEAREST` without a price."""
        if self.lagrangian is None:
            return np.full(len(self.curvature), NEAREST, np.float32)
        return (self.lagrangian * self.curvature.astype(np.float64)).astype(np.float32)


class FreeSize:
    """Calibration latents of one model, and the codec that each step gives; `steps.Trials`.

    Args:
        model: trained on items of any size.
        images: uint8 [H, W, C], of sides that are multiples of the stride; at least one.
        precision: bits of the tables' frequencies.
    """

    def __init__(self, model: LatentModel, images: Sequence[Images], precision: int) -> None:
        assert model.grid is not None
        self.model, self.images, self.precision, self.grid = model, images, precision, model.grid
        self.snapshot, self._trained = Snapshot(model), trained(model.steps)
        self.latents = [self.snapshot.latents(image[None])[0] for image in progress(images, "calibrate", len(images))]

    @cached_property
    def rounding(self) -> Rounding:
        """The rounding of the highest quality at step 1."""
        return self._trained[-1] if self._trained else self._measured()

    # === Codecs ===

    def at_steps(self, steps: Sequence[float]) -> Parts:
        """A quality for each multiple of the units, the widest first."""
        return self._parts([self._point(step) for step in steps])

    def as_trained(self) -> Parts:
        """The qualities that the model was trained for."""
        return self._parts([_Point(quality, rounding) for quality, rounding in enumerate(self._trained)])

    # === Trials ===

    def unquantized_psnr_db(self) -> float:
        return self._psnr_db([self.latents[i] for i in self._searched])

    def psnr_db(self, step: float) -> float:
        return self._trial_psnr_db(self._point(step), self._quick_model(step))

    def mean_bytes(self, step: float) -> float:
        return self._trial_bytes(self._point(step), self._quick_model(step))

    def final_psnr_db(self, step: float) -> float | None:
        point = self._point(step)
        return self._trial_psnr_db(point, self._entropy(point)) if self._contextual else None

    def final_mean_bytes(self, step: float) -> float | None:
        point = self._point(step)
        return self._trial_bytes(point, self._entropy(point)) if self._contextual else None

    def _quick_model(self, step: float) -> ContextModel:
        """The entropy model of the searched images at a step; contexts are not refined."""
        point, latents = self._point(step), [self.latents[i] for i in self._searched]
        if not isinstance(self.model.prior, ContextPrior):
            return channel_tables.fit(latents, point.rounding, self._prior(point), self.precision)
        fitter = ContextFitter(self.model.prior, latents, self.precision)
        return fitter.quick_model(point.quality, point.rounding.step, self._price(point).error_weight, step)

    def _trial_psnr_db(self, point: _Point, model: ContextModel) -> float:
        rounding = point.rounding
        return self._psnr_db([q * rounding.step + rounding.offset for q in self._integers(point, model)])

    def _trial_bytes(self, point: _Point, model: ContextModel) -> float:
        """Mean length of the searched images' payloads, in bytes."""
        exact, sizes = np.full(model.layout.channels, NEAREST, np.float32), []
        with one_blas_thread():
            for whole in self._integers(point, model):
                plan = self.grid.of_latent(*whole.shape[:2])
                codes = [tiles.encode(model, whole[tile].astype(np.float32), exact)[0] for tile in plan.areas()]
                sizes.append(len(payloads.pack(payloads.Header(1, False, plan.height, plan.width), codes)))
        return sum(sizes) / len(sizes)

    def _integers(self, point: _Point, model: ContextModel) -> list[Int32]:
        """The encoder's integers of the searched images, int32 [h, w, C] each."""
        latents = [self.latents[i] for i in self._searched]
        scaled = [(latent - point.rounding.offset) / point.rounding.step for latent in latents]
        with one_blas_thread():
            return [tiles.choose(model, latent, self._price(point).error_weight)[1] for latent in scaled]

    @cached_property
    def _searched(self) -> list[int]:
        """The images that the search for a step looks at, spread evenly over all."""
        pixels = sum(image.shape[0] * image.shape[1] for image in self.images)
        count = max(1, len(self.images) * SEARCH_PIXELS // max(pixels, SEARCH_PIXELS))
        return [i * len(self.images) // count for i in range(count)]

    def _psnr_db(self, latents: Sequence[Float32]) -> float:
        images = [self.images[i].reshape(-1) for i in self._searched]
        pixels = [self.snapshot.pixels(latent[None], self.model.qualities).reshape(-1) for latent in latents]
        return psnr_db(np.concatenate(images), np.concatenate(pixels))

    # === Inside ===

    @property
    def _contextual(self) -> bool:
        return isinstance(self.model.prior, ContextPrior)

    def _point(self, step: float) -> _Point:
        """The highest quality, with steps of ``step`` units."""
        return _Point(self.model.qualities - 1, self.rounding.times(step), step)

    def _measured(self) -> Rounding:
        columns = np.concatenate([latent.reshape(-1, latent.shape[-1]) for latent in self.latents])
        return measured(columns, self._energies[-1])

    @cached_property
    def _energies(self) -> list[Float64]:
        """Squared error that a squared unit of the encoder's makes in each channel, float64 [C], at each quality."""
        transform = self._transform(np.ones(1, np.float32), np.zeros(1, np.float32), self.model.qualities)
        side, edge = max(1, SENSITIVITY_SIDE // self.grid.stride), self.grid.margin
        energies: list[list[Float64]] = [[] for _ in range(self.model.qualities)]
        for latent in self.latents[:: -(-len(self.latents) // SENSITIVITY_IMAGES)]:
            y, x = (max(0, n - side) // 2 for n in latent.shape[:2])
            part = latent[y : y + side, x : x + side]
            for quality, parts in enumerate(energies):
                seen = part
                if self._trained:
                    rounding = self._trained[quality]
                    seen = (rounding.integers(part) * rounding.step).astype(np.float32)
                energy = transform.sensitivity(seen[None], quality + 1, PROBES)
                # A position next to the edge changes pixels beyond it, which are not there.
                top, left = (min(edge, (n - 1) // 2) for n in energy.shape[:2])
                inner = energy[top : len(energy) - top, left : energy.shape[1] - left]
                parts.append(inner.reshape(-1, inner.shape[-1]))
        return [np.concatenate(parts).mean(axis=0) for parts in energies]

    def _prior(self, point: _Point) -> Mass | None:
        prior = self.model.prior
        if not isinstance(prior, FactorizedPrior):
            return None
        return trained_mass(prior, point.quality, self._trained[point.quality])

    def _price(self, point: _Point) -> _Price:
        square = np.square(point.rounding.step, dtype=np.float64)
        curvature = (self._energies[point.quality] * square).astype(np.float32)
        if not self._contextual and (self.model.betas[point.quality] == 0 or self.model.prior is None):
            return _Price(curvature, None)
        if self.model.distortion != "squared_error":
            # The price is not one of squared error: a squared step weighs as much as in a model whose price is.
            return _Price(curvature, CONTEXT_ERROR_FACTOR * ERROR_WEIGHT / max(float(curvature.mean()), 1e-30))
        # In wider steps than it was trained with, a squared step stays worth the same.
        scale = CONTEXT_ERROR_FACTOR if self._contextual else 1.0
        return _Price(curvature, scale / (self.model.betas[point.quality] * LN2 * point.multiple**2))

    def _entropy(self, point: _Point) -> ContextModel:
        if not isinstance(self.model.prior, ContextPrior):
            return channel_tables.fit(self.latents, point.rounding, self._prior(point), self.precision)
        fitter = ContextFitter(self.model.prior, self.latents, self.precision)
        return fitter.model(point.quality, point.rounding.step, self._price(point).error_weight, point.multiple)

    def _transform(self, unit: Float32, zero: Float32, qualities: int) -> KerasTransform:
        return KerasTransform(
            self.snapshot.encoder,
            self.snapshot.decoder,
            unit,
            zero,
            qualities,
            takes_quality=self.model.takes_quality,
            calibration=self._crops,
            model=self.snapshot,
        )

    @cached_property
    def _crops(self) -> Images:
        """Middles of some images, uint8 [N, side, side, C], on which an export measures."""
        side = min(SENSITIVITY_SIDE, max(min(image.shape[:2]) for image in self.images))
        images = [image for image in self.images if min(image.shape[:2]) >= side]
        images = images[:: -(-len(images) // SENSITIVITY_IMAGES)]
        corners = [[(n - side) // 2 for n in image.shape[:2]] for image in images]
        return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(images, corners, strict=True)])

    def _parts(self, points: Sequence[_Point]) -> Parts:
        unit, zero = points[-1].rounding.step, points[-1].rounding.offset
        qualities = []
        for number, point in enumerate(progress(points, "freeze", len(points)), 1):
            price, entropy = self._price(point), self._entropy(point)
            step, offset = point.rounding.step / unit, (point.rounding.offset - zero) / unit
            qualities.append(Quality(number, step, offset, entropy, price.curvature, price.lagrangian))
        transform, default = self._transform(unit, zero, len(points)), (len(points) + 2) // 2
        return Parts(transform, self.model.item, tuple(qualities), unit, zero, self.grid, default)
