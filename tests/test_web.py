"""LiteRT.js in headless Chromium reads and writes the bytes that other runtimes do; the page is `test_web_page`'s.

Byte identity is stated on the range coder alone, where all begin at the same integers; whole codecs may differ by what
float arithmetic does to a latent that lies between two integers. `runtime_exactness` has the comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import litert_js
import numpy as np
import pytest
from kinds import scene

pytestmark = pytest.mark.further
IMAGES = 100
CORRUPT = 600


@pytest.fixture(scope="module", autouse=True)
def _chromium() -> None:
    if missing := litert_js.absent():
        pytest.skip(missing)


# === Every runtime, LiteRT.js among them ===


@pytest.fixture(scope="module")
def browser() -> Iterator[litert_js.Browser]:
    with litert_js.Browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["autoencoder", pytest.param("vae", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("data", ["glyphs", pytest.param("mnist", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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
