"""TensorFlow Serving: the folder that its server watches, and a client for what it serves.

    FOLDER/encoder/VERSION/    SavedModel of an artifact's encoder, with warm-up requests in ``assets.extra``
    FOLDER/decoder/VERSION/    the decoder of the same artifact; all versions stay served
    FOLDER/models.config       ``--model_config_file``
    FOLDER/batching.config     ``--batching_parameters_file``, with ``--enable_batching``

A version appears whole or not at all, the decoder's before the encoder's: it is written under a name that is no number,
which the server passes over, and renamed. A payload belongs to the version that made it; keep that number with it.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tfcomp.artifact import manifest as artifacts
from tfcomp.codec import Images
from tfcomp.errors import InputError, ServerError, missing_dependency
from tfcomp.storage.writing import replacing_file, replacing_folder

# Where an artifact keeps each model, in the order in which the models of a new version appear.
MODELS = {"decoder": artifacts.DECODER, "encoder": artifacts.ENCODER}
INPUTS = {"encoder": "image", "decoder": "payload_bytes"}
Inputs = dict[str, NDArray[Any]]
"""Of one request, by the names of the signature: the items, and the quality of each if the codec has several."""
MAX_BATCH = 64
"""Most images in one request; with batching on, the server refuses more."""

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
    warm_up: Images | None = None,
    base_path: str = "/models",
) -> int:
    """Add an artifact's encoder and decoder to the folder of a TensorFlow Serving.

    Args:
        artifact: what `Codec.export` wrote; every copied file is compared with its manifest.
        folder: may hold earlier versions, and a server may be watching it.
        version: 1 or more. Default: one more than the largest in the folder.
        warm_up: uint8 images [N, *image_shape], N > 0, which the server compresses and decompresses before it serves,
            one by one and in one batch of at most `MAX_BATCH`. Default: a black image.
        base_path: absolute path under which the server finds ``folder``.

    Returns:
        The version.

    Raises:
        InputError: if the version is there already, or an argument is not as described.
        BitstreamError: if the artifact is damaged.
        MissingDependencyError: without ``tfcomp[serving]``.
    """
    artifact, folder = Path(artifact), Path(folder)
    manifest = artifacts.Manifest.read(artifact)
    images = np.zeros((1, *manifest.image_shape), np.uint8) if warm_up is None else np.asarray(warm_up)
    if images.dtype != np.uint8 or images.shape[1:] != manifest.image_shape or not len(images):
        expected = f"uint8 [N, {', '.join(map(str, manifest.image_shape))}], N > 0"
        raise InputError(f"expected warm-up images {expected}, found {images.dtype} {images.shape}")
    if not base_path.startswith("/"):
        raise InputError(f"expected an absolute base_path, found {base_path!r}: the server takes no other")
    present = {int(p.name) for model in MODELS for p in folder.glob(f"{model}/*") if p.name.isdecimal()}
    if version is None:
        version = max(present, default=0) + 1
    if version < 1 or version in present:
        raise InputError(f"expected a version of 1 or more that {folder} does not hold, found {version}")

    contents = {
        model: {
            name.removeprefix(f"{source}/"): artifacts.read_checked(artifact, name, manifest.files)
            for name in (f"{source}/saved_model.pb", *manifest.files)
            if name.startswith(f"{source}/")
        }
        for model, source in MODELS.items()
    }
    images = images[:MAX_BATCH]
    # A codec of several qualities is warmed up at the highest.
    quality = len(manifest.fingerprints) if len(manifest.fingerprints) > 1 else None
    to_encode = _inputs("encoder", images, quality)
    payloads = _run(artifact / artifacts.ENCODER, to_encode)
    inputs = {"encoder": to_encode, "decoder": _inputs("decoder", payloads, quality)}
    for model in MODELS:
        with replacing_folder(folder / model / str(version), marker="saved_model.pb") as partial:
            for name, content in contents[model].items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            _write_warm_up(partial, model, inputs[model])
    for name, text in ((MODELS_CONFIG, _models_config(base_path)), (BATCHING_CONFIG, _BATCHING)):
        with replacing_file(folder / name) as file:
            file.write_text(text)
    return version


def _models_config(base_path: str) -> str:
    """The ``ModelServerConfig`` of both models, as text."""
    config = _require("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    for model in sorted(MODELS):
        entry = config.model_config_list.config.add(
            name=model, base_path=f"{base_path.rstrip('/')}/{model}", model_platform="tensorflow"
        )
        if model == "decoder":  # an older payload needs the decoder of its time
            entry.model_version_policy.all.SetInParent()
    return str(_require("google.protobuf.text_format").MessageToString(config))


def _write_warm_up(saved_model: Path, model: str, inputs: Inputs) -> None:
    """Write the warm-up requests of a model, one for each item and one for all; read them back and run them."""
    tf = _require("tensorflow")
    prediction_log_pb2 = _require("tensorflow_serving.apis.prediction_log_pb2")
    items = len(inputs[INPUTS[model]])
    batches = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(items)] + [inputs]
    logs = [prediction_log_pb2.PredictionLog() for _ in batches]
    for log, batch in zip(logs, batches, strict=True):
        log.predict_log.request.CopyFrom(_request(model, batch, None))
    path = saved_model / WARM_UP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    found = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    assert found == logs, "the warm-up file does not hold what was written"
    _run(saved_model, inputs)


def _run(saved_model: Path, inputs: Inputs) -> NDArray[Any]:
    """The default signature of a SavedModel, which has one output."""
    tf = _require("tensorflow")
    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures["serving_default"]
    (output,) = signature(**{name: tf.constant(values) for name, values in inputs.items()}).values()
    return np.asarray(output)


def _require(module: str) -> Any:
    """Import what the base install does not bring."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing_dependency(error) or error from error


# === Client ===

Predict = Callable[[str, Inputs], NDArray[Any]]


class Client:
    """Compresses and decompresses on a server.

    Args:
        address: ``http://HOST:8501`` or ``https://...`` for REST, which needs NumPy alone; ``grpc://HOST:8500`` for
            gRPC (without TLS), which needs ``tfcomp[serving]``.
        version: of both models. Default: the newest. Name it to decompress what an older version made.
        timeout_s: for each request, in seconds.

    Raises:
        InputError: on an address of another kind.
    """

    def __init__(self, address: str, *, version: int | None = None, timeout_s: float = 30.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https", "grpc"} or not parts.netloc:
            raise InputError(f"expected an address like http://HOST:8501 or grpc://HOST:8500, found {address!r}")
        if parts.scheme == "grpc":
            self._predict = _grpc(parts.netloc, version, timeout_s)
        else:
            self._predict = _rest(parts.scheme, parts.netloc, parts.path.rstrip("/"), version, timeout_s)

    def compress(self, images: Images, quality: int | None = None) -> list[bytes]:
        """uint8 images [N, H, W, C] -> N payloads. Raises `ServerError` if the server cannot be reached or refuses.

        A codec of several qualities asks for one, from 1; the server takes a number beyond the ends for the end.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim < 2:
            raise InputError(f"expected uint8 images [N, ...], found {images.dtype} {images.shape}")
        return [bytes(payload) for batch in self._batches("encoder", images, quality) for payload in batch]

    def decompress(self, payloads: Sequence[bytes], quality: int | None = None) -> Images:
        """N payloads, N > 0 -> uint8 images [N, H, W, C]; ``quality`` is what `compress` was given.

        The server tells no damaged payload from a good one: it decodes to some image. A ``.tfz`` file can tell.
        """
        if isinstance(payloads, (bytes, bytearray, memoryview)) or not len(payloads):
            raise InputError("expected a list of one payload or more")
        # An object array: NumPy's own bytes drop the zeros at the end.
        return np.concatenate(list(self._batches("decoder", np.array(payloads, object), quality))).astype(np.uint8)

    def _batches(self, model: str, items: NDArray[Any], quality: int | None) -> Iterable[NDArray[Any]]:
        for i in range(0, len(items), MAX_BATCH):
            batch = items[i : i + MAX_BATCH]
            result = self._predict(model, _inputs(model, batch, quality))
            if len(result) != len(batch):
                raise ServerError(f"expected {len(batch)} results of the {model}, found {len(result)}")
            yield result


def _rest(scheme: str, netloc: str, path: str, version: int | None, timeout_s: float) -> Predict:
    """Predict over the RESTful API: rows, byte strings in base64 (its documentation, "Encoding binary values")."""
    connect = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection

    def predict(model: str, inputs: Inputs) -> NDArray[Any]:
        columns = [
            [{"b64": base64.b64encode(item).decode()} for item in values] if values.dtype == object else values.tolist()
            for values in inputs.values()
        ]
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]
        url = f"{path}/v1/models/{model}" + (f"/versions/{version}" if version else "") + ":predict"
        connection = connect(netloc, timeout=timeout_s)
        try:
            connection.request("POST", url, json.dumps({"instances": rows}), {"Content-Type": "application/json"})
            response = connection.getresponse()
            found = json.loads(response.read())
            if response.status != http.HTTPStatus.OK:
                raise ServerError(f"{netloc}{url}: HTTP {response.status}: {found['error']}")
            rows = found["predictions"]
            return np.array([base64.b64decode(row["b64"]) for row in rows] if model == "encoder" else rows, object)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, ServerError):
                raise
            raise ServerError(f"expected TensorFlow Serving at {scheme}://{netloc}, found {error!r}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{netloc}{url}: expected the JSON of a prediction, found something else") from error
        finally:
            connection.close()

    return predict


def _grpc(netloc: str, version: int | None, timeout_s: float) -> Predict:
    """Predict over gRPC, by the published ``PredictionService``."""
    grpc, tf = _require("grpc"), _require("tensorflow")
    services = _require("tensorflow_serving.apis.prediction_service_pb2_grpc")
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    service = services.PredictionServiceStub(grpc.insecure_channel(netloc, options=unlimited))

    def predict(model: str, inputs: Inputs) -> NDArray[Any]:
        try:
            outputs = service.Predict(_request(model, inputs, version), timeout=timeout_s).outputs
        except grpc.RpcError as error:
            raise ServerError(f"{netloc}, {model}: {error.code().name}: {error.details()}") from error
        if len(outputs) != 1:
            raise ServerError(f"{netloc}, {model}: expected one output, found {sorted(outputs)}")
        (output,) = outputs.values()
        return np.asarray(tf.make_ndarray(output))

    return predict


def _inputs(model: str, items: NDArray[Any], quality: int | None) -> Inputs:
    """The inputs of a request, all items of one quality."""
    told = {} if quality is None else {"quality": np.full(len(items), quality, np.int32)}
    return {INPUTS[model]: items, **told}


def _request(model: str, inputs: Inputs, version: int | None) -> Any:
    """A ``PredictRequest`` of the default signature."""
    request = _require("tensorflow_serving.apis.predict_pb2").PredictRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(_require("tensorflow").make_tensor_proto(values))
    return request
