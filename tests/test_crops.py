"""The stream of crops: what is in it, that it repeats itself, and one line for every file that cannot serve."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tfcomp.data import crops as module
from tfcomp.data import datasets
from tfcomp.data.crops import crops
from tfcomp.errors import InputError
from tfcomp.storage import image_files

tf = pytest.importorskip("tensorflow")


def folder_of(path: Path, *shapes: tuple[int, ...]) -> Path:
    for i, shape in enumerate(shapes):
        picture(path / f"{i}.png", shape)
    return path


def taken(data: Any, count: int) -> NDArray[np.uint8]:
    return np.stack(list(data.take(count).as_numpy_iterator()))


def turned(crop: NDArray[np.uint8]) -> list[bytes]:
    """A crop's eight orientations."""
    return [np.rot90(m, k).tobytes() for m in (crop, crop[:, ::-1]) for k in range(4)]


# === What is in it ===


def test_crops_are_squares_of_the_files_mirrored_and_turned(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", (11, 9, 3))
    squares = {bytes_ for y in range(11 - 7) for x in range(9 - 7) for bytes_ in turned(image[y : y + 8, x : x + 8])}
    found = {crop.tobytes() for crop in taken(crops(tmp_path, 8, scales=(1.0,)), 400)}
    assert found == squares


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(12, 60), st.integers(12, 60)),
    channels=st.integers(1, 8),
    scale=st.floats(0.3, 0.99),
    seed=st.integers(0, 2**32),
)
def test_a_scaled_crop_is_a_part_of_the_whole_image_scaled(
    size: tuple[int, int], channels: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(
        100, 160, (*size, channels), np.uint8
    )  # nothing overshoots, so that the axes' order is all one
    height, width = (max(1, round(n * scale)) for n in size)
    planes = [Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.LANCZOS) for c in range(channels)]
    whole = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    side = int(rng.integers(1, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    found = module.shrunken(image, (height, width), top, left, side)
    expected = whole[top : top + side, left : left + side]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_every_file_and_every_scale_comes(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", (30, 30, 3), value=40 * i)
    values = taken(crops(tmp_path, 16), 640)[:, 0, 0, 0]  # five windows: each file as often as any other
    assert dict(zip(*np.unique(values, return_counts=True), strict=True)) == dict.fromkeys(range(0, 200, 40), 128)
    ramp = np.repeat(np.arange(0, 250, 5, dtype=np.uint8)[:, None], 50, axis=1)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found = taken(crops([tmp_path / "ramp.png"], 20), 100)[..., 0].astype(int)
    steps = [max(np.median(np.abs(np.diff(crop, axis=axis))) for axis in (0, 1)) for crop in found]
    assert set(steps) == {5, 6, 8}  # 5 / scale, as whole numbers


def test_channels(tmp_path: Path) -> None:
    picture(tmp_path / "grey.png", (9, 9))
    found = taken(crops(tmp_path, 8), 3)
    assert found.shape == (3, 8, 8, 3)
    assert (found == found[..., :1]).all()
    assert crops(tmp_path, 8, channels=1).element_spec.shape == (8, 8, 1)
    picture(tmp_path / "colour.png", (9, 9, 3))
    with pytest.raises(InputError, match=r"1 channels, found 3 in .*colour\.png"):
        crops(tmp_path, 8, channels=1)
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for i in range(3):
        np.save(arrays / f"{i}.npy", np.arange(9 * 12 * 8).reshape(9, 12, 8) % 251)
    assert taken(crops(arrays, 8, channels=8, scales=(1.0, 0.9)), 5).shape == (5, 8, 8, 8)
    with pytest.raises(InputError, match=r"3 channels, found 8 in .*0\.npy"):
        crops(arrays, 8)


# === Order ===


def test_equal_arguments_give_equal_crops_each_time(tmp_path: Path) -> None:
    folder_of(tmp_path, *[(40 + i, 50) for i in range(7)])
    data = crops(tmp_path, 16, seed=3)
    first = taken(data, 300)
    tf.random.set_seed(5)
    np.testing.assert_array_equal(taken(data, 300), first)
    np.testing.assert_array_equal(taken(crops(tmp_path, 16, seed=3), 300), first)
    batches = np.concatenate(list(data.batch(8).take(4).as_numpy_iterator()))
    np.testing.assert_array_equal(batches, first[:32])
    assert not np.array_equal(taken(crops(tmp_path, 16, seed=4), 300), first)


def test_the_stream_has_no_end_and_holds_little(tmp_path: Path) -> None:
    folder_of(tmp_path, (20, 20), (24, 24))
    data = crops(tmp_path, 16)
    assert int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    assert data.batch(3).options().autotune.enabled is False
    with pytest.raises(InputError, match="repeats forever"):
        datasets.as_images(data)


def test_a_share_is_kept_for_validation(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"{i}.png", (9, 9), value=i)
    parts = [
        set(taken(crops(tmp_path, 8, validation_split=0.3, subset=part, seed=seed), 200).ravel())
        for part, seed in (("training", 0), ("validation", 1))
    ]
    assert [len(part) for part in parts] == [7, 3]
    assert parts[0] | parts[1] == set(range(10))
    assert len(set(taken(crops(tmp_path, 8, validation_split=1e-6, subset="validation"), 40).ravel())) == 1
    with pytest.raises(InputError, match="at least two images"):
        crops([tmp_path / "0.png"], 8, validation_split=0.5, subset="training")


# === Files that cannot serve ===


def test_what_is_too_small_is_left_out_or_named(tmp_path: Path) -> None:
    folder_of(tmp_path, (9, 30), (12, 12), (20, 10))
    with pytest.raises(InputError, match=r"24x24 pixels or more .* found .*1\.png of 12x12, the largest of 3"):
        crops(tmp_path, 24)
    with pytest.raises(InputError, match=r"13x13 pixels or more at a scale of 1, found .*1\.png of 12x12, the"):
        crops(tmp_path, 13)
    large = picture(tmp_path / "1.png", (12, 12), value=7)
    assert (taken(crops(tmp_path, 11), 20) == large[0, 0]).all()  # at the one scale at which it fits


def test_files_that_are_no_images_are_named_before_anything_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path, (20, 20))
    for name, message in (
        ("text.png", "cannot read the image"),
        ("deep.png", "8 bits a channel"),
        ("gone.png", "No such"),
    ):
        path = tmp_path / name
        path.write_text("not an image")
        if name == "deep.png":
            Image.fromarray(np.zeros((20, 20), np.uint16)).save(path)
        if name == "gone.png":
            path.unlink()
        with pytest.raises(InputError, match=f"{message}.*{name}|{name}.*{message}") as raised:
            crops([tmp_path / "0.png", path], 8)
        assert "\n" not in str(raised.value)
    for files in ([], tmp_path / "absent", tmp_path / "0.png"):
        with pytest.raises(InputError, match="expected"):
            crops(files, 8)


def test_a_damaged_file_ends_the_iteration_with_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "whole.png", (64, 64))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:700])
    assert image_files.image_shape(tmp_path / "cut.jpg") == (64, 64, 3)
    data = crops(tmp_path, 16)
    with pytest.raises(InputError, match=r"^cannot read the image .*cut\.jpg: [^\n]+$"), datasets.reading_errors():
        taken(data, 64)
    with pytest.raises(ZeroDivisionError), datasets.reading_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 0}, "side of 1 to 4096"),
        ({"side": 8.5}, "side of 1 to 4096"),
        ({"channels": 9}, "1 to 8 channels"),
        ({"scales": ()}, "scales above 0"),
        ({"scales": (1.5,)}, "scales above 0"),
        ({"scales": 1.0}, "scales above 0"),
        ({"seed": -1}, "the seed, found -1"),
        ({"subset": "test", "validation_split": 0.1}, "subset of"),
        ({"subset": "training"}, "together with a subset"),
        ({"validation_split": 0.1}, "together with a subset"),
        ({"validation_split": 1.0, "subset": "training"}, "together with a subset"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    folder_of(tmp_path, (9, 9))
    with pytest.raises(InputError, match=message):
        crops(tmp_path, **{"side": 8, **arguments})
