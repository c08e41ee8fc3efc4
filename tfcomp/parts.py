"""The parts of a codec: two networks, and for each quality quantization steps and an entropy model.

`freezing` makes the parts of a trained model, `artifact` writes and reads them, `pipelines` runs them, and
`tfcomp.Codec` is their front page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tfcomp.entropy.base import fingerprint
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.model_set import MAX_QUALITIES, Model
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import DEFAULT_MAX_PIXELS, Grid
from tfcomp.items import Item
from tfcomp.runtimes.transform import Transform

Float32 = NDArray[np.float32]

NEAREST = 1e20
"""Error weight, in bits a squared step, at which every integer is the nearest one."""


@dataclass(frozen=True, eq=False)
class Quality:
    """Quantization, price and entropy model of one quality.

    The integer ``q`` stands for the latent ``q * step + offset``, in units of the transform. Arrays are broadcastable
    to the latent: [*latent_shape] for items of one shape, [channels] for items of any size.

    Attributes:
        number: 1 to `MAX_QUALITIES`; a higher one has more bytes and a better picture.
        step, offset: float32, in units; steps are positive.
        entropy: integers to bytes and back.
        curvature: float32, squared error of pixels on [0, 1] that one squared step makes; None if not measured.
        lagrangian: price of one unit of squared error, in bits; None if not measured.
    """

    number: int
    step: Float32
    offset: Float32
    entropy: Model
    curvature: Float32 | None = None
    lagrangian: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_QUALITIES:
            raise BitstreamError(f"expected a quality of 1 to {MAX_QUALITIES}, found {self.number}")
        for name in ("step", "offset", "curvature"):
            array = getattr(self, name)
            if array is not None and (array.dtype != np.float32 or not np.all(np.isfinite(array))):
                raise BitstreamError(f"expected a finite float32 {name}, found {array.dtype} of shape {array.shape}")
        if self.lagrangian is not None and not 0 < self.lagrangian < float("inf"):
            raise BitstreamError(f"expected a positive lagrangian, found {self.lagrangian}")
        if np.any(self.step <= 0):
            raise BitstreamError(f"expected positive steps, found {self.step.min()}")

    @property
    def error_weight(self) -> Float32:
        """Price of one squared step of error, in bits; `NEAREST` if curvature or lagrangian was not measured."""
        if self.curvature is None or self.lagrangian is None:
            return np.full(self.step.shape, NEAREST, np.float32)
        return (self.lagrangian * self.curvature.astype(np.float64)).astype(np.float32)

    @property
    def rounding_weight(self) -> Float32:
        """The weight by which the encoder rounds: `error_weight` where contexts predict which integers take few bits.

        Under static tables the networks were trained with noise of one step, and integers are the nearest.
        """
        contextual = isinstance(self.entropy, ContextModel) and self.entropy.layout.contextual
        return self.error_weight if contextual else np.full(self.step.shape, NEAREST, np.float32)

    def to_steps(self, latents: Float32) -> Float32:
        """Latents in units as latents in steps, not rounded."""
        steps: Float32 = (latents - self.offset if self.offset.any() else latents) / self.step
        return steps

    def to_units(self, integers: NDArray[np.integer]) -> Float32:
        """The latents in units that integers stand for."""
        units: Float32 = integers.astype(np.float32) * self.step
        return units + self.offset if self.offset.any() else units


@dataclass(frozen=True)
class Tally:
    """Counts of the integers of compressed items.

    Attributes:
        integers: number of integers.
        clipped: number of integers that lay outside their table's support and became the nearest value inside.
    """

    integers: int
    clipped: int


@dataclass(frozen=True, eq=False)
class Parts:
    """A codec's networks, items and qualities.

    Attributes:
        transform: the two networks.
        item: shape of the items.
        qualities: quantization and entropy models, the lowest quality first.
        unit, zero: float32, broadcastable to the latent: the transform's latent is what the encoder network gives, less
            ``zero``, over ``unit``.
        grid: tiles of items of any size; None for items of one shape.
        default_quality: number of the quality where none is named.
        compute: multiply-accumulates of each network for a pixel, by name; empty if unknown.
        max_pixels: most pixels of an item or of a payload's item, mirrored ones included; no part of the format, and in
            no file but an export's graphs.
    """

    transform: Transform
    item: Item
    qualities: tuple[Quality, ...]
    unit: Float32
    zero: Float32
    grid: Grid | None = None
    default_quality: int = 1
    compute: Mapping[str, float] = field(default_factory=dict)
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        numbers = [quality.number for quality in self.qualities]
        if not numbers or numbers != sorted(set(numbers)) or self.default_quality not in numbers:
            raise BitstreamError(f"expected rising qualities and a default among them, found {numbers}")
        expected = self.qualities[-1].step.shape
        arrays = [self.unit, self.zero, *(a for q in self.qualities for a in (q.step, q.offset, q.curvature))]
        if any(a is not None and (a.shape != expected or a.dtype != np.float32) for a in arrays):
            shapes = ", ".join(sorted({f"{a.dtype} {a.shape}" for a in arrays if a is not None}))
            raise BitstreamError(f"expected units, steps and offsets as float32 {expected}, found {shapes}")
        if not np.all(np.isfinite(self.zero)) or not np.all(self.unit > 0) or not np.all(np.isfinite(self.unit)):
            raise BitstreamError(
                f"expected finite positive units and finite zeros, found units from {self.unit.min():g} to "
                f"{self.unit.max():g} and zeros from {self.zero.min():g} to {self.zero.max():g}"
            )
        formats = sorted({quality.entropy.format_id for quality in self.qualities})
        if len(formats) != 1 or (self.grid is not None) != self.item.any_size:
            raise BitstreamError(
                f"expected one format for all qualities, and a grid for items of any size alone, found {formats}, "
                f"items {self.item} and the grid {self.grid}"
            )
        if isinstance(self.qualities[0].entropy, ContextModel) != self.item.any_size:
            raise BitstreamError(f"expected an entropy model for items {self.item}, found one of {formats[0]}")

    @property
    def format_id(self) -> str:
        """Key of `entropy.base.FORMATS`."""
        return self.qualities[0].entropy.format_id

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that identify everything that decoding a payload depends on, except the networks' weights."""
        shape = [-1 if n is None else n for n in self.item.shape]
        grid = (self.grid.stride, self.grid.margin, self.grid.tile) if self.grid else ()
        arrays = {
            "item": np.array(shape, np.int32),
            "grid": np.array(grid, np.int32),
            "unit": self.unit,
            "zero": self.zero,
        }
        for quality in self.qualities:
            name = f"quality {quality.number:02}"
            arrays |= {f"{name} step": quality.step, f"{name} offset": quality.offset}
            arrays[f"{name} entropy"] = np.frombuffer(quality.entropy.fingerprint, np.uint8)
        return fingerprint(self.format_id, arrays)

    def quality(self, number: int | None = None) -> Quality:
        """A quality by its number, None for the default one; raises `InputError` on any other number."""
        wanted = self.default_quality if number is None else number
        for quality in self.qualities:
            if not isinstance(wanted, bool) and quality.number == wanted:
                return quality
        numbers = [quality.number for quality in self.qualities]
        have = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        raise InputError(f"expected a quality of {have}, found {number!r}")

    def at(self, number: int) -> Parts:
        """The parts of one quality alone."""
        return replace(self, qualities=(self.quality(number),), default_quality=int(number))
