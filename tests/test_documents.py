"""The site's code runs as it stands, page by page; only networks, data and the number of steps are made small."""

from __future__ import annotations

import gc
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kinds import ROOT, Kind, scene
from PIL import Image

from tfcomp.cli.main import main

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
ELSEWHERE_RUN = ("how-to/serving.md", "how-to/beam.md")
"""Pages that others run: `test_serving`, which has servers, and `test_beam`, whose environment has Beam."""
RUN_ONCE = "how-to/own-images.md"
"""The page whose commands that train and export are not run again where another page has them."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

SMALL = {
    "beta=(0.07, 0.01, 0.001))": "beta=(0.07, 0.01, 0.001), stride=4, coefficients=(8, 3), hidden=(12, 16), blocks=1, "
    "ranks=(8, 6), groups=(0, 1))",
    "side=192": "side=64",
    "steps_per_epoch=250, epochs=20": "steps_per_epoch=2, epochs=1",
    "steps_per_epoch=100": "steps_per_epoch=2",
    "--network lapped --minutes 5": "--network lapped --start small --steps 2 --side 64 --batch-size 2",
    "--network lapped --start photographs --minutes 5": "--network lapped --start small --steps 1 --side 64 "
    "--batch-size 2",
    "tfcomp export photographs": "tfcomp export small",
}
"""What the text says, and what is run in its place: the rest is run to the letter."""
ELSEWHERE = ("pip install", "MODELS=", "curl ")
"""Beginnings of commands that need the network or a server that is not installed."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block, made small."""
    for language, text in BLOCK.findall((DOCS / page).read_text()):
        yield language, small(text)


def small(text: str) -> str:
    """The text with the long settings of `SMALL` made small."""
    for long, short in SMALL.items():
        text = text.replace(long, short)
    return text


def commands(page: str, text: str) -> list[list[str]]:
    """The arguments of each tfcomp command; what is run elsewhere is left out."""
    lines = [line.split("  #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line) for line in lines if line and not line.startswith(("#", *ELSEWHERE))]
    assert all(words[0] == "tfcomp" for words in found), found
    once = [] if page == RUN_ONCE else longest()
    return [words[1:] for words in found if words[1:] not in once]


def longest() -> list[list[str]]:
    """The arguments of the commands of `RUN_ONCE` that train and export."""
    every = [words for language, text in blocks(RUN_ONCE) if language == "sh" for words in commands(RUN_ONCE, text)]
    return [words for words in every if words[0] in ("train", "export")]


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_of_a_language_that_is_run_or_plain(page: str) -> None:
    assert {language for language, _ in blocks(page)} <= {"python", "sh", "", "text"}
    for language, text in blocks(page):
        assert language or "tfcomp " not in text, "a command stands in a block of sh"


def test_every_replacement_is_of_use() -> None:
    text = "".join((DOCS / page).read_text() for page in PAGES)
    assert all(long in text for long in SMALL)
    others = [small((DOCS / page).read_text()) for page in PAGES if page != RUN_ONCE]
    assert any(" ".join(["tfcomp", *words]) in text for words in longest() for text in others)


@pytest.fixture
def folder(tmp_path: Path, kinds: Callable[[str], Kind], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs, an artifact of small images, and a small codec of any size to train on from."""
    pytest.importorskip("tensorflow")
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        Image.fromarray(scene(210, 220, seed=seed)).save(tmp_path / "photos" / f"{seed}.png")
    for seed, name in enumerate(("photo.jpg", "first.jpg", "second.jpg"), 20):
        Image.fromarray(scene(70, 40 + seed, seed=seed)).save(tmp_path / name)
    shutil.copytree(kinds("dense").folder, tmp_path / "artifact")
    shutil.copytree(kinds("lapped").folder, tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.further
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("lapped")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ELSEWHERE_RUN and {"python", "sh"} & {*dict(blocks(page))}]
)
def test_the_code_of_a_page_runs(page: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), names)
        elif language == "sh":
            for arguments in commands(page, text):
                assert main(arguments) == 0, arguments
    names.clear()
    gc.collect()  # so that a file which the page leaves open is said to be this page's
