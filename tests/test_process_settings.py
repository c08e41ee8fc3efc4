"""What is set for the whole process while threads are inside a block, and after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfcomp.process_settings import ProcessSetting

WAIT_S = 60.0


@pytest.fixture
def level() -> list[int]:
    """The process's own value, which is set to the largest of those of all blocks."""
    return [7]


@pytest.fixture
def setting(level: list[int]) -> ProcessSetting[int, int]:
    def put(value: int) -> None:
        level[0] = value

    return ProcessSetting(lambda: level[0], lambda values: put(max(values)), put)


def test_the_last_thread_to_leave_puts_back_what_was_there(setting: ProcessSetting[int, int], level: list[int]) -> None:
    both_inside, first_left = threading.Barrier(2, timeout=WAIT_S), threading.Event()
    seen = []

    def first() -> None:
        with setting.inside(100):
            both_inside.wait()
        seen.append(level[0])
        first_left.set()

    def last() -> None:
        with setting.inside(300):
            both_inside.wait()
            assert first_left.wait(WAIT_S)
            seen.append(level[0])

    with ThreadPoolExecutor(2) as pool:
        for work in [pool.submit(first), pool.submit(last)]:
            work.result(WAIT_S)
    assert seen == [300, 300]
    assert level == [7]


def test_blocks_of_one_thread_lie_in_one_another(setting: ProcessSetting[int, int], level: list[int]) -> None:
    with setting.inside(3):
        with setting.inside(5):
            assert level == [5]
        assert level == [3]
        with pytest.raises(RuntimeError), setting.inside(4):
            raise RuntimeError
        assert level == [3]
    assert level == [7]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_is_in_the_blocks_of_its_own_thread_alone() -> None:
    script = """
        import os, threading
        from PIL import Image
        from tfcomp.storage.pixel_limit import pixel_limit
        inside, over, before = threading.Event(), threading.Event(), Image.MAX_IMAGE_PIXELS
        def other():
            with pixel_limit(2000):
                inside.set()
                over.wait()
        threading.Thread(target=other, daemon=True).start()
        inside.wait()
        def child(expected):
            number = os.fork()
            if number:
                return print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
            os._exit(0 if Image.MAX_IMAGE_PIXELS == expected else 3)
        child(before)
        with pixel_limit(1000):
            child(1000)
            number = os.fork()
        if not number:
            os._exit(0 if Image.MAX_IMAGE_PIXELS == before else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), Image.MAX_IMAGE_PIXELS)
        over.set()
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["0", "0", "0", "2000"], done.stdout + done.stderr
