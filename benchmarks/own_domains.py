"""How best to train the bundled model on images of another kind, and what that gains over the bundled codec.

    python benchmarks/own_domains.py [--ways] [--recipe] [--steps 400] [--images 25 100]

For both folders of ``TFCOMP_SHARED/data/domains`` by default. ``--ways`` compares, on crops of ``val``, the losses
after ``--steps`` steps on so many images of ``train``: of the prior and the steps alone, the networks as they were; of
all weights, at two learning rates and with the qualities weighed in two ways, by the model's own weights and by those
of the command. The numbers are changes of the loss (distortion + beta * rate) in percent, at each quality, the worst of
them, and their mean. ``--folders`` names other folders in ``TFCOMP_SHARED/data``, such as ``photographs``.

``--recipe`` runs ``tfcomp train FOLDER --network lapped --start photographs --steps N`` as a user would, exports, and
measures payloads of every other image of ``test``: the Bjontegaard differences to the bundled codec and to AVIF tuned
for PSNR, means of the images' own; and the bytes of each quality beside the bundled codec's at the same PSNR.

Writes ``benchmarks/results/own_domains.json``; what was not measured this time stays as it was there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np

from tfcomp import Codec, datasets, load_model
from tfcomp.cli.crop_training import clip_norm, weigh
from tfcomp.cli.main import main as tfcomp_command
from tfcomp.cli.training_plan import Plan
from tfcomp.cli.watching import Measured, Watch
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.measure import classical, evaluate
from tfcomp.measure.evaluate import Point
from tfcomp.storage import image_files

RESULTS = _settings.RESULTS / "own_domains.json"
DOMAINS = ("domains/blood_cells", "domains/receipts")
WAYS: dict[str, tuple[bool, float, bool]] = {
    "prior and steps alone, 6e-4": (False, 6e-4, False),
    "all weights, 1e-4": (True, 1e-4, False),
    "all weights, 3e-4": (True, 3e-4, False),
    "all weights, 3e-4, higher qualities weigh more": (True, 3e-4, True),
}
"""Whether the networks learn; the largest learning rate; whether qualities are weighed as by the command."""
SIDE, BATCH, WATCHED = 192, 8, _settings.full_or(32, 2)


def change(before: Measured, after: Measured) -> dict[str, Any]:
    percent = 100 * (after.loss / before.loss - 1)
    return {"qualities": np.round(percent, 2).tolist(), "worst": round(float(percent.max()), 2),
            "mean": round(float(percent.mean()), 2)}  # fmt: skip


def ways(folder: Path, counts: list[int], steps: int) -> dict[str, Any]:
    """The change of the losses on ``val``, by the number of images and the way to train."""
    crops = datasets.crops(folder / "val", SIDE, scales=(1.0,), seed=1).take(WATCHED)
    held_out = np.stack(list(crops.as_numpy_iterator()))
    every = image_files.image_files(folder / "train")
    found: dict[str, Any] = {}
    for count in counts:
        some = [every[i] for i in np.linspace(0, len(every) - 1, min(count, len(every))).astype(int)]
        for name, (networks, rate, weighed) in WAYS.items():
            keras.utils.set_random_seed(0)
            model = load_model("photographs")
            model.encoder.trainable = model.decoder.trainable = networks
            watch = Watch(model, held_out)
            before = watch.measure()
            if weighed:
                weigh(model, before.loss)
            model.compile(optimizer=keras.optimizers.Adam(0.0, global_clipnorm=clip_norm(model.betas, SIDE)),
                          jit_compile=False)  # fmt: skip
            plan = Plan(rate, steps, None)
            stream = datasets.crops(some, SIDE).batch(BATCH).prefetch(1)
            model.fit(stream, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[plan])
            result = change(before, watch.measure())
            found[f"{len(some)} images, {name}"] = result
            print(f"{folder.name}, {len(some)} images, {name}: {result}", flush=True)
    return found


def curve(codec: Codec, images: list[Images]) -> list[list[Point]]:
    """For each image a point for each quality."""
    points = []
    for image in images:
        payloads = [codec.compress([image], quality + 1)[0] for quality in range(codec.qualities)]
        restored = codec.decompress(payloads)
        points.append([
            Point("", len(a), evaluate.psnr_db([image], [b])) for a, b in zip(payloads, restored, strict=True)
        ])  # fmt: skip
    return points


def mean_of_images(theirs: list[list[Point]], ours: list[list[Point]]) -> float | None:
    found = []
    for their, our in zip(theirs, ours, strict=True):
        try:
            found.append(evaluate.bd_rate(their, our))
        except InputError as error:
            print(f"no Bjontegaard difference: {error}")
    return round(float(np.mean(found)), 2) if found else None


def recipe(folder: Path, count: int, steps: int) -> dict[str, Any]:
    """The command on so many images, and what it gains on ``test``."""
    images = [image_files.read_image(file, whole=True) for file in image_files.image_files(folder / "test")]
    images = images[:: _settings.full_or(2, 30)]
    every = image_files.image_files(folder / "train")
    with tempfile.TemporaryDirectory() as temporary:
        some = Path(temporary) / "images"
        some.mkdir()
        for i in np.linspace(0, len(every) - 1, min(count, len(every))).astype(int):
            (some / every[i].name).symlink_to(every[i].resolve())
        run, artifact = Path(temporary) / "run", Path(temporary) / "artifact"
        start = time.perf_counter()
        for command in (
            ["train", some, "--network", "lapped", "--start", "photographs", "--steps", steps, "--out", run],
            ["export", run, artifact],
        ):
            if tfcomp_command([str(word) for word in command]):
                raise SystemExit(f"tfcomp {command[0]} did not end well")
        seconds = time.perf_counter() - start
        own = curve(Codec.load(artifact), images)
    bundled = curve(Codec.load(), images)
    avif = [
        [
            Point("", size[0], evaluate.psnr_db([image], restored))
            for size, restored in (classical.round_trip([image], "avif-psnr", q) for q in (20, 40, 60, 80))
        ]
        for image in images
    ]
    pixels = [image.size for image in images]
    reference = _settings.pooled(bundled, pixels)
    above = []
    for point in _settings.pooled(own, pixels):
        try:
            above.append(round(100 * (point.bytes_per_image / evaluate.bytes_at(reference, point.psnr_db) - 1), 2))
        except InputError:  # beyond the bundled codec's highest quality
            above.append(None)
    result = {
        "bundled": Codec.load().fingerprint, "images": min(count, len(every)), "steps": steps,
        "seconds": round(seconds),
        "bd_rate_percent_against_bundled": mean_of_images(bundled, own),
        "bytes_percent_of_each_quality_against_bundled": above,
        "bd_rate_percent_against_avif_for_psnr": mean_of_images(avif, own),
        "bundled_against_avif_for_psnr": mean_of_images(avif, bundled),
    }  # fmt: skip
    print(f"{folder.name}: {result}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--recipe", action="store_true")
    parser.add_argument("--steps", type=int, default=_settings.full_or(400, 2))
    parser.add_argument("--images", type=int, nargs="+", default=_settings.full_or([25, 100], [2]))
    parser.add_argument("--folders", nargs="+", default=DOMAINS)
    args = parser.parse_args()
    both = not (args.ways or args.recipe)
    folders = [_settings.SHARED / name for name in args.folders]
    if not all(folder.is_dir() for folder in folders):
        print(f"left out: no folders {', '.join(args.folders)} in {_settings.SHARED}")
        return
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= evaluate.provenance(["tfcomp", "tensorflow", "keras", "numpy", "ai-edge-litert", "pillow"], seed=0)
    for folder in folders:
        if args.ways or both:
            result.setdefault("ways", {})[folder.name] = ways(folder, args.images, args.steps)
        if args.recipe or both:
            for count in args.images:
                key = f"{folder.name}, {count} images, {args.steps} steps"
                result.setdefault("recipe", {})[key] = recipe(folder, count, args.steps)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
