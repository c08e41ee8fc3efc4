"""Pages that are made of the code: the reference of every public name, the commands, and the specifications of formats.

MkDocs runs this file (see ``mkdocs.yml``). Notebooks and figures are taken into the site from where they lie.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import mkdocs_gen_files
from latex2mathml.converter import convert

import tfcomp
from tfcomp import words
from tfcomp.artifact import manifest
from tfcomp.cli.arguments import parser
from tfcomp.coding import range_coder, varints
from tfcomp.entropy import base, payloads, sample, tiles
from tfcomp.storage import container_format

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    "Models": ["AutoEncoder", "VAE", "load_model", "fit_workers", "networks", "callbacks"],
    "Codec": ["Codec", "use_numba"],
    "Data": ["datasets"],
    "Files and servers": ["bulk", "container", "serving"],
    "Measuring": ["evaluate", "classical", "plots"],
    "Errors": [
        "TfcompError",
        "InputError",
        "BitstreamError",
        "MissingDependencyError",
        "ServerError",
        "WorkerLostError",
    ],
}
"""The public names, in reading order."""


def page(path: str, text: str) -> None:
    """Writes a page of the site."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def formulas(text: str) -> str:
    """The text with its TeX as MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        block, inline = found.groups()
        if block:
            return f'<div style="overflow-x: auto">{convert(block.strip(), display="block")}</div>'
        return convert(inline.strip())

    return re.sub(r"\$\$(.+?)\$\$|\$([^$]+?)\$", drawn, text, flags=re.DOTALL)


def reference() -> str:
    """An entry for each name of ``tfcomp.__all__``, and for each public name of a public module."""
    named = {name for names in GROUPS.values() for name in names}
    if missing := named ^ (set(tfcomp.__all__) - {"__version__"}):
        raise SystemExit(f"docs/generate.py: GROUPS and tfcomp.__all__ differ in {sorted(missing)}")
    lines = ["# Python", "", "Every public name. `import tfcomp` loads TensorFlow only when a name needs it.", ""]
    for group, names in GROUPS.items():
        lines += [f"## {group}", ""]
        for name in names:
            found = getattr(tfcomp, name)
            home = found.__name__ if isinstance(found, ModuleType) else f"{found.__module__}.{found.__name__}"
            options = [
                "    options:",
                "      heading_level: 3",
                f'      heading: "{name}"',
                f'      toc_label: "{name}"',
            ]
            if isinstance(found, ModuleType) and (public := getattr(found, "__all__", None)):
                options.append(f"      members: [{', '.join(public)}]")
            lines += [f"::: {home}", *options, ""]
    return "\n".join(lines)


def commands() -> str:
    """The help of every command, as ``--help`` prints it."""
    main = parser()
    (subparsers,) = (action for action in main._actions if hasattr(action, "choices") and action.choices)  # noqa: SLF001
    lines = ["# Command line", "", "```text", main.format_help().rstrip(), "```", ""]
    for name, command in subparsers.choices.items():
        lines += [f"## tfcomp {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    lines += ["Exit status: 0 done, 2 the input is wrong (one line on stderr), 1 a defect.", ""]
    return "\n".join(lines)


def specification(title: str, *modules: ModuleType) -> str:
    """Module docstrings, which are the specification, as they stand."""
    lines = [f"# {title}", ""]
    for module in modules:
        lines += [f"## `{module.__name__}`", "", "```text", inspect.getdoc(module) or "", "```", ""]
    return "\n".join(lines)


page("security.md", (ROOT / "SECURITY.md").read_text())
page("reference/python.md", reference())
page("reference/command-line.md", commands())
page("formats/payload.md", specification("Payload", range_coder, payloads, tiles, sample, words, varints, base))
page("formats/tfz.md", specification("The .tfz file", container_format))
page("formats/artifact.md", specification("The artifact", manifest))
for source in (ROOT / "docs" / "explanation").glob("*.md"):
    page(f"explanation/{source.name}", formulas(source.read_text()))
for source in (ROOT / "notebooks").glob("*.ipynb"):
    notebook = json.loads(source.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = formulas("".join(cell["source"]))
    page(f"tutorials/{source.name}", json.dumps(notebook))
for name in ("index.md", "measured.md"):  # whose figures lie where benchmarks write them
    page(name, (ROOT / "docs" / name).read_text().replace("](../benchmarks/results/", "](results/"))
for source in (ROOT / "benchmarks" / "results").glob("*.png"):
    with mkdocs_gen_files.open(f"results/{source.name}", "wb") as file:
        file.write(source.read_bytes())
