"""The examples for Dask and Ray, as they stand. Run by ``make beam``, whose environment has both."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfcomp
from tfcomp import bulk
from tfcomp.storage.container import Archive

ROOT = Path(__file__).resolve().parent.parent
ARTIFACT = ROOT / "tests" / "golden" / "artifacts" / "contexts"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_example_makes_the_payloads_of_bulk(engine: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed: make beam")
    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (20, 20 + i, 3), np.uint8)).save(photos / f"{i}.png")
    (photos / "bad.png").write_bytes(b"no image")
    script = tmp_path / f"{engine}_bulk.py"
    text = (ROOT / "examples" / script.name).read_text()
    assert "FILES = 1000" in text
    script.write_text(text.replace("FILES = 1000", "FILES = 4"))  # several tasks
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for kept in (0, 3):  # the second time all is there
        done = subprocess.run(
            [sys.executable, script, photos, tmp_path / "shards", ARTIFACT],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (said,) = re.findall(r"Report\(shards=3, items=10, skipped=1, bytes=\d+, kept=(\d)\)", done.stdout)
        assert int(said) == kept
    found = {}
    for part in sorted((tmp_path / "shards").iterdir()):
        for entry in bulk.items(part):
            if entry.index is not None:
                with Archive.open(entry.shard) as archive:
                    found[entry.name] = archive[entry.index]
    codec = tfcomp.Codec.load(ARTIFACT)
    images = {path.name: np.array(Image.open(path)) for path in photos.glob("[0-9].png")}
    assert found == {name: codec.compress([image])[0] for name, image in images.items()}
