"""The notebooks: committed with the outputs of a whole run, and running through on small settings and other data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: tfcomp[notebooks]")

FOLDER = ROOT / "notebooks"
MNIST = ["01_train_and_compress", "02_gradient_descent", "03_vae_rate_distortion", "04_export_and_deploy"]
OWN = "05_your_own_images"
NAMES = [*MNIST, OWN]
LARGEST = 500_000


def read(path: Path) -> tuple[list[Any], str]:
    """The code cells, and all outputs but the pictures as one text."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [output.get("text", "") + str({**output.get("data", {}), "image/png": ""}) for output in outputs]
    return cells, "\n".join(texts)


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


# === As committed ===


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_with_the_outputs_of_one_whole_run(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    cells, text = read(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert ("103 images to train on" if name == OWN else "60000 images to train on") in text
    assert "Falling back" not in text
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_names_no_machine(name: str) -> None:
    cells, text = read(FOLDER / f"{name}.ipynb")
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    whole = text + "".join(cell.source for cell in cells)
    assert not re.findall(rf"(?:{re.escape(str(ROOT))}|/(?:home|root|tmp|var|Users)/)\S*", whole)


# === Run ===


@pytest.mark.further
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES])
@pytest.mark.timeout(600)
def test_runs_through_on_small_settings(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed: tfcomp[notebooks]")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: tfcomp[notebooks]")
    pytest.importorskip("tensorflow")
    path = FOLDER / f"{name}.ipynb"
    before = path.read_bytes()
    command = [sys.executable, FOLDER / "execute.py", "--reduced", "--out", tmp_path, path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert path.read_bytes() == before
    cells, _ = read(tmp_path / f"{name}.ipynb")
    assert all(cell.execution_count for cell in cells)


def test_the_gradients_of_the_notebook_are_those_of_its_loss() -> None:
    """The notebook checks the largest gradients, of digits; this checks those of every weight of a small network."""
    cells, _ = read(FOLDER / "02_gradient_descent.ipynb")
    namespace: dict[str, Any] = {"np": np}
    exec(next(cell.source for cell in cells if "def gradients" in cell.source), namespace)
    loss, gradients = namespace["loss"], namespace["gradients"]
    generator = np.random.default_rng(0)
    x = generator.random((6, 9))
    weights = [generator.normal(size=shape) for shape in ((9, 5), 5, (5, 9), 9)]
    hidden, _ = namespace["forward"](weights, x)
    assert 0 < np.mean(hidden > 0) < 1, "units on and off, or half of the formula is not tested"
    for weight, gradient in zip(weights, gradients(weights, x), strict=True):
        assert gradient.shape == weight.shape
        for place in np.ndindex(weight.shape):
            saved, ends = weight[place], []
            for weight[place] in (saved + 1e-6, saved - 1e-6):
                ends.append(loss(weights, x))
            weight[place] = saved
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_a_failing_cell_fails_the_run(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed: tfcomp[notebooks]")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: tfcomp[notebooks]")
    path = tmp_path / "broken.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2, 'as it should'")])
    path.write_text(nbformat.writes(notebook))
    before = path.read_text()
    run = subprocess.run(
        [sys.executable, str(FOLDER / "execute.py"), str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "as it should" in run.stderr
    assert path.read_text() == before


@pytest.mark.parametrize("name", MNIST)
def test_falls_back_to_glyphs_and_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cells, _ = read(FOLDER / f"{name}.ipynb")
    source = next(cell.source for cell in cells if "Falling back" in cell.source)
    monkeypatch.setitem(os.environ, "TFCOMP_DATA", str(tmp_path / "absent"))
    import tfcomp

    namespace: dict[str, Any] = {"os": os, "tfcomp": tfcomp, "FULL": True}
    exec(source, namespace)  # the cell needs no kernel
    assert "Falling back to glyphs: expected mnist" in capsys.readouterr().out
    assert len(namespace["train"]) == 10_000
    assert np.shape(next(iter(namespace["train"]))) == (28, 28, 1)


def test_falls_back_to_drawn_pages_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cells, _ = read(FOLDER / f"{OWN}.ipynb")
    monkeypatch.setenv("TFCOMP_PHOTOGRAPHS", str(tmp_path / "absent"))
    source = next(cell.source for cell in cells if "Falling back" in cell.source)
    import tfcomp

    tempfile = SimpleNamespace(TemporaryDirectory=lambda: SimpleNamespace(name=tmp_path))
    namespace: dict[str, Any] = {"os": os, "np": np, "Image": Image, "Path": Path, "tempfile": tempfile}
    exec(source, {**namespace, "tfcomp": tfcomp, "FULL": True})
    assert "Falling back to pages" in capsys.readouterr().out
