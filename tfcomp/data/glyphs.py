"""Glyphs: an embedded data set of 28x28 grey characters and signs, drawn by this module.

A glyph is a few strokes through points on a 9x9 grid. Every image moves the points a little, then scales, slants, turns
and shifts the whole, and draws it white on black with a soft round pen of varied width.

The same seed gives the same bytes on every machine: the random numbers are raw PCG64 output, whose stream NumPy
guarantees; all float arithmetic is elementwise ``+ - * /``, which IEEE 754 rounds alike everywhere; and the one sum
that a linear algebra library may reorder adds integers,

    0 <= sum of (0..255) * (0..255) over at most 256 pen positions < 2**24,

which float32 holds exactly in any order.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import InputError

SIZE = 28
SPACING = 0.34
"""Distance between pen positions along a stroke, in grid units."""

# Points are two digits, x then y, 0..8 with y downwards; '-' draws a line to the next point and '~' a smooth curve.
GLYPHS = (
    # Digits, some in two forms.
    "40~62~66~48~26~22~40", "22-40-48", "40-48", "21~40~62~54~28 28-68", "20~50~62~54~36~27~48~68",
    "21~40~62~44 44~66~48~27", "40-15-75 52-58", "20-24-64 60-68", "60-20-23 23~43~65~48~27",
    "50~33~26~48~66~44~26", "20-60-38", "20-60-38 34-64", "44~62~40~22~44~66~48~26~44", "62~40~22~44~62 62~56~48",
    # Capitals.
    "18-40-68 25-55", "20-28 20~50~62~44~24 24~54~66~48~28", "61~40~22~26~48~67", "20-28 20~52~64~56~28",
    "60-20-28-68 24-54", "60-20-28 24-54", "61~40~22~26~48~66 66-64-44", "20-28 60-68 24-64", "60-66 66~48~26",
    "20-28 60-24-68", "20-28-68", "18-20-45-60-78", "28-20-68-60", "20-28 20~50~62~44~24",
    "40~62~66~48~26~22~40 45-78", "20-28 20~50~62~44~24 44-68", "61~40~22~44~66~48~27", "10-70 40-48",
    "20~26~48~66~60", "20-48-60", "10-28-43-58-70", "20-68 60-28", "20-44-60 44-48", "20-60-28-68",
    # Small letters.
    "63~43~25~47~65 62-68", "20-28 25~43~65~47~26", "63~43~25~47~67", "60-68 65~43~25~47~66", "25-65 65~43~25~47~67",
    "60~41~43-48 24-64", "63~43~24~45~63 63~66~48~27", "20-28 25~43~64-68", "22-27 26~43~64-67", "22-27 25~43~63",
    "40-46 46~57~67 22-62", "22-46-62 46-28", "22~36~57~62 62~66~48~27", "13-17 15~33~45-47 45~63~75-77",
    # Signs.
    "40-78-18-40", "22-62-66-26-22", "41~64~47~24~41", "40-74-48-14-40", "40-48 14-74", "15-33-46-63-75",
    "45~54~43~34~46~65~62~31~13~27~58", "40-58-13-73-28-40", "14-74 51-74-57", "14~32~45~66~74", "15-37-71",
    "43~21~13~48~73~61~43", "44~22~14~26~44~62~74~66~44", "23-63 26-66", "60~33~37~68", "24-28-68-64-24-40-64",
)  # fmt: skip


class Pen(NamedTuple):
    """Pen positions of one glyph, each a fixed weighting of four of its control points.

    Attributes:
        points: float64 [K, 2], control points (x, y), centred on the grid's middle.
        neighbours: int64 [P, 4], the control points of each position.
        weights: float64 [P, 4], Catmull-Rom weights (Catmull and Rom 1974) or those of a straight line.
    """

    points: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    weights: NDArray[np.float64]


def _weights(t: NDArray[np.float64], smooth: bool) -> NDArray[np.float64]:
    """float64 [n, 4]: the weights of four successive points at ``0 <= t < 1`` between the middle two."""
    if not smooth:
        return np.stack([0 * t, 1 - t, t, 0 * t], axis=1)
    square, cube = t * t, t * t * t
    return 0.5 * np.stack(
        [2 * square - t - cube, 2 - 5 * square + 3 * cube, t + 4 * square - 3 * cube, cube - square], axis=1
    )


@cache
def _pens() -> tuple[Pen, ...]:
    pens = []
    for glyph in GLYPHS:
        points: list[tuple[int, int]] = []
        indices, weights = [], []
        for stroke in glyph.split():
            names = stroke[::3], stroke[1::3], stroke[2::3]
            first = len(points)
            points += [(int(x), int(y)) for x, y in zip(names[0], names[1], strict=True)]
            last = len(points) - 1
            closed = points[first] == points[last]
            for i, join in enumerate(names[2], start=first):
                before = i - 1 if i > first else last - 1 if closed else i
                after = i + 2 if i + 1 < last else first + 1 if closed else last
                index = np.array([before, i, i + 1, after])
                control = [points[j] for j in index]
                smooth = join == "~"
                blend = _weights(np.arange(9) / 8, smooth)
                chord = sum(np.outer(point, weight) for point, weight in zip(control, blend.T, strict=True))
                dx, dy = np.diff(chord)
                length = sum(np.sqrt(dx * dx + dy * dy).tolist())
                steps = max(1, int(length / SPACING + 0.5))
                indices.append(np.tile(index, (steps, 1)))
                weights.append(_weights((np.arange(steps) + 0.5) / steps, smooth))
        pens.append(Pen(np.array(points) - 4.0, np.concatenate(indices), np.concatenate(weights)))
    return tuple(pens)


def render(count: int, seed: int) -> NDArray[np.uint8]:
    """Draws ``count`` images; the first ``n`` of them are those of ``render(n, seed)``.

    Args:
        count: number of images, at least 0.
        seed: a seed of at least 0; the data set takes 0 for training and 1 for testing.

    Returns:
        uint8 [count, 28, 28, 1], white (255) strokes on black (0).

    Raises:
        InputError: if a number is below 0.
    """
    if count < 0 or seed < 0:
        raise InputError(f"expected a count and a seed of at least 0, found count {count} and seed {seed}")
    pens = _pens()
    columns = 12 + 2 * max(len(pen.points) for pen in pens)
    raw = np.asarray(np.random.PCG64(seed).random_raw(count * columns), np.uint64).reshape(count, columns)
    uniform = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    grain = np.asarray(np.random.PCG64(seed).jumped().random_raw(count * SIZE * SIZE // 8), "<u8").view(np.uint8)
    glyph = (raw[:, 0] % np.uint64(len(pens))).astype(np.int64)
    images = np.empty((count, SIZE, SIZE), np.uint8)
    for k, pen in enumerate(pens):
        chosen = np.flatnonzero(glyph == k)
        images[chosen] = _draw(pen, uniform[chosen, 1:])
    noise = grain.reshape(images.shape) % 13
    return np.where(images > noise, images - noise, images)[..., None]


def _draw(pen: Pen, uniform: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 [n, 28, 28]: one glyph in ``n`` hands, each defined by a row of ``uniform``, float64 [n, 11 + 2 * K]."""
    spread = 2 * uniform - 1
    jitter = spread[:, 11 : 11 + pen.points.size].reshape(len(uniform), *pen.points.shape)
    control = pen.points + 0.42 * jitter
    four = control[:, pen.neighbours]
    x, y = (sum(four[..., j, axis] * pen.weights[:, j] for j in range(4)) for axis in range(2))
    turn, slant, bend, bow, wide, high, left, down = (spread[:, j : j + 1] for j in range(8))
    x = x + 0.030 * bend * (y * y - 4)
    y = y + 0.025 * bow * (x * x - 4)
    x = x * (0.92 + 0.18 * wide) - (0.10 + 0.28 * slant) * y
    y = y * (0.98 + 0.12 * high)
    t = 0.09 * turn  # the tangent of half the angle: a rotation without sine and cosine
    x, y = ((1 - t * t) * x - 2 * t * y) / (1 + t * t), (2 * t * x + (1 - t * t) * y) / (1 + t * t)
    scale = 2.4 + 0.25 * spread[:, 8:9]
    radius = 2.05 + 0.75 * spread[:, 9:10]
    x = 13.5 + scale * x + 1.4 * left
    y = 13.5 + scale * y + 1.4 * down
    ink = np.matmul(_bump(y, radius).swapaxes(1, 2), _bump(x, radius))  # [n, 28, 28], integers below 2**24
    # A long straight stroke sums to radius * 16 / 15 pen positions a spacing at its middle: that is full ink.
    full = 255.0 * 255.0 * radius[:, :, None] * 16 / (15 * SPACING * scale[:, :, None])
    contrast = 1.9 + 0.5 * spread[:, 10:11, None]
    return np.clip((ink / full - 0.3) * contrast * 255 + 0.5, 0, 255).astype(np.uint8)


def _bump(centre: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 [n, P, 28] of integers 0..255: the pen's profile ``(1 - (distance / radius)**2)**2`` along one axis."""
    distance = (np.arange(SIZE) - centre[..., None]) / radius[..., None]
    inside = np.maximum(0, 1 - distance * distance)
    return np.floor(inside * inside * 255 + 0.5).astype(np.float32)
