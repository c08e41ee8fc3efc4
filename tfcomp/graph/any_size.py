"""Photographs to payloads and back in stock TensorFlow operators: `codec` in the graph, for the exported artifacts.

`GraphCodec.compress` and `GraphCodec.decompress` trace into a SavedModel and convert to LiteRT with ``TFLITE_BUILTINS``
alone, for images of any size up to 2**28 pixels. What is read is what `PhotographCodec` reads, to the same integers;
bytes that it refuses give some image, for the work of an image of its size. What is written, it reads; see
`graph_coder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfcomp.graph.context_tables import over
from tfcomp.graph.operators import Tensor, mask
from tfcomp.graph.tile_coder import TileCoder, exact, packed, unpacked
from tfcomp.photographs.codec import MOST_PIXELS, SMALL, TILE, PhotographCodec
from tfcomp.photographs.old_layout import CHANNELS, STRIDE

MOST_POSITIONS = MOST_PIXELS // STRIDE**2

Graph = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """Where the latent of an image and its tiles lie, as int32 scalars; see `codec`.

    Attributes:
        height, width: of the image.
        top, left: pixels before it, of those it is mirrored by.
        rows, columns: of the latent.
        down, right: of a tile.
        across: how many tiles lie side by side.
        tiles: how many there are.
    """

    height: Tensor
    width: Tensor
    top: Tensor
    left: Tensor
    rows: Tensor
    columns: Tensor
    down: Tensor
    right: Tensor
    across: Tensor
    tiles: Tensor

    @classmethod
    def of(cls, height: Tensor, width: Tensor) -> Plan:
        top, left = (STRIDE * mask(n <= SMALL) for n in (height, width))
        rows, columns = over(height + 2 * top, STRIDE), over(width + 2 * left, STRIDE)
        down = tf.minimum(rows, tf.maximum(TILE, TILE**2 // columns))
        right = tf.minimum(columns, TILE**2 // down)
        across = over(columns, right)
        return cls(height, width, top, left, rows, columns, down, right, across, over(rows, down) * across)

    def tile(self, number: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First row and column of a tile, and how many it has of either."""
        y, x = number // self.across * self.down, number % self.across * self.right
        return y, x, tf.minimum(self.down, self.rows - y), tf.minimum(self.right, self.columns - x)


class GraphCodec:
    """A codec in the graph.

    Args:
        codec: whose integers these are.
        analyse, synthesise: its networks, as `keras_networks` has them.
        side: the most rows and columns that a payload's image may have; of a larger one, `decompress` makes one pixel.
    """

    def __init__(self, codec: PhotographCodec, analyse: Graph, synthesise: Graph, side: int = MOST_PIXELS) -> None:
        self.qualities, self._side = codec.qualities, side
        self._tiles, self._steps = TileCoder(codec.models, codec.prices), exact(codec.steps)
        self._analyse, self._synthesise = analyse, synthesise

    def compress(self, image: Tensor, quality: Tensor) -> Tensor:
        """The payload of an image, uint8 [bytes].

        Args:
            image: uint8 [H, W, 3].
            quality: int32, from 1; others are taken for the nearest.
        """
        quality = tf.clip_by_value(quality, 1, self.qualities) - 1
        plan = Plan.of(tf.shape(image)[0], tf.shape(image)[1])
        image = tf.gather(image, _mirrored(plan.height, plan.top, plan.rows * STRIDE), axis=0)
        image = tf.gather(image, _mirrored(plan.width, plan.left, plan.columns * STRIDE), axis=1)
        latent = self._analyse(image[None])["latent"][0] / self._steps(quality)

        def one(number: Tensor, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, x, height, width = plan.tile(number)
            part = tf.slice(latent, tf.stack([y, x, 0]), tf.stack([height, width, CHANNELS]))
            code = self._tiles.encode(tf.reshape(part, [-1, CHANNELS]), height, width, quality)
            return number + 1, tf.concat([codes, code], axis=0), tf.concat([lengths, [tf.size(code)]], axis=0)

        none, grows = tf.zeros([0], tf.int32), tf.TensorShape([None])
        codes, lengths = _each_tile(plan, one, (none, none), (grows, grows))
        numbers = tf.concat([[plan.height, plan.width], lengths[:-1]], axis=0)
        return tf.cast(tf.concat([quality[None], packed(numbers), codes], axis=0), tf.uint8)

    def decode(self, payload: Tensor) -> Tensor:
        """The integers of a payload, int32 [rows, columns, CHANNELS].

        Args:
            payload: uint8 [bytes].
        """
        quality, _, plan, data, offset = self._head(payload)
        lengths, offset = unpacked(data, offset, plan.tiles - 1)
        begins = tf.clip_by_value(offset + tf.concat([[0], tf.cumsum(lengths)], axis=0), 0, tf.size(data))
        ends = tf.maximum(begins, tf.concat([begins[1:], [tf.size(data)]], axis=0))
        padded = tf.pad(data, [[0, 1]])  # LiteRT cuts no part that begins at the end

        def one(number: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
            y, x, height, width = plan.tile(number)
            code = padded[tf.gather(begins, number) : tf.gather(ends, number)]
            found = self._tiles.decode(code, height, width, quality)
            around = [[y, plan.rows - y - height], [x, plan.columns - x - width], [0, 0]]
            return number + 1, latent + tf.pad(tf.reshape(found, tf.stack([height, width, CHANNELS])), around)

        none = tf.zeros(tf.stack([plan.rows, plan.columns, CHANNELS]), tf.int32)
        (latent,) = _each_tile(plan, one, (none,), (tf.TensorShape([None, None, CHANNELS]),))
        return latent

    def decompress(self, payload: Tensor, latent: Tensor) -> Tensor:
        """The image of a payload, uint8 [H, W, 3], or [H, W, 1] of one that was grey.

        Args:
            payload: uint8 [bytes].
            latent: int32, of it, as `decode` found it.
        """
        quality, grey, plan, _, _ = self._head(payload)
        steps = self._steps(quality)[None, None, None]
        chosen = tf.cast(tf.equal(tf.range(self.qualities), quality), tf.float32)[None]
        image = self._synthesise(tf.cast(latent, tf.float32)[None], steps, chosen)["image"][0]
        image = tf.slice(image, tf.stack([plan.top, plan.left, 0]), tf.stack([plan.height, plan.width, 3]))
        image = tf.cast(image, tf.float32)
        mean = tf.round(tf.reduce_mean(image, axis=-1, keepdims=True))
        image += (mean - image) * tf.cast(grey, tf.float32)
        return tf.cast(tf.slice(image, [0, 0, 0], tf.stack([plan.height, plan.width, 3 - 2 * grey])), tf.uint8)

    def size(self, payload: Tensor) -> Tensor:
        """Height, width and channels of the image that `decompress` gives, int32 [3]."""
        _, grey, plan, _, _ = self._head(payload)
        return tf.stack([plan.height, plan.width, 3 - 2 * grey])

    def _head(self, payload: Tensor) -> tuple[Tensor, Tensor, Plan, Tensor, Tensor]:
        """Quality from 0, 1 if grey, the plan, the bytes as int32, and the offset of the tiles' lengths."""
        data = tf.cast(payload, tf.int32)
        first = tf.pad(data, [[0, 1]])[0]
        size, offset = unpacked(data, 1, 2)
        # As `codec` has it, but no product of two sizes, which might not fit int32.
        plan = Plan.of(*(tf.clip_by_value(n, 1, MOST_PIXELS) for n in (size[0], size[1])))
        fits = tf.reduce_all((size > 0) & (size <= self._side)) & (plan.columns <= MOST_POSITIONS // plan.rows)
        plan = Plan.of(*(tf.where(fits, n, 1) for n in (size[0], size[1])))
        fits = plan.tiles <= tf.size(data)  # as many bytes as tiles, or it is none of ours
        plan = Plan.of(*(tf.where(fits, n, 1) for n in (plan.height, plan.width)))
        return tf.minimum(first % 8, self.qualities - 1), first // 8 % 2, plan, data, offset


def _each_tile(
    plan: Plan, one: Callable[..., Any], state: Sequence[Tensor], shapes: Sequence[tf.TensorShape]
) -> list[Tensor]:
    """Runs ``number, *state = one(number, *state)`` for all tiles; the state keeps to the shapes."""
    return tf.while_loop(
        lambda number, *_: number < plan.tiles,
        one,
        (0, *state),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,
    )[1:]


def _mirrored(size: Tensor, before: Tensor, total: Tensor) -> Tensor:
    """Which pixels of so many, mirrored at both ends as often as need be, make ``total``: int32 [total]."""
    turn = (tf.range(total) - before) % (2 * size)
    return tf.minimum(turn, 2 * size - 1 - turn)
