"""Served codecs under load: their loops on the CPU, and many clients at once while versions come and go."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kinds import Kind
from model_servers import Models, grpc_server, predict, rest_server

from tfcomp.artifact import serving
from tfcomp.errors import ServerError

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed: tfcomp[serving]")

LOOPS = ("While", "StatelessWhile")
CPU = "/device:CPU:0"


def nodes(graph: Any, function: str) -> Iterator[Any]:
    """The nodes of a function and of those that it calls."""
    library = {each.signature.name: each.node_def for each in graph.library.function}
    seen, left = set(), [function]
    while left:
        name = left.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for node in library[name]:
            yield node
            left += [value.func.name for value in node.attr.values() if value.func.name]


def test_the_loops_of_a_saved_model_run_on_the_cpu_and_its_networks_anywhere(kind: Kind) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    for model in serving.MODELS:
        found = SavedModel.FromString((kind.folder / model / "1" / "saved_model.pb").read_bytes())
        graph = found.meta_graphs[0].graph_def
        loops = [node for f in graph.library.function for node in f.node_def if node.op in LOOPS]
        assert loops, "a range coder has loops"
        for loop in loops:
            assert loop.device.endswith(CPU), loop.name
            for part in ("body", "cond"):
                inside = [n for n in nodes(graph, loop.attr[part].func.name) if n.op not in ("Const", "NoOp")]
                assert all(node.device.endswith(CPU) for node in inside), loop.name
        networks = {"Conv2D", "MatMul", "Conv2DBackpropInput"}
        free = [n for f in graph.library.function for n in f.node_def if n.op in networks and not n.device]
        assert free, "the networks are the device's that has them"


# === Load ===


def inverted(models: dict[str, Any]) -> dict[str, Any]:
    """Models of another codec, by the same graphs: it codes the negative. Their answers are none of the others."""

    def encoder(image: Any) -> Any:
        return models["encoder"].signatures["serving_default"](image=255 - image)

    def decoder(payload_bytes: Any) -> Any:
        return {"image": 255 - models["decoder"].signatures["serving_default"](payload_bytes=payload_bytes)["image"]}

    return {
        "encoder": SimpleNamespace(signatures={"serving_default": encoder}),
        "decoder": SimpleNamespace(signatures={"serving_default": decoder}),
    }


@pytest.fixture(scope="module")
def two_codecs(exported: Any) -> list[dict[str, Any]]:
    """The models of even and of odd versions."""
    models = {name: tf.saved_model.load(str(exported[1] / name / "1")) for name in serving.MODELS}
    return [models, inverted(models)]


@pytest.mark.further
@pytest.mark.parametrize("server", [grpc_server, rest_server])
@pytest.mark.parametrize(
    ("clients", "requests"), [(8, 120), pytest.param(32, 1000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_no_answer_is_wrong_while_versions_are_swapped(
    exported: Any, two_codecs: list[dict[str, Any]], server: Callable[[Models], Any], clients: int, requests: int
) -> None:
    """Of the encoder the newest version alone is served, of the decoder all, as the configuration has it."""
    images, models = exported[2], Models()

    def load(version: int) -> None:
        for name in ("decoder", "encoder"):  # the one that reads comes first
            models[name, version] = two_codecs[version % 2][name]

    batches = [images[start : start + size] for start, size in ((0, 1), (1, 3), (4, 8), (12, 2), (20, 16), (40, 5))]
    load(1)
    load(2)
    expected = {}
    for i, batch in enumerate(batches):
        for version in (1, 2):
            payloads = predict(models, "encoder", version, {"image": tf.constant(batch)})["payload_bytes"]
            restored = predict(models, "decoder", version, {"payload_bytes": payloads})["image"]
            expected[i, version % 2] = list(payloads.numpy()), restored.numpy()
    assert all(expected[i, 0][0] != expected[i, 1][0] for i in range(len(batches)))
    del models["encoder", 1]
    done, wrong, answered = threading.Event(), list[Any](), list[int]()
    swaps = 10

    def swap() -> None:
        for i in range(1, swaps + 1):
            while len(answered) < i * requests // (swaps + 1):
                if done.wait(0.002):
                    return
            load(i + 2)
            del models["encoder", i + 1]

    def ask(number: int) -> None:
        rng, client = random.Random(number), serving.Client(address)
        for _ in range(number, requests, clients):
            i = rng.randrange(len(batches))
            payloads = client.compress(batches[i])
            version = client.versions["encoder"]
            restored = serving.Client(address, version=version).decompress(payloads)
            answered.append(version)
            known = expected[i, version % 2]
            if payloads != known[0] or not np.array_equal(restored, known[1]):
                wrong.append((i, version))

    with server(models) as address:
        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(ask, range(clients)))
        finally:
            done.set()
            swapping.join()
    assert not wrong
    assert len(answered) == requests
    assert set(answered) == set(range(2, swaps + 3))


def test_a_version_that_goes_between_two_requests_is_asked_for_no_more(
    exported: Any, two_codecs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over REST the newest version is asked for first; one that was named is not replaced by another."""
    models: Models = {(name, 1): model for name, model in two_codecs[1].items()}
    import model_servers

    own, gone = model_servers.predict, []

    def swapped(served: Models, name: str, version: int | None, *rest: Any) -> Any:
        if not gone:
            gone.append(version)
            models.update({(model, 2): two_codecs[0][model] for model in serving.MODELS})
            del models["encoder", 1]
            return own(models, name, version, *rest)
        return own(served, name, version, *rest)

    monkeypatch.setattr(model_servers, "predict", swapped)
    with rest_server(models) as address:
        client = serving.Client(address)
        payloads = client.compress(exported[2][:2])
        assert gone == [1]
        assert client.versions == {"encoder": 2}
        assert payloads == list(
            own(models, "encoder", 2, {"image": tf.constant(exported[2][:2])})["payload_bytes"].numpy()
        )
        with pytest.raises(ServerError, match="Servable not found"):
            serving.Client(address, version=1).compress(exported[2][:2])
