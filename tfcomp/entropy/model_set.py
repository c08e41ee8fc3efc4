"""The entropy models of all qualities of a codec in one mapping of named arrays, for an ``.npz``.

    qualities          int32 [], how many
    NAME               an array that all qualities have
    Q/NAME             an array that quality Q has for its own, Q from 1

The models define the names: `StaticModel.arrays` and so on. An array that is equal in all qualities is stored once, and
models that were read share such tables. `MODELS` says which class a written format id stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.entropy import base
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.sample import SampleModel
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError, InputError

MAX_QUALITIES = 64
"""Largest number of qualities of a codec: a payload of an item of any size has six bits for it."""

Model = StaticModel | ContextModel | SampleModel

MODELS: dict[str, type[Model]] = {
    StaticModel.format_id: StaticModel,
    ContextModel.format_id: ContextModel,
    SampleModel.format_id: SampleModel,
}
"""The class of each of `base.FORMATS`."""


def stack(models: Sequence[Model]) -> dict[str, NDArray[Any]]:
    """Models of one class, the lowest quality first, as named arrays.

    Raises:
        InputError: if there is none, too many, or several classes.
    """
    if not 1 <= len(models) <= MAX_QUALITIES or len({model.format_id for model in models}) > 1:
        formats = ", ".join(model.format_id for model in models) or "none"
        raise InputError(f"expected 1 to {MAX_QUALITIES} models of one format, found {formats}")
    first, *others = all_arrays = [model.arrays() for model in models]
    arrays_of_all = {"qualities": np.array(len(models), np.int32)}
    for name, array in first.items():
        if all(np.array_equal(array, other[name]) for other in others):
            arrays_of_all[name] = array
        else:
            arrays_of_all |= {f"{quality}/{name}": arrays[name] for quality, arrays in enumerate(all_arrays, 1)}
    return arrays_of_all


def unstack(format_id: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Model, ...]:
    """The inverse of `stack`.

    Args:
        format_id: key of `MODELS`.
        arrays: as `stack` returns them; arrays of other names are left alone.

    Raises:
        BitstreamError: on a format that this version does not know, or anything that is not valid models.
    """
    if format_id not in MODELS:
        raise BitstreamError(f"expected an entropy model of {' or '.join(MODELS)}, found {format_id!r}")
    count = int(base.int32_arrays(arrays, {"qualities": 0})["qualities"])
    if not 1 <= count <= MAX_QUALITIES:
        raise BitstreamError(f"expected 1 to {MAX_QUALITIES} qualities, found {count}")
    models: list[Model] = []
    for quality in range(1, count + 1):
        prefix = f"{quality}/"
        of_quality = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        model: Model = MODELS[format_id].from_arrays({**arrays, **of_quality})
        if models and not of_quality.keys() & base.TABLE_RANKS:
            model = replace(model, tables=models[0].tables)  # shared, so that their look-ups are made once
        models.append(model)
    return tuple(models)
