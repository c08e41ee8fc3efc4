"""Two and sixteen threads on one codec beside one thread: the same answers, and how many times the throughput.

    python benchmarks/threads.py [--seconds 20]

The codecs: the bundled one, on a photograph of 256x384 at a time; and convolutional and dense networks of the default
widths, on a thousand images of 28x28 at a time. Their networks run in LiteRT with one thread each, and Numba compiles
the range coder's loops; both work without Python's lock. Rounds of one thread, of two and of sixteen take turns, so
that what else the machine does weighs on all. The ratio cannot pass the number of processors.

Writes ``benchmarks/results/threads.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np

import tfcomp
from tfcomp.measure import evaluate

THREADS = (1, 2, 16)
ROUND = 32
"""Calls of a round, by one number of threads."""
CODECS = ("photographs", "conv", "dense")


def codec_of(name: str) -> tfcomp.Codec:
    """The bundled codec, or one of networks that were trained for a moment: speed does not depend on how long."""
    if name == "photographs":
        return tfcomp.Codec.load(threads=1)
    keras.utils.set_random_seed(0)
    images = tfcomp.datasets.load_arrays("glyphs")[0][:2048]
    model = getattr(tfcomp.AutoEncoder, name)((28, 28, 1), latent_dim=64, beta=0.06)
    model.compile(optimizer="adam")
    model.fit(images, batch_size=128, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        tfcomp.Codec.freeze(model, calibration=images).export(f"{folder}/artifact")
        return tfcomp.Codec.load(f"{folder}/artifact", threads=1)


def items_of(codec: tfcomp.Codec) -> Any:
    """What a thread compresses at a time: a photograph of noise and slopes, or a thousand small images."""
    rng = np.random.default_rng(0)
    if not codec.item.any_size:
        return rng.integers(0, 256, (1000, *codec.item.shape)).astype(np.uint8)
    y, x = np.mgrid[:256, :384]
    planes = [128 + 80 * np.sin(x / (9 + k)) * np.cos(y / (13 - k)) + rng.normal(0, 4, x.shape) for k in range(3)]
    return [np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)]


def measure(name: str, seconds: float) -> dict[str, float]:
    """Items both ways a second, by each of `THREADS`."""
    codec = codec_of(name)
    items = items_of(codec)
    payloads = codec.compress(items)
    expected = codec.decompress(payloads)

    def both_ways(_: int) -> bool:
        same = codec.compress(items) == payloads
        restored = codec.decompress(payloads)
        return same and all(np.array_equal(a, b) for a, b in zip(restored, expected, strict=True))

    spent, done = dict.fromkeys(THREADS, 0.0), dict.fromkeys(THREADS, 0)
    with ExitStack() as stack:
        pools = {threads: stack.enter_context(ThreadPoolExecutor(threads)) for threads in THREADS}
        for pool in pools.values():  # threads begin, and interpreters are made
            list(pool.map(both_ways, range(ROUND)))
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds or not done[THREADS[-1]]:
            for threads, pool in pools.items():
                start = time.perf_counter()
                answers = list(pool.map(both_ways, range(ROUND)))
                spent[threads] += time.perf_counter() - start
                assert all(answers), f"{name}: {threads} threads got other answers than one"
                done[threads] += len(answers)
    speed = {threads: len(items) * done[threads] / spent[threads] for threads in THREADS}
    return {
        "items a second, one thread": round(speed[1], 2),
        **{f"times that, {threads} threads": round(speed[threads] / speed[1], 2) for threads in THREADS[1:]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=_settings.full_or(20, 1), help="of each codec")
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS)
    args = parser.parse_args()
    tfcomp.use_numba()
    result: dict[str, Any] = {name: measure(name, args.seconds) for name in args.codecs}
    result |= evaluate.provenance(["tfcomp", "ai-edge-litert", "numba", "numpy"], seed=0)
    result["processors"] = os.cpu_count()
    (_settings.RESULTS / "threads.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
