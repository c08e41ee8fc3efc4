"""The README's example runs as it stands, on little data, and its commands are those of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kinds import ROOT

from tfcomp.cli.arguments import parser

TEXT = (ROOT / "README.md").read_text()
MAX_LINES = 100


def test_it_stays_short() -> None:
    assert len(TEXT.splitlines()) <= MAX_LINES


@pytest.mark.further
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for long, short in {'"mnist"': '"glyphs"', "epochs=10": "epochs=1"}.items():
        assert long in script
        script = script.replace(long, short)
    names: dict = {}
    exec(compile(script, "README.md", "exec"), names)
    images, restored = names["images"], names["restored"]
    assert (restored.shape, restored.dtype) == (images.shape, images.dtype)
    again = names["codec"].decompress(names["payloads"]).astype(int)
    assert abs(again - restored).max() <= 1


def test_the_commands_are_those_of_the_command_line() -> None:
    commands = re.findall(r"^tfcomp (.*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"compress", "decompress", "train", "export"}
    for command in commands:
        parser().parse_args(command.split())
    helps = [command.format_help() for command in parser()._subparsers._group_actions[0].choices.values()]
    for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)):
        assert any(option in text for text in helps), option


def test_every_file_that_it_names_is_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / path).exists(), path
