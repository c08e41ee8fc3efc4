"""A client of TensorFlow Serving for what `serving.export` wrote: REST with NumPy alone, or gRPC."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError, ServerError, everything_as, optional_import
from tfcomp.items import Images

INPUTS = {"encoder": "image", "decoder": "payload_bytes"}
MAX_BATCH = 64
"""Most items in one request; with batching on, the server refuses more."""

Inputs = dict[str, NDArray[Any]]
"""Inputs of one request by name: the items, and the quality of each if the codec has several."""


def require(module: str) -> Any:
    """Import what the base install does not bring."""
    with optional_import():
        return import_module(module)


def inputs_of(model: str, items: NDArray[Any], quality: int | None, *, single: bool = False, name: str = "") -> Inputs:
    """The inputs of a request of one quality.

    Args:
        model: "encoder" or "decoder".
        items: [N, ...], or one item where ``single``: then the quality is a scalar too.
        quality: None where the signature asks for none.
        single: whether the signature takes one item without an axis of items.
        name: the items' input, if not that of the default signature.
    """
    inputs = {name or INPUTS[model]: items}
    if quality is not None:
        inputs["quality"] = np.full(() if single else len(items), quality, np.int32)
    return inputs


def request_of(model: str, inputs: Inputs, version: int | None, signature: str = "") -> Any:
    """A ``PredictRequest``; of the default signature unless another is named."""
    request = require("tensorflow_serving.apis.predict_pb2").PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(require("tensorflow").make_tensor_proto(values))
    return request


class _NotServedError(ServerError):
    """A model or a version of it is not served."""


Predict = Callable[[str, Inputs, int | None, str], tuple[NDArray[Any], int]]
"""From a model, its inputs, the version (None for the newest) and the signature ("" for the default) to the one output,
and the version that answered."""


class Client:
    """Compresses and decompresses on a server.

    Args:
        address: ``http://HOST:8501`` or ``https://...`` for REST, which needs NumPy alone; ``grpc://HOST:8500`` for
            gRPC (without TLS), which needs ``tfcomp[serving]``.
        version: of both models. Default: the newest, one for all items of a call. Name it to decompress what an older
            version made.
        timeout_s: limit of each request, in seconds.
        any_size: whether the codec's items have any size: then each is a request of its own, else `MAX_BATCH` are one.

    Attributes:
        versions: the version that answered the last call, by model, ``"encoder"`` and ``"decoder"``. Keep that of the
            encoder with its payloads.

    Raises:
        InputError: on an address of another kind.

    Examples:
        >>> client = Client("http://localhost:8501")
        >>> # payloads, version = client.compress(images), client.versions["encoder"]
    """

    def __init__(
        self, address: str, *, version: int | None = None, timeout_s: float = 30.0, any_size: bool = False
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https", "grpc"} or not parts.netloc:
            raise InputError(f"expected an address like http://HOST:8501 or grpc://HOST:8500, found {address!r}")
        self._any_size, self._version = any_size, version
        self.versions: dict[str, int] = {}
        if parts.scheme == "grpc":
            self._predict = _grpc(parts.netloc, timeout_s)
        else:
            self._predict = _rest(parts.scheme, parts.netloc, parts.path.rstrip("/"), timeout_s)

    def compress(self, images: Images | Sequence[Images], quality: int | None = None) -> list[bytes]:
        """Items to payloads.

        Args:
            images: uint8 [N, H, W, C]; with ``any_size``, a sequence of uint8 [H, W, C].
            quality: from 1. A codec of several qualities, or of items of any size, asks for one; the server takes a
                number beyond the ends for the end.

        Raises:
            ServerError: if the server cannot be reached or refuses.
        """
        items: Any = [np.asarray(image) for image in images] if self._any_size else np.asarray(images)
        arrays, least, most = (items, 3, 3) if self._any_size else ([items], 2, np.inf)
        bad = next((array for array in arrays if array.dtype != np.uint8 or not least <= array.ndim <= most), None)
        if bad is not None:
            expected = "a sequence of uint8 images [H, W, C]" if self._any_size else "uint8 images [N, ...]"
            raise InputError(f"expected {expected}, found {bad.dtype} {bad.shape}")
        return _payloads(self._batches("encoder", items, quality))

    def compress_files(self, files: Sequence[bytes], quality: int | None = None) -> list[bytes]:
        """Contents of JPEG, PNG or WebP files to payloads; the server reads their pixels, no EXIF and no profiles."""
        contents = np.array([*files, None], object)[:-1]  # NumPy's own bytes drop the zeros at the end
        return _payloads(self._batches("encoder", contents, quality, "file", "file_bytes"))

    def decompress(self, payloads: Sequence[bytes], quality: int | None = None) -> Any:
        """Payloads, N > 0, to items; ``quality`` as in `compress`, for items of one shape alone.

        A server decodes a damaged payload to some image; a ``.tfz`` file has a checksum.

        Returns:
            uint8 [N, H, W, C]; with ``any_size``, a list of uint8 [H, W, C].

        Raises:
            ServerError: if the server cannot be reached or refuses.
        """
        if isinstance(payloads, (bytes, bytearray, memoryview)) or not len(payloads):
            found = "none" if isinstance(payloads, (list, tuple)) else type(payloads).__name__
            raise InputError(f"expected a list of one payload or more, found {found}")
        contents = np.array([*payloads, None], object)[:-1]
        sent_quality = None if self._any_size else quality
        batches = list(self._batches("decoder", contents, sent_quality))
        other = next((batch for batch in batches if batch.dtype.kind not in "iu" or batch.ndim != 4), None)
        if other is not None:
            raise ServerError(f"expected images of the decoder, found {other.dtype} {list(other.shape)}")
        batches = [batch.astype(np.uint8) for batch in batches]
        return [batch[0] for batch in batches] if self._any_size else np.concatenate(batches)

    def _batches(
        self, model: str, items: Any, quality: int | None, signature: str = "", name: str = ""
    ) -> Iterable[NDArray[Any]]:
        size, version = 1 if self._any_size else MAX_BATCH, self._version
        for i in range(0, len(items), size):
            batch = np.asarray(items[i], getattr(items, "dtype", None)) if self._any_size else items[i : i + size]
            inputs = inputs_of(model, batch, quality, single=self._any_size, name=name)
            # The version that answers the first batch of a call answers them all.
            result, version = self._predict(model, inputs, version, signature)
            self.versions[model] = version
            if self._any_size:
                yield result[None]
                continue
            if result.ndim < 1 or len(result) != len(batch):
                raise ServerError(f"expected {len(batch)} results of the {model}, found an array {result.shape}")
            yield result


def _payloads(batches: Iterable[NDArray[Any]]) -> list[bytes]:
    payloads = [payload for batch in batches for payload in np.ravel(batch)]
    other = next((payload for payload in payloads if not isinstance(payload, bytes)), None)
    if other is not None:
        raise ServerError(f"expected payloads of the encoder, found {type(other).__name__}")
    return payloads


def _rest(scheme: str, netloc: str, path: str, timeout_s: float) -> Predict:
    """Predict over the RESTful API: columns, byte strings in base64 (its documentation, "Encoding binary values")."""
    connect = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection

    def answer(method: str, url: str, body: str | None = None) -> Any:
        connection = connect(netloc, timeout=timeout_s)
        try:
            connection.request(method, url, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            found = json.loads(response.read())
            if response.status != http.HTTPStatus.OK:
                error_class = _NotServedError if response.status == http.HTTPStatus.NOT_FOUND else ServerError
                raise error_class(f"{netloc}{url}: HTTP {response.status}: {found['error']}")
            return found
        except ServerError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"expected TensorFlow Serving at {scheme}://{netloc}, found {error!r}") from error
        finally:
            connection.close()

    def newest(model: str) -> int:
        """The version that a request without one would get; the answer to such a request does not say it."""
        states = answer("GET", f"{path}/v1/models/{model}")["model_version_status"]
        versions = [int(state["version"]) for state in states if state["state"] == "AVAILABLE"]
        if not versions:
            raise ServerError(
                f"{netloc}{path}: expected a version of {model} that is served, found none that is available"
            )
        return max(versions)

    def predict(model: str, inputs: Inputs, version: int | None, signature: str) -> tuple[NDArray[Any], int]:
        with everything_as(ServerError, f"{netloc}{path}, {model}: expected the JSON of a prediction"):
            chosen = newest(model) if version is None else version
            named = {"signature_name": signature} if signature else {}
            body = {**named, "inputs": {name: _as_json(values) for name, values in inputs.items()}}
            while True:
                try:
                    found = answer("POST", f"{path}/v1/models/{model}/versions/{chosen}:predict", json.dumps(body))
                    return _from_json(found["outputs"]), chosen
                except _NotServedError:  # the newest may have been replaced since it was asked for
                    if version is not None or chosen == (chosen := newest(model)):
                        raise

    return predict


def _as_json(values: NDArray[Any]) -> Any:
    """Numbers as nested lists, bytes as objects of base64."""
    if values.dtype != object:
        return values.tolist()
    encoded = [{"b64": base64.b64encode(item).decode()} for item in values.ravel()]
    return encoded if values.ndim else encoded[0]


def _from_json(content: Any) -> NDArray[Any]:
    """The inverse of `_as_json`."""
    first = content[0] if isinstance(content, list) and content else content
    if isinstance(first, dict):
        rows = content if isinstance(content, list) else [content]
        decoded = np.array([*(base64.b64decode(row["b64"], validate=True) for row in rows), None], object)[:-1]
        return decoded if isinstance(content, list) else decoded.reshape(())
    array = np.asarray(content)
    if array.dtype.kind not in "iu" or array.min(initial=0) < 0 or array.max(initial=0) > 255:
        raise ValueError("no pixels")
    return array


def _grpc(netloc: str, timeout_s: float) -> Predict:
    """Predict over gRPC, by the published ``PredictionService``."""
    grpc, tf = require("grpc"), require("tensorflow")
    services = require("tensorflow_serving.apis.prediction_service_pb2_grpc")
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    service = services.PredictionServiceStub(grpc.insecure_channel(netloc, options=unlimited))

    def predict(model: str, inputs: Inputs, version: int | None, signature: str) -> tuple[NDArray[Any], int]:
        try:
            answer = service.Predict(request_of(model, inputs, version, signature), timeout=timeout_s)
        except grpc.RpcError as error:
            raise ServerError(f"{netloc}, {model}: {error.code().name}: {error.details()}") from error
        with everything_as(ServerError, f"{netloc}, {model}: expected a prediction"):
            if len(answer.outputs) != 1:
                raise ServerError(f"{netloc}, {model}: expected one output, found {sorted(answer.outputs)}")
            (output,) = answer.outputs.values()
            return np.asarray(tf.make_ndarray(output)), int(answer.model_spec.version.value)

    return predict
