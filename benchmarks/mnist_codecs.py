"""An autoencoder, a rate-trained autoencoder and a VAE on MNIST: reconstruction error, real bytes, cost of each stage.

    python benchmarks/mnist_codecs.py [--epochs 15] [--retrain]

Trains on the 60,000 images and reports on the 10,000; nothing is chosen on the test images. Trained models are kept in
``runs/mnist_codecs`` and used again. Writes ``benchmarks/results/mnist_codecs.json`` and the picture beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np
import tensorflow as tf

from tfcomp import VAE, AutoEncoder, Codec, load_model
from tfcomp.measure import classical, evaluate, plots

RESULTS = _settings.RESULTS / "mnist_codecs.json"
RUNS = _settings.RUNS / "mnist_codecs"
SHAPE = (28, 28, 1)
# On the training images. WebP's smallest files, of quality 0, have 22.7 dB there.
TARGET_DB = 23.0
PLAIN_EPOCHS = _settings.full_or(20, 12)
SEED = 0


def train(
    name: str, model: AutoEncoder | VAE, images: np.ndarray, epochs: int, retrain: bool
) -> tuple[AutoEncoder | VAE, Any]:
    """The model trained with Adam, 1e-3 falling to 0 on a cosine, batches of 128; and its training seconds."""
    path, log = RUNS / f"{name}.keras", RUNS / f"{name}.json"
    if path.exists() and log.exists() and not retrain:
        return load_model(path), json.loads(log.read_text())
    steps = epochs * -(-len(images) // 128)
    model.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)))
    start = time.perf_counter()
    model.fit(images, batch_size=128, epochs=epochs, verbose=2)
    RUNS.mkdir(parents=True, exist_ok=True)
    model.save(path)
    facts = {"epochs": epochs, "beta": model.beta, "seconds": round(time.perf_counter() - start)}
    log.write_text(json.dumps(facts))
    return model, facts


def measure(codec: Codec, test: np.ndarray) -> dict[str, Any]:
    """Real payloads of the test images, decoded again and compared latent by latent."""
    latents = codec.encode(test)
    payloads, report = codec.compress_with_report(test)
    assert np.array_equal(codec.decode(payloads), latents), "payloads must decode to what was coded"
    return {
        "bytes_per_image": report.payload_bytes / report.images,
        "ideal_bytes_per_image": report.ideal_bits / 8 / report.images,
        "psnr_db": evaluate.psnr_db(test, codec.decompress(payloads)),
        "clipped_latents": report.clipped,
    }


def excess_of_tables(codec: Codec, model: AutoEncoder, test: np.ndarray) -> float:
    """How much more the integer tables charge for the test latents than the float prior they came from, in percent."""
    latents = codec.encode(test)
    units = codec.parts.quality().to_units(latents)
    nats = np.asarray(model.prior(units * codec.parts.unit + codec.parts.zero))
    float_bits = float(nats.astype(np.float64).sum() / np.log(2))
    return 100 * (float(codec.entropy_model.ideal_bits(latents).sum()) / float_bits - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    epochs = _settings.full_or(15, 12)
    parser.add_argument("--epochs", type=int, default=epochs, help="of the two codecs; the plain autoencoder takes 20")
    parser.add_argument("--retrain", action="store_true")
    args = parser.parse_args()
    train_images, test = _settings.mnist()

    keras.utils.set_random_seed(SEED)
    plain, plain_facts = train("plain", AutoEncoder.dense(SHAPE, 64), train_images, PLAIN_EPOCHS, args.retrain)
    plain.compile()
    mse = plain.evaluate(test, batch_size=500, verbose=0, return_dict=True)["distortion"] / test[0].size

    keras.utils.set_random_seed(SEED)
    made = AutoEncoder.conv(SHAPE, 64, beta=0.06)
    rate, rate_facts = train("rate", made, train_images, args.epochs, args.retrain)
    keras.utils.set_random_seed(SEED)
    made = VAE.conv(SHAPE, 64, beta=0.04, distortion="squared_error")
    vae, vae_facts = train("vae", made, train_images, args.epochs, args.retrain)

    codec = Codec.freeze(rate, train_images)
    target = _settings.full_or({"target_psnr_db": TARGET_DB}, {"step": 0.01})  # out of reach after few epochs
    vae_codec = Codec.freeze(vae, train_images, **target)
    result: dict[str, Any] = {
        "plain_autoencoder_dense": {**plain_facts, "test_mean_squared_error": mse},
        "rate_trained_autoencoder_conv": {
            **rate_facts,
            **measure(codec, test),
            "tables_over_float_prior_percent": excess_of_tables(codec, rate, test),
        },
        "plain_autoencoder_dense_codec": measure(Codec.freeze(plain, train_images), test),
        "vae_conv_mean": {
            **vae_facts,
            **measure(vae_codec, test),
        },
    }
    webp = classical.measure(test, "webp", 0)  # the smallest files that it makes
    result["webp_method_6"] = {"setting": webp.codec, "bytes_per_image": webp.bytes_per_image, "psnr_db": webp.psnr_db}
    for row in list(result.values())[1:4]:
        row["webp_bytes_over_these"] = webp.bytes_per_image / row["bytes_per_image"]
        row["coder_overhead_bytes"] = row["bytes_per_image"] - row["ideal_bytes_per_image"]
    result["run"] = {
        "command": "python " + " ".join([str(Path(sys.argv[0]).name), *sys.argv[1:]]),
        "seed": SEED,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    draw({"tfcomp": codec, "tfcomp, VAE": vae_codec}, test[:12])
    print(
        f"plain autoencoder, 784-512-256-64: test mean squared error {mse:.5f} after {plain_facts['epochs']} epochs\n"
    )
    print("| codec | bytes per image | over the ideal | PSNR dB | WebP's bytes over these |\n|---|---:|---:|---:|---:|")
    for name, row in list(result.items())[1:4]:
        figures = f"{row['bytes_per_image']:.2f} | {row['coder_overhead_bytes']:.2f} | {row['psnr_db']:.2f}"
        print(f"| {name} | {figures} | {row['webp_bytes_over_these']:.1f} |")
    print(f"| {webp.codec} | {webp.bytes_per_image:.2f} | | {webp.psnr_db:.2f} | 1.0 |")
    row = result["rate_trained_autoencoder_conv"]
    print(f"\ninteger tables over the float prior: {row['tables_over_float_prior_percent']:.2f} %")


def draw(codecs: dict[str, Codec], images: np.ndarray) -> None:
    """Originals above what each codec makes of them; WebP at its smallest, JPEG at the first to reach `TARGET_DB`."""
    rows = []
    for name, codec in codecs.items():
        payloads = codec.compress(images)
        rows.append((name, codec.decompress(payloads), [len(payload) for payload in payloads]))
    for name, quality in (("webp", 0), ("jpeg", classical.lowest_quality(images, "jpeg", TARGET_DB)[0])):
        sizes, restored = classical.round_trip(images, name, quality)
        rows.append((classical.FORMATS[name].label(quality), restored, sizes))
    plots.reconstructions(images, rows).savefig(RESULTS.with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
