"""Pillow's limit of pixels, which is the process's, set for a block that threads may share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from tfcomp.forks import in_child

_lock = threading.Lock()
_limits: list[int] = []
"""The limits of all blocks that threads are in."""
_outside = Image.MAX_IMAGE_PIXELS
"""Pillow's limit before the first of these blocks."""


@in_child
def _begin_anew() -> None:
    """Forgets the blocks of other threads, which a forked process has not, and the lock that one may have held."""
    global _lock
    if _limits:
        Image.MAX_IMAGE_PIXELS = _outside
    _lock = threading.Lock()
    _limits.clear()


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Sets the most pixels of an image file within the block; the largest limit holds while threads are in several.

    Args:
        max_pixels: the limit.

    Examples:
        >>> with pixel_limit(1000):
        ...     Image.MAX_IMAGE_PIXELS
        1000
    """
    global _outside
    with _lock:
        if not _limits:
            _outside = Image.MAX_IMAGE_PIXELS
        _limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = max(_limits)
    try:
        yield
    finally:
        with _lock:
            _limits.remove(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(_limits) if _limits else _outside
