"""The functions of an artifact whose items have any size; see `manifest` for their inputs and results.

Operators are builtin. On a CPU, every other runtime reads the payloads of each function to the same integers. A
delegate that computes in half precision would choose other tables, and read noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfcomp.artifact.conversion import function, to_litert
from tfcomp.artifact.files_in_graph import decoded_file
from tfcomp.artifact.manifest import DECODER, DECODER_LITERT, ENCODER, ENCODER_LITERT
from tfcomp.entropy.context import ContextModel
from tfcomp.errors import InputError
from tfcomp.geometry import MAX_PIXELS
from tfcomp.graph.any_size import AnySizeGraph
from tfcomp.parts import Parts
from tfcomp.runtimes.keras_networks import KerasTransform

MIN_SIDE, MAX_SIDE = 8, 4096


class TiledGraphs:
    """TensorFlow functions from an image to a payload and back, the range coder inside.

    Args:
        parts: of a codec that runs on ``transform``.
        transform: the trained networks.
        side: of items in the ``.tflite`` files, in pixels; None for any size.
    """

    def __init__(self, parts: Parts, transform: KerasTransform, side: int | None = None) -> None:
        if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
            raise InputError(f"expected a side of {MIN_SIDE} to {MAX_SIDE} pixels, found {side}")
        self.parts, self.transform, self.side = parts, transform, side
        channels = parts.item.channels
        graph = self._graph(None)

        text = tf.TensorSpec([], tf.string, "payload_bytes")
        image = tf.TensorSpec([None, None, channels], tf.uint8, "image")
        quality = tf.TensorSpec([], tf.int32, "quality")
        # Two signatures share each of these functions, which are traced once.
        payload_of = function(graph.compress, image, quality)
        integers = function(graph.decode, tf.TensorSpec([None], tf.uint8, "payload"))

        def image_to_bytes(image: Any, quality: Any) -> dict[str, Any]:
            payload, characters = payload_of(image, quality), [bytes([value]) for value in range(256)]
            return {"payload_bytes": tf.strings.reduce_join(tf.gather(characters, tf.cast(payload, tf.int32)))}

        def file_to_bytes(file_bytes: Any, quality: Any) -> dict[str, Any]:
            return image_to_bytes(decoded_file(file_bytes, parts.item), quality)

        def bytes_to_image(payload_bytes: Any) -> dict[str, Any]:
            payload = tf.io.decode_raw(payload_bytes, tf.uint8)
            return {"image": graph.decompress(payload, integers(payload))}

        def bytes_to_integers(payload_bytes: Any) -> dict[str, Any]:
            return {"integers": integers(tf.io.decode_raw(payload_bytes, tf.uint8))}

        encoder = {
            "serving_default": function(image_to_bytes, image, quality),
            "latent": transform.analyse_graph,
            "slope": transform.slope_graph,
        }
        if channels in (1, 3):
            encoder["file"] = function(file_to_bytes, tf.TensorSpec([], tf.string, "file_bytes"), quality)
        self.saved_models = {
            ENCODER: encoder,
            DECODER: {
                "serving_default": function(bytes_to_image, text),
                "integers": function(bytes_to_integers, text),
                "latent": transform.synthesise_graph,
            },
        }

    @property
    def capacity(self) -> int | None:
        """``MAX``, the size of a payload buffer, where sides are fixed."""
        return None if self.side is None else self.parts.item.channels * self.side**2

    def _graph(self, side: int | None) -> AnySizeGraph:
        parts, transform = self.parts, self.transform
        assert parts.grid is not None

        def analyse(image: Any) -> Any:
            return transform.analyse_graph(image)["latent"]

        def synthesise(latent: Any, row: Any) -> Any:
            quality_input = [row[None] + 1] if transform.takes_quality else []
            return transform.synthesise_graph(latent, *quality_input)["image"]

        models = [quality.entropy for quality in parts.qualities if isinstance(quality.entropy, ContextModel)]
        return AnySizeGraph(
            models,
            np.stack([quality.step for quality in parts.qualities]),
            np.stack([quality.offset for quality in parts.qualities]),
            np.stack([quality.rounding_weight for quality in parts.qualities]),
            grid=parts.grid,
            channels=parts.item.channels,
            analyse=analyse,
            synthesise=synthesise,
            side=MAX_PIXELS if side is None else side,
            max_pixels=parts.max_pixels,
        )

    # === LiteRT ===

    def litert(self, _quantize: str) -> dict[str, bytes]:
        """The ``.tflite`` files of payloads, by name; their weights have 16 bits, which the contexts' need."""
        channels, side = self.parts.item.channels, self.side
        graph = self._graph(side)

        def image_to_payload(image: Any, quality: Any) -> dict[str, Any]:
            return {"payload": graph.compress(image[0], quality[0])}

        def payload_to_image(payload: Any) -> dict[str, Any]:
            return {"image": graph.decompress(payload[0], graph.decode(payload[0]))}

        def image_to_buffer(image: Any, size_and_quality: Any) -> dict[str, Any]:
            size = tf.clip_by_value(size_and_quality[:2], 1, side)
            seen = tf.slice(image[0], [0, 0, 0], tf.concat([size, [channels]], axis=0))
            payload = graph.compress(seen, size_and_quality[2])
            length = tf.size(payload)
            length = tf.where(length <= self.capacity, length, 0)
            return {"payload": _padded(payload[:length], (self.capacity,)), "length": length[None]}

        def buffer_to_image(payload: Any, length: Any) -> dict[str, Any]:
            payload = payload[: tf.clip_by_value(length[0], 0, self.capacity)]
            latent = graph.decode(payload)
            image = _padded(graph.decompress(payload, latent), (side, side, channels))
            return {"image": image, "size": graph.size(payload, latent)}

        image = tf.TensorSpec([1, side, side, channels], tf.uint8, "image")
        if side is None:
            encoder = function(image_to_payload, image, tf.TensorSpec([1], tf.int32, "quality"))
            decoder = function(payload_to_image, tf.TensorSpec([1, None], tf.uint8, "payload"))
        else:
            payload = tf.TensorSpec([self.capacity], tf.uint8, "payload")
            encoder = function(image_to_buffer, image, tf.TensorSpec([3], tf.int32, "size_and_quality"))
            decoder = function(buffer_to_image, payload, tf.TensorSpec([1], tf.int32, "length"))
        # The networks' weights are rounded to 16 bits anyway, and the files are half as large.
        return {ENCODER_LITERT: to_litert(encoder, "float16"), DECODER_LITERT: to_litert(decoder, "float16")}


def _padded(values: Any, shape: tuple[Any, ...]) -> Any:
    """uint8, zeros after the values; by way of int32, as LiteRT fills up no uint8."""
    after = [[0, n - tf.shape(values)[axis]] for axis, n in enumerate(shape)]
    return tf.cast(tf.reshape(tf.pad(tf.cast(values, tf.int32), after), shape), tf.uint8)
