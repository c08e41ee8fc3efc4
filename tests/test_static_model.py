"""Static models: the range coder's payloads for latents of one shape, and their arrays."""

from __future__ import annotations

import doctest
import hashlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from payload_model import competing, skewed

from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy import static as module
from tfcomp.entropy.model_set import stack, unstack
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError, InputError


def model(sets: int = 1) -> StaticModel:
    if sets == 1:
        tables = FrequencyTables.from_probabilities([[1, 3, 1], [1, 2, 3, 2, 1], [1.0]], [-1, -2, 7])
    else:
        tables = competing(sets)
    return StaticModel(tables, np.arange(12, dtype=np.int32) % 3, (2, 2, 3), symbols_per_segment=5, sets=sets)


def drawn(model: StaticModel, count: int) -> Any:
    rng = np.random.default_rng(count)
    return model.clip(rng.integers(-4, 9, (count, *model.latent_shape), np.int32))


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("sets", [1, 3])
def test_payloads_are_those_of_the_range_coder(sets: int) -> None:
    one, latents = model(sets), drawn(model(sets), 9)
    payloads = one.encode(latents)
    assert payloads == range_coder.encode(latents.reshape(9, 12), one.tables, one.index, 3, sets)
    restored = one.decode(payloads)
    assert restored.dtype == np.int32
    np.testing.assert_array_equal(restored, latents)
    mean = sum(map(len, payloads)) / 9
    assert one.ideal_bits(latents).mean() / 8 <= mean <= one.ideal_bits(latents).mean() / 8 + 1 + 3 * 2
    selectors, tables = one.tables_of(latents)
    assert selectors.shape == (9,)
    assert tables.shape == (9, 12)
    assert (selectors > 0).all() == (sets > 1)


def test_latents_of_another_shape_are_refused() -> None:
    for latents in (np.zeros((2, 3, 2, 2), np.int32), np.zeros((2, 2, 2, 3), np.float32)):
        with pytest.raises(InputError, match=r"integer latents \[N, \*\(2, 2, 3\)\]"):
            model().encode(latents)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_shape": ()}, "a latent of one position or more"),
        ({"latent_shape": (2, 0, 3)}, "a latent of one position or more"),
        ({"latent_shape": (12, *[1] * 8)}, "a latent of one position or more"),
        ({"symbols_per_segment": 0}, "at least one symbol per segment"),
        ({"latent_shape": (2, 2, 4)}, r"a table index as int32 \(16,\), found int32 \(12,\)"),
        ({"index": np.zeros(12)}, "found float64"),
        ({"index": np.full(12, 3, np.int32)}, "table indices below 3, found up to 3"),
        ({"index": np.full(12, -1, np.int32)}, "table indices below 3"),
        ({"sets": 2}, "same lowest values|tables for 2 sets"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        replace(model(), **fields)


@pytest.mark.parametrize("sets", [1, 3])
def test_qualities_share_their_tables(sets: int) -> None:
    first = model(sets)
    models = (first, replace(first, index=np.roll(first.index, 1)), replace(first, index=np.roll(first.index, 2)))
    arrays = stack(models)
    assert sorted(name for name in arrays if "/" in name) == ["1/index", "2/index", "3/index"]
    again = unstack("static-1", arrays)
    assert [m.fingerprint for m in again] == [m.fingerprint for m in models]
    assert again[0].tables is again[1].tables is again[2].tables
    assert len({m.fingerprint for m in models}) == 3
    latents = drawn(models[1], 4) if sets == 1 else models[1].clip(drawn(models[0], 4))
    assert again[1].encode(latents) == models[1].encode(latents)


def test_arrays_that_are_missing_or_of_another_kind_are_refused() -> None:
    arrays = model().arrays()
    for name in arrays:
        with pytest.raises(BitstreamError, match=f"none named {name}"):
            StaticModel.from_arrays({n: a for n, a in arrays.items() if n != name})
        for other in (arrays[name].astype(float), arrays[name][None]):
            with pytest.raises(BitstreamError, match="expected"):
                StaticModel.from_arrays({**arrays, name: other})
    with pytest.raises(BitstreamError, match="a latent of one position or more"):
        StaticModel.from_arrays({**arrays, "latent_shape": np.ones(10**6, np.int32)})


def test_the_fingerprint_is_the_written_recipe() -> None:
    one = StaticModel(skewed(8, 3), np.zeros(4, np.int32), (2, 2))
    assert one.tables.frequencies.tolist() == [57, 142, 57]
    arrays = {
        "frequencies": (1, [57, 142, 57]),
        "index": (1, [0, 0, 0, 0]),
        "latent_shape": (1, [2, 2]),
        "lower": (1, [-1]),
        "precision": (0, [8]),
        "sets": (0, [1]),
        "sizes": (1, [3]),
        "symbols_per_segment": (0, [2048]),
    }
    parts = [b"static-1\0"]
    for name, (rank, values) in arrays.items():
        shape = struct.pack("<Q", len(values)) * rank
        parts.append(name.encode() + b"\0<i4\0" + bytes([rank]) + shape + struct.pack(f"<{len(values)}i", *values))
    assert one.fingerprint == hashlib.sha256(b"".join(parts)).digest()[:16]
    assert one.fingerprint.hex() == "47a92bb0344206c0248e51be993284a2"
