"""The trained networks in TensorFlow: what a codec runs on after `Codec.freeze`, and what an export converts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.items import Images
from tfcomp.runtimes.frozen_network import FrozenNetwork
from tfcomp.runtimes.plain_gradients import PLAIN_GRADIENTS
from tfcomp.runtimes.transform import Float32

Graph = Callable[..., dict[str, Any]]

MAC_SIDE = 256
"""Side in pixels of the item whose multiply-accumulates are counted, where sides are free."""


class KerasTransform:
    """Analysis, synthesis and slope as TensorFlow functions of trained networks.

    Args:
        encoder: uint8 [N, H, W, C] -> float [N, *latent_shape]; for samples of a posterior [N, 2, *latent_shape], mean
            and deviation.
        decoder: float32 latents -> pixels on [0, 1]; with ``takes_quality``, of two inputs, the second a one-hot
            quality, float32 [N, qualities].
        unit, zero: float32, broadcastable to the latent; a latent ``l`` in units stands for ``l * unit + zero``.
        qualities: number of qualities.
        takes_quality: whether the decoder knows the quality.
        calibration: uint8 [N, H, W, C], some of the images that the codec was fitted to, or crops of them.
        model: a snapshot of the trained model, which an export can keep.

    Attributes:
        analyse_graph: tf.function, image -> {"latent"}.
        synthesise_graph: tf.function, latent [, quality int32 [N], from 1] -> {"image"}.
        slope_graph: tf.function, image, latent [, quality] -> {"error", "gradient"}.
        plain_slope_graph: the same function, of operators that LiteRT has, where the networks' gradients have such.
        refines: True; see `transform.Transform`.
    """

    refines = True

    def __init__(
        self, encoder: FrozenNetwork, decoder: FrozenNetwork, unit: Float32, zero: Float32, qualities: int = 1, *,
        takes_quality: bool = False, calibration: Images | None = None, model: Any = None,
    ) -> None:  # fmt: skip
        self.encoder, self.decoder, self.unit, self.zero = encoder, decoder, unit, zero
        self.qualities, self.takes_quality = qualities, takes_quality
        self.calibration, self.model = calibration, model
        image = tf.TensorSpec([None, *self.item_shape], tf.uint8, "image")
        latent = tf.TensorSpec([None, *self.latent_shape], tf.float32, "latent")
        latents = [latent, tf.TensorSpec([None], tf.int32, "quality")] if takes_quality else [latent]
        self.analyse_graph = tf.function(self._analyse, input_signature=[image], autograph=False)
        self.synthesise_graph = tf.function(self._synthesise, input_signature=latents, autograph=False)
        self.slope_graph = tf.function(self._slope, input_signature=[image, *latents], autograph=False)
        self.plain_slope_graph = tf.function(self._plain_slope, input_signature=[image, *latents], autograph=False)

    def __reduce__(self) -> Never:
        raise TypeError(
            "expected a codec of an artifact's files, found trained networks: export it, and load the artifact"
        )

    @property
    def item_shape(self) -> tuple[int | None, ...]:
        """(height, width, channels) of the items, None where free."""
        return self.encoder.input_shapes[0][1:]

    @property
    def latent_shape(self) -> tuple[int | None, ...]:
        """Shape of one item's latent."""
        return self.decoder.input_shapes[0][1:]

    # === As the graph ===

    def _analyse(self, image: Any) -> dict[str, Any]:
        # Not (latent - zero) / unit: 8-bit networks would compute the difference in the quotient's resolution.
        latent = tf.cast(self.encoder(image), tf.float32) / self.unit
        return {"latent": latent - self.zero / self.unit if np.any(self.zero) else latent}

    def _pixels(self, latent: Any, quality: Any, white: float = 1.0) -> Any:
        """The decoder's pixels, float32, from 0 for black to ``white``."""
        values = latent * self.unit + self.zero
        inputs = [values, tf.one_hot(quality - 1, self.qualities)] if self.takes_quality else values
        pixels = tf.cast(self.decoder(inputs), tf.float32)
        # Limits come after the product: before it, 8-bit networks would hold pixels in the product's resolution.
        return tf.clip_by_value(pixels if white == 1 else pixels * white, 0.0, white)

    def _synthesise(self, latent: Any, quality: Any = None) -> dict[str, Any]:
        # Rounding comes last: an 8-bit network holds 1 as 0.99, which the cast would make 0.
        return {"image": tf.cast(tf.round(self._pixels(latent, quality, 255.0)), tf.uint8)}

    def _slope(self, image: Any, latent: Any, quality: Any = None) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            tape.watch(latent)
            error = self._error(image, latent, quality)
        return {"error": error, "gradient": tape.gradient(error, latent)}

    def _plain_slope(self, image: Any, latent: Any, quality: Any = None) -> dict[str, Any]:
        # Gradients by the graph, not by a tape, which passes over the map of what LiteRT can compute.
        with tf.compat.v1.get_default_graph().gradient_override_map(PLAIN_GRADIENTS):
            pixels = self._pixels(latent, quality)
            difference = pixels - tf.cast(image, tf.float32) / 255.0
            (gradient,) = tf.gradients(pixels, latent, 2.0 * difference)
        return {"error": tf.reduce_sum(tf.square(difference), axis=[1, 2, 3]), "gradient": gradient}

    def _error(self, image: Any, latent: Any, quality: Any) -> Any:
        difference = self._pixels(latent, quality) - tf.cast(image, tf.float32) / 255.0
        return tf.reduce_sum(tf.square(difference), axis=[1, 2, 3])

    # === As a transform ===

    def _quality_input(self, count: int, quality: int) -> list[Any]:
        return [tf.fill([count], quality)] if self.takes_quality else []

    def analyse(self, items: Images) -> Float32:
        return np.asarray(self.analyse_graph(tf.constant(items))["latent"])

    def synthesise(self, latents: Float32, quality: int) -> Images:
        quality_input = self._quality_input(len(latents), quality)
        return np.asarray(self.synthesise_graph(tf.constant(latents), *quality_input)["image"])

    def slope(self, items: Images, latents: Float32, quality: int) -> tuple[Float32, Float32]:
        quality_input = self._quality_input(len(items), quality)
        outputs = self.slope_graph(tf.constant(items), tf.constant(latents), *quality_input)
        return np.asarray(outputs["error"]), np.asarray(outputs["gradient"])

    # === As numbers ===

    def sensitivity(self, latents: Float32, quality: int, probes: int = 8) -> NDArray[np.float64]:
        """Squared error that a squared unit makes, at each position: float64 [*latent_shape], mean over the latents.

        Args:
            latents: float32 [N, *latent_shape], in units.
            quality: the one that they were quantized at, from 1.
            probes: random projections of the Jacobian; see `sensitivity`.
        """
        one_hot = [tf.one_hot(tf.fill([len(latents)], quality - 1), self.qualities)] if self.takes_quality else []

        def decode(values: Any) -> Any:
            return self.decoder([values, *one_hot] if one_hot else values)

        return sensitivity(decode, latents * self.unit + self.zero, probes) * np.square(self.unit, dtype=np.float64)

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates of each network for a pixel of the item, by ``"encoder"`` and ``"decoder"``."""
        shape = [1, *(n or MAC_SIDE for n in self.item_shape)]
        encoder = tf.function(self._analyse, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.uint8))
        outputs = encoder.structured_outputs["latent"].shape  # of a posterior, two heads
        latent = tf.TensorSpec([1, *outputs[-len(self.latent_shape) :]], tf.float32)
        quality_input = [tf.TensorSpec([1], tf.int32)] if self.takes_quality else []
        decoder = tf.function(self._synthesise, autograph=False).get_concrete_function(latent, *quality_input)
        graphs = {"encoder": encoder, "decoder": decoder}
        return {name: sum(map(_macs, _operations(f.graph))) / (shape[1] * shape[2]) for name, f in graphs.items()}


def sensitivity(decoder: Callable[..., Any], latents: Float32, probes: int = 8) -> NDArray[np.float64]:
    """float64 [*latent_shape]: mean of ``sum_pixels (d pixel / d latent)^2``, by random projections of the Jacobian.

    For a probe ``v`` of independent random signs, ``E[(v^T J)_i^2] = sum_p J_pi^2``: one backward pass each.
    """
    values = tf.constant(latents, tf.float32)
    signs = np.random.default_rng(0)
    total = np.zeros(latents.shape[1:])
    for _ in range(probes):
        with tf.GradientTape() as tape:
            tape.watch(values)
            pixels = tf.cast(decoder(values), tf.float32)
            projection = tf.reduce_sum(pixels * signs.choice([-1.0, 1.0], size=pixels.shape).astype(np.float32))
        total += np.square(np.asarray(tape.gradient(projection, values), np.float64)).mean(axis=0)
    return total / probes


# === Counting ===


def _operations(graph: Any) -> list[Any]:
    """All operations of a graph, those of the functions that it calls included."""
    operations = []
    for operation in graph.get_operations():
        operations.append(operation)
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            name = operation.get_attr("f").name
            operations += _operations(graph._get_function(name).graph)  # noqa: SLF001 - TensorFlow has no public way
    return operations


def _macs(operation: Any) -> float:
    if operation.type == "Conv2D":
        kernel, positions = operation.inputs[1].shape, operation.outputs[0].shape
        return float(np.prod(kernel) * np.prod(positions[1:3]))
    if operation.type == "DepthwiseConv2dNative":
        return float(np.prod(operation.inputs[1].shape) * np.prod(operation.outputs[0].shape[1:3]))
    if operation.type == "Conv2DBackpropInput":
        return float(np.prod(operation.inputs[1].shape) * np.prod(operation.inputs[2].shape[1:3]))
    if operation.type == "MatMul":
        return float(np.prod(operation.inputs[1].shape))
    return 0.0
