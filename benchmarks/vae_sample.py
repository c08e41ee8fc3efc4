from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import tensorflow as tf

from tfcomp import VAE, load_model
from tfcomp.items import Images

RUNS = _settings.RUNS / "vae_sample"
SHAPE = (28, 28, 1)
LATENTS = _settings.full_or((32, 16, 64), (16,))
BETAS = _settings.full_or((1.0, 4.0, 0.5), (1.0,))
EPOCHS = _settings.full_or(20, 2)
BATCH = 128


def trained(latents: int, beta: float, scale: str, images: Images) -> VAE:
    """The model of this setting; trained and kept if there is none."""
    path = RUNS / f"{scale}-{latents}-{beta:g}-{EPOCHS}.keras"
    if path.exists():
        return load_model(path)
    keras.utils.set_random_seed(0)
    model = VAE.dense(SHAPE, latents, beta=beta, scale=scale)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * -(-len(images) // BATCH), alpha=0.01)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=0).batch(BATCH)
    start = time.perf_counter()
    logs: dict[str, Any] = model.fit(data.prefetch(8), epochs=EPOCHS, verbose=0).history
    print(f"trained {path.name} in {time.perf_counter() - start:.0f} s: loss {logs['loss'][-1]:.2f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", default=os.environ.get("TFDS_DATA_DIR"), help="of tensorflow-datasets")
    args = parser.parse_args()
    train, test = _settings.mnist(args.data_dir)
    for beta in BETAS:
        for latents in LATENTS:
            for scale in ("input", "shared"):
                trained(latents, beta, scale, train)


if __name__ == "__main__":
    main()
