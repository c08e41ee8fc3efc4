"""The bundled codec's networks with weights of 8 bits beside those of 16: bytes, PSNR, time and sizes of the files.

    python benchmarks/smaller_networks.py [--folder FOLDER] [--linear-too]

Exports the bundled model with ``quantize="int8-weights"``, which takes some minutes, and compresses a folder of
photographs, by default the ``test`` split of the shared ones, at every quality with both. Nothing is chosen on them.
``--linear-too`` quantizes the linear transforms as well, which an export leaves in 16 bits, and shows why.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _settings import RESULTS, SHARED, full_or
from numpy.typing import NDArray

import tfcomp
from tfcomp.artifact import eight_bit_weights
from tfcomp.artifact.manifest import DECODER_LATENT, ENCODER_LATENT, Manifest
from tfcomp.measure.evaluate import psnr_db
from tfcomp.storage import image_files

QUANTIZE = "int8-weights"
IMAGES = full_or(None, 2)


def measure(codec: tfcomp.Codec, images: list[NDArray[np.uint8]], quality: int) -> tuple[int, float, float, float]:
    """Bytes of all payloads, the mean of the images' PSNR in dB, and seconds to compress and to decompress."""
    begin = time.perf_counter()
    payloads = codec.compress(images, quality=quality)
    between = time.perf_counter()
    restored = codec.decompress(payloads)
    end = time.perf_counter()
    levels = [psnr_db(a, b) for a, b in zip(images, restored, strict=True)]
    return sum(map(len, payloads)), float(np.mean(levels)), between - begin, end - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="photographs; by default the shared ones' test split")
    parser.add_argument("--linear-too", action="store_true", help="the linear transforms in 8 bits as well")
    args = parser.parse_args()
    folder = args.folder or SHARED / "photographs" / "test"
    images = [image_files.read_image(path) for path in image_files.image_files(folder)[:IMAGES]]
    results: dict[str, Any] = {"folder": folder.name, "images": len(images), "files": {}, "qualities": []}
    bundled = tfcomp.Codec.load("photographs", runtime="litert")
    with tempfile.TemporaryDirectory() as scratch:
        artifact = Path(scratch) / "artifact"
        kept = "no layer" if args.linear_too else eight_bit_weights.KEPT_PREFIX
        with patch.object(eight_bit_weights, "KEPT_PREFIX", kept):
            tfcomp.Codec.load("photographs", runtime="keras").export(artifact, quantize=QUANTIZE)
        files = Manifest.read(artifact).files
        results["files"] = {name: files[name]["bytes"] for name in (ENCODER_LATENT, DECODER_LATENT)}
        smaller = tfcomp.Codec.load(artifact, runtime="litert")
        print(f"{QUANTIZE}: {results['files']}\n")
        for codec in (bundled, smaller):
            measure(codec, images[:1], 1)  # what is set up at first use takes time, too
        print("| quality | bytes, % | PSNR, dB | time to compress, to decompress |\n|---:|---:|---:|---:|")
        for quality in range(1, bundled.qualities + 1):
            plain, small = (measure(codec, images, quality) for codec in (bundled, smaller))
            row = {
                "quality": quality,
                "bytes_percent": 100 * (small[0] / plain[0] - 1),
                "psnr_db": small[1] - plain[1],
                "compress_times": small[2] / plain[2],
                "decompress_times": small[3] / plain[3],
            }
            results["qualities"].append(row)
            times = f"{row['compress_times']:.2f}, {row['decompress_times']:.2f}"
            print(f"| {quality} | {row['bytes_percent']:+.2f} | {row['psnr_db']:+.3f} | {times} |", flush=True)
    name = "smaller_networks_linear_too" if args.linear_too else "smaller_networks"
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
