"""Commands on images of any size: crops to a run, an artifact, an archive, and files again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import failure, picture
from numpy.typing import NDArray
from PIL import Image

from tfcomp.cli.main import main
from tfcomp.codec import Codec
from tfcomp.storage import container, image_files

SETTINGS = ["--network", "spatial", "--side", "32", "--steps", "4", "--latent-dim", "4", "--batch-size", "2"]


def scene(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Soft waves: nothing of a photograph but its smoothness."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (5 + c) + y / (7 + seed)) for c in range(channels)]
    return np.clip(np.rint(np.stack(waves, axis=-1)), 0, 255).astype(np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_files.write_image(path, image)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``data/``, and of ``run/`` and ``artifact/``, which the commands made of it: eight channels."""
    folder = tmp_path_factory.mktemp("any size")
    for i in range(4):
        save(folder / "data" / "train" / f"{i}.npy", scene(40 + i, 50, 8, i))
        save(folder / "data" / "test" / f"{i}.npy", scene(20 + i, 33, 8, i))
    save(folder / "data" / "train" / "small.npy", scene(31, 90, 8))
    run, artifact = folder / "run", folder / "artifact"
    assert main(["train", str(folder / "data"), "--out", str(run), "--beta", "0.5", "0.1", *SETTINGS]) == 0
    assert main(["export", str(run), str(artifact)]) == 0
    return folder


def test_the_run_says_what_it_was(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = json.loads((made / "run" / "run.json").read_text())
    assert run["settings"]["side"] == 32
    assert run["settings"]["steps"] == 4
    assert len(run["history"]["val_loss"]) == 1
    assert main(["info", str(made / "run")]) == 0
    assert "val_loss" in capsys.readouterr().out
    assert main(["info", str(made / "artifact")]) == 0
    assert "[H, W, 8]" in capsys.readouterr().out


@pytest.mark.further
def test_a_run_goes_on_from_another(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--start", str(made / "run"), "--network", "spatial", "--side", "32", "--steps", "2", "--batch-size", "2"]
    validation = ["--validation", str(made / "data" / "test")]
    line = failure(capsys, "train", made / "data", "--out", tmp_path / "more", *more, *validation)
    assert "32x32 pixels or more" in line  # the photographs to watch are too small
    assert main(["train", str(made / "data"), "--out", str(tmp_path / "more"), *more]) == 0
    assert "found options that change them" in failure(
        capsys, "train", made / "data", "--out", tmp_path / "x", *more, "--beta", "1"
    )
    assert "expected --network spatial, as" in failure(
        capsys, "train", made / "data", "--out", tmp_path / "x", *more, "--network", "lapped"
    )
    assert not (tmp_path / "x").exists()


def test_what_is_no_png_comes_out_as_arrays(made: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    codec = ["--codec", str(made / "artifact")]
    assert main(["compress", str(made / "data" / "test"), "-o", str(packed), *codec, "--quality", "2"]) == 0
    assert main(["decompress", str(packed), "-o", str(out), *codec]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{i}.npy" for i in range(4)]
    for i in range(4):
        assert np.load(out / f"{i}.npy").shape == (20 + i, 33, 8)
    with container.Archive.open(packed) as archive:
        assert archive.header.item_shape == (0, 0, 8)


def test_an_array_is_one_image_or_many(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = ["--codec", str(made / "artifact")]
    for shape, count in (((20, 33, 8), 1), ((3, 20, 33, 8), 3), ((5, 9, 12, 8), 5)):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        assert main(["compress", str(tmp_path / "a.npy"), "-o", str(tmp_path / "a.tfz"), *codec]) == 0
        with container.Archive.open(tmp_path / "a.tfz") as archive:
            assert len(archive) == count
    for shape in ((20, 33), (3, 20, 33), (3, 20, 33, 3), (0, 20, 33, 8)):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        assert "a.npy" in failure(capsys, "compress", tmp_path / "a.npy", "-o", tmp_path / "b.tfz", *codec)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert "8 channels, found 3" in failure(capsys, "compress", tmp_path / "a.png", "-o", tmp_path / "b.tfz", *codec)
    assert not (tmp_path / "b.tfz").exists()


def test_empty_payloads_are_refused_before_anything_is_made(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tfcomp.codec import Codec

    codec, packed = Codec.load(made / "artifact"), tmp_path / "a.tfz"
    payloads = codec.compress([scene(9, 9, 8)])
    fingerprint = bytes.fromhex(codec.fingerprint)
    for last in (b"", payloads[0][:2]):
        container.write(packed, [*payloads * 5, last], fingerprint=fingerprint, item_shape=(0, 0, 8))
        assert "expected" in failure(capsys, "decompress", packed, "-o", tmp_path / "out", "--codec", made / "artifact")
        assert not (tmp_path / "out").exists()


def test_folders_of_any_sizes_are_evaluated(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(made / "artifact"), str(made / "data"), "--against", "zstd", "--images", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 of the 2 test images" in said
    assert "2 sizes" in said
    assert "artifact, quality 2" in said


def test_several_processes_do_what_one_does(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        save(tmp_path / "in" / f"{i}.npy", scene(20 + i, 30, 8, i))
    command = ["compress", str(tmp_path / "in"), "--codec", str(made / "artifact"), "-o"]
    for count in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda: count)  # noqa: B023
        assert main([*command, str(tmp_path / f"{count}.tfz")]) == 0
    assert (tmp_path / "1.tfz").read_bytes() == (tmp_path / "2.tfz").read_bytes()
    whole = (tmp_path / "in" / "3.npy").read_bytes()
    (tmp_path / "in" / "3.npy").write_bytes(whole[:-1])
    assert "3.npy" in failure(capsys, *command, tmp_path / "b.tfz")
    assert not (tmp_path / "b.tfz").exists()
    assert "skipped 1 of 5 images" in failure(capsys, *command, tmp_path / "b.tfz", "--on-error", "skip")
    with container.Archive.open(tmp_path / "b.tfz") as archive:
        assert archive.metadata["names"] == ["0.npy", "1.npy", "2.npy", "4.npy"]


def test_a_damaged_file_is_found_before_long_work_begins(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        picture(tmp_path / "in" / f"{i}.png", (64, 64, 3))
    whole = (tmp_path / "in" / "2.png").read_bytes()
    (tmp_path / "in" / "2.png").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(Codec, "compress", lambda *_, **__: pytest.fail("work has begun"))
    command = ["compress", tmp_path / "in", "-o", tmp_path / "a.tfz", "--codec", "photographs"]
    assert "2.png" in failure(capsys, *command)
    monkeypatch.setattr("keras.Model.fit", lambda *_, **__: pytest.fail("work has begun"))
    command = ["train", tmp_path / "in", "--out", tmp_path / "run", "--network", "lapped", "--side", "32"]
    assert "2.png" in failure(capsys, *command)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_crops_of_files_that_cannot_be_read_are_others(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "train" / "bad.npy").write_bytes(b"no array")
    line = failure(capsys, "train", tmp_path / "data", "--out", tmp_path / "run", *SETTINGS, "--on-error", "skip")
    assert "skipped 1 of 6 images" in line
    assert "bad.npy" in line
    assert (tmp_path / "run" / "model.keras").is_file()


@pytest.mark.further
def test_an_interrupt_while_workers_run_is_one_line(made: Path, tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.npy", scene(300, 300, 8, 0))
    for i in range(1, 600):  # more than any machine compresses in the longest delay
        os.link(tmp_path / "in" / "0.npy", tmp_path / "in" / f"{i}.npy")
    command = [sys.executable, "-m", "tfcomp", "compress", "in", "-o", "a.tfz", "--codec", str(made / "artifact")]
    one = Codec.load(made / "artifact")
    (payload,) = one.compress([np.load(tmp_path / "in" / "0.npy")])
    container.write(
        tmp_path / "in" / "many.tfz", [payload] * 2000, fingerprint=bytes.fromhex(one.fingerprint), item_shape=(0, 0, 8)
    )
    other = [*command[:3], "decompress", "in/many.tfz", "-o", "out", *command[-2:]]
    for delay, which in ((0.6, command), (1.2, other), (1.8, command), (2.5, other)):
        process = subprocess.Popen(
            which, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == "tfcomp: interrupted; no file was left half-written\n"
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "out"}
        hidden = list(tmp_path.rglob(".*"))  # what the next decompress goes on from may stay
        assert all(path.parent.name == "out" and path.suffix == ".unfinished" for path in hidden), hidden


def test_options_of_the_other_kind_of_run_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = made / "data", ["--out", tmp_path / "run"]
    for arguments, message in (
        (["glyphs", *out, "--steps", "3"], "--steps to train on crops of photographs alone"),
        (["glyphs", *out, "--network", "lapped"], "a folder of photographs to cut crops from, found glyphs"),
        ([data, *out, *SETTINGS, "--epochs", "3"], "--epochs to train on images of one shape alone"),
        ([data, *out, "--network", "dense", "--side", "32"], "--network lapped or spatial to train on crops"),
        ([data, *out, "--network", "lapped", "--latent-dim", "3"], "lapped networks in an autoencoder"),
        ([data, *out, "--network", "lapped", "--side", "44"], "a multiple of 8, found 44"),
        ([data, *out, "--network", "spatial", "--side", "64"], "64x64 pixels or more"),
        ([data, *out, "--start", tmp_path], "model.keras"),
    ):
        assert message in failure(capsys, "train", *arguments)
        assert not (tmp_path / "run").exists()
    assert "is frozen" in failure(capsys, "export", "photographs", tmp_path / "a", "--step", "3")
