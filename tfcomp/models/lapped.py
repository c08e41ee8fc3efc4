"""The networks of the photograph codec and the objective they are trained on.

All of it is `keras.ops`, so that the same weights train under every Keras backend. What is minimised, summed over the
pixels of a crop whose quality is drawn at random, is

    rate in bits + price * squared error,       price = PRICE / step**2

with ``step`` that of the quality in levels of 8-bit pixels. An orthonormal transform with a uniform quantizer has a
squared error of step**2 / 12 and halves it, at high rates, for one bit a coefficient, which makes PRICE 6 / ln 2 = 8.7;
at low rates, where most coefficients are zero, the best price for the same step is lower.

The rate is that of Laplace densities whose mean and scale are linear in the coefficients coded before (`layout`): the
float counterpart of `context`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.old_layout import CHANNELS, GROUPS, PASSES, STRIDE

STEPS = tuple(128 * (9 / 128) ** (i / 7) for i in range(8))
"""Of the qualities, in levels of 8-bit pixels."""
PRICE = 5.0
HIDDEN_ENCODER, HIDDEN_DECODER, BLOCKS = 96, 128, 3
RANKS = 80, 24
"""Of the synthesis's first layer and of its last, once it is trained; see `freeze.narrowed`."""

Tensor = Any
Float32 = NDArray[np.float32]


@keras.saving.register_keras_serializable("tfcomp")
class Analysis(keras.Model):
    """Pixels to coefficients: a linear lapped transform, and what two hidden layers add to it.

    Blocks of pixels, float [N, H / 8, W / 8, 192] of levels less 127.5, to float [N, H / 8, W / 8, CHANNELS].
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.linear = _conv(CHANNELS, use_bias=False, kernel_initializer=_Centre(transposed=False))
        self.first = _conv(HIDDEN_ENCODER, activation="relu")
        self.second = _conv(HIDDEN_ENCODER, activation="relu")
        self.last = _conv(CHANNELS, kernel_initializer="zeros")

    def call(self, blocks: Tensor) -> Tensor:
        hidden = self.first(blocks / 64)
        hidden = hidden + self.second(hidden)
        return self.linear(blocks) + 64 * self.last(hidden)


@keras.saving.register_keras_serializable("tfcomp")
class Synthesis(keras.Model):
    """Coefficients to pixels: the transform back, and a residual network that knows the quality.

    Float [N, H / 8, W / 8, CHANNELS] of whole numbers of steps, with the steps [N, 1, 1, CHANNELS] and the quality
    [N, qualities] as ones and zeros, to blocks of pixels, float [N, H / 8, W / 8, 192] of levels less 127.5.

    Args:
        ranks: of the first layer and of the last, which are then products of two; by default each is one, as trained.
    """

    def __init__(self, ranks: tuple[int, int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.narrow_first = keras.layers.Conv2D(ranks[0], 1, use_bias=False) if ranks else None
        self.narrow_last = _conv(ranks[1], use_bias=False) if ranks else None
        self.linear = _conv(3 * STRIDE**2, use_bias=False, kernel_initializer=_Centre(transposed=True))
        self.first = _conv(HIDDEN_DECODER)
        self.blocks = [_conv(HIDDEN_DECODER) for _ in range(BLOCKS)]
        self.scales = [keras.layers.Dense(HIDDEN_DECODER, use_bias=False, kernel_initializer="ones")
                       for _ in range(BLOCKS + 1)]  # fmt: skip
        self.last = keras.layers.Conv2D(3 * STRIDE**2, 1 if ranks else 3, padding="same", kernel_initializer="zeros")

    def call(self, latent: Tensor, steps: Tensor, quality: Tensor) -> Tensor:
        coefficients = latent * steps
        scales = [scale(quality)[:, None, None] for scale in self.scales]
        first = coefficients / 32 if self.narrow_first is None else self.narrow_first(coefficients / 32)
        hidden = ops.relu(self.first(first) * scales[0])
        for block, scale in zip(self.blocks, scales[1:], strict=True):
            hidden = hidden + ops.relu(block(hidden) * scale)
        hidden = hidden if self.narrow_last is None else self.narrow_last(hidden)
        return self.linear(coefficients) + 32 * self.last(hidden)

    def built_on_zeros(self) -> Synthesis:
        """Itself, with weights."""
        latent = np.zeros((1, 1, 1, CHANNELS), np.float32)
        self(latent, latent, np.zeros((1, len(STEPS)), np.float32))
        return self


@keras.saving.register_keras_serializable("tfcomp")
class Contexts(keras.layers.Layer):
    """Mean and scale of each coefficient, in steps, from those coded before it.

    ``latent`` float [N, h, w, CHANNELS] of whole numbers, ``steps`` and ``quality`` as in `Synthesis`.
    """

    def build(self, _: Any = None) -> None:
        self.base = self.add_weight(
            shape=(len(STEPS), CHANNELS), initializer=keras.initializers.Constant(-0.2), name="base"
        )
        # One kernel for the five phases of the means, two for all other channels.
        self.masks, self.scale_roots, self.means = [], [], []
        for kind in range(3):
            mask, scale, mean = _kernels(kind)
            self.masks.append(mask)
            self.scale_roots.append(self._weight(np.sqrt(scale), f"scale_roots_{kind}"))
            self.means.append(self._weight(mean, f"means_{kind}"))

    def _weight(self, value: Float32, name: str) -> Any:
        return self.add_weight(shape=value.shape, initializer=_Value(value), name=name)

    def call(self, latent: Tensor, steps: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        values = latent * steps
        magnitudes = ops.abs(values)
        height, width = latent.shape[1:3]

        def sums(kind: int) -> tuple[Tensor, Tensor]:
            inputs = (values, magnitudes) if kind else (values[..., GROUPS[0]], magnitudes[..., GROUPS[0]])
            mean = ops.conv(inputs[0], self.means[kind] * self.masks[kind], padding="same")
            root = self.scale_roots[kind] * self.masks[kind]
            return mean, ops.conv(inputs[1], root * root, padding="same")

        means, scales = [], []
        dc_mean, dc_scale = sums(0)
        phases = [_plane(p, height, width) for p in PASSES]
        n = GROUPS[0].stop
        first = [p for p in PASSES if p.group == 0]
        means.append(sum(dc_mean[..., n * p.phase :][..., :n] * phases[i] for i, p in enumerate(first)))
        alone = 300 * phases[0]  # what nothing is known of
        scales.append(alone + sum(dc_scale[..., n * p.phase :][..., :n] * phases[i] for i, p in enumerate(first)))
        even, odd = sums(1), sums(2)
        white = phases[len(first)]
        means.append((even[0] * white + odd[0] * (1 - white))[..., n:])
        scales.append((even[1] * white + odd[1] * (1 - white))[..., n:])
        base = ops.exp(10 * ops.matmul(quality, self.base))[:, None, None]
        return ops.concatenate(means, -1) / steps, base + ops.concatenate(scales, -1) / steps


@keras.saving.register_keras_serializable("tfcomp")
class PhotographModel(keras.Model):
    """All that is trained. Inputs: crops uint8 [N, H, W, 3], and the quality of each, int32 [N], from 0."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed
        self.analysis, self.synthesis, self.contexts = Analysis(), Synthesis(), Contexts()
        self.noise = keras.random.SeedGenerator(seed)
        self.log_steps = self.add_weight(
            shape=(len(STEPS), CHANNELS),
            initializer=_Value(np.repeat(np.log(np.array(STEPS, np.float32))[:, None], CHANNELS, axis=1)),
            name="log_steps",
        )
        self.trackers = {name: keras.metrics.Mean(name) for name in ("loss", "bits_per_pixel", "squared_error")}

    @property
    def metrics(self) -> list[Any]:
        return [*self.trackers.values()]

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> tuple[Tensor, Tensor]:
        """Bits per pixel and mean squared error in levels, float [N] each."""
        images, quality = inputs
        quality = ops.one_hot(quality, len(STEPS))
        steps = ops.exp(ops.matmul(quality, self.log_steps))[:, None, None]
        blocks = to_blocks(ops.cast(images, "float32") - 127.5)
        exact = self.analysis(blocks) / steps
        exact = _shrunk(exact, self.contexts(ops.stop_gradient(ops.round(exact)), steps, quality)[1])
        rounded = exact + ops.stop_gradient(ops.round(exact) - exact)
        mean, scale = self.contexts(rounded, steps, quality)
        noisy = exact + keras.random.uniform(ops.shape(exact), -0.5, 0.5, seed=self.noise) if training else rounded
        bits = laplace_bits(noisy - mean, scale)
        error = ops.square(self.synthesis(rounded, steps, quality) - blocks)
        pixels = STRIDE**2 * blocks.shape[1] * blocks.shape[2]
        return ops.sum(bits, (1, 2, 3)) / pixels, ops.mean(error, (1, 2, 3))

    def compute_loss(self, x: Any = None, _: Any = None, y_pred: Any = None, *__: Any, **___: Any) -> Tensor:
        """What `call` returned, as one number to minimise."""
        bits, error = y_pred
        step = ops.take(ops.convert_to_tensor(np.array(STEPS, np.float32)), x[1])
        # Three colours to a pixel. The factor lets every quality weigh alike: bits fall about as steps rise.
        loss = ops.mean((bits + 3 * PRICE * error / step**2) * step / STEPS[len(STEPS) // 2])
        for name, value in (("loss", loss), ("bits_per_pixel", bits), ("squared_error", error)):
            self.trackers[name].update_state(value)
        return loss

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def to_blocks(images: Tensor) -> Tensor:
    """[N, H, W, 3] -> [N, H / 8, W / 8, 192]."""
    _, height, width, colours = images.shape
    split = ops.reshape(images, (-1, height // STRIDE, STRIDE, width // STRIDE, STRIDE, colours))
    return ops.reshape(
        ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, height // STRIDE, width // STRIDE, STRIDE**2 * colours)
    )


def laplace_bits(x: Tensor, scale: Tensor) -> Tensor:
    """The information, in bits, of the interval ``x - 1/2 .. x + 1/2`` under a Laplace density around 0."""
    distance, scale = ops.abs(x), ops.maximum(scale, 0.05)
    inside = ops.minimum(distance, 0.5)
    near = 1 - 0.5 * (ops.exp(-(0.5 + inside) / scale) + ops.exp(-(0.5 - inside) / scale))
    beyond = ops.maximum(distance - 0.5, 0) / scale
    return (beyond - ops.log(ops.maximum(near, 1e-9))) / np.log(2)


# === Inside ===


def _shrunk(exact: Tensor, scale: Tensor) -> Tensor:
    """Values nearer to zero, so that rounding them is about what rate-distortion optimised quantization makes of them.

    One step nearer to zero saves about ``1 / (scale * ln 2)`` bits, and adds ``2 * r + 1`` squared steps of error for a
    value ``r`` above the integer it rounds to. The means, whose expectation is not zero, stay as they are.
    """
    saved = ops.minimum(1 / (np.log(2) * scale), 8.0) / (2 * PRICE)
    less = ops.minimum(saved, 0.4) * np.float32(np.arange(CHANNELS) >= GROUPS[0].stop)
    shrunk = ops.sign(exact) * ops.maximum(ops.abs(exact) - less, 0.0)
    return exact + ops.stop_gradient(shrunk - exact)


def _conv(filters: int, **options: Any) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, 3, padding="same", **options)


class _Centre(keras.initializers.Initializer):
    """The transform of `layout.basis`, or back, in the middle of a 3x3 kernel."""

    def __init__(self, transposed: bool) -> None:
        self.transposed = transposed

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        matrix = layout.basis().reshape(-1, CHANNELS)
        kernel = np.zeros(shape, np.float32)
        kernel[1, 1] = matrix.T if self.transposed else matrix
        return ops.convert_to_tensor(kernel, dtype)


class _Value(keras.initializers.Initializer):
    def __init__(self, value: Float32) -> None:
        self.value = value

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:  # noqa: ARG002 - as Keras calls it
        return ops.convert_to_tensor(self.value, dtype)


def _kernels(kind: int) -> tuple[Float32, Float32, Float32]:
    """Mask, first scale and first mean kernel: of the means' five phases (0), or of one of the chessboard's (1, 2)."""
    passes = [p for p in PASSES if (p.group == 0 if kind == 0 else p.group and p.phase == kind - 1)]
    inputs = GROUPS[0].stop if kind == 0 else CHANNELS
    sides = slice(None) if kind == 0 else slice(1, 4)
    mask, scale, mean = [], [], []
    for p in passes:
        seen = p.context()[sides, sides, :inputs].astype(np.float32)
        for channel in range(p.channels.start, p.channels.stop):
            own = np.zeros_like(seen)
            own[..., channel] = seen[..., channel]
            count = max(1.0, own.sum())
            mask.append(seen)
            scale.append(0.5 * own / count + 0.003 * seen if kind else 0.02 * seen)
            mean.append(own / count if kind == 0 else 0 * own)
    stacks = [np.stack(kernels, -1) for kernels in (mask, scale, mean)]
    if kind:  # the means' channels are of kind 0
        stacks = [np.concatenate([np.zeros((*k.shape[:-1], GROUPS[0].stop), np.float32), k], -1) for k in stacks]
    return stacks[0], stacks[1], stacks[2]


def _plane(p: layout.Pass, height: int, width: int) -> Float32:
    return p.positions(height, width).astype(np.float32)[None, :, :, None]
