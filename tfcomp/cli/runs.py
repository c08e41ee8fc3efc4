"""The folder that ``tfcomp train`` writes: the model, its settings, and the history of its training.

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
    """A trained model's folder, the settings of its command, and its metrics by name, a number for each epoch."""

    folder: Path
    settings: Mapping[str, Any]
    history: Mapping[str, list[float]]

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """The run in a folder; raises `InputError` if there is none."""
        try:
            log = json.loads((Path(folder) / RUN).read_text())
            settings, history = dict(log["settings"]), dict(log["history"])
            if not isinstance(settings["data"], str) or not all(isinstance(v, list) and v for v in history.values()):
                raise TypeError
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"expected a run of `tfcomp train` with a {RUN} in it, found none at {folder}") from error
        return cls(Path(folder), settings, history)

    @staticmethod
    def write(folder: Path, settings: Mapping[str, Any], history: Mapping[str, list[float]]) -> None:
        settings = dict(settings)
        if Path(str(settings.get("data", ""))).exists():  # absolute, so that another folder's commands find it
            settings["data"] = str(Path(settings["data"]).resolve())
        log = {"tfcomp": __version__, "settings": settings, "history": dict(history)}
        (folder / RUN).write_text(json.dumps(log, indent=2, default=float) + "\n")

    @property
    def model(self) -> Path:
        return self.folder / MODEL


def is_run(folder: str | Path) -> bool:
    """Whether the folder holds a run."""
    return (Path(folder) / RUN).is_file()


def training_folder(data: str | Path) -> Path:
    """The photographs to train on: ``train`` if ``val`` or ``test`` is beside it, else all."""
    folder = Path(data)
    split = (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("val", "test"))
    return folder / "train" if split else folder


def validation_folder(data: str | Path) -> Path | None:
    """The held-out photographs: ``val`` if the folder is split into ``train`` and ``val``, else None."""
    folder = Path(data)
    return folder / "val" if (folder / "train").is_dir() and (folder / "val").is_dir() else None


def test_folder(data: str | Path) -> Path:
    """The photographs to measure on: ``test`` if the folder has it, else all."""
    folder = Path(data)
    return folder / "test" if (folder / "test").is_dir() else folder
