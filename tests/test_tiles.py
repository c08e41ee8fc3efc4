"""One tile's coefficients as bytes and back, under models of any layout, contextual and static."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from context_models import Float32, latents, models, sizes, static, trained_like, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from tfcomp.coding.lanes import LEAST_BITS
from tfcomp.entropy import tiles
from tfcomp.entropy.blas import coding_turn, one_blas_thread
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.model_set import stack, unstack
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import MAX_COEFFICIENTS

GOLDEN = Path(__file__).parent / "golden"

both = pytest.mark.parametrize("model", [trained_like(), static()], ids=["contexts", "static"])


# === Bytes ===


@settings(max_examples=60)
@given(models(), sizes, st.integers(0, 2**32 - 1), st.floats(0.05, 80))
def test_a_tile_comes_back(model: ContextModel, size: tuple[int, int], seed: int, spread: float) -> None:
    code, found = tiles.encode(model, latents(model, *size, seed, spread), weights(model))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(tiles.decode(model, code, *size), found)
    assert len(code) >= 1


@given(sizes, st.integers(0, 2**32 - 1))
@settings(max_examples=20)
@both
def test_a_high_error_weight_rounds_to_nearest(model: ContextModel, size: tuple[int, int], seed: int) -> None:
    exact = latents(model, *size, seed, 3.0)
    _, found = tiles.encode(model, exact, weights(model, 1e9))
    passes = model.passes(*size)
    tables = next(passes, None)
    while tables is not None:
        where, own = tables.which.positions(*size), tables.which.channels
        chosen = found[where, own].ravel()
        nearest = np.rint(exact[where][:, own].ravel()[tables.coded]).astype(np.int32)
        np.testing.assert_array_equal(chosen[tables.coded], tables.clip(nearest))
        tables = tiles.advance(passes, chosen)


@both
def test_bytes_are_those_of_the_tables(model: ContextModel) -> None:
    exact = latents(model, 40, 40, 5)
    code, found = tiles.encode(model, exact, weights(model))
    bits, symbols = 0.0, 0
    passes = model.passes(40, 40)
    tables = next(passes, None)
    while tables is not None:
        chosen = found[tables.which.positions(40, 40), tables.which.channels].ravel()
        for values, table in tables.values(chosen[tables.coded]):
            bits += model.tables.ideal_bits(values, table).sum()
            symbols += values.size
        tables = tiles.advance(passes, chosen)
    lanes = 1 << code[0]
    assert lanes > 1
    rounding = symbols * -np.log2(1 - 2.0 ** (model.tables.precision - LEAST_BITS))
    assert bits / 8 <= len(code) <= (bits + rounding) / 8 + 1 + 3 * lanes


@both
def test_a_lower_error_weight_needs_fewer_bytes(model: ContextModel) -> None:
    exact = latents(model, 16, 16, 6)
    found = [len(tiles.encode(model, exact, weights(model, bits))[0]) for bits in (1.5, 5, 15, 150)]
    assert found == sorted(set(found))


@both
def test_choose_tells_what_is_coded(model: ContextModel) -> None:
    exact = latents(model, 7, 6, 2)
    symbols, chosen = tiles.choose(model, exact, weights(model))
    np.testing.assert_array_equal(tiles.encode(model, exact, weights(model))[1], chosen)
    assert len(symbols) == 2 * len(model.layout.passes)
    assert all(np.all(positions < model.tables.frequencies.size) for positions in symbols)


def test_values_without_measure_are_the_largest_that_tables_reach() -> None:
    model = static()
    exact = np.full((2, 2, 5), 1e30, np.float32) * np.float32([1, -1])[:, None, None]
    code, found = tiles.encode(model, exact, weights(model))
    np.testing.assert_array_equal(
        np.abs(found), np.broadcast_to(np.where(model.reaches, model.reaches + 255, 0), found.shape)
    )
    np.testing.assert_array_equal(tiles.decode(model, code, 2, 2), found)


def test_a_tile_that_lanes_might_not_hold_is_refused() -> None:
    model = static(2)
    for shape in ((MAX_COEFFICIENTS // 2 + 1, 1, 2), (4, 4, 3), (4, 4)):
        with pytest.raises(InputError, match="a tile of 2 channels and up to 2097152 coefficients"):
            tiles.encode(model, np.zeros(shape, np.float32), weights(model))


def test_the_largest_tile_fits_the_lanes() -> None:
    """Every coefficient with overflow, which is two symbols each."""
    model = ContextModel.static([np.ones(3)] * 8)
    exact = np.full((512, 512, 8), 100, np.float32)
    assert exact.size == MAX_COEFFICIENTS
    code, found = tiles.encode(model, exact, weights(model, 1e9))
    assert code[0] == tiles.MAX_LANES_LOG2
    assert (found == 100).all()
    np.testing.assert_array_equal(tiles.decode(model, code, 512, 512), found)


# === Damage ===


@settings(max_examples=60)
@given(models(), st.binary(max_size=300), sizes)
def test_any_bytes_decode_or_are_refused(model: ContextModel, data: bytes, size: tuple[int, int]) -> None:
    try:
        found = tiles.decode(model, data, *size)
    except BitstreamError:
        return
    assert found.shape == (*size, model.layout.channels)


@both
def test_cut_and_extended_tiles_are_refused(model: ContextModel) -> None:
    code, _ = tiles.encode(model, latents(model, 32, 32, 7), weights(model))
    assert code[0] > 0
    for bad in (b"", code[:1], code[:2], bytes([11]) + code[1:], code + bytes(8), code + b"\1" * 4000):
        with pytest.raises(BitstreamError):
            tiles.decode(model, bad, 32, 32)


def test_a_few_bytes_cannot_ask_for_long_work() -> None:
    with pytest.raises(BitstreamError, match="at most 4096 symbols in a tile"):
        tiles.decode(static(), b"\0", 64, 64)


# === Threads ===


def test_threads_take_turns() -> None:
    """A thread codes while no other does, and each gets the bytes that it gets alone."""
    model, inside, most = trained_like(), 0, 0

    def code(seed: int) -> bytes:
        nonlocal inside, most
        with coding_turn():
            inside += 1
            most = max(most, inside)
            found = tiles.encode(model, latents(model, 12, 12, seed), weights(model))[0]
            inside -= 1
        return found

    before = blas_threads()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(code, range(12))]
    assert most == 1
    assert found == [tiles.encode(model, latents(model, 12, 12, seed), weights(model))[0] for seed in range(12)]
    assert blas_threads() == before


def test_the_limit_is_taken_back_after_the_outermost_block() -> None:
    before = blas_threads()
    with one_blas_thread():
        assert set(blas_threads()) <= {1}
        with pytest.raises(ValueError, match="x"), one_blas_thread():
            raise ValueError("x")
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


# === Golden ===

CASES = {"contexts": (trained_like, [(9, 7), (1, 1), (24, 30)]), "static": (static, [(9, 7), (1, 1), (40, 40)])}


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("name", CASES)
def test_golden_tiles(name: str, rewrite_golden: bool) -> None:
    """Models and codes of tiles that every later version must read, to the same integers."""
    arrays_file, codes_file = GOLDEN / f"tiles_{name}.npz", GOLDEN / f"tiles_{name}.json"
    if rewrite_golden:
        make, shapes = CASES[name]
        model = make()
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **stack((model,)))
        arrays_file.write_bytes(file.getvalue())
        made = [(shape, *tiles.encode(model, golden_latent(model, *shape), weights(model))) for shape in shapes]
        lines = [
            json.dumps({"shape": shape, "code": code.hex(), "integers": found.ravel().tolist()})
            for shape, code, found in made
        ]
        head = json.dumps({"format": model.format_id, "fingerprint": model.fingerprint.hex()})
        codes_file.write_text(f'{head[:-1]}, "tiles": [\n' + ",\n".join(lines) + "\n]}\n")
    golden = json.loads(codes_file.read_text())
    with np.load(arrays_file, allow_pickle=False) as arrays:
        (model,) = unstack(golden["format"], dict(arrays))
    assert isinstance(model, ContextModel)
    assert model.fingerprint.hex() == golden["fingerprint"]
    assert len(golden["tiles"]) == 3
    for case in golden["tiles"]:
        found = tiles.decode(model, bytes.fromhex(case["code"]), *case["shape"])
        assert found.ravel().tolist() == case["integers"]
        # Whole numbers are worth keeping exactly: so a later version also writes what this one wrote.
        assert tiles.encode(model, found.astype(np.float32), weights(model, 1e9))[0].hex() == case["code"]


def golden_latent(model: ContextModel, height: int, width: int) -> Float32:
    return latents(model, height, width, seed=height)
