"""Keras's `UpSampling2D` for images of free sides, in graphs.

In a graph Keras repeats rows and columns in a way that loses the number of channels, which LiteRT must know, and
interpolates only between sizes that are numbers. `tf.image.resize`, which gives the same values, has neither fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def free_sides(layers: Iterable[Any]) -> Iterator[None]:
    """A context in which `UpSampling2D` layers enlarge images of free sides by `tf.image.resize`."""
    import keras

    enlarging = [layer for layer in layers if isinstance(layer, keras.layers.UpSampling2D)]
    enlarging = [layer for layer in enlarging if layer.data_format == "channels_last"]
    for layer in enlarging:
        layer.call = partial(_resized, plain=layer.call, size=layer.size, interpolation=layer.interpolation)
    try:
        yield
    finally:
        for layer in enlarging:
            del layer.call


def _resized(inputs: Any, plain: Callable[[Any], Any], size: tuple[int, int], interpolation: str) -> Any:
    if None not in inputs.shape[1:3]:
        return plain(inputs)
    import tensorflow as tf

    return tf.cast(tf.image.resize(inputs, tf.shape(inputs)[1:3] * size, interpolation), inputs.dtype)
