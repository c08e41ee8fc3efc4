"""A run that is being trained: what a stopped one goes on from, in the folder ``.RUN.unfinished`` beside its output.

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
    """How far a run has come.

    Attributes:
        settings: of the command.
        done: steps.
        seconds: that they took.
        epochs: that ended.
        history: by name, a number for each epoch.
        first: losses at the beginning, one for each quality; None where it began from nothing.
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
    """Where the run with this output is kept while it is trained."""
    target = Path(out).resolve()
    return target.with_name(f".{target.name}.unfinished")


def write(out: str, state: State, model: Any, choice: Choice) -> None:
    """Replaces what is kept of the run, whole or not at all."""
    with replacing_folder(folder_of(out), STATE, own=[MODEL, BEST]) as folder:
        model.save(folder / MODEL)
        with (folder / BEST).open("wb") as file:
            np.savez(file, *choice.weights)
        (folder / STATE).write_text(json.dumps(asdict(state)))


def read(out: str, settings: Mapping[str, Any]) -> tuple[State, Any, Choice] | None:
    """What to go on from; None if there is nothing.

    Raises:
        InputError: if it was of other settings, or cannot be read.
    """
    folder = folder_of(out)
    if not (folder / STATE).is_file():
        return None
    begin_anew = f"remove {folder} to begin anew"
    with everything_as(InputError, f"expected a run to go on with; {begin_anew}"):
        state = State(**json.loads((folder / STATE).read_text()))
        for name in sorted({*settings, *state.settings}):
            found, before = (json.loads(json.dumps(each.get(name))) for each in (settings, state.settings))
            if found != before:
                raise InputError(
                    f"expected {name} {before} to go on with the run that was stopped, found {found}; {begin_anew}"
                )
        model = keras.saving.load_model(folder / MODEL, safe_mode=True)
        with np.load(folder / BEST, allow_pickle=False) as arrays:
            weights = [arrays[name] for name in arrays.files]
    first = None if state.first is None else np.array(state.first)
    return state, model, Choice(first, state.best_epoch, state.score, weights)


def remove(out: str) -> None:
    """Forgets the run, which has ended."""
    shutil.rmtree(folder_of(out), ignore_errors=True)
