"""Checks of networks that become part of a model: before training, not after it, at freezing.

Networks of Keras's own layers are known to freeze. Others are traced once, as freezing traces them: no file can hold a
graph that calls Python, and a graph that draws at random would decode to another image each time.
"""

from __future__ import annotations

from typing import Any

import keras

from tfcomp.enlarging import free_sides
from tfcomp.errors import InputError


def admitted(network: Any, role: str, dtype: str) -> keras.Model:
    """The network as a model with inputs and outputs: itself, or around a subclass of `keras.Model` that was called.

    Args:
        network: built.
        role: ``"encoder"`` or ``"decoder"``, for errors.
        dtype: of the input that a subclassed network is given.

    Raises:
        InputError: if it is no built network, or returns something else than tensors.
    """
    if not isinstance(network, keras.Model):
        raise InputError(f"expected a Keras model as the {role}, found {type(network).__name__}")
    if not network.built:
        raise InputError(f"expected built networks: give the {role} an Input, or call it once")
    if not getattr(network, "inputs", None):
        network = _with_input(network, role, dtype)
    if not isinstance(network, keras.Sequential) and isinstance(network.output, dict):
        raise InputError(
            f"expected the {role} to return a tensor, or a list of them, found a dict of {sorted(network.output)}"
        )
    return network


def _with_input(network: keras.Model, role: str, dtype: str) -> keras.Model:
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not all(n is None or isinstance(n, int) for n in shape):
        raise InputError(
            f"expected one input of the {role} {network.name!r}, a subclass of keras.Model, found {shape}; give it its "
            "Inputs: keras.Model(x, network(x)) with x = keras.Input(...)"
        )
    image = keras.Input(tuple(shape[1:]), dtype=dtype)
    try:
        return keras.Model(image, network(image), name=network.name)
    except Exception as error:
        raise _refusal(role, error) from error


def check_graph(network: keras.Model, role: str, *, always: bool = False) -> None:
    """Raises `InputError` unless a network makes a graph that draws nothing at random and calls no Python.

    Args:
        network: with inputs.
        role: ``"encoder"`` or ``"decoder"``, for errors.
        always: trace a network of Keras's own layers too, as where its sides are free.
    """
    parts = network._flatten_layers()  # noqa: SLF001 - Keras has no public way to layers inside of layers
    if keras.backend.backend() != "tensorflow" or not (always or any(map(_foreign, parts))):
        return
    import tensorflow as tf

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in network.inputs]
    infer = tf.function(
        lambda *inputs: network(list(inputs) if len(inputs) > 1 else inputs[0], training=False), autograph=False
    )
    try:
        with free_sides(parts):
            graph = infer.get_concrete_function(*specs).graph.as_graph_def()
    except Exception as error:
        raise _refusal(role, error) from error
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if found := sorted({node.op for node in nodes if "PyFunc" in node.op or "Random" in node.op}):
        raise InputError(
            f"expected the {role} to call no Python and to draw nothing at random once it is trained, found "
            f"{', '.join(found)} in {network.name!r}"
        )


def _foreign(layer: Any) -> bool:
    """Whether a layer runs code that is neither Keras's nor this package's, or crops in training alone."""
    unknown = isinstance(layer, keras.layers.Lambda | keras.layers.TFSMLayer | keras.layers.RandomCrop)
    return unknown or type(layer).__module__.partition(".")[0] not in ("keras", "tfcomp")


def _refusal(role: str, error: Exception) -> InputError:
    # Keras puts the message between a line that names the layer and one of arguments, TensorFlow its own first.
    lines = [line.strip() for line in str(error).replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]
    message = " ".join([line for line in lines if line and not line.startswith("Arguments received")][:2])[:300]
    return InputError(
        f"expected the {role} to be one that TensorFlow makes a graph of, as freezing does, found "
        f"{type(error).__name__}: {message}"
    )
