"""The embedded data set."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tfcomp.data import datasets, glyphs
from tfcomp.errors import InputError


def test_glyphs_are_the_same_bytes_everywhere() -> None:
    drawn = glyphs.render(300, seed=7)
    assert (
        hashlib.sha256(drawn.tobytes()).hexdigest()
        == "bdc76da788403982b50fe2e81abfe2359977fa81bf10690bbf4747b05cb445cf"
    )


def test_a_shorter_set_is_the_beginning_of_a_longer_one() -> None:
    np.testing.assert_array_equal(glyphs.render(70, seed=3), glyphs.render(200, seed=3)[:70])
    assert not np.array_equal(glyphs.render(70, seed=3), glyphs.render(70, seed=4))


def test_glyphs_are_varied_and_look_like_characters() -> None:
    train, test = datasets.load_arrays("glyphs")
    assert train.shape == (10_000, 28, 28, 1)
    assert test.shape == (2_000, 28, 28, 1)
    assert train.dtype == np.uint8
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 12_000
    # MNIST: 19 % of the pixels carry ink, 13 % on average over all; the frame is nearly always empty.
    ink = (train > 0).mean(axis=(1, 2, 3))
    assert 0.10 < ink.mean() < 0.25
    assert ink.min() > 0.01
    assert ink.max() < 0.5
    assert train.max(axis=(1, 2, 3)).min() > 100
    edge = np.concatenate([train[:, 0], train[:, -1], train[:, :, 0], train[:, :, -1]])
    assert (edge > 0).mean() < 0.01
    # Harder than a straight line fit: 64 principal components leave an error, as they do on MNIST (0.0091).
    scaled = train[:3000].reshape(3000, -1) / 255
    values = np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False)
    assert 0.005 < np.square(values[64:]).sum() / scaled.size < 0.02


def test_pen_positions_stay_within_exact_float32_sums() -> None:
    assert max(len(pen.weights) for pen in glyphs._pens()) <= 256
    for pen in glyphs._pens():
        np.testing.assert_allclose(pen.weights.sum(axis=1), 1)


def test_glyphs_refuse_negative_numbers() -> None:
    assert glyphs.render(0, seed=0).shape == (0, 28, 28, 1)
    for count, seed in ((-1, 0), (1, -1)):
        with pytest.raises(InputError, match=f"count {count} and seed {seed}"):
            glyphs.render(count, seed)
