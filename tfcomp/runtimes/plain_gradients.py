"""Gradients from operators that LiteRT has, where TensorFlow's own use others, such as ReluGrad.

They hold for networks whose tensors of one place do not broadcast over free axes; an operand that is broadcast is taken
for one that does not depend on the latent, such as a bias or a gain. An export compares what comes out with
TensorFlow's own gradient.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.RegisterGradient("TfcompRelu")
def _relu(operation: Any, rise: Any) -> Any:
    return rise * tf.cast(operation.outputs[0] > 0, rise.dtype)


@tf.RegisterGradient("TfcompLeakyRelu")
def _leaky_relu(operation: Any, rise: Any) -> Any:
    slope = operation.get_attr("alpha")
    return rise * (slope + (1 - slope) * tf.cast(operation.inputs[0] > 0, rise.dtype))


@tf.RegisterGradient("TfcompSigmoid")
def _sigmoid(operation: Any, rise: Any) -> Any:
    return rise * operation.outputs[0] * (1 - operation.outputs[0])


@tf.RegisterGradient("TfcompTanh")
def _tanh(operation: Any, rise: Any) -> Any:
    return rise * (1 - tf.square(operation.outputs[0]))


@tf.RegisterGradient("TfcompLimit")
def _limit(operation: Any, rise: Any) -> Any:
    # Of the two operands of a minimum or maximum, the first is limited by the second.
    return rise * tf.cast(tf.equal(operation.outputs[0], operation.inputs[0]), rise.dtype), None


@tf.RegisterGradient("TfcompSum")
def _sum(operation: Any, rise: Any) -> Any:
    first, second = operation.inputs
    return rise if _whole(first, second) else None, rise if _whole(second, first) else None


@tf.RegisterGradient("TfcompDifference")
def _difference(operation: Any, rise: Any) -> Any:
    first, second = operation.inputs
    return rise if _whole(first, second) else None, -rise if _whole(second, first) else None


@tf.RegisterGradient("TfcompProduct")
def _product(operation: Any, rise: Any) -> Any:
    first, second = operation.inputs
    return rise * second if _whole(first, second) else None, rise * first if _whole(second, first) else None


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
