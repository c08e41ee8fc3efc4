"""Figures: each says what it was given, and none leaves a trace in Matplotlib's global state."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tfcomp.errors import InputError
from tfcomp.measure import plots

matplotlib = pytest.importorskip("matplotlib")

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 1), np.uint8)


def drawn(figure: Any) -> Any:
    """The figure, after every part of it has been drawn once."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    assert content.getvalue().startswith(b"\x89PNG")
    return figure


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_carry_their_bytes(channels: int) -> None:
    originals = np.repeat(IMAGES, channels, axis=-1)
    figure = drawn(plots.reconstructions(originals, [("codec", originals, [5, 6, 7]), ("other", originals, [1, 2, 3])]))
    assert len(figure.axes) == 9
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"{48 * channels} B"] * 3 + ["5 B", "6 B", "7 B", "1 B", "2 B", "3 B"]


def test_rate_distortion_curves_are_sorted_by_bytes() -> None:
    figure = drawn(plots.rate_distortion({"a": [(20.0, 30.0), (10.0, 25.0)], "b": [(15.0, 24.0)]}))
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["a", "b"]
    np.testing.assert_array_equal(lines[0].get_xdata(), [10, 20])
    np.testing.assert_array_equal(lines[0].get_ydata(), [25, 30])


def test_rate_distortion_has_readable_marks_on_a_logarithmic_axis() -> None:
    figure = drawn(plots.rate_distortion({"a": [(3.0, 20.0), (40.0, 25.0)], "b": [(7, 24)]}, logarithmic=True))
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "5", "10", "20", "50"]
    low, high = axis.get_xlim()
    assert low <= 3 < 40 <= high
    assert len({line.get_marker() for line in axis.get_lines()}) == 2


def test_divergences_are_in_bits_and_sorted() -> None:
    nats = np.log(2) * np.array([[1.0, 3.0], [0.0, 2.0]])
    figure = drawn(plots.kl_per_dimension(nats, active=nats > 0))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [3, 2, 1, 0])
    assert figure.axes[0].get_title() == "3 of 4 dimensions active, 6.0 bits in all"
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colours[0] == colours[2] != colours[3]


def test_traversals_keep_rows_and_columns_apart() -> None:
    grid = np.stack([IMAGES, 255 - IMAGES])
    figure = drawn(plots.traversals(grid, ["z0", "z1"]))
    sheet = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert sheet.shape == (16, 18)
    np.testing.assert_array_equal(sheet[8:, 6:12], grid[1, 1, ..., 0])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["z0", "z1"]


def test_training_curves_show_validation_where_there_is_one() -> None:
    figure = drawn(plots.training_curves({"sgd": {"loss": [3, 2], "val_loss": [4, 3]}, "adam": {"loss": [2, 1]}}))
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["sgd", "sgd, validation", "adam"]
    psnr = drawn(plots.training_curves({"a": {"psnr_db": [20.0]}}, "psnr_db"))
    assert psnr.axes[0].get_ylabel() == "psnr_db"


def test_plots_touch_no_global_state() -> None:
    script = "import sys; from tfcomp import plots; plots.rate_distortion({'a': [(1, 2)]}); print([*sys.modules])"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "'matplotlib.figure'" in modules
    assert "'matplotlib.pyplot'" not in modules


def test_what_does_not_fit_together_gets_one_clear_error() -> None:
    for call in (
        lambda: plots.reconstructions(IMAGES, [("codec", IMAGES[:2], [1, 2])]),
        lambda: plots.reconstructions(IMAGES, [("codec", IMAGES, [1, 2])]),
        lambda: plots.rate_distortion({}),
        lambda: plots.rate_distortion({"a": []}),
        lambda: plots.kl_per_dimension(np.zeros(3), active=np.ones(2, bool)),
        lambda: plots.traversals(IMAGES),
        lambda: plots.traversals(IMAGES[None], ["a", "b"]),
        lambda: plots.training_curves({}),
        lambda: plots.training_curves({"a": {"loss": [1]}}, "psnr_db"),
    ):
        with pytest.raises(InputError, match="expected"):
            call()
