"""Lines that libraries in C and C++ write to stderr, kept apart from a command's one clear line."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tfcomp.errors import TfcompError

_INFORMATION = re.compile(
    rb"INFO: |I\d{4} [\d:.]+ |WARNING: All log messages before absl::InitializeLog|To enable the following instructions"
)
"""Beginnings of lines of LiteRT and TensorFlow that no user can do anything about."""


def _memory() -> BinaryIO | None:
    """A file without a name; None where there is neither memory nor a folder for one."""
    try:
        if hasattr(os, "memfd_create"):
            return os.fdopen(os.memfd_create("stderr"), "w+b")
        return tempfile.TemporaryFile()
    except OSError:
        return None


@contextmanager
def held_native_lines(*, dropped: bool = False) -> Iterator[None]:
    """A context that holds back the lines of C and C++ libraries on stderr, as LiteRT and libtiff write them.

    Contexts may be nested: the outer one gets the lines that the inner one lets pass. Python's lines and progress bars
    pass at once. When the block ends, all other lines but information pass; none does if it ends with a `TfcompError`
    or an interrupt, whose one line says enough, or if ``dropped``.
    """
    held = None if sys.stderr is None else _memory()
    if held is None:  # the caller closed stderr: its number may be another file's by now
        yield
        return
    native, python = os.dup(2), sys.stderr
    with held, os.fdopen(native, "w", buffering=1, errors="backslashreplace") as passing:
        os.dup2(held.fileno(), 2)
        if python is sys.__stderr__:
            sys.stderr = passing
        refused = dropped
        try:
            yield
        except (TfcompError, KeyboardInterrupt):
            refused = True
            raise
        finally:
            sys.stderr = python
            os.dup2(native, 2)
            held.seek(0)
            for line in held:
                if not refused and not _INFORMATION.match(line):
                    os.write(2, line)
