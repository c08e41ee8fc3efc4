"""NumPy's matrix products in one thread, while a tile is coded.

The threads of BLAS wait for the next product in a loop. While a tile is coded there are many small products, and the
networks that run at the same time would be a third slower. The limit is the process's, and only the thread that set it
can lift it (threadpoolctl 3.8). So the first thread that codes sets the limit and lifts it at its own end; threads that
begin in between run beside it, at worst without a limit after that.

Coding a tile is many small operations of NumPy, which all hold Python's lock for a part of their time. Threads that do
so at once hand it to and fro, and sixteen of them are slower than one. So they take turns by the tile, and the networks
of the others run meanwhile, without that lock (`benchmarks/threads.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

from tfcomp.forks import in_child

_LOCK = threading.Lock()  # held while the limit changes, never while anything is coded
_limited = False
_TURN = threading.RLock()  # held while a tile is coded


@in_child
def _begin_anew() -> None:
    """Resets locks and limit in a process that was forked while another thread held them."""
    global _LOCK, _TURN, _limited
    _LOCK, _TURN, _limited = threading.Lock(), threading.RLock(), False


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks at every library of the process


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps NumPy's products in one thread within the block; blocks may nest, and overlap in several threads."""
    global _limited
    limit = ExitStack()
    with _LOCK:
        if first := not _limited:
            limit.enter_context(_controller().limit(limits=1, user_api="blas"))
            _limited = True
    try:
        yield
    finally:
        if first:
            with _LOCK:
                limit.close()
                _limited = False


@contextmanager
def coding_turn() -> Iterator[None]:
    """The block of `one_blas_thread` in which a tile is coded, by one thread at a time."""
    with _TURN, one_blas_thread():
        yield
