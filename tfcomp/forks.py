"""State in a forked process: a lock that another thread held at the fork would never be released.

Until Python 3.12 a `functools.cached_property` holds a lock while it computes, one for all objects of its class.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import cached_property


def in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Decorator: the function runs in every process that is forked from this one."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=function)
    return function


@in_child
def renew_locks() -> None:
    """Gives the cached properties of this package's classes new locks."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "tfcomp"]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    for value in (value for owner in classes for value in vars(owner).values()):
        if isinstance(value, cached_property) and hasattr(value, "lock"):
            value.lock = threading.RLock()
