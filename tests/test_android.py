"""The Kotlin examples of export/android compile, and run on a JVM. No phone or emulator runs them.

`stubs/` stands for LiteRT's library and Android: it has the names and types of LiteRT's published Kotlin source, and
asks this test for what a model computes, which the same ``.tflite`` file does in LiteRT for Python. With LITERT_JAR
(LiteRT's classes and Android's, joined by colons) the examples are compiled against the library itself.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import ROOT
from kinds import scene

ANDROID = ROOT / "export" / "android"
EXAMPLES = sorted(ANDROID.glob("*.kt"))
STUBS = sorted((ANDROID / "stubs").glob("*.kt"))

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("lapped")]


def kotlinc(out: Path, sources: Sequence[Path], *options: str) -> str:
    """Compiles, and returns what the compiler said against it."""
    compiler = shutil.which("kotlinc", path=f"{os.environ['PATH']}:{ANDROID}/node_modules/kotlin-compiler/bin")
    if compiler is None or shutil.which("java") is None:
        pytest.skip("no Kotlin compiler here, or no Java for it: `make android`, and a JDK")
    command = ["bash", compiler, "-Werror", "-d", out, *options, *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples on the stubs, and `Main`."""
    out = tmp_path_factory.mktemp("kotlin") / "program.jar"
    assert kotlinc(out, [*EXAMPLES, *STUBS], "-include-runtime") == ""
    return out


def test_the_examples_compile_against_the_library(tmp_path: Path) -> None:
    library = os.environ.get("LITERT_JAR")
    if library is None:
        pytest.skip("no LITERT_JAR here, LiteRT's library for Android: the examples are compiled against stubs alone")
    assert kotlinc(tmp_path / "out.jar", EXAMPLES, "-classpath", library) == ""


def test_the_compiler_sees_a_wrong_call(tmp_path: Path) -> None:
    wrong = tmp_path / "Wrong.kt"
    wrong.write_text((ANDROID / "TfcompPhotographs.kt").read_text().replace("size.readInt()", "size.readInt32()"))
    said = kotlinc(tmp_path / "out.jar", [ANDROID / "TfcompCodec.kt", wrong, *STUBS[:2]])
    assert "unresolved reference 'readInt32'" in said


# === On a JVM ===


def run(program: Path, files: dict[str, bytes], *args: object) -> None:
    """Runs `Main`, whose models are these ``.tflite`` files in LiteRT for Python."""
    models = {name: Interpreter(model_content=content) for name, content in files.items()}
    command = ["java", "-cp", program, "tfcomp.example.MainKt", *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        while head := process.stdout.read(2):
            name = process.stdout.read(*struct.unpack(">H", head)).decode()
            _answer(models[name], process.stdout, process.stdin)
        said = process.stderr.read().decode()
        assert (process.wait(), said) == (0, "")


def _answer(model: Any, asked: IO[bytes], answered: IO[bytes]) -> None:
    def number(form: str) -> int:
        return int(struct.unpack(form, asked.read(struct.calcsize(form)))[0])

    runner, inputs = model.get_signature_runner(), {}
    details = runner.get_input_details()
    for _ in range(number(">I")):
        name = asked.read(number(">H")).decode()
        values = np.frombuffer(asked.read(number(">I")), details[name]["dtype"])
        inputs[name] = values.reshape(details[name]["shape"])  # which also says whether there are as many
    outputs = runner(**inputs)
    answered.write(struct.pack(">I", len(outputs)))
    for name, values in outputs.items():
        answered.write(
            struct.pack(">H", len(name)) + name.encode() + struct.pack(">I", values.nbytes) + values.tobytes()
        )
    answered.flush()


@pytest.mark.parametrize("name", ["dense", "conv_qualities"])
def test_items_of_one_shape_on_a_jvm(program: Path, kinds: Any, name: str, tmp_path: Path) -> None:
    kind = kinds(name)
    files = {file: (kind.folder / file).read_bytes() for file in ("encoder.tflite", "decoder.tflite")}
    capacity = (
        Interpreter(model_content=files["decoder.tflite"])
        .get_signature_runner()
        .get_input_details()["payload"]["shape"][0]
    )
    for quality in {1, kind.codec.qualities}:
        image = kind.items[quality]
        (tmp_path / "pixels").write_bytes(image.tobytes())
        paths = [tmp_path / name for name in ("pixels", "payload", "restored")]
        run(program, files, "shape", capacity, kind.codec.qualities, quality, *paths)
        payload, restored = (path.read_bytes() for path in paths[1:])
        [expected] = kind.codec.decompress([payload], quality)
        found = np.frombuffer(restored, np.uint8).reshape(image.shape).astype(int)
        assert np.abs(found - expected).max() <= 1
        difference = kind.codec.decode([payload], quality)[0] - kind.codec.encode(image[None], quality)[0]
        assert np.abs(difference).max() <= 1


def test_photographs_on_a_jvm(program: Path, kinds: Any, tmp_path: Path) -> None:
    from tfcomp.artifact.tiled_graphs import TiledGraphs

    codec, side = kinds("lapped").codec, 48
    graphs = TiledGraphs(codec.parts, codec.parts.transform, side)
    files = graphs.litert("float32")
    for height, width, quality in [(48, 31, 1), (7, 48, 2)]:
        image = scene(height, width, seed=height)
        (tmp_path / "pixels").write_bytes(image.tobytes())
        paths = [tmp_path / name for name in ("pixels", "payload", "restored")]
        numbers = (side, graphs.capacity, codec.qualities, quality, height, width)
        run(program, files, "photograph", *numbers, *paths)
        payload, restored = (path.read_bytes() for path in paths[1:])
        [expected] = codec.decompress([payload])
        assert f"{width}x{height} RGB, quality {quality}, " in codec.describe(payload)
        found = np.frombuffer(restored, np.uint8).reshape(image.shape).astype(int)
        assert np.abs(found - expected).max() <= 1
        assert np.mean(codec.decode([payload])[0] != codec.encode([image], quality)[0]) < 0.01
