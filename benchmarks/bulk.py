"""Many images by `tfcomp.bulk` and on Apache Beam: one worker and two, memory, kills, equality.

    python benchmarks/bulk.py [--only small] [--parts times,kills,beam] [--kills 20] [--turns 3]

Two collections: 100,000 images of 28x28, MNIST's in a row and again from its beginning, as one ``.npy``, by a small
convolutional codec; and 2,000 photographs, BSDS500's training images at half their size, again and again, as files in
folders of a hundred, by the codec that comes with the package. Each run is a process of its own that reports its time
and the peak resident set of itself and of its largest worker. For each collection: one worker, two, one on a tenth of
the images; then a run that is killed at random moments (all of its processes, or the first alone, or one worker) and
begun again each time, whose shards are compared with the others byte by byte; and where ``.venv-beam`` is there
(``make beam``), a pipeline of one and of two workers, whose payloads are compared, and one of two on a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import _settings
import numpy as np

from tfcomp import Codec, bulk
from tfcomp.storage import image_files
from tfcomp.storage.container import Archive

RESULTS = _settings.RESULTS / "bulk.json"
ARTIFACT = _settings.RUNS / "bulk_small"
BEAM = _settings.ROOT / ".venv-beam" / "bin" / "python"
COUNTS = {"small": _settings.full_or(100_000, 3000), "photographs": _settings.full_or(2000, 30)}
SHARD = {"small": _settings.full_or(1000, 300), "photographs": _settings.full_or(25, 3)}
SECONDS = {"small": _settings.full_or(10, 2), "photographs": _settings.full_or(40, 4)}
"""About what a run by two workers takes, over which the kills are spread."""
FOLDER = 100
"""Number of photographs in a folder."""
SEED = 0


# === Collections ===


def train_small() -> None:
    """The artifact for the small images, once; in a process of its own, so that TensorFlow is in no other."""
    import keras

    import tfcomp

    keras.utils.set_random_seed(SEED)
    train, _ = _settings.mnist(_settings.SHARED / "tensorflow_datasets")
    model = tfcomp.AutoEncoder.conv((28, 28, 1), 32, beta=0.05)
    model.compile(optimizer="adam")
    model.fit(tfcomp.datasets.batches(train, 128, shuffle=True), epochs=1, verbose=0)
    Codec.freeze(model, train[:2000]).export(ARTIFACT)


def make_small(folder: Path, count: int) -> Path:
    images = np.concatenate(_settings.mnist(_settings.SHARED / "tensorflow_datasets"))
    np.save(folder / "small.npy", images[np.arange(count) % len(images)])
    return folder / "small.npy"


def make_photographs(folder: Path, count: int) -> Path:
    from PIL import Image

    files = image_files.image_files(_settings.SHARED / "bsds500" / "train")[:count]
    (folder / "halved").mkdir()
    for i, file in enumerate(files):
        with Image.open(file) as image:
            image.reduce(2).save(folder / "halved" / f"{i:04}.png")
    for i in range(count):
        path = folder / "photographs" / f"{i // FOLDER:03}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder / "halved" / f"{i % len(files):04}.png")
    return folder / "photographs"


def make(name: str, folder: str, count: str) -> None:
    """Makes a collection; a process of its own, as `datasets` may import TensorFlow."""
    maker = make_small if name == "small" else make_photographs
    print(json.dumps({"path": str(maker(Path(folder), int(count)))}))


def codec_of(name: str) -> Codec:
    return Codec.load(ARTIFACT if name == "small" else None, threads=1)


# === Runs, each in a process ===


def run(name: str, source: str, out: str, workers: str) -> None:
    """Compresses a collection; prints what it took."""
    start = time.perf_counter()
    report = bulk.compress(source, out, codec=codec_of(name), shard_size=SHARD[name], processes=int(workers))
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, **used(), "items": report.items}
    print(json.dumps({**found, "shards": report.shards, "bytes": report.bytes, "kept": report.kept}))


def used() -> dict[str, float]:
    """Processor time of this process and the workers that it has ended, its peak, and the largest worker's."""
    own, workers_own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu_seconds = sum(spent.ru_utime + spent.ru_stime for spent in (own, workers_own))
    peaks = {"peak_mib": own.ru_maxrss / 1024, "worker_peak_mib": workers_own.ru_maxrss / 1024}
    return {"cpu_seconds": cpu_seconds, **peaks}


def threads(name: str, source: str, _: str, count: str) -> None:
    """The same work by threads of one process, which share a codec; nothing is written."""
    codec = codec_of(name)
    work: list[Any] = [[path] for path in image_files.image_files(source)] if name == "photographs" else []
    if name == "small":
        images = np.load(source)
        work = [images[first : first + SHARD[name]] for first in range(0, len(images), SHARD[name])]

    def compress(some: Any) -> int:
        read = [image_files.read_image(path, whole=True) for path in some] if name == "photographs" else some
        return len(codec.compress(read))

    start = time.perf_counter()
    with ThreadPoolExecutor(int(count)) as pool:
        items = sum(pool.map(compress, work))
    print(json.dumps({"seconds": time.perf_counter() - start, "items": items}))


def pipeline(name: str, source: str, out: str, workers: str) -> None:
    """The same on Beam's direct runner."""
    import apache_beam as beam
    from apache_beam.io import fileio
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfcomp.beam import ArchiveSink, Compress

    artifact = str(ARTIFACT) if name == "small" else None
    options = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    start = time.perf_counter()
    with beam.Pipeline(runner="DirectRunner", options=PipelineOptions(options)) as begun:
        if name == "small":
            count, step = len(np.load(source, mmap_mode="r")), SHARD[name]

            def rows(first: int) -> Iterator[Any]:
                images = np.load(source, mmap_mode="r")[first : first + step]
                return ((f"{first + i:06}", np.array(image)) for i, image in enumerate(images))

            images = begun | beam.Create(range(0, count, step)) | beam.Reshuffle() | beam.FlatMap(rows)
        else:
            images = begun | fileio.MatchFiles(f"{source}/**") | beam.Reshuffle() | fileio.ReadMatches()
        made = images | Compress(artifact)
        _ = made.payloads | fileio.WriteToFiles(out, shards=4, sink=lambda _: ArchiveSink(artifact))
    print(json.dumps({"seconds": time.perf_counter() - start, **used()}))


def started(*arguments: Any, python: Any = sys.executable, apart: bool = False) -> subprocess.Popen[str]:
    """A part of this script as a process; where ``apart``, one that can be killed with all that it has started."""
    paths = os.pathsep.join([str(_settings.ROOT), str(_settings.ROOT / "benchmarks")])
    return subprocess.Popen(
        [str(python), __file__, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=apart,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, wrong = process.communicate()
    if process.returncode:
        raise SystemExit(wrong[-3000:])
    return json.loads(said.splitlines()[-1]) if said else {}


# === Kills ===


def killed(name: str, source: Path, out: Path, kills: int, seconds: float) -> dict[str, Any]:
    """Kills a run so many times, each somewhere in what is left of it, and brings it to its end."""
    rng, moments = random.Random(SEED), []
    for i in range(kills):
        process = started("run", name, source, out, 2, apart=True)
        time.sleep(rng.uniform(0.5, 2.0 + 1.2 * seconds / kills))
        target = ("all", "first", "worker")[i % 3]
        workers = _children(process.pid)
        with contextlib.suppress(ProcessLookupError):
            if target == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(rng.choice(workers) if target == "worker" and workers else process.pid, signal.SIGKILL)
        process.communicate()
        moments.append((target, len(list(out.glob("*.tfz")))))
    return {"shards_there_after_each_kill": moments, "last_run": ended(started("run", name, source, out, 2))}


def _children(process: int) -> list[int]:
    try:
        found = [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        return [n for n in found if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
    except OSError:
        return []


# === Comparisons ===


def equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same shards, byte by byte."""
    names = [sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) for folder in (one, other)]
    return names[0] == names[1] and all((one / n).read_bytes() == (other / n).read_bytes() for n in names[0])


def payloads(folder: Path) -> dict[str, bytes]:
    """Name and payload of each image of shards; raises if a name comes twice."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tfz")):
        with Archive.open(path) as archive:
            for entry, payload in zip(bulk.items(path), archive, strict=True):
                assert entry.name not in found, f"{entry.name} is doubled"
                found[entry.name] = payload
    return found


def beam_payloads(folder: Path, source: Path) -> dict[str, bytes]:
    """The same of Beam's files, under the names that `tfcomp.bulk` gives."""
    found: dict[str, bytes] = {}
    for path in (path for path in folder.iterdir() if path.is_file()):
        with Archive.open(path) as archive:
            for key, payload in zip(archive.metadata["names"], archive, strict=True):
                whole = source.as_posix().lstrip("/") + "/"
                name = key.removeprefix(whole) if source.is_dir() else f"{source.name}[{int(key)}]"
                assert name not in found, f"{name} is doubled"
                found[name] = payload
    return found


# === All of it ===


def measure(name: str, parts: str, kills: int, turns: int) -> dict[str, Any]:
    """Everything about one collection, or the parts that are named."""
    found: dict[str, Any] = {"items": COUNTS[name], "shard_size": SHARD[name]}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        (work / "fewer").mkdir()
        source, tenth = (
            Path(ended(started("make", name, folder, count))["path"])
            for folder, count in ((work, COUNTS[name]), (work / "fewer", COUNTS[name] // 10))
        )
        if "times" in parts:
            found |= _times(name, source, tenth, work, turns)
        else:
            ended(started("run", name, source, work / "two", 2))
        whole = payloads(work / "two")
        assert len(whole) == COUNTS[name]
        if "kills" in parts:
            found["killed"] = killed(name, source, work / "killed", kills, SECONDS[name])
            found["killed"]["equal"] = equal(work / "two", work / "killed")
            print(name, found["killed"], flush=True)
        if "beam" in parts and BEAM.exists():
            found["beam_tenth"] = ended(started("beam", name, tenth, work / "beam_tenth", 2, python=BEAM))
            for workers in (1, 2):
                out = work / f"beam{workers}"
                taken = ended(started("beam", name, source, out, workers, python=BEAM))
                found[f"beam_{workers}"] = {**taken, "equal": beam_payloads(out, source) == whole}
                print(name, f"Beam, {workers}", found[f"beam_{workers}"], flush=True)
            found["beam_speedup"] = found["beam_1"]["seconds"] / found["beam_2"]["seconds"]
    return found


def _times(name: str, source: Path, tenth: Path, work: Path, turns: int) -> dict[str, Any]:
    found = {"tenth": ended(started("run", name, tenth, work / "tenth", 2))}
    print(name, "a tenth", found["tenth"], flush=True)
    for _ in range(turns):  # of which the quickest counts: others may use the machine meanwhile
        for label, workers in (("one", 1), ("two", 2)):
            shutil.rmtree(work / label, ignore_errors=True)
            taken = ended(started("run", name, source, work / label, workers))
            found[label] = min(found.get(label, taken), taken, key=lambda run: run["seconds"])
            print(name, label, taken, flush=True)
    for count in (1, 2):
        found[f"threads_{count}"] = ended(started("threads", name, tenth, "", count))
    print(name, "threads", found["threads_1"], found["threads_2"], flush=True)
    found["speedup"] = found["one"]["seconds"] / found["two"]["seconds"]
    found["equal"] = equal(work / "one", work / "two")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(COUNTS))
    parser.add_argument("--kills", type=int, default=_settings.full_or(20, 3))
    parser.add_argument("--parts", default="times,kills,beam")
    parser.add_argument("--turns", type=int, default=_settings.full_or(3, 1))
    args = parser.parse_args()
    if not (ARTIFACT / "manifest.json").is_file():
        ended(started("train"))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in COUNTS:
        if args.only in (None, name):
            results[name] = results.get(name, {}) | measure(name, args.parts, args.kills, args.turns)
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for name, found in results.items():
        if "one" not in found:
            continue
        per_worker = found["items"] / found["one"]["seconds"]
        print(f"{name}: {per_worker:.0f} images a second and worker, two workers {found['speedup']:.2f} times one")
        memory = [f"{found[label]['worker_peak_mib']:.0f}" for label in ("tenth", "two")]
        print(f"{name}: a worker's peak {memory[0]} MiB of a tenth of the images, {memory[1]} MiB of all")


if __name__ == "__main__":
    parts = {"train": train_small, "make": make, "run": run, "threads": threads, "beam": pipeline}
    if sys.argv[1:2] and sys.argv[1] in parts:
        parts[sys.argv[1]](*sys.argv[2:])
    else:
        main()
