"""``tables.npz``: the numbers of a codec's parts. No size that the file claims is trusted before it is checked."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.entropy.model_set import stack, unstack
from tfcomp.errors import BitstreamError, everything_as
from tfcomp.parts import Parts, Quality

MAX_BYTES = 1 << 28
"""Largest total of all arrays, in bytes, uncompressed."""
MAX_MEMBERS = 4096

Arrays = dict[str, NDArray[Any]]
_ROUNDING = ("step", "offset", "curvature")
"""Names of a quality's arrays, which are stored as one array of all qualities each."""
_MEMBERS = re.compile(rf"({'|'.join(('unit', 'zero', *_ROUNDING, 'lagrangian', 'model_.+'))})\.npy\Z")
"""Names of the members that `to_arrays` makes; others are not read."""


def write(path: Path, parts: Parts) -> None:
    """Write the file."""
    np.savez_compressed(path, allow_pickle=False, **to_arrays(parts))


def to_arrays(parts: Parts) -> Arrays:
    """Steps, offsets and entropy models as named arrays; arrays of qualities have one more axis, in front."""
    arrays: Arrays = {"unit": parts.unit, "zero": parts.zero}
    for name in _ROUNDING:
        values = [getattr(quality, name) for quality in parts.qualities]
        if all(value is not None for value in values):
            arrays[name] = np.stack(values)
    prices = [quality.lagrangian for quality in parts.qualities]
    if all(price is not None for price in prices):
        arrays["lagrangian"] = np.array(prices, np.float64)
    return arrays | {f"model_{name}": a for name, a in stack([q.entropy for q in parts.qualities]).items()}


def qualities(format_id: str, numbers: tuple[int, ...], arrays: Mapping[str, NDArray[Any]]) -> tuple[Quality, ...]:
    """The qualities that `to_arrays` wrote.

    Args:
        format_id: of the entropy models.
        numbers: of the qualities, from 1.
        arrays: by name.

    Raises:
        BitstreamError: if the arrays are not such qualities'.
    """
    with everything_as(BitstreamError, f"expected steps and tables of {len(numbers)} qualities"):
        model_arrays = {name[len("model_") :]: a for name, a in arrays.items() if name.startswith("model_")}
        models = unstack(format_id, model_arrays)
        optional = {name: arrays.get(name, [None] * len(models)) for name in ("curvature", "lagrangian")}
        columns = [numbers, arrays["step"], arrays["offset"], models, *optional.values()]
        return tuple(
            Quality(number, step, offset, model, curvature, None if price is None else float(price))
            for number, step, offset, model, curvature, price in zip(*columns, strict=True)
        )


def read(content: bytes, source: str) -> Arrays:
    """The arrays of an ``.npz`` that a codec's parts are made of; other members are not read.

    Raises:
        BitstreamError: if ``content`` is no ``.npz``, or claims more than `MAX_BYTES`.
    """
    with (
        everything_as(BitstreamError, f"{source}: expected frequency tables"),
        zipfile.ZipFile(io.BytesIO(content)) as file,
    ):
        members = file.infolist()
        full = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or full > MAX_BYTES:
            limits = f"at most {MAX_MEMBERS} arrays of {MAX_BYTES} bytes"
            raise BitstreamError(f"{source}: expected {limits}, found {len(members)} of {full}")
        wanted = {member.filename.removesuffix(".npy"): member for member in members if _MEMBERS.match(member.filename)}
        return {name: _array(file, member) for name, member in wanted.items()}


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array whose header claims as many bytes as there are; NumPy's own reader trusts it and takes memory first."""
    with file.open(member) as stream:
        header = np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(stream) != (1, 0):
            header = np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = header(stream)
        claimed, there = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if dtype.hasobject or claimed != there or min(shape, default=0) < 0:
            claim = f"{dtype} {list(shape)[:8]}"
            raise BitstreamError(f"expected frequency tables, found {there} bytes of {member.filename} for {claim}")
        values = np.frombuffer(bytearray(stream.read()), dtype)
        return values.reshape(shape, order="F" if is_fortran else "C")
