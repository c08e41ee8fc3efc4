"""TensorFlow Serving: the folder that its server watches, and a client for what it serves.

    FOLDER/encoder/VERSION/    SavedModel of an artifact's encoder, with warm-up requests in ``assets.extra``
    FOLDER/decoder/VERSION/    the decoder of the same artifact; all versions stay served
    FOLDER/models.config       ``--model_config_file``
    FOLDER/batching.config     ``--batching_parameters_file``, with ``--enable_batching``

A version appears whole or not at all, the decoder's before the encoder's: it is written under a name that is no number,
which the server passes over, and renamed. A payload belongs to the version that made it; keep that number with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp import bundled
from tfcomp.artifact.manifest import DECODER, ENCODER, MANIFEST, Manifest, read_checked, verify_saved_model
from tfcomp.artifact.serving_client import MAX_BATCH, Client, Inputs, inputs_of, request_of, require
from tfcomp.errors import InputError
from tfcomp.items import Images, Item
from tfcomp.storage import names
from tfcomp.storage.writing import replacing_file, replacing_folder

__all__ = ["MAX_BATCH", "MODELS", "Client", "export"]

MODELS = {"decoder": DECODER, "encoder": ENCODER}
"""Folder of each model in an artifact, in the order in which the models of a new version appear."""

MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"
WARM_UP = "assets.extra/tf_serving_warmup_requests"

# Each value in the wrapper message that the server's session_bundle_config.proto asks for.
_BATCHING = f"""\
max_batch_size {{ value: {MAX_BATCH} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 4 }}
"""


def export(
    artifact: str | Path,
    folder: str | Path,
    *,
    version: int | None = None,
    warm_up: Images | Sequence[Images] | None = None,
    base_path: str = "/models",
) -> int:
    """Add an artifact's encoder and decoder to the folder of a TensorFlow Serving.

    Args:
        artifact: what `Codec.export` wrote; every copied file is compared with its manifest.
        folder: may hold earlier versions, and a server may be watching it.
        version: 1 or more. Default: one more than the largest in the folder.
        warm_up: items that the server compresses and decompresses before it serves. Of one shape: uint8 [N, H, W, C],
            N > 0, one by one and in one batch of at most `MAX_BATCH`; of any size: a sequence of uint8 [H, W, C].
            Default: one black item.
        base_path: absolute path under which the server finds ``folder``.

    Returns:
        The version.

    Raises:
        InputError: if the version is there already, or an argument is not as described.
        BitstreamError: if the artifact is damaged.
        MissingDependencyError: without ``tfcomp[serving]``.
    """
    artifact, folder = bundled.resolve(artifact, MANIFEST), Path(folder)
    manifest = Manifest.read(artifact)
    batches = _warm_up(manifest.item, warm_up)
    if not base_path.startswith("/"):
        raise InputError(f"expected an absolute base_path, found {base_path!r}: the server takes no other")
    present = {int(p.name) for model in MODELS for p in folder.glob(f"{model}/*") if p.name.isdecimal()}
    if version is None:
        version = max(present, default=0) + 1
    if version < 1 or version in present:
        raise InputError(f"expected a version of 1 or more that {folder} does not hold, found {version}")
    contents = {}
    for model, source in MODELS.items():
        verify_saved_model(artifact, source, manifest.files)
        contents[model] = {
            name.removeprefix(f"{source}/"): read_checked(artifact, name, manifest.files)
            for name in manifest.files
            if name.startswith(f"{source}/")
        }
    # A codec of several qualities is warmed up at its default; payloads of items of any size hold their own.
    several = len(manifest.qualities) > 1 or manifest.item.any_size
    quality = manifest.default_quality if several else None
    to_encode = [inputs_of("encoder", batch, quality, single=manifest.item.any_size) for batch in batches]
    encoder = _signature(artifact / ENCODER)
    sent_quality = None if manifest.item.any_size else quality
    to_decode = [
        inputs_of("decoder", _run(encoder, inputs), sent_quality, single=manifest.item.any_size) for inputs in to_encode
    ]
    for model, requests in (("decoder", to_decode), ("encoder", to_encode)):
        with replacing_folder(folder / model / str(version), marker="saved_model.pb") as partial:
            for name, content in contents[model].items():
                target = partial / names.checked(name, str(artifact))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            _write_warm_up(partial, model, requests)
    for name, text in ((MODELS_CONFIG, _models_config(base_path)), (BATCHING_CONFIG, _BATCHING)):
        with replacing_file(folder / name) as file:
            file.write_text(text)
    return version


def _warm_up(item: Item, warm_up: Images | Sequence[Images] | None) -> list[Images]:
    """The items of each warm-up request: batches of items of one shape, or single items of any size."""
    if item.any_size:
        black = np.zeros((64, 64, item.channels), np.uint8)
        items = [item.full(image) for image in item.sequence([black] if warm_up is None else warm_up)]
        if not items:
            raise InputError(f"expected warm-up images {item}, found none")
        return items
    images = np.zeros((1, *(n or 1 for n in item.shape)), np.uint8) if warm_up is None else np.asarray(warm_up)
    if images.dtype != np.uint8 or images.shape[1:] != item.shape or not len(images):
        raise InputError(
            f"expected warm-up images uint8 [N, *{item.shape}], N > 0, found {images.dtype} {images.shape}"
        )
    images = images[:MAX_BATCH]
    return [*(images[i : i + 1] for i in range(len(images))), images]


def _models_config(base_path: str) -> str:
    """The ``ModelServerConfig`` of both models, as text."""
    config = require("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    for model in sorted(MODELS):
        entry = config.model_config_list.config.add(
            name=model, base_path=f"{base_path.rstrip('/')}/{model}", model_platform="tensorflow"
        )
        if model == "decoder":  # an older payload needs the decoder of its time
            entry.model_version_policy.all.SetInParent()
    return str(require("google.protobuf.text_format").MessageToString(config))


def _write_warm_up(saved_model: Path, model: str, requests: Sequence[Inputs]) -> None:
    """Write the warm-up requests of a model; read them back and run them."""
    tf = require("tensorflow")
    prediction_log_pb2 = require("tensorflow_serving.apis.prediction_log_pb2")
    logs = [prediction_log_pb2.PredictionLog() for _ in requests]
    for log, inputs in zip(logs, requests, strict=True):
        log.predict_log.request.CopyFrom(request_of(model, inputs, None))
    path = saved_model / WARM_UP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    read_back = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    assert read_back == logs, "the warm-up file does not hold what was written"
    signature = _signature(saved_model)
    for inputs in requests:
        _run(signature, inputs)


def _signature(saved_model: Path) -> Any:
    """The default signature of a SavedModel, which it keeps alive."""
    loaded = require("tensorflow").saved_model.load(str(saved_model))
    signature = loaded.signatures["serving_default"]
    signature.owner = loaded
    return signature


def _run(signature: Any, inputs: Inputs) -> NDArray[Any]:
    """The one output of a signature."""
    (output,) = signature(**{name: require("tensorflow").constant(v) for name, v in inputs.items()}).values()
    return np.array(output.numpy(), object) if output.dtype.name == "string" else np.asarray(output)
