"""The parts of the objective that all models share: distortions, the terms of a loss, and a metric of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

LN2 = math.log(2.0)

Distortion = Callable[[Any, Any], Any]
"""A function of (target, pixels), both float32 [N, ...] on [0, 1], that returns float32 [N]."""


@keras.saving.register_keras_serializable("tfcomp")
def squared_error(target: Any, pixels: Any) -> Any:
    """``||x - x_hat||^2`` per example: the negative logarithm of a Gaussian likelihood, scaled and shifted.

    With variance ``v`` per element that logarithm is ``||x - x_hat||^2 / (2 v) + elements / 2 * ln(2 pi v)`` nats. So
    ``distortion + beta * rate`` is, up to a constant, ``2 v`` times the negative evidence lower bound that belongs to
    ``v = beta / 2``.

    Examples:
        >>> import numpy as np
        >>> float(squared_error(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))[0])
        4.0
    """
    return sum_per_example(ops.square(target - pixels))


@keras.saving.register_keras_serializable("tfcomp")
def binary_cross_entropy(target: Any, pixels: Any) -> Any:
    """Negative Bernoulli log-likelihood in nats per example; grey values count as probabilities.

    Examples:
        >>> import numpy as np
        >>> half = np.full((1, 2, 2, 1), 0.5, np.float32)
        >>> f"{float(binary_cross_entropy(half, half)[0]):.3f}"
        '2.773'
    """
    return sum_per_example(ops.binary_crossentropy(target, pixels))


DISTORTIONS: dict[str, Distortion] = {
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
}


def sum_per_example(values: Any) -> Any:
    """Sums over all axes but the first: [N, ...] -> [N]."""
    return ops.sum(values, axis=tuple(range(1, ops.ndim(values))))


class Terms(NamedTuple):
    """Distortion, rate and pixels of one pass of a model, example by example.

    Examples:
        >>> terms = Terms(distortion=[4.0], rate=[1.5], pixels=[[0.5, 0.5]])
        >>> terms.rate, terms.quality
        ([1.5], None)

    Attributes:
        distortion: float32 [N].
        rate: float32 [N], in nats.
        pixels: float32 [N, ...], on [0, 1].
        quality: int32 [N], the quality of each example, from 0; None for a model of one price.
    """

    distortion: Any
    rate: Any
    pixels: Any
    quality: Any = None


@keras.saving.register_keras_serializable("tfcomp")
class PeakSignalToNoise(keras.metrics.Metric):
    """PSNR in dB from the mean squared error pooled over every pixel seen, of pixels on [0, 1].

    Examples:
        >>> metric = PeakSignalToNoise()
        >>> metric.update_state([0.0, 1.0], [0.1, 0.9])
        >>> f"{float(metric.result()):.2f}"
        '20.00'
    """

    def __init__(self, name: str = "psnr_db", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.squared_error = self.add_variable(shape=(), initializer="zeros", name="squared_error")
        self.elements = self.add_variable(shape=(), initializer="zeros", name="elements")

    def update_state(self, target: Any, pixels: Any, sample_weight: Any = None) -> None:
        target, pixels = (ops.convert_to_tensor(values, "float32") for values in (target, pixels))
        squares, counted = ops.square(target - pixels), ops.ones_like(target)
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1, *[1] * (len(target.shape) - 1)))
            squares, counted = squares * weight, counted * weight
        self.squared_error.assign_add(ops.sum(squares))
        self.elements.assign_add(ops.sum(counted))

    def result(self) -> Any:
        mean = self.squared_error / ops.maximum(self.elements, 1.0)
        return -10.0 * ops.log10(ops.maximum(mean, 1e-10))
