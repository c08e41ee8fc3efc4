"""The Kotlin examples of export/android compile, and name what an artifact has. No phone runs them.

They are compiled against LiteRT's own library where LITERT_JAR names it (its classes and those of Android, joined by
colons), else against the stubs beside them, which repeat the names and types that its published source has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

ANDROID = ROOT / "export" / "android"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["", "sizeAndQuality.writeInt("])
def test_the_examples_compile(wrong: str, tmp_path: Path) -> None:
    compiler = shutil.which("kotlinc", path=f"{os.environ['PATH']}:{ANDROID}/node_modules/kotlin-compiler/bin")
    if compiler is None or shutil.which("java") is None:
        pytest.skip("no Kotlin compiler here, or no Java for it: `make android`, and a JDK")
    for source in ANDROID.glob("*.kt"):
        text = source.read_text()
        (tmp_path / source.name).write_text(text.replace(wrong, wrong.replace("write", "put")) if wrong else text)
    library = os.environ.get("LITERT_JAR")
    against = ["-classpath", library] if library else [*map(str, (ANDROID / "stubs").glob("*.kt"))]
    command = ["bash", compiler, "-Werror", "-d", str(tmp_path / "out.jar"), *map(str, tmp_path.glob("*.kt")), *against]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if wrong:  # the compiler does look at the calls
        assert f"unresolved reference '{wrong.split('.')[1].strip('(').replace('write', 'put')}'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.jar").stat().st_size > 0


def names_in(source: str) -> set[str]:
    return set(re.findall(r'"([a-z_.]+)"', (ANDROID / source).read_text()))


def tensors(content: Any) -> set[str]:
    from ai_edge_litert.interpreter import Interpreter

    given = {"model_content": content} if isinstance(content, bytes) else {"model_path": str(content)}
    (signature,) = Interpreter(**given).get_signature_list().values()
    return {name for names in signature.values() for name in names}


@pytest.mark.xdist_group("conv_qualities")
def test_the_example_of_one_shape_names_what_the_artifact_has(kinds: Any) -> None:
    folder = kinds("conv_qualities").folder
    files = {"encoder.tflite", "decoder.tflite"}
    found = set().union(*(tensors(folder / name) for name in files))
    assert names_in("TfcompCodec.kt") == files | found
    assert "quality" in found


@pytest.mark.xdist_group("lapped")
def test_the_example_of_photographs_names_what_the_artifact_has(kinds: Any) -> None:
    from tfcomp.artifact.tiled_graphs import TiledGraphs

    codec = kinds("lapped").codec
    files = TiledGraphs(codec.parts, codec.parts.transform, 16).litert("float32")
    assert names_in("TfcompPhotographs.kt") == {*files}.union(*(tensors(content) for content in files.values()))
