"""The bundled photograph codec in commands: files in and out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundled_codec import codec, packed, scene
from commands import failure
from numpy.typing import NDArray
from PIL import Image

from tfcomp.cli.main import main
from tfcomp.measure import evaluate
from tfcomp.storage import container


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
    return path


def test_photographs_of_several_sizes_go_into_a_file_and_come_out(tmp_path: Path) -> None:
    originals = {"a.png": scene(40, 30), "b.png": scene(17, 90), "sub/c.png": scene(9, 9, 1), "sub/d.png": scene(1, 1)}
    for name, image in originals.items():
        save(tmp_path / "in" / name, image)
    packed, out = tmp_path / "all.tfz", tmp_path / "out"
    assert main(["compress", str(tmp_path / "in"), "-o", str(packed), "--quality", "8"]) == 0
    assert main(["decompress", str(packed), "-o", str(out)]) == 0
    for name, image in originals.items():
        with Image.open(out / name) as opened:
            assert evaluate.psnr_db(image.reshape(np.asarray(opened).shape), np.asarray(opened)) > 20
    with container.Archive.open(packed) as archive:
        assert archive.header.item_shape == (0, 0, 3)


def test_the_file_meets_a_target_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph, packed = save(tmp_path / "photograph.jpg", scene(96, 120)), tmp_path / "a.tfz"
    assert main(["compress", str(photograph), "-o", str(packed), "--target-bytes", "900"]) == 0
    assert 700 < packed.stat().st_size <= 900
    for target in ("1", "50", str(10**20)):
        if int(target) < 900:
            said = failure(capsys, "compress", photograph, "-o", packed, "--target-bytes", target)
            assert "photograph.jpg" in said
            assert "bytes or more for this image" in said
    for quality in ("0", "-1", "9"):
        assert "of 1 to 8" in failure(capsys, "compress", photograph, "-o", packed, "--quality", quality)
    assert "--quality or --target-bytes" in failure(
        capsys, "compress", photograph, "-o", packed, "--target-bytes", "900", "--quality", "3"
    )
    assert packed.stat().st_size <= 900
    assert packed.stat().st_size > 0


def test_what_cannot_be_compressed_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = save(tmp_path / "whole.jpg", scene(64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    frames = [Image.new("RGB", (5, 6), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "no images").mkdir()
    there = sorted(tmp_path.iterdir())
    for name in ("cut.jpg", "empty.png", "text.png", "deep.png", "print.jpg", "moving.gif", "no images", "none.png"):
        assert name in failure(capsys, "compress", tmp_path / "whole.jpg", tmp_path / name, "-o", tmp_path / "a.tfz")
        assert sorted(tmp_path.iterdir()) == there
    assert "quality of 1 to 8, found 9" in failure(
        capsys, "compress", tmp_path / "whole.jpg", "-o", tmp_path / "a.tfz", "--quality", "9"
    )
    assert sorted(tmp_path.iterdir()) == there


def test_a_very_long_image_is_one_like_any_other(tmp_path: Path) -> None:
    image = np.repeat((np.arange(100_000) // 500 % 2 * 200 + 20).astype(np.uint8)[None, :, None], 3, axis=2)
    assert main(["compress", str(save(tmp_path / "long.png", image)), "-o", str(tmp_path / "a.tfz")]) == 0
    assert main(["decompress", str(tmp_path / "a.tfz"), "-o", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "long.png") as opened:
        assert evaluate.psnr_db(image, np.asarray(opened)) > 25


def test_other_codecs_payloads_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    container.write(tmp_path / "other.tfz", [b"\1"], fingerprint=bytes(16), item_shape=(8, 8, 1))
    assert "name its artifact with --codec" in failure(
        capsys, "decompress", tmp_path / "other.tfz", "-o", tmp_path / "o"
    )
    own = bytes.fromhex(codec().fingerprint)
    container.write(
        tmp_path / "huge.tfz", [b"\x04" + b"\xff\xff\xff\xff\x07" * 2], fingerprint=own, item_shape=(0, 0, 0)
    )
    assert "1 to 268435456 pixels" in failure(capsys, "decompress", tmp_path / "huge.tfz", "-o", tmp_path / "o")
    assert not [path for path in (tmp_path / "o").rglob("*") if path.is_file()]


def test_info_says_what_the_photographs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = save(tmp_path / "a.png", scene(20, 30))
    assert main(["compress", str(photograph), "-o", str(tmp_path / "a.tfz"), "--quality", "3"]) == 0
    assert main(["info", str(tmp_path / "a.tfz")]) == 0
    said = capsys.readouterr().out
    assert "'a.png': 30x20 RGB, quality 3, 1 tile, " in said
    assert "decoder: 11.6 thousand multiply-accumulates a pixel" in said


def test_a_folder_of_any_sizes_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    for i, shape in enumerate([(60, 80), (90, 50), (64, 64)]):
        save(tmp_path / "in" / f"{i}.png", scene(*shape, seed=i))
    assert main(["evaluate", "photographs", str(tmp_path / "in"), "--against", "jpeg"]) == 0
    said = capsys.readouterr().out
    assert "3 of the 3 test images" in said
    assert "3 sizes" in said
    assert "photographs, quality 8" in said
    assert "BD-rate against JPEG: -" in said


@pytest.mark.parametrize("names", [5, None, ["\udcff.png"], ["a\nb.png"], ["a.png", "b.png"]])
def test_info_trusts_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: object) -> None:
    payload = packed(scene(9, 9), 1)
    path = tmp_path / "a.tfz"
    container.write(
        path, [payload], fingerprint=bytes.fromhex(codec().fingerprint), item_shape=(9, 9, 3), metadata={"names": names}
    )
    assert main(["info", str(path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("image ")]
    assert line.isascii()
    assert "9x9 RGB, quality 1" in line


def test_several_processes_do_what_one_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for i in range(5):
        save(tmp_path / "in" / f"{i}.png", scene(20 + i, 30, seed=i))
    assert main(["compress", str(tmp_path / "in"), "-o", str(tmp_path / "a.tfz")]) == 0
    with container.Archive.open(tmp_path / "a.tfz") as archive:
        for i, payload in enumerate(archive):
            assert payload == packed(scene(20 + i, 30, seed=i))
    (tmp_path / "in" / "3.png").write_bytes(b"")
    assert "3.png" in failure(capsys, "compress", tmp_path / "in", "-o", tmp_path / "b.tfz")
    assert not (tmp_path / "b.tfz").exists()


def test_photographs_need_no_tensorflow(tmp_path: Path) -> None:
    photograph = save(tmp_path / "a.png", scene(20, 30))
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from tfcomp.cli.main import main\n"
        f"assert main(['compress', {str(photograph)!r}, '-o', {str(tmp_path / 'a.tfz')!r}]) == 0\n"
        f"assert main(['decompress', {str(tmp_path / 'a.tfz')!r}, '-o', {str(tmp_path / 'out')!r}]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "out" / "a.png").is_file()
