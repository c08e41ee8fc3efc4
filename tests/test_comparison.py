"""``tfcomp evaluate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import picture

from tfcomp.cli.main import main
from tfcomp.data import glyphs
from tfcomp.measure import classical, comparison
from tfcomp.measure.evaluate import Point


def curve(rates: Sequence[float], decibels: Sequence[float]) -> list[Point]:
    return [Point(f"r{rate}", rate, db) for rate, db in zip(rates, decibels, strict=True)]


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr of a command that must end with status 2."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_comparison_says_what_each_format_needs_for_our_psnr_or_the_least_it_can() -> None:
    curves = {
        "tfcomp": [Point("tfcomp", 10.0, 22.0)],
        "low": curve([5, 10], [15, 20]),
        "even": curve([20, 80], [21, 23]),
        "high": curve([90, 99], [24, 30]),
    }
    found = comparison.equals(curves, curves["tfcomp"][0])
    assert [point.codec for point in found] == ["low, its best", "even, at this PSNR", "high, its smallest"]
    assert [point.bytes_per_image for point in found] == pytest.approx([10, 40, 90])
    assert comparison.bd_rates(curves) == {}
    curves["tfcomp"] = curve([4.7, 11.0, 22.3, 45.6], [18.8, 22.4, 25.3, 26.9])
    rates = comparison.bd_rates({**curves, "double": curve([9.4, 22.0, 44.6, 91.2], [18.8, 22.4, 25.3, 26.9])})
    assert rates["double"] == -50
    assert "expected" in str(rates["low"])


def test_evaluate_prints_a_table_and_writes_a_report_and_plots(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, artifact, _ = exported
    np.save(tmp_path / "x.npy", glyphs.render(120, seed=6))
    out = tmp_path / "out"
    arguments = [str(artifact), str(tmp_path / "x.npy"), "--against", "webp,png,zstd", "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    said = capsys.readouterr().out
    for expected in (
        "12 of the 12 test images",
        "| tfcomp |",
        "| WebP, ",
        "| PNG, lossless |",
        "| zstd -19, each image |",
    ):
        assert expected in said
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.json",
        "rate_distortion.pdf",
        "rate_distortion.png",
    ]
    report = json.loads((out / "evaluation.json").read_text())
    assert [point["codec"] for point in report["curves"]["tfcomp"]] == ["tfcomp"]
    assert len(report["curves"]["WebP"]) == len(classical.FORMATS["webp"].sweep)
    assert set(report) >= {"command", "machine", "seed", "versions", "lossless", "at_equal_psnr", "codecs"}
    assert main(["evaluate", *arguments]) == 0  # replaces its own earlier result


def test_evaluate_refuses_what_it_cannot_measure(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, artifact, _ = exported
    np.save(tmp_path / "x.npy", glyphs.render(20, seed=6))
    np.save(tmp_path / "wide.npy", np.zeros((20, 28, 30, 1), np.uint8))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    data = tmp_path / "x.npy"
    assert "found 'gif'" in failure(capsys, "evaluate", artifact, data, "--against", "webp,gif")
    assert "found none" in failure(capsys, "evaluate", artifact, data, "--against", ",")
    assert "artifact folder" in failure(capsys, "evaluate", tmp_path, data)
    assert "no such file" in failure(capsys, "evaluate", artifact, tmp_path / "absent")
    assert "found [28, 30, 1]" in failure(capsys, "evaluate", artifact, tmp_path / "wide.npy", "--against", "png")
    assert "found 0" in failure(capsys, "evaluate", artifact, data, "--images", "0")
    assert "other files" in failure(capsys, "evaluate", artifact, data, "--against", "png", "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_bundled_codec_is_something_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "photographs" / "a.png", (40, 56, 3))
    command = ["evaluate", "photographs", str(tmp_path / "photographs"), "--against", "photographs"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "the bundled codec photographs, at this PSNR" in said
    assert "BD-rate against the bundled codec photographs: 0.0 %" in said
