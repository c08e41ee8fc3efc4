"""Many images to payloads and back, where an image that fails is an outcome like any other and does not end the work.

Commands, `tfcomp.bulk` and `tfcomp.beam` share these functions, so that their payloads are equal. The payload of an
item does not depend on the items beside it: LiteRT runs one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.codec import Codec, CompressionReport
from tfcomp.errors import BitstreamError, InputError, TfcompError
from tfcomp.geometry import too_many_pixels
from tfcomp.items import GREY_IN_RGB, Images, whole_numbers
from tfcomp.storage import archives, image_files, places
from tfcomp.storage.container import Archive
from tfcomp.storage.pixel_limit import pixel_limit

BATCH_BYTES = 1 << 26
"""Largest size, in bytes, of the images of one shape that are held at a time."""

Shape = tuple[int, ...]
Coded = tuple[bytes, Shape]


@dataclass(frozen=True)
class Source:
    """An image to compress.

    Attributes:
        name: its name in an archive; None in an array of many.
        image: a file's address, its content, or an array [H, W, C] of whole numbers.
        said: the image's name in messages.
    """

    name: str | None
    image: places.Address | bytes | NDArray[Any]
    said: str = "an image of the array"

    def read(self) -> Images:
        """uint8 [H, W, C]; raises a `TfcompError` that names the image."""
        if isinstance(self.image, np.ndarray):
            return whole_numbers(self.image, str(self))
        if isinstance(self.image, bytes):
            with places.content_as_file(self.image, str(self)) as path:
                return image_files.read_image(path, whole=True)
        with places.as_file(self.image) as path:
            return image_files.read_image(path, whole=True)

    def __str__(self) -> str:
        return self.said if isinstance(self.image, (bytes, np.ndarray)) else str(self.image)


def compress(
    codec: Codec,
    sources: Iterable[Source],
    quality: int | None = None,
    *,
    effort: int = 0,
    target_bytes: int | None = None,
    reports: list[CompressionReport] | None = None,
) -> Iterator[Coded | TfcompError]:
    """The payload and the shape of each image, or its error, in order.

    Args:
        codec: the codec.
        sources: images, taken one after another; of images of one shape, `BATCH_BYTES` are held at a time.
        quality, effort, target_bytes: see `tfcomp.Codec.compress`. The last is for images of any size.
        reports: list that gets the reports of images of one shape.

    Raises:
        InputError: if the codec does not take these options.
    """
    if codec.item.any_size:
        for source in sources:
            yield _any_size(codec, source, quality, effort, target_bytes)
        return
    if target_bytes is not None:
        raise InputError(f"expected target_bytes with a codec of images of any size, found one of {codec.item}")
    left = iter(sources)
    while batch := list(islice(left, _at_once(codec))):
        read = [_read(source, codec) for source in batch]
        images = [image for image in read if not isinstance(image, TfcompError)]
        payloads: list[bytes] = []
        if images and reports is None:
            payloads = codec.compress(np.stack(images), quality, effort=effort)
        elif images and reports is not None:
            payloads, report = codec.compress_with_report(np.stack(images), quality, effort=effort)
            reports.append(report)
        coded = iter(payloads)
        for image in read:
            yield image if isinstance(image, TfcompError) else (next(coded), image.shape)


def decompress(codec: Codec, payloads: Iterable[bytes]) -> Iterator[Images | BitstreamError]:
    """The image of each payload, uint8 [H, W, C], or its error, in order.

    Args:
        codec: the codec that made the payloads; see `tfcomp.Codec.that_made`.
        payloads: an iterable, read as payloads are needed.
    """
    left = iter(payloads)
    while batch := list(islice(left, 1 if codec.item.any_size else _at_once(codec))):
        try:
            images = codec.decompress(batch)
        except BitstreamError as error:
            if len(batch) == 1:
                yield error
            else:  # one of them is damaged: which?
                for payload in batch:
                    yield from decompress(codec, [payload])
        else:
            yield from images


def sound_items(codec: Codec, archive: Archive, skipped: dict[int, TfcompError] | None) -> list[int]:
    """Numbers of the items of an archive whose checksums hold and which begin as payloads do.

    Args:
        codec: the codec that made the archive.
        archive: opened with ``eager_bytes=0`` where items are skipped, to check each block when it is read.
        skipped: gets the errors of all other items by number; if it is None, the first error is raised.

    Raises:
        BitstreamError: also if the archive claims more pixels than its size allows.
    """
    sound, pixels = [], 0
    for i in range(len(archive)):
        try:
            payload = archive[i]
            if codec.item.any_size or not payload:
                codec.describe(payload)
            pixels += codec.claimed_pixels(payload)
        except BitstreamError as error:
            if skipped is None:
                raise
            skipped[i] = error
        else:
            sound.append(i)
    archives.check_pixels(pixels, archive.file_bytes, codec.max_pixels, str(archive.path))
    return sound


def require_fit(codec: Codec, source: str, shape: tuple[int, int, int]) -> None:
    """Raises `InputError` if an image has more pixels, mirrored ones included, than the codec takes."""
    height, width, _ = shape
    grid, limit = codec.parts.grid, codec.max_pixels
    if grid is not None and not grid.fits(height, width, limit):
        raise InputError(too_many_pixels(limit, height, width, source))


# === Inside ===


def _at_once(codec: Codec) -> int:
    """Number of images of one shape that are held at a time."""
    return max(1, BATCH_BYTES // math.prod(n or 1 for n in codec.item.shape))


def _read(source: Source, codec: Codec) -> Images | TfcompError:
    """An image of the codec's shape, or its error."""
    try:
        with pixel_limit(codec.max_pixels):
            image = source.read()
    except TfcompError as error:
        return error
    if image.shape[2] == 1 and codec.item.channels == GREY_IN_RGB:
        image = np.repeat(image, GREY_IN_RGB, axis=2)
    if image.shape != codec.item.shape:
        return InputError(f"expected images {codec.item}, found {list(image.shape)} in {source}")
    return image


def _any_size(
    codec: Codec, source: Source, quality: int | None, effort: int, target_bytes: int | None
) -> Coded | TfcompError:
    try:
        with pixel_limit(codec.max_pixels):
            image = source.read()
        (payload,) = codec.compress([image], quality, effort=effort, target_bytes=target_bytes)
        return payload, image.shape
    except TfcompError as error:
        return InputError(str(error) if str(source) in str(error) else f"{source}: {error}")
