"""The bundled photograph codec, one payload at a time, and made photographs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tfcomp


@cache
def codec() -> tfcomp.Codec:
    return tfcomp.Codec.load(threads=1)


def packed(image: Any, quality: Any = None, target_bytes: int | None = None) -> bytes:
    """The payload of one image."""
    [payload] = codec().compress([image], quality, target_bytes=target_bytes)
    return payload


def restored_from(payload: bytes) -> NDArray[np.uint8]:
    """The image of one payload."""
    [image] = codec().decompress([payload])
    return image


def scene(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Soft shapes with edges and a little noise: nothing of a photograph but its smoothness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, channels), 120.0)
    for _ in range(6):
        at, size = rng.uniform(0, 1, 2) * (height, width), rng.uniform(5, 40)
        inside = np.hypot(y - at[0], x - at[1]) < size
        image += np.where(inside[..., None], rng.uniform(-50, 50, channels), 0)
    image += 20 * np.sin(x / 11 + y / 17)[..., None] + rng.normal(0, 2, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
