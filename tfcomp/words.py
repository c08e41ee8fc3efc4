"""Random words that are functions of counters: randomness that sender and receiver share, the same on every machine.

``mix`` is the bijection "lowbias32" of Wellons (Hash Function Prospector, 2018), in arithmetic modulo 2**32. A word of
several counters mixes in one after another: ``mix(mix(mix(stream) ^ seed) ^ counter)``, and so on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError

UInt32 = NDArray[np.uint32]

STEPS = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None))
"""Steps of ``mix``, each a shift and a factor: ``x ^= x >> shift``, then ``x *= factor``."""


def mix(x: Any) -> UInt32:
    """The bijection "lowbias32", elementwise: uint32 of the shape of ``x``, which is uint32.

    Examples:
        >>> hex(int(mix(np.array([1], np.uint32))[0]))
        '0x688990c0'
    """
    mixed: UInt32 = x
    for shift, factor in STEPS:
        mixed = mixed ^ (mixed >> np.uint32(shift))
        if factor is not None:
            mixed = mixed * np.uint32(factor)
    return mixed


def key(seed: int, stream: int) -> UInt32:
    """``mix(mix(stream) ^ seed)``, uint32 [1]: the beginning of a stream's words; seeds are 0 to 2**32 - 1."""
    if not 0 <= seed < 2**32:
        raise InputError(f"expected a seed of 0 to 2**32 - 1, found {seed}")
    return mix(mix(np.array([stream], np.uint32)) ^ np.uint32(seed))


def words(seed: int, stream: int, count: int) -> UInt32:
    """uint32 [count]: word ``i`` is ``mix(mix(mix(stream) ^ seed) ^ i)``."""
    return mix(key(seed, stream) ^ np.arange(count, dtype=np.uint32))
