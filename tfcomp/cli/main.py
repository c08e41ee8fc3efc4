"""The command line. Exit status: 0 done, 2 the user's input is wrong (one line on stderr), 1 a defect (a traceback).

An interrupt ends any command with one line and status 130. Each command is a module of this folder, imported when it is
called: ``--help`` needs none of them.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # see `tfcomp`
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

AGAIN_SECONDS = 15
"""Time after which an interrupt is raised again, if the command still runs."""
AT_ONCE = 0.01
"""Time after which an interrupt that a finalizer is known to have swallowed is raised again."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of the process, with its interrupts; returns the exit status."""
    process = arguments is None
    received: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        """The first interrupt undoes what was begun; the second ends the process at once."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        received.append(number)
        _ask_again(AGAIN_SECONDS)
        raise KeyboardInterrupt

    def passed_over(error: sys.UnraisableHookArgs) -> None:
        """Raises an interrupt again that a finalizer or a callback of a library has swallowed."""
        if received:
            _ask_again(AT_ONCE)
        else:
            sys.__unraisablehook__(error)

    try:
        if process:
            signal.signal(signal.SIGINT, interrupt)
            sys.unraisablehook = passed_over
        status = _run(arguments, process)
    except BaseException as error:
        if process:
            _ask_again(0)
        # An import that is interrupted may end in another error.
        if not received and not isinstance(error, KeyboardInterrupt):
            raise
        from tfcomp.cli import console

        console.refuse("interrupted; no file was left half-written")
        status = INTERRUPTED
    if process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is done or undone
        if status == INTERRUPTED:
            _end()
    return status


def _ask_again(seconds: float) -> None:
    """Raises the interrupt again after some seconds, if the command still runs then; 0 calls that off."""
    if not hasattr(signal, "setitimer"):  # under Windows
        return

    def interrupt(*_: Any) -> None:
        _ask_again(AGAIN_SECONDS)
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt if seconds else signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _end() -> NoReturn:
    """Ends the process with the status of an interrupt, which Python would die of if it passed through `exec`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    finally:
        os._exit(INTERRUPTED)


def _run(arguments: Sequence[str] | None, process: bool) -> int:
    import logging
    from contextlib import nullcontext
    from importlib import import_module

    from tfcomp.cli import console
    from tfcomp.cli.arguments import parser
    from tfcomp.cli.native_lines import held_native_lines
    from tfcomp.errors import TfcompError, missing_dependency

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python prints its errors beside ours
    if process:
        console.forgiving_stdout()
    try:
        args = parser().parse_args(arguments)
        with held_native_lines() if process else nullcontext():
            import_module(f"tfcomp.cli.{args.module}").run(args)
        if process:
            console.finish_stdout()
    except (TfcompError, OSError) as error:
        console.refuse(error)
        return 2
    except ModuleNotFoundError as error:
        missing = missing_dependency(error)
        if missing is None:
            raise
        console.refuse(missing)
        return 2
    return 0
