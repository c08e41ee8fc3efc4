"""Inputs of `tfcomp.bulk`, the codecs that its tests use, and what a folder of shards holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinds import scene
from PIL import Image

import tfcomp
from tfcomp import bulk
from tfcomp.storage import places
from tfcomp.storage.container import Archive

GOLDEN = Path(__file__).resolve().parent / "golden" / "artifacts"
RNG = np.random.default_rng(0)
SMALL = tfcomp.Codec.load(GOLDEN / "static")  # of one shape
ANY = tfcomp.Codec.load(GOLDEN / "contexts")  # of any size
ALONE: dict[str, Any] = {"processes": 1}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in folders, beside files that are none."""
    folder = tmp_path / "photos"
    for i, name in enumerate(("b/1.png", "b/2.png", "a.png", "b.png", "b/c/deep.png", "z/1.png", "z/10.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(10 + i, 12, seed=i)).save(folder / name)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eleven images of one shape in an array."""
    path = tmp_path / "rows.npy"
    np.save(path, RNG.integers(0, 256, (11, *SMALL.item.shape), np.uint8))
    return path


def payloads(folder: Any) -> list[bytes]:
    found: list[bytes] = []
    for entry in bulk.items(folder):
        if entry.index is not None:
            with Archive.of_file(places.opened(entry.shard), entry.shard) as archive:
                found.append(archive[entry.index])
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(path: Path) -> Any:
    return np.array(Image.open(path))
