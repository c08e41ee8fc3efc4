"""Writing the artifact folder: the one module that converts. See `artifacts` for what is in it and how it is read.

SavedModels keep the networks' variables and take any batch. For LiteRT a function is traced for one item and frozen,
so that every weight is a constant and every shape static that the item fixes, and goes through a SavedModel with one
signature, so that its inputs and outputs keep their names. Only float tensors are ever quantized, and these are the
networks': the range coder computes in int32, so a quantized encoder makes payloads that every decoder with the same
tables reads exactly.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfcomp.artifact import manifest as artifacts
from tfcomp.codec import Codec, Images
from tfcomp.entropy import qualities
from tfcomp.errors import InputError
from tfcomp.graph.messages import GraphCoder
from tfcomp.measure import evaluate
from tfcomp.runtimes.keras_networks import KerasNetworks
from tfcomp.storage.writing import replacing_folder

# Operators that LiteRT has and an artifact must not: what is kept between calls, or drawn at random.
FORBIDDEN = {"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "MULTINOMIAL"}
FORBIDDEN |= {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "STABLEHLO_RNG_BIT_GENERATOR"}

Samples = Mapping[str, NDArray[Any]]
"""Example inputs of a function by name, the items stacked along a first axis."""


def export(codec: Codec, folder: str | Path, *, quantize: str = "float32") -> dict[str, Any]:
    """Write ``codec`` as an artifact folder; an artifact that is already there is replaced in one step.

    Args:
        codec: as `Codec.freeze` returned it.
        folder: its name; nothing is written there until all of it is.
        quantize: of the networks in the ``.tflite`` files: ``"float32"``; ``"float16"`` or ``"dynamic"`` (8 bits)
            weights; ``"int8"`` weights and activations, calibrated. The SavedModels are always float32.

    Returns:
        The manifest, as a dictionary. Its ``measured`` compares the ``.tflite`` files with those of float32, on the
        images that the codec kept from its calibration.

    Raises:
        InputError: on a loaded codec, an unknown quantization, or networks with an operator that LiteRT does not have
            built in, that is random or that keeps a state; the message names it.
    """
    if quantize not in artifacts.QUANTIZATIONS:
        raise InputError(f"expected quantize to be one of {artifacts.QUANTIZATIONS}, found {quantize!r}")
    graphs = Graphs(codec)
    with replacing_folder(folder, marker=artifacts.MANIFEST) as partial:
        arrays = qualities.arrays([one.entropy_model for one in codec.codecs])
        np.savez_compressed(partial / artifacts.TABLES, allow_pickle=False, **arrays)
        converted = graphs.litert(quantize)
        for name, content in converted.items():
            (partial / name).write_bytes(content)
        save(partial / artifacts.ENCODER, {"serving_default": graphs.image_to_bytes, "latent": graphs.image_to_latent})
        save(partial / artifacts.DECODER, {"serving_default": graphs.bytes_to_image, "latent": graphs.latent_to_image})
        variants = {"float32": converted if quantize == "float32" else graphs.litert("float32"), quantize: converted}
        manifest = artifacts.Manifest(
            fingerprint=codec.fingerprint,
            image_shape=codec.image_shape,
            latent_shape=codec.entropy_model.latent_shape,
            max_payload_bytes=graphs.coder.capacity,
            quantize=quantize,
            files={
                path.relative_to(partial).as_posix(): artifacts.describe(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
            measured={"images": len(graphs.calibration), **_measure(codec, graphs.calibration, variants)},
            fingerprints=tuple(one.fingerprint for one in codec.codecs),
        )
        manifest.write(partial)
    return dict(vars(manifest))


def _measure(codec: Codec, images: Images, variants: Mapping[str, Mapping[str, bytes]]) -> dict[str, Any]:
    """Payload bytes and PSNR of ``.tflite`` files on images, uint8 [N, *image_shape], and the files' sizes."""
    measured = {}
    models = [one.entropy_model for one in codec.codecs]
    for name, files in variants.items():
        networks = artifacts.LiteRTNetworks(files[artifacts.ENCODER_LATENT], files[artifacts.DECODER_LATENT])
        for quality, one in enumerate(artifacts.codec_of(networks, models, codec.image_shape).codecs, 1):
            point = evaluate.measure(one, images)
            measured[name if len(models) == 1 else f"{name}, quality {quality}"] = {
                "bytes_per_image": point.bytes_per_image,
                "psnr_db": point.psnr_db,
                "encoder_bytes": len(files[artifacts.ENCODER_LITERT]),
                "decoder_bytes": len(files[artifacts.DECODER_LITERT]),
            }
    return measured


class Graphs:
    """The functions of an artifact; each names its inputs by its signature and its results by a dictionary's keys.

    Args:
        codec: as `Codec.freeze` returned it. With several qualities, the functions of payloads have one more input,
            ``quality``, int32, one number for each item.

    Raises:
        InputError: on a loaded codec.
    """

    def __init__(self, codec: Codec) -> None:
        self.several = isinstance(codec, qualities.VariableRateCodec)
        networks = codec.fine_networks if isinstance(codec, qualities.VariableRateCodec) else codec.networks
        if not isinstance(networks, KerasNetworks):
            raise InputError(
                "expected a codec from Codec.freeze; a loaded one, or one quality of several, has no networks to export"
            )
        models = [one.entropy_model for one in codec.codecs]
        of, index = models[-1], np.stack([model.index for model in models])
        self.step, self.offset = (
            np.stack([getattr(model, name).ravel() for model in models]).astype(np.int32) for name in ("step", "offset")
        )
        self.networks, self.calibration = networks, networks.calibration
        self.coder = coder = GraphCoder(of.tables, index, of.segments, of.sets)
        image = tf.TensorSpec([None, *codec.image_shape], tf.uint8, "image")
        latent = tf.TensorSpec([None, *of.latent_shape], tf.int32, "latent")
        payload_bytes = tf.TensorSpec([None], tf.string, "payload_bytes")
        payload = tf.TensorSpec([coder.capacity], tf.uint8, "payload")
        length = tf.TensorSpec([1], tf.int32, "length")
        each, one = ([tf.TensorSpec([count], tf.int32, "quality")] if self.several else [] for count in (None, 1))

        def decode(buffer: Any, length: Any, quality: Any) -> Any:
            latents = self.decode(buffer, length, quality)
            return networks.decode_graph(tf.reshape(latents, [-1, *of.latent_shape]))

        @tf.function(input_signature=[image, *each])
        def image_to_bytes(image: Any, quality: Any = None) -> dict[str, Any]:
            return {"payload_bytes": coder.to_bytes(*self.encode(networks.encode_graph(image), quality))}

        @tf.function(input_signature=[payload_bytes, *each])
        def bytes_to_image(payload_bytes: Any, quality: Any = None) -> dict[str, Any]:
            return {"image": decode(*coder.from_bytes(payload_bytes), quality)}

        @tf.function(input_signature=[image])
        def image_to_latent(image: Any) -> dict[str, Any]:
            return {"latent": networks.encode_graph(image)}

        @tf.function(input_signature=[latent])
        def latent_to_image(latent: Any) -> dict[str, Any]:
            return {"image": networks.decode_graph(latent)}

        @tf.function(input_signature=[tf.TensorSpec([1, *codec.image_shape], tf.uint8, "image"), *one])
        def image_to_payload(image: Any, quality: Any = None) -> dict[str, Any]:
            buffer, length = self.encode(networks.encode_graph(image), quality)
            return {"payload": tf.reshape(buffer, [coder.capacity]), "length": length}

        @tf.function(input_signature=[payload, length, *one])
        def payload_to_image(payload: Any, length: Any, quality: Any = None) -> dict[str, Any]:
            return {"image": decode(tf.reshape(payload, [1, coder.capacity]), length, quality)}

        self.image_to_bytes, self.bytes_to_image = image_to_bytes, bytes_to_image
        self.image_to_latent, self.latent_to_image = image_to_latent, latent_to_image
        self.image_to_payload, self.payload_to_image = image_to_payload, payload_to_image

    def encode(self, latents: Any, quality: Any) -> tuple[Any, Any]:
        """Payload buffers and lengths, of the networks' int32 latents [N, *latent_shape] and qualities, int32 [N]."""
        latents = tf.reshape(latents, [-1, self.coder.symbols])
        if quality is None:
            return self.coder.encode(latents)
        row = self._row(quality)
        return self.coder.encode(qualities.coarse(latents, *self._scale(row)), row)

    def decode(self, buffer: Any, length: Any, quality: Any) -> Any:
        """The networks' latents, int32 [N, S], of payloads; the inverse of `encode`."""
        if quality is None:
            return self.coder.decode(buffer, length)
        row = self._row(quality)
        return qualities.fine(self.coder.decode(buffer, length, row), *self._scale(row))

    def _row(self, quality: Any) -> Any:
        return tf.clip_by_value(quality, 1, len(self.step)) - 1

    def _scale(self, row: Any) -> tuple[Any, Any]:
        return tf.gather(self.step, row), tf.gather(self.offset, row)

    def litert(self, quantize: str, calibration: Images | None = None) -> dict[str, bytes]:
        """The ``.tflite`` files by name.

        Args:
            quantize: one of `artifacts.QUANTIZATIONS`.
            calibration: uint8 [N, *image_shape], for ``"int8"``; by default all that the codec kept. The images take
                turns at the qualities.
        """
        images: Samples = {}
        latent: Samples = {}
        payload: Samples = {}
        told: Samples = {}
        if quantize == "int8":
            images = {"image": (self.calibration if calibration is None else calibration)[:, None]}
            latents = np.concatenate([self.networks.encode(image) for image in images["image"]])
            quality = np.arange(len(latents), dtype=np.int32) % len(self.step) + 1 if self.several else None
            told = {} if quality is None else {"quality": quality[:, None]}
            buffer, length = self.encode(tf.constant(latents), quality)
            decoded = self.decode(buffer, length, quality).numpy().reshape(latents.shape)
            latent = {"latent": decoded[:, None]}
            payload = {"payload": buffer.numpy(), "length": length.numpy()[:, None]}
        return {
            artifacts.ENCODER_LITERT: to_litert(self.image_to_payload, quantize, {**images, **told}),
            artifacts.DECODER_LITERT: to_litert(self.payload_to_image, quantize, {**payload, **told}),
            artifacts.ENCODER_LATENT: to_litert(self.image_to_latent, quantize, images),
            artifacts.DECODER_LATENT: to_litert(self.latent_to_image, quantize, latent),
        }


def save(folder: Path, signatures: Mapping[str, Any]) -> None:
    """Write a SavedModel with these signatures: graphs and the variables that they use, no Python."""
    traced = {name: graph.get_concrete_function() for name, graph in signatures.items()}
    module = tf.Module()
    module.weights = list({id(v): v for function in traced.values() for v in function.graph.variables}.values())
    tf.saved_model.save(module, str(folder), traced)


def to_litert(graph: Any, quantize: str = "float32", samples: Samples | None = None) -> bytes:
    """Convert a function with named inputs and results to a ``.tflite`` with one signature, of builtin operators alone.

    Args:
        graph: ``tf.function`` with an input signature; a first dimension of None becomes 1.
        quantize: one of `artifacts.QUANTIZATIONS`.
        samples: inputs to calibrate ``"int8"`` with.

    Raises:
        InputError: if an operator is not built into LiteRT, or is random or keeps a state; the message names it.
    """
    specs = [
        tf.TensorSpec([1 if n is None and not axis else n for axis, n in enumerate(spec.shape)], spec.dtype, spec.name)
        for spec in graph.input_signature
    ]
    concrete = graph.get_concrete_function(*specs)
    definition = concrete.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    if assigning := {node.op for node in nodes if "Assign" in node.op}:
        raise _refusal(assigning)
    # Variables become constants first: converted as they are, they leave READ_VARIABLE operators without the weights.
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    results = sorted(concrete.structured_outputs)

    @tf.function(input_signature=specs)
    def named(*inputs: Any) -> dict[str, Any]:
        return dict(zip(results, frozen(*inputs), strict=True))

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # calibration runs in an interpreter that announces its successor
        tf.saved_model.save(tf.Module(), folder, named.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":

            def calibration() -> Iterator[dict[str, NDArray[Any]]]:
                for item in zip(*(samples or {}).values(), strict=True):
                    yield dict(zip(samples or {}, item, strict=True))

            converter.representative_dataset = calibration
        try:
            content = bytes(converter.convert())
        except ConverterError as error:
            named_by_it = {found.operator.name.removeprefix("tf.") for found in error.errors if found.operator.name}
            names = named_by_it or set(re.findall(r"\btf\.(\w+) ?[({]", str(error)))
            raise _refusal(names) from error
    refused = {name for name in operators(content) if name in FORBIDDEN or name.startswith("CUSTOM ")}
    if refused:
        raise _refusal(refused)
    return content


def _refusal(names: set[str]) -> InputError:
    found = ", ".join(sorted(names)) or "one that the converter does not name"
    return InputError(
        f"expected networks of operators that are built into LiteRT, not random and without a state, found {found}"
    )


def operators(litert: bytes) -> set[str]:
    """Names of the operators of a ``.tflite``, as the LiteRT schema spells them; others as ``"CUSTOM name"``."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAs(litert)
    found = set()
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        # Codes below 127 are in the field of the first schema as well.
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        found.add(f"CUSTOM {(code.CustomCode() or b'?').decode()}" if name == "CUSTOM" else name)
    return found
