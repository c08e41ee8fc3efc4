"""Work on many items by as many processes as there are processors, each with a codec that was sent to it by pickle.

An interrupt concerns the process that asked, not its workers: they do not see it, and end when that process ends them,
or when it is gone.
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

from tqdm import tqdm

from tfcomp.codec import Codec
from tfcomp.errors import InputError
from tfcomp.storage.image_files import limit_pixels, progress

FEW = 3
"""Largest number of items that are done one after another: starting other processes takes as long."""
MOST_PROCESSES = 8
"""Largest number of processes where none is asked for: each takes up to a gigabyte or two, for large photographs."""
AHEAD = 4
"""Number of items that wait for each process."""

Job = tuple[Any, ...]

_codec: Codec | None = None  # of a worker


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
        function: of a module, so that a worker finds it by name.
        jobs: arguments that can be sent to a worker.
        codec: what runs, here or in the workers; networks of a trained model, which cannot be sent, run here.
        label: of the progress bar, a verb.
        count: number of jobs, if it is known.
        few: largest number of jobs that are done here. Default: `FEW`.
        processes: number of workers; 1 does all jobs here. Default: as many as processors, at most `MOST_PROCESSES`.

    Raises:
        InputError: if a worker ended, for want of memory as a rule; and what ``function`` raises.
    """
    most = min(os.cpu_count() or 1, MOST_PROCESSES) if processes is None else processes
    jobs, few = iter(jobs), FEW if few is None else few
    first = list(islice(jobs, few + 1))
    jobs = chain(first, jobs)
    if count is not None:
        most = min(most, count)
    sent = _sent(codec) if len(first) > few and most > 1 else None
    pool = _pool(most, sent, codec.max_pixels) if sent else None
    if sent is None or pool is None:
        yield from progress((function(codec, *job) for job in jobs), label, count)
        return
    before = set(multiprocessing.active_children())
    with _unlinked(sent), pool:
        try:
            yield from progress(_in_order(pool, function, jobs, AHEAD * most), label, count)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                said = f"cannot {label} with {most} processes at once: one of them ended, for want of memory"
                if not hasattr(sys, "ps1"):
                    said += ' or because a script does its work without `if __name__ == "__main__":`'
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


def _sent(codec: Codec) -> SharedMemory | None:
    """The codec's pickle in memory that workers share; None if it has none, or without a writable ``/dev/shm``.

    It is no argument of the workers: `multiprocessing` writes these into a pipe that it also holds open for reading,
    and waits for ever if they fill it and the worker is killed before it has read them.
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


def _pool(processes: int, sent: SharedMemory, max_pixels: int) -> ProcessPoolExecutor | None:
    """The processes; None without semaphores."""
    try:
        return ProcessPoolExecutor(processes, get_context("spawn"), _start, (sent.name, max_pixels))
    except (OSError, ImportError, NotImplementedError):
        with _unlinked(sent):
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


def _start(sent: str, max_pixels: int) -> None:
    global _codec
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a worker has begun to write is undone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_pixels(max_pixels)
    _draw_no_bars()
    memory = SharedMemory(sent)
    assert memory.buf is not None
    _codec = pickle.loads(memory.buf)  # noqa: S301 - the parent's own
    memory.close()


def _draw_no_bars() -> None:
    """Leaves the terminal to the process that asked, whose own bar tells of all workers."""
    drawn = tqdm.__init__

    def hidden(self: Any, *arguments: Any, **options: Any) -> None:
        drawn(self, *arguments, **{**options, "disable": True})

    tqdm.__init__ = hidden


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
