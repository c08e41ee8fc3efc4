"""A trained network as it was at one moment: its weights stand still, and it computes in float32.

The network itself is run, not a copy made of its configuration, so that whatever trains can be frozen: subclassed
networks, layers without a configuration, functions of the user's. In each call copies stand in for its variables, as in
Keras's own ``stateless_call``, what it assigns is forgotten, and its layers compute in float32 whatever policy it was
trained under: LiteRT's floats have 32 bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from tfcomp.enlarging import free_sides

_ONE_AT_A_TIME = threading.RLock()  # policies are the layers' own: two calls at once would mix them up


class FrozenNetwork:
    """A network with the weights of now.

    Args:
        network: built; to train it further does not change the frozen one.
        half: whether weights are rounded to float16, as the files of an artifact for items of any size keep them.

    Examples:
        >>> import numpy as np
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> network = keras.Sequential([keras.Input((2,)), dense])
        >>> frozen = FrozenNetwork(network)
        >>> dense.set_weights([np.zeros((2, 1)), np.zeros(1)])
        >>> float(frozen(tf.constant([[1.0, 2.0]]))[0, 0])
        3.0

    Attributes:
        input_shapes: shape of each input, the items' axis first.
        weights: copies of the network's, in its order, float32 where they are floats.
    """

    def __init__(self, network: keras.Model, *, half: bool = False) -> None:
        self.input_shapes = [tuple(tensor.shape) for tensor in network.inputs]
        self._network, self._variables = network, list(network.weights)
        self.weights = [_copied(variable, half) for variable in self._variables]

    def __call__(self, inputs: Any) -> Any:
        """The network's output, as it infers."""
        scope = keras.StatelessScope()
        # Not as its argument, which would cast a float16 layer's weights back.
        scope.state_mapping.update(
            {id(v): tf.convert_to_tensor(copy) for v, copy in zip(self._variables, self.weights, strict=True)}
        )
        with _ONE_AT_A_TIME, _in_float32(self._network), scope:
            return self._network(inputs, training=False)


def _copied(weight: Any, half: bool) -> Any:
    value = keras.ops.convert_to_numpy(weight)
    if keras.backend.is_float_dtype(weight.dtype):
        value = (value.astype("float16") if half else value).astype("float32")
    return tf.Variable(value, trainable=False)


@contextmanager
def _in_float32(network: keras.Model) -> Iterator[None]:
    """Has all of a network, however deep, compute in float32 where it computes in 16 bits or 64."""
    # Keras has no public way to layers inside of layers; the public property of a policy cannot be set back where it
    # is a map. Operations such as ``ops.cast(x, y.dtype)`` keep the dtype that they were written with.
    layers = network._flatten_layers()  # noqa: SLF001
    operations = [part for layer in layers for part in getattr(layer, "operations", ())]
    changed = [(layer, "_dtype_policy", layer._dtype_policy) for layer in layers if _other(layer.compute_dtype)]  # noqa: SLF001
    changed += [
        (part, "dtype", part.dtype)
        for part in operations
        if not isinstance(part, keras.layers.Layer) and _other(getattr(part, "dtype", None))
    ]
    plain = {"_dtype_policy": keras.DTypePolicy("float32"), "dtype": "float32"}
    try:
        for part, name, _ in changed:
            setattr(part, name, plain[name])
        with free_sides(layers):
            yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


def _other(dtype: Any) -> bool:
    return dtype in ("float16", "bfloat16", "float64")
