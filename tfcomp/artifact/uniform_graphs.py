"""The functions of an artifact whose items have one shape; see `manifest` for their inputs and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.artifact.conversion import Samples, function, to_litert
from tfcomp.artifact.files_in_graph import decoded_file
from tfcomp.artifact.manifest import DECODER, DECODER_LITERT, ENCODER, ENCODER_LITERT
from tfcomp.entropy.sample import SampleModel
from tfcomp.entropy.static import StaticModel
from tfcomp.graph.messages import GraphCoder
from tfcomp.graph.operators import on_cpu
from tfcomp.graph.sample_coder import SampleCoder
from tfcomp.graph.tile_coder import exact
from tfcomp.items import Images
from tfcomp.parts import Parts
from tfcomp.runtimes.keras_networks import KerasTransform
from tfcomp.uniform import LARGEST, model_of


class UniformGraphs:
    """TensorFlow functions from images to payloads and back, the range coder inside.

    Args:
        parts: of a codec that runs on ``transform``.
        transform: the trained networks.
    """

    def __init__(self, parts: Parts, transform: KerasTransform) -> None:
        self.parts, self.transform = parts, transform
        self.several = len(parts.qualities) > 1
        models = [model_of(quality) for quality in parts.qualities]
        self.latent_shape = shape_of_latent = models[-1].latent_shape
        self._numbers = np.array([quality.number for quality in parts.qualities], np.int32)
        # Functions from rows of qualities, int32 [N], to steps and offsets, float32 [N, *latent_shape].
        self._step, self._offset = (
            exact(np.stack([np.broadcast_to(getattr(q, name), shape_of_latent) for q in parts.qualities]))
            for name in ("step", "offset")
        )
        self.coder = _coder(models)
        shape = parts.item.shape
        image = tf.TensorSpec([None, *shape], tf.uint8, "image")
        text = tf.TensorSpec([None], tf.string, "payload_bytes")
        file = tf.TensorSpec([None], tf.string, "file_bytes")
        payload, length = tf.TensorSpec([self.capacity], tf.uint8, "payload"), tf.TensorSpec([1], tf.int32, "length")
        each, one = ([tf.TensorSpec([count], tf.int32, "quality")] if self.several else [] for count in (None, 1))

        # Two signatures share each of these functions, which are traced once.
        self._bytes_of = function(self._image_to_bytes, image, *each)
        self._integers_of = function(self._bytes_to_integers, text, *each)
        encoder = {"serving_default": self._bytes_of, "latent": transform.analyse_graph}
        if not isinstance(self.coder, SampleCoder):
            encoder["slope"] = transform.slope_graph
        if parts.item.channels in (1, 3):
            encoder["file"] = function(self._file_to_bytes, file, *each)
        self.saved_models = {
            ENCODER: encoder,
            DECODER: {
                "serving_default": function(self._bytes_to_image, text, *each),
                "integers": self._integers_of,
                "latent": transform.synthesise_graph,
            },
        }
        self._to_payload = function(self._image_to_payload, tf.TensorSpec([1, *shape], tf.uint8, "image"), *one)
        self._to_image = function(self._payload_to_image, payload, length, *one)

    @property
    def capacity(self) -> int:
        """``MAX``, the size of a payload buffer."""
        return int(self.coder.capacity)

    # === Integers ===

    def _row(self, quality: Any) -> Any:
        """Index of each item's quality, int32 [N]; None where there is one quality alone."""
        if quality is None:
            return None
        return tf.clip_by_value(quality, self._numbers[0], self._numbers[-1]) - self._numbers[0]

    def _encode(self, image: Any, quality: Any) -> tuple[Any, Any]:
        """Payload buffers, uint8 [N, MAX], and lengths, int32 [N]."""
        latent, row = self.transform.analyse_graph(image)["latent"], self._row(quality)
        payloads: tuple[Any, Any]
        if isinstance(self.coder, SampleCoder):
            payloads = self.coder.encode(latent, image)
            return payloads

        def nearest(latent: Any) -> Any:
            if row is not None:
                latent = (latent - self._offset(row)) / self._step(row)
            # Rounding comes last: an 8-bit network holds 1 as 0.99, which the cast would make 0.
            return tf.round(tf.clip_by_value(latent, -LARGEST, LARGEST))

        integers = tf.cast(nearest(latent) if row is None else _in_floats(nearest, latent), tf.int32)
        payloads = self.coder.encode(tf.reshape(integers, [-1, self.coder.symbols]), row)
        return payloads

    def _decode(self, buffer: Any, length: Any, quality: Any) -> Any:
        """Integers, int32 [N, *latent_shape]."""
        return tf.reshape(self.coder.decode(buffer, length, self._row(quality)), [-1, *self.latent_shape])

    def _restore(self, integers: Any, quality: Any) -> Any:
        """Images, uint8 [N, H, W, C]."""
        latent, row = tf.cast(integers, tf.float32), self._row(quality)
        if row is not None:
            latent = _in_floats(lambda values: values * self._step(row) + self._offset(row), latent)
        quality_input = [tf.gather(self._numbers, row)] if self.transform.takes_quality else []
        return self.transform.synthesise_graph(latent, *quality_input)["image"]

    # === Functions ===

    def _image_to_bytes(self, image: Any, quality: Any = None) -> dict[str, Any]:
        return {"payload_bytes": self.coder.to_bytes(*self._encode(image, quality))}

    def _file_to_bytes(self, file_bytes: Any, quality: Any = None) -> dict[str, Any]:
        with tf.device("CPU:0"):
            image = tf.map_fn(
                lambda content: decoded_file(content, self.parts.item), file_bytes, fn_output_signature=tf.uint8
            )
        image = tf.ensure_shape(image, [None, *self.parts.item.shape])
        return dict(self._bytes_of(image, *_quality_input(quality)))

    def _bytes_to_integers(self, payload_bytes: Any, quality: Any = None) -> dict[str, Any]:
        return {"integers": self._decode(*self.coder.from_bytes(payload_bytes), quality)}

    def _bytes_to_image(self, payload_bytes: Any, quality: Any = None) -> dict[str, Any]:
        integers = self._integers_of(payload_bytes, *_quality_input(quality))["integers"]
        return {"image": self._restore(integers, quality)}

    def _image_to_payload(self, image: Any, quality: Any = None) -> dict[str, Any]:
        buffer, length = self._encode(image, quality)
        return {"payload": tf.reshape(buffer, [self.capacity]), "length": length}

    def _payload_to_image(self, payload: Any, length: Any, quality: Any = None) -> dict[str, Any]:
        buffer = tf.reshape(payload, [1, self.capacity])
        return {"image": self._restore(self._decode(buffer, length, quality), quality)}

    # === LiteRT ===

    def litert(self, quantize: str) -> dict[str, bytes]:
        """The ``.tflite`` files of payloads, by name."""
        images: Samples = {}
        payloads: Samples = {}
        if quantize == "int8":
            items = self.calibration
            # The items take turns at the qualities.
            quality = self._numbers[np.arange(len(items)) % len(self._numbers)] if self.several else None
            quality_input = {} if quality is None else {"quality": quality[:, None]}
            buffer, length = self._encode(tf.constant(items), quality)
            images = {"image": items[:, None], **quality_input}
            payloads = {"payload": buffer.numpy(), "length": length.numpy()[:, None], **quality_input}
        return {
            ENCODER_LITERT: to_litert(self._to_payload, quantize, images),
            DECODER_LITERT: to_litert(self._to_image, quantize, payloads),
        }

    @property
    def calibration(self) -> Images:
        """Items to calibrate 8-bit networks with, and to measure on."""
        images = self.transform.calibration
        assert images is not None, "a codec that was frozen keeps calibration items"
        return images


def _coder(models: Sequence[StaticModel | SampleModel]) -> GraphCoder | SampleCoder:
    """The coder of all qualities; samples of a posterior have one quality alone."""
    static = [model for model in models if isinstance(model, StaticModel)]
    if not static:
        (model,) = (model for model in models if isinstance(model, SampleModel))
        return SampleCoder(model)
    return GraphCoder.of(static)


@on_cpu
def _in_floats(function: Callable[[Any], Any], values: Any) -> Any:
    """A function of float32 values, in a loop of one turn: no converter quantizes the inside of a loop.

    Steps of several qualities differ a hundredfold, and so do the integers: 8 bits hold neither.
    """
    _, result = tf.while_loop(lambda turn, _: turn < 1, lambda turn, x: (turn + 1, function(x)), (0, values))
    return result


def _quality_input(quality: Any) -> list[Any]:
    """The quality as the last argument of a function, which has it only where there are several."""
    return [] if quality is None else [quality]
