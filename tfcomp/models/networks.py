"""Encoders and decoders from layers that every runtime has.

The contract of the two networks, which holds for a user's own networks as well:

    encoder: uint8 pixels 0..255 [N, *input_shape]  ->  latent float32 [N, *latent_shape], or the two heads
             [mean, log_variance] of the same shape for a VAE
    decoder: latent float32 [N, *latent_shape]      ->  pixels float32 [N, *input_shape] on the scale [0, 1]

Items of any size have the input_shape (None, None, channels) and the latent_shape (None, None, latent_dim): every
height and width is divided by one whole number, the stride. A decoder of several qualities may have a second input, the
quality, float32 [N, qualities]: a one and zeros.

Normalisation is the encoder's first layer, so that no caller can forget it. The first and last layers compute in
float32 under any mixed precision policy; a uint8 input is exact in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcomp.errors import InputError

__all__ = ["dense_encoder", "dense_decoder", "conv_encoder", "conv_decoder", "spatial_encoder", "spatial_decoder"]

Shape = tuple[Any, ...]
InputShape = Sequence[int | None]
"""(height, width, channels), or (None, None, channels) where the networks take any size."""


def require_supported_keras() -> None:
    """Raises `InputError` where Keras's settings, in ``keras.json`` or in the program, allow no models."""
    for name, found, allowed in (
        ("backend", keras.backend.backend(), ("tensorflow", "jax")),
        ("image_data_format", keras.config.image_data_format(), ("channels_last",)),
        ("floatx", keras.config.floatx(), ("float32",)),
    ):
        if found not in allowed:
            raise InputError(f"expected Keras's {name} to be {' or '.join(allowed)}, found {found}")


def shape_of(input_shape: Any) -> Shape:
    """An input shape as a tuple; raises `InputError` unless it is a sequence of whole numbers and None."""
    if not isinstance(input_shape, list | tuple) or not all(n is None or whole(n) for n in input_shape):
        raise InputError(
            f"expected input_shape as (height, width, channels), whole numbers or None, found {input_shape!r}"
        )
    return tuple(input_shape)


def whole(number: Any) -> bool:
    """Whether something is a whole number, of Python's or of NumPy's, and no truth value."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _checked(input_shape: InputShape, latent_dim: int, widths: Sequence[int]) -> Shape:
    require_supported_keras()
    input_shape = shape_of(input_shape)
    if not (whole(latent_dim) and isinstance(widths, list | tuple) and all(map(whole, widths))):
        raise InputError(f"expected whole numbers for latent_dim and layer widths, found {latent_dim!r} and {widths!r}")
    if len(input_shape) == 3 and None in input_shape:
        raise InputError(
            f"expected a fixed height and width, found {tuple(input_shape)}: dense layers take no other size; for "
            "items of any size there are spatial and lapped"
        )
    shape = tuple(int(n) for n in input_shape if n is not None)
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            f"expected input_shape as (height, width, channels), all at least 1, found {tuple(input_shape)}"
        )
    if latent_dim < 1 or any(w < 1 for w in widths):
        raise InputError(f"expected a positive latent_dim and layer widths, found {latent_dim} and {tuple(widths)}")
    return shape


def _heads(features: keras.KerasTensor, latent_dim: int, heads: Sequence[str]) -> list[keras.KerasTensor]:
    return [
        keras.layers.Dense(latent_dim, kernel_initializer=_initializer(name), dtype="float32", name=name)(features)
        for name in heads
    ]


def _initializer(head: str) -> str | keras.Initializer:
    # A VAE that starts with unit variance needs hundreds of steps to recover; small weights start it near the prior.
    return keras.initializers.RandomNormal(stddev=0.01) if head == "log_variance" else "glorot_uniform"


def _cropped(pixels: keras.KerasTensor, shape: Shape) -> keras.KerasTensor:
    """Pixels without the rows and columns that strides add to the image."""
    more = [have - wanted for have, wanted in zip(pixels.shape[1:3], shape, strict=False)]
    return keras.layers.Cropping2D(((0, more[0]), (0, more[1])), dtype="float32")(pixels) if any(more) else pixels


def _pixels(shape: Shape) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    inputs = keras.Input(shape, dtype="uint8", name="image")
    return inputs, keras.layers.Rescaling(1 / 255, dtype="float32", name="scale_to_unit")(inputs)


# === Dense ===


def dense_encoder(
    input_shape: InputShape,
    latent_dim: int,
    *,
    hidden: Sequence[int] = (512, 256),
    heads: Sequence[str] = ("latent",),
) -> keras.Model:
    """Multilayer perceptron, e.g. 784 -> 512 -> 256 -> 64.

    Examples:
        >>> encoder = dense_encoder((28, 28, 1), latent_dim=64)
        >>> encoder.input_shape, encoder.output_shape
        ((None, 28, 28, 1), (None, 64))

    Args:
        input_shape: (height, width, channels).
        latent_dim: length of each head.
        hidden: widths of the hidden layers, from the image inwards.
        heads: names of the outputs: ``("latent",)``, or ``("mean", "log_variance")`` for a VAE.

    Raises:
        InputError: if a shape or a width is no positive whole number. The other builders raise it likewise.
    """
    shape = _checked(input_shape, latent_dim, hidden)
    inputs, x = _pixels(shape)
    x = keras.layers.Flatten()(x)
    for width in hidden:
        x = keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal")(x)
    outputs = _heads(x, latent_dim, heads)
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name="encoder")


def dense_decoder(input_shape: InputShape, latent_dim: int, *, hidden: Sequence[int] = (512, 256)) -> keras.Model:
    """The mirror image of `dense_encoder`, with the same arguments: ``hidden`` is from the image inwards here too."""
    shape = _checked(input_shape, latent_dim, hidden)
    inputs = x = keras.Input((latent_dim,), name="latent")
    for width in reversed(hidden):
        x = keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal")(x)
    x = keras.layers.Dense(math.prod(shape), activation="sigmoid", dtype="float32", name="pixels")(x)
    return keras.Model(inputs, keras.layers.Reshape(shape, dtype="float32")(x), name="decoder")


# === Convolutional ===


def conv_encoder(
    input_shape: InputShape,
    latent_dim: int,
    *,
    filters: Sequence[int] = (32, 64),
    hidden: int = 500,
    heads: Sequence[str] = ("latent",),
) -> keras.Model:
    """Strided 5x5 convolutions, one per entry of ``filters``, then a dense layer and the heads.

    The layout (two strided convolutions, a dense layer of 500) follows the small-image codec of TensorFlow's tutorial
    "Learned data compression". Any height and width from 1x1 up: each stage takes ``ceil(size / 2)``.

    Args:
        input_shape: (height, width, channels).
        latent_dim: length of each head.
        filters: widths of the convolutions, from the image inwards.
        hidden: width of the dense layer.
        heads: see `dense_encoder`.
    """
    shape = _checked(input_shape, latent_dim, (*filters, hidden))
    inputs, x = _pixels(shape)
    for width in filters:
        x = keras.layers.Conv2D(width, 5, strides=2, padding="same", activation="leaky_relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(hidden, activation="leaky_relu")(x)
    outputs = _heads(x, latent_dim, heads)
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name="encoder")


def conv_decoder(
    input_shape: InputShape, latent_dim: int, *, filters: Sequence[int] = (32, 64), hidden: int = 500
) -> keras.Model:
    """The mirror image of `conv_encoder`: dense layers, then transposed convolutions; arguments as there."""
    shape = _checked(input_shape, latent_dim, (*filters, hidden))
    height, width, channels = shape
    stride = 2 ** len(filters)
    rows, columns = -(-height // stride), -(-width // stride)
    inputs = x = keras.Input((latent_dim,), name="latent")
    x = keras.layers.Dense(hidden, activation="leaky_relu")(x)
    if filters:
        x = keras.layers.Dense(rows * columns * filters[-1], activation="leaky_relu")(x)
        x = keras.layers.Reshape((rows, columns, filters[-1]))(x)
        for narrower in reversed(filters[:-1]):
            x = keras.layers.Conv2DTranspose(narrower, 5, strides=2, padding="same", activation="leaky_relu")(x)
        x = keras.layers.Conv2DTranspose(
            channels, 5, strides=2, padding="same", activation="sigmoid", dtype="float32", name="pixels"
        )(x)
        x = _cropped(x, shape)
    else:
        x = keras.layers.Dense(math.prod(shape), activation="sigmoid", dtype="float32", name="pixels")(x)
        x = keras.layers.Reshape(shape, dtype="float32")(x)
    return keras.Model(inputs, x, name="decoder")


# === Spatial ===


def spatial_encoder(
    input_shape: InputShape,
    latent_dim: int,
    *,
    filters: Sequence[int] = (32, 64),
    heads: Sequence[str] = ("latent",),
) -> keras.Model:
    """Convolutions alone, for high rates: ``latent_dim`` numbers for each cell of ``2**len(filters)`` pixels a side.

    A dense layer that everything goes through limits the rate, whatever the training; here there is none. For images of
    one shape the latent is flat, [N, rows * columns * latent_dim]: each number has a prior and tables of its own, and
    any height and width will do: each stage takes ``ceil(size / 2)``. For (None, None, channels) the latent keeps its
    places, [N, rows, columns, latent_dim], and the image's sides are multiples of the cell's.

    Args:
        input_shape: (height, width, channels), or (None, None, channels) for any size.
        latent_dim: numbers for each cell.
        filters: widths of the convolutions, from the image inwards; at least one.
        heads: see `dense_encoder`.
    """
    shape = _checked_spatial(input_shape, latent_dim, filters)
    inputs, x = _pixels(shape)
    for width in filters:
        x = keras.layers.Conv2D(width, 5, strides=2, padding="same", activation="leaky_relu")(x)
    x = _residual(x)
    outputs = []
    for name in heads:
        head = keras.layers.Conv2D(
            latent_dim, 3, padding="same", kernel_initializer=_initializer(name), dtype="float32"
        )(x)
        # The mean begins well above the noise, and an optimizer's steps move it further.
        gain = 1.0 if name == "log_variance" else _GAIN
        head = head if _any_size(shape) else keras.layers.Flatten(dtype="float32")(head)
        outputs.append(keras.layers.Rescaling(gain, dtype="float32", name=name)(head))
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name="encoder")


def spatial_decoder(input_shape: InputShape, latent_dim: int, *, filters: Sequence[int] = (32, 64)) -> keras.Model:
    """The mirror image of `spatial_encoder`, with the same arguments. Pixels may leave [0, 1]: for squared error."""
    shape = _checked_spatial(input_shape, latent_dim, filters)
    if _any_size(shape):
        inputs = x = keras.Input((None, None, latent_dim), name="latent")
    else:
        rows, columns = (-(-n // 2 ** len(filters)) for n in shape[:2])
        inputs = keras.Input((rows * columns * latent_dim,), name="latent")
        x = keras.layers.Reshape((rows, columns, latent_dim))(inputs)
    x = keras.layers.Rescaling(1 / _GAIN)(x)
    x = keras.layers.Conv2D(filters[-1], 3, padding="same", activation="leaky_relu")(x)
    x = _residual(x)
    for narrower in reversed(filters[:-1]):
        x = keras.layers.Conv2DTranspose(narrower, 5, strides=2, padding="same", activation="leaky_relu")(x)
    # A sigmoid would hold back the many pixels that are black or white.
    x = keras.layers.Conv2DTranspose(shape[2], 5, strides=2, padding="same", dtype="float32", name="pixels")(x)
    return keras.Model(inputs, x if _any_size(shape) else _cropped(x, shape), name="decoder")


_GAIN = 10.0


def check_unbounded(distortion: object) -> None:
    """Raises `InputError` where a distortion needs pixels within [0, 1], which spatial networks do not keep."""
    if distortion == "binary_cross_entropy":
        raise InputError("expected spatial networks to be trained for squared error: their pixels have no bounds")


def _any_size(shape: Shape) -> bool:
    return shape[0] is None


def _checked_spatial(input_shape: InputShape, latent_dim: int, filters: Sequence[int]) -> Shape:
    if not filters:
        raise InputError("expected filters of one stage or more, found none")
    shape = shape_of(input_shape)
    if len(shape) == 3 and shape[:2] == (None, None) and isinstance(shape[2], int):
        _checked((1, 1, shape[2]), latent_dim, filters)
        return shape
    return _checked(shape, latent_dim, filters)


def _residual(x: keras.KerasTensor) -> keras.KerasTensor:
    y = keras.layers.Conv2D(x.shape[-1], 3, padding="same", activation="leaky_relu")(x)
    return keras.layers.Add()([x, y])
