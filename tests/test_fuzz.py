"""A fiftieth of the damaged and forged files of `fuzz/`: `make fuzz` runs 100,000. Some of its kills, where time is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fuzz

CASES, GROUPS = 2000, 4


@pytest.mark.further
@pytest.mark.parametrize("group", [pytest.param(i, marks=pytest.mark.xdist_group(f"fuzz{i}")) for i in range(GROUPS)])
def test_nothing_but_named_errors_and_right_results(group: int) -> None:
    pytest.importorskip("numba")
    outcomes: Counter[str] = Counter()
    for number in range(group, CASES, GROUPS):
        if fuzz.target_of(number, 0) == "saved_model":
            pytest.importorskip("tensorflow")
        try:
            outcomes[fuzz.run(number, 0)] += 1
        except BaseException as error:
            raise AssertionError(f"python fuzz/fuzz.py --case {number} shows it again") from error
    # Both happen in every target: cases that are all refused would show little.
    for target in ("archive", "payload", "manifest", "tables"):
        assert outcomes[f"{target}: right"] > 0
        assert outcomes[f"{target}: BitstreamError"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
@pytest.mark.parametrize("name", ["compress", "compress by workers", "decompress", "decompress over others"])
def test_a_killed_command_leaves_the_old_or_the_new(name: str) -> None:
    script = Path(fuzz.__file__).with_name("kill.py")
    done = subprocess.run(
        [sys.executable, script, "--moments", "40", "--only", name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "killed" in done.stdout
