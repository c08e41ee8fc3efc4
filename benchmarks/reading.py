"""Reading images to train on: images a second and peak memory of the input, beside the training step that it feeds.

    python benchmarks/reading.py [--images N] [--backend tensorflow|jax]

A folder of PNG files of 128x128 pixels is read for an epoch by `datasets.batches`, as an array and as a stream, and
crops of one of photographs by `datasets.crops`, each in a process of its own: first nothing but the imports, whose
memory is part of every other peak (TensorFlow's is the greater part), then the input alone, then a number of steps of
`fit` with it. The step alone is `fit` on one batch again and again. Files are a few hundred different ones with many
names, so that all of them are in the system's cache: what is measured is decoding, not the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _settings
import numpy as np
from PIL import Image

RESULTS = _settings.RESULTS / "reading.json"
SIDE, BATCH, DIFFERENT = 128, 64, 200
CROPS, STEPS = _settings.full_or(3_200, 64), _settings.full_or(40, 2)
PHOTOGRAPH = (480, 640)
ROWS = ("imports", "array", "array, fit", "stream", "stream, fit", "crops", "crops, fit", "step alone")


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Waves and noise, which PNG shrinks about as far as photographs: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * rng.uniform(0, 0.2) + y * rng.uniform(0, 0.2) + rng.uniform(0, 6)) for _ in range(3)]
    return np.clip(128 + 80 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def make(folder: Path, images: int) -> None:
    """The files."""
    for name, (height, width), count in (("small", (SIDE, SIDE), images), ("photographs", PHOTOGRAPH, images // 10)):
        (folder / name).mkdir()
        for i in range(count):
            path = folder / name / f"{i:06}.png"
            if i < DIFFERENT:
                Image.fromarray(scene(height, width, i)).save(path)
            else:
                os.link(folder / name / f"{i % DIFFERENT:06}.png", path)


def measure(row: str, folder: Path) -> dict[str, Any]:
    """One row, in this process."""
    import keras

    import tfcomp

    jax = keras.backend.backend() == "jax"
    model = None
    if "fit" in row or row == "step alone":
        model = tfcomp.AutoEncoder.spatial((SIDE, SIDE, 3), 16, filters=(16, 32), beta=0.01)
        model.compile(optimizer="adam")
    data: Any
    steps = None if model is None else STEPS
    count = 0
    if row == "step alone":
        batch = np.stack([scene(SIDE, SIDE, i) for i in range(BATCH)])
        data = ((batch,) for _ in range(2 * steps))
    elif row.startswith("crops"):
        data, count = tfcomp.datasets.crops(folder / "photographs", SIDE).batch(BATCH), CROPS
        data = data.take(CROPS // BATCH) if model is None else data
    elif row.startswith("stream"):
        tfcomp.datasets.HELD_BYTES = 0
        images, _ = tfcomp.datasets.opened(folder / "small")
        data, count = tfcomp.datasets.batches(images, BATCH, shuffle=True), len(images)
    elif row.startswith("array"):
        images = tfcomp.datasets.load_arrays(folder / "small")[0]
        data, count = tfcomp.datasets.batches(images, BATCH, shuffle=True), len(images)
    else:
        data = ()
    count = count if model is None else STEPS * BATCH
    seconds = 0.0
    for _ in range(1 if model is None else 2):  # the first epoch compiles
        begin = time.perf_counter()
        if model is not None:
            model.fit(data, steps_per_epoch=steps, verbose=0)
        elif jax and row == "stream":
            with ThreadPoolExecutor(data.workers) as pool:
                assert sum(map(len, pool.map(data.__getitem__, range(len(data))))) == count
        else:
            assert sum(len(batch) for batch in data) == count
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    rate = round(count / seconds, 1) if count else None
    return {"row": row, "images": count, "images_per_second": rate, "peak_mb": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=_settings.full_or(20_000, 300))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    rows = []
    environment = {**os.environ, "KERAS_BACKEND": args.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.images)
        for name in args.rows:
            command = [sys.executable, __file__, "--measure", name, folder]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            rate = "" if row["images_per_second"] is None else f"{row['images_per_second']:8,.0f} images/s"
            print(f"{name:14}{row['images']:8,} images {rate:18}{row['peak_mb']:6,} MB at the peak", flush=True)
    from tfcomp.measure import evaluate

    report = {
        "benchmark": "reading",
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy", "pillow"], seed=0),
        "backend": args.backend,
        "side": SIDE,
        "batch": BATCH,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
