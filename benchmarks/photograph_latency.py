"""What a photograph costs on a device: milliseconds, memory, and the coder's share.

    python benchmarks/photograph_latency.py [--photographs BSDS500]

For 256x256 and 512x768 pixels: each network of the bundled codec alone in LiteRT, with one thread and two; the codec
inside a running process, and from the command line; the exported artifact, whose graphs have the coder inside; and, for
the coder's share, TensorFlow's own time for the networks alone. With ``--photographs``, the networks are also quantized
to 8 bits, calibrated on ``train`` and measured on ``val``. The image is drawn, not a photograph: waves with noise, so
that all bytes are about those of one. Medians of interleaved turns; peak memory is that of a fresh process that
compresses and decompresses once. Writes ``benchmarks/results/photograph_latency.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
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

from tfcomp import use_numba
from tfcomp.measure import evaluate
from tfcomp.photographs.codec import Networks, PhotographCodec
from tfcomp.photographs.litert import LiteRTNetworks

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "photograph_latency.json"
SIZES = ((256, 256), (512, 768))
QUALITIES = (2, 5, 8)
TURNS = 9
CALIBRATION = 24

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


def with_numba(function: Callable[[], object]) -> None:
    use_numba(True)
    function()
    use_numba(False)


def in_8_bits(photographs: Path) -> tuple[dict[int, LiteRTNetworks], dict[str, object]]:
    """The networks in int8, for one thread and two; their files' bytes, and decibels on ``val`` beside float's."""
    from tfcomp.artifact import exporting
    from tfcomp.photographs import train
    from tfcomp.photographs.codec import ANALYSIS, SYNTHESIS
    from tfcomp.photographs.keras_networks import KerasNetworks

    codec, keras_networks = PhotographCodec.load(2), KerasNetworks.bundled()
    analysis: dict[str, list[np.ndarray]] = {"image": []}
    synthesis: dict[str, list[np.ndarray]] = {"latent": [], "steps": [], "quality": []}
    for i, photograph in enumerate(train.read(photographs / "train")[:CALIBRATION]):
        crop, q = photograph[:256, :256], i % codec.qualities
        analysis["image"].append(crop[None])
        synthesis["latent"].append(np.rint(keras_networks.analyse(crop) / codec.steps[q])[None])
        synthesis["steps"].append(codec.steps[q][None, None, None])
        synthesis["quality"].append(np.eye(codec.qualities, dtype=np.float32)[[q]])
    samples = {ANALYSIS: analysis, SYNTHESIS: synthesis}
    files = [exporting.to_litert(graph, "int8", samples[name]) for name, graph in keras_networks.graphs.items()]
    networks = {threads: LiteRTNetworks(files[0], files[1], threads) for threads in (1, 2)}
    facts: dict[str, object] = {"analysis_bytes": len(files[0]), "synthesis_bytes": len(files[1])}
    some = [photograph[:256, :256] for photograph in train.read(photographs / "val")[:CALIBRATION]]
    for quality in QUALITIES:
        chosen, steps = np.eye(codec.qualities, dtype=np.float32)[quality - 1], codec.steps[quality - 1]
        for name, encoder, decoder in (
            ("float32", codec.networks, codec.networks),
            ("int8 synthesis", codec.networks, networks[2]),
            ("int8 both", networks[2], networks[2]),
        ):
            seen = [decoder.synthesise(np.rint(encoder.analyse(crop) / steps), steps, chosen) for crop in some]
            facts[f"psnr_db, quality {quality}, {name}"] = round(evaluate.psnr_db(some, seen), 2)
    return networks, facts


def in_one_graph(artifact: Path, image: np.ndarray, quality: int, payload: bytes) -> dict[str, Callable[[], object]]:
    """Calls of the artifact's SavedModels and of its ``.tflite`` files, two threads."""
    import tensorflow as tf

    encoder, decoder = (tf.saved_model.load(str(artifact / name / "1")) for name in ("encoder", "decoder"))
    encode, decode = (model.signatures["serving_default"] for model in (encoder, decoder))
    litert = runpy.run_path(str(ROOT / "export" / "python" / "litert_photographs.py"))["Photographs"](artifact)
    assert (
        np.abs(litert.decompress(payload).astype(int) - np.asarray(decode(payload_bytes=payload)["image"])).max() <= 1
    )
    image_tensor, quality_tensor, payload_tensor = tf.constant(image), tf.constant(quality), tf.constant(payload)
    return {
        "compress, SavedModel": lambda: encode(image=image_tensor, quality=quality_tensor)["payload_bytes"].numpy(),
        "decompress, SavedModel": lambda: decode(payload_bytes=payload_tensor)["image"].numpy(),
        "compress, encoder.tflite": partial(litert.compress, image, quality),
        "decompress, decoder.tflite": partial(litert.decompress, payload),
    }


def in_a_process(
    image: np.ndarray, others: Networks, small: dict[int, LiteRTNetworks], artifact: Path
) -> dict[str, object]:
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
        *((f"LiteRT int8, threads {threads}", networks) for threads, networks in small.items()),
    ):
        functions[f"{name}, analysis"] = partial(networks.analyse, image)
        functions[f"{name}, synthesis"] = partial(networks.synthesise, latent, steps, quality)
    for name, q in zip(payloads, QUALITIES, strict=True):
        functions[f"compress, {name}"] = partial(codec.compress, image, q)
        functions[f"decompress, {name}"] = partial(codec.decompress, payloads[name])
        functions[f"compress, {name}, Numba"] = partial(with_numba, partial(codec.compress, image, q))
        functions[f"decompress, {name}, Numba"] = partial(with_numba, partial(codec.decompress, payloads[name]))
    for name, call in in_one_graph(artifact, image, 5, payloads["quality 5"]).items():
        functions[f"{name}, quality 5"] = call
    return {
        "payload_bytes": {name: len(payload) for name, payload in payloads.items()},
        "milliseconds": medians(functions),
    }


def in_new_processes(image: np.ndarray) -> dict[str, object]:
    """Milliseconds of the two commands, the start of Python included, and the peak of the memory."""
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", "tfcomp"]
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
    from tfcomp.photographs import exporting
    from tfcomp.photographs.keras_networks import KerasNetworks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    args = parser.parse_args()
    packages = ["tfcomp", "tensorflow", "numpy", "numba", "ai-edge-litert"]
    result: dict[str, object] = evaluate.provenance(packages, seed=0)
    small: dict[int, LiteRTNetworks] = {}
    if args.photographs:
        small, result["int8"] = in_8_bits(args.photographs)
        print(json.dumps(result["int8"], indent=2))
    with tempfile.TemporaryDirectory() as name:
        artifact = Path(name) / "artifact"
        manifest = exporting.export(artifact)
        result["artifact_bytes"] = {file: said["bytes"] for file, said in manifest["files"].items()}
        for height, width in SIZES:
            image = drawn(height, width)
            found = in_a_process(image, KerasNetworks.bundled(), small, artifact)
            result[f"{height}x{width}"] = found = {**found, **in_new_processes(image)}
            print(f"{height}x{width}", json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
