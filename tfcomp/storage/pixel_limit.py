"""Pillow's limit of pixels, which is the process's, within a block that threads may share."""

from __future__ import annotations

from contextlib import AbstractContextManager

from PIL import Image

from tfcomp.process_settings import ProcessSetting


def _set(limit: int | None) -> None:
    Image.MAX_IMAGE_PIXELS = limit


_limit: ProcessSetting[int, int | None] = ProcessSetting(
    lambda: Image.MAX_IMAGE_PIXELS, lambda limits: _set(max(limits)), _set
)


def pixel_limit(max_pixels: int) -> AbstractContextManager[None]:
    """Sets the most pixels of an image file within the block; of several blocks at once, the largest limit holds.

    Args:
        max_pixels: the limit.

    Examples:
        >>> with pixel_limit(1000):
        ...     Image.MAX_IMAGE_PIXELS
        1000
    """
    return _limit.inside(max_pixels)
