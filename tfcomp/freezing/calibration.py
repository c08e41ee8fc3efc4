"""Calibration images, which quantization steps and tables are fitted to, as a user names them.

They are an array, a list of arrays, a `tf.data.Dataset` (batched or not), a folder of image files, or a list of image
files. Images of one shape become one array. Images of any size are taken whole, or a part from their middle::

    16 million pixels in all, spread evenly over the images;    1 million pixels of each, and 256 images, at most

and cropped to multiples of the stride. Files are read one by one, and no more than these pixels are kept; of a stream
whose length is unknown, the first images are taken until they have as many.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tfcomp.errors import InputError
from tfcomp.geometry import Grid
from tfcomp.items import Images, Item, as_images
from tfcomp.progress import progress
from tfcomp.storage.image_files import image_files, read_image

MAX_PIXELS = 1 << 24
"""Largest number of pixels of all calibration images together, of any size or from files."""
MAX_ITEM_PIXELS = 1 << 20
"""Largest number of pixels of one calibration image of any size."""
MAX_ITEMS = 256
"""Largest number of images that are read, where they may have any size."""


def of_one_shape(item: Item, data: Any) -> Images:
    """Calibration images of one shape, uint8 [N, *item.shape], N > 0.

    Args:
        item: of one shape.
        data: see the module's docstring; files must have the item's shape.

    Raises:
        InputError: if there are no images, or images of another shape.
    """
    files = _files(data)
    if files is None:
        images = as_images(data)
    else:
        most = max(1, MAX_PIXELS // math.prod(n or 1 for n in item.shape[:2]))
        images = np.stack([_read(path, item.shape) for path in _bar(_evenly(files, most))])
    if len(images) == 0 or images.shape[1:] != item.shape:
        raise InputError(f"expected calibration images of shape [N, *{item.shape}], N > 0, found {images.shape}")
    return images


def of_any_size(item: Item, grid: Grid, data: Any) -> list[Images]:
    """Calibration images of any size, uint8 [H, W, C] with sides that are multiples of the stride; at least one.

    Args:
        item: of any size.
        grid: of the model.
        data: see the module's docstring.

    Raises:
        InputError: if there are no images, or one is no item.
    """
    images: list[Images] = []
    left = MAX_PIXELS
    sources = _sources(data, item)
    remaining = len(sources) if isinstance(sources, Sequence) else None
    for source in _bar(sources):
        limit = min(MAX_ITEM_PIXELS, left if remaining is None else left // remaining)
        if limit < grid.stride**2:
            break
        images.append(_cropped(item.full(_item(item, source)), grid, limit))
        left -= images[-1].shape[0] * images[-1].shape[1]
        remaining = None if remaining is None else remaining - 1
    if not images:
        raise InputError(f"expected calibration images {item}, found none")
    return images


# === Inside ===


def _files(data: Any) -> list[Path] | None:
    """The image files that a folder or a list of paths names; None where the data are images themselves."""
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if not path.exists():
            raise InputError(f"expected a folder of calibration images, found no {path}")
        return image_files(path) if path.is_dir() else [path]
    if isinstance(data, (list, tuple)) and data and all(isinstance(path, (str, os.PathLike)) for path in data):
        return [Path(path) for path in data]
    return None


def _sources(data: Any, item: Item) -> Sequence[Any] | Iterable[Any]:
    """Files or images: spread evenly where their number is known, else all of them in order."""
    files = _files(data)
    if files is not None:
        return _evenly(files, MAX_ITEMS)
    if hasattr(data, "element_spec"):
        return _elements(data)
    if isinstance(data, np.ndarray) and data.ndim in (2, 3) and data.dtype != object:
        raise InputError(f"expected a sequence of images {item}, found one array {list(data.shape)}; wrap it in a list")
    if not isinstance(data, Iterable):
        raise InputError(f"expected calibration images {item} or a folder of them, found {type(data).__name__}")
    return _evenly(data, MAX_ITEMS) if isinstance(data, (Sequence, np.ndarray)) else data


def _elements(data: Any) -> Iterator[Any]:
    """The images of a data set [H, W, C], or of batches [N, H, W, C]; of elements that are tuples, the first member."""
    arrays = (element[0] if isinstance(element, tuple) else element for element in data.as_numpy_iterator())
    return chain.from_iterable(array if np.ndim(array) == 4 else [array] for array in arrays)


def _evenly(items: Any, most: int) -> Sequence[Any]:
    """At most ``most`` items, spread evenly over all."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def _bar(items: Any) -> Any:
    return progress(items, "calibration images", total=len(items) if isinstance(items, Sequence) else None)


def _read(path: Path, shape: tuple[int | None, ...]) -> Images:
    image = read_image(path)
    if image.shape != shape:
        raise InputError(f"expected calibration images of shape {shape}, found {image.shape} in {path}")
    return image


def _item(item: Item, source: Any) -> Images:
    if not isinstance(source, Path):
        return item.one(source)
    image = read_image(source)
    try:
        return item.one(image)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _cropped(image: Images, grid: Grid, limit: int) -> Images:
    """The middle of an image, of at most ``limit`` pixels; a small one is mirrored as a codec mirrors it."""
    height, width = image.shape[:2]
    share = min(1.0, math.sqrt(limit / (height * width)))
    sides = [max(grid.stride, int(n * share) // grid.stride * grid.stride) for n in (height, width)]
    if min(height, width) <= 4 * grid.stride:
        rows, columns = grid.plan(height, width).sources()
        image = image[rows[:, None], columns]
        sides = [min(side, n) for side, n in zip(sides, image.shape, strict=False)] if share < 1 else [*image.shape[:2]]
    # From a multiple of the stride on, as a codec has its positions.
    top, left = ((n - side) // 2 // grid.stride * grid.stride for n, side in zip(image.shape[:2], sides, strict=True))
    part = image[top : top + sides[0], left : left + sides[1]]
    return part if part.shape == image.shape else part.copy()  # a view would keep the whole image in memory
