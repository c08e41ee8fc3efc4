"""Measures against closed forms and a second library; classical codecs against what their files hold."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcomp.data import glyphs
from tfcomp.errors import InputError
from tfcomp.measure import classical, evaluate
from tfcomp.measure.evaluate import Point
from tfcomp.storage.container import Archive, write

IMAGES = glyphs.render(24, seed=5)


def curve(rates: Sequence[float], decibels: Sequence[float]) -> list[Point]:
    return [Point(f"r{rate}", rate, db) for rate, db in zip(rates, decibels, strict=True)]


RATES, DECIBELS = [4.7, 11.0, 22.3, 45.6], [18.8, 22.4, 25.3, 26.9]


# === One codec ===


def test_psnr_pools_the_error_over_all_images() -> None:
    black = np.zeros((2, 4, 4, 1), np.uint8)
    other = black.copy()
    other[0] = 255  # one image lost entirely, one kept: half of the greatest error
    assert evaluate.psnr_db(black, other) == pytest.approx(10 * math.log10(2))
    assert evaluate.psnr_db(black, black) == math.inf
    with pytest.raises(InputError, match="equal shapes"):
        evaluate.psnr_db(black, black[:1])


def test_ms_ssim_is_a_figure_of_five_scales_or_none() -> None:
    pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    side = evaluate.MS_SSIM_SIDE
    smooth = np.cumsum(rng.normal(size=(3, side, side + 20, 3)), axis=1)
    images = np.uint8(np.clip(128 + 8 * smooth, 0, 255))
    noisy = [np.uint8(np.clip(images + rng.normal(0, deviation, images.shape), 0, 255)) for deviation in (5, 40)]
    values = [evaluate.ms_ssim(images, other, batch=2) for other in (images, *noisy)]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[0] > values[1] > values[2] > 0
    assert evaluate.ms_ssim(images[:, 1:], images[:, 1:]) is None
    assert evaluate.ms_ssim(IMAGES, IMAGES) is None


def test_a_codec_is_measured_in_real_bytes_of_payloads_and_of_a_whole_file(exported: Any, tmp_path: Path) -> None:
    codec, _, images = exported
    point = evaluate.measure(codec, images, "ours")
    payloads = codec.compress(images)
    assert point.bytes_per_image == sum(map(len, payloads)) / len(images)
    assert point.psnr_db == evaluate.psnr_db(images, codec.decompress(payloads))
    path = tmp_path / "a.tfz"
    size = write(path, payloads, fingerprint=codec.entropy_model.fingerprint, item_shape=codec.item.shape)
    assert point.archive_bytes_per_image == size / len(images) == path.stat().st_size / len(images)
    with Archive.open(path) as archive:
        assert list(archive) == payloads
    with pytest.raises(InputError, match="at least one image"):
        evaluate.measure(codec, images[:0])


# === Curves ===


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.25])
def test_bd_rate_of_a_scaled_curve_is_the_scale(factor: float) -> None:
    reference = curve(RATES, DECIBELS)
    test = curve([factor * rate for rate in RATES], DECIBELS)
    assert evaluate.bd_rate(reference, test) == pytest.approx(100 * (factor - 1), abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.2, 3)), min_size=4, max_size=7),
    st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.2, 3)), min_size=4, max_size=7),
)
def test_bd_rate_agrees_with_another_library(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    from bjontegaard import bd_rate

    curves = [
        (np.exp(np.cumsum([log_rate for log_rate, _ in steps])), 20 + np.cumsum([db for _, db in steps]))
        for steps in (first, second)
    ]
    (rate_a, db_a), (rate_b, db_b) = curves
    if min(db_a[-1], db_b[-1]) - max(db_a[0], db_b[0]) <= 0.01:
        return
    ours = evaluate.bd_rate(curve(rate_a, db_a), curve(rate_b, db_b), minimum_overlap=0)
    theirs = bd_rate(rate_a, db_a, rate_b, db_b, method="pchip", require_matching_points=False, min_overlap=0)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_bd_rate_takes_what_a_user_would_choose_of_points_that_are_not_monotonic() -> None:
    reference = curve(RATES, DECIBELS)
    spoilt = [*reference, Point("worse and larger", 30.0, 20.0), Point("lossless", 100.0, math.inf)]
    assert evaluate.frontier(reversed(spoilt)) == reference
    assert evaluate.bd_rate(spoilt, reference) == pytest.approx(0, abs=1e-9)
    assert evaluate.frontier([Point("a", 5, 20), Point("b", 5, 21), Point("c", 6, 21)]) == [Point("b", 5, 21)]


def test_bd_rate_refuses_ranges_that_barely_overlap_and_curves_of_few_points() -> None:
    reference = curve(RATES, DECIBELS)  # 8.1 dB wide
    shifted = [curve(RATES, [db + shift for db in DECIBELS]) for shift in (4.0, 4.1, 9.0)]
    assert math.isfinite(evaluate.bd_rate(reference, shifted[0]))
    for far in shifted[1:]:
        with pytest.raises(InputError, match=r"18\.80 to 26\.90 dB and"):
            evaluate.bd_rate(reference, far)
    with pytest.raises(InputError, match="ranges that share"):
        evaluate.bd_rate(reference, shifted[2], minimum_overlap=0)
    with pytest.raises(InputError, match="3 lossy points in the test curve.* found 2"):
        evaluate.bd_rate(reference, reference[:2])


def test_bytes_at_a_psnr_lie_on_the_curve_and_stop_at_its_ends() -> None:
    points = curve(RATES, DECIBELS)
    for point in points:
        assert evaluate.bytes_at(points, point.psnr_db) == pytest.approx(point.bytes_per_image)
    assert RATES[1] < evaluate.bytes_at(points, 24.0) < RATES[2]
    assert evaluate.bytes_at(points, 3.0) == RATES[0]  # nothing smaller was made
    straight = curve([10, 20, 40], [20, 21, 22])
    assert evaluate.bytes_at(straight, 20.5) == pytest.approx(10 * math.sqrt(2))
    with pytest.raises(InputError, match=r"reaches 27\.00 dB, found at most 26\.90 dB"):
        evaluate.bytes_at(points, 27.0)
    with pytest.raises(InputError, match="no lossy point"):
        evaluate.bytes_at([Point("png", 200, math.inf)], 20.0)


# === Classical codecs ===


def available(name: str) -> None:
    if name == "jxl":
        pytest.importorskip("pillow_jxl")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name, how in classical.FORMATS.items() if how.sweep])
def test_lossy_formats_trade_bytes_for_quality(name: str, channels: int) -> None:
    available(name)
    images = np.repeat(IMAGES[:8], channels, axis=-1)
    sweep = classical.FORMATS[name].sweep
    low, high = classical.curve(images, name, [sweep[2], sweep[-1]])
    assert low.bytes_per_image < high.bytes_per_image
    assert 10 < low.psnr_db < high.psnr_db < 100
    assert low.codec.startswith(f"{classical.FORMATS[name].title} ")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name, how in classical.FORMATS.items() if how.lossless is not None])
def test_lossless_modes_lose_nothing(name: str, channels: int) -> None:
    available(name)
    images = np.random.default_rng(0).integers(0, 256, (3, 17, 30, channels), np.uint8)
    sizes, restored = classical.round_trip(images, name)
    np.testing.assert_array_equal(restored, images)
    assert min(sizes) > 17 * 30 * channels / 2  # noise does not compress


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (200, 9)])
@pytest.mark.parametrize("name", classical.FORMATS)
def test_formats_take_images_of_any_size(name: str, shape: tuple[int, int]) -> None:
    available(name)
    sweep = classical.FORMATS[name].sweep
    images = np.full((1, *shape, 1), 77, np.uint8)
    _, restored = classical.round_trip(images, name, sweep[-1] if sweep else None)
    np.testing.assert_allclose(restored, images, atol=3)


def test_images_of_several_sizes_are_pooled() -> None:
    small, large = np.full((2, 2, 1), 10, np.uint8), np.full((4, 4, 1), 20, np.uint8)
    # 4 pixels with the error 3, 16 with the error 1.
    expected = 10 * np.log10(255**2 / ((4 * 9 + 16) / 20))
    assert evaluate.psnr_db([small, large], [small + 3, large + 1]) == pytest.approx(expected)
    with pytest.raises(InputError, match="equal shapes"):
        evaluate.psnr_db([small, large], [small, small])
    with pytest.raises(InputError, match="equal shapes"):
        evaluate.psnr_db([small, large], [small])
    assert evaluate.psnr_db(np.stack([small, small]), [small + 3, small]) == pytest.approx(10 * np.log10(255**2 / 4.5))
    sizes, restored = classical.round_trip([small, large], "png")
    assert len(sizes) == 2
    np.testing.assert_array_equal(restored[1], large)


def test_lowest_quality_is_the_first_that_reaches_the_target() -> None:
    quality, point = classical.lowest_quality(IMAGES, "jpeg", 25.0)
    assert point.psnr_db >= 25 > classical.measure(IMAGES, "jpeg", quality - 1).psnr_db
    assert point == classical.measure(IMAGES, "jpeg", quality)
    assert classical.lowest_quality(IMAGES, "jpeg", 99.0)[0] == 95


def test_general_compressors_lose_nothing_and_gain_from_one_stream() -> None:
    brotli, zstandard = pytest.importorskip("brotli"), pytest.importorskip("zstandard")
    data = IMAGES.tobytes()
    packed = {name: compress(data) for name, (_, compress) in classical.COMPRESSORS.items()}
    assert brotli.decompress(packed["brotli"]) == data
    assert zstandard.ZstdDecompressor().decompress(packed["zstd"], max_output_size=len(data)) == data
    points = {point.codec: point for point in classical.general_compressors(IMAGES)}
    for title, _ in classical.COMPRESSORS.values():
        alone, stream = points[f"{title}, each image"], points[f"{title}, one stream"]
        assert stream.bytes_per_image < alone.bytes_per_image < IMAGES[0].size
        assert alone.psnr_db == math.inf


def test_what_a_format_cannot_do_gets_one_clear_error() -> None:
    for wrong, expected in (
        (lambda: classical.measure(IMAGES, "gif", 3), "jpeg, jpeg2000, webp, avif, avif-psnr, jxl, png, found 'gif'"),
        (lambda: classical.measure(IMAGES, "jpeg"), "expected a quality for JPEG"),
        (lambda: classical.measure(IMAGES, "png", 4), "expected no quality for PNG"),
        (lambda: classical.measure(IMAGES[..., 0], "webp", 4), "1 or 3"),
        (lambda: classical.measure(IMAGES.astype(np.float32), "webp", 4), "float32"),
    ):
        with pytest.raises(InputError, match=expected):
            wrong()


# === Reports ===


def test_a_codec_may_need_no_bytes() -> None:
    assert "| ours | 0.00 | 10.00 |" in evaluate.table(
        [evaluate.Point("ours", 0.0, 10.0), evaluate.Point("png", 5, 99)]
    )


def test_the_table_shows_only_what_was_measured() -> None:
    points = [Point("ours", 10.0, 22.0, archive_bytes_per_image=10.5), Point("PNG, lossless", 250.0, math.inf)]
    lines = evaluate.table(points).splitlines()
    assert lines[0] == "| codec | bytes per image | PSNR dB | .tfz bytes per image | bytes, relative |"
    assert lines[2:] == ["| ours | 10.00 | 22.00 | 10.50 | 1.0 |", "| PNG, lossless | 250.00 | lossless |  | 25.0 |"]
    assert "MS-SSIM" in evaluate.table([Point("a", 1.0, 30.0, 0.98)])
    assert json.dumps([point.as_dict() for point in points], allow_nan=False)


def test_figures_say_where_they_come_from() -> None:
    report = evaluate.provenance(["numpy", "no-such-package"], seed=3)
    assert report["versions"]["numpy"] == np.__version__
    assert "no-such-package" not in report["versions"]
    assert report["seed"] == 3
    assert "cores" in report["machine"]
    assert json.dumps(report)
