"""A setting of the whole process that holds while any thread is inside a block.

A context manager that sets such a thing and puts it back, as `warnings.catch_warnings` does, goes wrong where threads
use it at the same time: one puts it back while another still works, or the last to end puts back what another had set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tfcomp.forks import in_child

Value = TypeVar("Value")
Outside = TypeVar("Outside")


class ProcessSetting(Generic[Value, Outside]):
    """Set when the first thread enters a block, and put back when the last leaves its own.

    Args:
        begin: gives what ``end`` needs, before any thread is inside.
        change: sets the process to the values of all blocks that threads are inside.
        end: puts back what was there before.

    Examples:
        >>> most = [10]
        >>> limit = ProcessSetting(lambda: most[0], lambda values: most.__setitem__(0, max(values)), print)
        >>> with limit.inside(3), limit.inside(5):
        ...     most
        [5]
        10
    """

    def __init__(
        self, begin: Callable[[], Outside], change: Callable[[list[Value]], None], end: Callable[[Outside], None]
    ) -> None:
        self._begin, self._change, self._end = begin, change, end
        self._lock = threading.Lock()
        self._inside: list[tuple[int, Value]] = []
        in_child(self._begin_anew)

    @contextmanager
    def inside(self, value: Value) -> Iterator[None]:
        """A block with this value."""
        block = threading.get_ident(), value
        with self._lock:
            if not self._inside:
                self._outside = self._begin()
            self._set([*self._inside, block])
        try:
            yield
        finally:
            with self._lock:
                left = self._inside.copy()
                left.remove(block)
                self._set(left)

    def _set(self, blocks: list[tuple[int, Value]]) -> None:
        if blocks:
            self._change([value for _, value in blocks])
        else:
            self._end(self._outside)
        self._inside = blocks

    def _begin_anew(self) -> None:
        """Leaves the blocks of threads that a forked process has not, and the lock that one of them may have held."""
        self._lock = threading.Lock()
        if self._inside:
            self._set([block for block in self._inside if block[0] == threading.get_ident()])
