"""The bundled codec as an artifact folder: payloads of photographs written and read where there is no tfcomp.

    manifest.json        what the codec is, and sha256 and size of every other file
    encoder/1/           SavedModel: image uint8 [H, W, 3], quality int32 [] -> payload_bytes string []
    decoder/1/           SavedModel: payload_bytes string [] -> image uint8 [H, W, 3], [H, W, 1] of a grey one;
                         signature ``latent``: -> latent int32 [rows, columns, 96]
    encoder.tflite       image uint8 [1, H, W, 3], quality int32 [1] -> payload uint8 [N]
    decoder.tflite       payload uint8 [1, N] -> image uint8 [H, W, 3] or [H, W, 1]

of any size: resize the input of a ``.tflite`` to what it is to be given. Their operators are builtin; the networks'
weights are float16 there. What each writes, every other and `PhotographCodec` read, to the same integers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

import tfcomp
from tfcomp import artifacts, exporting
from tfcomp.files import replacing_folder
from tfcomp.photographs.codec import ANALYSIS, SYNTHESIS, VERSION, PhotographCodec
from tfcomp.photographs.freeze import KerasNetworks
from tfcomp.photographs.graph import GraphCodec


class Graphs:
    """The functions of the artifact, of the bundled codec, named as above."""

    def __init__(self) -> None:
        networks, codec = KerasNetworks.bundled(), PhotographCodec.load()
        self.codec, self._networks = codec, networks
        graph = GraphCodec(codec, networks.graphs[ANALYSIS], networks.graphs[SYNTHESIS])
        one_payload = tf.TensorSpec([None], tf.uint8, "payload")
        latent = _function(graph.decode, one_payload)  # that of both signatures, traced once

        def image_to_bytes(image: Any, quality: Any) -> dict[str, Any]:
            payload = tf.cast(graph.compress(image, quality), tf.int32)
            return {
                "payload_bytes": tf.strings.reduce_join(tf.gather([bytes([value]) for value in range(256)], payload))
            }

        def bytes_to_image(payload_bytes: Any) -> dict[str, Any]:
            payload = tf.io.decode_raw(payload_bytes, tf.uint8)
            return {"image": graph.decompress(payload, latent(payload))}

        def bytes_to_latent(payload_bytes: Any) -> dict[str, Any]:
            return {"latent": latent(tf.io.decode_raw(payload_bytes, tf.uint8))}

        def image_to_payload(image: Any, quality: Any) -> dict[str, Any]:
            return {"payload": graph.compress(image[0], quality[0])}

        def payload_to_image(payload: Any) -> dict[str, Any]:
            return {"image": graph.decompress(payload[0], latent(payload[0]))}

        image, payload_bytes = (
            tf.TensorSpec([None, None, 3], tf.uint8, "image"),
            tf.TensorSpec([], tf.string, "payload_bytes"),
        )
        quality = tf.TensorSpec([], tf.int32, "quality")
        self.saved_models = {
            artifacts.ENCODER: {"serving_default": _function(image_to_bytes, image, quality)},
            artifacts.DECODER: {
                "serving_default": _function(bytes_to_image, payload_bytes),
                "latent": _function(bytes_to_latent, payload_bytes),
            },
        }
        one = tf.TensorSpec([1, None, None, 3], tf.uint8, "image")
        self.litert = {
            artifacts.ENCODER_LITERT: _function(image_to_payload, one, tf.TensorSpec([1], tf.int32, "quality")),
            artifacts.DECODER_LITERT: _function(payload_to_image, tf.TensorSpec([1, None], tf.uint8, "payload")),
        }


def export(folder: str | Path) -> dict[str, Any]:
    """Write the artifact; one that is already there is replaced in one step.

    Args:
        folder: its name; nothing is written there until all of it is.

    Returns:
        The manifest.
    """
    graphs = Graphs()
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
            "files": {
                path.relative_to(partial).as_posix(): artifacts.describe(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
        }
        (partial / artifacts.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _function(function: Callable[..., dict[str, Any]], *signature: tf.TensorSpec) -> Any:
    # There is nothing in it for AutoGraph, which would take longer than the rest.
    return tf.function(function, input_signature=signature, autograph=False)
