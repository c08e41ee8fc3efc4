"""Commands killed at chosen and random moments: the old or the new whole output is there, and a rerun ends well.

    python fuzz/kill.py --moments 200

A process imports what the commands need, and starts one for each run. A chosen moment is before a call that makes,
writes, flushes, renames or removes something below the output folder: Python's audit events and the calls of
`tfcomp.storage.writing` count them, and at the chosen count the process sends itself SIGKILL. A random moment is a
time. Linux alone: it needs fork, and sessions in ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

import tfcomp
from tfcomp.artifact.manifest import Manifest, verify
from tfcomp.cli.main import main
from tfcomp.cli.runs import Run
from tfcomp.storage import writing
from tfcomp.storage.container import Archive

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "artifacts"
WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
SECONDS = 120
"""Most seconds that a command, and what it started, may take to end."""


@dataclass
class Scenario:
    """A command, and what its output may be.

    Attributes:
        share: of the moments, in percent.
        prepare: makes inputs and an earlier output in a folder, once.
        arguments: of the command in such a folder.
        state: what is there, a text that is one of "old" and "new" if it is whole; raises if it is not.
    """

    share: int
    prepare: Callable[[Path], None]
    arguments: Callable[[Path], list[str]]
    state: Callable[[Path, Path], str]


# === In a process of its own ===


def _at(moment: int, folder: Path, counted: list[int]) -> None:
    """Ends this process before the call of this number; counts the calls."""

    def call() -> None:
        counted[0] += 1
        if counted[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = details
            made = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not made and not (isinstance(mode, str) and set(mode) & set("wax+")):
                return
        elif event in WRITING:
            path = details[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(str(folder)):
            call()

    def before_and_after(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            call()
            result = function(*arguments)
            call()
            return result

        return counted_call

    sys.addaudithook(audited)
    os.fsync = before_and_after(os.fsync)
    writing._exchanged = before_and_after(writing._exchanged)  # noqa: SLF001


def run(arguments: list[str], folder: Path, *, moment: int = 0, seconds: float | None = None) -> tuple[int, int, float]:
    """Runs a command in a process, which is killed at a call or after some seconds.

    Returns:
        Its exit status, -9 if it was killed; how many calls there were; the seconds that it took.
    """
    reader, writer = os.pipe()
    start = time.monotonic()
    process = os.fork()
    if not process:
        status = 70
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            counted = [0]
            _at(moment, folder, counted)
            status = main(arguments)
            os.write(writer, str(counted[0]).encode())
        finally:
            os._exit(status)
    os.close(writer)
    while True:
        ended, code = os.waitpid(process, os.WNOHANG)
        passed = time.monotonic() - start
        if ended:
            break
        if passed > (SECONDS if seconds is None else seconds):
            os.kill(process, signal.SIGKILL)
            code = os.waitpid(process, 0)[1]
            break
        time.sleep(0.002)
    with os.fdopen(reader) as pipe:
        calls = int(pipe.read() or 0) if _ended(process) else -1
    assert calls >= 0, "processes that it started are still there"
    return os.waitstatus_to_exitcode(code), calls, passed


def _ended(session: int) -> bool:
    """Whether all processes of a session end by themselves, its workers among them."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        alive = False
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            alive = alive or (int(fields[3]) == session and fields[0] != "Z")
        if not alive:
            return True
        time.sleep(0.05)
    return False


# === Commands ===


def _pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), np.uint8)).save(folder / f"{i}.png")


def _made(arguments: list[str], folder: Path) -> None:
    assert run(arguments, folder)[0] == 0, arguments


def _compress(count: int) -> Scenario:
    def arguments(folder: Path, images: str = "new", out: str = "out.tfz") -> list[str]:
        return ["compress", str(folder / images), "-o", str(folder / out), "--codec", str(GOLDEN / "contexts")]

    def prepare(folder: Path) -> None:
        for seed, name in enumerate(("old", "new")):
            _pictures(folder / name, count, seed)
            _made(arguments(folder, name, f"{name}.tfz"), folder)
        shutil.copy(folder / "old.tfz", folder / "out.tfz")

    def state(folder: Path, template: Path) -> str:
        found = (folder / "out.tfz").read_bytes()
        return next(name for name in ("old", "new") if found == (template / f"{name}.tfz").read_bytes())

    return Scenario(0, prepare, arguments, state)


def _decompress(count: int, *, old: bool) -> Scenario:
    """Images are whole one by one: each is the old one, the new one, or not there where there was none."""

    def arguments(folder: Path, out: str = "out") -> list[str]:
        force = ["--force"] if old else []
        return [
            "decompress",
            str(folder / "new.tfz"),
            "-o",
            str(folder / out),
            "--codec",
            str(GOLDEN / "contexts"),
            *force,
        ]

    def prepare(folder: Path) -> None:
        _compress(count).prepare(folder)
        _made(arguments(folder, "whole"), folder)
        (folder / "out").mkdir()
        if old:
            _pictures(folder / "earlier", count, 7)
            shutil.copytree(folder / "earlier", folder / "out", dirs_exist_ok=True)

    def state(folder: Path, template: Path) -> str:
        found = set()
        for path in (template / "whole").iterdir():
            there = folder / "out" / path.name
            if there.exists() and there.read_bytes() == path.read_bytes():
                found.add("new")
            else:
                assert old == there.exists(), f"{there} is neither"
                assert not old or there.read_bytes() == (template / "earlier" / path.name).read_bytes()
                found.add("old")
        return "new" if found == {"new"} else "old"

    return Scenario(0, prepare, arguments, state)


def _held(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Names and payloads of each shard."""
    found = {}
    for path in folder.glob("shard-*.tfz"):
        with Archive.open(path) as archive:
            found[path.name] = (*archive.metadata["names"], *archive)
    return found


def _shards(count: int) -> Scenario:
    """Shards are whole one by one: each is the new one or not there; and so is the manifest."""

    def arguments(folder: Path, out: str = "shards") -> list[str]:
        options = ["--codec", str(GOLDEN / "contexts"), "--shard-size", "2"]
        return ["compress", str(folder / "new"), "-o", str(folder / out), *options]

    def prepare(folder: Path) -> None:
        _pictures(folder / "new", count, 1)
        _made(arguments(folder, "whole"), folder)

    def state(folder: Path, template: Path) -> str:
        whole, there = (_held(path) for path in (template / "whole", folder / "shards"))
        assert there.items() <= whole.items(), sorted(there)
        return (
            "new" if there == whole and json.loads((folder / "shards" / "bulk.json").read_text())["complete"] else "old"
        )

    return Scenario(0, prepare, arguments, state)


def _data(folder: Path) -> None:
    np.save(folder / "tiny.npy", np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8))


def _train() -> Scenario:
    def arguments(folder: Path, latent: int = 4) -> list[str]:
        options = ["--network", "dense", "--latent-dim", str(latent), "--epochs", "1"]
        return ["train", str(folder / "tiny.npy"), *options, "--out", str(folder / "run")]

    def prepare(folder: Path) -> None:
        _data(folder)
        _made(arguments(folder, 3), folder)

    def state(folder: Path, _: Path) -> str:
        found = Run.read(folder / "run")
        with zipfile.ZipFile(found.model) as file:
            assert file.testzip() is None
        assert sorted(p.name for p in (folder / "run").iterdir()) == ["model.keras", "run.json"]
        return {3: "old", 4: "new"}[found.settings["latent_dim"]]

    return Scenario(0, prepare, arguments, state)


def _export() -> Scenario:
    def arguments(folder: Path, step: str = "1") -> list[str]:
        return ["export", str(folder / "run"), str(folder / "artifact"), "--step", step]

    def prepare(folder: Path) -> None:
        _train().prepare(folder)
        _made(arguments(folder, "2"), folder)
        (folder / "old").write_text(Manifest.read(folder / "artifact").fingerprint)

    def state(folder: Path, template: Path) -> str:
        manifest = Manifest.read(folder / "artifact")
        verify(folder / "artifact", manifest.files)
        there = {p.relative_to(folder / "artifact").as_posix() for p in (folder / "artifact").rglob("*") if p.is_file()}
        assert there == {*manifest.files, "manifest.json"}
        return "old" if manifest.fingerprint == (template / "old").read_text() else "new"

    return Scenario(0, prepare, arguments, state)


def _scenarios() -> dict[str, Scenario]:
    found = {
        "compress": (15, _compress(3)),
        "compress by workers": (5, _compress(6)),
        "compress to shards by workers": (10, _shards(9)),
        "decompress": (15, _decompress(3, old=False)),
        "decompress over others": (10, _decompress(3, old=True)),
        "decompress by workers": (15, _decompress(6, old=False)),
        "train": (15, _train()),
        "export": (15, _export()),
    }
    for share, scenario in found.values():
        scenario.share = share
    return {name: scenario for name, (_, scenario) in found.items()}


# === Moments ===


def kill(name: str, scenario: Scenario, moments: int, rng: random.Random) -> Counter[str]:
    """Kills a command at so many moments; says what was there afterwards. Raises if that, or the rerun, is wrong."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        template = Path(temporary).resolve() / "template"
        template.mkdir()
        scenario.prepare(template)
        status, calls, seconds = _once(scenario, template, template.parent / "dry", 0, None)[:3]
        assert (status, calls > 0) == (0, True), f"{name}: {status}"
        chosen = sorted(rng.sample(range(1, calls + 1), min(calls, -(-2 * moments // 3))))
        for i in range(moments):
            moment = chosen[i] if i < len(chosen) else 0
            after = None if moment else rng.uniform(0, seconds)
            work = template.parent / f"work{i}"
            status, _, _, found = _once(scenario, template, work, moment, after)
            left = [p.name for p in work.rglob("*") if ".tfcomp-" in p.name]
            said = f"{name}, {f'call {moment} of {calls}' if moment else f'{after:.2f} of {seconds:.2f} s'}"
            assert run(scenario.arguments(work), work)[0] == 0, f"{said}: the rerun failed"
            assert scenario.state(work, template) == "new", f"{said}: the rerun left the old output"
            still = [p.name for p in work.rglob("*") if ".tfcomp-" in p.name]
            assert not still, f"{said}: {still} are left"
            outcomes[f"{'killed' if status else 'ended'}, {found}{', temporaries left' if left else ''}"] += 1
            shutil.rmtree(work)
    return outcomes


def _once(
    scenario: Scenario, template: Path, work: Path, moment: int, after: float | None
) -> tuple[int, int, float, str]:
    shutil.copytree(template, work)
    status, calls, seconds = run(scenario.arguments(work), work, moment=moment, seconds=after)
    assert status in (0, -signal.SIGKILL), f"status {status}"
    return status, calls, seconds, scenario.state(work, template)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one scenario")
    args = parser.parse_args()
    print(f"tfcomp {tfcomp.__version__}", flush=True)
    # Before the forks, and not in the workers of commands, which import this module.
    for name in ("tensorflow", "keras", *(f"tfcomp.cli.{command}" for command in ("compress", "decompress", "train"))):
        import_module(name)
    wrong = total = 0
    for name, scenario in _scenarios().items():
        if args.only in (None, name):
            moments = max(1, round(args.moments * scenario.share / 100))
            try:
                outcomes = kill(name, scenario, moments, random.Random(f"{args.seed} {name}"))
            except Exception as error:
                wrong += 1
                print(f"{name}: WRONG: {type(error).__name__}: {error}", flush=True)
                continue
            total += moments
            print(f"{name}: {json.dumps(outcomes)}", flush=True)
    print(f"{total} moments, {wrong} commands wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(_main())
