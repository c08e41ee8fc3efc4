"""LiteRT.js in a headless Chromium as a runtime beside the others: needs Node, ``make web``, and a Chromium.

`absent` says what is missing of these, `Browser` is the browser, `serve` the local server that both it and the test of
the page use. Models run by the page's own class `Model` (``export/web/codec/networks.js``).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

WEB = Path(__file__).resolve().parent.parent / "export" / "web"
ROWS = 250
"""Rows in one message to the browser."""

Row = dict[str, NDArray[Any]]
Run = Callable[[str, Sequence[Row]], Iterator[Row]]
"""The name of a ``.tflite`` file and its inputs, row by row and by name -> its outputs, each of a type of its own."""


def chromium() -> str | None:
    """The program, by ``CHROMIUM`` or its usual names."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def absent() -> str:
    """What is missing to run LiteRT.js, or "" if nothing is."""
    if chromium() is None:
        return "no Chromium here: install it, or name it in CHROMIUM"
    if shutil.which("node") is None or not (WEB / "node_modules" / "playwright-core").is_dir():
        return "no LiteRT.js or Playwright in export/web: run `make web` (needs Node and npm)"
    return ""


def versions() -> dict[str, str]:
    """Of the browser and of LiteRT.js."""
    said = subprocess.run([chromium(), "--version"], capture_output=True, text=True, check=True).stdout
    package = json.loads((WEB / "node_modules" / "@litertjs" / "core" / "package.json").read_text())
    return {"Chromium": said.split()[1], "@litertjs/core": package["version"]}


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder to this machine; the value is its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Browser:
    """A headless Chromium with the page open. Use it as a context."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._site = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (self._site / "web").symlink_to(WEB)
            self._address = stack.enter_context(serve(self._site))
            command = ["node", WEB / "compute.mjs", chromium(), f"{self._address}/web/index.html"]
            self._process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            self._folders = (f"models{i}" for i in itertools.count())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()  # which ends the program
        self._stack.close()

    def load(self, files: dict[str, bytes]) -> Run:
        """A function that runs these ``.tflite`` files, given and asked for by name."""
        folder = next(self._folders)
        (self._site / folder).mkdir()
        outputs = {}
        for name, content in files.items():
            (self._site / folder / name).write_bytes(content)
            details = Interpreter(model_content=content).get_signature_runner().get_output_details()
            outputs[name] = {key: (np.dtype(detail["dtype"]), detail["shape"]) for key, detail in details.items()}

        def run(name: str, rows: Sequence[Row]) -> Iterator[Row]:
            for i in range(0, len(rows), ROWS):
                packed = [{str(a.dtype): _text(a) for a in row.values()} for row in rows[i : i + ROWS]]
                for found in self._ask({"model": f"{self._address}/{folder}/{name}", "rows": packed}):
                    yield {
                        key: np.frombuffer(base64.b64decode(found[dtype.name]), dtype).reshape(shape)
                        for key, (dtype, shape) in outputs[name].items()
                    }

        return run

    def _ask(self, job: dict[str, Any]) -> list[dict[str, str]]:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the browser's program has ended"}
        if isinstance(answer, dict):
            raise RuntimeError(f"LiteRT.js: {answer['error']}")
        return answer


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
