"""Every source of images: what it gives, and one clear line for everything it cannot take."""

from __future__ import annotations

import hashlib
import io
import random
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tfcomp import datasets, glyphs
from tfcomp.errors import InputError, MissingDependencyError

RNG = np.random.default_rng(0)


def picture(path: Path, shape: tuple[int, ...] = (6, 5), value: int | None = None) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def images(count: int = 25, shape: tuple[int, ...] = (6, 5, 1)) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (count, *shape), np.uint8)


# === Glyphs ===


def test_glyphs_are_the_same_bytes_everywhere() -> None:
    drawn = glyphs.render(300, seed=7)
    assert (
        hashlib.sha256(drawn.tobytes()).hexdigest()
        == "bdc76da788403982b50fe2e81abfe2359977fa81bf10690bbf4747b05cb445cf"
    )


def test_a_shorter_set_is_the_beginning_of_a_longer_one() -> None:
    np.testing.assert_array_equal(glyphs.render(70, seed=3), glyphs.render(200, seed=3)[:70])
    assert not np.array_equal(glyphs.render(70, seed=3), glyphs.render(70, seed=4))


def test_glyphs_are_varied_and_look_like_characters() -> None:
    train, test = datasets.load_arrays("glyphs")
    assert train.shape == (10_000, 28, 28, 1)
    assert test.shape == (2_000, 28, 28, 1)
    assert train.dtype == np.uint8
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 12_000
    # MNIST: 19 % of the pixels carry ink, 13 % on average over all; the frame is nearly always empty.
    ink = (train > 0).mean(axis=(1, 2, 3))
    assert 0.10 < ink.mean() < 0.25
    assert ink.min() > 0.01
    assert ink.max() < 0.5
    assert train.max(axis=(1, 2, 3)).min() > 100
    edge = np.concatenate([train[:, 0], train[:, -1], train[:, :, 0], train[:, :, -1]])
    assert (edge > 0).mean() < 0.01
    # Harder than a straight line fit: 64 principal components leave an error, as they do on MNIST (0.0091).
    scaled = train[:3000].reshape(3000, -1) / 255
    values = np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False)
    assert 0.005 < np.square(values[64:]).sum() / scaled.size < 0.02


def test_pen_positions_stay_within_exact_float32_sums() -> None:
    assert max(len(pen.weights) for pen in glyphs._pens()) <= 256
    for pen in glyphs._pens():
        np.testing.assert_allclose(pen.weights.sum(axis=1), 1)


def test_glyphs_refuse_negative_numbers() -> None:
    assert glyphs.render(0, seed=0).shape == (0, 28, 28, 1)
    for count, seed in ((-1, 0), (1, -1)):
        with pytest.raises(InputError, match=f"count {count} and seed {seed}"):
            glyphs.render(count, seed)


# === Folders ===


def test_a_folder_is_read_in_sorted_order_and_every_tenth_image_is_for_testing(tmp_path: Path) -> None:
    pixels = [picture(tmp_path / f"{i // 7}" / f"{i:02}.png") for i in range(25)]
    (tmp_path / "notes.txt").write_text("not an image")
    picture(tmp_path / ".hidden" / "a.png", (9, 9))
    train, test = datasets.load_arrays(tmp_path)
    expected = np.stack(pixels)[..., None]
    np.testing.assert_array_equal(test, expected[::10])
    np.testing.assert_array_equal(train, np.delete(expected, np.s_[::10], axis=0))


def test_folders_named_train_and_test_are_the_split(tmp_path: Path) -> None:
    for name, value in (("train", 10), ("test", 20)):
        for i in range(3):
            picture(tmp_path / name / f"{i}.png", value=value)
    train, test = datasets.load_arrays(str(tmp_path))
    assert (train == 10).all()
    assert (test == 20).all()
    assert len(train) == len(test) == 3
    picture(tmp_path / "test" / "0.png", (7, 5))
    picture(tmp_path / "test" / "1.png", (7, 5))
    picture(tmp_path / "test" / "2.png", (7, 5))
    with pytest.raises(InputError, match=r"train \(6, 5, 1\) and test \(7, 5, 1\)"):
        datasets.load_arrays(tmp_path)


def test_images_of_two_sizes_are_both_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (6, 5))
    picture(tmp_path / "b.png", (5, 6))
    with pytest.raises(InputError, match=r"found .*a\.png of 5x6 and .*b\.png of 6x5 pixels"):
        datasets.load_arrays(tmp_path)


def test_grey_among_colours_becomes_rgb(tmp_path: Path) -> None:
    grey, colour = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (6, 5, 3))
    found = datasets.read_images([tmp_path / "a.png", tmp_path / "b.png"])
    np.testing.assert_array_equal(found, [np.repeat(grey[..., None], 3, axis=2), colour])


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new("RGB", (5, 6), (200, 100, 50)).convert(mode).save(tmp_path / "a.png")
    assert datasets.read_image(tmp_path / "a.png").shape == (6, 5, channels)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (5, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert datasets.read_image(tmp_path / "a.jpg").shape == (5, 6, 1)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "whole.jpg", (64, 64))
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    for name in ("cut.jpg", "empty.png", "text.png", "missing.png"):
        with pytest.raises(InputError, match=f"cannot read the image .*{name}: "):
            datasets.read_image(tmp_path / name)
    with pytest.raises(InputError, match=r"8 bits a channel, found mode I;16 with 16 bits or more in .*deep\.png"):
        datasets.read_image(tmp_path / "deep.png")


def png_of_16_bits(colour_type: int) -> bytes:
    """Black, 5 x 6; Pillow writes no such file itself. Colour types as in the PNG specification, section 11.2.2."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 5, 6, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(6 * (1 + 5 * 2 * channels))),
        b"IEND": b"",
    }
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_16_bits_are_not_cut_to_8_unseen(tmp_path: Path, colour_type: int) -> None:
    (tmp_path / "deep.png").write_bytes(png_of_16_bits(colour_type))
    with pytest.raises(InputError, match=r"8 bits a channel, found mode .* with 16 bits or more in .*deep\.png"):
        datasets.read_image(tmp_path / "deep.png")


def test_other_formats_of_16_bits_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "deep.ppm"
    for head, shape in ((b"P6 5 6 65535\n", bytes(5 * 6 * 6)), (b"P3 5 6 65535\n", b"0 " * 5 * 6 * 3)):
        path.write_bytes(head + shape)
        with pytest.raises(InputError, match="8 bits a channel"):
            datasets.read_image(path)
    path.write_bytes(b"P6 5 6 255\n" + bytes(5 * 6 * 3))
    assert datasets.read_image(path).shape == (6, 5, 3)
    path = tmp_path / "deep.jp2"
    Image.new("RGB", (5, 6)).save(path)
    assert datasets.read_image(path).shape == (6, 5, 3)
    data = path.read_bytes()
    depths = data.index(b"\xff\x4f\xff\x51") + 42  # of three channels, each with two bytes of subsampling
    path.write_bytes(data[:depths] + b"\x0f\x01\x01" * 3 + data[depths + 9 :])
    with pytest.raises(InputError, match="8 bits a channel"):
        datasets.read_image(path)


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", (20, 20))
    for limit in (399, 199):  # Pillow warns above its limit and refuses above twice as much
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match=r"cannot read the image .*a\.png: Image size \(400 pixels\) exceeds"):
            datasets.read_image(tmp_path / "a.png")


def whole_files() -> dict[str, bytes]:
    """A small sound file of every kind that is read, by suffix; of some kinds several."""
    pytest.importorskip("pillow_jxl")
    grey = np.add.outer(np.arange(24) * 5, np.arange(20) * 4).astype(np.uint8)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    variants: dict[str, list[dict[str, Any]]] = {
        ".tif": [{}, *({"compression": c} for c in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits"))],
        ".jpg": [{}, {"progressive": True, "exif": orientation}],
        ".png": [{}, {"exif": orientation}],
    }
    files = {}
    for suffix in sorted(datasets.SUFFIXES):
        for i, options in enumerate(variants.get(suffix, [{}])):
            file = io.BytesIO()
            colours = Image.fromarray(
                grey if suffix == ".pgm" else np.stack([grey, grey.T[::-1].reshape(24, 20), grey], -1)
            )
            colours.save(file, Image.registered_extensions()[suffix], **options)
            files[f"{i}{suffix}"] = file.getvalue()
    arrays = np.repeat(grey[None], 3, axis=0)
    for name, save in {
        "0.npy": lambda file: np.save(file, arrays),
        "0.npz": lambda file: np.savez(file, x_train=arrays, x_test=arrays),
        "1.npz": lambda file: np.savez_compressed(file, arrays),
    }.items():
        save(file := io.BytesIO())
        files[name] = file.getvalue()
    return files


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Truncated, or with bits flipped, bytes set, removed or inserted, half of the time near the beginning."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        i = rng.randrange(min(len(changed), rng.choice([16, 64, 200, len(changed)])))
        match rng.randrange(4):
            case 0:
                changed[i] ^= 1 << rng.randrange(8)
            case 1:
                changed[i] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
            case 2 if len(changed) > 1:
                del changed[i]
            case _:
                changed.insert(i, rng.randrange(256))
    return bytes(changed)


def test_damaged_files_of_every_kind_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = random.Random(4)
    for name, whole in whole_files().items():
        path = tmp_path / name
        readers = {".npy": (datasets.read_array, datasets.load_arrays), ".npz": (datasets.load_arrays,)}
        said = []
        for reader in readers.get(path.suffix, (datasets.read_image,)):
            path.write_bytes(whole)
            reader(path)
            for _ in range(200):
                path.write_bytes(damaged(whole, rng))
                try:
                    reader(path)
                except InputError as error:
                    said.append(str(error))
        assert [line for line in said if "\n" in line or name not in line] == []
        assert len(said) > 20, name


def test_too_little_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"expected image files in {tmp_path}, found none"):
        datasets.load_arrays(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"at least two images .* found 1"):
        datasets.load_arrays(tmp_path)


# === Arrays ===


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_arrays_of_any_dtype_with_values_of_uint8(tmp_path: Path, dtype: Any) -> None:
    data = images()
    np.save(tmp_path / "a.npy", data[..., 0].astype(dtype))
    train, test = datasets.load_arrays(tmp_path / "a.npy")
    np.testing.assert_array_equal(test, data[::10])
    assert train.dtype == test.dtype == np.uint8
    assert len(train) + len(test) == 25


@pytest.mark.parametrize("names", [("x_train", "x_test"), ("train", "test")])
def test_named_arrays_are_the_split(tmp_path: Path, names: tuple[str, str]) -> None:
    parts = images(4), images(3)
    np.savez(tmp_path / "a.npz", **dict(zip(names, parts, strict=True)), y_train=np.zeros(4))
    for found, expected in zip(datasets.load_arrays(tmp_path / "a.npz"), parts, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_array_files_that_cannot_serve(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=images(), b=images())
    with pytest.raises(InputError, match=r"one array in .*a\.npz, found \['a', 'b'\]"):
        datasets.load_arrays(path)
    np.savez(path, train=images(4), test=images(4, (5, 5, 1)))
    with pytest.raises(InputError, match=r"one size in .*found \(6, 5, 1\) and \(5, 5, 1\)"):
        datasets.load_arrays(path)
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot read the arrays of .*a\.npy"):
        datasets.load_arrays(tmp_path / "a.npy")
    np.savez_compressed(path, train=images(40))
    whole = path.read_bytes()
    broken = whole[:60] + bytes(20) + whole[80:]
    for data in (b"", b"text", b"PK\x03\x04 not a zip", whole[:-30], broken):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"cannot read the arrays of .*a\.npz"):
            datasets.load_arrays(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full((2, 4, 4), np.nan), "found NaN"),
        (np.array([[[np.nan, 300.0]]]), "found NaN"),
        (np.full((2, 4, 4), np.inf), "found values from inf to inf"),
        (np.linspace(0, 1, 32).reshape(2, 4, 4), "found fractions from 0 to 1"),
        (np.full((2, 4, 4), 256), "found values from 256 to 256"),
        (np.full((2, 4, 4), -1.0), "found values from -1 to -1"),
        (np.zeros((4, 4)), r"found \[4, 4\]"),
        (np.zeros((2, 4, 4, 1, 1)), r"found \[2, 4, 4, 1, 1\]"),
        (np.zeros((2, 0, 4)), r"found \[2, 0, 4\]"),
        (np.zeros((2, 4, 4), bool), "found dtype bool"),
        (np.zeros((2, 4, 4), complex), "found dtype complex128"),
        ("mnist", "found dtype <U5"),
        (None, "found dtype object"),
        ([np.zeros((4, 4)), np.zeros((5, 4))], "of one shape"),
    ],
)
def test_what_is_no_image_is_named(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasets.as_images(data)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_as_images_keeps_every_value(shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    expected = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    found = datasets.as_images(expected.astype(dtype))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(datasets.as_images(list(expected.astype(dtype))), expected) if shape[0] else None


# === tf.data ===


def test_datasets_batched_or_not() -> None:
    tf = pytest.importorskip("tensorflow")
    data = images(300)
    plain = tf.data.Dataset.from_tensor_slices(data)
    for dataset in (
        plain,
        plain.batch(128),
        plain.map(lambda x: (x, x)),
        plain.map(lambda x: tf.cast(x, tf.float32)),
        tf.data.Dataset.from_generator(lambda: iter(data), output_signature=tf.TensorSpec((None, None, 1), tf.uint8)),
    ):
        np.testing.assert_array_equal(datasets.as_images(dataset), data)
    np.testing.assert_array_equal(datasets.as_images(tf.constant(data)), data)


def test_datasets_that_cannot_serve() -> None:
    tf = pytest.importorskip("tensorflow")
    plain = tf.data.Dataset.from_tensor_slices(images(4))
    for dataset, message in (
        (plain.repeat(), "repeats forever"),
        (plain.take(0), "found no images"),
        (tf.data.Dataset.range(3), "found elements TensorSpec"),
        (plain.map(lambda x: {"image": x}), "found elements {'image'"),
        (plain.map(lambda x: tf.cast(x, tf.float32) / 255), "found fractions"),
    ):
        with pytest.raises(InputError, match=message):
            datasets.as_images(dataset)
    sizes = tf.data.Dataset.from_generator(
        lambda: iter([np.zeros((4, 4, 1)), np.zeros((5, 4, 1))]),
        output_signature=tf.TensorSpec((None, None, 1), tf.uint8),
    )
    for dataset in (sizes, sizes.batch(1)):
        with pytest.raises(InputError, match="of one size"):
            datasets.as_images(dataset)


def test_load_gives_unbatched_images_without_labels() -> None:
    tf = pytest.importorskip("tensorflow")
    train, test = datasets.load("glyphs")
    assert train.element_spec == test.element_spec == tf.TensorSpec((28, 28, 1), tf.uint8)
    assert (int(train.cardinality()), int(test.cardinality())) == (10_000, 2_000)
    assert train.shuffle(9).batch(3).options().autotune.enabled is test.options().autotune.enabled is False


# === tensorflow-datasets ===


def test_mnist_is_complete_and_in_order(mnist: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    train, test = mnist
    assert train.shape == (60_000, 28, 28, 1)
    assert test.shape == (10_000, 28, 28, 1)
    assert train.dtype == np.uint8
    # Mean and deviation that everyone normalises MNIST with.
    assert abs(train.mean() / 255 - 0.1307) < 1e-4
    assert abs(train.std() / 255 - 0.3081) < 1e-4


def test_prepared_data_is_read_without_a_network(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, mnist: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    import tensorflow_datasets as tfds

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("prepared data must not be prepared again")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_data / "tensorflow_datasets"))
    monkeypatch.setattr(datasets, "_read_split", lambda builder, split: mnist[split == "test"][:10])
    for name in ("mnist", "tfds:mnist"):
        train, test = datasets.load_arrays(name)
        np.testing.assert_array_equal(train, mnist[0][:10])
        np.testing.assert_array_equal(test, mnist[1][:10])


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")

    def unreachable(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(datasets, "getproxies", dict)
    with pytest.raises(
        InputError, match=r"'mnist' is not prepared in .* and cannot be downloaded: no network"
    ) as raised:
        datasets.load_arrays("mnist", data_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_failing_download_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("HTTP 503\nand a long page")

    monkeypatch.setattr(datasets, "_require_network", lambda *_: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"cannot be downloaded: HTTP 503$"):
        datasets.load_arrays("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:no_such_set", "known to tensorflow-datasets, found 'no_such_set'"),
        ("tfds:", "known to tensorflow-datasets, found ''"),
        ("tfds:not a name!", "known to tensorflow-datasets, found 'not a name!'"),
        ("tfds:mnist:9.9.9", "known to tensorflow-datasets, found 'mnist:9.9.9'"),
        ("tfds:imdb_reviews", "'imdb_reviews', found no images"),
        ("tfds:cats_vs_dogs", r"'cats_vs_dogs', found Image\(shape=\(None, None, 3\)"),
    ],
)
def test_unsuitable_data_sets_are_named_before_any_download(tmp_path: Path, name: str, message: str) -> None:
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(InputError, match=message) as raised:
        datasets.load_arrays(name, data_dir=tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("module", "source"), [("tensorflow_datasets", "mnist"), ("tensorflow", "glyphs")])
def test_a_missing_extra_is_suggested(monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfcomp\[train\]"'):
        datasets.load(source)


def test_an_unknown_source_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'expected mnist, glyphs, .* found "mnits": no such file or folder'):
        datasets.load_arrays("mnits")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="a file of another kind"):
        datasets.load_arrays(tmp_path / "a.txt")


def test_arrays_need_no_tensorflow() -> None:
    code = "import sys, tfcomp.datasets as d; d.load_arrays('glyphs'); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
