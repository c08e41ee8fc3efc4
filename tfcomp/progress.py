"""Progress bars: one look for all of them, and none in worker processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_hidden = False


def progress(items: Iterable[Any], label: str, total: int | None = None, *, unit: str = "it") -> Any:
    """The items, with a progress bar for work of more than a second; without one if the output is no terminal.

    Args:
        items: what is worked on.
        label: what the bar is called.
        total: number of items; by default as many as ``items`` says.
        unit: name of one item.

    Examples:
        >>> list(progress("abc", "letters"))
        ['a', 'b', 'c']
    """
    return tqdm(items, desc=label, total=total, unit=unit, delay=1.0, leave=False, disable=True if _hidden else None)


def hide() -> None:
    """Draws no more bars in this process: a worker's parent counts the jobs of all workers."""
    global _hidden
    _hidden = True
