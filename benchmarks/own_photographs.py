"""A codec of one's own photographs beside what an earlier recipe made of them, and what effort gains on photographs.

    python benchmarks/own_photographs.py [FOLDER] [--steps 500] [--effort 8]

``FOLDER`` holds the photographs to learn from, 200 pixels a side or more (by default ``photographs/train`` in
``TFCOMP_SHARED``), and ``val`` beside it those that are measured, which training watches too. `AutoEncoder.lapped` is
trained as ``tfcomp train FOLDER --network lapped`` does, in batches of 8 crops of 192 pixels a side, frozen on every
third photograph of ``FOLDER``, and all its qualities are measured: bytes of real payloads, and PSNR. The Bjontegaard
difference to ``benchmarks/results/own_photographs_before.json``, which says how it was made, is given twice: the mean
of the photographs' own differences, and that of the curves of all photographs together.

``--effort`` compresses the same photographs with the bundled codec too, as it is loaded from the package, without
effort and with so much of it, and gives bytes, decibels and the same two differences.

Writes ``benchmarks/results/own_photographs.json``; what was not measured this time stays as it was there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
from tqdm import tqdm

from tfcomp import Codec, load_model
from tfcomp.cli.main import main as tfcomp_command
from tfcomp.cli.runs import MODEL
from tfcomp.items import Images
from tfcomp.measure import evaluate
from tfcomp.measure.evaluate import Point
from tfcomp.storage import image_files

RESULTS = _settings.RESULTS / "own_photographs.json"
BEFORE = _settings.ROOT / "benchmarks" / "results" / "own_photographs_before.json"
PHOTOGRAPHS = _settings.SHARED / "photographs" / "train"
BATCH, SIDE = 8, 192
PRICES = _settings.full_or([], ["--beta", "0.07", "0.005", "0.0004"])
"""Option of a reduced run: fewer qualities take less time to freeze."""
EVERY = _settings.full_or(3, 30)
"""Of the training photographs, one in so many is frozen on."""

Row = dict[str, Any]
"""One quality: its number, ``bytes_per_image``, ``psnr_db`` pooled, and ``each``, bytes and PSNR of each photograph."""


def measured(codec: Codec, images: Sequence[Images], effort: int = 0) -> list[Row]:
    """A row for each quality."""
    rows = []
    for quality in range(1, codec.qualities + 1):
        bar = tqdm(images, f"quality {quality}, effort {effort}", leave=False, disable=None)
        payloads = [payload for image in bar for payload in codec.compress([image], quality, effort=effort)]
        restored = codec.decompress(payloads)
        each = [
            [len(payload), round(evaluate.psnr_db([a], [b]), 5)]
            for payload, a, b in zip(payloads, images, restored, strict=True)
        ]
        size = sum(map(len, payloads)) / len(payloads)
        rows.append({
            "quality": quality, "bytes_per_image": size, "psnr_db": evaluate.psnr_db(images, restored), "each": each
        })  # fmt: skip
        print(f"quality {quality}, effort {effort}: {size:.0f} bytes, {rows[-1]['psnr_db']:.2f} dB", flush=True)
    return rows


def differences(before: Sequence[Row], after: Sequence[Row], images: Sequence[Images]) -> dict[str, Any]:
    """The Bjontegaard differences, in percent of the bytes before; below 0 where the bytes are fewer."""
    sizes = [image.size for image in images]

    def curves(rows: Sequence[Row]) -> list[list[Point]]:
        return [[Point(str(row["quality"]), *row["each"][i]) for row in rows] for i in range(len(images))]

    if len(before[0]["each"]) < len(images):
        found = len(before[0]["each"])
        raise SystemExit(f"expected the photographs that were measured before, {found}, found {len(images)}")
    each = [_settings.bd_rate(first, second) for first, second in zip(curves(before), curves(after), strict=True)]
    of_all = [_settings.pooled(curves(rows), sizes) for rows in (before, after)]
    found = [value for value in each if value is not None]
    return {
        "bd_rate_percent_mean_of_photographs": statistics.mean(found) if found == each else None,
        "bd_rate_percent_of_pooled_curves": _settings.bd_rate(*of_all),
        "bd_rate_percent_of_each_photograph": each,
    }


def recipe(folder: Path, images: Sequence[Images], steps: int, kept: Path | None) -> Row:
    """Trains, freezes, measures, and compares with what was before."""
    with tempfile.TemporaryDirectory() as temporary:
        run = kept or Path(temporary) / "run"
        start = time.perf_counter()
        options = f"--network lapped --steps {steps} --batch-size {BATCH} --side {SIDE}".split()
        command = ["train", str(folder), *options, *PRICES, "--validation", str(folder.parent / "val")]
        command += ["--out", str(run)]
        if tfcomp_command(command):
            raise SystemExit(f"tfcomp {' '.join(command)} did not end well")
        trained = time.perf_counter() - start
        codec = Codec.freeze(load_model(run / MODEL), image_files.image_files(folder)[::EVERY])
        print(f"trained in {trained:.0f} s, frozen in {time.perf_counter() - start - trained:.0f} s", flush=True)
    rows = measured(codec, images)
    found: Row = {"steps": steps, "training_seconds": round(trained), "compute": codec.compute, "qualities": rows}
    return differences(json.loads(BEFORE.read_text())["qualities"], rows, images) | found


def effort_gains(images: Sequence[Images], effort: int) -> Row:
    """The bundled codec with and without effort."""
    codec = Codec.load()
    without, with_effort = measured(codec, images), measured(codec, images, effort)
    rows = [
        {
            "quality": a["quality"],
            "bytes_percent": 100 * (b["bytes_per_image"] / a["bytes_per_image"] - 1),
            "psnr_db": b["psnr_db"] - a["psnr_db"],
        }
        for a, b in zip(without, with_effort, strict=True)
    ]
    return {
        **differences(without, with_effort, images),
        "codec": codec.fingerprint,
        "effort": effort,
        "gains": rows,
        "qualities_without": without,
        "qualities_with": with_effort,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=PHOTOGRAPHS, metavar="FOLDER")
    steps = _settings.full_or(500, 10)
    parser.add_argument("--steps", type=int, default=steps, help="0 leaves the training out (default: %(default)s)")
    parser.add_argument("--effort", type=int, default=0, help="of the bundled codec; 0 leaves that out (the default)")
    parser.add_argument("--run", type=Path, help="a folder to keep the trained model in")
    most = _settings.full_or(1000, 1)
    parser.add_argument("--photographs", type=int, default=most, metavar="N", help="measure the first N of ``val``")
    args = parser.parse_args()
    others = args.folder.parent / "val"
    if not args.folder.is_dir() or not others.is_dir():
        print(f"left out: no photographs at {args.folder} and {others}; name the first as FOLDER")
        return
    files = image_files.image_files(others)[: args.photographs]
    images = [image_files.read_image(file, whole=True) for file in files]
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy", "ai-edge-litert"], seed=0)
    if args.steps:
        result["recipe"] = recipe(args.folder, images, args.steps, args.run)
    if args.effort:
        result["effort"] = effort_gains(images, args.effort)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for part in ("recipe", "effort"):
        told = {key: value for key, value in result.get(part, {}).items() if key == "gains" or "bd_rate" in key}
        print(part, json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
