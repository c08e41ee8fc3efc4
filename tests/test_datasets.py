"""Every source of images: what it gives, and one clear line for everything it cannot take."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfcomp.data import datasets
from tfcomp.errors import InputError, MissingDependencyError

RNG = np.random.default_rng(0)


def images(count: int = 25, shape: tuple[int, ...] = (6, 5, 1)) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (count, *shape), np.uint8)


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


@settings(max_examples=50)
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


@pytest.mark.slow
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


class Prepared:
    """Stands for a prepared data set of tensorflow-datasets: its splits by name, arrays [N, H, W, C]."""

    name = "prepared"

    def __init__(self, feature: Any, splits: dict[str, NDArray[Any]]) -> None:
        self.data = splits
        counts = {name: SimpleNamespace(num_examples=len(values)) for name, values in splits.items()}
        self.info = SimpleNamespace(features={"image": feature}, splits=counts)

    def is_prepared(self) -> bool:
        return True

    def as_dataset(self, split: str, read_config: Any) -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices({"image": self.data[split]})


def prepared(monkeypatch: pytest.MonkeyPatch, **splits: NDArray[Any]) -> None:
    import tensorflow_datasets as tfds

    first = next(iter(splits.values()))
    feature = tfds.features.Tensor(shape=first.shape[1:], dtype=first.dtype)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Prepared(feature, splits))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "message"),
    [
        (np.uint16, 0, 65536, "found values from"),
        (np.int32, -1000, 1000, "found values from -"),
        (np.int8, -128, 128, "found values from -"),
        (np.float32, 0, 1, "found fractions"),
        (np.float64, 0, 1, "found fractions"),
        (np.float16, -1, 1, "found values from -"),
        (np.uint16, 0, 256, None),
        (np.int64, 0, 256, None),
        (np.uint8, 0, 2, None),
    ],
)
def test_prepared_images_of_other_dtypes_are_kept_whole_or_refused(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, low: int, high: int, message: str | None
) -> None:
    pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    floating = np.issubdtype(dtype, np.floating)
    values = (rng.uniform if floating else rng.integers)(low, high, (12, 4, 4, 1)).astype(dtype)
    prepared(monkeypatch, train=values, test=values[:5])
    if message is None:
        train, test = datasets.load_arrays("tfds:prepared")
        assert train.dtype == test.dtype == np.uint8
        np.testing.assert_array_equal(train, values)
        np.testing.assert_array_equal(test, values[:5])
        return
    with pytest.raises(InputError, match=rf"the data set 'prepared', split train.*{message}") as raised:
        datasets.load_arrays("tfds:prepared")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"extra": 1, "train": 2, "test": 3}, (2, 3)),
        ({"extra": 1, "train": 2, "validation": 3}, (2, 3)),
        ({"validation": 1, "test": 3, "train": 2}, (2, 3)),
        ({"unsupervised": 1, "train": 2}, (2, 2)),
        ({"all": 4}, (4, 4)),
    ],
)
def test_the_training_split_of_prepared_data_is_the_one_named_train(
    monkeypatch: pytest.MonkeyPatch, splits: dict[str, int], expected: tuple[int, int]
) -> None:
    pytest.importorskip("tensorflow_datasets")
    prepared(monkeypatch, **{name: np.full((12, 4, 4, 1), value, np.uint8) for name, value in splits.items()})
    for found, value in zip(datasets.load_arrays("tfds:prepared"), expected, strict=True):
        assert (found == value).all()


def test_prepared_data_without_a_training_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")
    parts = np.zeros((4, 4, 4, 1), np.uint8)
    prepared(monkeypatch, extra=parts, test=parts)
    with pytest.raises(InputError, match=r"a split named train in the data set 'prepared', found \['extra', 'test'\]"):
        datasets.load_arrays("tfds:prepared")


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
    code = "import sys, tfcomp.data.datasets as d; d.load_arrays('glyphs'); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
