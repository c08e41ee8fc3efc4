"""The bundled codec's networks with weights of 8 bits beside those of 16: bytes, PSNR and sizes of the files.

    python benchmarks/smaller_networks.py [--folder FOLDER] [--linear-too]

Exports the bundled model with ``quantize="int8-weights"``, which takes some minutes, and compresses a folder of
photographs, by default the ``test`` split of the shared ones, at every quality with both. Nothing is chosen on them.
``--linear-too`` quantizes the linear transforms as well, which an export leaves in 16 bits, and shows why.
"""

from __future__ import annotations

import argparse
import json
import tempfile
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


def measure(codec: tfcomp.Codec, images: list[NDArray[np.uint8]], quality: int) -> tuple[int, float]:
    """Bytes of all payloads, and the mean of the images' PSNR in dB."""
    payloads = codec.compress(images, quality=quality)
    restored = codec.decompress(payloads)
    return sum(map(len, payloads)), float(np.mean([psnr_db(a, b) for a, b in zip(images, restored, strict=True)]))


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
        print(f"{QUANTIZE}: {results['files']}\n\n| quality | bytes, % | PSNR, dB |\n|---:|---:|---:|")
        for quality in range(1, bundled.qualities + 1):
            (size, level), (other_size, other_level) = (measure(c, images, quality) for c in (bundled, smaller))
            row = {"quality": quality, "bytes_percent": 100 * (other_size / size - 1), "psnr_db": other_level - level}
            results["qualities"].append(row)
            print(f"| {quality} | {row['bytes_percent']:+.2f} | {row['psnr_db']:+.3f} |", flush=True)
    name = "smaller_networks_linear_too" if args.linear_too else "smaller_networks"
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
