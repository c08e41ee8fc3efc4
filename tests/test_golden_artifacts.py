"""Artifact folders that every later version must load, decode with, and say what they are.

    golden/artifacts/static/       items of one shape, one quality: all that `Codec.export` writes
    golden/artifacts/qualities/    items of one shape, three qualities: what LiteRT needs
    golden/artifacts/samples/      items of one shape, samples of a VAE's posterior: what LiteRT needs
    golden/artifacts/contexts/     items of any size, two qualities, contexts: what LiteRT needs, and the trained model
    golden/artifacts/channels/     items of any size, a table for each channel: what LiteRT needs
    golden/artifacts/NAME.json     payloads of each, with their integers and pixels

``make golden`` writes them anew; a change of a format that is not compatible needs a new format id instead.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from kinds import WholeLiteRT, WholeSavedModels, off, scene
from numpy.typing import NDArray

import tfcomp
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.manifest import MANIFEST, Manifest
from tfcomp.cli.main import main

GOLDEN = ROOT / "tests" / "golden" / "artifacts"
NETWORKS = [artifacts.TABLES, artifacts.ENCODER_LATENT, artifacts.DECODER_LATENT, artifacts.ENCODER_SLOPE]
KEPT = {
    "static": [*NETWORKS, artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT, artifacts.ENCODER, artifacts.DECODER],
    "qualities": NETWORKS,
    "samples": NETWORKS[:-1],  # which are not refined
    "contexts": [*NETWORKS, artifacts.MODEL],
    "channels": NETWORKS,
}
"""Files and folders of each artifact."""
SIZES = [(1, 1), (9, 13), (20, 17)]
NAMES = pytest.mark.parametrize("name", KEPT)


def items(name: str) -> Any:
    """Items that each codec compresses, and is fitted to others like them."""
    if name in ("static", "qualities", "samples"):
        return np.stack([scene(8, 8, 1, seed) for seed in range(5)])
    found: list[NDArray[np.uint8]] = [scene(height, width, 3, seed=1) for height, width in SIZES]
    return [*found, scene(11, 6, 1)]


@pytest.fixture(scope="module", autouse=True)
def _written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.config.getoption("--rewrite-golden"):
        for name in KEPT:
            rewrite(name, tmp_path_factory.mktemp("golden") / "artifact")


def rewrite(name: str, whole: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    fitted_to = np.stack([scene(8, 8, 1, seed) for seed in range(100, 400)])
    crops = np.stack([scene(32, 32, 3, seed) for seed in range(100, 116)])
    model: Any
    match name:
        case "static":
            model = tfcomp.AutoEncoder.dense((8, 8, 1), 6, hidden=(8,), beta=0.02)
        case "qualities":
            model = tfcomp.AutoEncoder.dense((8, 8, 1), 6, hidden=(8,), beta=(0.5, 0.05, 0.005))
        case "samples":
            model = tfcomp.VAE.dense((8, 8, 1), 3, hidden=(8,), beta=0.2)
        case "contexts":
            model = tfcomp.AutoEncoder.lapped(
                (None, None, 3), beta=(0.02, 0.002), stride=4, coefficients=(5, 2), hidden=(4, 4), blocks=1, ranks=None,
                groups=(0, 1),
            )  # fmt: skip
        case _:
            model = tfcomp.AutoEncoder.spatial((None, None, 3), 4, filters=(4, 4), beta=0.002)
    data, batch = (crops, 8) if model.item.any_size else (fitted_to, 50)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(tfcomp.datasets.batches(data, batch, shuffle=True).repeat(), steps_per_epoch=60, verbose=0)
    codec = tfcomp.Codec.freeze(model, data, latents="sample" if name == "samples" else "mean")
    codec.export(whole, with_model=artifacts.MODEL in KEPT[name])
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    for kept in KEPT[name]:
        (folder / kept).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (whole / kept).is_dir() else shutil.copy)(whole / kept, folder / kept)
    fields = json.loads((whole / MANIFEST).read_text())
    fields["files"] = {path: file for path, file in fields["files"].items() if (folder / path).is_file()}
    (folder / MANIFEST).write_text(json.dumps(fields, indent=2) + "\n")
    loaded, cases = tfcomp.Codec.load(folder), []
    for quality in range(1, loaded.qualities + 1):
        payloads = loaded.compress(items(name), quality)
        decoded = zip(payloads, loaded.decode(payloads, quality), loaded.decompress(payloads, quality), strict=True)
        cases += [
            {
                "quality": quality,
                "payload": payload.hex(),
                "integers": integers.ravel().tolist(),
                "shape": list(pixels.shape),
                "pixels": pixels.tobytes().hex(),
            }
            for payload, integers, pixels in decoded
        ]
    lines = ",\n".join(json.dumps(case) for case in cases)
    golden = GOLDEN / f"{name}.json"
    golden.write_text(f'{{"fingerprint": "{loaded.fingerprint}", "cases": [\n{lines}\n]}}\n')


def cases(name: str) -> dict[int, Any]:
    """Payloads, integers and images of each quality."""
    found: dict[int, Any] = {}
    for case in json.loads((GOLDEN / f"{name}.json").read_text())["cases"]:
        payloads, integers, images = found.setdefault(case["quality"], ([], [], []))
        payloads.append(bytes.fromhex(case["payload"]))
        integers.append(case["integers"])
        images.append(np.frombuffer(bytes.fromhex(case["pixels"]), np.uint8).reshape(case["shape"]))
    return found


@NAMES
@pytest.mark.usefixtures("either_loop")
def test_golden_artifacts_decode_golden_payloads(name: str) -> None:
    codec = tfcomp.Codec.load(GOLDEN / name)
    assert codec.fingerprint == json.loads((GOLDEN / f"{name}.json").read_text())["fingerprint"]
    assert sorted(cases(name)) == list(range(1, codec.qualities + 1))
    for quality, (payloads, integers, images) in cases(name).items():
        assert [found.ravel().tolist() for found in codec.decode(payloads, quality)] == integers
        assert off(codec.decompress(payloads, quality), images) <= 1
        # And so would the items be compressed again, but for what floats of another machine do to a tie.
        again = [found.ravel() for found in codec.encode(items(name), quality)]
        assert np.mean(np.concatenate(again) != np.concatenate(integers)) <= 0.01


@NAMES
def test_golden_artifacts_say_what_they_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = GOLDEN / name
    manifest = Manifest.read(folder)
    artifacts.verify(folder, manifest.files)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {*manifest.files, MANIFEST}
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert manifest.fingerprint in said
    assert all(file in said for file in manifest.files)
    codec = tfcomp.Codec.load(folder)
    for payloads, _, images in cases(name).values():
        for payload, image in zip(payloads, images, strict=True):
            height, width, _ = image.shape
            assert f"{width}x{height}" in codec.describe(payload) or not codec.item.any_size
            (tmp_path / "payload").write_bytes(payload)
            assert main(["info", str(tmp_path / "payload"), "--codec", str(folder)]) == 0
            assert codec.describe(payload) in capsys.readouterr().out
    assert codec.compute.keys() == {"encoder", "decoder"}


@pytest.mark.parametrize("name", sorted(set(KEPT) - {"samples"}))
def test_golden_artifacts_have_effort(name: str) -> None:
    codec = tfcomp.Codec.load(GOLDEN / name)
    refined = codec.compress(items(name), effort=4)
    assert refined != codec.compress(items(name))
    assert len(codec.decompress(refined)) == len(items(name))


def test_golden_artifacts_run_in_other_runtimes() -> None:
    folder = GOLDEN / "static"
    payloads, integers, images = cases("static")[1]
    loaded = tfcomp.Codec.load(folder, runtime="tensorflow")
    assert [found.tolist() for found in loaded.decode(payloads)] == integers
    saved, lite = WholeSavedModels(folder, several=False, any_size=False), WholeLiteRT(folder)
    for codec in (loaded, saved, lite):
        assert off(codec.decompress(payloads, 1), images) <= 1
    assert [found.tolist() for found in saved.integers(payloads, 1)] == integers
    folder = GOLDEN / "contexts"
    trained = tfcomp.Codec.load(folder, runtime="keras")
    for quality, (payloads, _, images) in cases("contexts").items():
        assert off(trained.decompress(payloads, quality), images) <= 1
    assert tfcomp.load_model(folder).qualities == 2
