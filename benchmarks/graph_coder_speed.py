"""Speed and memory of the graph coder in LiteRT, TensorFlow and XLA, each on the same symbols in the same run.

    python benchmarks/graph_coder_speed.py

Laplacian integers, about 3 bits each. Small messages have 64 symbols and one segment; the large one has 300,000 symbols
of 192 tables, in segments of several sizes. LiteRT runs on one thread and takes one message at a time; TensorFlow
and XLA take a batch, on all cores. Times are medians, and least times, of repetitions in which all runtimes take turns,
each for 5 ms or one call.
Memory is the growth of a fresh process's peak resident set from after loading LiteRT's library to after the last run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
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
from ai_edge_litert.interpreter import Interpreter

from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables, Int32

RESULTS = _settings.RESULTS / "graph_coder_speed.json"
LARGE = _settings.full_or(300_000, 20_000)
SEGMENT_SIZES = _settings.full_or((4096, 2048, 1024, 512), (2048,))
"""Most symbols in one segment of the large message."""


def workload(symbols: int, messages: int, count: int) -> tuple[FrequencyTables, Int32, Int32]:
    """Tables, index int32 [S], and latents int32 [N, S] drawn from the tables."""
    rng = np.random.default_rng(symbols)
    values = np.arange(-16, 16)
    scales = np.geomspace(0.5, 4, count)
    tables = FrequencyTables.from_probabilities([np.exp(-np.abs(values) / s) for s in scales], [-16] * count, 12)
    index = (np.arange(symbols) % count).astype(np.int32)
    latents = np.empty((messages, symbols), np.int32)
    for table in range(count):
        frequencies = tables.frequencies[tables.first[table] :][: tables.sizes[table]]
        shape = latents[:, table::count].shape
        latents[:, table::count] = rng.choice(values, shape, p=frequencies / frequencies.sum())
    return tables, index, latents


def converted(function: Callable[..., Any], signature: list[Any]) -> bytes:
    import tensorflow as tf

    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return bytes(converter.convert())


def invoker(model: bytes | str, inputs: list[np.ndarray[Any, Any]]) -> Interpreter:
    """An interpreter on one thread whose inputs are set; they are told apart by their types."""
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": model}
    interpreter = Interpreter(num_threads=1, **source)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], next(x for x in inputs if x.dtype == detail["dtype"]))
    return interpreter


def peak_growth_mib(model: bytes, inputs: list[np.ndarray[Any, Any]]) -> float:
    """MiB that a fresh process's peak memory grows by when it loads and runs a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        np.savez(Path(folder) / "inputs.npz", *inputs)
        command = [sys.executable, __file__, "--memory-of", folder]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_kib() -> int:
    """This program's peak resident set; getrusage's would include that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def print_peak_growth(folder: Path) -> None:
    arrays = np.load(folder / "inputs.npz")
    inputs = [arrays[name] for name in arrays]
    before = peak_kib()
    interpreter = invoker(str(folder / "model.tflite"), inputs)
    for _ in range(2):
        interpreter.invoke()
    print((peak_kib() - before) / 1024)


def measure(name: str, symbols: int, segments: int, count: int, batch: int, repetitions: int) -> list[dict[str, Any]]:
    import tensorflow as tf

    from tfcomp.graph.messages import GraphCoder

    tables, index, latents = workload(symbols, batch, count)
    coder = GraphCoder(tables, index, segments)
    payloads = range_coder.encode(latents, tables, index, segments)
    buffer = np.zeros((batch, coder.capacity), np.uint8)
    for row, payload in zip(buffer, payloads, strict=True):
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
    length = np.array([len(payload) for payload in payloads], np.int32)
    ideal_bytes = tables.ideal_bits(latents, index).sum() / 8
    overhead = f"{100 * (length.sum() / ideal_bytes - 1):.2f} %"

    def specs(n: int | None) -> tuple[list[Any], list[Any]]:
        payload = [tf.TensorSpec([n, coder.capacity], tf.uint8), tf.TensorSpec([n], tf.int32)]
        return [tf.TensorSpec([n, symbols], tf.int32)], payload

    one, many = specs(1), specs(batch)
    models = converted(lambda x: coder.encode(x), one[0]), converted(lambda b, n: coder.decode(b, n), one[1])
    inputs = [latents[:1]], [buffer[:1], length[:1]]
    lite = [invoker(model, x) for model, x in zip(models, inputs, strict=True)]
    runs: dict[tuple[str, str], Callable[[], Any]] = {
        ("LiteRT", "encode"): lite[0].invoke,
        ("LiteRT", "decode"): lite[1].invoke,
    }
    x, b, n = tf.constant(latents), tf.constant(buffer), tf.constant(length)
    for runtime, options in (("TensorFlow", {}), ("XLA", {"jit_compile": True})):
        encode = tf.function(coder.encode, input_signature=many[0], **options)
        decode = tf.function(coder.decode, input_signature=many[1], **options)
        runs[runtime, "encode"] = lambda encode=encode: encode(x)[1].numpy()
        runs[runtime, "decode"] = lambda decode=decode: decode(b, n).numpy()
        assert np.array_equal(encode(x)[0], buffer)
        assert np.array_equal(decode(b, n), latents)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for repetition in range(repetitions + 1):
        for key, run in runs.items():
            run()  # the others have emptied the caches
            calls = math.ceil(0.005 / min(seconds[key])) if repetition else 1
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[key].append((time.perf_counter() - begin) / calls)
    rows = []
    for (runtime, direction), times in seconds.items():
        coded = symbols * (1 if runtime == "LiteRT" else batch)
        row = {
            "workload": name,
            "segments": segments,
            "symbols_per_segment": math.ceil(symbols / segments),
            "runtime": runtime,
            "direction": direction,
            "messages": coded // symbols,
            "bytes_over_ideal": overhead,
            "median_ms": round(1e3 * statistics.median(times), 4),
            "least_ms": round(1e3 * min(times), 4),
            "million_symbols_per_second": round(coded / statistics.median(times) / 1e6, 2),
        }
        if runtime == "LiteRT":
            i = int(direction == "decode")
            row |= {
                "model_kb": math.ceil(len(models[i]) / 1000),
                "peak_mib": round(peak_growth_mib(models[i], [*inputs[i]]), 1),
            }
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--repetitions", type=int, default=_settings.full_or(25, 1))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_peak_growth(arguments.memory_of)
        return
    rows = measure("small", 64, 1, 64, 1000, 2 * arguments.repetitions)
    for symbols_per_segment in SEGMENT_SIZES:
        segments = range_coder.segment_count(LARGE, symbols_per_segment)
        rows += measure("large", LARGE, segments, 192, 1, arguments.repetitions)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
