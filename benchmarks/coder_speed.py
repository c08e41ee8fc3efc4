"""Symbols per second of entropy coders, each on the same symbols in the same run.

    python benchmarks/coder_speed.py [--peer-python PYTHON]

Two workloads of zero-mean Gaussian integers under 64 scales: many small messages, and one large; each on one core, and
on all that there are. A coder takes int32 latents [N, S] to N bytes objects and back; making and taking the bytes
objects counts, building its models does not. constriction codes one message a call, so that a loop over the messages is
what its users write. TensorFlow Compression codes with the same tables in an environment of its own (``--peer-python``:
tensorflow-compression 2.14), by the ops of its entropy models. Each figure is the median of the repetitions; the coders
take turns within each, so that a disturbance meets all of them.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np

from tfcomp import use_numba
from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.measure import evaluate

HERE = Path(__file__).parent
RESULTS = _settings.RESULTS / "coder_speed.json"
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

    def timed(self, latents: Int32) -> tuple[float, float, int]:
        """Seconds to encode and to decode, and bytes; what does not restore the latents ends the run."""
        begin = time.perf_counter()
        payloads = self.encode(latents)
        middle = time.perf_counter()
        restored = self.decode(payloads)
        end = time.perf_counter()
        if not np.array_equal(restored, latents):
            sys.exit(f"{self.name} did not restore the latents")
        return middle - begin, end - middle, sum(map(len, payloads))


@dataclass(frozen=True)
class Peer:
    """A row whose coder runs in another process, which times itself."""

    name: str
    process: subprocess.Popen[str]

    def timed(self, latents: Int32) -> tuple[float, float, int]:
        del latents  # it has them
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return found["encode"], found["decode"], found["bytes"]


# === Coders: add one by adding a function that makes it for a workload, and its name in CODERS ===


def numpy_coder(work: Workload) -> Coder:
    return _range_coder(work, "NumPy")


def numba_coder(work: Workload) -> Coder:
    return _range_coder(work, "Numba")


def _range_coder(work: Workload, loops: str) -> Coder:
    def encode(latents: Int32) -> Sequence[bytes]:
        use_numba(loops == "Numba")
        return range_coder.encode(latents, work.tables, work.index, work.segments)

    def decode(payloads: Sequence[bytes]) -> Int32:
        return range_coder.decode(payloads, work.tables, work.index, work.segments)

    return Coder(f"tfcomp range_coder ({loops}, {work.segments} segment{'s' * (work.segments > 1)})", encode, decode)


def graph_coder(work: Workload, compiled: bool = False) -> Coder:
    """The coder of SavedModels, from and to bytes objects: the buffers are filled and cut in NumPy."""
    import tensorflow as tf

    from tfcomp.graph.messages import GraphCoder

    coder, messages = GraphCoder(work.tables, work.index, work.segments), len(work.latents)
    payload = [tf.TensorSpec([messages, coder.capacity], tf.uint8), tf.TensorSpec([messages], tf.int32)]
    latent = [tf.TensorSpec(work.latents.shape, tf.int32)]
    encoder = tf.function(coder.encode, input_signature=latent, jit_compile=compiled)
    decoder = tf.function(coder.decode, input_signature=payload, jit_compile=compiled)

    def encode(latents: Int32) -> list[bytes]:
        buffers, lengths = encoder(latents)
        data = buffers.numpy().tobytes()
        starts = range(0, len(data), coder.capacity)
        return [data[start : start + length] for start, length in zip(starts, lengths.numpy().tolist(), strict=True)]

    def decode(payloads: Sequence[bytes]) -> Int32:
        buffers = np.frombuffer(b"".join(payload.ljust(coder.capacity, b"\0") for payload in payloads), np.uint8)
        lengths = np.fromiter(map(len, payloads), np.int32, messages)
        return decoder(buffers.reshape(messages, -1), lengths).numpy()

    return Coder(f"tfcomp range_coder_graph ({'XLA' if compiled else 'tf.function'})", encode, decode)


def compiled_graph_coder(work: Workload) -> Coder:
    return graph_coder(work, compiled=True)


@contextmanager
def tensorflow_compression(work: Workload, python: str | None) -> Iterator[list[Peer]]:
    """The peer, started and stopped; no row without its interpreter."""
    if not python:
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.npz"
        frequencies = work.tables.frequencies.reshape(len(work.tables), -1)
        np.savez(path, latents=work.latents, index=work.index, frequencies=frequencies, least=-LARGEST)
        command = [python, str(HERE / "peers" / "tfc_coder.py"), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            started = json.loads(process.stdout.readline())
            yield [Peer(f"TensorFlow Compression range coder (TensorFlow {started['tensorflow']})", process)]
            process.stdin.close()


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
    numba_coder,
    graph_coder,
    compiled_graph_coder,
    constriction_gaussian_range,
    constriction_gaussian_ans,
    constriction_categorical_range,
    constriction_categorical_grouped,
]

# === Measurement ===


def measure(work: Workload, repetitions: int, peer_python: str | None) -> list[dict[str, Any]]:
    """One dictionary for each coder."""
    with tensorflow_compression(work, peer_python) as peers:
        coders = [*(coder for make in CODERS if (coder := make(work)) is not None), *peers]
        results: dict[str, list[tuple[float, float, int]]] = {coder.name: [] for coder in coders}
        for repetition in range(repetitions + 1):
            for coder in coders:
                found = coder.timed(work.latents)
                if repetition:  # the first warms up
                    results[coder.name].append(found)
    ideal_bytes = float(work.tables.ideal_bits(work.latents, work.index).sum()) / 8
    return [
        {
            "workload": work.name,
            "cores": len(os.sched_getaffinity(0)),
            "coder": name,
            "encode_symbols_per_second": round(work.latents.size / statistics.median(r[0] for r in found)),
            "decode_symbols_per_second": round(work.latents.size / statistics.median(r[1] for r in found)),
            "bytes": found[0][2],
            "ideal_bytes_under_tables": round(ideal_bytes, 1),
        }
        for name, found in results.items()
    ]


def print_rows(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(f"\n{first['workload']}, cores: {first['cores']} (ideal: {first['ideal_bytes_under_tables']:,.0f} bytes)")
    print(f"{'':62}{'encode':>10}{'decode':>10}{'bytes':>12}")
    for row in rows:
        encode, decode = (row[f"{way}_symbols_per_second"] / 1e6 for way in ("encode", "decode"))
        print(f"{row['coder']:62}{encode:8.1f} M{decode:8.1f} M{row['bytes']:12,}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    messages, symbols, repetitions = _settings.full_or((10_000, 300_032, 9), (200, 19_200, 1))
    parser.add_argument("--messages", type=int, default=messages, help="small messages, of 64 symbols")
    parser.add_argument("--symbols", type=int, default=symbols, help="of the large message, a multiple of 64")
    parser.add_argument("--segments", type=int, default=512, help="segments of the large message")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python", help="interpreter with tensorflow-compression 2.14")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rows-for", choices=["one", "all"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    large = (f"1 message of {args.symbols} symbols", 1, args.symbols, args.segments)
    works = [(f"{args.messages} messages of 64 symbols", args.messages, 64, 1), large]
    if args.rows_for:
        if args.rows_for == "one":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for work in works:
            print(json.dumps(measure(Workload.gaussian(*work, args.seed), args.repetitions, args.peer_python)))
        return
    rows = []
    for cores in ("one", "all"):  # in processes of their own: thread pools are made for the cores there are
        command = [sys.executable, __file__, *sys.argv[1:], "--rows-for", cores]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for line in done.stdout.splitlines():
            print_rows(json.loads(line))
            rows += json.loads(line)
    report = {
        "benchmark": "coder_speed",
        **evaluate.provenance(["tfcomp", "numpy", "numba", "tensorflow", "constriction"], seed=args.seed),
        "repetitions": args.repetitions,
        "statistic": "median",
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
