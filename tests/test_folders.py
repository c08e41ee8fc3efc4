"""A folder larger than what is held in memory: the same images as a stream, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import failure, picture
from numpy.typing import NDArray

from tfcomp.cli.main import main
from tfcomp.data import datasets
from tfcomp.errors import InputError

pytest.importorskip("tensorflow")
COUNT = 43


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images that all differ, grey ones and colours, of a folder that counts as large."""
    monkeypatch.setattr(datasets, "HELD_BYTES", 0)
    for i in range(COUNT):
        picture(tmp_path / "data" / f"{i % 3}" / f"{i:02}.png", (6, 5, 3) if i % 4 else (6, 5), value=5 * i)
    return tmp_path / "data"


def values(data: object) -> NDArray[np.uint8]:
    return np.stack(list(data.as_numpy_iterator()))


def test_a_stream_gives_what_the_arrays_are(folder: Path) -> None:
    arrays = datasets.load_arrays(folder)
    for part, stream in zip(arrays, datasets.load(folder), strict=True):
        assert part.shape[1:] == (6, 5, 3)
        assert int(stream.cardinality()) == len(part)
        assert stream.element_spec.shape == (6, 5, 3)
        assert stream.batch(2).options().autotune.enabled is False
        for _ in range(2):
            np.testing.assert_array_equal(values(stream), part)
    for part, images in zip(arrays, datasets.opened(folder), strict=True):
        assert isinstance(images, datasets.ImageFiles)
        np.testing.assert_array_equal(np.concatenate(list(datasets.batches(images, 4, shuffle=False))), part)


@pytest.mark.parametrize("held", [0, 1 << 26])
def test_a_seed_is_an_order_of_all_images_that_changes_from_epoch_to_epoch(
    folder: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "HELD_BYTES", held)

    def epochs(seed: int) -> list[list[int]]:
        stream = datasets.load(folder, seed=seed)[0]
        return [values(stream)[:, 0, 0, 0].tolist() for _ in range(3)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert first == again
    orders = [tuple(order) for order in (*first, *other)]
    assert len(set(orders)) == 6
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}
    np.testing.assert_array_equal(values(datasets.load(folder, seed=1)[1]), datasets.load_arrays(folder)[1])


def test_under_jax_batches_are_numbered_and_read_by_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    images, _ = datasets.opened(folder)
    arrays = datasets.load_arrays(folder)[0]

    def epochs(seed: int | None) -> list[list[int]]:
        found = []
        data = datasets.batches(images, 8, shuffle=seed is not None, seed=seed)
        for _ in range(2):
            epoch = np.concatenate([data[i] for i in range(len(data))])
            data.on_epoch_end()
            found.append(epoch[:, 0, 0, 0].tolist())
        return found

    plain = arrays[:, 0, 0, 0].tolist()
    assert epochs(None) == [plain, plain]
    assert epochs(3) == epochs(3)
    assert len({tuple(order) for order in (plain, *epochs(3), *epochs(4))}) == 5
    assert all(sorted(order) == sorted(plain) for order in epochs(3))


def test_a_file_that_is_damaged_or_changed_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = folder / "1" / "04.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:45])
    train, _ = datasets.load(folder)
    with pytest.raises(InputError, match=rf"^cannot read the image {broken}"), datasets.reading_errors():
        values(train)
    command = ["train", str(folder), "--epochs", "1", "--batch-size", "8", "--out", str(folder.parent / "run")]
    assert str(broken) in failure(capsys, *command)
    assert not (folder.parent / "run").exists()
    broken.write_bytes(whole)
    train, _ = datasets.load(folder)
    picture(broken, (5, 6, 3))
    with pytest.raises(InputError, match=rf"of 5x6 and {broken} of 6x5 pixels"), datasets.reading_errors():
        values(train)


@pytest.mark.slow
def test_the_commands_train_on_and_calibrate_with_a_stream(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0" / "03.png").write_bytes(b"no image")
    command = ["train", str(folder), "--network", "dense", "--latent-dim", "2", "--batch-size", "8", "--epochs", "2"]
    assert main([*command, "--on-error", "skip", "--out", str(tmp_path / "run")]) == 2  # as one was left out
    assert "03.png" in capsys.readouterr().err
    (folder / "0" / "03.png").unlink()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "artifact")]) == 0


@pytest.mark.further
def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Through one array, the second folder would take 74 MB more than the first."""
    pixels = picture(tmp_path / "one.png", (128, 128, 3))
    for count in (500, 2000):
        (tmp_path / str(count)).mkdir()
        for i in range(count):
            os.link(tmp_path / "one.png", tmp_path / str(count) / f"{i}.png")
    script = """
        import resource, sys
        from tfcomp.data import datasets
        def peak():  # in MiB; Linux gives a child's rusage the peak of its parent
            if sys.platform == "linux":
                return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)
        datasets.HELD_BYTES = 0
        for count in (500, 500, 2000):
            batches = (data.batch(64).as_numpy_iterator() for data in datasets.load(str(count), seed=0))
            assert sum(len(batch) for each in batches for batch in each) == count
            print(peak())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    _, before, after = map(float, done.stdout.split())
    assert after - before < 0.25 * 1500 * pixels.nbytes / 2**20, done.stdout
