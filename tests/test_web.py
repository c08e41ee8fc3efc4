"""The page of export/web in headless Chromium: LiteRT.js reads and writes the bytes that Python does.

One run of the browser serves all tests. Byte identity is stated on the range coder alone, where both sides begin at the
same integers; whole codecs may differ by what float arithmetic does to a latent that lies between two integers.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

WEB = ROOT / "export" / "web"
IMAGES = 100


def _text(data: Any) -> str:
    return base64.b64encode(bytes(data)).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: install it, or name it in CHROMIUM")
    if shutil.which("node") is None or not (WEB / "node_modules" / "playwright-core").is_dir():
        pytest.skip("no LiteRT.js or Playwright in export/web: run `make web` (needs Node and npm)")
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A local server's address and the folder that it serves."""
    folder = tmp_path_factory.mktemp("site")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def case(exported: Any, address: tuple[str, Path]) -> dict[str, Any]:
    """What Python made, the browser's report about it, and the job between them."""
    chromium = _chromium()
    from tfcomp.range_coder_graph import GraphCoder

    codec, artifact, images = exported
    url, site = address
    images = images[:IMAGES]
    entropy_model = codec.entropy_model
    latents = codec.encode(images)
    payloads = entropy_model.encode(latents)

    (site / "web").symlink_to(WEB)
    (site / "codec").symlink_to(artifact)
    shutil.copytree(artifact, site / "tampered")
    with (site / "tampered" / "decoder.tflite").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x5a")
    coder = GraphCoder(entropy_model.tables, entropy_model.index, entropy_model.segments)
    (site / "coder").mkdir()
    for name, content in _coder_models(coder).items():
        (site / "coder" / name).write_bytes(content)

    rng = np.random.default_rng(5)
    corrupt = [rng.bytes(n) for n in range(coder.capacity + 1)]
    corrupt += [b"\xff" * coder.capacity, b"\x00" * coder.capacity, b"\xff" * (coder.capacity + 1)]
    corrupt += [payload[:n] for payload in payloads[:5] for n in range(len(payload))]
    corrupt += [bytes([payload[0] ^ (1 << bit), *payload[1:]]) for payload in payloads[5:10] for bit in range(8)]
    picture = io.BytesIO()
    Image.fromarray(images[0, :, :, 0]).save(picture, "png")
    (site / "image.png").write_bytes(picture.getvalue())
    job = {
        "chromium": chromium,
        "page": f"{url}/web/index.html",
        "codec": "../codec/",
        "tampered": "../tampered",
        "coder": f"{url}/coder",
        "image_file": str(site / "image.png"),
        "images": [_text(image.tobytes()) for image in images],
        "payloads": [_text(payload) for payload in payloads],
        "latents": [_text(latent.astype("<i4").tobytes()) for latent in latents],
        "corrupt": [_text(payload) for payload in corrupt],
        "screenshot": os.environ.get("TFCOMP_SCREENSHOT"),
        "scheme": os.environ.get("TFCOMP_SCHEME", "light"),
    }
    done = subprocess.run(
        ["node", WEB / "drive.mjs"], input=json.dumps(job), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "failure" not in report, report["failure"]
    return {
        "codec": codec, "images": images, "latents": latents, "payloads": payloads, "corrupt": corrupt,
        "capacity": coder.capacity, "url": url, "report": report, **report["computed"],
    }  # fmt: skip


def _coder_models(coder: Any) -> dict[str, bytes]:
    """The range coder without networks: int32 [1, S] -> payload, and back."""
    import tensorflow as tf

    def convert(function: Any, *specs: Any) -> bytes:
        module = tf.Module()
        module.call = tf.function(function, input_signature=specs)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
        return bytes(converter.convert())

    payload, length = tf.TensorSpec([1, coder.capacity], tf.uint8), tf.TensorSpec([1], tf.int32)
    return {
        "encode.tflite": convert(coder.encode, tf.TensorSpec([1, coder.symbols], tf.int32)),
        "decode.tflite": convert(coder.decode, payload, length),
    }


def test_payloads_from_the_same_latents_are_identical(case: dict[str, Any]) -> None:
    assert [_bytes(text) for text in case["encoded"]] == case["payloads"]


def test_python_payloads_decode_to_identical_latents(case: dict[str, Any]) -> None:
    decoded = np.stack([np.frombuffer(_bytes(text), "<i4") for text in case["decoded"]])
    np.testing.assert_array_equal(decoded, case["latents"].reshape(decoded.shape))


def test_python_payloads_decode_to_pixels_within_one_level(case: dict[str, Any]) -> None:
    expected = case["codec"].decompress(case["payloads"])
    found = np.stack([np.frombuffer(_bytes(text), np.uint8) for text in case["decompressed"]]).reshape(expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_browser_payloads_are_python_s(case: dict[str, Any]) -> None:
    payloads = [_bytes(text) for text in case["compressed"]]
    latents = case["codec"].entropy_model.decode(payloads)
    # Whatever latents the browser's network found, it coded them as Python does.
    assert case["codec"].entropy_model.encode(latents) == payloads
    # And it found Python's, but for values that lie between two integers.
    difference = np.abs(latents - case["latents"])
    assert difference.max() <= 1
    assert np.mean(difference != 0) < 0.01
    same = [i for i in range(IMAGES) if not difference[i].any()]
    assert [payloads[i] for i in same] == [case["payloads"][i] for i in same]
    assert len(same) >= 0.9 * IMAGES


def test_corrupt_payloads_decode_to_something_or_are_refused(case: dict[str, Any]) -> None:
    size = int(np.prod(case["images"].shape[1:]))
    for payload, found in zip(case["corrupt"], case["corrupt_found"], strict=True):
        refused = len(payload) > case["capacity"] or payload[-1:] == b"\x00"
        assert found == ("Problem" if refused else size), payload.hex()
    assert case["report"]["errors"] == []


def test_what_a_person_does(case: dict[str, Any]) -> None:
    report = case["report"]
    payload = _bytes(report["downloaded"])
    assert payload == _bytes(case["compressed"][0])
    assert report["shown"]["hex"] == payload.hex(" ")
    assert report["shown"]["count"] == f"{len(payload)} bytes"
    assert report["cleared"] == {"count": "no bytes yet", "changed": True}
    assert report["reopened"] is True
    assert f"at most {case['capacity']} bytes, found 100000" in report["too_long"]
    assert "not an image" in report["not_an_image"]
    assert int(report["drawn"].split()[0]) > 0


@pytest.mark.parametrize(
    ("missing", "state", "words"),
    [
        ("wasm", "problem", "no WebAssembly"),
        ("litert", "problem", "LiteRT.js did not start"),
        ("relaxed_simd", "ready", "the slower build for browsers without relaxed SIMD"),
        ("artifact", "problem", "?artifact=FOLDER/"),
        ("manifest", "problem", "decoder.tflite is not what manifest.json describes"),
        ("scripts", "waiting", "python -m http.server"),
    ],
)
def test_says_what_is_missing(case: dict[str, Any], missing: str, state: str, words: str) -> None:
    found = case["report"]["missing"][missing]
    assert found["state"] == state
    assert words in found["text"]


def test_asks_nobody_but_its_own_server(case: dict[str, Any]) -> None:
    requests = case["report"]["requests"]
    assert any(url.endswith("/litert_wasm_internal.wasm") for url in requests)
    assert any(url.endswith("/litert_wasm_compat_internal.wasm") for url in requests)
    assert [url for url in requests if not url.startswith((case["url"], "blob:", "data:"))] == []
