"""Variable-length integers (LEB128): seven bits a byte, lowest first, the high bit set on all but the last byte.

    0 <= value < 2**63,    1 <= bytes <= 9,    the last of several bytes is not 0

so that every value has exactly one form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError

MAX_BYTES = 9
_CHUNK = 1 << 16


def pack(values: NDArray[np.int64]) -> bytes:
    """The bytes of non-negative integers, int64 [N], end to end.

    Examples:
        >>> pack(np.array([5, 300])).hex()
        '05ac02'
    """
    return b"".join(_pack_chunk(values[start : start + _CHUNK]) for start in range(0, len(values), _CHUNK))


def _pack_chunk(values: NDArray[np.int64]) -> bytes:
    rest = values[:, None] >> (7 * np.arange(MAX_BYTES + 1))
    used = rest[:, :-1] != 0
    used[:, 0] = True
    octets = (rest[:, :-1] & 0x7F) | ((rest[:, 1:] != 0) << 7)
    return octets[used].astype(np.uint8).tobytes()


def unpack(data: bytes, source: str) -> NDArray[np.int64]:
    """The inverse of `pack`: int64 [N], where N is how many bytes of ``data`` have no high bit.

    Raises:
        BitstreamError: unless ``data`` is an output of `pack`; ``source`` is named in the message.
    """
    octets = np.frombuffer(data, np.uint8)
    if not len(octets):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(octets < 0x80)
    begins = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if not len(ends) or ends[-1] != len(octets) - 1:
        raise BitstreamError(f"expected variable-length integers in {source}, found the last one without its end")
    sizes = ends - begins + 1
    if sizes.max() > MAX_BYTES or np.any(octets[ends[sizes > 1]] == 0):
        raise BitstreamError(f"expected the shortest form of integers below 2**63 in {source}, found a longer one")
    shift = 7 * (np.arange(len(octets)) - np.repeat(begins, sizes))
    return np.add.reduceat((octets & 0x7F).astype(np.int64) << shift, begins)


def unpack_one(data: bytes, offset: int, source: str) -> tuple[int, int]:
    """The integer that begins at ``offset``, and the offset after it."""
    window = data[offset : offset + MAX_BYTES]
    size = next((i for i, octet in enumerate(window, start=1) if octet < 0x80), 0)
    if not size:
        raise BitstreamError(f"expected a variable-length integer at byte {offset} of {source}, found no end of it")
    return int(unpack(window[:size], source)[0]), offset + size
