"""The VAE on MNIST: its evidence bound, its curve of real bytes beside the autoencoder's, and the price of samples.

    python benchmarks/vae_mnist.py [--data-dir FOLDER] [--epochs N] [--elbo-epochs N] [--parts PART ...]

1. The negative evidence lower bound (beta = 1, Bernoulli likelihood, dynamically binarized images, 64 latents) and the
   importance-weighted estimate of the log-likelihood, which is what papers report. Batch normalisation and the learning
   rate were chosen by the part ``choice``: short trainings on the first 50,000 training images, compared on the others.
2. For each beta, squared error: bytes and PSNR of the posterior's mean coded (VAE), and of the rounded latent
   (AutoEncoder trained for rate).
   Besides, one VAE at other steps: the curve that costs no further training.
3. For each beta: mean payload in bits of a posterior sample, beside the KL divergence in bits.

Everything is fitted to the 60,000 training images; the test images are measured once. Trained models are kept in
``runs/vae_mnist`` and used again: delete the folder to train anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np
import tensorflow as tf

from tfcomp import VAE, AutoEncoder, Codec, load_model
from tfcomp.items import Images
from tfcomp.measure import plots
from tfcomp.models.objective import LN2

RESULTS = _settings.RESULTS / "vae_mnist.json"
RUNS = _settings.RUNS / "vae_mnist"
SHAPE = (28, 28, 1)
LATENTS = 64
BETAS = _settings.full_or((0.03, 0.06, 0.12, 0.25, 0.5, 1.0), (0.06, 1.0))
BATCH = 128
SEEDS = _settings.full_or(4, 1)
PARTS = ("curves", "steps", "choice", "evidence")
STEPS_BETA = 0.06
TARGET_BYTES = _settings.full_or((4, 6, 8, 11, 14, 18, 22), (4, 6))


class SetUp(NamedTuple):
    """Of a model whose evidence bound is measured; each has the mirror image of its encoder as its decoder."""

    hidden: tuple[int, ...]
    normalised: bool
    learning_rate: float
    batch: int = BATCH


CANDIDATES = {
    "512-256": SetUp((512, 256), False, 1e-3),
    "512-256, batch 256": SetUp((512, 256), False, 3e-3, 256),
    "512-256, normalised": SetUp((512, 256), True, 1e-3),
    "512-256, normalised, fast": SetUp((512, 256), True, 3e-3),
    "200-200, normalised, fast": SetUp((200, 200), True, 3e-3),
}
CHOSEN = "512-256, normalised, fast"
CHOICE_EPOCHS = _settings.full_or(15, 1)
CHOICE_IMAGES = _settings.full_or(50_000, 1500)


def evidence_model(setup: SetUp) -> VAE:
    """Perceptrons of ReLU layers, with batch normalisation (Ioffe and Szegedy 2015) before each if so set up."""

    def stack(x: keras.KerasTensor, widths: Sequence[int]) -> keras.KerasTensor:
        for width in widths:
            x = keras.layers.Dense(width, use_bias=not setup.normalised, kernel_initializer="he_normal")(x)
            x = keras.layers.BatchNormalization()(x) if setup.normalised else x
            x = keras.layers.ReLU()(x)
        return x

    image = keras.Input(SHAPE, dtype="uint8")
    features = stack(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image)), setup.hidden)
    near_prior = keras.initializers.RandomNormal(stddev=0.01)
    log_variance = keras.layers.Dense(LATENTS, kernel_initializer=near_prior)(features)
    latent = keras.Input((LATENTS,))
    pixels = keras.layers.Dense(math.prod(SHAPE), activation="sigmoid")(stack(latent, setup.hidden[::-1]))
    return VAE(
        keras.Model(image, [keras.layers.Dense(LATENTS)(features), log_variance]),
        keras.Model(latent, keras.layers.Reshape(SHAPE)(pixels)),
    )


def binarize(images: Images, generator: np.random.Generator) -> Images:
    """Each pixel becomes 255 with the probability that its grey value stands for."""
    return np.where(generator.random(images.shape, np.float32) < images / np.float32(255), 255, 0).astype(np.uint8)


def binarized_anew(images: tf.Tensor) -> tf.Tensor:
    """`binarize` as a step of a data set: other pixels in each epoch."""
    threshold = tf.random.uniform(tf.shape(images), maxval=255, dtype=tf.int32)
    return tf.where(threshold < tf.cast(images, tf.int32), tf.constant(255, tf.uint8), tf.constant(0, tf.uint8))


def trained(
    name: str,
    build: Callable[[], AutoEncoder | VAE],
    images: Images,
    epochs: int,
    *,
    dynamic: bool = False,
    learning_rate: float = 1e-3,
    batch: int = BATCH,
) -> AutoEncoder | VAE:
    """The model kept under this name and number of epochs; trained first if there is none."""
    path = RUNS / f"{name}-{epochs}.keras"
    if path.exists():
        return load_model(path)
    keras.utils.set_random_seed(0)
    model = build()
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * -(-len(images) // batch), alpha=0.01)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=0).batch(batch)
    data = data.map(binarized_anew) if dynamic else data
    start = time.perf_counter()
    logs = model.fit(data.prefetch(8), epochs=epochs, verbose=2 if dynamic else 0).history
    seconds = time.perf_counter() - start
    print(f"trained {path.name} in {seconds:.0f} s: loss {logs['loss'][-1]:.2f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def log_likelihood(model: VAE, images: Images, samples: int, seed: int = 0) -> float:
    """Mean of ``log p(x)`` in nats, by importance sampling from the posterior (Burda et al. 2016, equation 8)."""

    @tf.function
    def log_weight(mean: tf.Tensor, log_variance: tf.Tensor, target: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
        latent = mean + tf.exp(log_variance / 2) * epsilon
        log_ratio = tf.reduce_sum(tf.square(epsilon) + log_variance - tf.square(latent), axis=1) / 2
        return log_ratio - model.distortion_function(target, model.decoder(latent, training=False))

    generator = tf.random.Generator.from_seed(seed)
    total = 0.0
    for i in range(0, len(images), 500):
        batch = images[i : i + 500]
        mean, log_variance = model.posterior(batch)
        target = batch.astype(np.float32) / 255
        weights = [log_weight(mean, log_variance, target, generator.normal(mean.shape)) for _ in range(samples)]
        total += float(tf.reduce_sum(tf.reduce_logsumexp(tf.stack(weights), axis=0) - math.log(samples)))
    return total / len(images)


def choice(name: str, train: Images) -> dict[str, Any]:
    """One candidate, trained for a short time on a part of the training images, measured on the rest."""
    setup = CANDIDATES[name]
    model = trained(
        f"choice-{name}",
        lambda: evidence_model(setup),
        train[:CHOICE_IMAGES],
        CHOICE_EPOCHS,
        dynamic=True,
        learning_rate=setup.learning_rate,
        batch=setup.batch,
    )
    held_out = binarize(train[CHOICE_IMAGES:], np.random.default_rng(1))
    row = {"name": name, **setup._asdict(), "negative_elbo_nats": float(model.negative_elbo(held_out).mean())}
    print(row, flush=True)
    return row


def evidence(train: Images, test: Images, epochs: int, samples: int) -> dict[str, Any]:
    setup = CANDIDATES[CHOSEN]
    model = trained(
        "evidence",
        lambda: evidence_model(setup),
        train,
        epochs,
        dynamic=True,
        learning_rate=setup.learning_rate,
        batch=setup.batch,
    )
    test = binarize(test, np.random.default_rng(1))
    kl = model.kl_per_dimension(test)
    row = {
        "set_up": CHOSEN,
        **setup._asdict(),
        "epochs": epochs,
        "negative_elbo_nats": float(model.negative_elbo(test, samples=8).mean()),
        "train_negative_elbo_nats": float(
            model.negative_elbo(binarize(train[: len(test)], np.random.default_rng(2)), samples=8).mean()
        ),
        "negative_log_likelihood_nats": -log_likelihood(model, test, samples),
        "importance_samples": samples,
        "kl_nats": float(kl.sum()),
        "active_dimensions": int(model.active_dimensions(test).sum()),
        "kl_per_dimension_nats": [round(float(v), 4) for v in kl],
    }
    print({name: v for name, v in row.items() if name != "kl_per_dimension_nats"}, flush=True)
    return row


def psnr_db(a: Images, b: Images) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(a.astype(np.float64) - b))))


def divergence_bits(model: AutoEncoder | VAE, images: Images) -> float:
    """Mean rate of the posterior's samples: in closed form for a VAE, over 16 draws of the noise for an autoencoder."""
    if isinstance(model, VAE):
        return float(model.kl_per_dimension(images).sum()) / LN2
    targets = images.astype(np.float32) / 255
    return float(np.mean([np.mean(model.objective(images, targets, training=True).rate) for _ in range(16)])) / LN2


def model_of_curve(kind: str, beta: float, train: Images, epochs: int) -> AutoEncoder | VAE:
    options: dict[str, Any] = {"beta": beta, "hidden": (512, 256)}
    if kind == "vae":
        options |= {"distortion": "squared_error", "scale": "shared"}
    family = VAE if kind == "vae" else AutoEncoder
    return trained(f"{kind}-{beta}", lambda: family.dense(SHAPE, LATENTS, **options), train, epochs)


def steps(train: Images, test: Images, epochs: int) -> list[dict[str, float]]:
    """One VAE, its mean coded in coarser and coarser steps."""
    model = model_of_curve("vae", STEPS_BETA, train, epochs)
    rows = []
    for target in TARGET_BYTES:
        codec = Codec.freeze(model, train, target_bytes=target)
        payloads = codec.compress(test)
        size = sum(map(len, payloads)) / len(test)
        rows.append({"beta": STEPS_BETA, "mean_bytes": size, "mean_psnr_db": psnr_db(test, codec.decompress(payloads))})
    return rows


def curve(kind: str, beta: float, train: Images, test: Images, epochs: int) -> dict[str, Any]:
    model = model_of_curve(kind, beta, train, epochs)
    codec = Codec.freeze(model, train)
    payloads = codec.compress(test)
    row: dict[str, Any] = {
        "model": kind,
        "beta": beta,
        "mean_bytes": sum(map(len, payloads)) / len(test),
        "mean_psnr_db": psnr_db(test, codec.decompress(payloads)),
        "kl_bits": divergence_bits(model, test),
    }
    bits, ideal, psnr = [], [], []
    for seed in range(SEEDS):
        codec = Codec.freeze(model, train, latents="sample", seed=seed)
        payloads, report = codec.compress_with_report(test)
        bits.append(8 * report.payload_bytes / len(test))
        ideal.append(report.ideal_bits / len(test))
        psnr.append(psnr_db(test, codec.decompress(payloads)))
    row |= {
        "sample_bits": float(np.mean(bits)),
        "sample_ideal_bits": float(np.mean(ideal)),
        "sample_minus_kl_bits": float(np.mean(bits)) - row["kl_bits"],
        "sample_psnr_db": float(np.mean(psnr)),
        "active_dimensions": int(np.sum(model.latents(test).var(axis=0) > 0.01)),
    }
    print({name: round(v, 2) if isinstance(v, float) else v for name, v in row.items()}, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("TFDS_DATA_DIR"), help="of tensorflow-datasets")
    epochs, elbo_epochs, samples = _settings.full_or((12, 150, 100), (2, 1, 2))
    parser.add_argument("--epochs", type=int, default=epochs, help="of each model of the curves")
    parser.add_argument(
        "--elbo-epochs", type=int, default=elbo_epochs, help="of the model whose evidence bound is measured"
    )
    parser.add_argument("--samples", type=int, default=samples, help="for the log-likelihood of each test image")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="which to measure anew")
    args = parser.parse_args()
    train, test = _settings.mnist(args.data_dir)

    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    setting: dict[str, Any] = results.setdefault("setting", {})
    setting |= {
        "images": {"train": len(train), "test": len(test)},
        "networks": f"dense 784-512-256-{LATENTS} and its mirror image, ReLU",
        "optimizer": f"Adam, falling to a hundredth by cosine; curves: from 1e-3, batch {BATCH}",
        "sample_seeds": SEEDS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("tensorflow", "keras", "numpy", "tfcomp")},
    }
    results["published"] = {
        "negative_log_likelihood_nats": 86.76,
        "source": "Burda, Grosse and Salakhutdinov 2016, table 1: VAE, one stochastic layer of 50, two hidden layers "
        "of 200, dynamic binarization, 5000 importance samples",
    }

    def save() -> None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")

    if "curves" in args.parts:
        results["curves"] = []
        setting["curve_epochs"] = args.epochs
        for beta in BETAS:
            for kind in ("autoencoder", "vae"):
                results["curves"].append(curve(kind, beta, train, test, args.epochs))
                save()
    if "steps" in args.parts:
        results["steps"] = steps(train, test, args.epochs)
        save()
    if {"curves", "steps"} & set(args.parts):
        draw(results["curves"], results.get("steps", []))
    if "choice" in args.parts:
        results["choice"] = {"epochs": CHOICE_EPOCHS, "train": CHOICE_IMAGES, "held_out": len(train) - CHOICE_IMAGES}
        results["choice"]["candidates"] = [choice(name, train) for name in CANDIDATES]
        save()
    if "evidence" in args.parts:
        results["evidence"] = evidence(train, test, args.elbo_epochs, args.samples)
        save()


def draw(rows: list[dict[str, Any]], one_vae: list[dict[str, float]]) -> None:
    """The curves of mean and sample, of both models, beside the results."""
    lines = {}
    for kind, name in (("autoencoder", "autoencoder"), ("vae", "VAE")):
        mine = [row for row in rows if row["model"] == kind]
        lines[f"{name}, rounded"] = [(row["mean_bytes"], row["mean_psnr_db"]) for row in mine]
        lines[f"{name}, sample"] = [(row["sample_bits"] / 8, row["sample_psnr_db"]) for row in mine]
    if one_vae:
        name = f"VAE of beta {STEPS_BETA}, other steps"
        lines[name] = [(row["mean_bytes"], row["mean_psnr_db"]) for row in one_vae]
    plots.rate_distortion(lines).savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
