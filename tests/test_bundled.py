"""The photograph codec that comes with the package, as a user meets it: any size, any bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundled_codec import codec, packed, restored_from, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import WholeLiteRT, WholeSavedModels
from numpy.typing import NDArray

import tfcomp
from tfcomp import bundled
from tfcomp.artifact.reading import find
from tfcomp.cli.main import main
from tfcomp.errors import BitstreamError, InputError
from tfcomp.measure import classical, evaluate
from tfcomp.storage import image_files

GOLDEN = Path(__file__).parent / "golden" / "photographs.json"


# === Images and payloads ===


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(1, 8), st.integers(0, 2**16))
def test_any_size_comes_back_in_its_shape(height: int, width: int, channels: int, quality: int, seed: int) -> None:
    image = scene(height, width, channels, seed)
    payload = packed(image, quality)
    restored = restored_from(payload)
    assert restored.shape == image.shape
    assert restored.dtype == np.uint8
    assert evaluate.psnr_db(image, restored) > 20 + quality
    assert f"{width}x{height} {'grey' if channels == 1 else 'RGB'}, quality {quality}, 1 tile" in codec().describe(
        payload
    )


@pytest.mark.parametrize("image", [np.zeros((9, 17, 3), np.uint8), np.full((5, 4), 255, np.uint8)])
def test_plain_images_need_a_few_bytes(image: NDArray[np.uint8]) -> None:
    payload = packed(image, 4)
    assert len(payload) < 60
    assert np.abs(restored_from(payload).squeeze().astype(int) - image).mean() < 3


def test_data_sets_and_their_iterators_are_sequences() -> None:
    tf = pytest.importorskip("tensorflow")
    images = np.stack([scene(16, 24, seed=seed) for seed in range(3)])
    expected = codec().compress(list(images))
    data = tf.data.Dataset.from_tensor_slices(images)
    for items in (data, data.batch(2), iter(data), data.as_numpy_iterator()):
        assert codec().compress(items) == expected


def test_more_bytes_are_a_better_picture() -> None:
    image = scene(96, 120)
    payloads = [packed(image, quality) for quality in range(1, 9)]
    sizes, psnr = [len(p) for p in payloads], [evaluate.psnr_db(image, restored_from(p)) for p in payloads]
    assert sizes == sorted(set(sizes))
    assert psnr == sorted(psnr)
    assert psnr[-1] > 36


def test_noise_and_hard_edges_survive_the_highest_quality() -> None:
    rng = np.random.default_rng(1)
    for image in (
        rng.integers(0, 256, (40, 56, 1), np.uint8),
        np.kron(rng.integers(0, 2, (10, 14, 1)), np.ones((4, 4, 1))).astype(np.uint8) * 255,
    ):
        assert evaluate.psnr_db(image, restored_from(packed(image, 8))) > 24


def test_a_target_is_met_with_the_best_that_fits() -> None:
    image = scene(96, 120)
    by_quality = [len(packed(image, quality)) for quality in range(1, 9)]
    for target in (by_quality[1], by_quality[4] + 3, by_quality[7], 10**6):
        payload = packed(image, target_bytes=target)
        assert len(payload) <= target
        assert len(payload) >= 0.85 * min(target, by_quality[7])
    with pytest.raises(InputError, match=r"a target of \d+ bytes or more for this image, found 9"):
        packed(image, target_bytes=9)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), r"float32 \[2, 4, 4, 1\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"uint8 \[2, 4, 4, 3\]"),
        ([], r"float64 \[0\]"),
        ([[1, 2], [3]], "rows of several lengths"),
    ],
)
def test_what_is_no_image_is_refused(image: object, found: str) -> None:
    with pytest.raises(InputError, match=f"expected an image as uint8 .*, found {found}"):
        packed(image)


@pytest.mark.parametrize("quality", [0, 9, -1, 2.5, True, "5"])
def test_qualities_that_are_none(quality: object) -> None:
    with pytest.raises(InputError, match="expected a quality of 1 to 8, found"):
        packed(scene(8, 8), quality)  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", [2, 5])
def test_photographs_need_a_quarter_less_than_jpeg(shared_data: Path, quality: int) -> None:
    files = image_files.image_files(shared_data / "bsds500" / "val")[::25]
    images = [image_files.read_image(file) for file in files]
    payloads = [packed(image, quality) for image in images]
    ours = evaluate.psnr_db(images, [restored_from(payload) for payload in payloads])
    jpeg = evaluate.bytes_at(classical.curve(images, "jpeg"), ours)
    assert sum(map(len, payloads)) / len(images) < 0.75 * jpeg


def test_it_is_found_by_its_name_and_by_its_fingerprint() -> None:
    assert "photographs" in bundled.folders()
    assert tfcomp.Codec.load("photographs").fingerprint == codec().fingerprint
    assert find(bytes.fromhex(codec().fingerprint)) == bundled.folders()["photographs"]
    for one in codec().codecs:  # a `.tfz` of one quality finds it as well
        assert find(bytes.fromhex(one.fingerprint)) == bundled.folders()["photographs"]
    assert find(bytes(16)) is None


def test_the_model_behind_it_is_ready_for_more_training() -> None:
    model = tfcomp.load_model("photographs")
    assert model.qualities == codec().qualities == 8
    crops = np.stack([scene(64, 64, seed=seed) for seed in range(8)])
    model.compile(optimizer="sgd")
    before = model.evaluate(crops, batch_size=8, verbose=0, return_dict=True)
    assert before["psnr_db"] > 30
    model.fit(crops, batch_size=8, epochs=1, verbose=0)


# === Golden ===


@pytest.mark.usefixtures("either_loop")
def test_golden_photographs(rewrite_golden: bool) -> None:
    """Payloads that every later version must read, to the same integers."""
    if rewrite_golden:
        cases = [(40, 56, 3, 1), (40, 56, 3, 5), (33, 18, 1, 8), (1, 1, 3, 4)]
        payloads = [packed(scene(*shape), quality) for *shape, quality in cases]
        lines = ",\n".join(json.dumps({"payload": p.hex(), "sha256": digest(p)}) for p in payloads)
        GOLDEN.write_text(f'{{"codec": "{codec().fingerprint}", "cases": [\n{lines}\n]}}\n')
    golden = json.loads(GOLDEN.read_text())
    assert golden["codec"] == codec().fingerprint
    assert len(golden["cases"]) == 4
    for case in golden["cases"]:
        assert digest(bytes.fromhex(case["payload"])) == case["sha256"]


def digest(payload: bytes) -> str:
    [latent] = codec().decode([payload])
    return hashlib.sha256(np.array(latent.shape, "<i2").tobytes() + latent.astype("<i2").tobytes()).hexdigest()


# === Whole graphs ===


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_its_whole_graphs_read_and_write_its_payloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tfcomp.Codec.load(runtime="keras").export(tmp_path / "artifact")
    assert main(["info", str(tmp_path / "artifact")]) == 0
    assert codec().fingerprint in capsys.readouterr().out
    saved, lite = (
        WholeSavedModels(tmp_path / "artifact", several=True, any_size=True),
        WholeLiteRT(tmp_path / "artifact"),
    )
    payloads = [bytes.fromhex(case["payload"]) for case in json.loads(GOLDEN.read_text())["cases"]]
    payloads += [packed(scene(*shape), quality) for *shape, quality in ((1, 300, 3, 4), (300, 301, 3, 7))]
    payloads.append(packed(scene(1100, 1300, seed=3), 2))
    assert "4 tiles" in codec().describe(payloads[-1])
    for payload in payloads:
        expected = restored_from(payload)
        np.testing.assert_array_equal(saved.integers([payload], 1)[0], codec().decode([payload])[0])
        for whole in (saved, lite):
            [found] = whole.decompress([payload], 1)
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).max() <= 1
    for *shape, quality in ((1, 1, 3, 6), (40, 50, 3, 1), (200, 131, 3, 8)):
        image = scene(*shape)
        expected = packed(image, quality)
        for whole in (saved, lite):
            [made] = whole.compress([image], quality)
            # Rounding in floats may now and then choose another integer.
            assert abs(len(made) - len(expected)) <= 2 + len(expected) // 100
            assert np.mean(np.square(restored_from(made).astype(float) - restored_from(expected))) < 1


# === Damage ===


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_image_or_refused(data: bytes) -> None:
    # Bytes may claim a large plain image, which is legal and slow: small claims tell as much.
    data = data[:1] + bytes([b % 48 for b in data[1:3]]) + data[3:]
    try:
        image = restored_from(data)
    except BitstreamError:
        return
    assert image.ndim == 3


def test_claims_are_checked_before_memory_is_taken() -> None:
    for payload, message in (
        (b"", "found no bytes"),
        (b"\x04", "variable-length integer"),
        (b"\x08\x08\x08\x00", "expected a quality of 1 to 8 and"),
        (b"\x04\x00\x08\x00", "byte 0x04 and 8x0"),
        (b"\x04" + b"\xff\xff\xff\xff\x07" + b"\x01\x00", "1 to 268435456 pixels"),
        (
            b"\x04" + b"\x80\x80\x01" + b"\x80\x40" + b"\x00",
            "expected 261 bytes or more for 8192x16384 pixels, found 7",
        ),
    ):
        with pytest.raises(BitstreamError, match=message):
            restored_from(payload)
    with pytest.raises(BitstreamError, match="found str"):
        restored_from("text")  # type: ignore[arg-type]


def test_a_few_bytes_cannot_ask_for_long_work() -> None:
    with pytest.raises(BitstreamError, match="at most 4096 symbols in a tile"):
        restored_from(b"\x04" + b"\x80\x08" + b"\x80\x08" + b"\0")
    with pytest.raises(BitstreamError, match="1 to 268435456 pixels"):
        restored_from(b"\x04" + b"\x01" + b"\x80\x80\x80\x80\x01" + b"\0" * 9000)


def test_a_cut_payload_is_refused() -> None:
    payload = packed(scene(96, 120), 7)
    with pytest.raises(BitstreamError):
        restored_from(payload[: len(payload) // 4])


# === Slow ===


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_size_up_to_300x301() -> None:
    """Networks and contexts know a size by its positions of 8 x 8 pixels: each of those, and every remainder."""
    image = scene(304, 304)
    for rows in range(1, 39):
        for columns in range(1, 39):
            height, width = min(300, 8 * rows - columns % 8), min(301, 8 * columns - rows % 8)
            restored = restored_from(packed(image[:height, :width], 1 + (rows + columns) % 8))
            assert restored.shape == (height, width, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_megapixels_within_two_gigabytes(tmp_path: Path) -> None:
    program = (
        "import numpy as np\nimport tfcomp\n"
        "y, x = np.mgrid[:6250, :8000].astype(np.float32)\n"
        "image = np.uint8(120 + 60 * np.sin(x / 90) + 50 * np.sin(y / 37 + x / 200))[..., None].repeat(3, 2)\n"
        "del x, y\ncodec = tfcomp.Codec.load()\n[payload] = codec.compress([image], 5)\n"
        "[restored] = codec.decompress([payload])\nassert restored.shape == image.shape\n"
        "assert np.abs(restored[::50] - image[::50].astype(int)).mean() < 6\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])\n"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(found.stdout) < 2 * 1024**2
