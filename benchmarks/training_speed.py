"""Training: images a second of one architecture in tfcomp's ``fit`` and in TensorFlow Compression's tutorial codec.

    python benchmarks/training_speed.py [--data-dir FOLDER] [--peer-python PYTHON]

The architecture is the tutorial's: convolutions of 20 and 50 filters of 5x5 with stride 2, a dense layer of 500, 96
latents, and the mirror image; batches of 128, Adam. The peer's prior is one logistic for each latent; tfcomp is timed
with that, and with the three of its own default. It trains on an array, on a `tf.data` pipeline like the peer's, and
with what a user may set in ``compile``. Whole epochs are timed, shuffling and metrics included, after one that
compiles; the ways to train take turns, and each is compared with the peer turn by turn. No pipeline, the peer's
neither, is tuned by `tf.data`, as `datasets.untuned` explains. The peer runs in an environment of its own with
tensorflow-compression 2.14 and TensorFlow 2.14.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np
import tensorflow as tf

from tfcomp import AutoEncoder
from tfcomp.data import datasets
from tfcomp.items import Images
from tfcomp.measure import evaluate

HERE = Path(__file__).parent
RESULTS = _settings.RESULTS / "training_speed.json"
BATCH, LATENTS, LAMBDA, SEED = 128, 96, 15_000, 0
WAYS: dict[str, tuple[bool, int, dict[str, Any]]] = {
    "tfcomp, fit of an array": (False, 1, {}),
    "tfcomp, fit of an array, 3 logistics (default)": (False, 3, {}),
    "tfcomp, tf.data": (True, 1, {}),
    "tfcomp, tf.data, 3 logistics (default)": (True, 3, {}),
    "tfcomp, tf.data, steps_per_execution=20": (True, 1, {"steps_per_execution": 20}),
    "tfcomp, tf.data, jit_compile": (True, 1, {"jit_compile": True}),
}
"""For each row: whether from a `tf.data` pipeline, logistics of the prior, and the options of ``compile``."""


def epoch_of(
    images: Images, pipeline: bool, components: int, options: dict[str, Any]
) -> tuple[Callable[[], float], int]:
    """A function that trains for an epoch and returns its seconds, and the number of parameters."""
    keras.utils.set_random_seed(SEED)
    beta = images[0].size / (LAMBDA * np.log(2))
    model = AutoEncoder.conv(images.shape[1:], LATENTS, filters=(20, 50), hidden=500, beta=beta, components=components)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), **options)
    data: Any = images
    if pipeline:
        data = datasets.untuned(tf.data.Dataset.from_tensor_slices(images))
        data = data.shuffle(len(images)).batch(BATCH).prefetch(8)

    def epoch() -> float:
        begin = time.perf_counter()
        model.fit(data, batch_size=BATCH, epochs=1, verbose=0)
        return time.perf_counter() - begin

    return epoch, model.count_params()


@contextmanager
def peer(python: str, images: Images) -> Iterator[tuple[Callable[[], float], dict[str, Any]]]:
    """The same of the peer, and what it says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images[..., 0])
        command = [python, str(HERE / "peers" / "tfc_training.py"), str(Path(folder) / "images.npy")]
        command += ["--latent-dim", str(LATENTS), "--rate-distortion-lambda", str(LAMBDA)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            facts = json.loads(process.stdout.readline())

            def epoch() -> float:
                process.stdin.write("\n")
                process.stdin.flush()
                facts.update(json.loads(process.stdout.readline()))
                return facts.pop("seconds")

            yield epoch, facts
            process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps MNIST")
    parser.add_argument("--images", type=int, default=_settings.full_or(6_400, 640), help="in an epoch")
    parser.add_argument("--epochs", type=int, default=_settings.full_or(5, 1), help="timed, each way")
    parser.add_argument("--peer-python", help="interpreter with tensorflow-compression 2.14")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    images = _settings.mnist(args.data_dir)[0][: args.images]

    epochs: dict[str, Callable[[], float]] = {}
    logistics, parameters = {}, {}
    for name, way in WAYS.items():
        logistics[name] = way[1]
        epochs[name], parameters[name] = epoch_of(images, *way)
    seconds: dict[str, list[float]] = {}

    def take_turns() -> None:
        for turn in range(args.epochs + 1):
            for name, epoch in epochs.items():
                taken = epoch()
                if turn:  # the first compiles
                    seconds.setdefault(name, []).append(taken)

    if args.peer_python:
        with peer(args.peer_python, images) as (epoch, facts):
            peer_name = f"TensorFlow Compression (TensorFlow {facts['tensorflow']})"
            epochs[peer_name] = epoch
            take_turns()
            logistics[peer_name], parameters[peer_name] = 1, facts["parameters"]
    else:
        take_turns()

    rows = []
    for name, taken in seconds.items():
        row = {"training": name, "images_per_second": round(len(images) / statistics.median(taken), 1)}
        if args.peer_python:
            ratios = [theirs / ours for theirs, ours in zip(seconds[peer_name], taken, strict=True)]
            row["times_the_peer"] = round(statistics.median(ratios), 3)
        rows.append({**row, "logistics": logistics[name], "parameters": parameters[name]})
        ratio = f"{row['times_the_peer']:8.2f} x the peer" if args.peer_python else ""
        print(f"{name:48}{row['images_per_second']:8,.0f} images/s{ratio}{parameters[name]:12,} parameters")
    report = {
        "benchmark": "training_speed",
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy"], seed=SEED),
        "batch": BATCH,
        "images_in_an_epoch": len(images),
        "epochs_timed": args.epochs,
        "statistic": "median",
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
