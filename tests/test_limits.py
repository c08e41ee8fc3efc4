"""What a file may claim: pixels of an image and of an archive, looked at before any work, and what it may cost."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failure, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tfcomp
from tfcomp import outcomes
from tfcomp.cli.main import main
from tfcomp.coding import lanes, varints
from tfcomp.errors import BitstreamError, InputError
from tfcomp.geometry import DEFAULT_MAX_PIXELS, MAX_PIXELS
from tfcomp.storage import archives, container

GOLDEN = Path(__file__).parent / "golden" / "artifacts"
FLAT = np.full((40, 48, 3), 90, np.uint8)  # of 1920 pixels, which no stride of 4 mirrors


@pytest.fixture(scope="module")
def codec() -> tfcomp.Codec:
    return tfcomp.Codec.load(GOLDEN / "contexts")


@pytest.fixture(autouse=True)
def _pillow_s_limit_stays() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    yield
    assert before == Image.MAX_IMAGE_PIXELS


# === One image ===


def test_the_usual_limit_is_pillow_s() -> None:
    assert Image.MAX_IMAGE_PIXELS == DEFAULT_MAX_PIXELS < MAX_PIXELS


def test_one_limit_holds_both_ways(codec: tfcomp.Codec) -> None:
    (payload,) = codec.compress([FLAT])
    for limit in (1, 1919):
        small = codec.with_max_pixels(limit)
        assert small.at(1).max_pixels == pickle.loads(pickle.dumps(small)).max_pixels == small.max_pixels == limit
        with pytest.raises(InputError, match=f"at most {limit} pixels, found 48x40; --max-pixels or Codec.with_max"):
            small.compress([FLAT])
        for reads in (small.decompress, small.decode):
            with pytest.raises(BitstreamError, match=f"at most {limit} pixels, found 48x40; --max-pixels or Codec"):
                reads([payload])
        with pytest.raises(BitstreamError, match="at most"):
            small.claimed_pixels(payload)
    enough = codec.with_max_pixels(1920)
    assert enough.compress([FLAT]) == [payload]
    assert enough.claimed_pixels(payload) == 1920
    assert enough.decompress([payload])[0].shape == FLAT.shape
    # What an image is mirrored by counts: time and memory are spent on it.
    thin = codec.with_max_pixels(1920).compress([FLAT[:1]])[0]
    assert codec.claimed_pixels(thin) == 12 * 48
    with pytest.raises(BitstreamError, match="found 48x1"):
        codec.with_max_pixels(48).decompress([thin])


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "9", None])
def test_what_is_no_limit(codec: tfcomp.Codec, limit: Any) -> None:
    with pytest.raises(InputError, match="a limit of 1 pixel or more, found"):
        codec.with_max_pixels(limit)


def test_no_option_goes_beyond_the_format(codec: tfcomp.Codec) -> None:
    payload = bytes([0]) + varints.pack(np.array([MAX_PIXELS, 1], np.int64)) + bytes(9000)
    with pytest.raises(BitstreamError, match=f"1 to {MAX_PIXELS} pixels"):
        codec.with_max_pixels(1 << 60).decompress([payload])


def test_items_of_one_shape_claim_their_shape() -> None:
    one_shape = tfcomp.Codec.load(GOLDEN / "static")
    assert one_shape.claimed_pixels(b"") == 64
    assert len(one_shape.with_max_pixels(1).decompress([b""])) == 1  # the codec fixes it, not the payload


@settings(max_examples=60)
@given(st.integers(1, 3 << 12), st.integers(1, 3 << 12), st.binary(max_size=300))
def test_every_tile_takes_two_bytes(height: int, width: int, rest: bytes) -> None:
    codec = tfcomp.Codec.load(GOLDEN / "contexts")
    payload = bytes([0]) + varints.pack(np.array([height, width], np.int64)) + rest
    try:
        pixels = codec.with_max_pixels(MAX_PIXELS).claimed_pixels(payload)
    except BitstreamError:
        return
    grid = codec.parts.grid
    assert grid is not None
    tiles = int(grid.plan(height, width).tiles)
    assert 2 * tiles <= len(payload)
    assert pixels <= tiles * (grid.tile * grid.stride) ** 2


# === What a byte can cost ===


@settings(max_examples=40)
@given(data=st.data())
def test_a_byte_is_at_most_4096_symbols(data: st.DataObject) -> None:
    """Of time, `tfcomp.entropy.tiles` spends no more than this for each byte, whatever the bytes."""
    codec, taken = tfcomp.Codec.load(GOLDEN / "contexts"), []
    lanes_log2 = data.draw(st.integers(0, 5))
    body = data.draw(st.binary(max_size=60))
    payload = bytes([0, 120, 100, lanes_log2]) + bytes((1 << lanes_log2) - 1) + body
    take = lanes.Decoder.take

    def counted(self: lanes.Decoder, table: Any) -> Any:
        taken.append(int(np.count_nonzero(table < self.coding.padding_table)))
        return take(self, table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes.Decoder, "take", counted)
        with suppress(BitstreamError):
            codec.decode([payload])
    assert sum(taken) <= 4096 * len(payload)


def test_memory_is_a_bounded_multiple_of_the_pixels() -> None:
    """The bound of SECURITY.md; the networks' own memory does not depend on the image."""
    codec = tfcomp.Codec.load()
    assert codec.parts.grid is not None
    channels, stride = len(codec.parts.quality().step), codec.parts.grid.stride
    (payload,) = codec.compress([np.full((1024, 1100, 3), 200, np.uint8)], 1)
    tracemalloc.start()
    codec.decompress([payload])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= codec.claimed_pixels(payload) * (4 * channels / stride**2 + 8) + (64 << 20)


def test_one_process_reads_files_under_the_codec_s_limit(
    codec: tfcomp.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", FLAT.shape)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # Pillow refuses twice as many itself
    small, large = (codec.with_max_pixels(limit) for limit in (1919, 1920))
    with pytest.raises(InputError, match="at most 1919 pixels, found 48x40"):
        tfcomp.bulk.compress(tmp_path / "a.png", tmp_path / "small", codec=small, processes=1)
    assert tfcomp.bulk.compress(tmp_path / "a.png", tmp_path / "large", codec=large, processes=1).items == 1
    assert Image.MAX_IMAGE_PIXELS == 900


def test_files_of_one_shape_are_read_under_the_limit_too(tmp_path: Path) -> None:
    one_shape = tfcomp.Codec.load(GOLDEN / "static")
    picture(tmp_path / "a.png", one_shape.item.shape[:2])
    pixels = math.prod(one_shape.item.shape[:2])
    source = outcomes.Source("a", tmp_path / "a.png")
    (outcome,) = outcomes.compress(one_shape.with_max_pixels(pixels), [source])
    assert not isinstance(outcome, InputError)
    (outcome,) = outcomes.compress(one_shape.with_max_pixels(pixels - 1), [source])
    assert f"at most {pixels - 1} pixels" in str(outcome)


# === Archives ===


def archive(path: Path, payloads: list[bytes], codec: tfcomp.Codec) -> Path:
    shape = tuple(n or 0 for n in codec.item.shape)
    container.write(path, payloads, fingerprint=bytes.fromhex(codec.fingerprint), item_shape=shape)
    return path


def test_all_images_are_looked_at_before_any_is_made(
    codec: tfcomp.Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = codec.compress([FLAT[:8, :8], FLAT])
    path, out = archive(tmp_path / "a.tfz", [small] * 2 + [large], codec), tmp_path / "out"
    command = ["decompress", path, "-o", out, "--codec", GOLDEN / "contexts"]
    line = failure(capsys, *command, "--max-pixels", "1000")
    assert "expected at most 1000 pixels, found 48x40; --max-pixels" in line
    assert not out.exists()
    assert main([*map(str, command), "--max-pixels", "1920"]) == 0
    assert len(list(out.iterdir())) == 3


def test_an_archive_claims_no_more_than_its_size_allows(
    codec: tfcomp.Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PIXELS_PER_BYTE", 2)
    path, out = archive(tmp_path / "a.tfz", codec.compress([FLAT] * 3), codec), tmp_path / "out"
    size = path.stat().st_size
    command = ["decompress", path, "-o", out, "--codec", GOLDEN / "contexts"]
    for limit in (1920, 3 * 1920 - 1):
        most = max(limit, 2 * size)
        line = failure(capsys, *command, "--max-pixels", str(limit))
        assert f"at most {most} pixels in {path} of {size} bytes, found a claim of {3 * 1920}; --max-pixels" in line
        assert not out.exists()
    assert main([*map(str, command), "--max-pixels", str(3 * 1920)]) == 0


def test_what_compress_writes_can_be_read_or_it_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    for i in range(3):
        picture(folder / f"{i}.png", (64, 64, 3), 90)
    command = ["compress", str(folder), "-o", str(tmp_path / "a.tfz"), "--codec", str(GOLDEN / "contexts")]
    assert main(command) == 0
    assert "--max-pixels" not in capsys.readouterr().out
    monkeypatch.setattr("tfcomp.cli.compress.DEFAULT_MAX_PIXELS", 1)
    monkeypatch.setattr(archives, "PIXELS_PER_BYTE", 1)
    assert main(command) == 0
    assert f"decompress takes them with --max-pixels {3 * 64 * 64}" in capsys.readouterr().out


def test_files_of_too_many_pixels_are_refused_before_any_is_compressed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, shape in enumerate([(8, 8, 3), (40, 48, 3), (3, 90, 3)]):
        picture(tmp_path / "in" / f"{i}.png", shape)
    command = ["compress", tmp_path / "in", "-o", tmp_path / "a.tfz", "--codec", GOLDEN / "contexts"]
    line = failure(capsys, *command, "--max-pixels", "1900")
    assert "at most 1900 pixels, found 48x40 in" in line
    assert "--max-pixels" in line
    line = failure(capsys, *command, "--max-pixels", "900")  # twice as many are Pillow's to refuse
    assert "1.png" in line
    assert "--max-pixels" in line
    (tmp_path / "in" / "1.png").unlink()
    line = failure(capsys, *command, "--max-pixels", "300")  # 3 x 90 pixels are mirrored to 12 x 92
    assert "at most 300 pixels, found 90x3 in" in line
    assert not (tmp_path / "a.tfz").exists()
