"""Stride and reach of two convolutional networks, measured.

The stride is the number of pixels a side that become one position of the latent. It is read from the shapes that the
networks give. The reach is the number of positions that they see beyond their own::

    |-- reach --|   |-- reach --|
    . . . x x x x X x x x x . . .       X  a row of positions whose pixels were changed
                                        x  a row of the latent that changed with it

and the same the other way, from a row of the latent to rows of pixels. Kernels are exchanged for random ones while the
reach is measured, since those of a network that was just made may hold zeros, which hide what is connected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.geometry import MAX_STRIDE

TRIALS = 3
WIDTH = 4
"""Positions of a strip, across the direction in which the reach is measured."""
FARTHEST = 63
"""Largest reach that is measured, in positions."""


def stride_of(encoder: keras.Model, decoder: keras.Model) -> int:
    """Pixels a side that become one position.

    Args:
        encoder: uint8 [N, H, W, C] -> [N, H / stride, W / stride, K], for any H and W that are multiples of the stride.
        decoder: the way back.

    Raises:
        InputError: if the sides are divided by no whole number, or the decoder does not return to them.
    """
    side = 2 * MAX_STRIDE
    (rows, columns), stride = _sides(encoder, (side, side)), 0
    if rows == columns and rows:
        stride = round(side / rows)
    for down, right in ((4, 4), (5, 7), (8, 3)):
        pixels = (down * stride, right * stride)
        found = _sides(encoder, pixels) if stride else (rows, columns)
        if found != (down, right):
            raise InputError(
                "expected an encoder that divides any height and width by one whole number, its stride, found "
                f"{list(pixels) if stride else [side, side]} -> {list(found)}"
            )
        back = _sides(decoder, (down, right))
        if back != pixels:
            raise InputError(
                f"expected a decoder that multiplies height and width by {stride}, as the encoder divides them, found "
                f"{[down, right]} -> {list(back)}"
            )
    return stride


def _sides(network: keras.Model, sides: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a network's first output, for an input of these sides."""
    tensors = [keras.KerasTensor((1, *_sized(i.shape[1:], sides)), i.dtype) for i in network.inputs]
    output = network.compute_output_spec(tensors if len(tensors) > 1 else tensors[0])
    output = output[0] if isinstance(output, (list, tuple)) else output
    return output.shape[1], output.shape[2]


def _sized(shape: Sequence[int | None], sides: tuple[int, int]) -> tuple[int | None, ...]:
    return (*sides, shape[2]) if len(shape) == 3 else tuple(shape)


def reach_of(encoder: keras.Model, decoder: keras.Model, stride: int) -> int:
    """Positions that the networks see beyond their own, the larger number of both.

    Args:
        encoder, decoder: as `stride_of` takes them.
        stride: pixels a side that become one position.

    Raises:
        InputError: if it is more than `FARTHEST`, as where something looks at the whole image.
    """
    rng = np.random.default_rng(0)

    def pixels(down: int, right: int) -> NDArray[Any]:
        shape = (1, down * stride, right * stride, encoder.inputs[0].shape[3])
        return rng.integers(0, 256, shape, np.uint8)

    def latent(down: int, right: int) -> NDArray[Any]:
        return rng.normal(0, 3, (1, down, right, decoder.inputs[0].shape[3])).astype(np.float32)

    return max(_reach(encoder, pixels, stride, 1, rng), _reach(decoder, latent, 1, stride, rng))


def _reach(
    network: keras.Model,
    sample: Callable[[int, int], NDArray[Any]],
    per_position: int,
    per_output: int,
    rng: np.random.Generator,
) -> int:
    """The reach of one network, in both directions; ``per_...``: rows a position of what goes in, and comes out."""
    most = 0
    for axis in (0, 1):
        far = 7
        while True:
            sides = (2 * far + 1, WIDTH) if axis == 0 else (WIDTH, 2 * far + 1)
            reach = max(
                _changed(network, sample, sides, axis, far, per_position, per_output, rng) for _ in range(TRIALS)
            )
            if reach < far:
                break
            far = 2 * far + 1
            if far > FARTHEST:
                raise InputError(
                    f"expected networks of a bounded reach, found {network.name!r} to see {reach} positions or more, "
                    "as with global pooling, attention or normalisation over the image; "
                    "if it sees less in fact, give reach="
                )
        most = max(most, reach)
    return most


def _changed(
    network: keras.Model,
    sample: Callable[[int, int], NDArray[Any]],
    sides: tuple[int, int],
    axis: int,
    middle: int,
    per_position: int,
    per_output: int,
    rng: np.random.Generator,
) -> int:
    """Largest distance from the middle, in positions, at which the output changes when the input does there."""
    first, other = sample(*sides), sample(*sides)
    changed = first.copy()
    row = slice(middle * per_position, (middle + 1) * per_position)
    where = (slice(None), row) if axis == 0 else (slice(None), slice(None), row)
    changed[where] = other[where]
    more = [np.eye(1, i.shape[1], dtype=np.float32) for i in network.inputs[1:]]
    kept = network.get_weights()
    network.set_weights([_random(v.name, value, rng) for v, value in zip(network.weights, kept, strict=True)])
    try:
        outputs = [network([ops.convert_to_tensor(i) for i in (x, *more)] if more else x) for x in (first, changed)]
        before, after = map(_first, outputs)
    finally:
        network.set_weights(kept)
    rows = np.flatnonzero((before != after).any(axis=tuple(a for a in range(4) if a != axis + 1)))
    return int(np.abs(rows // per_output - middle).max()) if rows.size else 0


def _random(name: str, weight: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A kernel that keeps the size of what goes through it; scales of 1, and biases and means of 0.

    Trained biases could hold back all that a kernel passes on, and hide how far it reaches.
    """
    if weight.dtype.kind != "f":
        return weight
    if weight.ndim < 2:
        scales = any(part in name for part in ("gamma", "variance", "scale", "alpha"))
        return np.full(weight.shape, 1.0 if scales else 0.0, weight.dtype)
    inputs = float(np.prod(weight.shape[:-1]))
    return rng.normal(0, np.sqrt(2 / inputs), weight.shape).astype(weight.dtype)


def _first(output: Any) -> NDArray[Any]:
    output = output[0] if isinstance(output, (list, tuple)) else output
    return np.asarray(ops.convert_to_numpy(output))
