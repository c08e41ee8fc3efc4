"""Where benchmarks read and write, and whether they run in full.

``TFCOMP_REDUCED=1`` makes a benchmark a matter of a minute or two: fewer images, epochs and turns, which shows that it
runs and says nothing else. Its results go to ``build/benchmarks`` and its networks to ``build/runs``, so that neither
committed figures nor trained networks are touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.measure import evaluate
from tfcomp.measure.evaluate import Point

ROOT = Path(__file__).resolve().parent.parent
REDUCED = os.environ.get("TFCOMP_REDUCED", "0") not in ("", "0")
RESULTS = ROOT / "build" / "benchmarks" if REDUCED else ROOT / "benchmarks" / "results"
RUNS = ROOT / "build" / "runs" if REDUCED else ROOT / "runs"
"""Folder of the networks that a benchmark trained, which it uses again."""
SHARED = Path(os.environ.get("TFCOMP_SHARED", ROOT.parent / "shared")) / "data"
"""Folder of photographs: ``bsds500`` and ``photographs``, each with ``train``, ``val`` and ``test``."""

RESULTS.mkdir(parents=True, exist_ok=True)

Value = TypeVar("Value")


def full_or(full: Value, reduced: Value) -> Value:
    """The first in a full run, the second in a reduced one."""
    return reduced if REDUCED else full


def mnist(data_dir: Any = None) -> tuple[Images, Images]:
    """MNIST: uint8 [60000, 28, 28, 1] and [10000, 28, 28, 1]; every 30th of each in a reduced run."""
    train, test = datasets.load_arrays("mnist", data_dir=data_dir)
    return (train[::30], test[::30]) if REDUCED else (train, test)


def bd_rate(reference: Sequence[Point], test: Sequence[Point]) -> float | None:
    """The Bjontegaard difference in percent; None in a reduced run whose curves are too short to have one."""
    try:
        return evaluate.bd_rate(reference, test)
    except InputError as error:
        if not REDUCED:
            raise
        print(f"no Bjontegaard difference: {error}")
        return None


def pooled(curves: Sequence[Sequence[Point]], pixels: Sequence[int]) -> list[Point]:
    """The curve of all images together: mean bytes, and the PSNR of the error over all pixels.

    Args:
        curves: of each image, as many points as of any other.
        pixels: of each image.
    """
    points = []
    for of_quality in zip(*curves, strict=True):
        error = np.average([10 ** (-point.psnr_db / 10) for point in of_quality], weights=pixels)
        size = float(np.mean([point.bytes_per_image for point in of_quality]))
        points.append(Point(of_quality[0].codec, size, float(-10 * np.log10(error))))
    return points
