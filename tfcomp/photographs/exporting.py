"""The bundled codec as an artifact folder: payloads of photographs written and read where there is no tfcomp.

    manifest.json        what the codec is, and sha256 and size of every other file
    encoder/1/           SavedModel: image uint8 [H, W, 3], quality int32 [] -> payload_bytes string []
    decoder/1/           SavedModel: payload_bytes string [] -> image uint8 [H, W, 3], [H, W, 1] of a grey one;
                         signature ``latent``: -> latent int32 [rows, columns, 96]
    encoder.tflite       image uint8 [1, H, W, 3], quality int32 [1] -> payload uint8 [N]
    decoder.tflite       payload uint8 [1, N] -> image uint8 [H, W, 3] or [H, W, 1]

of any size: resize the input of a ``.tflite`` to what it is to be given. Where a runtime cannot, as LiteRT.js, export
with ``side``; then the ``.tflite`` files take photographs of up to SIDE pixels a side, in tensors of fixed shapes::

    encoder.tflite       image uint8 [1, SIDE, SIDE, 3], of which the first rows and columns count; size_and_quality
                         int32 [3], height, width, quality -> payload uint8 [3 * SIDE**2], zero after its length; length
                         int32 [1], 0 if it did not fit
    decoder.tflite       payload uint8 [3 * SIDE**2], length int32 [1] -> image uint8 [SIDE, SIDE, 3], zero beyond its
                         size; size int32 [3], height, width, channels. A larger image comes out as one pixel

Operators are builtin; the networks' weights are float16 in the ``.tflite`` files. What each writes, every other and
`PhotographCodec` read, to the same integers: on a CPU. A delegate that computes in half precision would choose other
tables, and read noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

import tfcomp
from tfcomp.artifact import exporting
from tfcomp.artifact import manifest as artifacts
from tfcomp.errors import InputError
from tfcomp.graph.any_size import GraphCodec
from tfcomp.photographs.codec import ANALYSIS, SYNTHESIS, VERSION, PhotographCodec
from tfcomp.photographs.keras_networks import KerasNetworks
from tfcomp.storage.writing import replacing_folder

MOST_SIDE = 4096


class Graphs:
    """The functions of the artifact, of the bundled codec, named as above.

    Args:
        side: of the ``.tflite`` files; None for any size.
    """

    def __init__(self, side: int | None = None) -> None:
        networks, codec = KerasNetworks.bundled(), PhotographCodec.load()
        self.codec, functions = codec, (networks.graphs[ANALYSIS], networks.graphs[SYNTHESIS])
        graph = GraphCodec(codec, *functions)
        # That of both signatures, traced once.
        latent = _function(graph.decode, tf.TensorSpec([None], tf.uint8, "payload"))

        def image_to_bytes(image: Any, quality: Any) -> dict[str, Any]:
            payload, characters = graph.compress(image, quality), [bytes([value]) for value in range(256)]
            return {"payload_bytes": tf.strings.reduce_join(tf.gather(characters, tf.cast(payload, tf.int32)))}

        def bytes_to_image(payload_bytes: Any) -> dict[str, Any]:
            payload = tf.io.decode_raw(payload_bytes, tf.uint8)
            return {"image": graph.decompress(payload, latent(payload))}

        def bytes_to_latent(payload_bytes: Any) -> dict[str, Any]:
            return {"latent": latent(tf.io.decode_raw(payload_bytes, tf.uint8))}

        def image_to_payload(image: Any, quality: Any) -> dict[str, Any]:
            return {"payload": graph.compress(image[0], quality[0])}

        def payload_to_image(payload: Any) -> dict[str, Any]:
            return {"image": graph.decompress(payload[0], latent(payload[0]))}

        def image_to_buffer(image: Any, size_and_quality: Any) -> dict[str, Any]:
            size = tf.clip_by_value(size_and_quality[:2], 1, side)
            payload = limited.compress(
                tf.slice(image[0], [0, 0, 0], tf.concat([size, [3]], axis=0)), size_and_quality[2]
            )
            length = tf.size(payload)
            length = tf.where(length <= buffer, length, 0)
            return {"payload": _padded(payload[:length], (buffer,)), "length": length[None]}

        def buffer_to_image(payload: Any, length: Any) -> dict[str, Any]:
            payload = payload[: tf.clip_by_value(length[0], 0, buffer)]
            image, size = limited.decompress(payload, limited.decode(payload)), limited.size(payload)
            return {"image": _padded(image, (side, side, 3)), "size": size}

        text = tf.TensorSpec([], tf.string, "payload_bytes")
        image, quality = tf.TensorSpec([None, None, 3], tf.uint8, "image"), tf.TensorSpec([], tf.int32, "quality")
        self.saved_models = {
            artifacts.ENCODER: {"serving_default": _function(image_to_bytes, image, quality)},
            artifacts.DECODER: {
                "serving_default": _function(bytes_to_image, text),
                "latent": _function(bytes_to_latent, text),
            },
        }
        image = tf.TensorSpec([1, side, side, 3], tf.uint8, "image")
        if side is None:
            encoder = _function(image_to_payload, image, tf.TensorSpec([1], tf.int32, "quality"))
            decoder = _function(payload_to_image, tf.TensorSpec([1, None], tf.uint8, "payload"))
        else:
            buffer, limited = 3 * side**2, GraphCodec(codec, *functions, side)
            payload, length = tf.TensorSpec([buffer], tf.uint8, "payload"), tf.TensorSpec([1], tf.int32, "length")
            encoder = _function(image_to_buffer, image, tf.TensorSpec([3], tf.int32, "size_and_quality"))
            decoder = _function(buffer_to_image, payload, length)
        self.litert = {artifacts.ENCODER_LITERT: encoder, artifacts.DECODER_LITERT: decoder}


def export(folder: str | Path, *, side: int | None = None) -> dict[str, Any]:
    """Write the artifact; one that is already there is replaced in one step.

    Args:
        folder: its name; nothing is written there until all of it is.
        side: the most pixels a side that the ``.tflite`` files take, 8 to 4096; by default any number.

    Returns:
        The manifest.

    Raises:
        InputError: on another side.
    """
    if side is not None and not 8 <= side <= MOST_SIDE:
        raise InputError(f"expected a side of 8 to {MOST_SIDE} pixels, found {side}")
    graphs = Graphs(side)
    with replacing_folder(folder, marker=artifacts.MANIFEST) as partial:
        for name, signatures in graphs.saved_models.items():
            exporting.save(partial / name, signatures)
        for name, function in graphs.litert.items():
            (partial / name).write_bytes(exporting.to_litert(function, "float16"))
        manifest: dict[str, Any] = {
            "kind": "photographs",
            "tfcomp": tfcomp.__version__,
            "payload_version": VERSION,
            "fingerprint": graphs.codec.fingerprint.hex(),
            "qualities": graphs.codec.qualities,
            "side": side,
            "files": {
                path.relative_to(partial).as_posix(): artifacts.describe(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
        }
        (partial / artifacts.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _padded(values: Any, shape: tuple[Any, ...]) -> Any:
    """uint8, zeros after the values; by way of int32, as LiteRT fills up no uint8."""
    after = [[0, n - tf.shape(values)[axis]] for axis, n in enumerate(shape)]
    return tf.cast(tf.reshape(tf.pad(tf.cast(values, tf.int32), after), shape), tf.uint8)


def _function(function: Callable[..., dict[str, Any]], *signature: tf.TensorSpec) -> Any:
    # There is nothing in it for AutoGraph, which would take longer than the rest.
    return tf.function(function, input_signature=signature, autograph=False)
