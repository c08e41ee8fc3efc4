"""Items of any size: one after another, in tiles, a payload that says quality and size; see `entropy.payloads`.

Where an item has several tiles, the networks run on some of them while another is coded; see `_Windows`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any, Self

import numpy as np

from tfcomp.coding.tables import COST_UNITS, Int32
from tfcomp.entropy import payloads as framing
from tfcomp.entropy import tiles
from tfcomp.entropy.blas import coding_turn
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.payloads import Header
from tfcomp.errors import InputError
from tfcomp.geometry import Area, Plan, too_many_pixels
from tfcomp.items import GREY_IN_RGB, Images
from tfcomp.parts import NEAREST, Float32, Parts, Quality, Tally
from tfcomp.processors import processor
from tfcomp.refinement import refine_tile
from tfcomp.runtimes.litert import LiteRTTransform
from tfcomp.runtimes.transform import Transform

_LEAST_SHARE_OF_LOWER = 0.75
"""Smallest error weight that a quality may take to meet a number of bytes, as a share of the next lower quality's."""
_LEAST_SHARE = 0.35
"""Smallest error weight of the lowest quality, as a share of its usual one."""
_SEARCH_STEPS = 5
"""Number of error weights that are tried between one that fits and one that does not."""
_WINDOWS_AT_A_TIME = 2
"""Largest number of windows that networks run on at a time: each of the bundled codec's takes 150 MB."""


class _Windows:
    """Runs LiteRT's networks on the windows of an item's tiles, in threads beside the one that codes.

    LiteRT works without Python's lock, and the coder holds it much of the time, so that they go side by side. A single
    tile has nothing to go beside, and leaves all processors to its network; other runtimes do so with every window.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform, self._shared = transform, transform
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, plan: Plan, function: Callable[..., Any], *areas: Area) -> Future[Any]:
        """Begins a function of a transform and areas, and gives its result to come."""
        if plan.tiles > 1 and isinstance(self._transform, LiteRTTransform):
            if self._pool is None:
                threads = self._transform.threads or os.cpu_count() or 1
                self._pool = ThreadPoolExecutor(min(threads, _WINDOWS_AT_A_TIME))
                self._shared = self._transform.with_threads(max(1, threads // _WINDOWS_AT_A_TIME))
            with suppress(RuntimeError):  # a pool takes no work once the main thread has ended
                return self._pool.submit(function, self._shared, *areas)
        done: Future[Any] = Future()
        done.set_result(function(self._transform, *areas))
        return done


class _View:
    """An item, uint8 [H, W, C] or grey [H, W, 1], as the networks see it, a window at a time.

    The constructor begins everything: before Python 3.12 a `functools.cached_property` holds one lock for all items
    while it computes, and threads would wait for one another's networks.

    Attributes:
        plan: the item's plan.
        mirrored: uint8 [rows * stride, columns * stride, C].
    """

    def __init__(self, parts: Parts, item: Images, windows: _Windows) -> None:
        assert parts.grid is not None
        height, width = item.shape[:2]
        if not parts.grid.fits(height, width, parts.max_pixels):
            raise InputError(too_many_pixels(parts.max_pixels, height, width))
        self.item, self.grey = item, item.shape[2] < parts.item.channels
        self.plan: Plan = parts.grid.plan(height, width)
        self.mirrored = parts.item.full(item)
        for axis, source in enumerate(self.plan.sources()):
            if len(source) != self.mirrored.shape[axis]:
                self.mirrored = self.mirrored.take(source, axis=axis)

        def latent(transform: Transform, window: Area, inner: Area) -> Float32:
            return transform.analyse(self.window(window))[0][inner]

        self._latents = [windows.begin(self.plan, latent, window, inner) for _, window, inner in self.plan.windows()]

    @property
    def latents(self) -> Iterator[Float32]:
        """The latent of each tile, float32 [h, w, K], in units."""
        return (latent.result() for latent in self._latents)

    def window(self, area: Area) -> Images:
        """uint8 [1, height, width, C]: the pixels of a window."""
        return self.mirrored[self.plan.pixels(area)][None]


class TiledPipeline:
    """Runs the parts of a codec whose items have any size."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    # === Writing ===

    def encode(self, items: Any, quality: Quality, effort: int = 0) -> tuple[list[Int32], int]:
        """Integers, a list of int32 [rows, columns, K]; none is ever clipped."""
        with _Windows(self.parts.transform) as windows:
            items = self.parts.item.sequence(items)
            return [self._integers(_View(self.parts, item, windows), quality, effort) for item in items], 0

    def compress(
        self, items: Any, quality: Quality, effort: int, target_bytes: int | None
    ) -> tuple[list[bytes], Tally]:
        """Payloads, and the number of their integers."""
        payloads, integers = [], 0
        with _Windows(self.parts.transform) as windows:
            for item in self.parts.item.sequence(items):
                with processor():
                    view = _View(self.parts, item, windows)
                    payloads.append(
                        self._payload(view, quality, effort)
                        if target_bytes is None
                        else self._fitting(view, _checked_target(target_bytes), effort)
                    )
                integers += int(view.plan.rows * view.plan.columns) * len(quality.step)
        return payloads, Tally(integers, clipped=0)

    def ideal_bits(self, payloads: Sequence[bytes], _: Quality) -> float:
        """Ideal code length of payloads under their tables, in bits; they are decoded for that."""
        total = 0.0
        for payload in payloads:
            header, plan, codes = self._parse(payload)
            quality = self.parts.quality(header.quality)
            whole = self._decoded(header, plan, codes)
            tile_latents = (whole[tile].astype(np.float32) for tile in plan.areas())
            total += sum(_chosen(quality, latent, _exact(quality))[1] for latent in tile_latents)
        return total

    def _payload(self, view: _View, quality: Quality, effort: int, share: float = 1.0) -> bytes:
        if effort:
            integers = self._integers(view, quality, effort, share)
            latents = (integers[tile].astype(np.float32) for tile in view.plan.areas())
            weight = _exact(quality)
        else:
            latents, weight = (quality.to_steps(latent) for latent in view.latents), _weight(quality, share)
        codes = []
        for latent in latents:
            with coding_turn():
                codes.append(tiles.encode(_contextual(quality), latent, weight)[0])
        header = Header(quality.number, view.grey, int(view.plan.height), int(view.plan.width))
        return framing.pack(header, codes)

    def _integers(self, view: _View, quality: Quality, effort: int, share: float = 1.0) -> Int32:
        """int32 [rows, columns, K]."""
        whole = np.zeros((int(view.plan.rows), int(view.plan.columns), len(quality.step)), np.int32)
        weight = _weight(quality, share)
        for tile, latent in zip(view.plan.areas(), view.latents, strict=True):
            whole[tile] = _chosen(quality, quality.to_steps(latent), weight)[0]
        if not effort:
            return whole
        transform = self.parts.transform
        if not transform.refines or quality.curvature is None or quality.lagrangian is None:
            raise InputError(
                "expected effort=0: this codec's model was trained without a price, or its encoder exported without a "
                "gradient"
            )
        plain = whole.copy()
        weight, lagrangian = quality.error_weight * np.float32(share), quality.lagrangian * share
        for (tile, window, inner), latent in zip(view.plan.windows(), view.latents, strict=True):
            seen, pixels = whole[window].copy(), view.window(window)

            def choose(target: Float32) -> tuple[Int32, float]:
                return _chosen(quality, target, weight)

            def slope(
                integers: Int32, seen: Int32 = seen, pixels: Images = pixels, inner: Area = inner
            ) -> tuple[float, Float32]:
                seen[inner] = integers
                error, gradient = transform.slope(pixels, quality.to_units(seen)[None], quality.number)
                return float(error[0]), (gradient[0] * quality.step)[inner]

            exact = quality.to_steps(latent)
            whole[tile] = refine_tile(choose, slope, exact, quality.curvature, lagrangian, effort)
        if whole.shape[0] * whole.shape[1] * view.plan.grid.stride**2 == view.item.shape[0] * view.item.shape[1]:
            return whole
        # The search lowered the cost of the mirrored item; the item itself may prefer the integers of no search.
        return min(plain, whole, key=lambda integers: self._cost(view, quality, integers, lagrangian))

    def _cost(self, view: _View, quality: Quality, integers: Int32, lagrangian: float) -> float:
        """Bits and weighted squared error of an item's own pixels, on [0, 1]."""
        drawing = _Drawing(view.plan, quality, integers, view.item.shape[2])
        for areas in view.plan.windows():
            drawing.draw(self.parts.transform, *areas)
        restored = drawing.item.astype(np.float32)
        error = float(np.square(restored - view.item, dtype=np.float64).sum()) / 255**2
        tiles_of = (integers[tile].astype(np.float32) for tile in view.plan.areas())
        bits = sum(_chosen(quality, tile, _exact(quality))[1] for tile in tiles_of)
        return bits + lagrangian * error * (self.parts.item.channels / view.item.shape[2])

    def _fitting(self, view: _View, target: int, effort: int) -> bytes:
        """The payload of the highest quality that fits into the target, with the largest error weight that does."""
        best = b""
        for quality in reversed(self.parts.qualities):
            low, high = self._coarsest(quality), 1.0
            best = self._payload(view, quality, effort, low)
            if len(best) <= target:
                break
        else:
            raise InputError(f"expected a target of {len(best)} bytes or more for this image, found {target}")
        whole = self._payload(view, quality, effort)
        if len(whole) <= target:
            return whole
        for _ in range(_SEARCH_STEPS):
            middle = float(np.sqrt(low * high))
            payload = self._payload(view, quality, effort, middle)
            if len(payload) <= target:
                best, low = payload, middle
            else:
                high = middle
        return best

    def _coarsest(self, quality: Quality) -> float:
        """The smallest useful share of a quality's error weight: below it the next lower quality is better."""
        lower = [q.lagrangian for q in self.parts.qualities if q.number < quality.number]
        if not lower or lower[-1] is None or quality.lagrangian is None:
            return _LEAST_SHARE
        return _LEAST_SHARE_OF_LOWER * lower[-1] / quality.lagrangian

    # === Reading ===

    def _parse(self, payload: bytes) -> tuple[Header, Plan, list[bytes]]:
        assert self.parts.grid is not None
        numbers = [quality.number for quality in self.parts.qualities]
        grey_allowed, limit = self.parts.item.channels == GREY_IN_RGB, self.parts.max_pixels
        return framing.parse(payload, self.parts.grid, numbers, grey_allowed=grey_allowed, max_pixels=limit)

    def decode(self, payloads: Sequence[bytes], _: Quality) -> list[Int32]:
        """Integers of payloads, a list of int32 [rows, columns, K]; each payload says its quality."""
        return [self._decoded(*self._parse(payload)) for payload in payloads]

    def _decoded(self, header: Header, plan: Plan, codes: Sequence[bytes]) -> Int32:
        whole = np.zeros((int(plan.rows), int(plan.columns), len(self.parts.quality().step)), np.int32)
        for _ in self._decoding(whole, header, plan, codes):
            pass
        return whole

    def _decoding(self, whole: Int32, header: Header, plan: Plan, codes: Sequence[bytes]) -> Iterator[int]:
        """Decodes one tile after another into ``whole``, int32 [rows, columns, K], and gives the tile's number."""
        model = _contextual(self.parts.quality(header.quality))
        for number, (tile, code) in enumerate(zip(plan.areas(), codes, strict=True)):
            part = whole[tile]
            with coding_turn():
                part[:] = tiles.decode(model, code, *part.shape[:2])
            yield number

    def decompress(self, payloads: Sequence[bytes], _: Quality) -> list[Images]:
        """Items of payloads, a list of uint8 [H, W, C]."""
        with _Windows(self.parts.transform) as windows:
            return [self._restored(payload, windows) for payload in payloads]

    @processor()
    def _restored(self, payload: bytes, windows: _Windows) -> Images:
        header, plan, codes = self._parse(payload)
        quality = self.parts.quality(header.quality)
        integers = np.zeros((int(plan.rows), int(plan.columns), len(quality.step)), np.int32)
        drawing = _Drawing(plan, quality, integers, 1 if header.grey else self.parts.item.channels)
        areas, decoding = plan.windows(), self._decoding(integers, header, plan, codes)
        complete = (next(areas) for number in decoding if number >= plan.lag)
        drawn = [windows.begin(plan, drawing.draw, *some) for some in chain(complete, areas)]
        for tile in drawn:
            tile.result()
        return drawing.item

    def claimed_pixels(self, payload: bytes) -> int:
        """Number of pixels that decoding a payload takes, mirrored ones included."""
        return self._parse(payload)[1].pixels_in_all

    def describe(self, payload: bytes, _: Quality) -> str:
        """Size, colours, quality, tiles and bytes of a payload, in a few words."""
        header, plan, codes = self._parse(payload)
        channels = {1: "grey", 3: "RGB"}.get(1 if header.grey else self.parts.item.channels, "")
        channels = channels or f"{self.parts.item.channels} channels"
        tile = "1 tile" if len(codes) == 1 else f"{len(codes)} tiles"
        return f"{plan.width}x{plan.height} {channels}, quality {header.quality}, {tile}, {len(payload)} bytes"

    def measured(self, quality: Quality) -> Quality:
        """The quality as it is: for items of any size freezing has measured curvature and lagrangian."""
        return quality


class _Drawing:
    """Draws the tiles of an item, of integers int32 [rows, columns, K] that may still be decoded."""

    def __init__(self, plan: Plan, quality: Quality, integers: Int32, channels: int) -> None:
        self.plan, self.quality, self.integers = plan, quality, integers
        stride = plan.grid.stride
        self.mirrored = np.empty((int(plan.rows) * stride, int(plan.columns) * stride, channels), np.uint8)

    def draw(self, transform: Transform, tile: Area, window: Area, inner: Area) -> None:
        """Draws a tile whose window is decoded."""
        units = self.quality.to_units(self.integers[window])
        pixels = transform.synthesise(units[None], self.quality.number)[0][self.plan.pixels(inner)]
        if self.mirrored.shape[2] < pixels.shape[2]:
            pixels = np.rint(pixels.mean(axis=-1, keepdims=True, dtype=np.float32)).astype(np.uint8)
        self.mirrored[self.plan.pixels(tile)] = pixels

    @property
    def item(self) -> Images:
        """uint8 [H, W, channels]."""
        top, left = self.plan.top, self.plan.left
        return self.mirrored[top : top + self.plan.height, left : left + self.plan.width]


def _contextual(quality: Quality) -> ContextModel:
    assert isinstance(quality.entropy, ContextModel), "parts of items of any size have context models"
    return quality.entropy


def _weight(quality: Quality, share: float) -> Float32:
    """The weight by which the encoder chooses integers; a share below 1 meets a number of bytes."""
    return quality.rounding_weight if share == 1.0 else quality.error_weight * np.float32(share)


def _exact(quality: Quality) -> Float32:
    """A weight at which integers stay what they are."""
    return np.full(len(quality.step), NEAREST, np.float32)


def _chosen(quality: Quality, latent: Float32, weight: Float32) -> tuple[Int32, float]:
    """Integers of a tile's latent, float32 [h, w, K] in steps, and their ideal bits."""
    model = _contextual(quality)
    with coding_turn():
        symbols, integers = tiles.choose(model, latent, weight)
    return integers, sum(int(model.tables.costs.take(places).sum()) for places in symbols) / COST_UNITS


def _checked_target(target: Any) -> int:
    if isinstance(target, bool) or not isinstance(target, int | np.integer) or target < 1:
        raise InputError(f"expected a whole number of bytes as the target, found {target!r}")
    return int(target)
