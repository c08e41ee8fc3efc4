"""What a photograph costs on a device: milliseconds, memory, and the coder's share.

    python benchmarks/photograph_latency.py [--photographs BSDS500]

For 256x256 and 512x768 pixels: each network of the bundled codec alone in LiteRT, with one thread and two; the codec
inside a running process, with effort too, and from the command line; the exported artifact, whose graphs have the coder
inside; and, for the coder's share, TensorFlow's own time for the networks alone. With ``--photographs``, the networks
are also quantized to 8 bits, calibrated on ``train`` and measured on ``val``. The image is drawn, not a photograph:
waves with noise, so that all bytes are about those of one. Medians of interleaved turns; peak memory is that of a fresh
process that compresses and decompresses once. Writes ``benchmarks/results/photograph_latency.json``.
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
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np
from PIL import Image

from tfcomp import Codec, use_numba
from tfcomp.items import Images
from tfcomp.measure import evaluate
from tfcomp.runtimes.litert import LiteRTTransform
from tfcomp.runtimes.transform import Transform
from tfcomp.storage import image_files

RESULTS = _settings.RESULTS / "photograph_latency.json"
SIZES = _settings.full_or(((256, 256), (512, 768)), ((64, 96),))
QUALITIES = (2, 5, 8)
EFFORT = 8
TURNS = _settings.full_or(9, 1)
CALIBRATION = _settings.full_or(24, 2)

PEAK = """
import sys
import numpy as np
from PIL import Image
from tfcomp import Codec
image = np.asarray(Image.open(sys.argv[1]))
codec = Codec.load()
codec.decompress(codec.compress([image]))
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
"""


def drawn(height: int, width: int) -> Images:
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


def crops(folder: Path) -> list[Images]:
    """A corner of some photographs, uint8 [256, 256, 3] each."""
    files = image_files.image_files(folder)[:CALIBRATION]
    return [image_files.read_image(file, whole=True)[:256, :256] for file in files]


class EightBits(LiteRTTransform):
    """Networks whose 8-bit synthesis gives pixels as floats on [0, 1]: the converter spoils one that rounds them."""

    def synthesise(self, latents: Any, quality: int) -> Images:
        pixels = np.asarray(super().synthesise(latents, quality), np.float32)
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def in_8_bits(photographs: Path) -> tuple[dict[int, LiteRTTransform], dict[str, object]]:
    """The networks in int8, for one thread and two; their files' bytes, and decibels on ``val`` beside float's."""
    import tensorflow as tf

    from tfcomp.artifact.conversion import to_litert

    codec, trained = Codec.load(threads=2), Codec.load(runtime="keras").parts
    transform: Any = trained.transform
    images, latents, numbers = crops(photographs / "train"), [], []
    for i, crop in enumerate(images):
        quality = trained.qualities[i % codec.qualities]
        numbers.append([quality.number])
        latents.append(quality.to_units(np.rint(quality.to_steps(transform.analyse(crop[None])))))

    @tf.function(input_signature=transform.synthesise_graph.input_signature, autograph=False)
    def pixels(latent: Any, quality: Any) -> dict[str, Any]:
        told = [latent * transform.unit + transform.zero, tf.one_hot(quality - 1, codec.qualities)]
        return {"image": transform.decoder(told, training=False)}

    synthesis = {"latent": np.stack(latents), "quality": np.array(numbers, np.int32)}
    files = [
        to_litert(transform.analyse_graph, "int8", {"image": np.stack(images)[:, None]}),
        to_litert(pixels, "int8", synthesis),
    ]
    small: dict[int, LiteRTTransform] = {threads: EightBits(*files, threads=threads) for threads in (1, 2)}
    facts: dict[str, object] = {"analysis_bytes": len(files[0]), "synthesis_bytes": len(files[1])}
    some, whole = crops(photographs / "val"), codec.parts.transform
    for number in QUALITIES:
        quality = codec.parts.quality(number)
        for name, encoder, decoder in (
            ("float32", whole, whole),
            ("int8 synthesis", whole, small[2]),
            ("int8 both", small[2], small[2]),
        ):
            integers = [np.rint(quality.to_steps(encoder.analyse(crop[None]))) for crop in some]
            seen = [decoder.synthesise(quality.to_units(each), number)[0] for each in integers]
            facts[f"psnr_db, quality {number}, {name}"] = round(evaluate.psnr_db(some, seen), 2)
    return small, facts


def in_one_graph(artifact: Path, image: Images, quality: int, payload: bytes) -> dict[str, Callable[[], object]]:
    """Calls of the artifact's SavedModels and of its ``.tflite`` files, two threads."""
    import tensorflow as tf

    encoder, decoder = (tf.saved_model.load(str(artifact / name / "1")) for name in ("encoder", "decoder"))
    encode, decode = (model.signatures["serving_default"] for model in (encoder, decoder))
    litert = runpy.run_path(str(_settings.ROOT / "export" / "python" / "litert_codec.py"))["Codec"](artifact)
    seen = np.asarray(decode(payload_bytes=tf.constant(payload))["image"])
    assert np.abs(litert.decompress(payload).astype(int) - seen).max() <= 1
    image_tensor, quality_tensor, payload_tensor = tf.constant(image), tf.constant(quality), tf.constant(payload)
    return {
        "compress, SavedModel": lambda: encode(image=image_tensor, quality=quality_tensor)["payload_bytes"].numpy(),
        "decompress, SavedModel": lambda: decode(payload_bytes=payload_tensor)["image"].numpy(),
        "compress, encoder.tflite": partial(litert.compress, image, quality),
        "decompress, decoder.tflite": partial(litert.decompress, payload),
    }


def in_a_process(
    image: Images, others: Transform, small: dict[int, LiteRTTransform], artifact: Path
) -> dict[str, object]:
    """Payload bytes, and milliseconds of each part."""
    codecs = {threads: Codec.load(threads=threads) for threads in (1, 2)}
    codec, batch = codecs[2], image[None]
    quality = codec.parts.quality(5)
    latent = quality.to_units(np.rint(quality.to_steps(codec.parts.transform.analyse(batch))))
    payloads = {f"quality {q}": codec.compress([image], q) for q in QUALITIES}
    functions: dict[str, Callable[[], object]] = {}
    for name, networks in (
        ("TensorFlow", others),
        *((f"LiteRT, threads {threads}", each.parts.transform) for threads, each in codecs.items()),
        *((f"LiteRT int8, threads {threads}", networks) for threads, networks in small.items()),
    ):
        functions[f"{name}, analysis"] = partial(networks.analyse, batch)
        functions[f"{name}, synthesis"] = partial(networks.synthesise, latent, quality.number)
    for name, q in zip(payloads, QUALITIES, strict=True):
        functions[f"compress, {name}"] = partial(codec.compress, [image], q)
        functions[f"decompress, {name}"] = partial(codec.decompress, payloads[name])
        functions[f"compress, {name}, Numba"] = partial(with_numba, partial(codec.compress, [image], q))
        functions[f"decompress, {name}, Numba"] = partial(with_numba, partial(codec.decompress, payloads[name]))
    functions[f"compress, quality 5, effort {EFFORT}"] = partial(codec.compress, [image], 5, effort=EFFORT)
    for name, call in in_one_graph(artifact, image, 5, payloads["quality 5"][0]).items():
        functions[f"{name}, quality 5"] = call
    return {
        "payload_bytes": {name: len(payload) for name, (payload,) in payloads.items()},
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    args = parser.parse_args()
    packages = ["tfcomp", "tensorflow", "numpy", "numba", "ai-edge-litert"]
    result: dict[str, object] = evaluate.provenance(packages, seed=0)
    small: dict[int, LiteRTTransform] = {}
    if args.photographs:
        small, result["int8"] = in_8_bits(args.photographs)
        print(json.dumps(result["int8"], indent=2))
    with tempfile.TemporaryDirectory() as name:
        artifact, trained = Path(name) / "artifact", Codec.load(runtime="keras")
        manifest = trained.export(artifact)
        result["artifact_bytes"] = {file: said["bytes"] for file, said in manifest["files"].items()}
        for height, width in SIZES:
            image = drawn(height, width)
            found = in_a_process(image, trained.parts.transform, small, artifact)
            result[f"{height}x{width}"] = found = {**found, **in_new_processes(image)}
            print(f"{height}x{width}", json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
