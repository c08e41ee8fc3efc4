"""What every entropy model has: a written format id, named arrays, and a fingerprint made of both.

The fingerprint is the first 16 bytes of SHA-256 over the format id and then, for each array in the order of its name::

    name, dtype, rank      UTF-8 name and NumPy's little-endian dtype string ("<i4"), each ended by a zero byte; 1 byte
    dimensions             8 bytes each, little-endian
    values                 in C order, little-endian

so that arrays of other names or shapes have another fingerprint though their bytes be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FINGERPRINT_BYTES = 16

STATIC, CONTEXT = "static-1", "context-1"
FORMATS = {
    STATIC: "latents of one shape, a table for each position: `static.StaticModel`; a payload is the code alone",
    CONTEXT: "latents of any size, in tiles: `context.ContextModel`; a payload begins with its quality and size",
}
"""Every format that this version reads. An id is never given to another format; a change makes a new one."""


class EntropyModel(Protocol):
    """Integer latents to bytes and back."""

    @property
    def format_id(self) -> str:
        """Key of `FORMATS`."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that name everything that decides the meaning of the bytes."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the model is, as named arrays."""
        ...


def fingerprint(format_id: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """16 bytes that name a format and arrays; the module's docstring is the recipe.

    Example:
        >>> fingerprint("static-1", {"a": np.zeros(2, np.int32)}).hex()[:8]
        'a382f924'
    """
    digest = hashlib.sha256(format_id.encode() + b"\0")
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(name.encode() + b"\0" + array.dtype.str.encode() + b"\0" + bytes([array.ndim]))
        digest.update(np.array(array.shape, "<u8").tobytes() + array.tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]
