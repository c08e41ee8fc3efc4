"""Commands and files: what may be replaced, names of every kind, closed pipes, full disks, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failure
from PIL import Image

from tfcomp.cli.main import main
from tfcomp.data import glyphs
from tfcomp.storage import container, container_format


def tfcomp(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    return subprocess.run([sys.executable, "-m", "tfcomp", *map(str, arguments)], **settings | options)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images that the codec of `exported` takes."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for i, image in enumerate(glyphs.render(4, seed=3)):
        Image.fromarray(image[..., 0]).save(folder / ("sub" if i % 2 else ".") / f"{i}.png")
    return folder


@pytest.fixture
def artifact(exported: Any) -> Path:
    return exported[1]


# === What may be replaced ===


def test_an_output_is_never_an_input(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (images / "0.png").read_bytes()
    (tmp_path / "link.tfz").symlink_to(images / "0.png")
    for output in (images / "0.png", tmp_path / "link.tfz"):
        for inputs in ([images], [images / "0.png"]):
            line = failure(capsys, "compress", *inputs, "-o", output, "--codec", artifact, "--force")
            assert "none of the inputs" in line
    assert (images / "0.png").read_bytes() == before
    tables = artifact / "tables.npz"
    assert "none of the inputs" in failure(capsys, "compress", images, "-o", tables, "--codec", artifact, "--force")
    packed = tmp_path / "0.png"
    assert main(["compress", str(images), "-o", str(packed), "--codec", str(artifact)]) == 0
    whole = packed.read_bytes()
    line = failure(capsys, "decompress", packed, "-o", tmp_path, "--codec", artifact, "--force")
    assert "none of the inputs" in line
    assert packed.read_bytes() == whole


def test_a_file_of_another_kind_is_replaced_by_force_alone(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "thesis.txt"
    output.write_text("precious")
    command = ["compress", str(images), "-o", str(output), "--codec", str(artifact)]
    assert "--force" in failure(capsys, *command)
    assert output.read_text() == "precious"
    assert main([*command, "--force"]) == 0
    assert main(command) == 0  # its own earlier result


def test_a_demo_replaces_an_earlier_one_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.md").write_text("precious")
    assert "found table.md" in failure(capsys, "demo", "--out", tmp_path)
    assert (tmp_path / "table.md").read_text() == "precious"


def test_force_follows_no_link_out_of_the_folder(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, out, elsewhere = tmp_path / "a.tfz", tmp_path / "out", tmp_path / "elsewhere"
    assert main(["compress", str(images), "-o", str(packed), "--codec", str(artifact)]) == 0
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "dear.png").write_text("precious")
    (out / "0.png").symlink_to(elsewhere / "dear.png")
    (out / "sub").symlink_to(elsewhere)
    decompress = ["decompress", str(packed), "-o", str(out), "--codec", str(artifact), "--force"]
    assert "is a link" in failure(capsys, *decompress)
    (out / "sub").unlink()
    assert main(decompress) == 0
    assert [path.name for path in elsewhere.iterdir()] == ["dear.png"]
    assert (elsewhere / "dear.png").read_text() == "precious"
    assert not (out / "0.png").is_symlink()


# === Names ===


def test_names_that_not_every_system_takes_are_made_portable(artifact: Path, images: Path, tmp_path: Path) -> None:
    (images / "0.png").rename(images / "12:30 a\\b.png")
    (images / "2.png").rename(images / os.fsdecode(b"\xff.png"))
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    assert main(["compress", str(images), "-o", str(packed), "--codec", str(artifact)]) == 0
    assert main(["decompress", str(packed), "-o", str(out), "--codec", str(artifact)]) == 0
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert found == ["12_30 a_b.png", "_.png", "sub/1.png", "sub/3.png"]


@pytest.mark.parametrize(
    "name", ["\ud800.png", "C:/a.png", "a:b", "nul.png", "\x1b[2Ja.png", "../a", "a\nb", "x" * 256]
)
def test_names_that_no_file_may_have_are_one_plain_line(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    from tfcomp.codec import Codec

    codec, packed = Codec.load(artifact), tmp_path / "a.tfz"
    container.write(
        packed,
        codec.compress(glyphs.render(2, seed=0)),
        fingerprint=bytes.fromhex(codec.fingerprint),
        item_shape=(28, 28, 1),
        metadata={"names": ["good.png", name]},
    )
    line = failure(capsys, "decompress", packed, "-o", tmp_path / "out", "--codec", artifact)
    assert "names inside the output folder" in line
    assert line.isprintable()
    assert not (tmp_path / "out").exists()


def test_hundreds_of_equal_names_come_out_at_once(artifact: Path, tmp_path: Path) -> None:
    from tfcomp.codec import Codec

    codec, packed, out = Codec.load(artifact), tmp_path / "a.tfz", tmp_path / "out"
    container.write(
        packed,
        codec.compress(glyphs.render(1, seed=0)) * 500,
        fingerprint=bytes.fromhex(codec.fingerprint),
        item_shape=(28, 28, 1),
        metadata={"names": ["frame.png", "Frame.png"] * 250},
    )
    assert main(["decompress", str(packed), "-o", str(out), "--codec", str(artifact)]) == 0
    names = [path.name for path in out.iterdir()]
    assert len({name.casefold() for name in names}) == 500


# === Errors ===


def test_what_cannot_be_read_stops_or_is_skipped(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (images / "0.png").read_bytes()
    (images / "broken.png").write_bytes(whole[:-40])
    (images / "text.png").write_text("not an image")
    packed = tmp_path / "a.tfz"
    command = ["compress", images, "-o", packed, "--codec", artifact]
    assert "text.png" in failure(capsys, *command)
    assert not packed.exists()
    line = failure(capsys, *command, "--on-error", "skip")
    assert "skipped 2 of 6 images" in line
    assert "broken.png" in line
    assert "text.png" in line
    with container.Archive.open(packed) as archive:
        assert archive.metadata["names"] == ["0.png", "2.png", "sub/1.png", "sub/3.png"]
    packed.unlink()
    assert "text.png" in failure(capsys, "compress", images / "text.png", *command[2:], "--on-error", "skip")
    assert not packed.exists()


def test_a_format_whose_extra_is_missing_stops_or_is_skipped(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "a.jxl").write_bytes(b"\xff\x0a")
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    command = ["compress", images, "-o", tmp_path / "a.tfz", "--codec", artifact]
    assert "tfcomp[evaluate]" in failure(capsys, *command)
    assert "skipped 1 of 5 images: this needs pillow_jxl" in failure(capsys, *command, "--on-error", "skip")
    assert (tmp_path / "a.tfz").is_file()


def test_damaged_parts_of_an_archive_stop_or_are_skipped(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (container, container_format):
        monkeypatch.setattr(module, "BLOCK", 8)
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    assert main(["compress", str(images), "-o", str(packed), "--codec", str(artifact)]) == 0
    data = bytearray(packed.read_bytes())
    data[-1] ^= 1
    packed.write_bytes(data)
    command = ["decompress", packed, "-o", out, "--codec", artifact]
    assert "expected checksum" in failure(capsys, *command)
    assert not out.exists()
    line = failure(capsys, *command, "--on-error", "skip")
    assert "skipped 1 of 4 images: sub/3.png: expected checksum" in line
    assert sorted(path.name for path in out.rglob("*.png")) == ["0.png", "1.png", "2.png"]


def test_a_payload_that_does_not_decode_is_skipped_alone(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tfcomp.codec import Codec

    codec, packed, out = Codec.load(artifact), tmp_path / "a.tfz", tmp_path / "out"
    first, second = codec.compress(glyphs.render(2, seed=0))
    container.write(
        packed,
        [first, second + bytes(99), second],
        fingerprint=bytes.fromhex(codec.fingerprint),
        item_shape=(28, 28, 1),
        metadata={"names": ["a", "b", "c"]},
    )
    command = ["decompress", packed, "-o", out, "--codec", artifact, "--force"]
    assert "tfcomp:" in failure(capsys, *command)
    assert "skipped 1 of 3 images: b.png: " in failure(capsys, *command, "--on-error", "skip")
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]


def test_other_commands_stop_or_skip_too(
    artifact: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:-40])
    for made, command in (
        ("report", ["evaluate", artifact, images, "--against", "png", "--out"]),
        ("run", ["train", images, "--network", "dense", "--epochs", "1", "--out"]),
    ):
        assert "broken.png" in failure(capsys, *command, tmp_path / made)
        assert not (tmp_path / made).exists()
        line = failure(capsys, *command, tmp_path / made, "--on-error", "skip")
        assert "skipped 1 of 5 images: cannot read" in line
    assert (tmp_path / "report").is_dir()
    assert (tmp_path / "run" / "model.keras").is_file()


def test_every_output_reaches_the_disk_before_it_has_its_name(
    artifact: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: dict[int, int] = {}

    def fsync(descriptor: int) -> None:
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    packed, out, report = tmp_path / "new" / "a.tfz", tmp_path / "out", tmp_path / "report"
    for command in (
        ["compress", images, "-o", packed, "--codec", artifact],
        ["decompress", packed, "-o", out, "--codec", artifact],
        ["evaluate", artifact, images, "--against", "png", "--out", report],
    ):
        assert main([str(a) for a in command]) == 0
    made = [packed, *out.rglob("*"), *report.rglob("*")]
    assert len(made) > 7
    assert [path for path in made if path.is_file() and flushed.get(path.stat().st_ino) != path.stat().st_size] == []
    assert [path for path in made if path.is_dir() and path.stat().st_ino not in flushed] == []
    assert {packed.parent.stat().st_ino, out.stat().st_ino, report.stat().st_ino, tmp_path.stat().st_ino} <= set(
        flushed
    )


# === Processes ===


def test_a_closed_pipe_and_a_full_one(artifact: Path, images: Path, tmp_path: Path) -> None:
    for arguments in (
        ["--help"],
        ["info", artifact],
        ["compress", images, "-o", tmp_path / "a.tfz", "--codec", artifact],
        ["evaluate", artifact, images, "--against", "png"],  # which loads TensorFlow, and that announces itself
    ):
        reader, writer = os.pipe()
        os.close(reader)
        done = tfcomp(*arguments, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.tfz").is_file()
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = tfcomp("info", artifact, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "No space left" in done.stderr


def test_names_that_stdout_cannot_encode(artifact: Path, images: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    # Under the plain C locale, Python cannot encode the file's own name as text either.
    for name in ("é.tfz", os.fsdecode(b"\xff.tfz"), "日.tfz"):
        environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"} if name == "日.tfz" else {}
        done = tfcomp("compress", images, "-o", tmp_path / name, "--codec", artifact, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "4 images" in done.stdout
        assert (tmp_path / name).is_file()


def test_before_interrupts_are_handled_little_is_imported() -> None:
    script = "import sys; before = set(sys.modules); import tfcomp.cli.main; print(*set(sys.modules) - before)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "tfcomp.cli.main" in done.stdout
    assert {"typing", "re", "contextlib", "importlib.util", "pathlib", "numpy"}.isdisjoint(done.stdout.split())


def test_an_interrupt_that_a_finalizer_swallows_is_raised_again() -> None:
    script = """
import os, signal, sys, time
from tfcomp.cli import main as module
class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
def run(*_):
    del slow[0]
    time.sleep(1000)
slow = [Slow()]
module.AGAIN_SECONDS, module._run = 1000, run
sys.exit(module.main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "tfcomp: interrupted; no file was left half-written\n")


def test_control_characters_are_spelt_out(tmp_path: Path) -> None:
    done = tfcomp("info", tmp_path / "\x1b[2J")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.strip().isprintable()


def test_no_temporary_folder_is_needed(artifact: Path, images: Path, tmp_path: Path) -> None:
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "/nonexistent")
    script = (
        "import os, sys, tempfile\n"
        "def refuse(*_, **__): raise FileNotFoundError(2, 'No usable temporary directory')\n"
        "tempfile.gettempdir = tempfile._get_default_tempdir = refuse\n"
        "if sys.argv.pop(1) == 'no memory': del os.memfd_create\n"
        "from tfcomp.cli.main import main\n"
        "sys.exit(main())"
    )
    for kind in ("memory", "no memory"):
        command = [sys.executable, "-c", script, kind, "compress", images, "-o", tmp_path / f"{kind}.tfz", "--codec"]
        done = subprocess.run([*command, artifact], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{kind}.tfz").is_file()


@pytest.mark.further
@pytest.mark.parametrize("delay", [0.2, 0.6, 1.4, 3.0])
def test_an_interrupt_is_one_line(tmp_path: Path, delay: float) -> None:
    np.save(tmp_path / "x.npy", glyphs.render(500, seed=1))
    script = "import sys; from tfcomp.cli.main import main; print('begun', flush=True); sys.exit(main())"
    command = [sys.executable, "-c", script, "train", "x.npy", "--out", "run", "--epochs", "2000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if line.startswith(("tfcomp", "Traceback", "Exception", "  File"))]
    assert process.returncode == 130
    assert lines == ["tfcomp: interrupted; no file was left half-written"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
