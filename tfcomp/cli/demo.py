"""``tfcomp demo``: the whole path on small images, with a table and a picture of the results."""

from __future__ import annotations

import argparse
import math
import time
from importlib import import_module
from pathlib import Path

import keras
import numpy as np

from tfcomp.artifact.manifest import MANIFEST
from tfcomp.cli.console import say
from tfcomp.codec import Codec
from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.measure import classical, evaluate, plots
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.storage import container
from tfcomp.storage.writing import local, replacing_file

LATENT_DIM = 64
BETA = 0.08
BATCH = 128
STEPS = 1100
"""Number of training steps: about two minutes of two cores, whatever the size of the data set."""
SHOWN = 12
RESULTS = ("artifact", "reconstructions.png", "table.md", "test.tfz")


def run(args: argparse.Namespace) -> None:
    """The command."""
    demonstrate(Path(local(args.out)), data=args.data, epochs=args.epochs)


def demonstrate(out: Path, *, data: str = "glyphs", epochs: int | None = None) -> None:
    """Train, freeze, export, compress the test images, compare, draw.

    Args:
        out: folder for ``artifact/``, ``test.tfz``, ``table.md`` and ``reconstructions.png``.
        data: see `datasets.load_arrays`; images of up to 64x64 pixels.
        epochs: passes over the training images; by default as many as make about `STEPS` steps.
    """
    import_module("matplotlib")  # if it is missing, fail before training
    there = [name for name in RESULTS if (out / name).exists()]
    if there and not (out / "artifact" / MANIFEST).is_file():
        raise InputError(f"expected {out} to be new or to hold an earlier demo, found {there[0]} of another kind")
    train, test = datasets.load_arrays(data)
    if max(train.shape[1:3]) > 64:
        raise InputError(f"expected images of up to 64x64 pixels for the demo, found {train.shape[1:3]} in {data}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from error
    test = test[:2000]
    epochs = epochs or math.ceil(STEPS / math.ceil(len(train) / BATCH))
    say(f"1. {data}: {len(train)} images to train on, {len(test)} to test, {train.shape[1:]} uint8")

    keras.utils.set_random_seed(0)
    model = AutoEncoder.conv(train.shape[1:], LATENT_DIM, beta=BETA)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(train) // BATCH))
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    start = time.perf_counter()
    model.fit(train, batch_size=BATCH, epochs=epochs, verbose=2)
    say(f"2. trained for {epochs} epochs in {time.perf_counter() - start:.0f} s")

    Codec.freeze(model, train).export(out / "artifact")
    codec = Codec.load(out / "artifact")
    say(f"3. frozen and exported to {out / 'artifact'}, loaded again with LiteRT: codec {codec.fingerprint}")

    payloads = codec.compress(test)
    fingerprint = bytes.fromhex(codec.fingerprint)
    size = container.write(out / "test.tfz", payloads, fingerprint=fingerprint, item_shape=test.shape[1:])
    with container.Archive.open(out / "test.tfz") as archive:
        archive.require(fingerprint)
        restored = codec.decompress(list(archive))
    ours = evaluate.Point("tfcomp", sum(map(len, payloads)) / len(test), evaluate.psnr_db(test, restored))
    say(f"4. {out / 'test.tfz'}: {len(test)} images in {size:,} bytes, index and checksums included")

    lossy = {name: classical.lowest_quality(test, name, ours.psnr_db) for name in ("webp", "jpeg")}
    table = evaluate.table([ours, *(point for _, point in lossy.values()), classical.measure(test, "png")])
    with replacing_file(out / "table.md") as path:
        path.write_text(f"{len(test)} test images of {data}; WebP and JPEG at equal PSNR or their best\n\n{table}\n")
    say(table)

    shown = np.linspace(0, len(test) - 1, SHOWN).astype(int)
    rows = [("tfcomp", restored[shown], [len(payloads[i]) for i in shown])]
    for name, (quality, point) in lossy.items():
        sizes, images = classical.round_trip(test[shown], name, quality)
        rows.append((point.codec, images, sizes))
    with replacing_file(out / "reconstructions.png") as path:
        plots.reconstructions(test[shown], rows).savefig(path, format="png", dpi=110)
    say(f"5. {out / 'reconstructions.png'}")
