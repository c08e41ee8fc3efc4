"""Work on many items by as many processes as there are processors, each with the codec of its own.

An interrupt concerns the command, not its workers: they do not see it, and end when the command ends them, or when it
is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any

from tfcomp.codec import Codec
from tfcomp.errors import InputError
from tfcomp.storage.image_files import limit_pixels, progress

FEW = 3
"""Largest number of items that are done one after another: starting other processes takes as long."""
MOST_PROCESSES = 8
"""Largest number of processes: each takes up to a gigabyte or two, for the largest photographs."""
AHEAD = 4
"""Number of items that wait for each process."""

Job = tuple[Any, ...]

_codec: Codec | None = None  # of a worker


def each(
    function: Callable[..., Any], jobs: Iterable[Job], count: int, codec: Codec, folder: str | None, label: str
) -> Iterator[Any]:
    """The results of ``function(codec, *job)``, in order; jobs are taken a few ahead of them.

    Args:
        function: of a module, so that a worker finds it by name.
        jobs: arguments that can be sent to a worker.
        count: number of jobs.
        codec: what runs here.
        folder: the artifact that it was loaded from, for the workers; None for the bundled one.
        label: of the progress bar, a verb.

    Raises:
        InputError: if a worker ended, for want of memory as a rule; and what ``function`` raises.
    """
    processes = min(count, os.cpu_count() or 1, MOST_PROCESSES)
    pool = _pool(processes, folder, codec.max_pixels) if count > FEW and processes > 1 else None
    if pool is None:
        yield from progress((function(codec, *job) for job in jobs), label, count)
        return
    before = set(multiprocessing.active_children())
    with pool:
        try:
            yield from progress(_in_order(pool, function, iter(jobs), AHEAD * processes), label, count)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                said = f"cannot {label} with {processes} processes at once: one of them ended"
                raise InputError(said) from error
            raise


def _in_order(pool: ProcessPoolExecutor, function: Callable[..., Any], jobs: Iterator[Job], most: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    while True:
        for job in islice(jobs, most - len(waiting)):
            with _uninterrupted():  # a process that starts now must not see an interrupt
                waiting.append(pool.submit(_run, function, job))
        if not waiting:
            return
        yield waiting.popleft().result()


def _pool(processes: int, folder: str | None, max_pixels: int) -> ProcessPoolExecutor | None:
    """The processes; None where the system has no semaphores for them, as without a writable ``/dev/shm``."""
    try:
        return ProcessPoolExecutor(processes, get_context("spawn"), _start, (folder, max_pixels))
    except (OSError, ImportError, NotImplementedError):
        return None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds an interrupt back until the block ends; what is started in it never gets one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


# === In a worker ===


def _start(folder: str | None, max_pixels: int) -> None:
    global _codec
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a worker has begun to write is undone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_pixels(max_pixels)
    _codec = Codec.load(folder, threads=1).with_max_pixels(max_pixels)


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
