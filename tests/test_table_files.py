"""``tables.npz``: read as NumPy reads it, but for what its headers claim."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from numpy.typing import NDArray

from tfcomp.artifact import arrays


@settings(max_examples=100)
@given(
    of_numpy.arrays(
        of_numpy.scalar_dtypes() | st.just(np.dtype("<U3")),
        of_numpy.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.sampled_from("CF"),
)
def test_every_array_is_read_as_numpy_reads_it(array: NDArray[Any], order: Any) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, step=np.asarray(array, order=order), model_a=array[None], other=array)
    found = arrays.read(file.getvalue(), "here")
    assert sorted(found) == ["model_a", "step"]
    for name, expected in (("step", array), ("model_a", array[None])):
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert found[name].tobytes() == expected.tobytes()
        assert found[name].flags.writeable
