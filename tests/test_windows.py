"""Items of several tiles by LiteRT, whose networks run beside the coder: the pixels of a plain loop, and the errors."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kinds import Kind, scene

import tfcomp
from tfcomp.entropy import payloads
from tfcomp.errors import BitstreamError
from tfcomp.runtimes.litert import LiteRTTransform

pytestmark = pytest.mark.xdist_group("lapped")

OUTLIVES = """
import threading
import numpy as np
import tfcomp
codec, image = tfcomp.Codec.load(), np.full((300, 4400, 3), 90, np.uint8)
def work():
    threading.main_thread().join()
    print(len(codec.decompress(codec.compress([image]))[0]))
threading.Thread(target=work).start()
"""


@pytest.fixture
def codec_of(kinds: Callable[[str], Kind]) -> Callable[..., tfcomp.Codec]:
    """The loaded codec with tiles of another side, in positions, and another number of threads."""

    def make(tile: int, threads: int | None = None) -> tfcomp.Codec:
        codec = kinds("lapped").load("litert")
        codec = codec.with_threads(threads) if threads else codec
        grid = codec.parts.grid
        assert grid is not None
        return tfcomp.Codec(replace(codec.parts, grid=replace(grid, tile=tile)))

    return make


@pytest.mark.parametrize("tile", [1, 2, 6, 16])
@pytest.mark.parametrize("shape", [(45, 52, 3), (97, 33, 1), (9, 130, 3)])
def test_windows_beside_the_coder_give_the_pixels_of_a_plain_loop(
    codec_of: Callable[..., tfcomp.Codec], tile: int, shape: tuple[int, int, int]
) -> None:
    codec, item = codec_of(tile), scene(*shape)
    [payload] = codec.compress([item], 2)
    parts, quality = codec.parts, codec.parts.quality(2)
    assert parts.grid is not None
    plan, stride = parts.grid.plan(*shape[:2]), parts.grid.stride
    [integers] = codec.decode([payload])
    pixels = np.zeros((int(plan.rows) * stride, int(plan.columns) * stride, 3), np.uint8)
    for area, window, inner in plan.windows():
        seen = parts.transform.synthesise(quality.to_units(integers[window])[None], 2)[0]
        pixels[plan.pixels(area)] = seen[plan.pixels(inner)]
    expected = pixels[plan.top : plan.top + shape[0], plan.left : plan.left + shape[1]]
    if shape[2] == 1:
        expected = np.rint(expected.mean(axis=-1, keepdims=True, dtype=np.float32)).astype(np.uint8)
    np.testing.assert_array_equal(codec.decompress([payload])[0], expected)
    np.testing.assert_array_equal(codec.encode([item], 2)[0], integers)


def test_a_damaged_later_tile_is_refused_and_leaves_no_thread(codec_of: Callable[..., tfcomp.Codec]) -> None:
    codec, item = codec_of(8), scene(90, 100)
    grid = codec.parts.grid
    assert grid is not None
    [payload] = codec.compress([item], 1)
    header, plan, codes = payloads.parse(payload, grid, [1, 2], grey_allowed=True, max_pixels=10**6)
    assert plan.tiles > 3
    codes[-2] = b"\xff" + codes[-2]
    before = threading.active_count()
    with pytest.raises(BitstreamError):
        codec.decompress([payloads.pack(header, codes)])
    assert threading.active_count() == before


def test_what_a_network_raises_beside_the_coder_comes_out(
    codec_of: Callable[..., tfcomp.Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, before = codec_of(8), threading.active_count()

    def fails(*_: object) -> None:
        raise ValueError("of a network")

    for name in ("analyse", "synthesise"):
        [payload] = codec.compress([scene(60, 70)], 1)
        with monkeypatch.context() as patched, pytest.raises(ValueError, match="of a network"):
            patched.setattr(LiteRTTransform, name, fails)
            codec.decompress([payload]) if name == "synthesise" else codec.compress([scene(60, 70)], 1)
    assert threading.active_count() == before


@pytest.mark.parametrize(("threads", "each"), [(1, 1), (2, 1), (5, 2)])
def test_windows_share_the_threads_of_the_codec(
    codec_of: Callable[..., tfcomp.Codec], monkeypatch: pytest.MonkeyPatch, threads: int, each: int
) -> None:
    codec, asked, names = codec_of(8, threads), [], set()
    with_threads, analyse = LiteRTTransform.with_threads, LiteRTTransform.analyse

    def counted(self: LiteRTTransform, number: int) -> LiteRTTransform:
        asked.append(number)
        return with_threads(self, number)

    def named(self: LiteRTTransform, items: np.ndarray) -> np.ndarray:
        names.add(threading.current_thread().name)
        return analyse(self, items)

    monkeypatch.setattr(LiteRTTransform, "with_threads", counted)
    monkeypatch.setattr(LiteRTTransform, "analyse", named)
    codec.compress([scene(90, 100)], 1)
    assert asked == [each]
    assert len(names) <= min(threads, 2)
    assert threading.current_thread().name not in names


def test_a_thread_that_outlives_the_main_one_compresses_several_tiles() -> None:
    done = subprocess.run([sys.executable, "-c", OUTLIVES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "300"
