"""An unfinished run, which goes on from here if it is stopped: the folder ``.RUN.unfinished`` beside its output.

model.keras   the model as it is, with its optimizer's state
best.npz      the best weights until now, in Keras's order
state.json    settings, steps, seconds, epochs, history, losses at the beginning
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcomp.artifact.manifest import MODEL
from tfcomp.cli.watching import Choice
from tfcomp.errors import InputError, everything_as
from tfcomp.storage.writing import replacing_folder

STATE, BEST = "state.json", "best.npz"


@dataclass(frozen=True)
class State:
    """The progress of a run.

    Attributes:
        settings: settings of the command.
        done: number of steps.
        seconds: time that the steps took.
        epochs: number of epochs that ended.
        history: metrics by name, a number for each epoch.
        first: losses of the first weights, one for each quality; None for a run that began from nothing.
        best_epoch, score: see `watching.Choice`.
    """

    settings: Mapping[str, Any]
    done: int
    seconds: float
    epochs: int
    history: Mapping[str, list[float]]
    first: list[float] | None
    best_epoch: int
    score: float


def folder_of(out: str) -> Path:
    """The folder of an unfinished run with this output."""
    target = Path(out).resolve()
    return target.with_name(f".{target.name}.unfinished")


def write(out: str, state: State, model: Any, choice: Choice) -> None:
    """Replaces the folder of the unfinished run, whole or not at all."""
    with replacing_folder(folder_of(out), STATE, own=[MODEL, BEST]) as folder:
        model.save(folder / MODEL)
        with (folder / BEST).open("wb") as file:
            np.savez(file, *choice.weights)
        (folder / STATE).write_text(json.dumps(asdict(state)))


def read(out: str, settings: Mapping[str, Any]) -> tuple[State, Any, Choice] | None:
    """State, model and choice of an unfinished run, or None; raises `InputError` on other settings and damage."""
    folder = folder_of(out)
    if not (folder / STATE).is_file():
        return None
    begin_anew = f"remove {folder} to begin anew"
    with everything_as(InputError, f"expected a run to go on with; {begin_anew}"):
        state = State(**json.loads((folder / STATE).read_text()))
        for name in sorted({*settings, *state.settings}):
            now, before = (json.loads(json.dumps(each.get(name))) for each in (settings, state.settings))
            if now != before:
                raise InputError(
                    f"expected {name} {before} to go on with the run that was stopped, found {now}; {begin_anew}"
                )
        model = keras.saving.load_model(folder / MODEL, safe_mode=True)
        with np.load(folder / BEST, allow_pickle=False) as arrays:
            weights = [arrays[name] for name in arrays.files]
    first = None if state.first is None else np.array(state.first)
    return state, model, Choice(first, state.best_epoch, state.score, weights)


def remove(out: str) -> None:
    """Removes the folder of a run that has ended."""
    shutil.rmtree(folder_of(out), ignore_errors=True)
