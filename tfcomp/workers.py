"""Work on many items by several processes, each of which gets the codec by pickle.

Only the parent process sees an interrupt. Its workers do not; they end when the parent ends them, or is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from tfcomp.codec import Codec
from tfcomp.errors import InputError
from tfcomp.progress import hide, progress

FEW = 3
"""Largest number of items that one process does alone: to start others takes as long."""
MOST_PROCESSES = 8
"""Default limit of the number of processes: for large photographs each takes a gigabyte or two."""
AHEAD = 4
"""Number of items that wait for each process."""

Job = tuple[Any, ...]

_codec: Codec | None = None
"""The codec of a worker process."""


def each(
    function: Callable[..., Any],
    jobs: Iterable[Job],
    codec: Codec,
    label: str,
    *,
    count: int | None = None,
    few: int | None = None,
    processes: int | None = None,
) -> Iterator[Any]:
    """The results of ``function(codec, *job)``, in order; jobs are taken a few ahead of them.

    Args:
        function: a function of a module, which a worker finds by its name.
        jobs: arguments of each call, which pickle can send to a worker.
        codec: the codec. One with a trained model's networks cannot be sent: then this process does all jobs.
        label, count: label of the progress bar, a verb; number of jobs, if it is known.
        few: largest number of jobs that this process does alone. Default: `FEW`.
        processes: number of workers; 1 does all jobs here. Default: as many as processors, at most `MOST_PROCESSES`.

    Raises:
        InputError: if a worker ended, for want of memory as a rule; and what ``function`` raises.
    """
    processes = min(os.cpu_count() or 1, MOST_PROCESSES) if processes is None else processes
    jobs, few = iter(jobs), FEW if few is None else few
    first = list(islice(jobs, few + 1))
    jobs = chain(first, jobs)
    if count is not None:
        processes = min(processes, count)
    sent = _sent(codec) if len(first) > few and processes > 1 else None
    pool = _pool(processes, sent) if sent else None
    if sent is None or pool is None:
        yield from progress((function(codec, *job) for job in jobs), label, count)
        return
    before = set(multiprocessing.active_children())
    with _unlinked(sent), pool:
        try:
            yield from progress(_in_order(pool, function, jobs, AHEAD * processes), label, count)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                message = f"cannot {label} with {processes} processes at once: one of them ended, for want of memory"
                if not hasattr(sys, "ps1"):
                    message += ' or because a script does its work without `if __name__ == "__main__":`'
                raise InputError(message) from error
            raise


def _in_order(pool: ProcessPoolExecutor, function: Callable[..., Any], jobs: Iterator[Job], most: int) -> Iterator[Any]:
    """The results in order, of jobs of which at most so many are in the pool."""
    waiting: deque[Future[Any]] = deque()
    while True:
        for job in islice(jobs, most - len(waiting)):
            with _uninterrupted():  # a process that starts now must not see an interrupt
                waiting.append(pool.submit(_run, function, job))
        if not waiting:
            return
        yield waiting.popleft().result()


def _sent(codec: Codec) -> SharedMemory | None:
    """The codec's pickle in memory that workers share; None if it cannot be pickled, or ``/dev/shm`` cannot be written.

    As an argument of the workers it could block for ever: `multiprocessing` writes arguments into a pipe that it also
    holds open for reading, and waits if they fill it and the worker is killed before it has read them.
    """
    try:
        content = pickle.dumps(codec.with_threads(1))
        memory = SharedMemory(create=True, size=len(content))
    except (TypeError, OSError, ImportError):
        return None
    assert memory.buf is not None
    memory.buf[: len(content)] = content
    return memory


@contextmanager
def _unlinked(memory: SharedMemory) -> Iterator[None]:
    try:
        yield
    finally:
        memory.close()
        memory.unlink()


def _pool(processes: int, sent: SharedMemory) -> ProcessPoolExecutor | None:
    """The processes; None where the system has no semaphores."""
    try:
        return ProcessPoolExecutor(processes, get_context("spawn"), _start, (sent.name,))
    except (OSError, ImportError, NotImplementedError):
        with _unlinked(sent):
            return None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds an interrupt back until the block ends; a process that is started in it never gets one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


# === In a worker ===


def _start(sent: str) -> None:
    global _codec
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a worker has begun to write is undone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    hide()
    memory = SharedMemory(sent)
    assert memory.buf is not None
    _codec = pickle.loads(memory.buf)  # noqa: S301 - the parent's own
    memory.close()


def _run(function: Callable[..., Any], job: Job) -> Any:
    try:
        return function(_codec, *job)
    except SystemExit:  # which the pool would take for a result
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
