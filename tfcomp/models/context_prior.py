"""A prior that looks at neighbours: the mean and the scale of each element of a latent that has places.

Each element has a Laplace density whose mean and scale are linear in the elements coded before it, in the order of a
`Layout`: groups of channels, phases of positions. `entropy.context` codes with the same sums in whole numbers.

    mean  = sum of m * value                  value: what was coded, times its step
    scale = exp(10 * base) + sum of r**2 * |value|

both divided by the step of the element. (Adaptive scales from neighbours: Wu, "Lossless compression of
continuous-tone images via context selection, quantization, and modeling", IEEE Transactions on Image Processing 6 (5),
1997.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.layout import Layout

Float32 = NDArray[np.float32]
Tensor = Any

ERROR_WEIGHT = 5.0
"""Bits that a squared step of error is worth in training.

An orthonormal transform with a uniform quantizer has a squared error of step**2 / 12 and halves it, at high rates, for
one bit a coefficient, which makes the weight 6 / ln 2 = 8.7; at low rates, where most coefficients are zero, the best
weight for the same step is lower.
"""
SMALLEST_SCALE = 0.05
"""Smallest scale of the Laplace density, in steps."""


@keras.saving.register_keras_serializable("tfcomp")
class ContextPrior(keras.layers.Layer):
    """Mean and scale of each element of a latent [N, h, w, C] from what was coded before it.

    Examples:
        >>> prior = ContextPrior(Layout(groups=(3, 5)), qualities=2)
        >>> mean, scale = prior(np.ones((1, 4, 6, 8)), np.ones((1, 1, 1, 8)), np.eye(2)[:1])
        >>> mean.shape, scale.shape
        (TensorShape([1, 4, 6, 8]), TensorShape([1, 4, 6, 8]))

    Args:
        layout: groups of channels, phases of positions and the contexts' reach.
        qualities: number of qualities. They share all weights but ``base``.
        kinds: for each channel the number of the kind that it belongs to, from 0; channels of a kind share tables in
            the codec. By default the first group is one kind and all others another.
        first_scale: scale of the elements that are coded first, without neighbours, in the latent's unit.

    Attributes:
        base: weight [qualities, C]; ``exp(10 * base)`` is the scale, in steps, where all neighbours are zero.
        scale_roots, means: weights, one for the first group and one for each phase of all other groups, of the shapes
            ``layout.kernel_shapes``: [side, side, channels looked at, channels looking]. A scale's weight is the square
            of its root. The first one's outputs are its phases side by side.
        masks: float32 arrays of the same shapes, 1 where a channel may look.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        qualities: int = 1,
        kinds: Sequence[int] | None = None,
        first_scale: float = 32.0,
        **kwargs: Any,
    ) -> None:
        # Scales span four powers of ten: they never compute below float32.
        super().__init__(**{**kwargs, "dtype": "float32"})
        first = layout.groups[0]
        self.kinds = tuple(int(n) for n in kinds or [0] * first + [1] * (layout.channels - first))
        if len(self.kinds) != layout.channels or min(self.kinds) < 0:
            raise InputError(f"expected a kind, from 0, for each of {layout.channels} channels, found {self.kinds}")
        if qualities < 1 or not (math.isfinite(first_scale) and first_scale > 0):
            raise InputError(f"expected qualities >= 1 and first_scale > 0, found {qualities} and {first_scale}")
        self.layout, self.qualities, self.first_scale = layout, qualities, float(first_scale)
        starts = [_start(layout, part) for part in range(1 + layout.other_phases)]
        self.masks = [mask for mask, _, _ in starts]
        self._starts = [(np.sqrt(scale), mean) for _, scale, mean in starts]

    def build(self, latent_shape: Any = None) -> None:
        self.base = self.add_weight(
            shape=(self.qualities, self.layout.channels), initializer=keras.initializers.Constant(-0.2), name="base"
        )
        roots, means = [], []
        for part, (root, mean) in enumerate(self._starts):
            roots.append(self._weight(root, f"scale_roots_{part}"))
            means.append(self._weight(mean, f"means_{part}"))
        self.scale_roots, self.means = roots, means
        super().build(latent_shape)

    def _weight(self, start: Float32, name: str) -> Any:
        return self.add_weight(
            shape=start.shape, initializer=lambda _, dtype=None: ops.convert_to_tensor(start, dtype), name=name
        )

    def call(self, latent: Tensor, steps: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of each element, in steps.

        Args:
            latent: float [N, h, w, C] of whole numbers of steps.
            steps: float [N, 1, 1, C], or one for all examples, in the latent's unit.
            quality: float [N, qualities], or one for all examples: a one and zeros.

        Returns:
            Mean and scale, float32 [N, h, w, C] each.
        """
        n, phases = self.layout.groups[0], self.layout.first_phases
        values = latent * steps
        magnitudes = values * ops.stop_gradient(ops.sign(values))  # of slope 0 at 0 under JAX too, whose abs has 1
        group_mean, group_scale = self._sums(0, values[..., :n], magnitudes[..., :n])
        planes = _planes(self.layout.first, phases, latent)
        means = [sum(group_mean[..., n * p : n * (p + 1)] * plane for p, plane in enumerate(planes))]
        scales = [
            self.first_scale * planes[0]
            + sum(group_scale[..., n * p : n * (p + 1)] * plane for p, plane in enumerate(planes))
        ]
        if self.layout.other_phases:
            planes = _planes(self.layout.others, self.layout.other_phases, latent)
            sums = [self._sums(1 + p, values, magnitudes) for p in range(self.layout.other_phases)]
            means.append(sum(mean * plane for (mean, _), plane in zip(sums, planes, strict=True))[..., n:])
            scales.append(sum(scale * plane for (_, scale), plane in zip(sums, planes, strict=True))[..., n:])
        base = ops.exp(10 * ops.matmul(quality, self.base))[:, None, None]
        return ops.concatenate(means, -1) / steps, base + ops.concatenate(scales, -1) / steps

    def _sums(self, part: int, values: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
        mean = ops.conv(values, self.means[part] * self.masks[part], padding="same")
        root = self.scale_roots[part] * self.masks[part]
        return mean, ops.conv(magnitudes, root * root, padding="same")

    def transmit(self, scaled: Tensor, step: Tensor, quality: Tensor, noise: Any, training: bool) -> tuple[Any, Any]:
        """Rounding for the decoder, with the gradient of none; noise for the rate in training. See `priors.Prior`."""
        step = ops.ones((1, 1, 1, self.layout.channels)) if step is None else step
        chosen = ops.one_hot(ops.zeros((1,), "int32") if quality is None else quality, self.qualities)
        nearest = ops.stop_gradient(ops.round(scaled))
        exact = self._shrunk(scaled, self(nearest, step, chosen)[1])
        rounded = exact + ops.stop_gradient(ops.round(exact) - exact)
        mean, scale = self(rounded, step, chosen)
        noisy = exact + keras.random.uniform(ops.shape(exact), -0.5, 0.5, seed=noise) if training else rounded
        return rounded, laplace_nats(noisy - mean, scale)

    def _shrunk(self, exact: Tensor, scale: Tensor) -> Tensor:
        """Values nearer to zero, so that rounding them is about what rate-distortion optimised quantization makes.

        One step nearer to zero saves about ``1 / (scale * ln 2)`` bits, and adds ``2 * r + 1`` squared steps of error
        for a value ``r`` above the integer it rounds to. The first group, whose means are not zero, stays as it is.

        The gradient is the shrinking's own: none where a value becomes 0. The rate has no gradient there, as its
        density is symmetric around 0; the error's alone would make the encoder's values, and with them the rate, grow
        from step to step.
        """
        saved = ops.minimum(1 / (np.log(2) * scale), 8.0) / (2 * ERROR_WEIGHT)
        later = np.arange(self.layout.channels) >= self.layout.groups[0]
        less = ops.stop_gradient(ops.minimum(saved, 0.4) * later.astype(np.float32))
        return ops.sign(exact) * ops.maximum(ops.abs(exact) - less, 0.0)

    # === Config ===

    def get_config(self) -> dict[str, Any]:
        layout = {
            "groups": list(self.layout.groups),
            "first": [list(row) for row in self.layout.first],
            "others": [list(row) for row in self.layout.others],
            "reach": self.layout.reach,
        }
        return {
            **super().get_config(),
            "layout": layout,
            "qualities": self.qualities,
            "kinds": list(self.kinds),
            "first_scale": self.first_scale,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        layout = config.pop("layout")
        first, others = (tuple(tuple(row) for row in layout[name]) for name in ("first", "others"))
        return cls(Layout(tuple(layout["groups"]), first, others, layout["reach"]), **config)


def laplace_nats(x: Tensor, scale: Tensor) -> Tensor:
    """The information, in nats, of the interval ``x - 1/2 .. x + 1/2`` under a Laplace density around 0."""
    distance, scale = ops.abs(x), ops.maximum(scale, SMALLEST_SCALE)
    inside = ops.minimum(distance, 0.5)
    near = 1 - 0.5 * (ops.exp(-(0.5 + inside) / scale) + ops.exp(-(0.5 - inside) / scale))
    beyond = ops.maximum(distance - 0.5, 0) / scale
    return beyond - ops.log(ops.maximum(near, 1e-9))


def _planes(pattern: tuple[tuple[int, ...], ...], phases: int, latent: Tensor) -> list[Tensor]:
    """For each phase, float32 [1, h, w, 1]: 1 at its positions."""
    n = len(pattern)
    rows, columns = (ops.arange(size, dtype="int32") % n for size in ops.shape(latent)[1:3])
    phase = ops.take(ops.take(ops.convert_to_tensor(pattern, "int32"), rows, axis=0), columns, axis=1)
    return [ops.cast(phase == p, "float32")[None, :, :, None] for p in range(phases)]


def _start(layout: Layout, part: int) -> tuple[Float32, Float32, Float32]:
    """Mask, first scale and first mean kernel: of the first group's phases (0), or of one phase of all others (1, ...).

    A mean begins as that of the neighbours in the same channel; a scale, as half their mean magnitude.
    """
    n = layout.groups[0]
    passes = [p for p in layout.passes if (p.group == 0 if part == 0 else p.group > 0 and p.phase == part - 1)]
    sides = slice(None) if part == 0 else slice(layout.reach - 1, layout.reach + 2)
    mask, scale, mean = [], [], []
    for which in passes:
        seen = layout.seen(which)[sides, sides, : n if part == 0 else None].astype(np.float32)
        for channel in range(which.channels.start, which.channels.stop):
            same_channel = np.zeros_like(seen)
            same_channel[..., channel] = seen[..., channel]
            count = max(1.0, same_channel.sum())
            mask.append(seen)
            scale.append(0.5 * same_channel / count + 0.003 * seen if part else 0.02 * seen)
            mean.append(same_channel / count if part == 0 else 0 * same_channel)
    stacks = [np.stack(kernels, -1) for kernels in (mask, scale, mean)]
    if part:  # the outputs of the first group's channels are not used
        stacks = [np.concatenate([np.zeros((*k.shape[:-1], n), np.float32), k], -1) for k in stacks]
    return stacks[0], stacks[1], stacks[2]
