"""Runs of `tfcomp.bulk` that end early, go on, or are done by several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_inputs import ALONE, ANY, GOLDEN, RNG, SMALL, contents

import tfcomp
from tfcomp import bulk
from tfcomp.bulk.shards import MANIFEST
from tfcomp.errors import BitstreamError, InputError
from tfcomp.storage import places

# === Going on ===


class _KilledError(Exception):
    pass


def cut(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """Ends the next run before it writes a file for the so-manieth time."""
    own: Callable[..., Any] = places.Place.writing
    count = 0

    def writing(self: places.Place, name: str) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise _KilledError
        return own(self, name)

    monkeypatch.setattr(places.Place, name, writing)


def test_a_run_goes_on_from_wherever_it_ended(photos: Path, tmp_path: Path) -> None:
    whole, images = tmp_path / "whole", tmp_path / "images"
    bulk.compress(photos, whole, codec=ANY, shard_size=2, **ALONE)
    bulk.decompress(whole, images, codec=ANY, **ALONE)
    for after in range(6):
        out, back = tmp_path / f"out{after}", tmp_path / f"back{after}"
        for run in (
            partial(bulk.compress, photos, out, codec=ANY, shard_size=2, **ALONE),
            partial(bulk.decompress, whole, back, codec=ANY, **ALONE),
        ):
            with pytest.MonkeyPatch.context() as patch:
                cut(patch, "writing", after)
                with pytest.raises(_KilledError):
                    run()
            kept = run().kept
            assert run().kept == 4
        assert kept <= after
        assert contents(out) == contents(whole)
        assert contents(back) == contents(images)


def test_shards_that_are_there_are_not_made_again(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    bulk.compress(rows, out, codec=SMALL, shard_size=2, **ALONE)
    before = contents(out)
    (out / "shard-000003.tfz").unlink()
    (out / "shard-000004.tfz").write_bytes(before["shard-000004.tfz"][:-3])  # a put that was cut off
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    report = bulk.compress(rows, out, codec=SMALL, shard_size=2, **ALONE)
    assert (report.items, report.shards, report.kept) == (11, 6, 4)
    assert contents(out) == before
    made = {path.name for path in out.iterdir() if times.get(path.name) != path.stat().st_mtime_ns}
    assert made == {"shard-000003.tfz", "shard-000004.tfz"}


@pytest.mark.parametrize("ended", [True, False])
def test_other_arguments_are_refused_and_nothing_is_changed(rows: Path, tmp_path: Path, ended: bool) -> None:
    out, other = tmp_path / "out", tmp_path / "other.npy"
    np.save(other, np.load(rows)[:, ::-1])
    bulk.compress(rows, out, codec=SMALL, shard_size=4, **ALONE)
    if not ended:
        (out / "shard-000002.tfz").unlink()
    before = contents(out)
    qualities = tfcomp.Codec.load(GOLDEN / "qualities")
    for paths, options, words in (
        (rows, {"shard_size": 3}, r"expected shard_size 4 to go on, found 3: .* choose another folder"),
        (rows, {"codec": qualities}, "expected codec"),
        (other, {}, r"found others in .*shard-000000\.tfz"),
        ([other, rows], {}, "found others in"),
    ):
        with pytest.raises(InputError, match=words):
            bulk.compress(paths, out, **{"codec": SMALL, "shard_size": 4, **ALONE, **options})
        assert contents(out) == before
    with pytest.raises(InputError, match="folder of images, found one of archives"):
        bulk.decompress(sorted(out.glob("*.tfz")), out, codec=SMALL, **ALONE)


def test_a_run_that_has_made_nothing_can_be_begun_otherwise(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        bulk.compress(tmp_path / "misspelt.npy", tmp_path / "out", codec=SMALL, shard_size=5, **ALONE)
    assert bulk.compress(rows, tmp_path / "out", codec=SMALL, shard_size=4, **ALONE).shards == 3


def test_a_shorter_or_longer_list_is_another(rows: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.npy"
    np.save(short, np.load(rows)[:4])
    out = tmp_path / "out"
    bulk.compress([rows, short], out, codec=SMALL, shard_size=11, **ALONE)
    before = contents(out)
    with pytest.raises(InputError, match=r"expected 1 shards in .*, found shard-000001\.\*, of a longer list"):
        bulk.compress(rows, out, codec=SMALL, shard_size=11, **ALONE)
    assert contents(out) == before
    assert bulk.compress([rows, short, rows], out, codec=SMALL, shard_size=11, **ALONE).kept == 2


def test_a_folder_of_something_else_is_refused(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"found 'mine\.txt'"):
        bulk.compress(rows, tmp_path / "out", codec=SMALL, **ALONE)
    (tmp_path / "out" / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="found something else"):
        bulk.compress(rows, tmp_path / "out", codec=SMALL, **ALONE)


def test_shards_of_a_run_that_has_not_ended_or_lost_one_are_refused(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bulk.compress(rows, out, codec=SMALL, shard_size=4, **ALONE)
    (out / "shard-000001.tfz").unlink()
    with pytest.raises(InputError, match=r"expected 3 shards in .*, found no shard-000001"):
        list(bulk.items(out))
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(InputError, match="has not ended"):
        bulk.decompress(out, tmp_path / "back", codec=SMALL, **ALONE)
    with pytest.raises(InputError, match=r"no bulk\.json"):
        bulk.merge(tmp_path / "none", tmp_path / "all.tfz")
    with pytest.raises(BitstreamError, match="name the codec"):
        bulk.decompress([out / "shard-000000.tfz"], tmp_path / "back", **ALONE)


# === Processes ===

SCRIPT = """
import sys, tfcomp
from tfcomp import bulk
if __name__ == "__main__":
    codec = tfcomp.Codec.load(sys.argv[1])
    print(bulk.compress(sys.argv[2], sys.argv[3], codec=codec, shard_size=int(sys.argv[4]), processes=2), flush=True)
"""


def script(*arguments: Any, text: str = SCRIPT, **options: Any) -> subprocess.Popen[str]:
    begun = ["-c", text] if text is SCRIPT else []
    return subprocess.Popen(
        [sys.executable, *begun, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def test_processes_make_the_same_shards(photos: Path, tmp_path: Path) -> None:
    bulk.compress(photos, tmp_path / "one", codec=ANY, shard_size=3, **ALONE)
    bulk.compress(photos, tmp_path / "two", codec=ANY, shard_size=3, processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    (photos / "b" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png"):
        bulk.compress(photos, tmp_path / "three", codec=ANY, shard_size=3, processes=2)


def test_a_script_without_its_guard_is_told(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    process = script(path, GOLDEN / "static", rows, tmp_path / "out", 3, text="a file")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = (line for line in said.splitlines() if line.startswith("tfcomp.errors.InputError"))
    assert "cannot compress with 2 processes at once" in line
    assert '`if __name__ == "__main__":`' in line


@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.6])
def test_a_worker_that_is_killed_ends_the_run_with_a_line(tmp_path: Path, delay: float) -> None:
    """Also at its very start, when it has not read what it is sent."""
    np.save(tmp_path / "rows.npy", RNG.integers(0, 256, (5000, 24, 24, 3), np.uint8))
    process = script("photographs", tmp_path / "rows.npy", tmp_path / "out", 50)  # whose pickle fills a pipe
    until, workers = time.monotonic() + 30, []
    while time.monotonic() < until and len(workers) < 2 and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [n for n in children if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
    time.sleep(delay)
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "InputError: cannot compress with 2 processes at once: one of them ended" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_nothing_is_lost_or_doubled(tmp_path: Path, number: signal.Signals) -> None:
    rows, rng = tmp_path / "rows.npy", np.random.default_rng(1)
    np.save(rows, rng.integers(0, 256, (6000, *SMALL.item.shape), np.uint8))
    bulk.compress(rows, tmp_path / "whole", codec=SMALL, shard_size=50, **ALONE)
    kept = 0
    for i in range(6):
        out = tmp_path / f"out{i}"
        process = script(GOLDEN / "static", rows, out, 50)
        time.sleep(rng.uniform(0.3, 2.5))
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        process.communicate(timeout=60)
        report = bulk.compress(rows, out, codec=SMALL, shard_size=50, processes=2)
        kept += report.kept
        assert contents(out) == contents(tmp_path / "whole")
    assert kept
