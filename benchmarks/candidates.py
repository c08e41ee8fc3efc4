"""Models and artifacts that could be bundled, beside the bundled one, on photographs to choose by.

    python benchmarks/candidates.py CANDIDATE... [--shares 0.25 0.5 0.75 1]

Each candidate is an artifact, whose payloads are measured, or a ``.keras`` file of the bundled model's shape, whose
losses are. Measured is ``val`` of each set of ``TFCOMP_SHARED``, never ``test``; of large sets every n-th image.

- Of an artifact: the Bjontegaard difference to the bundled codec, the mean of the images' own and the worst, and for
  each quality the bytes beyond the bundled codec's at the same PSNR, all in percent.
- Of a model: the change of the loss (distortion + beta * rate) on 24 crops at each quality, in percent. ``--shares``
  are averages of its weights and the bundled model's; 1 is the model itself.

Writes ``benchmarks/results/candidates.json``, under the candidates' names; what was not measured stays as it was there.
Each candidate there has the fingerprint of the bundled codec that it was compared with; ``longer`` and then
``further`` became the next ones.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np

from tfcomp import Codec
from tfcomp.errors import InputError
from tfcomp.measure import evaluate
from tfcomp.measure.evaluate import Point
from tfcomp.storage import image_files

RESULTS = _settings.RESULTS / "candidates.json"
SETS = {
    "photographs": ("photographs/val", 1),
    "BSDS500": ("bsds500/val", 8),
    "receipts": ("domains/receipts/val", 2),
    "blood cells": ("domains/blood_cells/val", 4),
}
"""Folder of each set, and one image of how many is measured."""
CROPS, SIDE = _settings.full_or(24, 1), 192


def payload_points(codec: Codec) -> dict[str, list[list[Point]]]:
    """By set, for each image a point for each quality."""
    found: dict[str, list[list[Point]]] = {}
    for name, (folder, every) in SETS.items():
        files = image_files.image_files(_settings.SHARED / folder)[:: every * _settings.full_or(1, 50)]
        for file in files:
            image = image_files.read_image(file, whole=True)
            payloads = [codec.compress([image], n + 1)[0] for n in range(codec.qualities)]
            pairs = zip(payloads, codec.decompress(payloads), strict=True)
            found.setdefault(name, []).append([
                Point("", len(payload), evaluate.psnr_db([image], [restored])) for payload, restored in pairs
            ])  # fmt: skip
    return found


def beyond(reference: list[Point], point: Point) -> float:
    try:
        return 100 * (point.bytes_per_image / evaluate.bytes_at(reference, point.psnr_db) - 1)
    except InputError:  # better than the reference's best
        return float("nan")


def of_artifact(path: str, bundled: dict[str, list[list[Point]]]) -> dict[str, Any]:
    result = {}
    for name, images in payload_points(Codec.load(path)).items():
        rates = [evaluate.bd_rate(a, b) for a, b in zip(bundled[name], images, strict=True)]
        each = [[beyond(a, point) for point in b] for a, b in zip(bundled[name], images, strict=True)]
        of_qualities = [
            round(float(np.nanmean(column)), 2) if np.isfinite(column).any() else None for column in np.array(each).T
        ]
        result[name] = {
            "mean": round(float(np.mean(rates)), 2),
            "worst": round(max(rates), 2),
            "qualities": of_qualities,
        }
    return result


def of_model(path: str, shares: list[float]) -> dict[str, Any]:
    from tfcomp import datasets, load_model
    from tfcomp.cli.watching import Watch, mixtures

    first, model = load_model("photographs").get_weights(), load_model(path)
    last = model.get_weights()
    result: dict[str, Any] = {}
    for name, (folder, _) in SETS.items():
        stream = datasets.crops(_settings.SHARED / folder, SIDE, scales=(1.0,), seed=1).take(CROPS)
        watch = Watch(model, np.stack(list(stream.as_numpy_iterator())))
        model.set_weights(first)
        before = watch.measure().loss
        for share, between in mixtures(first, last, shares):
            model.set_weights(between)
            change = 100 * (watch.measure().loss / before - 1)
            result.setdefault(f"share {share:g}", {})[name] = {
                "mean": round(float(change.mean()), 2),
                "qualities": np.round(change, 2).tolist(),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="+", help="artifacts, or .keras files of the bundled model's shape")
    parser.add_argument("--shares", type=float, nargs="+", default=_settings.full_or([0.25, 0.5, 0.75, 1.0], [1.0]))
    args = parser.parse_args()
    if not all((_settings.SHARED / folder).is_dir() for folder, _ in SETS.values()):
        print(f"left out: no photographs to choose by in {_settings.SHARED}")
        return
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy", "ai-edge-litert"], seed=1)
    artifacts = [path for path in args.candidates if not path.endswith(".keras")]
    bundled = payload_points(Codec.load()) if artifacts else {}
    for path in args.candidates:
        found = of_artifact(path, bundled) if path in artifacts else of_model(path, args.shares)
        beside = {"bundled": Codec.load().fingerprint}
        result.setdefault("candidates", {})[Path(path).name] = {**beside, **found}
        print(f"{path}: {json.dumps(found, indent=1)}", flush=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
