"""What export/ shows is run as it is written, without tfcomp and without TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = ROOT / "export" / "python" / "litert_codec.py"


def test_python_example(exported: Any, tmp_path: Path) -> None:
    codec, artifact, images = exported
    for name in ("tfcomp", "tensorflow", "keras"):  # found before the real ones
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the example needs no ' + __name__)")
    for image in images[:2]:
        np.save(tmp_path / "image.npy", image)
        done = subprocess.run(
            [sys.executable, SCRIPT, artifact, "image.npy"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        payload = bytes.fromhex(done.stdout)
        assert codec.entropy_model.encode(codec.entropy_model.decode([payload])) == [payload]
        restored = np.load(tmp_path / "restored.npy")
        assert restored.dtype == np.uint8
        assert np.abs(restored.astype(int) - codec.decompress([payload])[0]).max() <= 1
        assert np.abs(codec.entropy_model.decode([payload])[0] - codec.encode(image[None])[0]).max() <= 1


@pytest.mark.further
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("spatial_any", marks=pytest.mark.xdist_group("spatial_any")),
        pytest.param("conv_qualities", marks=[pytest.mark.xdist_group("conv_qualities"), pytest.mark.slow]),
    ],
)
def test_python_example_takes_a_quality_and_any_size(kinds: Any, name: str, tmp_path: Path) -> None:
    kind = kinds(name)
    image = kind.items[3]
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, SCRIPT, kind.folder, "image.npy", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [expected] = kind.codec.decompress([bytes.fromhex(done.stdout)], 1)
    assert np.abs(np.load(tmp_path / "restored.npy").astype(int) - expected).max() <= 1


def test_python_example_refuses(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from litert_codec import Codec

    example = Codec(exported[1])
    with pytest.raises(ValueError, match=f"at most {example.capacity} bytes, found {example.capacity + 1}"):
        example.decompress(bytes(example.capacity + 1))
    with pytest.raises(ValueError, match=r"expected uint8 \[28, 28, 1\], found float32"):
        example.compress(np.zeros((28, 28, 1), np.float32))
