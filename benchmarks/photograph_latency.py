"""What a photograph costs on a device: milliseconds, memory, and the coder's share.

    python benchmarks/photograph_latency.py

For 256x256 and 512x768 pixels: each network of the bundled codec alone in LiteRT, with one thread and two; the codec
inside a running process, and from the command line; and, for the coder's share, TensorFlow's own time for the networks
alone, of the same architecture with other weights. The image is drawn, not a photograph: waves with noise, so that
all bytes are about those of one. Medians of interleaved turns; peak memory is that of a fresh process that compresses
and decompresses once. Writes ``benchmarks/results/photograph_latency.json``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from tfcomp import evaluate
from tfcomp.photographs.codec import Networks, PhotographCodec

RESULTS = Path(__file__).resolve().parent / "results" / "photograph_latency.json"
SIZES = ((256, 256), (512, 768))
QUALITIES = (2, 5, 8)
TURNS = 9

PEAK = """
import sys
import numpy as np
from PIL import Image
from tfcomp.photographs.codec import PhotographCodec
image = np.asarray(Image.open(sys.argv[1]))
codec = PhotographCodec.load()
codec.decompress(codec.compress(image))
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
"""


def drawn(height: int, width: int) -> np.ndarray:
    """An image as hard to compress as a photograph, uint8 [height, width, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 128.0)
    for scale in (200, 90, 40, 18, 8):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) / scale + phase + 3 * np.sin(x / 97) * np.cos(y / 71))
        image += wave[..., None] * rng.uniform(4, 4 + scale / 5, 3)
    rough = (np.hypot(y - height / 3, x - width / 2) < height / 3)[..., None]
    image += rng.normal(0, 1, image.shape[:2])[..., None] * np.where(rough, 14, 2)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def medians(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(TURNS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in taken.items()}


def in_a_process(image: np.ndarray, others: Networks) -> dict[str, object]:
    """Payload bytes, and milliseconds of each part."""
    codecs = {threads: PhotographCodec.load(threads) for threads in (1, 2)}
    codec = codecs[2]
    steps, quality = codec.steps[4], np.eye(codec.qualities, dtype=np.float32)[4]
    latent = np.rint(codec.networks.analyse(image) / steps)
    payloads = {f"quality {q}": codec.compress(image, q) for q in QUALITIES}
    functions: dict[str, Callable[[], object]] = {}
    for name, networks in (
        ("TensorFlow", others),
        *((f"LiteRT, threads {threads}", each.networks) for threads, each in codecs.items()),
    ):
        functions[f"{name}, analysis"] = partial(networks.analyse, image)
        functions[f"{name}, synthesis"] = partial(networks.synthesise, latent, steps, quality)
    for name, q in zip(payloads, QUALITIES, strict=True):
        functions[f"compress, {name}"] = partial(codec.compress, image, q)
        functions[f"decompress, {name}"] = partial(codec.decompress, payloads[name])
    return {
        "payload_bytes": {name: len(payload) for name, payload in payloads.items()},
        "milliseconds": medians(functions),
    }


def in_new_processes(image: np.ndarray) -> dict[str, object]:
    """Milliseconds of the two commands, the start of Python included, and the peak of the memory."""
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", "tfcomp.cli"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(image).save(folder / "image.png")
        packed = folder / "a.tfz"
        functions: dict[str, Callable[[], object]] = {
            "import": partial(run, [sys.executable, "-c", "import numpy, PIL.Image, ai_edge_litert.interpreter"]),
            "compress": partial(run, [*command, "compress", folder / "image.png", "-o", packed]),
            "decompress": partial(run, [*command, "decompress", packed, "-o", folder / "out", "--force"]),
        }
        return {
            "milliseconds_from_the_command_line": medians(functions),
            "peak_mebibytes": round(int(run([sys.executable, "-c", PEAK, folder / "image.png"]).stdout) / 1024, 1),
        }


def main() -> None:
    from tfcomp.photographs.freeze import KerasNetworks
    from tfcomp.photographs.model import PhotographModel

    model = PhotographModel()
    model((np.zeros((1, 64, 64, 3), np.uint8), np.zeros(1, np.int32)))
    others = KerasNetworks(model)
    result: dict[str, object] = evaluate.provenance(["tfcomp", "tensorflow", "numpy", "ai-edge-litert"], seed=0)
    for height, width in SIZES:
        image = drawn(height, width)
        result[f"{height}x{width}"] = found = {**in_a_process(image, others), **in_new_processes(image)}
        print(f"{height}x{width}", json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
