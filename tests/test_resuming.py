"""What a killed process leaves: it is swept, put back, or gone on from."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failure

import tfcomp
from tfcomp.cli import decompress
from tfcomp.cli.main import main
from tfcomp.errors import InputError
from tfcomp.storage import container, journal, writing
from tfcomp.storage.image_files import read_image
from tfcomp.storage.writing import replacing_file, replacing_folder

GOLDEN = Path(__file__).parent / "golden" / "artifacts"


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(target: Path, pid: int, old: str = "", place: str | None = None) -> Path:
    name = writing._beside(target, old).name.replace(f"tfcomp-{os.getpid()}-", f"tfcomp-{pid}-")
    return target.with_name(name if place is None else name.replace(writing._place(), place))


# === Temporary names ===


def test_temporaries_of_dead_processes_are_swept_and_no_others(tmp_path: Path, gone: int) -> None:
    target = tmp_path / "out.tfz"
    dead = [left_behind(target, gone), left_behind(tmp_path / ("é" * 120), gone), left_behind(tmp_path / "x", gone)]
    dead[0].write_bytes(b"half")
    dead[1].write_bytes(b"half")
    (dead[2] / "sub").mkdir(parents=True)
    (dead[2] / "sub" / "file").write_bytes(b"half")
    kept = [left_behind(target, os.getpid()), left_behind(target, gone, place="0" * 8), left_behind(target, 10**30)]
    kept += [tmp_path / ".out.12345678.tfz", tmp_path / f".out.tfcomp-{gone}", tmp_path / "out"]
    for path in kept:
        path.write_bytes(b"mine")
    with replacing_file(target) as temporary:
        temporary.write_bytes(b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, *kept])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for a process's state")
def test_a_process_that_ended_and_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    left = left_behind(tmp_path / "out.tfz", process.pid)
    left.write_bytes(b"half")
    with process.stdout as pipe:
        pipe.read()  # ends with the process
    until = time.monotonic() + 30
    while left.exists() and time.monotonic() < until:
        writing.sweep(tmp_path)
    assert not left.exists()
    assert process.returncode is None
    process.wait()


def test_what_a_left_over_link_leads_to_stays(tmp_path: Path, gone: int) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "file").write_text("irreplaceable")
    left_behind(tmp_path / "a", gone).symlink_to(tmp_path / "dear")
    writing.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dear"]
    assert (tmp_path / "dear" / "file").read_text() == "irreplaceable"
    writing.sweep(tmp_path / "absent")


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_lost_its_name_gets_it_back(tmp_path: Path, gone: int, there: bool) -> None:
    """As where two folders cannot change places in one call, and the process was killed between the two renames."""
    target, other = tmp_path / "artifact", tmp_path / "other"
    old = left_behind(target, gone, "-old")
    old.mkdir()
    (old / "manifest.json").write_text("old")
    writing.sweep(tmp_path)  # which another target's writer calls too
    assert old.is_dir()
    if there:
        target.mkdir()
        (target / "manifest.json").write_text("new")
    with replacing_folder(other, "manifest.json") as temporary:
        (temporary / "manifest.json").write_text("other")
    assert old.is_dir()
    with pytest.raises(KeyboardInterrupt), replacing_folder(target, "manifest.json"):
        raise KeyboardInterrupt
    assert (target / "manifest.json").read_text() == ("new" if there else "old")
    assert sorted(tmp_path.iterdir()) == [target, other]


# === Decompression ===


@pytest.fixture(params=["static", "contexts"])
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[str]]:
    """An archive of six images, and the command that decompresses it."""
    codec, rng = tfcomp.Codec.load(GOLDEN / request.param), np.random.default_rng(0)
    shape = tuple(n or 9 for n in codec.item.shape)
    items = rng.integers(0, 256, (6, *shape), np.uint8)
    path = tmp_path / "a.tfz"
    container.write(
        path,
        codec.compress(items),
        fingerprint=bytes.fromhex(codec.fingerprint),
        item_shape=tuple(n or 0 for n in codec.item.shape),
        metadata={"names": [f"{'sub/' if i % 2 else ''}{i}.png" for i in range(6)]},
    )
    return path, ["decompress", str(path), "-o", str(tmp_path / "out"), "--codec", str(GOLDEN / request.param)]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfcomp.workers.FEW", 100)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that ends after so many images, with the last one not noted."""
    put: Callable[..., None] = journal.put
    done: list[Path] = []

    def counted(target: Path, *arguments: Any, **options: Any) -> None:
        put(target, *arguments, **options)
        done.append(target)
        if len(done) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(decompress, "put", counted)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_decompression_goes_on_where_it_was_stopped(
    packed: tuple[Path, list[str]], tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = packed[1], tmp_path / "out"
    assert main(command) == 0
    whole = contents(out)
    assert len(whole) == 6
    for path in out.rglob("*.png"):
        path.unlink()
    with monkeypatch.context() as patch:
        stopped_after(count, patch)
        assert main(command) == 130
    assert len([name for name in contents(out) if name.endswith(".png")]) == count
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    decoded: list[bytes] = []
    decompressed = tfcomp.Codec.decompress

    def counted(self: tfcomp.Codec, payloads: Any, *arguments: Any) -> Any:
        decoded.extend(payloads)
        return decompressed(self, payloads, *arguments)

    monkeypatch.setattr(tfcomp.Codec, "decompress", counted)
    assert main(command) == 0
    assert contents(out) == whole  # and no journal
    assert len(decoded) == 6 - (count - 1)  # those that were noted are not decoded again
    assert {path: path.stat().st_mtime_ns for path in times} == times  # those that are equal are not written again


def test_a_decompression_that_ended_ends_well_again(
    packed: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = packed[1], tmp_path / "out"
    assert main(command) == 0
    whole, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert main(command) == 0  # as after a kill in its last moment
    assert contents(out) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times
    (out / "4.png").write_bytes(whole["2.png"])
    assert "--force replaces it" in failure(capsys, *command)
    assert contents(out) == whole | {"4.png": whole["2.png"]}
    (out / "0.png").unlink()
    assert "expected none of the images in" in failure(capsys, *command)
    assert main([*command, "--force"]) == 0
    assert contents(out) == whole


def test_what_is_not_equal_is_not_kept(
    packed: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = packed[1], tmp_path / "out"
    assert main(command) == 0
    whole = contents(out)
    for path in out.rglob("*.png"):
        path.unlink()
    with monkeypatch.context() as patch:
        stopped_after(4, patch)
        assert main(command) == 130
    first, unnoted = out / "0.png", out / "sub" / "3.png"
    for path, content in (
        (first, b"mine"), (unnoted, b"mine"), (first, whole["2.png"]), (out / "4.png", whole["2.png"]),
    ):  # fmt: skip
        path.write_bytes(content)
        line = failure(capsys, *command)
        assert f"expected no file {path}, or one of this image, found another; --force replaces it" in line
        assert path.read_bytes() == content
        path.unlink()
    first.unlink(missing_ok=True)
    first.symlink_to(tmp_path / "elsewhere")
    assert "--force" in failure(capsys, *command)
    first.unlink()
    first.write_bytes(b"mine")
    assert main([*command, "--force"]) == 0
    assert contents(out) == whole


def test_a_journal_is_of_one_archive_and_one_codec(
    packed: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, command = packed
    with monkeypatch.context() as patch:
        stopped_after(3, patch)
        assert main(command) == 130
    content = path.read_bytes()
    with container.Archive.open(path) as archive:
        header, payloads = archive.header, archive[:]
    container.write(path, payloads[::-1], fingerprint=header.fingerprint, item_shape=header.item_shape,
                    metadata={"names": ["0.png", *"abcde"]})  # fmt: skip
    assert "expected none of the images in" in failure(capsys, *command)
    path.write_bytes(content)
    (noted,) = (tmp_path / "out").glob(".tfcomp-*.unfinished")
    for lines in ("", "0 1 2\n", "a b c\n", "9 9 9\n", "-1 -1 -1\n", "9" * 5000 + " 1 1\n", "\0\n", "0 1"):
        noted.write_text(lines)
        kept = journal.Journal(tmp_path / "out")
        kept._path, kept.begun = noted, True
        assert kept.kept([tmp_path / "out" / "0.png"]) == set()
    assert main(command) == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for i in range(60):
        np.save(tmp_path / f"{i}.npy", pixels)
    code = "import os; os.cpu_count = lambda: 2; from tfcomp.cli.main import main; main()"
    options = [str(tmp_path), "-o", str(tmp_path / "a.tfz"), "--codec", str(GOLDEN / "contexts")]
    process = subprocess.Popen([sys.executable, "-c", code, "compress", *options], start_new_session=True)

    def others() -> int:
        """Number of living processes of its session but itself."""
        found = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                number, fields = entry.parent.name, entry.read_text().rpartition(")")[2].split()
                found += fields[3] == str(process.pid) != number and fields[0] != "Z"
        return found

    until = time.monotonic() + 100
    while others() < 3 and process.poll() is None and time.monotonic() < until:  # two workers, and what tracks them
        time.sleep(0.05)
    started = others()
    process.kill()
    process.wait()
    while others() and time.monotonic() < until:
        time.sleep(0.05)
    assert started >= 2
    assert others() == 0
    assert not (tmp_path / "a.tfz").exists()


def test_a_put_image_is_there(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    for name in ("a.png", "a.npy"):
        path = tmp_path / name
        for replace in (False, False, True):
            journal.put(path, image, replace=replace)
        with pytest.raises(InputError, match="--force"):
            journal.put(path, image[:2], replace=False)
        with pytest.raises(InputError, match="--force"):
            journal.put(path, image[..., :1], replace=False)
        journal.put(path, image[:2], replace=True)
        journal.put(path, image[:2], replace=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image[:2])
