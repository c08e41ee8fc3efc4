"""`tfcomp.beam` on Beam's local runners. Run by ``make beam``, whose environment has Beam and no TensorFlow.

It needs none of the other tests' fixtures, some of which import TensorFlow.
"""

from __future__ import annotations

import doctest
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tfcomp
from tfcomp import bulk
from tfcomp.errors import InputError, MissingDependencyError
from tfcomp.storage.container import Archive

try:
    import apache_beam as beam
except ModuleNotFoundError:
    beam = None

GOLDEN = Path(__file__).resolve().parent / "golden" / "artifacts"
RNG = np.random.default_rng(0)
SMALL = tfcomp.Codec.load(GOLDEN / "static")
ANY = tfcomp.Codec.load(GOLDEN / "contexts")
needs_beam = pytest.mark.skipif(beam is None, reason="apache-beam is not installed: make beam")
pytestmark = pytest.mark.filterwarnings("default")  # Beam's own are not ours to mend


@pytest.fixture(autouse=True)
def _found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of Beam unpickle what this module defines."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def pipeline(workers: int = 1) -> Any:
    """Of one process, or of several."""
    several = ["--direct_running_mode=multi_processing"] if workers > 1 else []
    options = beam.options.pipeline_options.PipelineOptions(
        ["--runner=DirectRunner", f"--direct_num_workers={workers}", *several]
    )
    return beam.Pipeline(options=options)


def gathered(outputs: Any, folder: Path) -> None:
    """Writes each output, whose elements are pairs, in as many files as there are processes."""
    for tag, found in outputs.items():
        _ = found | f"write {tag}" >> beam.ParDo(_Kept(str(folder / tag)))


class _Kept(beam.DoFn if beam else object):  # type: ignore[misc]
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, element: Any) -> Iterator[Any]:
        import pickle
        import uuid

        Path(self._folder).mkdir(parents=True, exist_ok=True)
        (Path(self._folder) / uuid.uuid4().hex).write_bytes(pickle.dumps(element))
        yield from ()


def read(folder: Path) -> list[tuple[Any, Any]]:
    import pickle

    return sorted((pickle.loads(path.read_bytes()) for path in folder.glob("*")), key=lambda pair: str(pair[0]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(9):
        pixels = RNG.integers(0, 256, (10 + i, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def by_bulk(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    """Name and payload of each image, by `tfcomp.bulk`."""
    out = tmp_path / "bulk"
    bulk.compress(photos, out, codec=ANY, quality=1, shard_size=4, on_error="skip", processes=1)
    found = {}
    for entry in bulk.items(out):
        if entry.index is not None:
            with Archive.open(entry.shard) as archive:
                found[entry.name] = archive[entry.index]
    return found


@needs_beam
@pytest.mark.parametrize("workers", [1, 2])
def test_files_give_the_payloads_of_bulk_and_come_back(photos: Path, tmp_path: Path, workers: int) -> None:
    from apache_beam.io import fileio

    from tfcomp.beam import Compress, Decompress

    run = pipeline(workers)
    files = run | fileio.MatchFiles(f"{photos}/*.png") | fileio.ReadMatches()
    made = files | Compress(str(GOLDEN / "contexts"), quality=1)
    gathered({"payloads": made.payloads, "errors": made.errors}, tmp_path / "compressed")
    back = made.payloads | Decompress(str(GOLDEN / "contexts"))
    gathered({"images": back.images}, tmp_path / "restored")
    run.run().wait_until_finish()
    found = {Path(key).name: payload for key, payload in read(tmp_path / "compressed" / "payloads")}
    assert found == by_bulk(photos, tmp_path)
    ((key, said),) = read(tmp_path / "compressed" / "errors")
    assert Path(key).name == "bad.png"
    assert "cannot read the image" in said
    assert "bad.png" in said
    for key, image in read(tmp_path / "restored" / "images"):
        (expected,) = ANY.decompress([found[Path(key).name]])
        assert np.array_equal(image, expected)


@needs_beam
def test_arrays_and_contents_are_taken_with_their_keys(photos: Path, tmp_path: Path) -> None:
    from tfcomp.beam import Compress, Decompress

    images = RNG.integers(0, 256, (300, *SMALL.item.shape), np.uint8)
    elements: list[Any] = [*enumerate(images), (300, images[0, ..., 0]), (301, np.zeros((3, 4, 1))), (302, b"none")]
    run = pipeline()
    made = run | beam.Create(elements) | Compress(SMALL)
    gathered({"payloads": made.payloads, "errors": made.errors}, tmp_path)
    damaged = [(1, SMALL.compress(images[:1])[0]), (2, bytes(99))]
    back = run | "payloads" >> beam.Create(damaged) | Decompress(SMALL)
    gathered({"images": back.images, "damaged": back.errors}, tmp_path)
    result = run.run()
    result.wait_until_finish()
    found = dict(read(tmp_path / "payloads"))
    expected = SMALL.compress(images)
    assert found == {**dict(enumerate(expected)), 300: expected[0]}
    assert [key for key, _ in read(tmp_path / "errors")] == [301, 302]
    assert [key for key, _ in read(tmp_path / "damaged")] == [2]
    assert np.array_equal(read(tmp_path / "images")[0][1], SMALL.decompress(expected[:1])[0])
    counted = {c.key.metric.name: 0 for c in result.metrics().query()["counters"] if c.key.metric.namespace == "tfcomp"}
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == "tfcomp":
            counted[counter.key.metric.name] += counter.committed
    assert counted == {"items": 302, "errors": 3, "payload_bytes": sum(map(len, found.values())) + len(damaged[0][1])}


@needs_beam
def test_payloads_go_into_archives(tmp_path: Path) -> None:
    from apache_beam.io import fileio

    from tfcomp.beam import ArchiveSink, Compress

    images = RNG.integers(0, 256, (20, *SMALL.item.shape), np.uint8)
    with pipeline() as run:
        made = run | beam.Create([(f"{i}.png", image) for i, image in enumerate(images)]) | Compress(SMALL)
        _ = made.payloads | fileio.WriteToFiles(
            str(tmp_path / "out"),
            shards=3,
            sink=lambda _: ArchiveSink(SMALL),
            file_naming=fileio.default_file_naming("a", ".tfz"),
        )
    found = {}
    for path in (tmp_path / "out").glob("*.tfz"):
        with Archive.open(path) as archive:
            archive.require(bytes.fromhex(SMALL.fingerprint))
            found |= dict(zip(archive.metadata["names"], archive, strict=True))
    assert found == {f"{i}.png": payload for i, payload in enumerate(SMALL.compress(images))}


@needs_beam
def test_a_process_has_one_codec() -> None:
    from tfcomp.beam import Compress, _Compressing

    step = _Compressing(str(GOLDEN / "static"), {"quality": None, "effort": 0, "target_bytes": None})
    found: list[Any] = []

    def start() -> None:
        step.setup()
        found.append(step.codec.parts)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(parts) for parts in found}) == 1
    with pytest.raises(InputError, match="expected a tfcomp.Codec or an artifact's folder"):
        Compress(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="effort"):
        Compress(effort=-1)


@needs_beam
def test_the_examples_of_the_module_run() -> None:
    import tfcomp.beam

    assert doctest.testmod(tfcomp.beam) == (0, 2)


@needs_beam
def test_the_page_of_the_documentation_runs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (GOLDEN.parents[2] / "docs" / "how-to" / "beam.md").read_text()
    (text,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert '"photographs"' in text
    exec(text.replace('"photographs"', repr(str(GOLDEN / "contexts"))).replace("quality=5", "quality=1"), {})
    count = 0
    for path in (tmp_path / "shards").glob("*.tfz"):
        with Archive.open(path) as archive:
            count += len(archive)
    assert count == 9
    lines = [path.read_text().splitlines() for path in sorted(tmp_path.glob("*.txt-*"))]
    assert sorted(map(len, lines)) == [1, 9]


@pytest.mark.skipif(beam is not None, reason="apache-beam is installed")
def test_without_beam_the_extra_is_named() -> None:
    sys.modules.pop("tfcomp.beam", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfcomp\[beam\]"'):
        __import__("tfcomp.beam")
