"""The folder for TensorFlow Serving, and the client against the stand-ins of `model_servers`."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_servers
import numpy as np
import pytest
from kinds import ROOT
from model_servers import Models, found_in, grpc_server, http_server, predict, rest_server
from PIL import Image

from tfcomp.artifact import serving
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError, ServerError

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed: tfcomp[serving]")

IMAGES = serving.MAX_BATCH + 3  # two requests


@pytest.fixture(scope="module")
def folder(exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two versions of the same artifact, the second with warm-up images."""
    folder = tmp_path_factory.mktemp("models")
    assert serving.export(exported[1], folder) == 1
    assert serving.export(exported[1], folder, version=12, warm_up=exported[2][:3], base_path="/models/mine/") == 12
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return found_in(folder)


# === Folder ===


def test_folder_holds_whole_versions_of_both_models(folder: Path) -> None:
    assert sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*")) == [
        "decoder/1", "decoder/12", "encoder/1", "encoder/12",
    ]  # fmt: skip
    assert all((p / "saved_model.pb").is_file() and (p / serving.WARM_UP).is_file() for p in folder.glob("*/*"))


def test_models_config_names_both_models(folder: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    text = (folder / serving.MODELS_CONFIG).read_text()
    found = {c.name: c for c in text_format.Parse(text, ModelServerConfig()).model_config_list.config}
    assert {name: c.base_path for name, c in found.items()} == {
        "encoder": "/models/mine/encoder",
        "decoder": "/models/mine/decoder",
    }
    assert {c.model_platform for c in found.values()} == {"tensorflow"}
    assert found["decoder"].model_version_policy.WhichOneof("policy_choice") == "all"
    assert found["encoder"].model_version_policy.WhichOneof("policy_choice") is None


def test_batching_allows_what_the_client_sends(folder: Path) -> None:
    text = (folder / serving.BATCHING_CONFIG).read_text()
    fields = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, flags=re.MULTILINE))
    assert set(fields) == {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}
    assert int(fields["max_batch_size"]) == serving.MAX_BATCH


def test_warm_up_requests_are_answered(exported: Any, folder: Path, models: Models) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    for name, sizes in (("encoder", [1, 1, 1, 3]), ("decoder", [1, 1, 1, 3])):
        records = tf.data.TFRecordDataset(str(folder / name / "12" / serving.WARM_UP))
        requests = [PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
        assert len(requests) <= 1000  # the server's limit
        assert {request.model_spec.name for request in requests} == {name}
        batches = [{k: tf.make_ndarray(v) for k, v in request.inputs.items()} for request in requests]
        answers = [predict(models, name, 12, {k: tf.constant(v) for k, v in batch.items()}) for batch in batches]
        assert [len(next(iter(answer.values()))) for answer in answers] == sizes
        if name == "encoder":
            np.testing.assert_array_equal(batches[-1]["image"], exported[2][:3])


def test_refuses_what_would_break_the_folder(exported: Any, folder: Path, tmp_path: Path) -> None:
    artifact, images = exported[1], exported[2]
    before = sorted(folder.rglob("*"))
    for options, words in (
        ({"version": 12}, "found 12"),
        ({"version": 0}, "found 0"),
        ({"warm_up": images[:0]}, r"N > 0, found uint8 \(0, "),
        ({"warm_up": images[:1].astype(np.float32)}, "found float32"),
        ({"base_path": "models"}, "found 'models'"),
    ):
        with pytest.raises(InputError, match=words):
            serving.export(artifact, folder, **options)
    with pytest.raises(InputError, match="manifest"):
        serving.export(tmp_path, folder)
    assert sorted(folder.rglob("*")) == before


def test_refuses_a_damaged_artifact(exported: Any, tmp_path: Path) -> None:
    damaged, folder = tmp_path / "artifact", tmp_path / "models"
    shutil.copytree(exported[1], damaged)
    path = damaged / "encoder" / "1" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BitstreamError, match="manifest"):
        serving.export(damaged, folder)
    assert not folder.exists()


# === Client ===


@pytest.fixture(scope="module")
def grpc_address(models: Models) -> Iterator[str]:
    with grpc_server(models) as address:
        yield address


@pytest.fixture(scope="module")
def rest_address(models: Models) -> Iterator[str]:
    with rest_server(models) as address:
        yield address


@pytest.fixture(params=["grpc", "rest"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_address"))


def test_client_gives_what_the_codec_gives(exported: Any, address: str) -> None:
    codec, _, images = exported
    images = images[:IMAGES]
    client = serving.Client(address)
    payloads = client.compress(images)
    latents = codec.entropy_model.decode(payloads)
    assert codec.entropy_model.encode(latents) == payloads
    assert np.abs(latents - codec.encode(images)).max() <= 1
    assert np.mean(latents != codec.encode(images)) < 0.01
    restored = client.decompress(payloads)
    assert restored.dtype == np.uint8
    assert restored.shape == images.shape
    assert np.abs(restored.astype(int) - codec.decompress(payloads)).max() <= 1


@pytest.mark.further
def test_client_names_the_quality(exported: Any, folder: Path, models: dict, address: str) -> None:
    import tfcomp

    images = exported[2][:IMAGES]
    model = tfcomp.AutoEncoder.dense(images.shape[1:], latent_dim=4, hidden=(8,))
    codec = tfcomp.Codec.freeze(model, images, step=(2, 0.25))
    if ("encoder", 3) not in models:
        codec.export(folder.parent / "qualities")
        serving.export(folder.parent / "qualities", folder, version=3)
        models.update({(name, 3): tf.saved_model.load(str(folder / name / "3")) for name in serving.MODELS})
    client, codec = serving.Client(address, version=3), tfcomp.Codec.load(folder.parent / "qualities")
    for quality in (1, 2):
        payloads = client.compress(images, quality)
        assert np.mean([a == b for a, b in zip(payloads, codec.compress(images, quality), strict=True)]) > 0.9
        restored = client.decompress(payloads, quality).astype(int)
        assert np.abs(restored - codec.decompress(payloads, quality)).max() <= 1


def test_client_sends_files_as_they_are(exported: Any, address: str) -> None:
    codec, _, images = exported
    files = []
    for image in images[:3]:
        content = io.BytesIO()
        Image.fromarray(image[..., 0]).save(content, "PNG")
        files.append(content.getvalue())
    client = serving.Client(address)
    assert client.compress_files(files) == client.compress(images[:3])
    assert np.array_equal(codec.decode(client.compress_files(files)), codec.decode(client.compress(images[:3])))


def test_client_passes_every_byte(exported: Any, address: str) -> None:
    codec = exported[0]
    # A payload of the most probable symbols is short; b"" is one. Neither length nor zeros may be lost on the way.
    payloads = [b"", b"\x00\xff", b"\xff\x00\x80", bytes(range(20))]
    latents = codec.entropy_model.decode([p for p in payloads if len(p) < 3])
    restored = serving.Client(address).decompress(payloads)
    assert np.abs(restored[:2].astype(int) - codec.reconstruct(latents)).max() <= 1
    assert len(restored) == len(payloads)


def test_client_asks_for_a_version(exported: Any, address: str) -> None:
    images = exported[2][:2]
    payloads = serving.Client(address, version=1).compress(images)
    assert payloads == serving.Client(address, version=12).compress(images)
    with pytest.raises(ServerError, match="Servable not found"):
        serving.Client(address, version=7).compress(images)


def test_client_learns_which_version_answered(
    exported: Any, models: Models, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, client = exported[2][:IMAGES], serving.Client(address)
    assert client.versions == {}
    newest = model_servers.newest(models, "encoder")
    served, answer = [], model_servers.predict

    def appears_meanwhile(*args: Any) -> Any:
        models[("encoder", 20)] = models[("encoder", newest)]  # after the first of two requests
        served.append(args[2])
        return answer(*args)

    monkeypatch.setattr(model_servers, "predict", appears_meanwhile)
    try:
        payloads = client.compress(images)
        assert client.versions == {"encoder": newest}
        assert len(served) == 2
        assert served[1] == newest
        client.decompress(payloads[:1])
        assert client.versions == {"encoder": newest, "decoder": model_servers.newest(models, "decoder")}
        client.compress(images[:1])
        assert client.versions["encoder"] == 20
        old = serving.Client(address, version=1)
        old.decompress(payloads[:1])
        assert old.versions == {"decoder": 1}
    finally:
        del models[("encoder", 20)]


def test_client_checks_its_arguments(address: str) -> None:
    client = serving.Client(address)
    assert client.compress(np.zeros((0, 28, 28, 1), np.uint8)) == []
    with pytest.raises(InputError, match="found float64"):
        client.compress(np.zeros((1, 28, 28, 1)))
    for payloads in (b"one", []):
        with pytest.raises(InputError, match="list of one payload or more"):
            client.decompress(payloads)


@pytest.mark.parametrize("address", ["localhost:8501", "ftp://localhost", "http://"])
def test_client_refuses_an_address(address: str) -> None:
    with pytest.raises(InputError, match="expected an address like"):
        serving.Client(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_client_says_that_no_server_answers(address: str) -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        serving.Client(address, timeout_s=5).compress(np.zeros((1, 28, 28, 1), np.uint8))


def test_client_refuses_answers_of_another_kind() -> None:
    with http_server(lambda path, _: (200, {"outputs": [{"b64": ""}] if "decoder" in path else [3]})) as address:
        for client in (serving.Client(address, version=1), serving.Client(address, version=2, any_size=True)):
            with pytest.raises(ServerError, match="expected payloads of the encoder, found"):
                client.compress(np.zeros((1, 28, 28, 1), np.uint8))
            with pytest.raises(ServerError, match="expected payloads of the encoder, found"):
                client.compress_files([b"\x89PNG"])
            with pytest.raises(ServerError, match="expected images of the decoder, found"):
                client.decompress([b"1"])


@pytest.mark.parametrize(
    "found",
    [
        *({}, [], 5, None),
        *({"model_version_status": states} for states in ([], [{"version": "1", "state": "END"}], 5)),
        {"model_version_status": [{"version": "x", "state": "AVAILABLE"}]},
        *({"outputs": outputs} for outputs in ([[[0.5]]], {"b64": 3}, [[1], [2, 3]])),
    ],
)
@pytest.mark.parametrize("version", [None, 1])
def test_client_names_every_odd_answer(found: Any, version: int | None) -> None:
    with http_server(lambda *_: (200, found)) as address, pytest.raises(ServerError, match="expected"):
        serving.Client(address, version=version).compress(np.zeros((1, 28, 28, 1), np.uint8))


def test_names_the_extra_that_is_missing(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow_serving"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    with pytest.raises(MissingDependencyError, match=r"tfcomp\[serving\]"):
        serving.Client("grpc://127.0.0.1:9")
    with pytest.raises(MissingDependencyError, match=r"tfcomp\[serving\]"):
        serving.export(exported[1], tmp_path / "models")
    assert not list((tmp_path / "models").glob("*/[0-9]*"))


def test_rest_client_needs_no_tensorflow() -> None:
    code = "import sys, tfcomp; tfcomp.serving.Client('http://h:1'); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# === Items of any size ===


@pytest.fixture(scope="module")
def any_size(kinds: Any, folder: Path, models: Models) -> Any:
    """A codec of items of any size, served as version 40."""
    kind = kinds("spatial_any")
    serving.export(kind.folder, folder, version=40, warm_up=[kind.items[2], kind.items[3]])
    models.update({(name, 40): tf.saved_model.load(str(folder / name / "40")) for name in serving.MODELS})
    return kind


@pytest.mark.further
@pytest.mark.xdist_group("spatial_any")
def test_items_of_any_size_are_a_request_each(any_size: Any, address: str) -> None:
    client = serving.Client(address, version=40, any_size=True)
    items = any_size.items[:4]
    payloads = client.compress(items, 1)
    assert [len(p) for p in payloads] == [len(p) for p in any_size.codec.compress(items, 1)]
    for restored, expected in zip(client.decompress(payloads), any_size.codec.decompress(payloads), strict=True):
        assert restored.shape == expected.shape
        assert np.abs(restored.astype(int) - expected).max() <= 1
    content = io.BytesIO()
    Image.fromarray(items[3]).save(content, "PNG")
    assert client.compress_files([content.getvalue()], 1) == payloads[3:4]
    with pytest.raises(InputError, match="expected a sequence of uint8 images"):
        client.compress([np.zeros((3, 4, 3))], 1)


@pytest.mark.further
@pytest.mark.xdist_group("spatial_any")
def test_warm_up_of_items_of_any_size(any_size: Any, folder: Path) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    for name in serving.MODELS:
        records = tf.data.TFRecordDataset(str(folder / name / "40" / serving.WARM_UP))
        requests = [PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
        assert len(requests) == 2
    with pytest.raises(InputError, match="expected warm-up images"):
        serving.export(any_size.folder, folder, warm_up=[])


# === Documentation ===


@pytest.mark.xdist_group("spatial_any")
@pytest.mark.further
def test_the_page_of_the_documentation_runs(
    exported: Any, kinds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code as it stands; the addresses are those of the stand-ins, the second of a server of images of any size."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported[1], "artifact")
    Image.fromarray(exported[2][0, ..., 0]).save("digit.png")
    one, first, second = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/serving.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(one, names)
    with grpc_server(found_in(tmp_path / "models")) as address:
        exec(first.replace("grpc://localhost:8500", address), names)
    assert (
        np.abs(names["restored"].astype(int) - exported[0].decompress(exported[0].compress(names["images"]))).max() < 9
    )
    kind = kinds("spatial_any")
    names |= {"first": kind.items[1], "second": kind.items[2]}
    serving.export(kind.folder, tmp_path / "any")
    with rest_server(found_in(tmp_path / "any")) as address:
        exec(second.replace("http://localhost:8501", address).replace("quality=5", "quality=1"), names)
    assert [image.shape for image in names["restored"]] == [image.shape for image in kind.items[1:3]]
