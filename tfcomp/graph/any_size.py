"""Items of any size to payloads and back in stock TensorFlow operators, for the exported artifacts.

`AnySizeGraph.compress` and `AnySizeGraph.decompress` trace into a SavedModel and convert to LiteRT with
``TFLITE_BUILTINS`` alone, for items of up to 2**28 pixels. `decompress` reads what
`tfcomp.entropy.payloads` and `tfcomp.entropy.tiles` read, to the same integers. Bytes that those modules refuse give
some item of the size that they claim, or one pixel where they are too few for it. For the payloads that `compress`
writes, see `tfcomp.graph.tile_coder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.payloads import GREY
from tfcomp.errors import InputError
from tfcomp.geometry import DEFAULT_MAX_PIXELS, MAX_COEFFICIENTS, MAX_PIXELS, Arithmetic, Grid, Plan
from tfcomp.graph.operators import Tensor, on_cpu
from tfcomp.graph.tile_coder import TileCoder, exact, packed, unpacked
from tfcomp.items import GREY_IN_RGB

TENSORS = Arithmetic(tf.minimum, tf.maximum, tf.range)
"""The functions of `Grid.plan` for int32 tensors."""

Analyse = Callable[[Tensor], Tensor]
"""From an item, uint8 [1, H, W, C], sides multiples of the stride, to its latent in units, float32 [1, h, w, K]."""
Synthesise = Callable[[Tensor, Tensor], Tensor]
"""From a latent in units, float32 [1, h, w, K], and a quality, int32 from 0, to an item, uint8 [1, H, W, C]."""


class AnySizeGraph:
    """A codec of items of any size in the graph.

    Args:
        models: the entropy model of each quality, the lowest first.
        steps, offsets: float32 [qualities, K]; an integer ``q`` stands for ``q * step + offset``, in units.
        error_weights: float32 [qualities, K], the bits that one squared step of error is worth to the encoder.
        grid: stride and tiles; the networks see the whole item at once.
        channels: ``C`` of the items.
        analyse, synthesise: the networks.
        side: the most rows and columns that a payload's item may have; of a larger one, `decompress` makes one pixel.
        max_pixels: the most pixels that it may have, mirrored ones included; likewise.

    Raises:
        InputError: if the models do not fit one another, the arrays or the grid.
    """

    def __init__(
        self,
        models: Sequence[ContextModel],
        steps: Any,
        offsets: Any,
        error_weights: Any,
        *,
        grid: Grid,
        channels: int,
        analyse: Analyse,
        synthesise: Synthesise,
        side: int = MAX_PIXELS,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.latent_channels = models[0].layout.channels
        expected = (len(models), self.latent_channels)
        shapes = [np.shape(array) for array in (steps, offsets, error_weights)]
        if any(shape != expected for shape in shapes):
            raise InputError(f"expected steps, offsets and error weights {list(expected)}, found {shapes}")
        if grid.tile**2 * self.latent_channels > MAX_COEFFICIENTS:
            raise InputError(f"expected tiles of up to {MAX_COEFFICIENTS} coefficients, found {grid}")
        self.qualities, self.grid, self.channels, self._side = len(models), grid, channels, side
        self._positions = min(max_pixels, MAX_PIXELS) // grid.stride**2
        self._grey_allowed = channels == GREY_IN_RGB
        self._tiles, self._steps, self._offsets = TileCoder(models, error_weights), exact(steps), exact(offsets)
        self._analyse, self._synthesise = analyse, synthesise

    def compress(self, item: Tensor, quality: Tensor) -> Tensor:
        """The payload of an item, uint8 [bytes].

        Args:
            item: uint8 [H, W, C].
            quality: int32, from 1; a number beyond the ends is taken for the end.
        """
        quality = tf.clip_by_value(quality, 1, self.qualities) - 1
        plan = self.grid.plan(tf.shape(item)[0], tf.shape(item)[1], TENSORS)
        rows, columns = plan.sources()
        mirrored = tf.gather(tf.gather(item, rows, axis=0), columns, axis=1)
        latent = (self._analyse(mirrored[None])[0] - self._offsets(quality)) / self._steps(quality)
        return self._written(latent, plan, quality)

    @on_cpu
    def _written(self, latent: Tensor, plan: Plan, quality: Tensor) -> Tensor:
        """The payload of a latent, float32 [rows, columns, K], in steps, not rounded."""
        channels = self.latent_channels

        def one(number: Tensor, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, x, height, width = plan.tile(number)
            part = tf.slice(latent, tf.stack([y, x, 0]), tf.stack([height, width, channels]))
            code = self._tiles.encode(tf.reshape(part, [-1, channels]), height, width, quality)
            return number + 1, tf.concat([codes, code], axis=0), tf.concat([lengths, [tf.size(code)]], axis=0)

        none, grows = tf.zeros([0], tf.int32), tf.TensorShape([None])
        codes, lengths = _each(0, plan.tiles, one, (none, none), (grows, grows))
        numbers = tf.concat([[plan.height, plan.width], lengths[:-1]], axis=0)
        return tf.cast(tf.concat([quality[None], packed(numbers), codes], axis=0), tf.uint8)

    @on_cpu
    def decode(self, payload: Tensor) -> Tensor:
        """The integers of a payload, int32 [rows, columns, K]; of a payload with too many symbols, those of one pixel.

        Args:
            payload: uint8 [bytes].
        """
        quality, _, plan, data, offset = self._header(payload)
        lengths, offset = unpacked(data, offset, plan.tiles - 1)
        begins = tf.clip_by_value(offset + tf.concat([[0], tf.cumsum(lengths)], axis=0), 0, tf.size(data))
        ends = tf.maximum(begins, tf.concat([begins[1:], [tf.size(data)]], axis=0))
        padded = tf.pad(data, [[0, 1]])  # LiteRT cuts no part that begins at the end
        channels = self.latent_channels

        def tile(number: Tensor, row: Tensor, sound: Tensor) -> tuple[Tensor, ...]:
            _, _, height, width = plan.tile(number)
            code = padded[tf.gather(begins, number) * sound : tf.gather(ends, number) * sound]
            integers, few = self._tiles.decode(code, height, width, quality)
            integers = tf.reshape(integers, tf.stack([height, width, channels]))
            return number + 1, tf.concat([row, integers], axis=1), sound * few

        def row(number: Tensor, latent: Tensor, sound: Tensor) -> tuple[Tensor, ...]:
            height = plan.tile(number)[2]
            none = tf.zeros(tf.stack([height, 0, channels]), tf.int32)
            tiles, sound = _each(number, number + plan.across, tile, (none, sound), (grows, one))
            return number + plan.across, tf.concat([latent, tiles], axis=0), sound

        # Rows of tiles first, then the rows: a loop that held the whole latent would copy it for each tile.
        grows, one = tf.TensorShape([None, None, channels]), tf.TensorShape([])
        none = tf.zeros(tf.stack([0, plan.columns, channels]), tf.int32)
        latent, sound = _each(0, plan.tiles, row, (none, tf.constant(1)), (grows, one))
        pixel = self._plan(tf.constant(1), tf.constant(1))  # no item has fewer rows and columns
        rows, columns = (n + (all_of - n) * sound for n, all_of in zip(_area(pixel), _area(plan), strict=True))
        return latent[:rows, :columns]

    def decompress(self, payload: Tensor, latent: Tensor) -> Tensor:
        """The item of a payload, uint8 [H, W, C], or [H, W, 1] of a grey one.

        Args:
            payload: uint8 [bytes].
            latent: int32 [rows, columns, K], the payload's integers from `decode`.
        """
        quality, grey, plan = self._decoded(payload, latent)
        units = tf.cast(latent, tf.float32) * self._steps(quality) + self._offsets(quality)
        item = self._synthesise(units[None], quality)[0]
        size = tf.stack([plan.height, plan.width, self.channels])
        item = tf.slice(item, tf.stack([plan.top, plan.left, 0]), size)
        if not self._grey_allowed:
            return item
        item = tf.cast(item, tf.float32)
        mean = tf.round(tf.reduce_mean(item, axis=-1, keepdims=True))
        item += (mean - item) * tf.cast(grey, tf.float32)
        return tf.cast(tf.slice(item, [0, 0, 0], self._size(plan, grey)), tf.uint8)

    def size(self, payload: Tensor, latent: Tensor) -> Tensor:
        """Height, width and channels of the item that `decompress` gives, int32 [3]; arguments likewise."""
        _, grey, plan = self._decoded(payload, latent)
        return self._size(plan, grey)

    @on_cpu
    def _decoded(self, payload: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Plan]:
        """Quality from 0, 1 if grey, and the plan: that of one pixel, if these are its integers."""
        quality, grey, plan, _, _ = self._header(payload)
        same = tf.reduce_all(tf.equal(tf.shape(latent)[:2], tf.stack(_area(plan))))
        return quality, grey, self._plan(*(tf.where(same, n, 1) for n in (plan.height, plan.width)))

    def _size(self, plan: Plan, grey: Tensor) -> Tensor:
        return tf.stack([plan.height, plan.width, self.channels - (self.channels - 1) * grey])

    def _header(self, payload: Tensor) -> tuple[Tensor, Tensor, Plan, Tensor, Tensor]:
        """Quality from 0, 1 if grey, the plan, the bytes as int32, and the offset of the tiles' lengths."""
        data = tf.cast(payload, tf.int32)
        first = tf.pad(data, [[0, 1]])[0]
        size, offset = unpacked(data, 1, 2)
        # As `Grid.fits` has it, but no product of two sizes, which might not fit int32.
        plan = self._plan(*(tf.clip_by_value(n, 1, MAX_PIXELS) for n in (size[0], size[1])))
        fits = tf.reduce_all((size > 0) & (size <= self._side)) & (plan.columns <= self._positions // plan.rows)
        plan = self._plan(*(tf.where(fits, n, 1) for n in (size[0], size[1])))
        fits = offset + 2 * plan.tiles - 1 <= tf.size(data)  # a byte for each tile, and for each length
        plan = self._plan(*(tf.where(fits, n, 1) for n in (plan.height, plan.width)))
        grey = first // GREY % 2 if self._grey_allowed else tf.constant(0)
        return tf.minimum(first % GREY, self.qualities - 1), grey, plan, data, offset

    def _plan(self, height: Tensor, width: Tensor) -> Plan:
        return self.grid.plan(height, width, TENSORS)


def _area(plan: Plan) -> tuple[Tensor, Tensor]:
    return plan.rows, plan.columns


def _each(
    first: Any, end: Tensor, one: Callable[..., Any], state: Sequence[Tensor], shapes: Sequence[tf.TensorShape]
) -> list[Tensor]:
    """Runs ``number, *state = one(number, *state)`` while ``number < end``; the state keeps to the shapes."""
    return tf.while_loop(
        lambda number, *_: number < end,
        one,
        (first, *state),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,
    )[1:]
