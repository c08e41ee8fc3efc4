"""Images in: named data sets, folders, arrays; always uint8 [N, H, W, C], without labels.

`crops` cuts items of one shape out of photographs of any size; all other functions are for images of one size.

A source is "mnist" or "tfds:NAME" (tensorflow-datasets, the `train` extra), "glyphs" (drawn by the package itself), a
folder of images, or an ``.npy`` or ``.npz`` file. Only the first two need TensorFlow, except for
`tf.data`. A folder of more than `HELD_BYTES` of pixels is a stream of its files (`folders`), read anew in each epoch;
everything else is held in memory.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from tfcomp.data import glyphs
from tfcomp.data.crops import crops, reading_errors
from tfcomp.data.folders import ImageFiles, image_folder
from tfcomp.errors import InputError, optional_import
from tfcomp.items import Images, as_images, image_array
from tfcomp.progress import progress
from tfcomp.silence import no_warnings
from tfcomp.storage.image_files import Skipped, reason

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "ImageFiles",
    "as_images",
    "batches",
    "crops",
    "load",
    "load_arrays",
    "opened",
    "read_array",
    "reading_errors",
    "untuned",
]

HELD_OUT = ("test", "validation")
"""Names of splits of a prepared data set, of which the first that exists is the test set."""
HELD_BYTES = 1 << 26
"""Largest size in bytes of a folder's images that are held in memory."""
TEST_EVERY = 10
"""In a source without a split, one in so many images, the first among them, is a test image."""


def load(
    source: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None, seed: int | None = None
) -> tuple[Any, Any]:
    """The training and the test images as data sets.

    A folder of more than `HELD_BYTES` is never in memory as a whole: its files are read in parallel in each epoch. A
    file that is damaged behind its header ends the iteration; see `reading_errors`. `fit` takes the data sets under JAX
    as well.

    Args:
        source: see `load_arrays`.
        data_dir: likewise.
        seed: seed of a random order of the training images, a new one in each epoch; by default the source's order.

    Returns:
        Two `tf.data.Dataset` of uint8 [H, W, C], not batched and `untuned`.

    Raises:
        InputError, MissingDependencyError: as `load_arrays`, and without TensorFlow.

    Examples:
        >>> train, test = load("glyphs")
        >>> len(train), len(test), train.element_spec.shape
        (10000, 2000, TensorShape([28, 28, 1]))
    """
    with optional_import():
        import tensorflow as tf

    def stream(images: Images | ImageFiles, seed: int | None) -> tf.data.Dataset:
        if isinstance(images, ImageFiles):
            return images.stream(seed)
        if seed is None:
            return tf.data.Dataset.from_tensor_slices(images)
        held = tf.convert_to_tensor(images)
        return tf.data.Dataset.range(len(images)).shuffle(len(images), seed).map(lambda i: held[i])

    train, test = opened(source, data_dir=data_dir)
    return untuned(stream(train, seed)), untuned(stream(test, None))


def load_arrays(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    skipped: Skipped | None = None,
) -> tuple[Images, Images]:
    """The training and the test images as arrays.

    Args:
        source: "mnist", "tfds:NAME", "glyphs", a folder, or a file. A folder is searched with all its subfolders, in
            the order of the sorted paths; if it holds ``train/`` and ``test/``, these are the split. A ``.npz`` file
            holds ``x_train`` and ``x_test``, ``train`` and ``test``, or one array.
        data_dir: folder of tensorflow-datasets' prepared data, which is read without a network. Default:
            ``TFDS_DATA_DIR``, or the library's own.
        skipped: gets the errors of a folder's files that cannot be read, which are then left out.

    Returns:
        Two arrays, uint8 [N, H, W, C].

    Raises:
        InputError: if the source is unknown or unreadable, or holds anything but images of one size with 8 bits.
        MissingDependencyError: if the source needs tensorflow-datasets, which is not installed.

    Examples:
        >>> train, test = load_arrays("glyphs")
        >>> train.shape, train.dtype
        ((10000, 28, 28, 1), dtype('uint8'))
    """
    train, test = opened(source, data_dir=data_dir, skipped=skipped)
    return tuple(part.read() if isinstance(part, ImageFiles) else part for part in (train, test))  # type: ignore[return-value]


def opened(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    skipped: Skipped | None = None,
    to_the_end: bool = False,
) -> tuple[Images | ImageFiles, Images | ImageFiles]:
    """The training and the test images, as files if the folder has more than `HELD_BYTES`, else as arrays.

    Args:
        source: see `load_arrays`.
        data_dir: likewise.
        skipped: likewise.
        to_the_end: whether whole files are read now, so that none is found damaged later.

    Returns:
        Two arrays, uint8 [N, H, W, C], or two `ImageFiles`.

    Raises:
        InputError, MissingDependencyError: as `load_arrays`.

    Examples:
        >>> len(opened("glyphs")[1])
        2000
    """
    name = os.fspath(source)
    if name == "glyphs":
        train, test = _glyphs()
        return train.copy(), test.copy()
    if name == "mnist" or name.startswith("tfds:"):
        return _load_tfds(name.removeprefix("tfds:"), data_dir)
    path = Path(name)
    if path.is_dir():
        return _load_folder(path, skipped, to_the_end)
    if path.is_file() and path.suffix in (".npy", ".npz"):
        return _load_numpy(path)
    found = "a file of another kind" if path.exists() else "no such file or folder"
    raise InputError(f'expected mnist, glyphs, tfds:NAME, a folder, a .npy or an .npz file, found "{name}": {found}')


@cache
def _glyphs() -> tuple[Images, Images]:
    """The glyphs, uint8 [10000, 28, 28, 1] and [2000, 28, 28, 1], drawn once in a process."""
    return glyphs.render(10_000, seed=0), glyphs.render(2_000, seed=1)


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """A `tf.data.Dataset` without autotuning, which pipelines that are built on it do not have either.

    With it an epoch may last twice as long: the tuning thread sleeps for periods that double, and the end of an
    iteration waits for it without always waking it (seen with TensorFlow 2.14 and 2.21).

    Examples:
        >>> import tensorflow as tf
        >>> untuned(tf.data.Dataset.range(3)).options().autotune.enabled
        False
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def batches(images: Images | ImageFiles, size: int, *, shuffle: bool, seed: int | None = None) -> Any:
    """Batches of an array or of files, in a new order each time if shuffled.

    Args:
        images: an array [N, ...] or files, N > 0.
        size: number of images in a batch; the last batch may be smaller.
        shuffle: whether the order is random.
        seed: seed of that order; by default TensorFlow's own, or 0 for files and under JAX.

    Returns:
        A `tf.data.Dataset`, `untuned`. Under JAX a `keras.utils.PyDataset`, which needs no TensorFlow, and reads ahead
        with a thread for each processor.

    Examples:
        >>> len(batches(np.zeros((5, 4, 4, 1), np.uint8), 2, shuffle=False))
        3
    """
    import keras

    if keras.backend.backend() == "jax":
        return _numbered_batches(images, size, (seed or 0) if shuffle else None)
    import tensorflow as tf

    if isinstance(images, ImageFiles):
        return untuned(images.stream((seed or 0) if shuffle else None).batch(size).prefetch(2))
    held = tf.convert_to_tensor(images)
    order = tf.data.Dataset.range(len(images))
    if shuffle:
        order = order.shuffle(len(images), seed)
    return untuned(order.batch(size).map(lambda chosen: tf.gather(held, chosen)).prefetch(2))


def _numbered_batches(images: Images | ImageFiles, size: int, seed: int | None) -> Any:
    import keras

    class Batches(keras.utils.PyDataset):  # not of the module, which needs no Keras
        ordered = True  # so that `fit` does not shuffle again

        def __init__(self) -> None:
            super().__init__(workers=os.cpu_count() or 1, max_queue_size=4)
            self.turn = -1
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(images) // size)

        def __getitem__(self, number: int) -> Images:
            return images[self.order[number * size : (number + 1) * size]]

        def on_epoch_end(self) -> None:  # the first batches of the next epoch are read before it begins
            self.turn += 1
            order = np.arange(len(images))
            self.order = order if seed is None else np.random.default_rng([seed, self.turn]).permutation(order)

    return Batches()


def read_array(path: str | os.PathLike[str]) -> Images:
    """All images of one ``.npy`` file as uint8 [N, H, W, C].

    Raises:
        InputError: if the file cannot be read, or holds anything but images; see `as_images`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/two.npy", np.zeros((2, 4, 6), np.uint8))
        ...     read_array(f"{folder}/two.npy").shape
        (2, 4, 6, 1)
    """
    try:
        loaded = _load_unpickled(path)
        if isinstance(loaded, np.ndarray):
            return image_array(loaded, str(path))
        loaded.close()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read the array of {path}: {reason(error)}") from error
    raise InputError(f"expected one array in {path}, found an archive of several, as .npz is")


# === Sources ===


def _load_folder(
    folder: Path, skipped: Skipped | None, to_the_end: bool
) -> tuple[Images | ImageFiles, Images | ImageFiles]:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = (
            image_folder(folder / name, skipped=skipped, to_the_end=to_the_end) for name in ("train", "test")
        )
        if train.shape[1:] != test.shape[1:]:
            raise InputError(f"expected one size in {folder}, found train {train.shape[1:]} and test {test.shape[1:]}")
    else:
        files = image_folder(folder, skipped=skipped, to_the_end=to_the_end)
        _require_two(len(files), str(folder))
        train, test = files.split(TEST_EVERY)
    if train.nbytes + test.nbytes > HELD_BYTES:
        return train, test
    return train.read(), test.read()


def _load_numpy(path: Path) -> tuple[Images, Images]:
    try:
        with path.open("rb") as file:
            loaded = _load_unpickled(file)
            if isinstance(loaded, np.ndarray):
                return _split(image_array(loaded, str(path)), str(path))
            names = set(loaded.files)
            for pair in (("x_train", "x_test"), ("train", "test")):
                if names.issuperset(pair):
                    train, test = (image_array(loaded[name], f"{path}, array {name}") for name in pair)
                    if train.shape[1:] != test.shape[1:]:
                        raise InputError(f"expected one size in {path}, found {train.shape[1:]} and {test.shape[1:]}")
                    return train, test
            if len(names) == 1:
                return _split(image_array(loaded[names.pop()], str(path)), str(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read the arrays of {path}: {reason(error)}") from error
    raise InputError(f"expected x_train and x_test, train and test, or one array in {path}, found {sorted(names)}")


def _load_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Images, Images]:
    with optional_import():
        import tensorflow_datasets as tfds
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"expected a data set known to tensorflow-datasets, found {name!r}: {first}") from error
    feature = dict(builder.info.features).get("image")
    shape = getattr(feature, "shape", ())
    if len(shape) != 3 or None in shape:
        raise InputError(f"expected images of one size in the data set {name!r}, found {feature or 'no images'}")
    if not builder.is_prepared():
        missing = f"the data set {name!r} is not prepared in {builder.data_path.parent} and cannot be downloaded"
        _require_network(builder.url_infos or (), missing)
        try:
            builder.download_and_prepare()
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{missing}: {reason}") from error
    splits = builder.info.splits
    if "train" not in splits and len(splits) > 1:
        raise InputError(f"expected a split named train in the data set {name!r}, found {sorted(splits)}")
    train = _read_split(builder, "train" if "train" in splits else next(iter(splits)))
    held_out = next((split for split in HELD_OUT if split in splits), None)
    return _split(train, name) if held_out is None else (train, _read_split(builder, held_out))


def _require_network(urls: Iterable[str], message: str) -> None:
    """Raises `InputError` if a host has no address, which the downloader would try for minutes; not with a proxy."""
    if getproxies():
        return
    for host in sorted({urlsplit(url).hostname or "" for url in urls}):
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise InputError(f"{message}: no network, or no such host as {host!r} ({error.strerror})") from error


def _read_split(builder: Any, split: str) -> Images:
    import tensorflow_datasets as tfds

    feature = builder.info.features["image"]
    dtype = np.dtype(feature.np_dtype)
    images = np.empty((builder.info.splits[split].num_examples, *feature.shape), dtype)
    # One file after another keeps the source's order.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    data: tf.data.Dataset = builder.as_dataset(split=split, read_config=config)
    batches = data.map(lambda example: example["image"]).batch(1000)
    start = 0
    for batch in progress(batches.as_numpy_iterator(), f"read {builder.name}", total=-(-len(images) // 1000)):
        images[start : start + len(batch)] = batch
        start += len(batch)
    # Other dtypes must hold whole numbers of 0 to 255, or they would be cut or wrapped.
    return images if dtype == np.uint8 else image_array(images, f"the data set {builder.name!r}, split {split}")


# === Checks ===


def _load_unpickled(file: Any) -> Any:
    """`np.load` without pickles, and without warnings of odd headers."""
    with no_warnings():
        return np.load(file, allow_pickle=False)


def _split(images: Images, source: str) -> tuple[Images, Images]:
    _require_two(len(images), source)
    test = np.arange(len(images)) % TEST_EVERY == 0
    return images[~test], images[test]


def _require_two(count: int, source: str) -> None:
    if count < 2:
        raise InputError(f"expected at least two images in {source}, one to train and one to test, found {count}")
