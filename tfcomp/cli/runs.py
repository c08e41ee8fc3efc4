"""The folder that ``tfcomp train`` writes: the model, what it was trained on and how, and how that went.

model.keras   the model; `tfcomp.load_model`
run.json      versions, settings, history by epoch
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcomp.artifact.manifest import MODEL
from tfcomp.errors import InputError
from tfcomp.version import __version__

RUN = "run.json"


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: where it lies.
        settings: of the command.
        history: by name, a number for each epoch.
    """

    folder: Path
    settings: Mapping[str, Any]
    history: Mapping[str, list[float]]

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Raises `InputError` if there is none."""
        try:
            found = json.loads((Path(folder) / RUN).read_text())
            settings, history = dict(found["settings"]), dict(found["history"])
            if not isinstance(settings["data"], str) or not all(isinstance(v, list) and v for v in history.values()):
                raise TypeError
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"expected a run of `tfcomp train` with a {RUN} in it, found none at {folder}") from error
        return cls(Path(folder), settings, history)

    @staticmethod
    def write(folder: Path, settings: Mapping[str, Any], history: Mapping[str, list[float]]) -> None:
        settings = dict(settings)
        if Path(str(settings.get("data", ""))).exists():  # so that it is found from another folder too
            settings["data"] = str(Path(settings["data"]).resolve())
        log = {"tfcomp": __version__, "settings": settings, "history": dict(history)}
        (folder / RUN).write_text(json.dumps(log, indent=2, default=float) + "\n")

    @property
    def model(self) -> Path:
        return self.folder / MODEL


def is_run(folder: str | Path) -> bool:
    """Whether the folder says that it is one."""
    return (Path(folder) / RUN).is_file()


def training_folder(data: str | Path) -> Path:
    """The photographs to learn from: of a folder that is split into ``train`` and ``val`` or ``test``, the first."""
    folder = Path(data)
    split = (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("val", "test"))
    return folder / "train" if split else folder


def validation_folder(data: str | Path) -> Path | None:
    """The photographs to watch: ``val`` of a folder that is split so."""
    folder = Path(data)
    return folder / "val" if (folder / "train").is_dir() and (folder / "val").is_dir() else None


def test_folder(data: str | Path) -> Path:
    """The photographs to measure on: ``test`` of a folder that has one."""
    folder = Path(data)
    return folder / "test" if (folder / "test").is_dir() else folder
