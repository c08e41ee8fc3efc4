"""The bundled codec beside JPEG, WebP and AVIF on photographs that nothing was trained or chosen on.

    python benchmarks/photographs.py [--photographs FOLDER] [--images N]

``FOLDER/test`` (by default BSDS500's 200 photographs of 481x321 pixels, in ``TFCOMP_SHARED``) goes through every
quality of ``tfcomp compress``, a file for each photograph, and back; bytes are those of whole files, names and
checksums included, and PSNR is of the mean squared error pooled over all photographs. JPEG is Pillow's, optimised,
with 4:2:0 chroma; WebP of method 6; AVIF of speed 4. Writes ``benchmarks/results/photographs.json``, ``.png``, and
``photographs_crops.png``: crops at equal bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np
from tqdm import tqdm

from tfcomp import Codec
from tfcomp.items import Images
from tfcomp.measure import classical, evaluate, plots
from tfcomp.measure.evaluate import Point
from tfcomp.storage import container, image_files

RESULTS = _settings.RESULTS / "photographs.json"
AGAINST = ("jpeg", "webp", "avif")
SHOWN = _settings.full_or((2, 75, 140), (0, 1))
"""Numbers of the test photographs that are drawn, chosen for nothing but being far apart."""
CROP = 120


@cache
def loaded() -> Codec:
    """The codec, once in each process."""
    return Codec.load(threads=1)


def of_quality(file: Path, quality: int) -> tuple[int, Images]:
    """The size of a ``.tfz`` of one photograph, and the photograph as it comes out."""
    codec = loaded()
    image = image_files.read_image(file, whole=True)
    payloads = codec.compress([image], quality)
    with tempfile.TemporaryDirectory() as folder:
        size = container.write(
            Path(folder) / "a.tfz",
            payloads,
            fingerprint=bytes.fromhex(codec.fingerprint),
            item_shape=tuple(n or 0 for n in codec.item.shape),
            metadata={"names": [file.name]},
        )
    return size, codec.decompress(payloads)[0]


def own_curve(files: list[Path], images: list[Images], qualities: int) -> list[Point]:
    """A point for each quality."""
    points = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for quality in range(1, qualities + 1):
            found = pool.map(partial(of_quality, quality=quality), files, chunksize=8)
            sizes, restored = zip(*tqdm(found, total=len(files), desc=f"quality {quality}"), strict=True)
            point = Point(f"tfcomp, quality {quality}", float(np.mean(sizes)), evaluate.psnr_db(images, list(restored)))
            print(f"{point.codec}: {point.bytes_per_image:.0f} bytes, {point.psnr_db:.2f} dB")
            points.append(point)
    return points


def draw_crops(files: list[Path], images: list[Images]) -> None:
    """Crops of a few photographs at equal bytes: the original, ours, WebP, JPEG."""
    originals, rows = [], {name: ([], []) for name in ("tfcomp", "webp", "jpeg")}
    for number in SHOWN:
        image = images[number]
        y, x = (np.array(image.shape[:2]) - CROP) // 2
        size, restored = of_quality(files[number], 2)
        originals.append(image[y : y + CROP, x : x + CROP])
        found = {"tfcomp": (size, restored)}
        for name in ("webp", "jpeg"):
            for quality in range(96):  # the first that needs as many bytes, in the other's favour
                sizes, others = classical.round_trip([image], name, quality)
                found[name] = sizes[0], others[0]
                if sizes[0] >= size:
                    break
        for name, (count, picture) in found.items():
            rows[name][0].append(picture[y : y + CROP, x : x + CROP])
            rows[name][1].append(count)
    titles = {"tfcomp": "tfcomp", "webp": "WebP", "jpeg": "JPEG"}
    lines = [(titles[name], np.stack(pictures), sizes) for name, (pictures, sizes) in rows.items()]
    figure = plots.reconstructions(np.stack(originals), lines)
    figure.set_size_inches(7.5, 9.4)
    figure.savefig(RESULTS.with_name("photographs_crops.png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=_settings.SHARED / "bsds500")
    parser.add_argument("--images", type=int, default=_settings.full_or(200, 2), metavar="N", help="the first N of all")
    args = parser.parse_args()
    if not (args.photographs / "test").is_dir():
        print(f"left out: no photographs at {args.photographs / 'test'}; name them with --photographs")
        return
    files = image_files.image_files(args.photographs / "test")[: args.images]
    images = [image_files.read_image(file, whole=True) for file in files]
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    codec = Codec.load()
    curves = {"tfcomp": own_curve(files, images, codec.qualities)}
    for name in AGAINST:
        curves[classical.FORMATS[name].title] = classical.curve(images, name)
    rates = {
        f"bd_rate_percent_tfcomp_against_{name}": _settings.bd_rate(points, curves["tfcomp"])
        for name, points in curves.items()
        if name != "tfcomp"
    }
    result = {
        **evaluate.provenance(["tfcomp", "numpy", "ai-edge-litert", "pillow"]),
        "codec": codec.fingerprint,
        "photographs": len(images),
        "pixels": pixels,
        **rates,
        "macs_per_pixel": dict(codec.compute),
        "curves": {name: [point.as_dict() for point in points] for name, points in curves.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    per_pixel = 8 * len(images) / pixels
    lines = {
        name: [(p.bytes_per_image * per_pixel, p.psnr_db) for p in evaluate.frontier(points) if p.psnr_db < 44]
        for name, points in curves.items()
    }
    figure = plots.rate_distortion(lines, rate="bits per pixel", logarithmic=True)
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)
    draw_crops(files, images)
    print(json.dumps(rates, indent=2))


if __name__ == "__main__":
    main()
