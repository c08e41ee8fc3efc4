"""Output of commands: on a stdout that may be closed, full or unable to encode a name, and one line on stderr."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tfcomp.errors import InputError, TfcompError

if TYPE_CHECKING:
    from tfcomp.bulk import Report

_KEPT = "\n\t"


def plain(text: str) -> str:
    """The text with control characters spelt out, so that a name cannot move the cursor of a terminal."""
    return "".join(c if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cs") else ascii(c)[1:-1] for c in text)


def say(*lines: object) -> None:
    """Prints lines of a command's result."""
    for line in lines:
        print(plain(str(line)))


def refuse(error: BaseException | str) -> None:
    """Prints the one line on stderr that says what is wrong."""
    line = f"tfcomp: {plain(' '.join(str(error).split()))}"
    with suppress(OSError):  # stderr may be closed
        print(line, file=sys.stderr)


def report_skipped(skipped: Collection[TfcompError], count: int) -> None:
    """Raises one `InputError` of the errors of all images that a command left out, if there are any."""
    if skipped:
        raise InputError(f"skipped {len(skipped)} of {count} images: {'; '.join(map(str, skipped))}")


def say_report(folder: str, report: Report) -> None:
    """Prints the report of a folder of shards, or of their images; raises `InputError` if any image was left out."""
    already = f", {report.kept} of them there already" if report.kept else ""
    images, shards = (
        f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in ((report.items, "image"), (report.shards, "shard"))
    )
    say(f"{folder}: {images} of {shards} in {report.bytes:,} bytes{already}")
    if report.skipped:
        raise InputError(f"skipped {report.skipped} of {report.items + report.skipped} images, named in {folder}")


class _Stdout(io.FileIO):
    """Descriptor 1; once its reader has gone, output is dropped and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))


def forgiving_stdout() -> None:
    """Replaces stdout by one that drops output without a reader, and spells out characters that it cannot encode."""
    old = sys.stdout
    if old is None or old is not sys.__stdout__ or not isinstance(old, io.TextIOWrapper):
        return
    try:
        old.flush()
        raw = _Stdout(os.dup(old.fileno()), "w")
    except OSError:
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=old.encoding, errors="backslashreplace", line_buffering=old.line_buffering
    )


def finish_stdout() -> None:
    """Flushes stdout; raises `OSError` if that fails, and then nothing is left that would be tried again."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        full, sys.stdout = sys.stdout, None
        with suppress(OSError):
            full.close()  # tries once more, which from Python 3.13 on the end of the object would show
        raise
