"""Trained networks with the quantization of their latent: TensorFlow functions between uint8 images and integers."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.codec import Images
from tfcomp.coding.tables import Int32

Float32 = NDArray[np.float32]


class KerasNetworks:
    """The trained networks with quantization at their inner edge, as two TensorFlow functions.

    Args:
        encoder, decoder: the float networks.
        step, offset: float32 [*latent_shape]; integer ``q`` at a position stands for ``q * step + offset`` there.
        calibration: uint8 [N, *image_shape], some of the images that the codec was fitted to.

    Attributes:
        encode_graph: tf.function, uint8 [N, *image_shape] -> int32 [N, *latent_shape].
        decode_graph: tf.function, int32 [N, *latent_shape] -> uint8 [N, *image_shape].
        encoder, decoder, step, offset, calibration: as given.
    """

    def __init__(
        self, encoder: keras.Model, decoder: keras.Model, step: Float32, offset: Float32, calibration: Images
    ) -> None:
        zero = offset / step
        # What the functions use is kept alive with them.
        self.encoder, self.decoder, self.calibration = encoder, decoder, calibration
        self.step, self.offset = step, offset

        @tf.function(input_signature=[tf.TensorSpec([None, *encoder.input_shape[1:]], tf.uint8, "image")])
        def encode_graph(image: tf.Tensor) -> tf.Tensor:
            # Not (latent - offset) / step: 8-bit networks would compute the difference in the quotient's resolution.
            latent = tf.cast(encoder(image, training=False), tf.float32) / step - zero
            # Beyond 2**30 the cast to int32 would be undefined; no table reaches that far. Rounding comes last: an
            # 8-bit network holds 1 as 0.99, which the cast would make 0.
            return tf.cast(tf.round(tf.clip_by_value(latent, -(2.0**30), 2.0**30)), tf.int32)

        @tf.function(input_signature=[tf.TensorSpec([None, *step.shape], tf.int32, "latent")])
        def decode_graph(latent: tf.Tensor) -> tf.Tensor:
            pixels = decoder(tf.cast(latent, tf.float32) * step + offset, training=False)
            return tf.cast(tf.round(tf.clip_by_value(tf.cast(pixels, tf.float32) * 255.0, 0.0, 255.0)), tf.uint8)

        @tf.function(input_signature=[encode_graph.input_signature[0], decode_graph.input_signature[0]])
        def slope_graph(image: tf.Tensor, latent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            integers = tf.cast(latent, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(integers)
                pixels = tf.cast(decoder(integers * step + offset, training=False), tf.float32)
                off = tf.clip_by_value(pixels, 0.0, 1.0) - tf.cast(image, tf.float32) / 255.0
                error = tf.reduce_sum(tf.square(off), axis=range(1, len(image.shape)))
            return error, tape.gradient(error, integers)

        self.encode_graph, self.decode_graph, self._slope_graph = encode_graph, decode_graph, slope_graph

    def encode(self, images: Images) -> Int32:
        return np.asarray(self.encode_graph(tf.constant(images)))

    def decode(self, latents: Int32) -> Images:
        return np.asarray(self.decode_graph(tf.constant(latents)))

    def slope(self, images: Images, latents: Int32) -> tuple[Float32, Float32]:
        """Squared error of each image, of pixels on [0, 1], and its gradient: float32 [N] and [N, *latent_shape]."""
        error, gradient = self._slope_graph(tf.constant(images), tf.constant(latents))
        return np.asarray(error), np.asarray(gradient)

    def curvature(self, latents: Int32) -> NDArray[np.float64]:
        """Mean over images of half the second derivative of that error, without the pixels' own: [*latent_shape]."""
        return sensitivity(self.decoder, latents * self.step + self.offset) * np.square(self.step, dtype=np.float64)


def sensitivity(decoder: keras.Model, latents: Float32, probes: int = 8) -> NDArray[np.float64]:
    """float64 [*latent_shape]: mean of ``sum_pixels (d pixel / d latent)^2``, by random projections of the Jacobian.

    For a probe ``v`` of independent random signs, ``E[(v^T J)_i^2] = sum_p J_pi^2``: one backward pass each.
    """
    given = tf.constant(latents, tf.float32)
    signs = np.random.default_rng(0)
    total = np.zeros(latents.shape[1:])
    for _ in range(probes):
        with tf.GradientTape() as tape:
            tape.watch(given)
            pixels = tf.cast(decoder(given, training=False), tf.float32)
            projection = tf.reduce_sum(pixels * signs.choice([-1.0, 1.0], size=pixels.shape).astype(np.float32))
        total += np.square(np.asarray(tape.gradient(projection, given), np.float64)).mean(axis=0)
    return total / probes


def frozen(network: keras.Model) -> keras.Model:
    """A copy that computes in float32, whatever policy ``network`` was trained under: LiteRT's floats have 32 bits."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    made = keras.models.clone_model(network, clone_function=copy)
    made.set_weights(network.get_weights())
    return made
