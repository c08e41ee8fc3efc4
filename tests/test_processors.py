"""As many threads at work as there are processors: `tfcomp.processors`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfcomp import processors

WAIT_S = 60.0


@pytest.fixture
def two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_free", threading.BoundedSemaphore(2))


@pytest.mark.usefixtures("two_places")
def test_no_more_threads_than_processors_are_at_work() -> None:
    lock, at_work, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal at_work, most
        with processors.processor():
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.005)
            with lock:
                at_work -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == 2
    assert at_work == 0


@pytest.mark.usefixtures("two_places")
def test_a_thread_that_has_a_processor_does_not_wait_for_another() -> None:
    both_inside = threading.Barrier(2, timeout=WAIT_S)

    def nested(_: int) -> bool:
        with processors.processor():
            both_inside.wait()  # now no place is free
            with processors.processor():
                return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(nested, range(2), timeout=WAIT_S)) == [True, True]


@pytest.mark.usefixtures("two_places")
def test_an_error_gives_the_processor_back() -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="spoiled"), processors.processor():
            raise ValueError("spoiled")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_all_processors() -> None:
    """Forked while another thread holds the only place, a process would wait for ever."""
    script = """
import os, threading
from tfcomp import processors
processors._free = threading.BoundedSemaphore(1)
held, done = threading.Event(), threading.Event()
def hold():
    with processors.processor():
        held.set()
        done.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    with processors.processor():
        os._exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
assert status == 7, status
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=WAIT_S)
