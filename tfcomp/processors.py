"""As many threads at work at once as there are processors.

More of them hand Python's lock to and fro, and take each other's place in the caches (`benchmarks/threads.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Places(threading.local):
    """The places that this thread holds: one, however often it asks."""

    held = 0


_held = _Places()
_free = threading.BoundedSemaphore(os.cpu_count() or 1)


def _begin_anew() -> None:
    """Frees all places in a process that was forked while other threads held some."""
    global _held, _free
    _held, _free = _Places(), threading.BoundedSemaphore(os.cpu_count() or 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


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
