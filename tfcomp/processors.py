"""The limit of threads at work at once: as many as there are processors.

More of them hand Python's lock to and fro, and take each other's place in the caches (`benchmarks/threads.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tfcomp.forks import in_child


class _Places(threading.local):
    """The places that this thread holds: one, however often it asks."""

    held = 0


_held = _Places()
_free = threading.BoundedSemaphore(os.cpu_count() or 1)


@in_child
def _begin_anew() -> None:
    """Frees all places in a process that was forked while other threads held some."""
    global _held, _free
    _held, _free = _Places(), threading.BoundedSemaphore(os.cpu_count() or 1)


@contextmanager
def processor() -> Iterator[None]:
    """Waits for a processor, and keeps others from it within the block; blocks may nest.

    A block must not wait for another thread that needs one.

    Examples:
        >>> with processor():
        ...     total = sum(range(10))
    """
    held, free = _held, _free
    if not held.held:
        free.acquire()
    held.held += 1
    try:
        yield
    finally:
        held.held -= 1
        if not held.held:
            free.release()
