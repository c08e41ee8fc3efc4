"""The order of a latent's passes."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from context_models import layouts, sizes
from hypothesis import given

from tfcomp import layout as module
from tfcomp.errors import BitstreamError, InputError
from tfcomp.layout import CHESSBOARD, MEAN_PHASES, ONE_PHASE, Layout


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(module).failed == 0


@given(layouts(), sizes)
def test_every_coefficient_is_coded_once(layout: Layout, size: tuple[int, int]) -> None:
    times = np.zeros((*size, layout.channels), int)
    for p in layout.passes:
        times[p.positions(*size), p.channels] += 1
        np.testing.assert_array_equal(np.flatnonzero(p.positions(*size)), p.places(*size))
    assert (times == 1).all()


@given(layouts())
def test_a_pass_sees_earlier_passes_alone(layout: Layout) -> None:
    size, far = 18, layout.reach
    when = np.empty((size, size, layout.channels), int)
    for i, p in enumerate(layout.passes):
        when[p.positions(size, size), p.channels] = i
    for i, p in enumerate(layout.passes):
        seen = layout.seen(p)
        assert not (i == 0 and seen.any())
        for y, x in np.argwhere(p.positions(size, size)):
            if far <= min(y, x) and max(y, x) < size - far:
                assert (when[y - far : y + far + 1, x - far : x + far + 1][seen] < i).all()


@given(layouts())
def test_a_layout_comes_back_from_its_arrays(layout: Layout) -> None:
    assert Layout.from_arrays(layout.arrays()) == layout
    assert [p.last for p in layout.passes].count(True) == len(layout.groups)
    assert len(layout.passes) == layout.first_phases + (len(layout.groups) - 1) * layout.other_phases
    assert len(layout.kernel_shapes) == (1 + layout.other_phases if layout.contextual else 0)


def test_the_layout_of_the_bundled_codec() -> None:
    layout = Layout((3, 6, 9, 12, 15, 8, 15, 13, 15))
    assert layout.channels == 96
    assert len(layout.passes) == 5 + 8 * 2
    assert layout.kernel_shapes == ((5, 5, 3, 15), (3, 3, 96, 96), (3, 3, 96, 96))


def test_one_pass_has_no_contexts() -> None:
    layout = Layout((4,), ONE_PHASE)
    assert not layout.contextual
    assert layout.kernel_shapes == ()
    assert Layout((4,), CHESSBOARD).contextual


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"groups": ()}, "groups of 1 to 4096 channels"),
        ({"groups": (3, 0)}, "groups of 1 to 4096 channels"),
        ({"groups": (4000, 100)}, "groups of 1 to 4096 channels"),
        ({"groups": (2**31 - 1,)}, "groups of 1 to 4096 channels"),
        ({"groups": (3,), "reach": 0}, "reach 1 to 16 positions, found 0"),
        ({"groups": (3,), "reach": 17}, "reach 1 to 16 positions, found 17"),
        ({"groups": (3,), "first": ()}, "a square of phases"),
        ({"groups": (3,), "first": ((0, 1),)}, "a square of phases"),
        ({"groups": (3,), "first": ((0, 2), (2, 0))}, "a square of phases"),
        ({"groups": (3,), "others": ((1,),)}, "a square of phases"),
        ({"groups": (3,), "others": ((0, 2**31 - 1), (1, 0))}, "a square of phases"),
        ({"groups": (3,), "others": ((0,) * 17,) * 17}, "a square of phases"),
    ],
)
def test_what_is_no_layout_is_refused(numbers: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layout(**numbers)  # type: ignore[arg-type]


def test_arrays_of_other_ranks_and_sizes_are_refused() -> None:
    arrays = Layout((2, 3), MEAN_PHASES).arrays()
    for name in arrays:
        with pytest.raises(BitstreamError, match="the arrays of a layout"):
            Layout.from_arrays({**arrays, name: arrays[name][None]})
    with pytest.raises(BitstreamError, match="the arrays of a layout"):
        Layout.from_arrays({**arrays, "groups": np.ones(5000, np.int32)})
    for name, wrong in (("reach", np.array(0, np.int32)), ("groups", np.zeros(2, np.int32)), ("reach", np.array(99))):
        with pytest.raises(BitstreamError, match="the arrays of a layout"):
            Layout.from_arrays({**arrays, name: wrong})
