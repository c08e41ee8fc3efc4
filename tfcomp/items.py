"""The shape of an item, uint8 [height, width, channels], and the one check of the images that a user gives.

A codec's items have one shape, or any height and width, which are then None. Values are whole numbers of 0 to 255.
Other dtypes are taken where no value would be rounded, so that an image on [0, 1] is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.progress import progress

Images = NDArray[np.uint8]

MAX_CHANNELS = 8
GREY_IN_RGB = 3
"""Number of channels of a codec that also takes grey items: it repeats their channel, and gives them back grey."""


@dataclass(frozen=True)
class Item:
    """Shape of one item.

    Attributes:
        shape: (height, width, channels); height and width are both None for items of any size.

    Raises:
        InputError: if the shape is not of this form.

    Examples:
        >>> Item((None, None, 3)).any_size, Item((28, 28, 1)).any_size
        (True, False)
        >>> print(Item((None, None, 3)))
        [H, W, 3]
    """

    shape: tuple[int | None, int | None, int]

    def __post_init__(self) -> None:
        free = [n is None for n in self.shape]
        sizes = [n for n in self.shape if n is not None]
        if len(self.shape) != 3 or free[0] != free[1] or free[2] or min(sizes) < 1:
            raise InputError(
                f"expected an item of (height, width, channels), or (None, None, channels), found {self.shape}"
            )
        if self.any_size and self.shape[2] > MAX_CHANNELS:
            raise InputError(f"expected 1 to {MAX_CHANNELS} channels of items of any size, found {self.shape[2]}")

    @property
    def any_size(self) -> bool:
        """Whether height and width are free."""
        return self.shape[0] is None

    @property
    def channels(self) -> int:
        return self.shape[2]

    @property
    def accepted(self) -> frozenset[int]:
        """Numbers of channels that an item of any size may have."""
        return accepted_channels(self.channels)

    def __str__(self) -> str:
        names = [name if n is None else str(n) for name, n in zip("HWC", self.shape, strict=True)]
        return f"[{', '.join(names)}]"

    def batch(self, items: Any) -> Images:
        """Items of one shape, in any form that `as_images` takes, as uint8 [N, *shape].

        Raises:
            InputError: on other shapes, and as `as_images`.
        """
        images = as_images(items)
        if images.shape[1:] != self.shape:
            raise InputError(f"expected images of shape [N, *{self.shape}], found {images.shape}")
        return images

    def sequence(self, items: Any) -> Iterable[Images]:
        """Items of any size, checked by `one` as they are read.

        Args:
            items: a sequence of arrays [H, W], [H, W, 1] or [H, W, C], an array [N, H, W, C], or an iterable of them.
        """
        one = isinstance(items, np.ndarray) and (
            items.ndim == 2 or (items.ndim == 3 and items.shape[2] in self.accepted)
        )
        if one:
            raise InputError(
                f"expected a sequence of items {self}, found one array {list(items.shape)}; wrap it in a list"
            )
        if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise InputError(f"expected a sequence of items {self}, found {type(items).__name__}")
        if not hasattr(items, "cardinality"):  # of data sets, and not of their iterators
            return (self.one(item) for item in items)
        data, rank = _images_of(items)
        return (self.one(item) for item in (data.unbatch() if rank == 4 else data))

    def one(self, item: Any) -> Images:
        """One item of any size as uint8 [H, W, C], or [H, W, 1] where a codec of three channels is given a grey one.

        Raises:
            InputError: on another shape, dtype or range.
        """
        try:
            array = np.asarray(item)
        except ValueError as error:
            raise InputError(f"expected an image as uint8 {self}, found rows of several lengths ({error})") from error
        pixels = array[..., None] if array.ndim == 2 else array
        if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] not in self.accepted:
            also = " or [H, W, 1]" if len(self.accepted) > 1 else ""
            raise InputError(f"expected an image as uint8 {self}{also}, found {array.dtype} {list(array.shape)}")
        return whole_numbers(pixels, "an image")

    def full(self, item: Images) -> Images:
        """An item from `one`, with all channels of the networks."""
        return np.repeat(item, self.channels, axis=2) if item.shape[2] < self.channels else item


def accepted_channels(channels: int) -> frozenset[int]:
    """Numbers of channels of the items that a codec of so many channels takes: a codec of RGB also takes grey ones."""
    return frozenset([channels, 1] if channels == GREY_IN_RGB else [channels])


# === Values ===


def whole_numbers(array: NDArray[Any], source: str) -> Images:
    """The array as uint8, if every value is a whole number of 0 to 255; raises `InputError` otherwise."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "uif":
        raise InputError(f"expected {source} as numbers 0..255, found dtype {array.dtype}")
    if array.size:
        low, high = array.min(), array.max()
        if np.isnan(low):
            raise InputError(f"expected {source} as whole numbers 0..255, found NaN")
        if low < 0 or high > 255:
            raise InputError(f"expected {source} as whole numbers 0..255, found values from {low:g} to {high:g}")
        if array.dtype.kind == "f" and np.any(array != np.rint(array)):
            raise InputError(f"expected {source} as whole numbers 0..255, found fractions from {low:g} to {high:g}")
        if array.dtype.kind == "f" and 0 < high <= 1:
            raise InputError(f"expected {source} as whole numbers 0..255, found floats on [0, 1]; multiply them by 255")
    return array.astype(np.uint8)


def image_array(data: Any, source: str) -> Images:
    """An array-like [N, H, W] or [N, H, W, C] of whole numbers as uint8 [N, H, W, C]; raises `InputError`."""
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise InputError(f"expected {source} of one shape, found a list of several ({error})") from error
    if array.dtype.kind not in "uif":
        raise InputError(f"expected {source} as numbers 0..255, found dtype {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise InputError(f"expected {source} of shape [N, H, W] or [N, H, W, C], found {list(array.shape)}")
    images = whole_numbers(array, source)
    return images[..., None] if images.ndim == 3 else images


def as_images(data: Any) -> Images:
    """uint8 [N, H, W, C] from an array or a `tf.data.Dataset`.

    Args:
        data: an array [N, H, W] or [N, H, W, C] of whole numbers 0..255 in any dtype, or a finite data set of such
            images [H, W, C] or batches [N, H, W, C], or of tuples whose first member is one.

    Raises:
        InputError: on anything else, images scaled to [0, 1] included.

    Examples:
        >>> as_images(np.full((2, 28, 28), 7.0)).shape
        (2, 28, 28, 1)
    """
    if not hasattr(data, "element_spec"):
        return image_array(data, "images")
    import tensorflow as tf

    data, rank = _images_of(data)
    if rank not in (3, 4):
        found = f"found elements {data.element_spec}"
        raise InputError(f"expected a data set of images [H, W, C] or batches [N, H, W, C], {found}")
    batched = data if rank == 4 else data.batch(256)
    bar = progress(batched.as_numpy_iterator(), "read")
    try:
        batches = [image_array(batch, "images") for batch in bar]
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"expected images of one size in the data set, found: {error.message}") from error
    shapes: Sequence[Any] = sorted({batch.shape[1:] for batch in batches})
    if len(shapes) != 1:
        raise InputError(f"expected images of one size in the data set, found {shapes or 'no images'}")
    return np.concatenate(batches)


def _images_of(data: Any) -> tuple[Any, int | None]:
    """A finite `tf.data.Dataset` of the first members of a data set's elements, and their rank."""
    if int(data.cardinality()) == -1:
        raise InputError("expected a finite data set, found one that repeats forever")
    spec = data.element_spec
    if isinstance(spec, tuple):
        data, spec = data.map(lambda first, *_: first), spec[0]
    return data, getattr(getattr(spec, "shape", None), "rank", None)
