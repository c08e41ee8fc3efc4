"""Rate and distortion on MNIST: tfcomp, TensorFlow Compression's tutorial codec, and the classical image formats.

    python benchmarks/mnist_rate_distortion.py [--peer-python PYTHON --peer-script SCRIPT] [--retrain]

All learned codecs are trained on the 60,000 images in 15 epochs of batches of 128, one network per point, for
``bits + lambda * mean squared error``, and tested on the 10,000; nothing is chosen on the test images. tfcomp's points
are `AutoEncoder.conv` and, at the highest price of error, `AutoEncoder.spatial`, at their default widths, Adam with a
warm-up and a cosine to zero, `Codec.freeze` with sets of tables, and `compress` with effort; two more curves are
without effort, and without sets as well. Beside the curves are dense networks of a fifth of the multiply-accumulates,
which are trained for 60 epochs, on 55,000 images.

Bytes are those of real payloads, which are decoded again; the classical formats write one file per image, at the
settings of `classical`, on every tenth test image. Trained networks, and what the peer's script printed, are
kept in ``runs/mnist_rate_distortion`` and used again. Where the peer is not given and no run of it is kept, its points
and what is compared with them are left out. Results: ``benchmarks/results/mnist_rate_distortion.*``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np

from tfcomp import AutoEncoder, Codec, load_model, networks
from tfcomp.measure import classical, evaluate, plots
from tfcomp.measure.evaluate import Point

RESULTS = _settings.RESULTS / "mnist_rate_distortion.json"
RUNS = _settings.RUNS / "mnist_rate_distortion"
SHAPE = (28, 28, 1)
EPOCHS, BATCH, SEED = _settings.full_or(15, 3), 128, 0
NETWORKS = {3_000: ("conv", 64), 15_000: ("conv", 64), 80_000: ("conv", 128), 400_000: ("spatial", 16)}
"""Lambda -> networks and latent dimensions of tfcomp's points. `AutoEncoder.spatial`, whose latent has places, trains
to a lower loss at 400,000, and to a higher one at 80,000."""
PEER = {3_000: 64, 15_000: 96, 80_000: 160, 400_000: 192}
"""The peer's four points."""
QUICK_LAMBDA, QUICK_EPOCHS, QUICK_SETS = 15_000, _settings.full_or(60, 6), _settings.full_or(16, 2)
HELD_OUT = _settings.full_or(5_000, 100)
"""Of dense networks for throughput, see `runtime_latency`; trained without as many images, which chose their widths."""
SETS, EFFORT = _settings.full_or(64, 2), _settings.full_or(16, 2)
"""Sets of tables, but for `AutoEncoder.spatial`, which has a table for each of 784 positions: one set."""
CURVES = {
    "tfcomp": (SETS, EFFORT),
    "tfcomp, no effort": (SETS, 0),
    "tfcomp, no effort, one set of tables": (1, 0),
}
"""Name -> sets of tables, effort. The first is what is compared with the classical formats."""
FORMATS = ("webp", "avif", "jxl", "jpeg", "jpeg2000")
TARGETS = _settings.full_or({22: 8.0, 26: 4.0, 30: 2.0}, {22: 8.0})
"""PSNR in dB -> how many times tfcomp's bytes the best classical format should need."""


def beta(rate_distortion_lambda: int) -> float:
    """The price of a nat that makes the objective ``bits + lambda * mean squared error``."""
    return math.prod(SHAPE) / (rate_distortion_lambda * math.log(2))


def compile_model(model: keras.Model, steps: int, warm_up: int = _settings.full_or(300, 10)) -> None:
    """Adam, with a warm-up and a cosine to zero after so many steps."""
    rate = keras.optimizers.schedules.CosineDecay(2e-5, steps - warm_up, 0, warmup_target=2e-3, warmup_steps=warm_up)
    model.compile(optimizer=keras.optimizers.Adam(rate))


def quick_model() -> AutoEncoder:
    """784-512-256-64 and 64-256-1024-784: a decoder that decides the rate, an encoder that is quick."""
    encoder, decoder = networks.dense_encoder(SHAPE, 64), networks.dense_decoder(SHAPE, 64, hidden=(1024, 256))
    return AutoEncoder(encoder, decoder, beta=beta(QUICK_LAMBDA))


def trained(rate_distortion_lambda: int, images: np.ndarray, retrain: bool) -> tuple[AutoEncoder, dict[str, Any]]:
    """The network of one point, and what its training was."""
    network, latents = NETWORKS[rate_distortion_lambda]
    build = partial(getattr(AutoEncoder, network), SHAPE, latents, beta=beta(rate_distortion_lambda))
    return _trained(f"{network}-{rate_distortion_lambda}", build, images, EPOCHS, retrain)


def _trained(
    name: str, build: Callable[[], AutoEncoder], images: np.ndarray, epochs: int, retrain: bool
) -> tuple[AutoEncoder, dict[str, Any]]:
    path, log = RUNS / f"{name}.keras", RUNS / f"{name}.json"
    if path.exists() and log.exists() and not retrain:
        return load_model(path), json.loads(log.read_text())
    keras.utils.set_random_seed(SEED)
    model = build()
    steps = epochs * -(-len(images) // BATCH)
    compile_model(model, steps)
    start = time.perf_counter()
    model.fit(images, batch_size=BATCH, epochs=epochs, verbose=2)
    facts = {"epochs": epochs, "steps": steps, "seconds": round(time.perf_counter() - start)}
    RUNS.mkdir(parents=True, exist_ok=True)
    model.save(path)
    log.write_text(json.dumps(facts))
    return model, facts


def peer(
    args: argparse.Namespace, rate_distortion_lambda: int, train: np.ndarray, test: np.ndarray
) -> dict[str, Any] | None:
    """What the peer's script prints for one point, or printed once; None where it can neither be run nor was."""
    log = RUNS / f"peer-{rate_distortion_lambda}.json"
    if args.peer_python and (args.retrain or not log.exists()):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "mnist.npz"
            np.savez(data, x_train=train[..., 0], x_test=test[..., 0])
            command = [args.peer_python, args.peer_script, data, "--epochs", str(EPOCHS)]
            command += ["--rate-distortion-lambda", str(rate_distortion_lambda)]
            command += ["--latent-dim", str(PEER[rate_distortion_lambda])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        log.write_text(done.stdout.splitlines()[-1] + "\n")
    return dict(json.loads(log.read_text())) if log.exists() else None


def multiply_accumulates(network: keras.Model) -> int:
    """Of one image through dense and convolutional layers."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            total += layer.kernel.shape[0] * layer.kernel.shape[1]
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            side = layer.input if isinstance(layer, keras.layers.Conv2DTranspose) else layer.output
            total += math.prod(layer.kernel.shape) * math.prod(side.shape[1:3])
    return int(total)


def peer_decoder_multiply_accumulates(latents: int) -> int:
    """Dense 500 and 2,450, transposed convolutions 50 -> 20 -> 1 of 5x5 at 7x7 and 14x14."""
    return latents * 500 + 500 * 2450 + 49 * 25 * 50 * 20 + 196 * 25 * 20


def ours(images: np.ndarray, test: np.ndarray, retrain: bool) -> tuple[dict[str, list[Point]], list[dict[str, Any]]]:
    """The curves of tfcomp, and the particulars of each point."""
    curves: dict[str, list[Point]] = {name: [] for name in CURVES}
    rows = []
    for value, (network, _) in NETWORKS.items():
        model, facts = trained(value, images, retrain)
        row = {"lambda": value, "network": network, "latents": math.prod(model.latent_shape), **facts}
        row["decoder_macs"] = multiply_accumulates(model.decoder)
        row["encoder_macs"] = multiply_accumulates(model.encoder)
        codecs = {1: Codec.freeze(model, images)}
        codecs[SETS] = Codec.freeze(model, images, sets=SETS) if network == "conv" else codecs[1]
        for name, (sets, effort) in CURVES.items():
            codec = codecs[sets]
            start = time.perf_counter()
            latents = codec.encode(test, effort=effort)
            seconds = time.perf_counter() - start
            payloads = codec.entropy_model.encode(latents)
            assert np.array_equal(codec.decode(payloads), latents), "payloads decode to what was coded"
            point = Point(
                f"{name}, lambda {value}",
                sum(map(len, payloads)) / len(payloads),
                evaluate.psnr_db(test, codec.decompress(payloads)),
                archive_bytes_per_image=evaluate.archive_bytes(codec, payloads) / len(payloads),
            )
            curves[name].append(point)
            ideal = float(codec.entropy_model.ideal_bits(latents).mean()) / 8
            of_encoder = {"encoder_microseconds_per_image": 1e6 * seconds / len(test)}
            row[name] = {**point.as_dict(), "ideal_bytes_per_image": ideal, **of_encoder}
        print(row, flush=True)
        rows.append(row)
    return curves, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with tensorflow-compression 2.14")
    parser.add_argument("--peer-script")
    parser.add_argument("--retrain", action="store_true")
    args = parser.parse_args()
    if bool(args.peer_python) != bool(args.peer_script):
        parser.error("expected --peer-python and --peer-script together, found one of them")
    train, test = _settings.mnist()
    curves, rows = ours(train, test, args.retrain)
    # A curve of some of the peer's points would be another curve: all or none.
    found = [peer(args, value, train, test) for value in PEER]
    peers = [row for row in found if row is not None] if None not in found else []
    tfc = [Point(f"lambda {row['lambda']:g}", row["bytes_per_image"], row["psnr_db"]) for row in peers]
    some = test[::10]
    formats = {classical.FORMATS[name].title: classical.curve(some, name) for name in FORMATS}

    ratios = {}
    for target, wanted in TARGETS.items():
        needed = {}
        for name, curve in formats.items():
            if max(point.psnr_db for point in curve) >= target:
                needed[name] = evaluate.bytes_at(curve, target)
        best = min(needed, key=needed.__getitem__)
        reached = max(point.psnr_db for point in curves["tfcomp"]) >= target
        mine = evaluate.bytes_at(curves["tfcomp"], target) if reached else None
        ratios[f"{target} dB"] = {
            "tfcomp_bytes": mine, "best_classical": best, "classical_bytes": needed[best],
            "times": mine and needed[best] / mine, "wanted_times": wanted,
        }  # fmt: skip
    fast, facts = _trained("quick-15000", quick_model, train[HELD_OUT:], QUICK_EPOCHS, args.retrain)
    codec = Codec.freeze(fast, train[HELD_OUT:], sets=QUICK_SETS)
    quick = {
        effort: evaluate.measure(codec, test, f"tfcomp, dense, effort {effort}", effort=effort)
        for effort in (0, EFFORT)
    }
    result: dict[str, Any] = {
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy", "pillow", "pillow-jxl-plugin"], seed=SEED),
        "classical_at_equal_psnr": ratios,
        "dense": {
            **facts,
            "encoder_macs": multiply_accumulates(fast.encoder),
            "decoder_macs": multiply_accumulates(fast.decoder),
            **{f"effort {effort}": point.as_dict() for effort, point in quick.items()},
        },
        "tfcomp": rows,
        "classical": {name: [point.as_dict() for point in curve] for name, curve in formats.items()},
        "classical_images": len(some),
    }
    if peers:
        result["bd_rate_percent_against_tensorflow_compression"] = {
            name: _settings.bd_rate(tfc, curve) for name, curve in curves.items()
        }
        for effort, point in quick.items():
            of_peer = evaluate.bytes_at(tfc, point.psnr_db)
            result["dense"][f"effort {effort}"]["tensorflow_compression_bytes_at_equal_psnr"] = of_peer
        result["tensorflow_compression"] = [
            {**row, "decoder_macs": peer_decoder_multiply_accumulates(row["latent_dim"])} for row in peers
        ]
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    shown = {**curves, "tfcomp, dense": [*quick.values()], "TensorFlow Compression": tfc, **formats}
    figure = plots.rate_distortion(
        {
            name: [(p.bytes_per_image, p.psnr_db) for p in evaluate.frontier(curve) if p.psnr_db <= 36]
            for name, curve in shown.items()
            if curve
        },
        logarithmic=True,
    )
    figure.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110, bbox_inches="tight")
    told = ("classical_at_equal_psnr", "dense", "bd_rate_percent_against_tensorflow_compression")
    print(json.dumps({key: result[key] for key in told if key in result}, indent=2))


if __name__ == "__main__":
    main()
