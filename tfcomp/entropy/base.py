"""Common to all entropy models: a written format id, named arrays, and a fingerprint made of both.

The fingerprint is the first 16 bytes of SHA-256 over the format id and then, for each array in the order of its name::

    name, dtype, rank      UTF-8 name and NumPy's little-endian dtype string ("<i4"), each ended by a zero byte; 1 byte
    dimensions             8 bytes each, little-endian
    values                 in C order, little-endian

so that arrays of other names or shapes have another fingerprint though their bytes be equal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError, InputError

FINGERPRINT_BYTES = 16
TABLE_RANKS = {"precision": 0, "lower": 1, "sizes": 1, "frequencies": 1}
"""Number of axes of each array of `tfcomp.coding.tables.FrequencyTables`."""

STATIC, CONTEXT, SAMPLE = "static-1", "context-1", "sample-1"
FORMATS = {
    STATIC: "latents of one shape, a table for each position: `static.StaticModel`; a payload is the code alone",
    CONTEXT: "latents of any size, in tiles: `context.ContextModel`; a payload begins with its quality and size",
    SAMPLE: "samples of a posterior, of one shape: `sample.SampleModel`; a payload is the code alone",
}
"""Every format that this version reads. An id is never given to another format; a change makes a new one."""


def fingerprint(format_id: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """16 bytes that name a format and arrays; the module's docstring is the recipe.

    Examples:
        >>> fingerprint("static-1", {"a": np.zeros(2, np.int32)}).hex()[:8]
        'a382f924'
    """
    digest = hashlib.sha256(format_id.encode() + b"\0")
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(name.encode() + b"\0" + array.dtype.str.encode() + b"\0" + bytes([array.ndim]))
        digest.update(np.array(array.shape, "<u8").tobytes() + array.tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]


def flat(latents: NDArray[np.integer], latent_shape: tuple[int, ...]) -> NDArray[np.integer]:
    """[N, *latent_shape] -> [N, symbols]; raises `InputError` on latents of another shape or dtype."""
    if latents.shape[1:] != latent_shape or not np.issubdtype(latents.dtype, np.integer):
        raise InputError(f"expected integer latents [N, *{latent_shape}], found {latents.dtype} {latents.shape}")
    return latents.reshape(len(latents), math.prod(latent_shape))


def int32_arrays(arrays: Mapping[str, NDArray[Any]], ranks: Mapping[str, int]) -> dict[str, NDArray[np.int32]]:
    """The named arrays of a mapping; others in it are left alone.

    Args:
        arrays: from a file.
        ranks: number of axes of each array that is wanted.

    Raises:
        BitstreamError: if an array is missing, is no int32, or has another number of axes.
    """
    if missing := sorted(set(ranks) - set(arrays)):
        raise BitstreamError(f"expected the arrays of an entropy model, found none named {', '.join(missing)}")
    checked = {name: np.asarray(arrays[name]) for name in ranks}
    for name, array in checked.items():
        if array.dtype != np.int32 or array.ndim != ranks[name]:
            shape = list(array.shape)
            raise BitstreamError(f"expected {name} as int32 of rank {ranks[name]}, found {array.dtype} {shape}")
    return checked
