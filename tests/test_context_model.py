"""Context models: what is refused, what comes back from a file, and the symbols of a pass."""

from __future__ import annotations

import doctest
import io
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from context_models import latents, models, random_model, static, trained_like, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy import base, context, model_set, tiles
from tfcomp.entropy.context import ContextModel, residual_tables
from tfcomp.entropy.model_set import stack, unstack
from tfcomp.entropy.pass_tables import OVERFLOW, PassTables
from tfcomp.errors import BitstreamError, InputError
from tfcomp.layout import ONE_PHASE, Layout

# === Symbols ===


@pytest.mark.parametrize("module", [base, context])
def test_the_docstring_is_true(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 100))
def test_symbols_and_overflow_give_the_coefficients_back(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    model = trained_like()
    table = rng.choice(np.flatnonzero(model.reaches), 200).astype(np.int32)
    mean, sign = rng.integers(-50, 51, (200,), np.int32), rng.choice(np.int32([-1, 1]), 200)
    reach, overflow_table = model.reaches[table], model.lookups.overflow_table
    tables = PassTables(model.layout.passes[0], mean, np.arange(200), mean, table, reach, sign, overflow_table)
    wanted = np.rint(rng.laplace(0, spread, 200)).astype(np.int32)
    clipped = tables.clip(wanted)
    within = np.abs(wanted - mean) <= reach + OVERFLOW
    np.testing.assert_array_equal(clipped[within], wanted[within])
    symbols, ends, overflow = tables.split(clipped)
    assert (np.abs(symbols) <= reach).all()
    assert ((overflow >= 0) & (overflow <= OVERFLOW)).all()
    assert len(overflow) == len(ends) == len(tables.overflow_tables(ends))
    np.testing.assert_array_equal(tables.join(symbols, ends, overflow), clipped)
    for values, table_of_each in tables.values(clipped):
        model.tables.positions(values, table_of_each)  # raises if a value lies outside its table


@given(models(), st.integers(0, 2**32 - 1))
def test_tables_are_those_of_kind_level_and_part(model: ContextModel, seed: int) -> None:
    """The formulas of the module's docstring, one coefficient at a time."""
    rng = np.random.default_rng(seed)
    p = model.layout.passes[-1]
    scale = rng.integers(-500, 9000, (20, p.count)).astype(np.float32)
    mean = rng.integers(-5000, 5000, (20, p.count)).astype(np.float32)
    found = model._pass_tables(p, scale, mean)
    coded, expected, signs, tables_ = [], [], [], []
    for i in range(scale.size):
        s, m = int(scale.flat[i]), int(mean.flat[i])
        kind = int(model.kinds[p.channels][i % p.count])
        level = sum(s >= t for t in model.thresholds.tolist())
        nearest = (m + 512) // 1024
        expected.append(nearest)
        if level >= model.not_coded[kind]:
            coded.append(i)
            rest = m - 1024 * nearest
            signs.append(-1 if rest < 0 else 1)
            part = min(abs(rest) * model.parts // 512, model.parts - 1)
            tables_.append((kind * model.levels + level) * model.parts + part)
            overflow = model.reaches.size + level * model.overflow_tables // model.levels
            assert model.lookups.overflow_table[tables_[-1]] == overflow
    assert found.coded.tolist() == coded
    assert found.expected.tolist() == expected
    assert found.sign.tolist() == signs
    assert found.table.tolist() == tables_
    assert found.reach.tolist() == model.reaches[tables_].tolist()
    assert all(found.reach > 0)


# === Refusals ===


def changed(name: str, change: Any) -> dict[str, Any]:
    return {name: change(getattr(trained_like(), name))}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (changed("scales", lambda w: tuple(np.where(k != 0, np.float32(3e4), 0).astype(np.float32) for k in w)),
         r"whole scales whose sums stay below 2\*\*24"),
        (changed("means", lambda w: tuple(k + np.float32(0.5) for k in w)), "whole means"),
        (changed("means", lambda w: tuple(k * np.float32(np.nan) for k in w)), "whole means"),
        (changed("scales", lambda w: w[:2]), "scales as float32 of shapes"),
        (changed("scales", lambda w: tuple(k.astype(int) for k in w)), "scales as float32 of shapes"),
        (changed("base", lambda b: b + np.int32(1 << 24)), "stay below|base below"),
        (changed("base", lambda b: b[:-1]), "expected 6 channels, found 6 and 5"),
        (changed("base", lambda b: b.astype(float)), "base as int32 of rank 1, found float64"),
        (changed("kinds", lambda k: k + np.int32(2)), "channels of 2 kinds, found 2 to 3"),
        (changed("kinds", lambda k: k[None]), "kinds as int32 of rank 1"),
        (changed("thresholds", lambda t: t[::-1].copy()), "ascending thresholds"),
        (changed("thresholds", lambda t: t + np.int32(1)), "multiples of 8"),
        (changed("thresholds", lambda t: t * np.int32(1 << 12)), "up to 1048576"),
        (changed("not_coded", lambda n: n + np.int32(9)), "0 to 9 levels that are not coded"),
        (changed("not_coded", lambda n: n * 0), "reaches, 1 or more where a level is coded"),
        (changed("not_coded", lambda n: n[:0]), "channels of 0 kinds"),
        (changed("reaches", lambda r: r + np.int32(1)), "reaches, 1 or more where a level is coded and else 0"),
        (changed("reaches", lambda r: -r), "reaches, 1 or more where a level is coded and else 0"),
        (changed("reaches", lambda r: r[:-1]), "expected 72 reaches"),
        (changed("reaches", lambda r: r + (r > 0).astype(np.int32)), "tables of 72 reaches, found others, 76 in all"),
        ({"parts_log2": 10}, "up to 512 parts"),
        ({"parts_log2": -1}, "up to 512 parts"),
        ({"overflow_tables": 0}, "1 to 9 overflow tables"),
        ({"overflow_tables": 10}, "1 to 9 overflow tables"),
        ({"overflow_tables": 3}, "tables of 72 reaches"),
        ({"tables": FrequencyTables.from_probabilities([np.ones(3)], [-1])}, "tables of 72 reaches"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        replace(trained_like(), **fields)


def test_static_models_need_a_middle() -> None:
    for distributions in ([], [np.ones(4)], [np.ones((3, 3))]):
        with pytest.raises(InputError, match="odd number of values"):
            ContextModel.static(distributions)


def test_static_models_have_a_table_for_each_channel() -> None:
    model = static(5)
    assert model.layout == Layout((5,), ONE_PHASE, ONE_PHASE, 1)
    assert (len(model.tables), model.levels, model.parts) == (6, 1, 1)
    (tables,) = [next(model.passes(2, 3))]
    assert tables.coded.tolist() == [i for i in range(30) if i % 5]  # the first channel is not coded
    assert tables.table.tolist() == [1, 2, 3, 4] * 6


# === Files ===


def reread(arrays: dict[str, Any]) -> dict[str, Any]:
    """As an ``.npz`` gives them back."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as read:
        return {name: read[name] for name in read.files}


def same(a: ContextModel, b: ContextModel) -> bool:
    ours, theirs = a.arrays(), b.arrays()
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


@settings(max_examples=30)
@given(models())
def test_a_model_comes_back_from_its_arrays(model: ContextModel) -> None:
    again = ContextModel.from_arrays(reread(model.arrays()))
    assert same(model, again)
    assert again.fingerprint == model.fingerprint
    assert all(array.dtype == np.int32 for array in model.arrays().values())


def test_the_fingerprint_names_every_array() -> None:
    arrays = trained_like().arrays()
    found = {base.fingerprint("context-1", arrays), base.fingerprint("static-1", arrays)}
    for name, array in arrays.items():
        found |= {
            base.fingerprint("context-1", {**arrays, name: array + np.int32(1)}),
            base.fingerprint("context-1", {**arrays, name: array[None]}),
            base.fingerprint("context-1", {n + "x" * (n == name): a for n, a in arrays.items()}),
        }
    assert len(found) == 2 + 3 * len(arrays)
    assert base.fingerprint("context-1", dict(reversed(arrays.items()))) == trained_like().fingerprint


def test_arrays_that_are_missing_or_of_another_kind_are_refused() -> None:
    arrays = trained_like().arrays()
    for name in arrays:
        with pytest.raises(BitstreamError, match=f"found none named {name}"):
            ContextModel.from_arrays({n: a for n, a in arrays.items() if n != name})
        for other in (arrays[name].astype(np.int64), arrays[name].astype(float), arrays[name][None]):
            with pytest.raises(BitstreamError, match="expected"):
                ContextModel.from_arrays({**arrays, name: other})
    with pytest.raises(BitstreamError, match="expected 6 channels, found 5"):
        ContextModel.from_arrays({**arrays, "base": arrays["base"][:-1]})


def test_qualities_share_what_is_equal() -> None:
    first, second = trained_like(0), replace(trained_like(1), kinds=trained_like(0).kinds)
    third = replace(second, tables=first.tables) if np.array_equal(first.reaches, second.reaches) else second
    models = (first, second, third)
    arrays = reread(stack(models))
    assert "kinds" in arrays
    assert "1/base" in arrays
    assert "3/base" in arrays
    again = unstack("context-1", {**arrays, "steps": np.ones(3, np.float32)})
    assert all(same(a, b) for a, b in zip(models, again, strict=True))
    alone = stack((first,))
    assert not any("/" in name for name in alone)
    assert same(unstack("context-1", alone)[0], first)


def test_qualities_may_have_tables_of_different_sizes() -> None:
    models = (static(5, 1), static(5, 2), static(5, 1))
    arrays = stack(models)
    assert "2/frequencies" in arrays
    assert all(same(a, b) for a, b in zip(models, unstack("context-1", reread(arrays)), strict=True))
    equal = unstack("context-1", stack((models[0], models[2])))
    assert equal[0].tables is equal[1].tables


def test_what_is_no_set_of_models_is_refused() -> None:
    arrays = stack((static(),))
    with pytest.raises(BitstreamError, match="of .*context-1.*, found 'context-2'"):
        unstack("context-2", arrays)
    for count in (0, 65, -1):
        with pytest.raises(BitstreamError, match="1 to 64 qualities"):
            unstack("context-1", {**arrays, "qualities": np.int32(count)})
    with pytest.raises(BitstreamError, match="none named qualities"):
        unstack("context-1", static().arrays())
    with pytest.raises(BitstreamError, match="none named index"):
        unstack("static-1", arrays)
    with pytest.raises(InputError, match="found none"):
        stack(())
    assert set(model_set.MODELS) == set(base.FORMATS)


# === Tables ===


def test_tables_that_fit_need_fewer_bytes() -> None:
    model = trained_like()
    exact = latents(model, 24, 24, 1, 0.4)
    counts = np.zeros(model.tables.frequencies.size)
    for positions in tiles.choose(model, exact, weights(model))[0]:
        counts += np.bincount(positions, minlength=counts.size)
    counted = residual_tables(np.split(counts + 0.1, model.tables.first[1:]), model.reaches)
    before, after = (len(tiles.encode(m, exact, weights(m))[0]) for m in (model, replace(model, tables=counted)))
    assert after < before


def test_weights_beyond_what_a_pass_sees_do_no_harm() -> None:
    """What is not yet known is zero in the plane, for the encoder as for the decoder."""
    model = random_model(Layout((2, 3)), 5)
    code, found = tiles.encode(model, latents(model, 9, 11, 3), weights(model))
    np.testing.assert_array_equal(tiles.decode(model, code, 9, 11), found)
