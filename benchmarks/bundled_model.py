"""Trains a model to bundle: `AutoEncoder.lapped` on photographs and some documents.

    python benchmarks/bundled_model.py MODEL.keras [--start MODEL] [--data FOLDER] [--minutes M] [--hidden E D]

The folder has the ``train`` and ``val`` folders that `SETS` names; by default it is ``data`` in ``TFCOMP_SHARED``. With
``KERAS_BACKEND=jax`` it needs no TensorFlow, and feeds a GPU: images lie in memory, reduced to each scale once, and
crops are cut from them. Every 500 steps, crops of photographs and of documents that are held out are measured at each
quality, and both files are written: MODEL.keras, and MODEL.json with all that was measured. CONTRIBUTING.md says how an
artifact is made of the model.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _settings
import keras
import numpy as np
from numpy.typing import NDArray

from tfcomp import AutoEncoder, load_model
from tfcomp.cli.crop_training import clip_norm
from tfcomp.cli.watching import Measured, Watch
from tfcomp.items import Images
from tfcomp.measure import evaluate
from tfcomp.storage import image_files

SETS = {
    "photographs": (0.62, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)),
    "bsds500": (0.18, (0.8, 0.75)),  # the grid of blocks that these were JPEGs in is gone at a smaller scale
    "domains/receipts": (0.12, (1.0, 0.8)),
    "domains/blood_cells": (0.08, (1.0,)),
}
"""Share of the crops, and scales, of each set."""
SIDE = 192
"""Pixels a side of a crop."""
PER_EPOCH = _settings.full_or(250, 3)
"""Steps of an epoch, which have one learning rate."""
WARM_UP = 4
"""Epochs in which the learning rate rises; then it falls, by a cosine, to `LAST_RATE` of its largest."""
LAST_RATE = 0.002
PER_MEASUREMENT = 2
"""Epochs from one measurement to the next."""
WATCHED = _settings.full_or({"photographs": 40, "domains/receipts": 10}, {"photographs": 2})
"""Number of crops, always the same, of the ``val`` of each set that is measured."""
AHEAD = 12
"""Batches that are made before they are asked for."""


def images(folder: Path, scales: tuple[float, ...], every: int = 1) -> list[Images]:
    """All images of a folder at all scales, as far as a crop fits."""

    def read(path: Path) -> list[Images]:
        image = image_files.read_image(path, whole=True)
        image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        copies = []
        for scale in scales:
            rows, columns = (round(n * scale) for n in image.shape[:2])
            if min(rows, columns) >= SIDE:
                copies.append(image if scale == 1 else _reduced(image, rows, columns))
        return copies

    with ThreadPoolExecutor() as pool:
        return [one for several in pool.map(read, image_files.image_files(folder)[::every]) for one in several]


def _reduced(image: Images, rows: int, columns: int) -> Images:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.LANCZOS))


def batch(sets: list[list[Images]], shares: NDArray[np.float64], size: int, seed: int, number: int) -> Images:
    """Crops, uint8 [size, SIDE, SIDE, 3]; within a set an image is chosen by its area."""
    rng = np.random.default_rng([seed, number])
    crops = np.empty((size, SIDE, SIDE, 3), np.uint8)
    for crop, which in zip(crops, rng.choice(len(sets), size, p=shares), strict=True):
        areas = np.cumsum([image.size for image in sets[which]])
        image = sets[which][int(np.searchsorted(areas, rng.integers(areas[-1]), side="right"))]
        top, left = (int(rng.integers(n - SIDE + 1)) for n in image.shape[:2])
        square = image[top : top + SIDE, left : left + SIDE]
        square = square[:, ::-1] if rng.integers(2) else square
        crop[...] = np.rot90(square, int(rng.integers(4)))
        if rng.integers(2):  # another exposure, another white balance
            gains = rng.uniform(0.75, 1.0) * rng.uniform(0.95, 1.05, 3)
            for channel, gain in enumerate(gains):
                table = np.minimum(np.arange(256) * gain + 0.5, 255).astype(np.uint8)
                crop[..., channel] = table[crop[..., channel]]
    return crops


def batches(sets: list[list[Images]], size: int, seed: int) -> Iterator[tuple[Images]]:
    """Batches without end, the same for the same seed."""
    shares = np.array([share for share, _ in SETS.values()])
    with ThreadPoolExecutor(5) as pool:
        waiting = deque(pool.submit(batch, sets, shares / shares.sum(), size, seed, n) for n in range(AHEAD))
        for number in range(AHEAD, 2**62):
            yield (waiting.popleft().result(),)
            waiting.append(pool.submit(batch, sets, shares / shares.sum(), size, seed, number))


class Schedule(keras.callbacks.Callback):
    """The learning rate by the share of the steps, or of the minutes, that are over; measurements; files."""

    def __init__(
        self,
        rate: float,
        steps: int | None,
        minutes: float | None,
        watches: dict[str, Watch],
        out: Path,
        report: dict[str, Any],
    ) -> None:
        super().__init__()
        self.rate, self.steps, self.minutes = rate, steps, minutes
        self.watches, self.out, self.report = watches, out, report
        self.begin = time.perf_counter()

    def share(self, epochs: int) -> float:
        if self.minutes is not None:
            return (time.perf_counter() - self.begin) / (60 * self.minutes)
        return epochs * PER_EPOCH / (self.steps or 1)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        falling = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share(epoch))))
        self.model.optimizer.learning_rate = self.rate * min(1.0, (epoch + 1) / WARM_UP) * falling

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        over = self.share(epoch + 1) >= 1
        if over or (epoch + 1) % PER_MEASUREMENT == 0:
            self.measure((epoch + 1) * PER_EPOCH, logs or {})
        if over:
            self.model.stop_training = True

    def measure(self, steps: int, logs: dict[str, float]) -> None:
        sets: dict[str, Measured] = {name: watch.measure() for name, watch in self.watches.items()}
        row: dict[str, Any] = {"steps": steps, "seconds": round(time.perf_counter() - self.begin)}
        row["trained"] = round(float(logs["loss"]), 4)
        row |= {name: [round(float(loss), 4) for loss in measured.loss] for name, measured in sets.items()}
        self.report["measured"].append(row)
        scores = {name: round(float(np.log(measured.loss).mean()), 4) for name, measured in sets.items()}
        print(steps, row["seconds"], row["trained"], scores, sets["photographs"].summary(), flush=True)
        self.out.with_suffix(".json").write_text(json.dumps(self.report, indent=1) + "\n")
        alone = type(self.model).from_config(self.model.get_config())  # without the optimizer's state, twice its size
        alone.set_weights(self.model.get_weights())
        alone.save(self.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=_settings.SHARED)
    parser.add_argument("--start", help="a model to train on from, as load_model takes it")
    parser.add_argument("--minutes", type=float, help="of training, for as many steps as fit in")
    parser.add_argument("--steps", type=int, default=_settings.full_or(10_000, 6), help="without --minutes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs=2, default=(96, 128), help="encoder's and decoder's width")
    parser.add_argument("--ranks", type=int, nargs=2, default=(80, 24), help="of the decoder's residual network")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--power", type=float, default=0.8, help="qualities weigh as their price to minus this power")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    model = (
        load_model(args.start)
        if args.start
        else AutoEncoder.lapped((None, None, 3), hidden=tuple(args.hidden), ranks=tuple(args.ranks))
    )
    model.weigh_qualities(np.array(model.betas) ** -args.power)
    clip = clip_norm(model.betas, SIDE)
    compiled = False if keras.backend.backend() == "tensorflow" else "auto"  # as `tfcomp train` does
    model.compile(optimizer=keras.optimizers.Adam(args.learning_rate, global_clipnorm=clip), jit_compile=compiled)

    every = _settings.full_or(1, 60)
    sets = [images(args.data / name / "train", scales, every) for name, (_, scales) in SETS.items()]
    watches = {}
    for name, count in WATCHED.items():
        held_out = images(args.data / name / "val", (1.0,))
        shares = np.array([1.0])
        watches[name] = Watch(model, batch([held_out], shares, count, 1, 0))
    options = {name: value for name, value in vars(args).items() if name not in ("out", "data")}
    report = {
        "benchmark": "bundled_model",
        **evaluate.provenance(["tfcomp", keras.backend.backend(), "keras", "numpy"]),
        **options,
        "measured": [],
    }
    schedule = Schedule(args.learning_rate, args.steps, args.minutes, watches, args.out, report)
    model.fit(
        batches(sets, args.batch, args.seed),
        steps_per_epoch=PER_EPOCH,
        epochs=10**6,  # the schedule ends training
        verbose=0,
        callbacks=[schedule],
    )


if __name__ == "__main__":
    main()
