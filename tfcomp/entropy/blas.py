"""NumPy's matrix products in one thread, and one thread of Python at a time, while a tile is coded.

The threads of BLAS wait for the next product in a loop. While a tile is coded there are many small products, and the
networks that run at the same time would be a third slower.

Coding is many small operations of NumPy, which all hold Python's lock for a part of their time. Threads that code at
once hand it to and fro, and sixteen of them are slower than one. So they take turns by the tile, and the networks of
the others run meanwhile, without that lock (`benchmarks/threads.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_LOCK = threading.RLock()


def _begin_anew() -> None:
    """A new lock in a process that was forked while another thread held it."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks at every library of the process


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps NumPy's products in one thread within the block, which one thread at a time enters."""
    with _LOCK, _controller().limit(limits=1, user_api="blas"):
        yield
