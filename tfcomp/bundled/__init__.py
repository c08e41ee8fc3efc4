"""Artifacts that come with the package, a folder each, found by their names."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from tfcomp.errors import InputError

DEFAULT = "photographs"
_ROOT = Path(str(resources.files(__name__)))


def folders() -> dict[str, Path]:
    """The folder of each artifact, by its name."""
    return {folder.name: folder for folder in sorted(_ROOT.iterdir()) if folder.is_dir() and folder.name[0] != "_"}


def resolve(path: str | os.PathLike[str], file: str) -> Path:
    """The folder that a path names: the user's own, if it holds ``file``, else the bundled artifact of that name.

    Raises:
        InputError: if ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"expected a folder or the name of a bundled artifact, found {path!r}")
    folder = Path(path)
    return folder if (folder / file).is_file() else folders().get(str(path), folder)
