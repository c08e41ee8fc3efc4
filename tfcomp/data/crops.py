"""Crops of photographs: a stream for `fit` from a folder that may be larger than memory.

Files are decoded in parallel, a few crops are taken from each, and crops of some dozens of files are shuffled::

    numbers 0, 1, 2, ...  ->  a file, decoded once, ``CROPS_PER_FILE`` crops  ->  a window of crops, shuffled  ->  crops

Number ``i`` and the seed alone determine the file and the crops, so that the stream is the same each time and on any
number of processors. Every file comes once before any comes again.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfcomp.errors import InputError, TfcompError, optional_import
from tfcomp.items import GREY_IN_RGB, MAX_CHANNELS, Images
from tfcomp.storage import image_files

if TYPE_CHECKING:
    import tensorflow as tf

Part = Literal["training", "validation"]

SIDE = 192
SCALES = (1.0, 0.8, 0.65)
CROPS_PER_FILE = 4
"""Number of crops from a file each time it is decoded: decoding takes longer than cutting."""
WINDOW_BYTES = 1 << 24
"""Largest size in bytes of the crops that are shuffled at a time, unless the crops of two files are larger."""
MAX_SIDE = 4096


@dataclass(frozen=True)
class Photograph:
    """An image file and the shape in its header: (height, width, channels), upright."""

    path: Path
    shape: tuple[int, int, int]

    def fitting(self, side: int, scales: Sequence[float]) -> tuple[float, ...]:
        """The scales at which a crop of this side fits."""
        return tuple(scale for scale in scales if min(_scaled(self.shape, scale)) >= side)


def crops(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    side: int = SIDE,
    *,
    scales: Sequence[float] = SCALES,
    channels: int = 3,
    seed: int = 0,
    validation_split: float = 0.0,
    subset: Part | None = None,
    skipped: image_files.Skipped | None = None,
) -> tf.data.Dataset:
    """Square crops of image files, a stream without end: ``model.fit(crops("photos/").batch(8), steps_per_epoch=250)``.

    Each crop lies at a random place of its file at a random scale, and is mirrored and turned at random. Equal
    arguments give equal crops, each time that the stream is iterated, so that ``crops("val/").take(32)`` is a fixed
    set.

    Args:
        files: a folder, which is searched with its subfolders, or a list of files: image files, or ``.npy`` files of
            one image [H, W] or [H, W, channels] each.
        side: height and width of a crop in pixels.
        scales: factors above 0 and up to 1 by which an image is made smaller (Lanczos) before it is cropped; each crop
            has a random one at which it fits.
        channels: 1 to 8. With 3, grey images become RGB; otherwise all images must have so many.
        seed: seed of everything random, 0 to 2**63 - 1.
        validation_split: share of the files, 0 to 1, that is kept for validation: every n-th in sorted order, whatever
            the seed, at least one.
        subset: ``"training"`` or ``"validation"``, with ``validation_split``.
        skipped: gets the errors of files that cannot be read, as they occur; other files replace them then.

    Returns:
        A `tf.data.Dataset` of uint8 [side, side, channels], not batched, without autotuning.

    Raises:
        InputError: if an argument is out of range, a header is that of no image that can be kept whole, or all images
            are smaller than a crop; some smaller ones are left out. A file that is damaged behind its header ends the
            iteration; see `reading_errors`.
        MissingDependencyError: if TensorFlow is not installed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/photo.npy", np.full((90, 120, 3), 99, np.uint8))
        ...     next(crops(folder, side=64).batch(8).as_numpy_iterator()).shape
        (8, 64, 64, 3)
    """
    with optional_import():
        import tensorflow as tf
    from tfcomp.data.datasets import untuned

    scales = _checked(side, scales, channels, seed, validation_split, subset)
    chosen = _subset(large_enough(photographs(files, skipped), side, scales, channels), validation_split, subset)
    shape = (side, side, channels)
    per_window = max(2, min(WINDOW_BYTES // (CROPS_PER_FILE * math.prod(shape)), 32))
    draw = _drawing(chosen, shape, scales, seed, skipped)

    def read(number: tf.Tensor) -> tf.Tensor:
        drawn = tf.numpy_function(draw, [number], tf.uint8)
        return tf.ensure_shape(drawn, (CROPS_PER_FILE, *shape))

    def shuffled(number: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        keys = tf.random.stateless_uniform([per_window * CROPS_PER_FILE], tf.stack([np.int64(seed), number]))
        return tf.gather(tf.reshape(window, (-1, *shape)), tf.argsort(keys))

    read_ahead = tf.data.Dataset.counter().map(read, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    windows = read_ahead.batch(per_window, drop_remainder=True).enumerate().map(shuffled).prefetch(1)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return untuned(windows.unbatch().apply(endless))


@contextmanager
def reading_errors() -> Iterator[None]:
    """A context in which a file that `crops` cannot read raises an `InputError` of one line, not TensorFlow's error."""
    try:
        yield
    except Exception as error:
        line = re.search(rf"{InputError.__name__}: (.+)", getattr(error, "message", "") or "")
        if not type(error).__module__.startswith("tensorflow.") or line is None:
            raise
        raise InputError(line.group(1).strip()) from error


# === Files ===


def photographs(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], skipped: image_files.Skipped | None = None
) -> list[Photograph]:
    """The files of a folder or a list with their shapes, by their headers; see `crops` for arguments and errors."""
    if isinstance(files, (str, os.PathLike)):
        folder = Path(files)
        if not folder.is_dir():
            raise InputError(f"expected a folder or a list of files, found {folder}")
        paths = image_files.image_files(folder)
    else:
        paths = [Path(file) for file in files]
    if not paths:
        raise InputError("expected at least one image file, found none")
    shapes = image_files.image_shapes(paths, skipped=skipped)
    if not shapes and skipped:
        raise skipped[paths[0]]
    return [Photograph(path, shapes[path]) for path in paths if path in shapes]


def large_enough(files: Sequence[Photograph], side: int, scales: Sequence[float], channels: int) -> list[Photograph]:
    """The files large enough for a crop; raises `InputError` if there are none, or on another number of channels."""
    for photograph in files:
        image_files.require_channels(photograph.path, photograph.shape[2], channels)
    chosen = [photograph for photograph in files if photograph.fitting(side, scales)]
    if not chosen:
        largest = max(files, key=lambda photograph: min(photograph.shape[:2]))
        height, width, _ = largest.shape
        others = f", the largest of {len(files)}" if len(files) > 1 else ""
        raise InputError(
            f"expected images of {side}x{side} pixels or more at a scale of {max(scales):g}, found {largest.path} of "
            f"{width}x{height}{others}"
        )
    return chosen


def _subset(files: list[Photograph], share: float, subset: Part | None) -> list[Photograph]:
    if subset is None:
        return files
    count = max(1, round(share * len(files)))
    if count >= len(files):
        raise InputError(f"expected at least two images, one to train and one to validate, found {len(files)}")
    held_out = {(2 * i + 1) * len(files) // (2 * count) for i in range(count)}
    return [photograph for i, photograph in enumerate(files) if (i in held_out) == (subset == "validation")]


# === Crops ===


def _drawing(
    files: Sequence[Photograph],
    shape: tuple[int, int, int],
    scales: Sequence[float],
    seed: int,
    skipped: image_files.Skipped | None,
) -> Callable[[Any], Images]:
    """The function from a number to its crops, uint8 [CROPS_PER_FILE, *shape]."""

    @lru_cache(4)
    def order(turn: int) -> NDArray[np.int64]:
        return np.random.default_rng([seed, 0, turn]).permutation(len(files))

    def read(order: NDArray[np.int64], position: int) -> tuple[Photograph, Images]:
        """The file at a position, or the next one that can be read."""
        for i in np.roll(order, -position):
            photograph = files[i]
            try:
                return photograph, image_files.read_image(photograph.path, whole=True)
            except TfcompError as error:
                if skipped is None:
                    raise
                skipped[photograph.path] = error
        raise InputError(f"expected an image that can be read, found none among {len(files)}, such as {files[0].path}")

    def draw(number: Any) -> Images:
        turn, position = divmod(int(number), len(files))
        photograph, image = read(order(turn), position)
        rng = np.random.default_rng([seed, 1, int(number)])
        fitting = photograph.fitting(shape[0], scales)
        if sorted(image.shape) != sorted(photograph.shape):
            raise InputError(f"expected {photograph.path} to stay as it was, found it changed to {image.shape}")
        return np.stack([_crop(image, shape, fitting, rng) for _ in range(CROPS_PER_FILE)])

    return draw


def _crop(image: Images, shape: tuple[int, int, int], scales: Sequence[float], rng: np.random.Generator) -> Images:
    side = shape[0]
    scale = scales[int(rng.integers(len(scales)))]
    scaled = _scaled(image.shape, scale)
    top, left = (int(rng.integers(n - side + 1)) for n in scaled)
    crop = (
        image[top : top + side, left : left + side]
        if scaled == image.shape[:2]
        else shrunken(image, scaled, top, left, side)
    )
    crop = crop[:, ::-1] if rng.integers(2) else crop
    return np.broadcast_to(np.rot90(crop, int(rng.integers(4))), shape)


def shrunken(image: Images, scaled: tuple[int, int], top: int, left: int, side: int) -> Images:
    """A square, uint8 [side, side, C], of a copy of an image [H, W, C] in the size ``scaled``, which is not made."""
    down, right = image.shape[0] / scaled[0], image.shape[1] / scaled[1]
    box = left * right, top * down, min((left + side) * right, image.shape[1]), min((top + side) * down, image.shape[0])

    def resized(pixels: Images) -> Images:
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS, box))

    if image.shape[2] == GREY_IN_RGB:
        return resized(image)
    return np.stack([resized(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])], axis=-1)


def _scaled(shape: Sequence[int], scale: float) -> tuple[int, int]:
    return round(shape[0] * scale), round(shape[1] * scale)


def _checked(
    side: int, scales: Sequence[float], channels: int, seed: int, validation_split: float, subset: Part | None
) -> tuple[float, ...]:
    """The scales, as a tuple; raises `InputError` if an argument is out of range."""
    if not isinstance(side, int | np.integer) or not 1 <= side <= MAX_SIDE:
        raise InputError(f"expected a side of 1 to {MAX_SIDE} pixels, found {side!r}")
    if channels not in range(1, MAX_CHANNELS + 1):
        raise InputError(f"expected 1 to {MAX_CHANNELS} channels, found {channels!r}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise InputError(f"expected a whole number of 0 or more as the seed, found {seed!r}")
    factors = tuple(scales) if isinstance(scales, Sequence) else ()
    if not factors or not all(isinstance(scale, int | float) and 0 < scale <= 1 for scale in factors):
        raise InputError(f"expected scales above 0 and up to 1, found {scales!r}")
    if subset not in (None, "training", "validation"):
        raise InputError(f'expected a subset of "training" or "validation", found {subset!r}')
    if not 0 <= validation_split < 1 or (validation_split > 0) != (subset is not None):
        raise InputError(
            f"expected a validation_split above 0 and below 1 together with a subset, found {validation_split!r} and "
            f"{subset!r}"
        )
    return factors
