"""Writing the artifact folder: the one module that converts. See `artifacts` for what is in it and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfcomp import artifacts
from tfcomp.errors import InputError
from tfcomp.files import replacing_folder
from tfcomp.freezing import KerasNetworks

if TYPE_CHECKING:
    from tfcomp.codec import Codec


def export(codec: Codec, folder: str | Path) -> dict[str, Any]:
    """Write ``codec`` as an artifact folder; an artifact that is already there is replaced in one step.

    Args:
        codec: as `Codec.freeze` returned it.
        folder: its name; nothing is written there until all of it is.

    Returns:
        The manifest, as a dictionary.
    """
    networks = codec.networks
    if not isinstance(networks, KerasNetworks):
        raise InputError("expected a codec from Codec.freeze; a loaded one has no trained networks to export")
    with replacing_folder(folder, marker=artifacts.MANIFEST) as partial:
        np.savez_compressed(partial / artifacts.TABLES, allow_pickle=False, **codec.entropy_model.arrays())
        (partial / artifacts.ENCODER_LATENT).write_bytes(to_litert(networks.encode_graph))
        (partial / artifacts.DECODER_LATENT).write_bytes(to_litert(networks.decode_graph))
        files = {str(p.relative_to(partial)): artifacts.describe(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        manifest = artifacts.Manifest(codec.fingerprint, codec.image_shape, codec.entropy_model.latent_shape, files)
        manifest.write(partial)
    return dict(vars(manifest))


def to_litert(graph: tf.types.experimental.PolymorphicFunction) -> bytes:
    """Convert a function of one batched tensor to a ``.tflite`` of batch 1, from builtin operators alone.

    Variables become constants first: converted as they are, they leave READ_VARIABLE operators without the weights.
    """
    (spec,) = graph.input_signature
    one = graph.get_concrete_function(tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, spec.name))
    frozen = convert_variables_to_constants_v2(one, lower_control_flow=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return bytes(converter.convert())
