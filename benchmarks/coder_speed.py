"""Symbols per second of entropy coders, each on the same symbols in the same run.

    python benchmarks/coder_speed.py

Two workloads of zero-mean Gaussian integers under 64 scales, on one core: many small messages, and one large. A coder
takes int32 latents [N, S] to N bytes objects and back; making and taking the bytes objects counts, building its models
does not. constriction codes one message a call, so that a loop over the messages is what its users write. Each figure
is the median of the repetitions; the coders take turns within each, so that a disturbance meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# One core for all: threads of other libraries would make unequal terms.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from tfcomp import range_coder
from tfcomp.tables import FrequencyTables, Int32

RESULTS = Path(__file__).parent / "results" / "coder_speed.json"
LARGEST = 32  # the support is -32 to 32


@dataclass(frozen=True)
class Workload:
    """Messages to code.

    Attributes:
        name: for the table.
        latents: int32 [N, S].
        scales: float32 [S], the standard deviation of each latent.
        tables: one for each of the scales.
        index: int32 [S], the table of each latent.
        segments: for the coders that have segments.
    """

    name: str
    latents: Int32
    scales: np.ndarray[Any, np.dtype[np.float32]]
    tables: FrequencyTables
    index: Int32
    segments: int

    @classmethod
    def gaussian(cls, name: str, messages: int, symbols: int, segments: int, seed: int) -> Workload:
        scales = np.geomspace(0.3, 6, 64)
        values = np.arange(-LARGEST, LARGEST + 1)
        tables = FrequencyTables.from_probabilities(
            [np.exp(-0.5 * (values / scale) ** 2) for scale in scales], [-LARGEST] * len(scales), precision=12
        )
        index = (np.arange(symbols) % len(scales)).astype(np.int32)
        draws = np.random.default_rng(seed).normal(size=(messages, symbols)) * scales[index]
        latents = tables.clip(np.rint(draws).astype(np.int32), index)
        return cls(name, latents, scales[index].astype(np.float32), tables, index, segments)


@dataclass(frozen=True)
class Coder:
    """A row of the table: a pair of functions for one workload."""

    name: str
    encode: Callable[[Int32], Sequence[bytes]]
    decode: Callable[[Sequence[bytes]], Int32]


# === Coders: add one by adding a function that makes it for a workload, and its name in CODERS ===


def numpy_coder(work: Workload) -> Coder:
    return Coder(
        f"tfcomp range_coder (NumPy, {work.segments} segment{'s' * (work.segments > 1)})",
        lambda latents: range_coder.encode(latents, work.tables, work.index, work.segments),
        lambda payloads: range_coder.decode(payloads, work.tables, work.index, work.segments),
    )


def constriction_gaussian_range(work: Workload) -> Coder:
    from constriction import stream

    family, means = stream.model.QuantizedGaussian(-LARGEST, LARGEST), np.zeros_like(work.scales)
    return _constriction_range("constriction range coder, Gaussian family", stream.queue, 0, family, means, work.scales)


def constriction_categorical_range(work: Workload) -> Coder:
    from constriction import stream

    family = stream.model.Categorical(perfect=False)
    frequencies = work.tables.frequencies.reshape(len(work.tables), -1)[work.index].astype(np.float32)
    return _constriction_range("constriction range coder, categorical", stream.queue, LARGEST, family, frequencies)


def _constriction_range(name: str, queue: Any, shift: int, family: Any, *parameters: Any) -> Coder:
    def encode(latents: Int32) -> list[bytes]:
        payloads = []
        for message in latents + np.int32(shift):
            encoder = queue.RangeEncoder()
            encoder.encode(message, family, *parameters)
            payloads.append(encoder.get_compressed().tobytes())
        return payloads

    def decode(payloads: Sequence[bytes]) -> Int32:
        decoders = (queue.RangeDecoder(np.frombuffer(payload, np.uint32)) for payload in payloads)
        return np.stack([decoder.decode(family, *parameters) for decoder in decoders]) - np.int32(shift)

    return Coder(name, encode, decode)


def constriction_gaussian_ans(work: Workload) -> Coder:
    from constriction import stream

    family, means = stream.model.QuantizedGaussian(-LARGEST, LARGEST), np.zeros_like(work.scales)

    def encode(latents: Int32) -> list[bytes]:
        payloads = []
        for message in latents:
            coder = stream.stack.AnsCoder()
            coder.encode_reverse(message, family, means, work.scales)
            payloads.append(coder.get_compressed().tobytes())
        return payloads

    def decode(payloads: Sequence[bytes]) -> Int32:
        coders = (stream.stack.AnsCoder(np.frombuffer(payload, np.uint32)) for payload in payloads)
        return np.stack([coder.decode(family, means, work.scales) for coder in coders])

    return Coder("constriction ANS, Gaussian family", encode, decode)


def constriction_categorical_grouped(work: Workload) -> Coder | None:
    """One call for all symbols of a table; only for one message, as for many it would be 64 calls a message."""
    from constriction import stream

    if len(work.latents) > 1:
        return None
    rows = work.tables.frequencies.reshape(len(work.tables), -1).astype(np.float32)
    models = [stream.model.Categorical(row, perfect=False) for row in rows]
    columns = [np.flatnonzero(work.index == table) for table in range(len(models))]

    def encode(latents: Int32) -> list[bytes]:
        encoder, symbols = stream.queue.RangeEncoder(), latents[0] + np.int32(LARGEST)
        for where, categorical in zip(columns, models, strict=True):
            encoder.encode(symbols[where], categorical)
        return [encoder.get_compressed().tobytes()]

    def decode(payloads: Sequence[bytes]) -> Int32:
        decoder, latents = stream.queue.RangeDecoder(np.frombuffer(payloads[0], np.uint32)), np.empty_like(work.latents)
        for where, categorical in zip(columns, models, strict=True):
            latents[0, where] = decoder.decode(categorical, len(where))
        return latents - np.int32(LARGEST)

    return Coder("constriction range coder, categorical, grouped by table", encode, decode)


CODERS: list[Callable[[Workload], Coder | None]] = [
    numpy_coder,
    constriction_gaussian_range,
    constriction_gaussian_ans,
    constriction_categorical_range,
    constriction_categorical_grouped,
]

# === Measurement ===


def measure(work: Workload, repetitions: int) -> list[dict[str, Any]]:
    """One dictionary for each coder; a coder that does not restore the latents ends the run."""
    coders = [coder for make in CODERS if (coder := make(work)) is not None]
    seconds: dict[str, tuple[list[float], list[float]]] = {coder.name: ([], []) for coder in coders}
    size = {}
    for repetition in range(repetitions + 1):  # the first warms up
        for coder in coders:
            begin = time.perf_counter()
            payloads = coder.encode(work.latents)
            middle = time.perf_counter()
            restored = coder.decode(payloads)
            end = time.perf_counter()
            if not np.array_equal(restored, work.latents):
                sys.exit(f"{coder.name} did not restore the latents of {work.name}")
            size[coder.name] = sum(map(len, payloads))
            if repetition:
                seconds[coder.name][0].append(middle - begin)
                seconds[coder.name][1].append(end - middle)
    ideal_bytes = float(work.tables.ideal_bits(work.latents, work.index).sum()) / 8
    return [
        {
            "workload": work.name,
            "coder": name,
            "encode_symbols_per_second": round(work.latents.size / statistics.median(encoding)),
            "decode_symbols_per_second": round(work.latents.size / statistics.median(decoding)),
            "bytes": size[name],
            "ideal_bytes_under_tables": round(ideal_bytes, 1),
        }
        for name, (encoding, decoding) in seconds.items()
    ]


def machine() -> str:
    """The kind of machine, without its name."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000, help="small messages, of 64 symbols")
    parser.add_argument("--symbols", type=int, default=300_000, help="symbols of the large message")
    parser.add_argument("--segments", type=int, default=512, help="segments of the large message")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    rows = []
    for name, messages, symbols, segments in [
        (f"{args.messages} messages of 64 symbols", args.messages, 64, 1),
        (f"1 message of {args.symbols} symbols", 1, args.symbols, args.segments),
    ]:
        work = Workload.gaussian(name, messages, symbols, segments, args.seed)
        rows += measure(work, args.repetitions)
        ideal = rows[-1]["ideal_bytes_under_tables"]
        print(f"\n{name} (ideal under the tables: {ideal:,.0f} bytes)")
        print(f"{'':58}{'encode':>10}{'decode':>10}{'bytes':>12}")
        for row in (row for row in rows if row["workload"] == name):
            encode, decode = (row[f"{way}_symbols_per_second"] / 1e6 for way in ("encode", "decode"))
            print(f"{row['coder']:58}{encode:8.1f} M{decode:8.1f} M{row['bytes']:12,}")

    report = {
        "benchmark": "coder_speed",
        "command": shlex.join(["python", "benchmarks/coder_speed.py", *sys.argv[1:]]),
        "machine": f"{machine()}; pinned to one core",
        "versions": {"python": platform.python_version()}
        | {p: installed(p) for p in ("tfcomp", "numpy", "constriction")},
        "seed": args.seed,
        "repetitions": args.repetitions,
        "statistic": "median",
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
