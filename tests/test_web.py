"""LiteRT.js in headless Chromium reads and writes the bytes that other runtimes do, and the page of export/web works.

Byte identity is stated on the range coder alone, where all begin at the same integers; whole codecs may differ by what
float arithmetic does to a latent that lies between two integers. `runtime_exactness` has the comparisons.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import litert_js
import numpy as np
import pytest
from conftest import ROOT
from kinds import scene
from PIL import Image

WEB = ROOT / "export" / "web"
IMAGES = 100
CORRUPT = 600


def _text(data: Any) -> str:
    return base64.b64encode(bytes(data)).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.fixture(scope="module", autouse=True)
def _chromium() -> None:
    if missing := litert_js.absent():
        pytest.skip(missing)


# === Every runtime, LiteRT.js among them ===


@pytest.fixture(scope="module")
def browser() -> Iterator[litert_js.Browser]:
    with litert_js.Browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["autoencoder", "vae"])
def runtimes(
    request: pytest.FixtureRequest, exported: Any, browser: litert_js.Browser, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    import runtime_exactness

    codec, artifact, _ = exported
    if request.param == "vae":
        import tfcomp

        train, _ = tfcomp.datasets.load_arrays("glyphs")
        model = tfcomp.VAE.dense(train.shape[1:], 16, hidden=(64,), distortion="squared_error", beta=0.1)
        model.compile(optimizer="adam")
        model.fit(train[:4096], epochs=5, batch_size=64, verbose=0)
        codec = tfcomp.Codec.freeze(model, calibration=train[:500])
        [quality] = codec.parts.qualities
        segmented = replace(quality, entropy=replace(quality.entropy, symbols_per_segment=6))  # 6, 6 and 4 symbols
        codec = tfcomp.Codec(replace(codec.parts, qualities=(segmented,)))
        codec.export(artifact := tmp_path_factory.mktemp("vae") / "artifact")
    return runtime_exactness.runtimes(codec, artifact, browser)


@pytest.mark.parametrize("data", ["glyphs", "mnist"])
def test_every_runtime_makes_and_reads_the_same_payloads(
    data: str, runtimes: dict[str, Any], exported: Any, request: pytest.FixtureRequest
) -> None:
    import runtime_exactness

    images = exported[2] if data == "glyphs" else request.getfixturevalue("mnist")[1]
    report = runtime_exactness.compare(runtimes, images[:IMAGES])
    assert runtime_exactness.faults(report) == []
    assert {name for name, row in report.items() if isinstance(row, dict)} == set(runtimes)
    assert "LiteRT.js" in runtimes
    assert report["images"] == IMAGES
    assert report["payload_bytes"] > IMAGES
    assert report["LiteRT.js"]["images_whose_latents_round_unlike_keras"] <= 0.1 * IMAGES


def test_every_runtime_survives_corrupt_payloads(runtimes: dict[str, Any], exported: Any) -> None:
    import runtime_exactness

    capacity = runtimes["LiteRT.js"].capacity
    payloads = runtimes["NumPy"].compress(exported[2])
    bad = runtime_exactness.corrupted(payloads, capacity, CORRUPT, np.random.default_rng(2))
    report = runtime_exactness.compare_corrupt(runtimes, bad, capacity)
    assert runtime_exactness.faults(report) == []
    assert 0 < report["refused_by_numpy"] < CORRUPT
    assert report["LiteRT.js"]["images"] == CORRUPT
    assert report["LiteRT.js"]["outside_the_tables_with_impossible_lengths"] == 0


def test_a_browser_that_is_wrong_by_a_bit_does_not_pass(runtimes: dict[str, Any], exported: Any) -> None:
    import runtime_exactness

    def spoiled(name: str, rows: Any) -> Any:
        for i, row in enumerate(sound.run(name, rows)):
            if i == 3 and name == "encode":
                row["payload"] = row["payload"] ^ np.eye(1, sound.capacity, dtype=np.uint8)[0]
            yield row

    sound = runtimes["LiteRT.js"]
    wrong = runtime_exactness.LiteRT(spoiled, sound.capacity)
    found = {"NumPy": runtimes["NumPy"], "LiteRT.js": wrong}
    assert runtime_exactness.faults(runtime_exactness.compare(found, exported[2][:5])) == [
        "LiteRT.js: payloads_unlike_numpy_of_same_latents 1"
    ]


@pytest.mark.xdist_group("lapped")
def test_items_of_any_size_in_fixed_shapes_in_the_browser(browser: litert_js.Browser, kinds: Any) -> None:
    from tfcomp.artifact.tiled_graphs import TiledGraphs

    codec, side = kinds("lapped").codec, 96
    graphs = TiledGraphs(codec.parts, codec.parts.transform, side)
    run = browser.load(graphs.litert("float32"))
    for height, width, channels, quality in [(1, 1, 3, 1), (96, 61, 3, 2), (50, 96, 1, 2)]:
        image = scene(height, width, channels)
        [payload] = codec.compress([image], quality)
        [expected] = codec.decompress([payload])
        buffer = np.frombuffer(payload.ljust(graphs.capacity, b"\0"), np.uint8)
        (found,) = run("decoder.tflite", [{"payload": buffer, "length": np.array([len(payload)], np.int32)}])
        assert found["size"].tolist() == [height, width, channels]
        assert np.abs(found["image"][:height, :width, :channels].astype(int) - expected).max() <= 1
        whole = np.zeros((1, side, side, 3), np.uint8)
        whole[0, :height, :width] = image
        asked = np.array([height, width, quality], np.int32)
        (written,) = run("encoder.tflite", [{"image": whole, "size_and_quality": asked}])
        [restored] = codec.decompress([written["payload"][: written["length"][0]].tobytes()])
        assert restored.shape == (height, width, 3)
        assert abs(written["length"][0] - len(payload)) <= 2 + len(payload) // 100
        if channels == 3:
            assert np.mean(np.square(restored.astype(float) - expected)) < 1


# === The page ===


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A local server's address and the folder that it serves."""
    folder = tmp_path_factory.mktemp("site")
    with litert_js.serve(folder) as url:
        yield url, folder


@pytest.fixture(scope="module")
def case(exported: Any, address: tuple[str, Path]) -> dict[str, Any]:
    """What Python made, the browser's report about it, and the job between them."""
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
    manifest = json.loads((artifact / "manifest.json").read_text())
    capacity = manifest["max_payload_bytes"]
    (site / "qualities").mkdir()
    (site / "qualities" / "manifest.json").write_text(json.dumps({**manifest, "fingerprints": ["00", "01"]}))
    (site / "any_size").mkdir()
    (site / "any_size" / "manifest.json").write_text(json.dumps({**manifest, "image_shape": [None, None, 3]}))
    rng = np.random.default_rng(5)
    corrupt = [rng.bytes(n) for n in range(capacity + 1)]
    corrupt += [b"\xff" * capacity, b"\x00" * capacity, b"\xff" * (capacity + 1)]
    corrupt += [payload[:n] for payload in payloads[:5] for n in range(len(payload))]
    corrupt += [bytes([payload[0] ^ (1 << bit), *payload[1:]]) for payload in payloads[5:10] for bit in range(8)]
    picture = io.BytesIO()
    Image.fromarray(images[0, :, :, 0]).save(picture, "png")
    (site / "image.png").write_bytes(picture.getvalue())
    job = {
        "chromium": litert_js.chromium(),
        "page": f"{url}/web/index.html",
        "codec": "../codec/",
        "tampered": "../tampered",
        "qualities": "../qualities",
        "any_size": "../any_size",
        "image_file": str(site / "image.png"),
        "images": [_text(image.tobytes()) for image in images],
        "payloads": [_text(payload) for payload in payloads],
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
        "capacity": capacity, "url": url, "report": report, **report["computed"],
    }  # fmt: skip


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
        ("one_quality", "problem", "Expected a codec of one quality, found one of 2"),
        ("any_size", "problem", "Expected a codec of images of one size, found one of any size"),
        ("scripts", "waiting", "JavaScript is switched off"),
        ("server", "problem", "python -m http.server"),
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
    assert [url for url in requests if not url.startswith((case["url"], "blob:", "data:", "file:"))] == []
