"""Trains the photograph codec: ``python -m tfcomp.photographs.train PHOTOGRAPHS --out RUN``.

``PHOTOGRAPHS/train`` is learnt from, and ``PHOTOGRAPHS/val`` watched: folders of image files of 300 pixels a side or
more. Crops are drawn at random, at the photograph's own scale and two smaller ones, mirrored and turned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfcomp.models.lapped import STEPS, PhotographModel

SIDE = 192
SCALES = (1.0, 0.8, 0.65)
WEIGHTS = "photographs.weights.h5"


def read(folder: Path, scales: tuple[float, ...] = (1.0,)) -> list[NDArray[np.uint8]]:
    """The photographs of a folder at each scale, uint8 [H, W, 3]."""
    found = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for scale in scales:
            size = round(image.width * scale), round(image.height * scale)
            found.append(np.asarray(image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)))
    return found


def crops(photographs: list[NDArray[np.uint8]], batch: int, seed: int) -> Iterator[tuple[tuple[np.ndarray, ...]]]:
    """Batches without end: crops uint8 [batch, SIDE, SIDE, 3] and a quality for each, int32 [batch]."""
    rng = np.random.default_rng(seed)
    while True:
        images = np.empty((batch, SIDE, SIDE, 3), np.uint8)
        for row in images:
            photograph = photographs[rng.integers(len(photographs))]
            y, x = (rng.integers(n - SIDE + 1) for n in photograph.shape[:2])
            crop = photograph[y : y + SIDE, x : x + SIDE]
            crop = crop[:, ::-1] if rng.integers(2) else crop
            row[:] = np.rot90(crop, int(rng.integers(4)))
        qualities = (np.arange(batch) + rng.integers(len(STEPS))) % len(STEPS)
        yield ((images, qualities.astype(np.int32)),)


def load(run: Path) -> PhotographModel:
    """The model of a run."""
    model = PhotographModel()
    model((np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros(1, np.int32)))
    model.load_weights(run / WEIGHTS)
    return model


def main() -> None:
    """Trains, and keeps the weights of every epoch's end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a RUN to train on from")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    model = load(args.start) if args.start else PhotographModel(seed=args.seed)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, args.steps, alpha=0.01, warmup_target=args.learning_rate, warmup_steps=100
    )
    model.compile(optimizer=keras.optimizers.Adam(schedule, global_clipnorm=5.0), jit_compile=False)
    watched = next(crops(read(args.photographs / "val"), 32, seed=1))
    args.out.mkdir(parents=True, exist_ok=True)
    per_epoch = min(args.steps, 250)
    history = model.fit(
        crops(read(args.photographs / "train", SCALES), args.batch_size, args.seed),
        steps_per_epoch=per_epoch,
        epochs=-(-args.steps // per_epoch),
        validation_data=(watched[0], None),
        validation_batch_size=8,
        verbose=2,
        shuffle=False,
        callbacks=[keras.callbacks.ModelCheckpoint(args.out / WEIGHTS, save_weights_only=True)],
    ).history
    (args.out / "run.json").write_text(json.dumps({"settings": vars(args), "history": history}, default=str) + "\n")


if __name__ == "__main__":
    main()
