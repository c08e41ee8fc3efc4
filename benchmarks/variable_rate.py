"""One artifact of several qualities beside separately trained models, on MNIST.

    python benchmarks/variable_rate.py [--retrain]

The networks that `mnist_rate_distortion` trained at lambda 80,000 are trained on as an `AutoEncoder` of four prices, on
the 60,000 images, then frozen and exported once. Its points are measured on the 10,000 test images,
decompressed by the loaded artifact, one quality after another, and compared with the curve of the separate models of
that benchmark, one set of tables each, whose networks it must have left in ``runs/``: with that benchmark's effort, and
without. Nothing is chosen on the test images. Writes ``benchmarks/results/variable_rate.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import mnist_rate_distortion as separate
import numpy as np

from tfcomp import AutoEncoder, Codec, load_model
from tfcomp.measure import evaluate, plots

RESULTS = _settings.RESULTS / "variable_rate.json"
RUN = _settings.RUNS / "variable_rate.keras"
LAMBDAS = (1_500, 6_000, 24_000, 96_000)
STARTS_FROM = 80_000
"""Lambda of the separate model whose networks it has at first."""
EPOCHS = _settings.full_or(30, 10)
"""After the 15 of the networks that it starts from; of these, each price has a quarter of the examples."""


def trained(images: np.ndarray, retrain: bool) -> AutoEncoder:
    """The model, from ``runs/`` if it is there."""
    if RUN.exists() and not retrain:
        model = load_model(RUN)
        assert isinstance(model, AutoEncoder)
        return model
    keras.utils.set_random_seed(separate.SEED)
    one, _ = separate.trained(STARTS_FROM, images, retrain=False)
    model = AutoEncoder(one.encoder, one.decoder, beta=[separate.beta(value) for value in LAMBDAS])
    separate.compile_model(model, EPOCHS * -(-len(images) // separate.BATCH))
    start = time.perf_counter()
    model.fit(images, batch_size=separate.BATCH, epochs=EPOCHS, verbose=2)
    print(f"{time.perf_counter() - start:.0f} seconds of training")
    RUN.parent.mkdir(parents=True, exist_ok=True)
    model.save(RUN)
    return model


def point(encoder: Codec, decoder: Codec, images: np.ndarray, effort: int, name: str) -> evaluate.Point:
    """What one codec compresses and another, of the same fingerprint, restores."""
    assert encoder.fingerprint == decoder.fingerprint
    payloads = encoder.compress(images, effort=effort)
    psnr = evaluate.psnr_db(images, decoder.decompress(payloads))
    return evaluate.Point(name, sum(map(len, payloads)) / len(payloads), psnr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", action="store_true")
    args = parser.parse_args()
    if missing := [
        value
        for value, (network, _) in separate.NETWORKS.items()
        if not (separate.RUNS / f"{network}-{value}.keras").exists()
    ]:
        raise SystemExit(f"expected the networks of lambda {missing}: run benchmarks/mnist_rate_distortion.py first")
    train, test = _settings.mnist()
    model = trained(train, args.retrain)
    codec = Codec.freeze(model, train)
    codecs = [Codec.freeze(separate.trained(value, train, retrain=False)[0], train) for value in separate.NETWORKS]
    curves, others = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        codec.export(artifact := Path(folder) / "artifact")
        loaded = Codec.load(artifact, runtime="tensorflow")
        for effort in (0, separate.EFFORT):
            curves[effort] = [
                point(codec.at(quality), loaded.at(quality), test, effort, f"quality {quality}")
                for quality in range(1, codec.qualities + 1)
            ]
            others[effort] = [
                point(c, c, test, effort, f"separate, lambda {value}")
                for value, c in zip(separate.NETWORKS, codecs, strict=True)
            ]
    result = {
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy"], seed=separate.SEED),
        "epochs": EPOCHS,
        "epochs_of_each_separate_model_and_of_the_first_networks": separate.EPOCHS,
    }
    for effort, name in ((0, "no_effort"), (separate.EFFORT, f"effort_{separate.EFFORT}")):
        curve = curves[effort]
        result[name] = {
            "bd_rate_percent_of_one_artifact_against_separate_models": _settings.bd_rate(others[effort], curve),
            "bytes_of_highest_over_lowest_quality": curve[-1].bytes_per_image / curve[0].bytes_per_image,
            "one_artifact": [p.as_dict() for p in curve],
            "separate_models": [p.as_dict() for p in others[effort]],
        }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    shown = {"one artifact, four qualities": curves[separate.EFFORT], "separate models": others[separate.EFFORT]}
    shown |= {"one artifact, no effort": curves[0], "separate models, no effort": others[0]}
    figure = plots.rate_distortion(
        {name: [(p.bytes_per_image, p.psnr_db) for p in points] for name, points in shown.items()}, logarithmic=True
    )
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)
    print(json.dumps({key: value for key, value in result.items() if "effort" in key}, indent=2))


if __name__ == "__main__":
    main()
