"""Padding, tiles and mirroring: any size is covered once, and tensors are planned as arrays are."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp import geometry as module
from tfcomp.errors import InputError
from tfcomp.geometry import MAX_COEFFICIENTS, MAX_PIXELS, Arithmetic, Grid

grids = st.builds(Grid, stride=st.sampled_from([1, 2, 3, 8, 16]), margin=st.integers(0, 7), tile=st.integers(1, 20))
SIDE = st.integers(1, 300)


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(module).failed == 0


@given(grids, SIDE, SIDE)
def test_the_latent_holds_the_item_and_what_it_is_mirrored_by(grid: Grid, height: int, width: int) -> None:
    plan, stride = grid.plan(height, width), grid.stride
    for size, before, positions in ((height, plan.top, plan.rows), (width, plan.left, plan.columns)):
        assert before == (stride if size <= 4 * stride else 0)
        assert size + 2 * before <= positions * stride < size + 2 * before + stride


@given(grids, SIDE, SIDE)
def test_pixels_are_mirrored_at_all_edges(grid: Grid, height: int, width: int) -> None:
    plan = grid.plan(height, width)
    image = np.arange(height * width).reshape(height, width)
    rows, columns = plan.sources()
    after = plan.rows * grid.stride - height - plan.top, plan.columns * grid.stride - width - plan.left
    expected = np.pad(image, ((plan.top, after[0]), (plan.left, after[1])), "symmetric")
    np.testing.assert_array_equal(image[rows][:, columns], expected)


@given(grids, st.integers(1, 40), st.integers(1, 40))
def test_tiles_cover_every_position_once_and_windows_surround_them(grid: Grid, height: int, width: int) -> None:
    plan = grid.plan(height, width)
    times = np.zeros((plan.rows, plan.columns), int)
    number = np.arange(times.size).reshape(times.shape)
    areas = [*plan.areas()]
    assert len(areas) == plan.tiles
    for area, (tile, window, inner) in zip(areas, plan.windows(), strict=True):
        assert area == tile
        times[area] += 1
        assert times[area].size <= grid.tile**2
        assert np.array_equal(number[window][inner], number[tile])
        for t, w, most in zip(tile, window, times.shape, strict=True):
            assert w.start == max(0, t.start - grid.margin)
            assert w.stop == min(most, t.stop + grid.margin)
    assert (times == 1).all()
    one, two = plan.pixels((slice(1, 3), slice(0, 2)))
    assert (one, two) == (slice(grid.stride, 3 * grid.stride), slice(0, 2 * grid.stride))


@given(grids, st.integers(1, 40), st.integers(1, 40))
def test_a_window_is_filled_once_the_tiles_that_it_reaches_are(grid: Grid, height: int, width: int) -> None:
    plan = grid.plan(height, width)
    tile_of = np.zeros((plan.rows, plan.columns), int)
    for number, tile in enumerate(plan.areas()):
        tile_of[tile] = number
    furthest = [int(tile_of[window].max()) - number for number, (_, window, _) in enumerate(plan.windows())]
    assert max(furthest) <= plan.lag
    if plan.down + grid.margin <= plan.rows and plan.right + grid.margin <= plan.columns:
        assert furthest[0] == plan.lag  # the edges cut nothing off the first tile's window below and to the right


@settings(max_examples=50)
@given(grids, st.integers(1, 3000), st.integers(1, 3000))
def test_tensors_are_planned_as_arrays_are(grid: Grid, height: int, width: int) -> None:
    tf = pytest.importorskip("tensorflow")
    expected = grid.plan(height, width)
    plan = grid.plan(tf.constant(height), tf.constant(width), Arithmetic(tf.minimum, tf.maximum, tf.range))
    for name in ("top", "left", "rows", "columns", "down", "right", "across", "tiles"):
        assert int(getattr(plan, name)) == getattr(expected, name)
    for found, wanted in zip(plan.sources(), expected.sources(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for number in {0, int(plan.tiles) - 1, int(plan.tiles) // 2}:
        assert [int(n) for n in plan.tile(tf.constant(number))] == [*expected.tile(number)]


@given(grids, st.integers(-2, 400), st.integers(-2, 400), st.integers(1, 1 << 17))
def test_an_item_fits_with_what_it_is_mirrored_by(grid: Grid, height: int, width: int, most: int) -> None:
    expected = height > 0 and width > 0
    if expected:
        plan = grid.plan(height, width)
        expected = plan.rows * plan.columns * grid.stride**2 <= most
    assert grid.fits(height, width, most) == expected


def test_no_item_is_larger_than_the_largest() -> None:
    grid = Grid(8, 6, 128)
    assert grid.fits(1 << 14, 1 << 14)
    assert not grid.fits((1 << 14) + 1, 1 << 14)
    assert not grid.fits(MAX_PIXELS, 1)
    assert not grid.fits(1 << 62, 1 << 62)


@pytest.mark.parametrize(("stride", "channels"), [(1, 1), (1, 8), (8, 96), (8, 512), (16, 4096), (256, 1)])
def test_a_tile_has_no_more_coefficients_than_can_be_coded(stride: int, channels: int) -> None:
    grid = Grid.of(stride, 3, channels)
    assert grid.tile**2 * channels <= MAX_COEFFICIENTS
    assert grid.tile == max(1, 1024 // stride) or (grid.tile + 1) ** 2 * channels > MAX_COEFFICIENTS


@pytest.mark.parametrize("numbers", [(0, 6, 128), (257, 6, 128), (8, -1, 128), (8, 257, 128), (8, 6, 0), (8, 6, 1025)])
def test_what_is_no_grid_is_refused(numbers: Any) -> None:
    with pytest.raises(InputError, match="expected a stride of 1 to 256"):
        Grid(*numbers)
