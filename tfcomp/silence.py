"""A block without warnings that threads may share.

`warnings.catch_warnings` changes the whole process. Where threads use it at the same time, one puts the filters back
while another still works, whose warnings come through; or the last to end puts back what another had set, and warnings
stay off.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tfcomp.forks import in_child

_lock, _inside = threading.Lock(), 0
_caught = warnings.catch_warnings()


@in_child
def _begin_anew() -> None:
    """Forgets the threads that were inside, which a forked process has not, and the lock that one may have held."""
    global _lock, _inside
    if _inside:
        _caught.__exit__(None, None, None)
    _lock, _inside = threading.Lock(), 0


@contextmanager
def no_warnings() -> Iterator[None]:
    """Switches the process's warnings off within the block: the first thread to begin, and on again the last to end.

    Examples:
        >>> with no_warnings():
        ...     warnings.warn("not seen", stacklevel=1)
    """
    global _inside, _caught
    with _lock:
        if not _inside:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _caught.__exit__(None, None, None)
