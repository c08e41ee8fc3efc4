"""Gradients from operators that LiteRT has, where TensorFlow's own use others, such as ReluGrad.

They hold for networks whose tensors of one place do not broadcast over free axes. A broadcast operand, such as a bias
or a gain, is taken to be independent of the latent. An export compares the result with TensorFlow's own gradient.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.RegisterGradient("TfcompRelu")
def _relu(operation: Any, upstream: Any) -> Any:
    return upstream * tf.cast(operation.outputs[0] > 0, upstream.dtype)


@tf.RegisterGradient("TfcompLeakyRelu")
def _leaky_relu(operation: Any, upstream: Any) -> Any:
    slope = operation.get_attr("alpha")
    return upstream * (slope + (1 - slope) * tf.cast(operation.inputs[0] > 0, upstream.dtype))


@tf.RegisterGradient("TfcompSigmoid")
def _sigmoid(operation: Any, upstream: Any) -> Any:
    return upstream * operation.outputs[0] * (1 - operation.outputs[0])


@tf.RegisterGradient("TfcompTanh")
def _tanh(operation: Any, upstream: Any) -> Any:
    return upstream * (1 - tf.square(operation.outputs[0]))


@tf.RegisterGradient("TfcompLimit")
def _limit(operation: Any, upstream: Any) -> Any:
    # The first operand of a minimum or maximum is limited by the second.
    return upstream * tf.cast(tf.equal(operation.outputs[0], operation.inputs[0]), upstream.dtype), None


@tf.RegisterGradient("TfcompSum")
def _sum(operation: Any, upstream: Any) -> Any:
    first, second = operation.inputs
    return upstream if _whole(first, second) else None, upstream if _whole(second, first) else None


@tf.RegisterGradient("TfcompDifference")
def _difference(operation: Any, upstream: Any) -> Any:
    first, second = operation.inputs
    return upstream if _whole(first, second) else None, -upstream if _whole(second, first) else None


@tf.RegisterGradient("TfcompProduct")
def _product(operation: Any, upstream: Any) -> Any:
    first, second = operation.inputs
    return upstream * second if _whole(first, second) else None, upstream * first if _whole(second, first) else None


def _whole(one: Any, other: Any) -> bool:
    """Whether an operand has the shape of the result."""
    ranks = one.shape.rank, other.shape.rank
    if None in ranks or ranks[0] < ranks[1]:
        return False
    return all(n != 1 or m == 1 for n, m in zip(reversed(one.shape), reversed(other.shape), strict=False))


PLAIN_GRADIENTS = {
    "Relu": "TfcompRelu",
    "LeakyRelu": "TfcompLeakyRelu",
    "Sigmoid": "TfcompSigmoid",
    "Tanh": "TfcompTanh",
    "Minimum": "TfcompLimit",
    "Maximum": "TfcompLimit",
    "AddV2": "TfcompSum",
    "Sub": "TfcompDifference",
    "Mul": "TfcompProduct",
}
"""Names of the gradients above by operator, for `tf.Graph.gradient_override_map`."""
