"""Training on the device that there is: images a second under TensorFlow and JAX, in float32 and in mixed precision.

    python benchmarks/device_speed.py [--models NAME ...] [--backends NAME ...] [--precisions NAME ...] [--seconds S]

The dense, convolutional and lapped models at their default widths train on one batch again and again, so that no input
is waited for; each combination in a process of its own, on the first GPU or TPU if there is one, else on the
processors. Steps are timed to their end after some that compile. Beside them stands the share of the time in which a
kernel ran on the GPU, as nvidia-smi samples it, and the largest memory; of processors, the share of all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import _settings
import numpy as np

RESULTS = _settings.RESULTS / "device_speed.json"
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
BATCHES = {"dense": _settings.full_or(512, 16), "conv": _settings.full_or(512, 16), "lapped": _settings.full_or(8, 1)}
SIDE = _settings.full_or(192, 32)


def _model(name: str) -> Any:
    from tfcomp import AutoEncoder

    if name == "dense":
        return AutoEncoder.dense((28, 28, 1), 64, beta=0.06)
    if name == "conv":
        return AutoEncoder.conv((28, 28, 1), 64, beta=0.06)
    return AutoEncoder.lapped((None, None, 3))


def _gpu() -> list[float] | None:
    """Utilisation in percent and memory in MB of the first GPU; None without one."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [float(value) for value in said.splitlines()[0].split(",")]
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def _device() -> str:
    import keras

    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0]
        return f"{found.platform}: {found.device_kind}"
    import tensorflow as tf

    for kind in ("TPU", "GPU"):
        for found in tf.config.list_physical_devices(kind):
            return f"{kind.lower()}: {tf.config.experimental.get_device_details(found).get('device_name', '')}"
    return "cpu: cpu"


def measure(name: str, precision: str, seconds: float) -> dict[str, Any]:
    """Images a second of one combination, in this process."""
    import keras

    keras.mixed_precision.set_dtype_policy(precision)
    model, batch = _model(name), BATCHES[name]
    # Compiling takes long where it gains little: on processors under TensorFlow.
    compiled = False if (keras.backend.backend(), _device()) == ("tensorflow", "cpu: cpu") else "auto"
    model.compile(optimizer="adam", jit_compile=compiled)
    shape = (SIDE, SIDE, 3) if model.item.any_size else model.image_shape
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)

    def train(steps: int) -> float:
        begin = time.perf_counter()
        model.fit(((images,) for _ in range(steps)), steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.perf_counter() - begin  # the logs of an epoch are numbers: its steps are done

    train(2)
    steps = max(2, int(seconds / (train(2) / 2)))
    seen: list[list[float]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if (found := _gpu()) is not None:
                seen.append(found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    busy = time.process_time()
    took = train(steps)
    busy = time.process_time() - busy
    over.set()
    watcher.join()
    gpu = np.array(seen)
    return {
        "model": name,
        "backend": keras.backend.backend(),
        "precision": precision,
        "device": _device(),
        "batch": batch,
        "images_per_second": round(steps * batch / took, 1),
        "gpu_percent": round(float(gpu[:, 0].mean()), 1) if seen else None,
        "gpu_peak_mb": round(float(gpu[:, 1].max())) if seen else None,
        "cpu_percent": round(100 * busy / took / (os.cpu_count() or 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--backends", nargs="+", choices=("tensorflow", "jax"), default=["tensorflow", "jax"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=_settings.full_or(10.0, 0.2), help="of each combination")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.seconds)))
        return
    rows = []
    for name in args.models:
        for backend in args.backends:
            for precision in args.precisions:
                environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
                command = [sys.executable, __file__, "--seconds", str(args.seconds), "--measure", name, precision]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                rows.append(row)
                used = f"{row['cpu_percent']} % of the cores"
                if row["gpu_percent"] is not None:
                    used = f"{row['gpu_percent']} % of the GPU, {row['gpu_peak_mb']:,} MB"
                rate = f"{row['images_per_second']:10,.1f} images/s"
                print(f"{name:8}{backend:12}{precision:16}{row['device']:20}{rate}  {used}", flush=True)
    from tfcomp.measure import evaluate

    report = {
        "benchmark": "device_speed",
        **evaluate.provenance(["tfcomp", "tensorflow", "jax", "keras", "numpy"], seed=0),
        "side": SIDE,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
