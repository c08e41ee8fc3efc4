"""Samples of a posterior that the decoder does not know: the format, the distribution, the price."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sample_models import LAST, POSITIONS, model, names_of
from scipy import stats

from tfcomp.entropy import model_set
from tfcomp.entropy.candidate_search import divergence_bits, draws, search
from tfcomp.entropy.sample import INDEX_BITS, MAX_DRAW_BITS, UNIT, SampleModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.freezing import posterior_blocks
from tfcomp.words import mix, words

pytestmark = pytest.mark.xdist_group("vae_sample")
GOLDEN = Path(__file__).parent / "golden" / "samples.json"


# === Payloads ===


@settings(max_examples=60)
@given(
    st.integers(1, 8), st.integers(11, 14), st.integers(0, MAX_DRAW_BITS), st.lists(st.integers(0, LAST), min_size=16)
)
def test_names_come_back_within_a_byte_of_their_ideal(
    blocks: int, precision: int, draw_bits: int, drawn: list[int]
) -> None:
    of = model(blocks, precision, draw_bits)
    rows = np.array(drawn[: len(drawn) // blocks * blocks], np.int32).reshape(-1, blocks)
    names = np.concatenate([rows[:, :1] % (1 << draw_bits), rows], axis=1)
    payloads = of.encode(names)
    np.testing.assert_array_equal(of.decode_names(payloads), names)
    np.testing.assert_array_equal(of.decode(payloads), of.integers(names))
    sizes = np.array([len(payload) for payload in payloads])
    assert np.all(sizes <= of.ideal_bits(names) / 8 + 1.1)
    assert sizes.max() <= of.max_payload_bytes


def test_the_ends_of_every_length_have_names() -> None:
    of = model()
    ends = np.unique(np.clip((1 << np.arange(INDEX_BITS + 2)[:, None]) + [-2, -1, 0], 0, LAST))
    names = np.stack([0 * ends, ends, ends[::-1], ends], axis=1).astype(np.int32)
    np.testing.assert_array_equal(of.decode_names(of.encode(names)), names)
    above = (names + np.int32(row) for row in ([0, LAST, 0, 0], [16, 0, 0, 0]))
    for wrong in (names[:, 1:], names.astype(np.float32), names - 1, *above):
        with pytest.raises(InputError, match="expected names"):
            of.encode(wrong)


@settings(max_examples=200)
@given(st.integers(1, 5), st.binary(max_size=20))
def test_any_bytes_are_a_sample_or_refused(blocks: int, payload: bytes) -> None:
    of = model(blocks)
    try:
        names = of.decode_names([payload])
    except BitstreamError:
        return
    assert np.all((names >= 0) & (names <= np.append(15, np.full(blocks, LAST))))
    assert np.all(np.isin(of.integers(names), of.quantiles))


def test_a_model_is_its_arrays() -> None:
    of = model(seed=2**32 - 1)
    arrays = of.arrays()
    again = SampleModel.from_arrays(arrays)
    assert again.fingerprint == of.fingerprint
    assert model_set.unstack("sample-1", model_set.stack([of]))[0].fingerprint == of.fingerprint
    names = names_of(of, 50)
    assert again.encode(names) == of.encode(names)
    np.testing.assert_array_equal(again.integers(names), of.integers(names))
    wrong: list[dict[str, Any]] = [
        {"block": arrays["block"] + 1},
        {"block": arrays["block"][:-1]},
        {"block": 0 * arrays["block"]},
        {"scored": arrays["scored"] + 1},
        {"quantiles": arrays["quantiles"][:-1]},
        {"quantiles": arrays["quantiles"].astype(np.int64)},
        {"quantiles": arrays["quantiles"] + (1 << 25)},
        {"latent_shape": np.int32([2, 5])},
        {"latent_shape": np.int32([])},
        {"margin": np.array(-1, np.int32)},
        {"draw_bits": np.array(8, np.int32)},
        {"lower": arrays["lower"] - 1},
    ]
    for change in wrong:
        with pytest.raises(BitstreamError, match="expected"):
            SampleModel.from_arrays({**arrays, **change})
        with pytest.raises(BitstreamError, match="expected"):
            SampleModel.from_arrays({name: a for name, a in arrays.items() if name not in change})


def test_golden_samples(rewrite_golden: bool) -> None:
    if rewrite_golden:
        of = replace(model(), quantiles=posterior_blocks.quantiles(4))
        names = names_of(of, 24)
        case = {
            "fingerprint": of.fingerprint.hex(),
            "arrays": {name: array.tolist() for name, array in of.arrays().items()},
            "names": names.tolist(),
            "integers": of.integers(names).tolist(),
            "payloads": [payload.hex() for payload in of.encode(names)],
        }
        GOLDEN.write_text(",\n".join(json.dumps(case).split(', "')).replace(",\n", ',\n"') + "\n")
    case = json.loads(GOLDEN.read_text())
    of = SampleModel.from_arrays({name: np.array(array, np.int32) for name, array in case["arrays"].items()})
    payloads = [bytes.fromhex(payload) for payload in case["payloads"]]
    assert of.fingerprint.hex() == case["fingerprint"]
    assert of.decode_names(payloads).tolist() == case["names"]
    assert of.decode(payloads).tolist() == case["integers"]
    assert of.encode(np.int32(case["names"])) == payloads


# === Candidates ===


def test_the_integers_are_those_of_the_docstring() -> None:
    def mixed(x: int) -> int:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ x >> shift) * factor % 2**32
        return x

    of = model()
    key = mixed(mixed(4) ^ of.seed)
    for names in names_of(of, 20).tolist():
        lists = [names[0], *(mixed(index) >> 28 for index in names[1:-1])]
        expected = []
        for position, block in enumerate(of.block.tolist()):
            word = mixed(mixed(key ^ (lists[block] << 24 | names[1 + block])) ^ position)
            expected.append(int(of.quantiles[word >> 32 - 10]))
        assert of.integers(np.int32([names])).ravel().tolist() == expected


def test_candidates_are_independent_draws_of_the_prior() -> None:
    of = replace(model(), quantiles=posterior_blocks.quantiles(12))
    begins = of.begins(np.uint32(3), np.arange(1 << 15))
    z = of.integers_at(begins[:, None], np.arange(POSITIONS)) / UNIT
    other = of.integers_at(of.begins(np.uint32(4), np.arange(1 << 15))[:, None], np.arange(POSITIONS)) / UNIT
    for column in z.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    everything = np.concatenate([z, other, np.square(z), np.square(other), np.roll(z, 1, axis=0)], axis=1)
    correlations = np.corrcoef(everything.T)[~np.eye(everything.shape[1], dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(z))


@pytest.mark.parametrize("bits", [1, 8, 12])
def test_quantiles_have_the_moments_of_the_prior(bits: int) -> None:
    found = posterior_blocks.quantiles(bits) / UNIT
    assert found.size == 2**bits
    assert np.all(np.diff(found) > 0)
    np.testing.assert_array_equal(found, -found[::-1])
    # The means of intervals leave out what varies inside of them, for two intervals 1 - 2 / pi.
    assert 0.999 - (1 - 2 / np.pi) * 2.0 ** (1 - bits) < np.mean(np.square(found)) < 1.001


def test_words_of_many_counters_begin_with_those_of_one() -> None:
    np.testing.assert_array_equal(
        mix(mix(mix(np.uint32([7])) ^ np.uint32(9)) ^ np.arange(5, dtype=np.uint32)), words(9, 7, 5)
    )


# === Blocks ===


@settings(max_examples=50)
@given(st.lists(st.floats(0, 9) | st.floats(0, 0.05), min_size=1, max_size=40))
def test_blocks_are_bounded_and_even(divergence: list[float]) -> None:
    bits = np.array(divergence)
    block, scored = posterior_blocks.blocks(bits)
    sums = np.bincount(block, bits)
    assert len(sums) == max(1, min(len(bits), int(np.ceil(bits.sum() / posterior_blocks.BLOCK_BITS))))
    # Dealt out from the largest on, no block has more than the even share and one position more.
    assert sums.max() <= bits.sum() / len(sums) + bits.max() + 0.01 * len(bits)
    # As many as carry little together are left out, those that carry least.
    left_out, kept = bits[scored == 0], bits[scored == 1]
    assert left_out.sum() <= posterior_blocks.COLLAPSED_BITS + 1e-9
    if kept.size:
        assert left_out.max(initial=0) <= kept.min()
        assert left_out.sum() + kept.min() > posterior_blocks.COLLAPSED_BITS - 1e-9


# === The sample ===


@cache
def posteriors(count: int) -> NDArray[np.float32]:
    """Mean and deviation like those of a trained VAE, two blocks' worth: float32 [count, 2, POSITIONS]."""
    rng = np.random.default_rng(8)
    log_deviation = rng.uniform(-2.5, -0.7, POSITIONS) + rng.normal(0, 0.2, (count, POSITIONS))
    deviation = np.exp(log_deviation)
    mean = np.sqrt(np.maximum(1 - np.square(deviation), 0)) * rng.standard_normal((count, POSITIONS))
    return (np.stack([mean, deviation], axis=1) * UNIT).astype(np.float32)


def images_of(count: int) -> NDArray[np.uint8]:
    """Images of many draws."""
    return np.random.default_rng(9).integers(0, 256, (count, 4, 4, 1), np.uint8)


@cache
def sampled(margin: int) -> tuple[SampleModel, NDArray[np.int32], NDArray[np.float64]]:
    """A model, names, and the samples less their mean over their deviation, of 2,000 posteriors."""
    found = posteriors(2000)
    of = replace(posterior_blocks.fit(found[:400], images_of(400), 12, 3), margin=margin)
    names = search(of, found, draws(of, images_of(2000)))
    return of, names, (of.integers(names) - found[:, 0]) / found[:, 1].astype(np.float64)


def least_p(standardised: NDArray[np.float64]) -> float:
    """The least probability, of all positions, that a Kolmogorov-Smirnov test gives a standard normal variable."""
    return min(float(stats.kstest(column, "norm").pvalue) for column in standardised.T)


@pytest.mark.further
def test_samples_are_distributed_as_the_posterior_and_not_without_the_margin() -> None:
    assert least_p(sampled(posterior_blocks.MARGIN)[2]) > 0.01
    without = sampled(0)[2]
    assert least_p(without) < 1e-4
    assert np.mean(np.square(without)) > 1.1 > 1.03 > np.mean(np.square(sampled(posterior_blocks.MARGIN)[2])) > 0.97


@pytest.mark.further
def test_a_sample_costs_the_divergence_and_a_few_bits_a_block() -> None:
    of, names, _ = sampled(posterior_blocks.MARGIN)
    bits = divergence_bits(*(posteriors(2000).transpose(1, 0, 2) / UNIT)).sum(axis=1).mean()
    assert of.blocks == 2
    payload = 8 * np.mean([len(p) for p in of.encode(names)])
    assert bits < of.ideal_bits(names).mean() < bits + of.draw_bits + 4 * of.blocks
    assert payload < of.ideal_bits(names).mean() + 0.6 * 8


def test_the_margin_costs_work_and_next_to_no_bytes() -> None:
    with_margin, without = sampled(posterior_blocks.MARGIN), sampled(0)
    assert with_margin[0].ideal_bits(with_margin[1]).mean() < without[0].ideal_bits(without[1]).mean() + 4.0


def test_other_items_seeds_and_draws_have_other_samples() -> None:
    of, found = model(), posteriors(16)
    names = search(of, found, np.zeros(16, np.int32))
    for other in (search(of, found, np.full(16, 3, np.int32)), search(model(seed=6), found, np.zeros(16, np.int32))):
        assert np.all(np.any(other[:, 1:] != names[:, 1:], axis=1))
    np.testing.assert_array_equal(search(of, found[::-1], np.zeros(16, np.int32)), names[::-1])
    drawn = draws(of, images_of(2000))
    assert np.bincount(drawn, minlength=16).min() > 50
    assert not draws(replace(of, draw_bits=0), images_of(4)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 0.0])
def test_no_posterior_makes_the_search_fail_or_run_on(value: float) -> None:
    of, found = model(), np.array(posteriors(2))
    found[0, 0], found[1, 1] = value, value
    names = search(of, found, np.zeros(2, np.int32))
    assert np.all((names >= 0) & (names < 1 << INDEX_BITS))
    np.testing.assert_array_equal(of.decode_names(of.encode(names)), names)
