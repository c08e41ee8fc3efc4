"""Stand-ins for TensorFlow Serving that run exported SavedModels: its folder, its gRPC service and its REST form.

The server's binary is not here. gRPC is answered by the published ``PredictionService``, REST by a server that follows
the published JSON form.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from tfcomp.artifact import serving

Models = dict[tuple[str, int], Any]


def found_in(folder: Path) -> Models:
    """The models and versions that a server finds in the folder: integer names alone count."""
    import tensorflow as tf

    paths = [p for p in folder.glob("*/*") if p.name.isdecimal()]
    return {(p.parent.name, int(p.name)): tf.saved_model.load(str(p)) for p in paths}


def newest(models: Models, name: str) -> int:
    return max(v for n, v in models if n == name)


def predict(models: Models, name: str, version: int | None, inputs: dict[str, Any], signature: str = "") -> Any:
    """What the server does: the named signature of the asked version, or of the newest."""
    version = version or newest(models, name)
    if (name, version) not in models:
        raise KeyError(f"Servable not found for request: Specific({name}, {version})")
    return models[name, version].signatures[signature or "serving_default"](**inputs)


@contextmanager
def grpc_server(served: Models) -> Iterator[str]:
    """The address of a server of these models, which may be changed meanwhile."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictResponse
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceServicer,
        add_PredictionServiceServicer_to_server,
    )

    class Service(PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
            spec, models = request.model_spec, dict(served)  # what is served now answers the request
            spec.version.value = spec.version.value or newest(models, spec.name)
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            if any(value.shape.rank == 1 and len(value) > serving.MAX_BATCH for value in inputs.values()):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Task size is larger than maximum batch size")
            try:
                outputs = predict(models, spec.name, spec.version.value, inputs, spec.signature_name)
            except KeyError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            response = PredictResponse(model_spec=spec)
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(ThreadPoolExecutor(4))
    add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(0).wait()


def _plain(value: Any) -> Any:
    """A column of a request: an object of b64 is a byte string."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_json(item) for item in value.tolist()]
    return {"b64": base64.b64encode(value).decode()}


@contextmanager
def http_server(answer: Callable[[str, Any], tuple[int, Any]]) -> Iterator[str]:
    """The address of a server that gives status and JSON for a path and JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            self._answer(None)

        def _answer(self, request: Any) -> None:
            status, found = answer(self.path, request)
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # or connections of many clients are dropped, and tried again after a second

    with Server(("127.0.0.1", 0), Handler) as server:
        poll = {"poll_interval": 0.01}  # seconds until a shutdown is noticed
        thread = threading.Thread(target=server.serve_forever, kwargs=poll)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def rest_server(served: Models) -> Iterator[str]:
    """The address of a server of these models, which may be changed meanwhile."""
    import tensorflow as tf

    def answer(path: str, request: Any) -> tuple[int, Any]:
        models = dict(served)  # what is served now answers the request
        if request is None:
            name = path.rpartition("/")[2]
            versions = [(v, "END" if v == 99 else "AVAILABLE") for n, v in [*models, (name, 99)] if n == name]
            return 200, {"model_version_status": [{"version": str(v), "state": state} for v, state in versions]}
        try:
            name, version = re.fullmatch(r"/v1/models/(\w+)(?:/versions/(\d+))?:predict", path).groups()
            dtypes = {"image": tf.uint8, "payload_bytes": tf.string, "file_bytes": tf.string, "quality": tf.int32}
            inputs = {key: tf.constant(_plain(value), dtypes[key]) for key, value in request["inputs"].items()}
            asked = request.get("signature_name", "")
            outputs = predict(models, name, version and int(version), inputs, asked)
            ((key, output),) = outputs.items()
            return 200, {"outputs": _json(output.numpy()) if key.endswith("_bytes") else output.numpy().tolist()}
        except KeyError as error:
            return 404, {"error": str(error)}

    with http_server(answer) as address:
        yield address
