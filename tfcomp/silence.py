"""A block without warnings that threads may share."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

from tfcomp.process_settings import ProcessSetting


def _silenced() -> Any:
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("ignore")
    return caught


_off: ProcessSetting[None, Any] = ProcessSetting(
    _silenced, lambda _: None, lambda caught: caught.__exit__(None, None, None)
)


def no_warnings() -> AbstractContextManager[None]:
    """Switches the process's warnings off within the block: the first thread to begin, and on again the last to end.

    Examples:
        >>> with no_warnings():
        ...     warnings.warn("not seen", stacklevel=1)
    """
    return _off.inside(None)
