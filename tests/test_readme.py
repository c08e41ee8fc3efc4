"""The README's example runs as it stands; only the data and the number of epochs are made small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_front_page_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    small = example.replace('"mnist"', '"glyphs"').replace("epochs=10", "epochs=1")
    assert small != example
    script = f"{small}\nassert restored.shape == images.shape and restored.dtype == images.dtype\n"
    script += "again = codec.decompress(payloads).astype(int)\nassert abs(again - restored).max() <= 1\nprint('ran')\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("ran")
    assert (tmp_path / "artifact" / "manifest.json").is_file()
