"""Images of one size in the files of a folder, which are read when they are needed.

All headers are read first, so that images of two sizes are found before long work begins. A stream reads files by the
dozen, on all processors, and holds some dozens of images, however many there are::

    0, 1, 2, ... or a permutation  ->  files by the dozen, read in parallel  ->  images
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.progress import progress
from tfcomp.storage.image_files import Skipped, image_files, image_shapes, read_image

if TYPE_CHECKING:
    import tensorflow as tf

CHUNK_BYTES = 1 << 20
"""Largest size in bytes of the images that are read at a time, unless one is larger."""


@dataclass(frozen=True)
class ImageFiles:
    """Files of images of one size, which are read when they are indexed like an array.

    Attributes:
        paths: the files.
        shape: (N, H, W, C) of all images; with 3 channels, grey images become RGB.
        first: the file that fixed their size.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/grey.npy", np.zeros((4, 6), np.uint8))
        ...     images = image_folder(folder)
        ...     images.shape, images[np.array([0])].dtype
        ((1, 4, 6, 1), dtype('uint8'))
    """

    paths: Sequence[str]
    shape: tuple[int, int, int, int]
    first: str

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def chunk(self) -> int:
        """Number of images that are read at a time."""
        return max(1, min(32, CHUNK_BYTES * len(self) // max(1, self.nbytes)))

    def __getitem__(self, positions: NDArray[np.int64]) -> Images:
        """Images at some positions, uint8 [n, H, W, C]; raises `InputError` on damage and other sizes."""
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for place, position in zip(images, positions, strict=True):
            image = read_image(self.paths[position])
            if image.shape[:2] != self.shape[1:3] or image.shape[2] > self.shape[3]:
                raise _of_two_sizes(self.first, self.shape[1:], self.paths[position], image.shape)
            place[...] = image
        return images

    def split(self, every: int) -> tuple[ImageFiles, ImageFiles]:
        """Training and test files: the first of ``every`` files is one of the test files."""
        first, others = self.paths[::every], [path for i, path in enumerate(self.paths) if i % every]
        train, test = (ImageFiles(part, (len(part), *self.shape[1:]), self.first) for part in (others, first))
        return train, test

    def read(self) -> Images:
        """All images, uint8 [N, H, W, C]."""
        images = np.empty(self.shape, np.uint8)
        starts = range(0, len(self), self.chunk)

        def fill(start: int) -> None:
            images[start : start + self.chunk] = self[np.arange(start, min(start + self.chunk, len(self)))]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in progress(pool.map(fill, starts), "read images", total=len(starts)):
                pass
        return images

    def stream(self, seed: int | None = None) -> tf.data.Dataset:
        """A data set of uint8 [H, W, C], in the files' order, or with a seed in a new random order each time."""
        import tensorflow as tf

        count, chunk, shape = len(self), self.chunk, self.shape[1:]

        @lru_cache(2)
        def order(turn: int) -> NDArray[np.int64]:
            return np.arange(count) if seed is None else np.random.default_rng([seed, turn]).permutation(count)

        def read(turn: Any, start: Any) -> Images:
            return self[order(int(turn))[int(start) : int(start) + chunk]]

        def read_in_graph(turn: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(read, [turn, start], tf.uint8), (None, *shape))

        starts = tf.data.Dataset.range(0, count, chunk)
        turns = tf.data.Dataset.from_tensors(np.int64(0))
        if seed is not None:  # another number in each iteration
            turns = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
        chunks = turns.flat_map(lambda turn: starts.map(lambda start: (turn, start)))
        read_ahead = chunks.map(read_in_graph, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
        return read_ahead.unbatch().apply(tf.data.experimental.assert_cardinality(count))


def image_folder(
    folder: str | os.PathLike[str], *, skipped: Skipped | None = None, to_the_end: bool = False
) -> ImageFiles:
    """The image files of a folder and its subfolders, in the order of the sorted paths.

    Args:
        folder: the folder.
        skipped: gets the errors of files that cannot be read, which are then left out.
        to_the_end: read whole files now, so that none is found damaged later; with ``skipped`` always.

    Raises:
        InputError: if there is no file, one cannot be read, or two differ in size; the message names both.
    """
    paths = image_files(folder)
    shapes = image_shapes(paths, to_the_end=to_the_end or skipped is not None, skipped=skipped, whole=False)
    if not shapes and skipped:
        raise skipped[paths[0]]
    (first, shape), *others = shapes.items()
    for path, other in others:
        # The orientation of a PNG file may lie behind its pixels.
        turned = path.suffix.lower() == ".png" and sorted(other[:2]) == sorted(shape[:2])
        if other[:2] != shape[:2] and not turned:
            raise _of_two_sizes(first, shape, path, other)
    channels = max(other[2] for other in shapes.values())
    height, width = read_image(first).shape[:2]
    return ImageFiles([os.fspath(path) for path in shapes], (len(shapes), height, width, channels), str(first))


def _of_two_sizes(one: str | Path, shape: Sequence[int], other: str | Path, other_shape: Sequence[int]) -> InputError:
    sizes = [f"{width}x{height}" for height, width, *_ in (shape, other_shape)]
    return InputError(
        f"expected images of one size, found {one} of {sizes[0]} and {other} of {sizes[1]} pixels; "
        "datasets.crops takes images of any size"
    )
