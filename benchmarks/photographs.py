"""A codec of images of any size beside JPEG, WebP, AVIF and JPEG XL, on images that nothing was trained or chosen on.

    python benchmarks/photographs.py [--codec ARTIFACT] [--effort E] [--images N] [--split test]

Four sets of ``TFCOMP_SHARED`` are measured, `SETS`; BSDS500's files were JPEGs, which flatters every transform of 8x8
pixels. Bytes are those of whole files, a file for each image, with its name and checksums. AVIF is written as Pillow
does by default, 4:2:0 and tuned for the eye, and at its best for PSNR, ``tune=psnr`` and 4:4:4, each at speeds 6 and 4.

For PSNR and for MS-SSIM (in decibels, ``-10 log10(1 - MS-SSIM)``) the Bjontegaard difference is given twice: the mean
of the images' own differences, and that of the mean curves, which large and difficult images decide. An image whose
curves share too little is left out, and counted. Times are of one process with all cores, encoder and decoder in turn
on the same photographs, the median of `TURNS`; compare them within a run alone.

What classical formats made of a file is kept in ``build/classical_curves.json``, under all that decides it. Writes
``benchmarks/results/photographs.json``, ``photographs.png``, ``photographs_ms_ssim.png``, and crops at equal bytes,
``photographs_crops.png``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np
from PIL import features
from tqdm import tqdm

from tfcomp import Codec
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.measure import classical, evaluate, plots
from tfcomp.measure.classical import FORMATS, Format
from tfcomp.measure.evaluate import Point
from tfcomp.storage import container, image_files

RESULTS = _settings.RESULTS / "photographs.json"
KEPT = _settings.ROOT / "build" / "classical_curves.json"
SETS = {
    "photographs": "photographs",
    "blood cells": "domains/blood_cells",
    "receipts": "domains/receipts",
    "BSDS500": "bsds500",
}
"""Folder of each set in ``TFCOMP_SHARED/data``."""


def _avif(name: str, title: str, speed: int) -> Format:
    how = FORMATS[name]
    # Quality 0 lies below every codec here, and 90 above.
    return replace(how, title=f"{title}, speed {speed}", always={**how.always, "speed": speed}, sweep=how.sweep[1:-1])


AGAINST = [
    FORMATS["jpeg"],
    FORMATS["webp"],
    _avif("avif", "AVIF", 6),
    _avif("avif", "AVIF", 4),
    _avif("avif-psnr", "AVIF for PSNR", 6),
    _avif("avif-psnr", "AVIF for PSNR", 4),
    replace(FORMATS["jxl"], title="JPEG XL", always={"effort": 7, "num_threads": 1}),
]
AGAINST = [replace(how, sweep=how.sweep[:: _settings.full_or(1, 4)]) for how in AGAINST]
DRAWN = ("tfcomp", "JPEG", "WebP", "AVIF, speed 6", "AVIF for PSNR, speed 4", "JPEG XL")
SHOWN = _settings.full_or(3, 1)
"""Number of photographs that are drawn, chosen for nothing but being far apart."""
CROP = 160
TIMED = _settings.full_or(4, 1)
"""Number of photographs that are timed."""
TURNS = _settings.full_or(3, 1)

Row = tuple[float, float, float]
"""A point of one image: bytes, PSNR, and MS-SSIM in decibels (not a number for images too small for it)."""
Curves = list[list[Row]]
"""For each image, a row for each quality."""


def row(size: int, image: Images, restored: Images) -> Row:
    similarity = evaluate.ms_ssim([image], [restored])
    decibels = math.nan if similarity is None else -10 * math.log10(max(1e-6, 1 - similarity))
    return size, evaluate.psnr_db([image], [restored]), decibels


# === One image ===


@cache
def loaded(artifact: str | None, threads: int | None = 1) -> Codec:
    """The codec, once in each process."""
    return Codec.load(artifact, threads=threads)


def own_file(codec: Codec, name: str, image: Images, quality: int | None, effort: int) -> tuple[int, list[bytes]]:
    """The size of a ``.tfz`` of one photograph, and its payload."""
    payloads = codec.compress([image], quality, effort=effort)
    with tempfile.TemporaryDirectory() as folder:
        size = container.write(
            Path(folder) / "a.tfz",
            payloads,
            fingerprint=bytes.fromhex(codec.fingerprint),
            item_shape=tuple(n or 0 for n in codec.item.shape),
            metadata={"names": [name]},
        )
    return size, payloads


def required(how: Format) -> Format:
    """The format, which this installation can write; see `classical.require`."""
    classical.require({"JXL": "jxl", "AVIF": "avif", "WEBP": "webp", "JPEG": "jpeg"}[how.kind])
    return how


def own_rows(file: Path, artifact: str | None, effort: int) -> list[Row]:
    codec, image = loaded(artifact), image_files.read_image(file, whole=True)
    rows = []
    for quality in range(1, codec.qualities + 1):
        size, payloads = own_file(codec, file.name, image, quality, effort)
        rows.append(row(size, image, codec.decompress(payloads)[0]))
    return rows


def classical_rows(file: Path, number: int) -> list[Row]:
    """Of a format by its number in `AGAINST`, as a worker is told it."""
    how = required(AGAINST[number])
    image = image_files.read_image(file, whole=True)
    files = [classical.encoded(image, how, quality) for quality in how.sweep]
    return [row(len(data), image, classical.decoded(data, image.shape[-1])) for data in files]


# === A set ===


def curves(pool: ProcessPoolExecutor, rows_of: Callable[[Path], list[Row]], files: list[Path], label: str) -> Curves:
    return list(tqdm(pool.map(rows_of, files), label, len(files), disable=None))


def kept_curves(pool: ProcessPoolExecutor, number: int, files: list[Path], label: str) -> Curves:
    """`curves` of a classical format, of which only those are computed that no earlier run has kept."""
    how = required(AGAINST[number])
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    versions = evaluate.provenance(["pillow", "pillow-jxl-plugin"])["versions"], features.version("avif")
    decided = repr((how.kind, how.always, how.colour, how.grey, how.sweep, versions))
    keys = [hashlib.sha256(file.read_bytes() + decided.encode()).hexdigest() for file in files]
    missing = [(key, file) for key, file in zip(keys, files, strict=True) if key not in kept]
    found = curves(pool, partial(classical_rows, number=number), [file for _, file in missing], label)
    kept |= {key: rows for (key, _), rows in zip(missing, found, strict=True)}
    if missing:
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps(kept))
    return [kept[key] for key in keys]


def points(rows: Sequence[Sequence[float]], column: int) -> list[Point]:
    return [Point("", row[0], row[column]) for row in rows]


def mean_curve(of_images: Curves, pixels: Sequence[int]) -> list[list[float]]:
    """For each quality: mean bytes, PSNR of the pooled error, mean MS-SSIM in decibels."""
    similarity = np.mean([[row[2] for row in rows] for rows in of_images], axis=0)
    both = _settings.pooled([points(rows, 1) for rows in of_images], pixels)
    return [[point.bytes_per_image, point.psnr_db, float(s)] for point, s in zip(both, similarity, strict=True)]


def difference(theirs: Curves, ours: Curves, pixels: Sequence[int], column: int) -> dict[str, Any]:
    """What ``ours`` needs beyond ``theirs``, in percent, by column 1, PSNR, or 2, MS-SSIM."""
    found, left_out = [], 0
    for their, our in zip(theirs, ours, strict=True):
        try:
            found.append(evaluate.bd_rate(points(their, column), points(our, column)))
        except InputError:
            left_out += 1
    both = [points(mean_curve(each, pixels), column) for each in (theirs, ours)]
    return {
        "mean_of_images": round(statistics.mean(found), 2) if found else None,
        "of_mean_curves": _round(_settings.bd_rate(both[0], both[1]) if left_out < len(ours) else None),
        "images_left_out": left_out,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def measured(pool: ProcessPoolExecutor, name: str, files: list[Path], artifact: str | None, effort: int) -> Any:
    """Curves and differences of one set."""
    shapes = [image_files.read_image(file, whole=True).shape for file in files]
    pixels = [height * width for height, width, _ in shapes]
    ours = {"tfcomp": curves(pool, partial(own_rows, artifact=artifact, effort=0), files, f"{name}: tfcomp")}
    if effort:
        searched = partial(own_rows, artifact=artifact, effort=effort)
        ours["tfcomp with effort"] = curves(pool, searched, files, f"{name}: tfcomp with effort")
    theirs = {how.title: kept_curves(pool, i, files, f"{name}: {how.title}") for i, how in enumerate(AGAINST)}
    found = {}
    for own, of_images in ours.items():
        psnr = {title: difference(each, of_images, pixels, 1) for title, each in theirs.items()}
        similar = {title: difference(each, of_images, pixels, 2) for title, each in theirs.items()}
        found[f"{own}, bd_rate_percent"] = {"psnr": psnr, "ms_ssim": similar}
        for title, values in psnr.items():
            print(f"{name}: {own} against {title}: PSNR {values}, MS-SSIM {similar[title]}", flush=True)
    means = {title: mean_curve(each, pixels) for title, each in {**ours, **theirs}.items()}
    return {"images": len(files), "pixels": sum(pixels), **found, "curves": means}


# === Times ===


def times(files: list[Path], artifact: str | None, effort: int) -> dict[str, Any]:
    """Milliseconds a megapixel to encode and to decode at a middle quality, and their ratios to AVIF's at speed 6."""
    codec = loaded(artifact, None)
    images = [image_files.read_image(file, whole=True) for file in files]
    ways: dict[str, tuple[Callable[[Images], Any], Callable[[Any], Any]]] = {
        "tfcomp": (lambda image: codec.compress([image]), codec.decompress)
    }
    if effort:
        ways["tfcomp with effort"] = (lambda image: codec.compress([image], effort=effort), codec.decompress)
    for how in AGAINST:
        many = replace(how, always={key: value for key, value in how.always.items() if "threads" not in key})
        quality = how.sweep[len(how.sweep) // 2]
        ways[how.title] = partial(classical.encoded, how=many, quality=quality), partial(classical.decoded, channels=3)
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, (encode, decode) in ways.items():
            start = time.perf_counter()
            written = [encode(image) for image in images]
            middle = time.perf_counter()
            for data in written:
                decode(data)
            if turn:  # the first warms up
                found[name].append([middle - start, time.perf_counter() - middle])
    megapixels = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    medians = {name: np.median(each, axis=0) for name, each in found.items()}
    reference = medians[AGAINST[2].title]
    return {
        name: {
            "milliseconds_per_megapixel": [round(1000 * float(t) / megapixels, 1) for t in each],
            "ratio_to_avif_speed_6": [round(float(t), 2) for t in each / reference],
        }
        for name, each in medians.items()
    }


# === Pictures ===


def draw(result: dict[str, Any]) -> None:
    found = result["sets"]["photographs"]
    per_pixel = 8 * found["images"] / found["pixels"]
    for column, name, label in ((1, "photographs", "PSNR in dB"), (2, "photographs_ms_ssim", "MS-SSIM in dB")):
        lines = {
            title: [(size * per_pixel, rest[column - 1]) for size, *rest in found["curves"][title]] for title in DRAWN
        }
        shown = {t: [(rate, q) for rate, q in line if 0.05 < rate < 3] for t, line in lines.items()}
        figure = plots.rate_distortion(shown, rate="bits per pixel", quality=label, logarithmic=True)
        figure.savefig(RESULTS.with_name(f"{name}.png"), dpi=110)


def draw_crops(files: list[Path], artifact: str | None) -> None:
    """Crops of a few photographs at equal bytes: the original, ours, AVIF, WebP, JPEG."""
    codec, rivals = loaded(artifact), [AGAINST[2], AGAINST[1], AGAINST[0]]
    originals, rows = [], {name: ([], []) for name in ("tfcomp", *(how.title for how in rivals))}
    for file in [files[i] for i in np.linspace(0, len(files) - 1, SHOWN).astype(int)]:
        image = image_files.read_image(file, whole=True)
        y, x = (np.array(image.shape[:2]) - CROP) // 2
        size, payloads = own_file(codec, file.name, image, 2, 0)
        found = {"tfcomp": (size, codec.decompress(payloads)[0])}
        for how in rivals:
            for quality in range(96):  # the first that needs as many bytes, in the other's favour
                data = classical.encoded(image, how, quality)
                if len(data) >= size:
                    break
            found[how.title] = len(data), classical.decoded(data, 3)
        originals.append(image[y : y + CROP, x : x + CROP])
        for name, (count, picture) in found.items():
            rows[name][0].append(picture[y : y + CROP, x : x + CROP])
            rows[name][1].append(count)
    lines = [(title, np.stack(pictures), sizes) for title, (pictures, sizes) in rows.items()]
    figure = plots.reconstructions(np.stack(originals), lines)
    figure.set_size_inches(7.5, 11.7)
    figure.savefig(RESULTS.with_name("photographs_crops.png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", metavar="ARTIFACT", help="default: the bundled one")
    parser.add_argument("--effort", type=int, default=_settings.full_or(8, 1), help="0 leaves effort out (%(default)s)")
    most = _settings.full_or(1000, 1)
    parser.add_argument("--images", type=int, default=most, metavar="N", help="at most N of each set, spread evenly")
    parser.add_argument("--split", default="test", help="'val' to choose by (default: %(default)s)")
    args = parser.parse_args()
    present = {name: _settings.SHARED / folder / args.split for name, folder in SETS.items()}
    present = {name: folder for name, folder in present.items() if folder.is_dir()}
    if "photographs" not in present:
        print(f"left out: no photographs in {_settings.SHARED}; name another folder by TFCOMP_SHARED")
        return
    files = {name: image_files.image_files(folder) for name, folder in present.items()}
    for name, every in files.items():
        files[name] = [every[i] for i in np.linspace(0, len(every) - 1, min(args.images, len(every))).astype(int)]
    codec = loaded(args.codec)
    result: dict[str, Any] = {
        **evaluate.provenance(["tfcomp", "numpy", "tensorflow", "ai-edge-litert", "pillow", "pillow-jxl-plugin"]),
        "libavif": features.version("avif"),
        "codec": codec.fingerprint,
        "effort": args.effort,
        "macs_per_pixel": dict(codec.compute),
        "sets": {},
    }
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for name, some in files.items():
            result["sets"][name] = measured(pool, name, some, args.codec, args.effort)
    result["times"] = times(files["photographs"][:TIMED], args.codec, args.effort)
    print(json.dumps(result["times"], indent=2))
    results = RESULTS if args.split == "test" else RESULTS.with_name(f"photographs_{args.split}.json")
    results.write_text(json.dumps(result, indent=2) + "\n")
    if args.split == "test":
        draw(result)
        draw_crops(files["photographs"], args.codec)


if __name__ == "__main__":
    main()
