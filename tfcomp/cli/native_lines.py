"""What libraries in C and C++ write to stderr on their own, kept out of a command's one clear line."""

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
"""How lines of LiteRT and TensorFlow begin that no user can do anything about."""


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
    """Holds back what C and C++ libraries write to the process's stderr: LiteRT's announcements, libtiff's complaints.

    One may lie in another, which then gets what it would have let pass. Python's own lines and progress bars pass. Of
    the others, information is dropped, and everything is where an error says in one line what is wrong, or an interrupt
    does, or where it is to be ``dropped``.
    """
    said = None if sys.stderr is None else _memory()
    if said is None:  # stderr was closed by the caller: its number may be another file's by now
        yield
        return
    own, python = os.dup(2), sys.stderr
    with said, os.fdopen(own, "w", buffering=1, errors="backslashreplace") as passing:
        os.dup2(said.fileno(), 2)
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
            os.dup2(own, 2)
            said.seek(0)
            for line in said:
                if not refused and not _INFORMATION.match(line):
                    os.write(2, line)
