r"""Networks for images of any size: a linear lapped transform, and what a few convolutions add to it.

Both networks are functional Keras models of the contract in `networks`::

    encoder   pixels less 127.5 -> blocks of stride x stride -> 3x3 kernel, linear ----------+-> latent
                                                            \-> two hidden layers -> 3x3 ---/
    decoder   latent -> 3x3 kernel, linear ----------------------------------------+-> blocks -> pixels
                    \-> hidden layers, scaled by the quality -> residual ---------/

so that each position of the latent is a block of pixels, and its channels begin as the coefficients of a discrete
cosine transform of that block, ordered from low frequencies to high (`Frequencies`). The linear kernels, 3x3 blocks
wide, are trained with all else. Layers are stock Keras but for the two that turn pixels into blocks and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.items import MAX_CHANNELS
from tfcomp.models import networks
from tfcomp.models.context_prior import ERROR_WEIGHT
from tfcomp.models.objective import LN2

Tensor = Any
Float32 = NDArray[np.float32]

BETAS = tuple((128 * (9 / 128) ** (i / 7)) ** 2 / (ERROR_WEIGHT * 255**2 * LN2) for i in range(8))
"""Prices of the bundled codec's qualities: they suit steps of 128 to 9 levels of 8-bit pixels; see `unit_of`."""
DIAGONALS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 21, 28)
"""The first diagonal, a sum of two frequencies, of each group of channels."""
LOW_GROUPS = 3
"""Number of groups whose channels share tables whatever their colour: the means, and the low frequencies."""
FIRST_SCALE_LEVELS = 300.0
"""Scale of the means that are coded first, in levels of 8-bit pixels."""


def unit_of(beta: float) -> float:
    """The step, in levels of 8-bit pixels, that is best spent at a price of ``beta`` for one nat.

    With a squared error of pixels on [0, 1], a squared step of error costs ``(step / 255)**2 / (beta * ln 2)`` bits: at
    this step, `ERROR_WEIGHT`.
    """
    return math.sqrt(ERROR_WEIGHT * 255**2 * LN2 * beta)


def check_options(options: Mapping[str, Any]) -> None:
    """Checks options of `AutoEncoder.lapped`.

    Args:
        options: the values of ``stride``, ``coefficients`` and the other keys of `_OPTIONS`, by name.

    Raises:
        InputError: if one is not of the type that `AutoEncoder.lapped` documents.
    """
    for name, value in options.items():
        expected, least = _OPTIONS[name]
        inner = [n for row in value for n in row] if expected is _PATTERN and _listed(value, _listed) else value
        numbers = [value] if expected is _WHOLE else inner
        fits = _listed(numbers, networks.whole) and min(numbers) >= least and (expected is not _PAIR or len(value) == 2)
        if not (fits or (value is None and name in _DEFAULTED)):
            raise InputError(f"expected {name} as {expected} of at least {least}, found {value!r}")


_WHOLE, _PAIR, _SEVERAL, _PATTERN = "a whole number", "two whole numbers", "whole numbers", "rows of whole numbers"
_OPTIONS = {
    "stride": (_WHOLE, 1),
    "coefficients": (_PAIR, 1),
    "hidden": (_PAIR, 1),
    "blocks": (_WHOLE, 0),
    "ranks": (_PAIR, 1),
    "groups": (_SEVERAL, 0),
    "mean_phases": (_PATTERN, 0),
    "phases": (_PATTERN, 0),
    "reach": (_WHOLE, 1),
}


_DEFAULTED = {"coefficients", "ranks", "groups"}
"""Options for which None is a value, too."""


def _listed(value: Any, allowed: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(allowed, value))


# === Which channel is which ===


@dataclass(frozen=True)
class Frequencies:
    """The channels of a latent as coefficients of a cosine transform of blocks, in groups of diagonals.

    Examples:
        >>> frequencies = Frequencies(stride=8, colours=3, coefficients=(64, 16))
        >>> frequencies.groups
        (3, 6, 9, 12, 15, 8, 15, 13, 15)

    Args:
        stride: pixels a side of a block.
        colours: channels of a pixel, 1 to 8. They are transformed too: with three, the first coefficient is close to
            luma, the two others to chroma.
        coefficients: how many of the lowest frequencies of a block are kept: of the first colour, and of each other.
        starts: the first diagonal of each group, rising from 0.

    Raises:
        InputError: if the numbers do not fit each other.
    """

    stride: int
    colours: int
    coefficients: tuple[int, int]
    starts: tuple[int, ...] = DIAGONALS

    def __post_init__(self) -> None:
        if not (1 <= self.colours <= MAX_CHANNELS and self.stride >= 1):
            raise InputError(f"expected 1 to {MAX_CHANNELS} channels and a stride, found {self.colours}, {self.stride}")
        used = self.coefficients[: min(self.colours, 2)]
        if len(self.coefficients) != 2 or not all(1 <= n <= self.stride**2 for n in used):
            raise InputError(
                f"expected two numbers of coefficients, 1 to {self.stride**2} for a stride of {self.stride}, found "
                f"{self.coefficients}"
            )
        if list(self.starts) != sorted({0, *self.starts}) or self.starts[0] != 0:
            raise InputError(f"expected groups as their first diagonals, rising from 0, found {self.starts}")

    @cached_property
    def channels(self) -> tuple[tuple[int, int, int, int], ...]:
        """(group, colour, vertical frequency, horizontal frequency) of each channel, in order."""
        every = [(u, v) for u in range(self.stride) for v in range(self.stride)]
        zigzag = sorted(every, key=lambda f: (sum(f), abs(f[0] - f[1])))
        counts = [self.coefficients[min(colour, 1)] for colour in range(self.colours)]
        kept = [(colour, u, v) for colour, count in enumerate(counts) for u, v in zigzag[:count]]
        ends = (*self.starts[1:], 2 * self.stride)
        rows = [[f for f in kept if start <= f[1] + f[2] < end] for start, end in zip(self.starts, ends, strict=True)]
        return tuple((group, *f) for group, row in enumerate(filter(None, rows)) for f in row)

    @property
    def groups(self) -> tuple[int, ...]:
        """Number of channels of each group."""
        return tuple(np.bincount([group for group, *_ in self.channels]).tolist())

    @property
    def kinds(self) -> tuple[int, ...]:
        """Which channels share tables: the means 0, low frequencies 1, higher ones of the first colour 2, others 3."""
        return tuple(min(g, 1) if g < LOW_GROUPS else 3 if colour else 2 for g, colour, _, _ in self.channels)

    def basis(self) -> Float32:
        """The orthonormal transform: float32 [stride**2 * colours, channels], pixels of a block by channels.

        The cosine transform of blocks (Ahmed, Natarajan and Rao 1974), and that across the colours, which for red,
        green and blue is close to the principal axes of natural images.
        """
        block, colours = _cosines(self.stride), _cosines(self.colours)
        columns = [np.einsum("y,x,c->yxc", block[u], block[v], colours[k]) for _, k, u, v in self.channels]
        return np.stack(columns, axis=-1).reshape(-1, len(self.channels)).astype(np.float32)


def _cosines(n: int) -> NDArray[np.float64]:
    """The matrix of the cosine transform of length n, a frequency in each row."""
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    matrix = np.cos(np.pi * (2 * x + 1) * k / (2 * n)) * np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)


# === Blocks ===


class _Blocks(keras.layers.Layer):
    """A layer with blocks of ``side`` pixels a side."""

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side}


@keras.saving.register_keras_serializable("tfcomp")
class SpaceToDepth(_Blocks):
    """Blocks of pixels as channels: [N, H, W, C] -> [N, H / side, W / side, side * side * C], row by row.

    Examples:
        >>> SpaceToDepth(8)(keras.ops.zeros((1, 16, 24, 3))).shape
        TensorShape([1, 2, 3, 192])
    """

    def call(self, pixels: Tensor) -> Tensor:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.nn.space_to_depth(pixels, self.side)  # one operator, in LiteRT as well
        _, height, width, channels = ops.shape(pixels)
        rows, columns = height // self.side, width // self.side
        split = ops.reshape(pixels, (-1, rows, self.side, columns, self.side, channels))
        return ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, rows, columns, self.side**2 * channels))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        assert channels is not None
        return (batch, *(n if n is None else n // self.side for n in sides), channels * self.side**2)


@keras.saving.register_keras_serializable("tfcomp")
class DepthToSpace(_Blocks):
    """The inverse of `SpaceToDepth`.

    Examples:
        >>> DepthToSpace(8)(keras.ops.zeros((1, 2, 3, 192))).shape
        TensorShape([1, 16, 24, 3])
    """

    def call(self, blocks: Tensor) -> Tensor:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.nn.depth_to_space(blocks, self.side)
        _, rows, columns, channels = ops.shape(blocks)
        split = ops.reshape(blocks, (-1, rows, columns, self.side, self.side, channels // self.side**2))
        whole = ops.transpose(split, (0, 1, 3, 2, 4, 5))
        return ops.reshape(whole, (-1, rows * self.side, columns * self.side, channels // self.side**2))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        assert channels is not None
        return (batch, *(n if n is None else n * self.side for n in sides), channels // self.side**2)


# === Networks ===


def encoder(frequencies: Frequencies, *, hidden: int, unit: float) -> keras.Model:
    """Pixels to coefficients.

    Args:
        frequencies: the channels of the latent.
        hidden: width of the two hidden layers.
        unit: levels of 8-bit pixels that are 1 in the latent.

    Returns:
        Model of uint8 [N, H, W, colours] -> float32 [N, H / stride, W / stride, channels].
    """
    channels = len(frequencies.channels)
    image = keras.Input((None, None, frequencies.colours), dtype="uint8", name="image")
    levels = keras.layers.Rescaling(1.0, offset=-127.5, dtype="float32", name="levels")(image)
    blocks = SpaceToDepth(frequencies.stride, dtype="float32", name="blocks")(levels)
    linear = _conv(channels, "linear", use_bias=False, kernel_initializer="zeros", dtype="float32")
    x = keras.layers.Rescaling(1 / 64, dtype="float32", name="residual_in")(blocks)
    x = _conv(hidden, "hidden_1", activation="relu")(x)
    x = keras.layers.Add(name="hidden")([x, _conv(hidden, "hidden_2", activation="relu")(x)])
    x = _conv(channels, "last", kernel_initializer="zeros", dtype="float32")(x)
    x = keras.layers.Rescaling(64.0, dtype="float32", name="residual_out")(x)
    x = keras.layers.Add(dtype="float32", name="coefficients")([linear(blocks), x])
    x = keras.layers.Rescaling(1 / unit, dtype="float32", name="latent")(x)
    _set_centre(linear, frequencies.basis())
    return keras.Model(image, x, name="encoder")


def decoder(
    frequencies: Frequencies,
    *,
    hidden: int,
    blocks: int,
    ranks: tuple[int, int] | None,
    unit: float,
    qualities: int,
) -> keras.Model:
    """Coefficients to pixels; with several qualities, the hidden layers are scaled by factors of each.

    Args:
        frequencies, unit: as in `encoder`.
        hidden: width of the hidden layers.
        blocks: number of residual blocks.
        ranks: of the residual network's first and last layer, which are then products of two; None for whole ones.
        qualities: with more than one, the second input says which, float32 [N, qualities]: a one and zeros.

    Returns:
        Model of float32 [N, h, w, channels] -> float32 [N, h * stride, w * stride, colours] on [0, 1].
    """
    channels, outputs = len(frequencies.channels), frequencies.stride**2 * frequencies.colours
    latent = keras.Input((None, None, channels), name="latent")
    quality = keras.Input((qualities,), name="quality") if qualities > 1 else None

    def scaled(x: Tensor, number: int) -> Tensor:
        if quality is not None:
            scale = keras.layers.Dense(hidden, use_bias=False, kernel_initializer="ones", name=f"scale_{number}")
            factors = keras.layers.Reshape((1, 1, hidden), name=f"factors_{number}")(scale(quality))
            x = keras.layers.Multiply(name=f"scaled_{number}")([x, factors])
        return keras.layers.ReLU(name=f"relu_{number}")(x)

    coefficients = keras.layers.Rescaling(unit, dtype="float32", name="coefficients")(latent)
    linear = _conv(outputs, "linear", use_bias=False, kernel_initializer="zeros", dtype="float32")
    x = keras.layers.Rescaling(1 / 32, dtype="float32", name="residual_in")(coefficients)
    if ranks and ranks[0] < channels:
        x = keras.layers.Conv2D(ranks[0], 1, use_bias=False, name="narrow_first")(x)
    x = scaled(_conv(hidden, "hidden_0")(x), 0)
    for number in range(1, blocks + 1):
        x = keras.layers.Add(name=f"block_{number}")([x, scaled(_conv(hidden, f"hidden_{number}")(x), number)])
    if ranks and ranks[1] < outputs:
        x = _conv(ranks[1], "narrow_last", use_bias=False)(x)
    side = 1 if ranks and ranks[1] < outputs else 3
    last = keras.layers.Conv2D(outputs, side, padding="same", kernel_initializer="zeros", dtype="float32", name="last")
    x = keras.layers.Rescaling(32.0, dtype="float32", name="residual_out")(last(x))
    x = keras.layers.Add(dtype="float32", name="blocks")([linear(coefficients), x])
    x = DepthToSpace(frequencies.stride, dtype="float32", name="levels")(x)
    x = keras.layers.Rescaling(1 / 255, offset=0.5, dtype="float32", name="pixels")(x)
    _set_centre(linear, frequencies.basis().T)
    return keras.Model(latent if quality is None else [latent, quality], x, name="decoder")


def reach_of(blocks: int) -> int:
    """Positions that the two networks see beyond their own: a 3x3 kernel sees one."""
    return max(3, blocks + 2)


def _conv(filters: int, name: str, **options: Any) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, 3, padding="same", name=name, **options)


def _set_centre(layer: keras.layers.Layer, matrix: Float32) -> None:
    """Makes a 3x3 layer the transform of each position by itself."""
    kernel = np.zeros(layer.kernel.shape, np.float32)
    kernel[1, 1] = matrix
    layer.kernel.assign(kernel)
