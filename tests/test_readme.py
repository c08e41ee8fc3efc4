"""The README's examples run as they stand; only data, networks and the number of steps are made small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kinds import scene
from PIL import Image

README = Path(__file__).resolve().parent.parent / "README.md"
MAX_LINES = 150

SMALL = ", stride=4, coefficients=(8, 3), hidden=(12, 16), blocks=1, ranks=(8, 6), groups=(0, 1, 2))"


def example(name: str) -> str:
    """The one Python block of the README that has this call in it."""
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if name in block)
    return found


def replaced(source: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        assert old in source, old
        source = source.replace(old, new)
    return source


def run(script: str, folder: Path) -> None:
    script += "\nprint('ran')\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("ran")
    assert (folder / "artifact" / "manifest.json").is_file()


def test_there_are_two_examples_and_it_stays_short() -> None:
    text = README.read_text()
    assert text.count("```python") == 2
    assert len(text.splitlines()) <= MAX_LINES


def test_the_example_of_one_shape_runs(tmp_path: Path) -> None:
    script = replaced(example("VAE.dense"), {'"mnist"': '"glyphs"', "epochs=10": "epochs=1"})
    script += "\nassert restored.shape == images.shape and restored.dtype == images.dtype\n"
    script += "again = codec.decompress(payloads).astype(int)\nassert abs(again - restored).max() <= 1\n"
    run(script, tmp_path)


def test_the_example_of_any_size_runs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(6):
        Image.fromarray(scene(90, 110, seed=seed)).save(tmp_path / "photos" / f"{seed}.png")
    for seed, name in enumerate(("first.jpg", "second.jpg"), 20):
        Image.fromarray(scene(70, 40 + seed, seed=seed)).save(tmp_path / name)
    small = {"side=192": "side=64", "0.001))": f"0.001){SMALL}", "steps_per_epoch=250, epochs=20": "steps_per_epoch=2"}
    script = replaced(example("AutoEncoder.lapped"), small)
    script += "\nassert [image.shape for image in restored] == [image.shape for image in images]\n"
    script += "loaded = tfcomp.Codec.load('artifact/')\nassert 'quality 2' in loaded.describe(payloads[0])\n"
    script += "again = loaded.decompress(payloads)\n"
    script += "assert max(abs(a.astype(int) - b).max() for a, b in zip(again, restored)) <= 1\n"
    run(script, tmp_path)


def test_the_commands_are_those_of_the_command_line() -> None:
    from tfcomp.cli.arguments import parser

    text = README.read_text()
    commands = re.findall(r"^(tfcomp .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        parser().parse_args(command.split()[1:])
    for option in ("--quality", "--target-bytes", "--effort", "--minutes", "--steps", "--start", "--on-error"):
        assert option in text


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README.read_text()))
def test_what_it_links_to_is_there(target: str) -> None:
    assert (README.parent / target).exists()
