"""The page of export/web in headless Chromium, driven as a person would: `drive.mjs` has the steps.

What it makes is held against Python: integers and bytes are the same, pixels within one level. The artifacts are the
bundled one, a golden one of several qualities, and one of 28x28 pixels; the entropy coder alone is `test_web_codec`'s.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import litert_js
import numpy as np
import pytest
from conftest import ROOT
from kinds import scene
from numpy.typing import NDArray
from PIL import Image
from test_golden_artifacts import GOLDEN, cases, items
from test_web_codec import READ

import tfcomp
from tfcomp import bundled
from tfcomp.entropy import tiles
from tfcomp.storage import container

pytestmark = [pytest.mark.further, pytest.mark.xdist_group("dense")]  # that of the codec of 28x28 pixels

WEB = ROOT / "export" / "web"
CORRUPT = 120
Report = dict[str, Any]


def _text(data: Any) -> str:
    return base64.b64encode(bytes(data)).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _png(content: Any) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(_bytes(content if isinstance(content, str) else content["content"]))))[
        ..., :3
    ]


def _off(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other).max())


def _rgba(image: NDArray[np.uint8]) -> dict[str, Any]:
    """An item as the page reads it from a canvas."""
    height, width, channels = image.shape
    rgb = np.repeat(image, 3, axis=2) if channels == 1 else image
    opaque = np.full((height, width, 1), 255, np.uint8)
    return {"width": width, "height": height, "rgba": _text(np.concatenate([rgb, opaque], axis=2).tobytes())}


def _pixels(text: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What the page would paint, with as many channels as the item has."""
    return np.frombuffer(_bytes(text), np.uint8).reshape(*shape[:2], 4)[..., : shape[2]]


def _archive(folder: Path, content: str) -> tuple[container.Header, dict[str, Any], list[bytes]]:
    (folder / "read.tfz").write_bytes(_bytes(content))
    with container.Archive.open(folder / "read.tfz") as archive:
        return archive.header, archive.metadata, [*archive]


def _write(folder: Path, codec: tfcomp.Codec, payloads: list[bytes], names: list[str]) -> str:
    shape = tuple(n or 0 for n in codec.item.shape)
    metadata = {"names": names}
    container.write(
        folder / "w.tfz", payloads, fingerprint=bytes.fromhex(codec.fingerprint), item_shape=shape, metadata=metadata
    )
    return _text((folder / "w.tfz").read_bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is served: the page, and artifacts beside it."""
    if missing := litert_js.absent():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("site")
    (folder / "web").symlink_to(WEB)
    (folder / "photographs").symlink_to(bundled.folders()["photographs"])
    for name in READ:
        (folder / name).symlink_to(GOLDEN / name)
    return folder


@pytest.fixture(scope="module")
def drive(site: Path) -> Iterator[Callable[..., Report]]:
    """Runs a scenario of `drive.mjs` and returns its report."""
    with litert_js.serve(site) as url:

        def run(scenario: str, **job: Any) -> Report:
            job |= {"scenario": scenario, "chromium": litert_js.chromium(), "page": f"{url}/web/index.html"}
            job["pictures"] = os.environ.get("TFCOMP_SCREENSHOTS")
            done = subprocess.run(
                ["node", WEB / "drive.mjs"], input=json.dumps(job), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert "failure" not in report, report["failure"]
            assert report["errors"] == []
            assert [u for u in report["requests"] if not u.startswith((url, "blob:", "data:", "file:"))] == []
            return report

        yield run


# === Photographs ===


@pytest.fixture(scope="module")
def codec() -> tfcomp.Codec:
    return tfcomp.Codec.load()


@pytest.fixture(scope="module")
def photograph(drive: Callable[..., Report], site: Path, codec: tfcomp.Codec) -> Report:
    """A picture of two tiles, and what the page made of it."""
    picture = os.environ.get("TFCOMP_PHOTOGRAPH")  # for the screenshots
    image = np.asarray(Image.open(picture).convert("RGB")) if picture else scene(88, 1120, seed=3)
    Image.fromarray(image).save(site / "image.png")
    sent = [scene(60, 90, seed=1), scene(40, 33, 1, seed=2), scene(5, 300, seed=4)]
    payloads = [codec.compress([each], quality)[0] for each, quality in zip(sent, (1, 5, 8), strict=True)]
    whole = _write(site, codec, payloads, ["one.png", "two.png", "three.png"])
    other = tfcomp.Codec.load(GOLDEN / "contexts")
    report = drive(
        "photograph", artifact="../photographs", image_file=str(site / "image.png"), name="my photo.png",
        quality=codec.default_quality, archive=whole,
        refused={
            "not an image.png": _text(b"no image"),
            "damaged.tfz": _text(_bytes(whole)[:-1] + b"\x5a"),
            "cut.tfz": _text(_bytes(whole)[:50]),
            "wide.tfz": _write(site, codec, codec.compress([scene(8, 16400)], 1), ["wide.png"]),
            "other.tfz": _write(site, other, other.compress(items("contexts")[:1]), ["x.png"]),
        },
    )  # fmt: skip
    return {**report, "image": image, "sent": payloads}


def test_its_file_is_what_python_writes(photograph: Report, codec: tfcomp.Codec, tmp_path: Path) -> None:
    header, metadata, [payload] = _archive(tmp_path, photograph["first"]["content"])
    assert (photograph["first"]["name"], metadata) == ("my photo.tfz", {"names": ["my photo.png"]})
    assert header.fingerprint.hex() == codec.fingerprint
    assert _write(tmp_path, codec, [payload], ["my photo.png"]) == photograph["first"]["content"]
    _same_integers(codec, photograph["image"], payload)
    [restored] = codec.decompress([payload])
    assert _off(_png(photograph["png"]), restored) <= 1


def _same_integers(codec: tfcomp.Codec, image: NDArray[np.uint8], payload: bytes) -> None:
    """The page found Python's integers, but where floats put a latent on either side of a tie, and coded them alike."""
    [found] = codec.decode([payload])
    [expected] = codec.encode([image])
    assert np.mean(found != expected) < 1e-3
    quality, grid = codec.parts.quality(), codec.parts.grid
    assert grid is not None
    exact = np.full(len(quality.step), 1e20, np.float32)
    plan = grid.plan(*image.shape[:2])
    codes = [tiles.encode(quality.entropy, found[area].astype(np.float32), exact)[0] for area in plan.areas()]
    assert payload.endswith(b"".join(codes))


def test_what_it_says_of_the_picture(photograph: Report, codec: tfcomp.Codec, tmp_path: Path) -> None:
    size, (height, width, _) = len(_bytes(photograph["first"]["content"])), photograph["image"].shape
    assert photograph["said"] == f"Compressed to {size:,} bytes."
    tfcomp_row, jpeg, webp = photograph["rows"]
    restored = _png(photograph["png"]).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean(np.square(restored - photograph["image"])))
    assert tfcomp_row == ["tfcomp", f"{size:,}", f"{8 * size / (height * width):.3f}", f"{psnr:.1f} dB"]
    for row in (jpeg, webp):
        assert int(row[1].replace(",", "")) <= size
        assert float(row[3].removesuffix(" dB")) < psnr
    assert [name for name, _ in photograph["beside"]] == ["JPEG", "WebP", "Original"]
    assert {natural for _, natural in photograph["beside"]} == {width}


def test_its_divider_follows_keys_and_pointer(photograph: Report) -> None:
    middle, home, end, pressed = photograph["edges"]
    assert home < pressed < end
    assert home < middle < end
    assert pressed == pytest.approx(middle + photograph["width"] * 0.1, abs=2)
    assert "% Original" in photograph["value_text"]
    assert photograph["full_width"] == photograph["image"].shape[1]


def test_its_qualities_are_python_s(photograph: Report, codec: tfcomp.Codec, tmp_path: Path) -> None:
    [payload] = _archive(tmp_path, photograph["lowest"]["content"])[2]
    assert ", quality 1, " in codec.describe(payload)
    assert len(photograph["lowest"]["content"]) < len(photograph["first"]["content"])
    again = _archive(tmp_path, photograph["again"]["content"])[2]
    assert again == _archive(tmp_path, photograph["first"]["content"])[2]
    [hasty] = _archive(tmp_path, photograph["hasty"]["content"])[2]
    assert f", quality {codec.qualities}, " in codec.describe(hasty)


def test_it_opens_files_of_its_own_and_of_python(photograph: Report, codec: tfcomp.Codec) -> None:
    np.testing.assert_array_equal(_png(photograph["reopened"]), _png(photograph["png"]))
    assert photograph["items"] == ["one.png", "two.png", "three.png"]
    for picture, expected in zip(photograph["pictures"], codec.decompress(photograph["sent"]), strict=True):
        assert _off(_png(picture), np.broadcast_to(expected, (*expected.shape[:2], 3))) <= 1


def test_it_refuses_in_a_line_and_goes_on(photograph: Report, codec: tfcomp.Codec) -> None:
    assert photograph["refused"] == {
        "not an image.png": "not an image.png is not an image that this browser reads.",
        "damaged.tfz": "Expected unchanged payloads in damaged.tfz, found another checksum.",
        "wide.tfz": "Expected at most 89000000 pixels and 16384 a side, found 16400 by 8 in wide.tfz.",
        "cut.tfz": photograph["refused"]["cut.tfz"],
        "other.tfz": photograph["refused"]["other.tfz"],
    }
    assert "cut, extended or changed" in photograph["refused"]["cut.tfz"]
    assert codec.fingerprint in photograph["refused"]["other.tfz"]
    assert photograph["alive"].startswith("Compressed to")
    assert photograph["kept"]["content"] == photograph["pictures"][-1]


def test_every_control_has_a_name_and_a_phone_is_wide_enough(photograph: Report) -> None:
    for name in ("Choose a file", "Drop a photograph here"):
        assert name in photograph["names"]
    for role in ("slider", "radio", "link", "button", "group", "table"):
        assert f"- {role}" in photograph["controls"]
    for name in (
        "Divider between the two pictures",
        "Quality",
        "JPEG",
        "Download .tfz",
        "Save as PNG",
        "Beside it",
        "View",
    ):
        assert f'"{name}"' in photograph["controls"]
    roles = ("slider", "radio", "button", "link", "combobox", "img")
    assert [
        line
        for line in photograph["controls"].splitlines()
        if line.strip(" -:").split()[0] in roles and '"' not in line
    ] == []
    assert photograph["phone_width"] == 360


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twelve_megapixels_do_not_freeze_it(drive: Callable[..., Report], codec: tfcomp.Codec, tmp_path: Path) -> None:
    image = scene(3000, 4000, seed=9)
    Image.fromarray(image).save(tmp_path / "large.png", compress_level=1)
    report = drive("large", artifact="../photographs", image_file=str(tmp_path / "large.png"), timeout=600_000)
    if report_file := os.environ.get("TFCOMP_REPORT"):
        Path(report_file).write_text(
            json.dumps({key: report[key] for key in ("seconds", "freezes", "rows", "note")}, indent=1)
        )
    assert set(report["freezes"]) == {"start", "compress", "compare", "divider", "download", "open"}
    for stage, longest in report["freezes"].items():
        assert longest["task"] <= 200, stage
    [payload] = _archive(tmp_path, report["first"]["content"])[2]
    _same_integers(codec, image, payload)
    [restored] = codec.decompress([payload])
    assert _off(_png(report["png"]), restored) <= 1


# === Small pictures of one shape ===


@pytest.fixture(scope="module", params=["one quality", "three qualities"])
def small(request: pytest.FixtureRequest, drive: Callable[..., Report], site: Path) -> Report:
    """Pictures, what Python made of them and what the page did."""
    if request.param == "one quality":
        codec, artifact, images = request.getfixturevalue("exported")
        if not (site / "dense").exists():
            (site / "dense").symlink_to(artifact)
        folder, quality, picture = "../dense/", 1, "page_small"
    else:
        codec, images = tfcomp.Codec.load(GOLDEN / "qualities"), items("qualities")
        folder, quality, picture = "../qualities/", 2, ""
        assert codec.decode(cases("qualities")[2][0], 2).shape[0] == len(images)
    payloads, chosen, rng = codec.compress(images, quality), codec.at(quality), np.random.default_rng(5)
    corrupt = [rng.bytes(int(n)) for n in rng.integers(0, 2 + max(map(len, payloads)), CORRUPT)]
    corrupt += [b"\xff" * 400, b"\0"] + [payload[:n] for payload in payloads[:3] for n in range(len(payload))]
    Image.fromarray(images[1, :, :, 0]).save(site / "small.png")
    names = [f"{i}.png" for i in range(len(images))]
    report = drive(
        "small", artifact=folder, quality=quality, image_file=str(site / "small.png"), item=3, picture=picture,
        images=[_rgba(image) for image in images], payloads=[_text(payload) for payload in payloads],
        corrupt=[_text(payload) for payload in corrupt], archive=_write(site, chosen, payloads, names),
    )  # fmt: skip
    assert report["items"] == names
    return {**report, "codec": codec, "chosen": chosen, "images": images, "sent": payloads, "corrupt": corrupt}


def test_small_pictures_are_python_s(small: Report) -> None:
    codec, images = small["chosen"], small["images"]
    expected = codec.decompress(small["sent"])
    for text, pixels in zip(small["computed"]["decompressed"], expected, strict=True):
        assert _off(_pixels(text, pixels.shape), pixels) <= 1
    payloads = [_bytes(text) for text in small["computed"]["compressed"]]
    latents = codec.decode(payloads)
    # Whatever latents the browser's network found, it coded them as Python does.
    assert codec.entropy_model.encode(latents) == payloads
    # And it found Python's, but for values that lie between two integers.
    difference = np.abs(latents - codec.encode(images))
    assert difference.max() <= 1
    assert np.mean(difference != 0) < 0.01
    assert np.mean([mine == yours for mine, yours in zip(payloads, small["sent"], strict=True)]) >= 0.9


def test_golden_artifacts_of_all_kinds(drive: Callable[..., Report]) -> None:
    jobs, codecs = [], []
    for name in READ:
        for quality, (payloads, _, images) in cases(name).items():
            codecs.append((name, quality, images, tfcomp.Codec.load(GOLDEN / name)))
            sent = [_rgba(item) for item in items(name)]
            jobs.append({"artifact": f"../{name}/", "quality": quality, "images": sent, "corrupt": []})
            jobs[-1]["payloads"] = [_text(payload) for payload in payloads]
    report = drive("computed", cases=jobs)
    for (name, quality, images, codec), found in zip(codecs, report["computed"], strict=True):
        for text, image in zip(found["decompressed"], images, strict=True):
            assert _off(_pixels(text, image.shape), image) <= 1, name
        payloads = [_bytes(text) for text in found["compressed"]]
        written = codec.decode(payloads, quality)
        expected = codec.encode(items(name), quality)
        assert [one.shape for one in written] == [other.shape for other in expected]
        wrong = [np.mean(one != other) for one, other in zip(written, expected, strict=True)]
        assert np.mean(wrong) <= 0.01, name
        assert [image.shape for image in codec.decompress(payloads, quality)] == [item.shape for item in items(name)]


def test_corrupt_small_payloads_decode_or_are_refused_as_in_python(small: Report) -> None:
    codec, size = small["chosen"], int(np.prod(small["images"].shape[1:]))
    for payload, found in zip(small["corrupt"], small["computed"]["corrupt_found"], strict=True):
        try:
            codec.decode([payload])
            assert found == size
        except tfcomp.BitstreamError:
            assert found == "Problem", payload.hex()


def test_a_small_picture_in_the_page(small: Report, tmp_path: Path) -> None:
    codec = small["codec"]
    header, _, [payload] = _archive(tmp_path, small["first"]["content"])
    owner = codec.that_made(header.fingerprint)
    [restored] = owner.decompress([payload])
    assert _off(_png(small["png"])[..., :1], restored) <= 1
    assert _off(_png(small["picture"])[..., :1], small["chosen"].decompress(small["sent"])[3]) <= 1
    assert all(row[1] and row[3] for row in small["rows"])
    if small["images"].shape[1] == 28:  # in 8x8 pixels one stroke is much like another
        assert small["drawn"] != small["example"]


# === What is missing ===


@pytest.fixture(scope="module")
def missing(drive: Callable[..., Report], site: Path) -> Report:
    shutil.copytree(GOLDEN / "qualities", site / "tampered")
    with (site / "tampered" / "decoder_latent.tflite").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x5a")
    shutil.copytree(GOLDEN / "qualities", site / "strange")
    manifest = json.loads((site / "strange" / "manifest.json").read_text())
    (site / "strange" / "manifest.json").write_text(json.dumps({**manifest, "format": "static-2"}))
    return drive("missing", artifact="../qualities/", tampered="../tampered", strange="../strange")["missing"]


@pytest.mark.parametrize(
    ("what", "state", "words"),
    [
        ("litert", "problem", "LiteRT.js did not start"),
        ("wasm", "problem", "LiteRT.js did not start"),
        ("canvas", "problem", "This browser is too old"),
        ("codec", "problem", "This did not work: Failed to fetch dynamically imported module"),
        ("artifact", "problem", "?artifact=FOLDER/"),
        ("manifest", "problem", "decoder_latent.tflite is not what manifest.json describes"),
        ("format", "problem", "Expected a codec of format context-1 or static-1, found static-2"),
        ("scripts", "waiting", "JavaScript is switched off"),
        ("server", "problem", "python -m http.server"),
    ],
)
def test_says_what_is_missing(missing: Report, what: str, state: str, words: str) -> None:
    assert missing[what]["state"] == state
    assert words in missing[what]["text"]
