"""How time and memory grow with the number of images and with their size.

    python benchmarks/scaling.py

One fully convolutional codec (16 and 32 filters of 5x5 with stride 2, 8 latent channels at a quarter of the size) is
trained for moments on 28x28 and exported for each size. Each measurement is a process of its own: it loads the artifact
with LiteRT, makes the images, and compresses them once, or decompresses what another left. Memory is the growth of the
peak resident set over that call, from what is resident when images (or payloads) are there. Growth is linear where the
exponent between two measurements, ``log(cost ratio) / log(size ratio)``, is 1; a fixed cost makes it smaller.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np

from tfcomp import Codec
from tfcomp.data import glyphs
from tfcomp.measure import evaluate
from tfcomp.storage.container import Archive, write

RESULTS = _settings.RESULTS / "scaling.json"
SEED = 0
COSTS = ("compress_seconds", "decompress_seconds", "compress_peak_mib", "decompress_peak_mib")


def images_of(count: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [count, side, side, 1]: glyphs, each a patchwork of as many as fill its side."""
    tiles = -(-side // 28)
    drawn = glyphs.render(min(count * tiles * tiles, 4096), seed=SEED)[..., 0]
    order = np.arange(count * tiles * tiles) % len(drawn)
    grid = drawn[order].reshape(count, tiles, tiles, 28, 28).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(grid.reshape(count, tiles * 28, tiles * 28)[:, :side, :side, None])


def model_of(side: int) -> Any:
    """The codec's model for images of this side; its weights fit every side."""
    import keras

    from tfcomp import AutoEncoder

    layers = keras.layers
    image = keras.Input((side, side, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype="float32")(image)
    for filters in (16, 32):
        x = layers.Conv2D(filters, 5, strides=2, padding="same", activation="leaky_relu")(x)
    encoder = keras.Model(image, layers.Conv2D(8, 3, padding="same")(x))
    latent = x = keras.Input((side // 4, side // 4, 8))
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 5, strides=2, padding="same", activation="leaky_relu")(x)
    decoder = keras.Model(latent, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x))
    return AutoEncoder(encoder, decoder, beta=0.03)


def export(folders: dict[int, Path]) -> None:
    """An artifact for each side, all with the weights of one training on 28x28."""
    import keras

    keras.utils.set_random_seed(SEED)
    trained = model_of(28)
    trained.compile(optimizer=keras.optimizers.Adam(3e-3))
    trained.fit(images_of(4096, 28), batch_size=32, epochs=_settings.full_or(3, 1), verbose=0)
    for side, folder in folders.items():
        model = model_of(side)
        model.set_weights(trained.get_weights())
        Codec.freeze(model, images_of(max(64, 512 * 28 // side), side)).export(folder)


def status_mib(field: str) -> float:
    """A field of this process's memory, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024


def measure_here(way: str, folder: str, count: int, side: int, path: Path) -> dict[str, Any]:
    """One direction, in this process: ``compress`` leaves the payloads at ``path``, ``decompress`` takes them."""
    codec = Codec.load(folder)
    codec.decompress(codec.compress(images_of(2, side)))  # what is made once
    if way == "compress":
        function, argument = codec.compress, images_of(count, side)
    else:
        with Archive.open(path) as archive:
            function, argument = codec.decompress, list(archive)
    ctypes.CDLL(None).malloc_trim(0)  # pages that are free but still resident would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from what is resident now
    resident = status_mib("VmRSS")
    begin = time.perf_counter()
    result = function(argument)
    seconds = time.perf_counter() - begin
    row = {f"{way}_seconds": round(seconds, 4), f"{way}_peak_mib": round(status_mib("VmHWM") - resident, 1)}
    if way == "compress":
        write(path, result, fingerprint=bytes.fromhex(codec.fingerprint), item_shape=codec.item.shape)
        return {**row, "bytes_per_image": round(sum(map(len, result)) / count, 2)}
    return {**row, "psnr_db": round(evaluate.psnr_db(images_of(count, side), result), 2)}


def exponents(rows: list[dict[str, Any]], size: str) -> dict[str, list[float]]:
    """For each cost, the exponent of its growth from one row to the next."""
    result = {}
    for cost in COSTS:
        floor = 0.1 if cost.endswith("mib") else 0.0  # less memory than this is noise
        result[cost] = [
            round(math.log(max(b[cost], floor) / max(a[cost], floor)) / math.log(b[size] / a[size]), 2)
            for a, b in pairwise(rows)
        ]
    return result


def draw(series: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Times and memory over both sizes, each with the line of proportional growth through its last point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    labels = {"images": "images of 28x28", "pixels": "pixels of an image"}
    for column, (size, rows) in enumerate(series.items()):
        for axis, unit, label in zip(axes[:, column], ("seconds", "peak_mib"), ("seconds", "MiB"), strict=True):
            x = [row[size] for row in rows]
            for colour, way in (("C0", "compress"), ("C1", "decompress")):
                y = [row[f"{way}_{unit}"] for row in rows]
                axis.plot(x, y, marker="o", markersize=4.5, color=colour, label=way)
                axis.plot(x, [y[-1] * value / x[-1] for value in x], ":", color=colour, linewidth=1)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.set_ylabel(label)
            axis.set_xlabel(labels[size])
    axes[0, 0].plot([], [], ":", color="grey", label="proportional")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts, sides = _settings.full_or(([1000, 4000, 16_000, 64_000], [28, 56, 112, 224]), ([100, 200], [28, 56]))
    parser.add_argument("--counts", type=int, nargs="+", default=counts, help="of images, 28x28")
    parser.add_argument("--sides", type=int, nargs="+", default=sides, help="multiples of 4")
    parser.add_argument("--images", type=int, default=_settings.full_or(200, 20), help="of each of the sides")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--artifacts", type=Path, help="a folder to keep the exported codecs in, for the next time")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        way, folder, count, side, path = args.one
        print(json.dumps(measure_here(way, folder, int(count), int(side), Path(path))))
        return

    with tempfile.TemporaryDirectory() as temporary:
        kept = args.artifacts or Path(temporary)
        folders = {side: kept / str(side) for side in (28, *args.sides)}
        export({side: folder for side, folder in folders.items() if not folder.is_dir()})

        def row(count: int, side: int) -> dict[str, Any]:
            found: dict[str, Any] = {"images": count, "side": side, "pixels": side * side}
            for way in ("compress", "decompress"):
                arguments = [way, str(folders[side]), str(count), str(side), str(Path(temporary) / "all.tfz")]
                command = [sys.executable, __file__, "--one", *arguments]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found |= json.loads(done.stdout.splitlines()[-1])
            print(found, flush=True)
            return found

        series = {
            "images": [row(count, 28) for count in args.counts],
            "pixels": [row(args.images, side) for side in args.sides],
        }
    report = {
        "benchmark": "scaling",
        **evaluate.provenance(["tfcomp", "tensorflow", "ai-edge-litert", "numpy"], seed=SEED),
        "by_images": series["images"],
        "by_side": series["pixels"],
        "growth_exponents_by_images": exponents(series["images"], "images"),
        "growth_exponents_by_pixels": exponents(series["pixels"], "pixels"),
    }
    for name in ("growth_exponents_by_images", "growth_exponents_by_pixels"):
        print(name, report[name])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    draw(series, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
