"""Python under JAX in a process of its own, on the processors, since a backend is chosen once in a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run_under_jax(*arguments: str, timeout: float = 120) -> None:
    """Runs Python with these arguments; the test is skipped without JAX, and fails with the output of what fails."""
    pytest.importorskip("jax")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
