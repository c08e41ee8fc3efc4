"""Execute the notebooks: in place with full settings, or reduced and elsewhere as CI does.

    python notebooks/execute.py [NOTEBOOK ...]                       minutes each; outputs are kept in the notebooks
    python notebooks/execute.py --reduced [--out FOLDER] [NOTEBOOK ...]     a fraction of that; outputs go to FOLDER

What a notebook prints to stderr (progress bars, TensorFlow's greetings) is shown here and not kept, nor is anything
else that differs from one machine to the next.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).resolve().parent
PREPARED = HERE.parent.parent / "shared" / "data" / "tensorflow_datasets"
CELL_SECONDS = 1800


def execute(path: Path, *, reduced: bool) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in a fresh kernel, in the notebook's folder.

    Raises:
        CellExecutionError: with the cell and its traceback, if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "TFCOMP_NOTEBOOK": "reduced" if reduced else "full"}
    if PREPARED.is_dir():
        environment.setdefault("TFDS_DATA_DIR", str(PREPARED))
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources, coalesce_streams=True
    )
    client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    print(output.text, file=sys.stderr, end="")
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                data["image/png"] = fewer_colours(data["image/png"])
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def fewer_colours(png: str) -> str:
    """A picture in base64 with a palette of its 64 commonest colours: half the size and less, and looks the same."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, picture).convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> int:
    """Exit status: 0 if every notebook ran through, 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    parser.add_argument("--reduced", action="store_true", help="small settings: does it run, not what does it find")
    parser.add_argument("--out", type=Path, help="folder for the executed notebooks; default: where they are")
    args = parser.parse_args()
    if args.reduced and args.out is None:
        args.out = HERE.parent / "build" / "notebooks"
    for path in args.notebooks:
        start = time.perf_counter()
        try:
            executed = execute(path.resolve(), reduced=args.reduced)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        target = path if args.out is None else args.out / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(nbformat.writes(executed, indent=1) + "\n")
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
