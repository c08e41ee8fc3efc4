"""One MNIST image, and 10,000 at once, to their payloads and back, in each runtime and in TensorFlow Compression.

    python benchmarks/runtime_latency.py [--data-dir FOLDER] [--peer-python PYTHON --peer-script SCRIPT]

Three codecs: dense 784-512-256-64; the same with the wider decoder and the sets of tables of `mnist_rate_distortion`,
which there needs no more bytes than the peer; and the convolutional network of the peer's script (20 and 50 filters of
5x5, a dense layer of 500, 96 latents); all trained for one epoch, as the peer. An artifact's whole path is timed, with
the networks, the range coder and the copies in and out: ``encoder.tflite`` and ``decoder.tflite`` on one thread, the
SavedModels' ``serving_default``, and `Codec.load`, which has the range coder in NumPy. Each figure is the median over
calls on different images; the runtimes take turns, so that a disturbance meets all of them. The peer times itself, on
all cores: the mean of 200 calls. Throughput is that of one call of ``compress`` and one of ``decompress`` with all test
images, on all cores: of `Codec.freeze`'s Keras networks and of both runtimes of `Codec.load`; the peer's likewise.

The peer needs TensorFlow 2.14 in an environment of its own, with tensorflow-compression 2.14; ``--peer-script`` is a
program that takes an ``.npz`` of x_train and x_test, and prints JSON with ``encode_ms_one_image``,
``decode_ms_one_image``, ``encode_us_per_image_batched`` and ``decode_us_per_image_batched``.

Also measured: seconds to import tfcomp and load an artifact in a process without TensorFlow, and the peak resident
memory of that process when it has decoded 1,000 payloads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from mnist_rate_distortion import QUICK_SETS, quick_model
from runtime_exactness import buffers, trained_codec

from tfcomp import AutoEncoder, Codec
from tfcomp.artifact.manifest import Manifest
from tfcomp.items import Images
from tfcomp.measure import evaluate

RESULTS = _settings.RESULTS / "runtime_latency.json"
LAMBDA = 15_000  # bits + LAMBDA * mean squared error, as the peer
MODELS = {
    "dense": lambda: AutoEncoder.dense((28, 28, 1), 64, beta=784 / (LAMBDA * np.log(2))),
    "dense, wider decoder": quick_model,
    "convolutional": lambda: AutoEncoder.conv(
        (28, 28, 1), 96, filters=(20, 50), hidden=500, beta=784 / (LAMBDA * np.log(2))
    ),
}

SETS = {"dense, wider decoder": QUICK_SETS}
"""Of tables, where there are several."""

Call = Callable[[int], Any]

BASE = """
import json, sys, time
for name in ("tensorflow", "keras", "tensorflow_datasets"):
    sys.modules[name] = None
start = time.perf_counter()
import tfcomp
imported = time.perf_counter()
codec = tfcomp.Codec.load(sys.argv[1])
loaded = time.perf_counter()
codec.decompress([bytes.fromhex(line) for line in sys.stdin])
peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
print(json.dumps({"import_seconds": imported - start, "load_seconds": loaded - imported, "peak_mib": int(peak) / 1024}))
"""


class LiteRTFile:
    """One ``.tflite``, called by tensor index: the least that a caller can do."""

    def __init__(self, path: Path) -> None:
        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        runner = self.interpreter.get_signature_runner()
        self.inputs = {name: details["index"] for name, details in runner.get_input_details().items()}
        self.outputs = {name: details["index"] for name, details in runner.get_output_details().items()}

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        for name, value in inputs.items():
            self.interpreter.set_tensor(self.inputs[name], value)
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(index) for name, index in self.outputs.items()}


def litert_calls(artifact: Path, images: Images, payloads: list[bytes]) -> tuple[Call, Call]:
    encoder, decoder = LiteRTFile(artifact / "encoder.tflite"), LiteRTFile(artifact / "decoder.tflite")
    capacity = Manifest.read(artifact).max_payload_bytes

    def encode(i: int) -> bytes:
        result = encoder(image=images[i : i + 1])
        return bytes(result["payload"][: result["length"][0]])

    def decode(i: int) -> Images:
        payload, length = buffers(payloads[i : i + 1], capacity)
        return decoder(payload=payload[0], length=length)["image"]

    return encode, decode


def saved_model_calls(artifact: Path, images: Images, payloads: list[bytes]) -> tuple[Call, Call]:
    encoder, decoder = (tf.saved_model.load(str(artifact / name / "1")) for name in ("encoder", "decoder"))

    def encode(i: int) -> bytes:
        return encoder.signatures["serving_default"](image=tf.constant(images[i : i + 1]))["payload_bytes"].numpy()[0]

    def decode(i: int) -> Images:
        payload = tf.constant(payloads[i : i + 1])
        return decoder.signatures["serving_default"](payload_bytes=payload)["image"].numpy()

    return encode, decode


def codec_calls(artifact: Path, images: Images, payloads: list[bytes]) -> tuple[Call, Call]:
    codec = Codec.load(artifact)
    return lambda i: codec.compress(images[i : i + 1])[0], lambda i: codec.decompress(payloads[i : i + 1])


def measure(calls: dict[str, tuple[Call, Call]], count: int, turns: int = 20) -> dict[str, dict[str, float]]:
    """Median milliseconds of each runtime's two directions; ``count`` calls of each in ``turns`` turns."""
    times: dict[tuple[str, int], list[float]] = {(name, way): [] for name in calls for way in (0, 1)}
    for turn in range(turns + 1):
        for name, way in times:
            for k in range(count // turns):
                start = time.perf_counter()
                calls[name][way](k)
                if turn:  # the first turn warms up
                    times[name, way].append(1e3 * (time.perf_counter() - start))
    return {
        name: {way: round(statistics.median(times[name, i]), 4) for i, way in enumerate(("encode_ms", "decode_ms"))}
        for name in calls
    }


def throughput(codecs: dict[str, Codec], images: Images, turns: int) -> dict[str, dict[str, float]]:
    """Median microseconds an image to compress and decompress all images in one call each; the codecs take turns."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in codecs}
    for turn in range(turns + 1):
        for name, codec in codecs.items():
            begin = time.perf_counter()
            payloads = codec.compress(images)
            middle = time.perf_counter()
            codec.decompress(payloads)
            end = time.perf_counter()
            if turn:  # the first turn warms up
                times[name][0].append(1e6 * (middle - begin) / len(images))
                times[name][1].append(1e6 * (end - middle) / len(images))
    return {
        name: {"encode_us": round(statistics.median(encode), 2), "decode_us": round(statistics.median(decode), 2)}
        for name, (encode, decode) in times.items()
    }


def peer(python: str, script: str, train: Images, test: Images) -> dict[str, Any]:
    """What the peer's script prints, after one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.npz"
        np.savez(path, x_train=train[..., 0], x_test=test[..., 0])
        command = [python, script, path, "--epochs", "1", "--rate-distortion-lambda", str(LAMBDA)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps MNIST")
    parser.add_argument("--calls", type=int, default=_settings.full_or(2000, 100), help="of each runtime, each way")
    parser.add_argument(
        "--turns", type=int, default=_settings.full_or(5, 1), help="of each runtime with all test images"
    )
    parser.add_argument("--peer-python", help="interpreter with tensorflow-compression 2.14")
    parser.add_argument("--peer-script")
    parser.add_argument("--base-python", default=sys.executable, help="interpreter of a base install of tfcomp")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    train, test = _settings.mnist(args.data_dir)
    report: dict[str, Any] = {
        "benchmark": "runtime_latency",
        **evaluate.provenance(["tfcomp", "tensorflow", "keras", "ai-edge-litert", "numpy"], seed=0),
        "calls": args.calls,
        "batch": len(test),
        "ms": {},
        "us_per_image_in_batch": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, build in MODELS.items():
            sets = SETS.get(name, 1)
            codec = trained_codec(f"latency-{name}", build, train, train[:10_000], epochs=1, sets=sets)
            payloads = codec.compress(test[: args.calls])
            plain, quantized = Path(folder) / name, Path(folder) / f"{name}-int8"
            codec.export(plain)
            manifest = codec.export(quantized, quantize="int8")
            print(f"\n{name}: {manifest['measured']}")
            calls = {
                "LiteRT float32": litert_calls(plain, test, payloads),
                "LiteRT int8": litert_calls(quantized, test, payloads),
                "Codec.load": codec_calls(plain, test, payloads),
                "SavedModel": saved_model_calls(plain, test, payloads),
            }
            report["ms"][name] = measure(calls, args.calls)
            report.setdefault("measured", {})[name] = manifest["measured"]
            codecs = {
                "Codec.freeze (Keras)": codec,
                "Codec.load (LiteRT)": Codec.load(plain),
                "Codec.load (TensorFlow)": Codec.load(plain, runtime="tensorflow"),
            }
            report["us_per_image_in_batch"][name] = throughput(codecs, test, args.turns)
            if name == "dense":
                runs = []
                for _ in range(5):
                    done = subprocess.run(
                        [args.base_python, "-c", BASE, plain],
                        input="\n".join(payload.hex() for payload in payloads[:1000]),
                        capture_output=True,
                        text=True,
                        check=True,
                        cwd=_settings.ROOT,
                    )
                    runs.append(json.loads(done.stdout))
                report["base_install"] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if args.peer_python:
        found = peer(args.peer_python, args.peer_script, train, test)
        report["peer"] = found
        report["ms"]["convolutional"]["TensorFlow Compression"] = {
            "encode_ms": found["encode_ms_one_image"],
            "decode_ms": found["decode_ms_one_image"],
        }
        report["us_per_image_in_batch"]["convolutional"]["TensorFlow Compression"] = {
            "encode_us": found["encode_us_per_image_batched"],
            "decode_us": found["decode_us_per_image_batched"],
        }
    for name, rows in report["ms"].items():
        print(f"\n{name:26}{'encode':>10}{'decode':>10}  ms")
        for runtime, row in rows.items():
            print(f"{runtime:26}{row['encode_ms']:10.3f}{row['decode_ms']:10.3f}")
    for name, rows in report["us_per_image_in_batch"].items():
        print(f"\n{name:26}{'encode':>10}{'decode':>10}  microseconds an image, {len(test)} at once")
        for runtime, row in rows.items():
            print(f"{runtime:26}{row['encode_us']:10.1f}{row['decode_us']:10.1f}")
    print(f"\nbase install: {report['base_install']}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
