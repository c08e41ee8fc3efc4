"""Whether every runtime makes the same payload of the same latents, and the same latents and pixels of a payload.

    python benchmarks/runtime_exactness.py [--data-dir FOLDER] [--images 10000] [--glyphs 2000] [--corrupt 10000]

An autoencoder and a VAE (dense 784-512-256-64), each exported once, in five runtimes: NumPy (the reference coder beside
the Keras networks), the TensorFlow graph, the loaded SavedModel, LiteRT, and LiteRT.js in Chromium, which takes the
first 100 images of each data set and every corrupt payload, and is left out, saying so, where there is none. Three
comparisons, each of which must find no difference at all except where a bound is stated:

1.  Coder alone: the same integers, computed once by Keras, go through the coder of each runtime and back. For the
    SavedModel and LiteRT these are the very functions that the artifact's files contain, exported without networks.
2.  Whole artifact: pixels to payload in each runtime. Float networks may round one latent differently in two runtimes
    (how many images are affected is reported), so each runtime's payloads are compared with what the reference coder
    makes of the rounded latents that the same runtime's ``latent`` signature gives.
3.  Every runtime decodes every runtime's payloads: the integers (coder alone) are those that were coded, and the pixels
    differ by at most 1 level from those of Keras.

Then corrupt payloads: random, truncated, extended, bit-flipped, and lengths that no payload has. Every runtime must
come back with latents inside the tables' supports, the same ones wherever the reference does not refuse.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import litert_js
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tqdm import tqdm

from tfcomp import VAE, AutoEncoder, Codec, load_model
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.conversion import to_litert
from tfcomp.artifact.uniform_graphs import UniformGraphs
from tfcomp.coding.tables import Int32
from tfcomp.data import datasets
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError
from tfcomp.items import Images
from tfcomp.uniform import LARGEST

RESULTS = _settings.RESULTS / "runtime_exactness.json"
RUNS = _settings.RUNS / "runtime_exactness"
KINDS = {"autoencoder": lambda: AutoEncoder.dense((28, 28, 1), 64, beta=0.1), "vae": lambda: VAE.dense((28, 28, 1), 64)}
BATCH = 500
JS = "LiteRT.js"

Payloads = list[bytes]


def trained_codec(
    name: str,
    build: Callable[[], AutoEncoder | VAE],
    images: Images,
    calibration: Images,
    epochs: int = 3,
    sets: int = 1,
) -> Codec:
    """A codec of the model that ``build`` makes; the trained model is kept in ``runs/`` and used again."""
    path = RUNS / f"{name}.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        model = build()
        model.compile(optimizer=keras.optimizers.Adam(1e-3))
        model.fit(images, batch_size=128, epochs=epochs, verbose=2)
        RUNS.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return Codec.freeze(load_model(path), calibration, sets=sets)


# === Payload buffers ===


def buffers(payloads: Sequence[bytes], capacity: int) -> tuple[NDArray[np.uint8], Int32]:
    """Payloads as LiteRT takes them: uint8 [N, MAX], zero after each payload, and lengths, int32 [N]."""
    buffer = np.zeros((len(payloads), capacity), np.uint8)
    for row, payload in zip(buffer, payloads, strict=True):
        row[: len(payload)] = np.frombuffer(payload[:capacity], np.uint8)
    return buffer, np.array([len(payload) for payload in payloads], np.int32)


def rounded(latents: NDArray[np.float32]) -> Int32:
    """The integers of latents in units, which are the steps of a codec's one quality; perhaps beyond the supports."""
    return np.rint(np.clip(latents, -LARGEST, LARGEST)).astype(np.int32)


# === Runtimes: each has the artifact's four directions and, to see inside, the coder alone ===


class Reference:
    """Keras networks and the NumPy coder."""

    def __init__(self, codec: Codec) -> None:
        assert isinstance(codec.entropy_model, StaticModel), "a codec of items of one shape"
        assert codec.qualities == 1
        self.codec, self.entropy_model = codec, codec.entropy_model

    def latents(self, images: Images) -> Int32:
        return self.codec.encode(images)

    def compress(self, images: Images) -> Payloads:
        return self.codec.compress(images)

    def decompress(self, payloads: Payloads) -> Images:
        return self.codec.decompress(payloads)

    def encode(self, latents: Int32) -> Payloads:
        return self.entropy_model.encode(self.entropy_model.clip(latents))

    def decode(self, payloads: Payloads) -> Int32:
        return self.entropy_model.decode(payloads)


class Graph:
    """TensorFlow functions of batches, in the process or loaded, by the names of the methods that use them."""

    def __init__(self, signatures: dict[str, Any]) -> None:
        self.signatures = signatures

    def _run(self, name: str, key: str, **inputs: Any) -> NDArray[Any]:
        ((argument, items),) = inputs.items()
        parts = [
            self.signatures[name](**{argument: tf.constant(items[i : i + BATCH])})[key].numpy()
            for i in range(0, len(items), BATCH)
        ]
        return np.concatenate(parts)

    def latents(self, images: Images) -> Int32:
        return rounded(self._run("latents", "latent", image=images))

    def compress(self, images: Images) -> Payloads:
        return list(self._run("compress", "payload_bytes", image=images))

    def decompress(self, payloads: Payloads) -> Images:
        return self._run("decompress", "image", payload_bytes=payloads)

    def encode(self, latents: Int32) -> Payloads:
        return list(self._run("encode", "payload_bytes", latent=latents))

    def decode(self, payloads: Payloads) -> Int32:
        return self._run("decode", "latent", payload_bytes=payloads)


def interpreters(files: dict[str, bytes]) -> litert_js.Run:
    """A function that runs these ``.tflite`` files in the interpreter, on one thread."""
    # A runner does not keep its interpreter.
    kept = {name: Interpreter(model_content=content, num_threads=1) for name, content in files.items()}
    runners = {name: interpreter.get_signature_runner() for name, interpreter in kept.items()}

    def run(name: str, rows: Sequence[litert_js.Row]) -> Iterator[litert_js.Row]:
        assert kept
        return (runners[name](**row) for row in rows)

    return run


class LiteRT:
    """The ``.tflite`` files of an artifact, and the coder's own, wherever ``run`` runs them."""

    def __init__(self, run: litert_js.Run, capacity: int) -> None:
        self.run, self.capacity = run, capacity

    def _results(self, name: str, **inputs: Any) -> Iterator[litert_js.Row]:
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
        return iter(tqdm(self.run(name, rows), name, len(rows), delay=2.0, leave=False, disable=None))

    def _run(self, name: str, key: str, **inputs: Any) -> Any:
        return np.concatenate([result[key] for result in self._results(name, **inputs)])

    def _payloads(self, name: str, **inputs: Any) -> Payloads:
        payloads = []
        for result in self._results(name, **inputs):
            assert not result["payload"][result["length"][0] :].any(), "zero after the payload's length"
            payloads.append(result["payload"][: result["length"][0]].tobytes())
        return payloads

    def latents(self, images: Images) -> Int32:
        return rounded(self._run(artifacts.ENCODER_LATENT, "latent", image=images[:, None]))

    def compress(self, images: Images) -> Payloads:
        return self._payloads(artifacts.ENCODER_LITERT, image=images[:, None])

    def decompress(self, payloads: Payloads) -> Images:
        buffer, length = buffers(payloads, self.capacity)
        return self._run(artifacts.DECODER_LITERT, "image", payload=buffer, length=length[:, None])

    def encode(self, latents: Int32) -> Payloads:
        return self._payloads("encode", latent=latents[:, None])

    def decode(self, payloads: Payloads) -> Int32:
        return self.decode_buffers(*buffers(payloads, self.capacity))

    def decode_buffers(self, buffer: NDArray[np.uint8], length: Int32) -> Int32:
        return self._run("decode", "latent", payload=buffer, length=length[:, None])


def runtimes(codec: Codec, artifact: Path, browser: litert_js.Browser | None = None) -> dict[str, Any]:
    """All four of one codec that was frozen in this process and exported, and LiteRT.js if there is a browser."""
    parts: Any = codec.parts
    graphs = UniformGraphs(parts, parts.transform)
    coder, shape = graphs.coder, graphs.latent_shape

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.int32, "latent")])
    def encode(latent: Any) -> dict[str, Any]:
        return {"payload_bytes": coder.to_bytes(*coder.encode(tf.reshape(latent, [-1, coder.symbols])))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "payload_bytes")])
    def decode(payload_bytes: Any) -> dict[str, Any]:
        return {"latent": tf.reshape(coder.decode(*coder.from_bytes(payload_bytes)), [-1, *shape])}

    @tf.function(input_signature=[tf.TensorSpec([1, *shape], tf.int32, "latent")])
    def encode_one(latent: Any) -> dict[str, Any]:
        buffer, length = coder.encode(tf.reshape(latent, [1, coder.symbols]))
        return {"payload": tf.reshape(buffer, [coder.capacity]), "length": length}

    @tf.function(
        input_signature=[tf.TensorSpec([coder.capacity], tf.uint8, "payload"), tf.TensorSpec([1], tf.int32, "length")]
    )
    def decode_one(payload: Any, length: Any) -> dict[str, Any]:
        return {"latent": tf.reshape(coder.decode(payload[None], length), [1, *shape])}

    traced = {name: f.get_concrete_function() for name, f in (("encode", encode), ("decode", decode))}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, traced)
        paths = artifact / artifacts.ENCODER, artifact / artifacts.DECODER, folder
        loaded = [tf.saved_model.load(str(path)) for path in paths]
    encoder, decoder = (graphs.saved_models[name] for name in (artifacts.ENCODER, artifacts.DECODER))
    in_process = {
        "latents": encoder["latent"].get_concrete_function(),
        "compress": encoder["serving_default"].get_concrete_function(),
        "decompress": decoder["serving_default"].get_concrete_function(),
        **traced,
    }
    encoder, decoder, alone = (model.signatures for model in loaded)
    saved = {
        "latents": encoder["latent"],
        "compress": encoder["serving_default"],
        "decompress": decoder["serving_default"],
        "encode": alone["encode"],
        "decode": alone["decode"],
        "keep alive": loaded,
    }
    names = (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT, *artifacts.RUNTIMES["litert"])
    files = {name: (artifact / name).read_bytes() for name in names}
    files |= {"encode": to_litert(encode_one), "decode": to_litert(decode_one)}
    found = {
        "NumPy": Reference(codec),
        "TensorFlow graph": Graph(in_process),
        "SavedModel": Graph(saved),
        "LiteRT": LiteRT(interpreters(files), coder.capacity),
    }
    return found | ({JS: LiteRT(browser.load(files), coder.capacity)} if browser else {})


# === Comparisons ===


def compare(found: dict[str, Any], images: Images) -> dict[str, Any]:
    """All comparisons on images, uint8 [N, H, W, C]; each figure is a count of images, or of levels of 255."""
    reference: Reference = found["NumPy"]
    entropy_model = reference.entropy_model
    latents = entropy_model.clip(reference.latents(images))
    expected = reference.encode(latents)
    report: dict[str, Any] = {"images": len(images), "payload_bytes": sum(map(len, expected))}
    all_payloads = {}
    for name, runtime in found.items():
        own_latents = entropy_model.clip(runtime.latents(images))
        all_payloads[name] = payloads = runtime.compress(images)
        report[name] = {
            "payloads_unlike_numpy_of_same_latents": different(runtime.encode(latents), expected),
            "payloads_unlike_numpy_of_own_latents": different(payloads, entropy_model.encode(own_latents)),
            "images_whose_latents_round_unlike_keras": different(own_latents, latents),
            "latents_unlike_those_coded": different(runtime.decode(expected), latents),
        }
    coded = {name: entropy_model.decode(payloads) for name, payloads in all_payloads.items()}
    pixels = {name: reference.codec.reconstruct(own) for name, own in coded.items()}
    for name, runtime in found.items():
        wrong, levels = 0, 0
        for maker, payloads in all_payloads.items():
            wrong += different(runtime.decode(payloads), coded[maker])
            shown = runtime.decompress(payloads).astype(int)
            levels = max(levels, int(np.abs(shown - pixels[maker]).max()))
        report[name] |= {"latents_unlike_those_of_any_runtime": wrong, "levels_of_pixel_difference": levels}
    return report


def different(found: Sequence[Any], expected: Sequence[Any]) -> int:
    """How many items differ."""
    return sum(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def corrupted(payloads: Payloads, capacity: int, count: int, rng: np.random.Generator) -> Payloads:
    """Random, truncated, extended and bit-flipped payloads, some longer than any payload can be."""
    made = []
    for i in range(count):
        payload = payloads[i % len(payloads)]
        match i % 5:
            case 0:
                payload = rng.bytes(rng.integers(0, capacity + 1))
            case 1:
                payload = payload[: rng.integers(0, len(payload) + 1)]
            case 2:
                payload += rng.bytes(rng.integers(1, 2 * capacity))
            case 3 if payload:
                bit = int(rng.integers(8 * len(payload)))
                payload = (int.from_bytes(payload, "big") ^ 1 << bit).to_bytes(len(payload), "big")
            case 4:
                payload = bytes([rng.choice([0, 255])]) * int(rng.integers(0, 2 * capacity))
        made.append(payload)
    return made


def compare_corrupt(found: dict[str, Any], payloads: Payloads, capacity: int, seed: int = 0) -> dict[str, Any]:
    """What each runtime makes of corrupt payloads; a crash or a hang would end the program."""
    entropy_model: StaticModel = found["NumPy"].entropy_model
    expected: dict[int, Int32] = {}
    for i, payload in enumerate(payloads):
        try:
            expected[i] = entropy_model.decode([payload])[0]
        except BitstreamError:
            continue
    report: dict[str, Any] = {"payloads": len(payloads), "refused_by_numpy": len(payloads) - len(expected)}
    for name, runtime in found.items():
        if name == "NumPy":
            continue
        latents = runtime.decode(payloads)
        images = runtime.decompress(payloads)
        report[name] = {
            "outside_the_tables": different(latents, entropy_model.clip(latents)),
            "unlike_numpy": sum(not np.array_equal(latents[i], latent) for i, latent in expected.items()),
            "images": len(images),
        }
    rng = np.random.default_rng(seed)
    buffer = rng.integers(0, 256, (min(len(payloads), 1000), capacity)).astype(np.uint8)
    lengths = rng.choice([-(2**31), -1, 0, 1, capacity + 1, 2**31 - 1], len(buffer)).astype(np.int32)
    for name, runtime in found.items():
        if isinstance(runtime, LiteRT):
            latents = runtime.decode_buffers(buffer, lengths)
            outside = different(latents, entropy_model.clip(latents))
            report[name]["outside_the_tables_with_impossible_lengths"] = outside
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """The figures of `compare` or `compare_corrupt` that are not what they must be."""
    allowed = {"levels_of_pixel_difference": 1, "images": np.inf, "images_whose_latents_round_unlike_keras": np.inf}
    return [
        f"{runtime}: {name} {value}"
        for runtime, figures in report.items()
        if isinstance(figures, dict)
        for name, value in figures.items()
        if value > allowed.get(name, 0)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps MNIST")
    parser.add_argument("--images", type=int, default=10_000, help="MNIST test images")
    parser.add_argument("--glyphs", type=int, default=_settings.full_or(2_000, 100))
    parser.add_argument("--in-browser", type=int, default=100, help="of each, in LiteRT.js too")
    parser.add_argument("--corrupt", type=int, default=_settings.full_or(10_000, 500))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    train, test = _settings.mnist(args.data_dir)
    glyphs_train, glyphs_test = datasets.load_arrays("glyphs")
    calibration = np.concatenate([train[:8000], glyphs_train[:2000]])
    versions = {"tensorflow": tf.__version__, "ai-edge-litert": version("ai-edge-litert"), "numpy": np.__version__}
    if without := litert_js.absent():
        print(f"{JS} is left out: {without}")
    else:
        versions |= litert_js.versions()
    report: dict[str, Any] = {"machine": platform.machine(), "versions": versions, "codecs": {}}
    wrong = []
    for kind, build in KINDS.items():
        start = time.perf_counter()
        codec = trained_codec(kind, build, train, calibration)
        rows = {}
        with (
            nullcontext() if without else litert_js.Browser() as browser,
            tempfile.TemporaryDirectory() as folder,
        ):
            codec.export(Path(folder) / "artifact")
            found = runtimes(codec, Path(folder) / "artifact", browser)
            others = {name: runtime for name, runtime in found.items() if name != JS}
            for data, images in {"mnist": test[: args.images], "glyphs": glyphs_test[: args.glyphs]}.items():
                rows[data] = compare(others, images)
                if browser:
                    rows[f"{data}, with {JS}"] = compare(found, images[: args.in_browser])
            capacity = found["LiteRT"].capacity
            bad = corrupted(codec.compress(test[:1000]), capacity, args.corrupt, np.random.default_rng(0))
            rows["corrupt"] = compare_corrupt(found, bad, capacity)
        report["codecs"][kind] = rows
        wrong += [f"{kind}, {data}, {fault}" for data, row in rows.items() for fault in faults(row)]
        print(f"\n{kind}: {time.perf_counter() - start:.0f} s")
        for data, row in rows.items():
            print(f"  {data}: {', '.join(f'{k} {v}' for k, v in row.items() if not isinstance(v, dict))}")
            for runtime, figures in row.items():
                if isinstance(figures, dict):
                    print(
                        f"    {runtime:17} " + ", ".join(f"{k} {v}" for k, v in figures.items() if v or k == "images")
                    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    if wrong:
        raise SystemExit("\n".join(["runtimes differ:", *wrong]))
    print("every runtime agrees")


if __name__ == "__main__":
    main()
