"""One variable-rate artifact beside separately trained models, on MNIST.

    python benchmarks/variable_rate.py [--retrain]

The networks that `mnist_rate_distortion` trained at the highest of four rates are trained on as a
`VariableRateAutoEncoder` at all four, on the 60,000 images, then frozen and exported once. Its points are measured on
the 10,000 test images through the loaded artifact, one quality after another, and compared with the curve of the
separate models of that benchmark, one set of tables each, whose networks it must have left in ``runs/``. Nothing is
chosen on the test images. Writes ``benchmarks/results/variable_rate.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import mnist_rate_distortion as separate
import numpy as np

from tfcomp import Codec, datasets, evaluate, load_model, plots
from tfcomp.models import VariableRateAutoEncoder

RESULTS = Path(__file__).resolve().parent / "results" / "variable_rate.json"
RUN = separate.ROOT / "runs" / "variable_rate.keras"
LAMBDAS = (1_500, 6_000, 24_000, 96_000)
STARTS_FROM = 80_000
"""Lambda of the separate model whose networks it has at first."""
EPOCHS = 20
"""After the 15 of the networks that it starts from; of these, each price has a quarter of the examples."""


def trained(images: np.ndarray, retrain: bool) -> VariableRateAutoEncoder:
    """The model, from ``runs/`` if it is there."""
    if RUN.exists() and not retrain:
        model = load_model(RUN)
        assert isinstance(model, VariableRateAutoEncoder)
        return model
    keras.utils.set_random_seed(separate.SEED)
    one, _ = separate.trained(STARTS_FROM, images, retrain=False)
    model = VariableRateAutoEncoder(one.encoder, one.decoder, betas=[separate.beta(value) for value in LAMBDAS])
    separate.compile_model(model, EPOCHS * -(-len(images) // separate.BATCH))
    start = time.perf_counter()
    model.fit(images, batch_size=separate.BATCH, epochs=EPOCHS, verbose=2)
    print(f"{time.perf_counter() - start:.0f} seconds of training")
    RUN.parent.mkdir(parents=True, exist_ok=True)
    model.save(RUN)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", action="store_true")
    args = parser.parse_args()
    if missing := [value for value in separate.LATENTS if not (separate.RUNS / f"{value}.keras").exists()]:
        raise SystemExit(f"expected the networks of lambda {missing}: run benchmarks/mnist_rate_distortion.py first")
    train, test = datasets.load_arrays("mnist")
    model = trained(train, args.retrain)
    with tempfile.TemporaryDirectory() as folder:
        Codec.freeze(model, train).export(artifact := Path(folder) / "artifact")
        codec = Codec.load(artifact, runtime="tensorflow")
        curve = [
            evaluate.measure(codec.at(quality), test, f"quality {quality}") for quality in range(1, codec.qualities + 1)
        ]
    others = []
    for value in separate.LATENTS:
        point = Codec.freeze(separate.trained(value, train, retrain=False)[0], train)
        others.append(evaluate.measure(point, test, f"separate, lambda {value}"))
    result = {
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy"], seed=separate.SEED),
        "bd_rate_percent_of_one_artifact_against_separate_models": evaluate.bd_rate(others, curve),
        "bytes_of_highest_over_lowest_quality": curve[-1].bytes_per_image / curve[0].bytes_per_image,
        "epochs": EPOCHS,
        "epochs_of_each_separate_model_and_of_the_first_networks": separate.EPOCHS,
        "one_artifact": [point.as_dict() for point in curve],
        "separate_models": [point.as_dict() for point in others],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    figure = plots.rate_distortion(
        {
            name: [(p.bytes_per_image, p.psnr_db) for p in points]
            for name, points in {"one artifact, four qualities": curve, "separate models": others}.items()
        },
        logarithmic=True,
    )
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)
    print(json.dumps({key: value for key, value in result.items() if isinstance(value, float)}, indent=2))


if __name__ == "__main__":
    main()
