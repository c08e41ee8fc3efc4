"""Damaged and forged files by the thousand: nothing comes of them but named errors and right results.

    python fuzz/fuzz.py --cases 100000
    python fuzz/fuzz.py --case 4711         one case again, in this process, with its traceback

Cases are numbered; a number and the seed make the same case on every machine. They run in processes whose memory is
limited, a target in its own, so that a crash of the process is found too. `targets` says what is right; the limits of
time and memory are those of ``SECURITY.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing.connection
import os
import random
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import targets

from tfcomp.errors import TfcompError

HANGS = 300.0
"""Seconds without a word after which a process is killed, and its case wrong."""
SECONDS = 10.0
"""Most CPU seconds of a case: inputs are some kilobytes, and images have 65,536 pixels in all at most."""
TRACED_BYTES = 96 << 20
"""Most bytes that Python and NumPy hold during a case."""
ADDRESS_BYTES = 3 << 30
"""Most address space of a process, libraries included; TensorFlow takes more than this for itself."""
TRACED_EVERY = 16
"""How often a case is traced: tracing takes time."""


def target_of(number: int, seed: int) -> str:
    """The target of a case."""
    shares = [share for _, share in targets.TARGETS.values()]
    return random.Random(f"{seed} {number} target").choices(list(targets.TARGETS), shares)[0]


def run(number: int, seed: int) -> str:
    """Runs a case; its outcome is ``"right"`` or the class of a named error. Raises on everything else."""
    name = target_of(number, seed)
    traced = number % TRACED_EVERY == 0 and name != "saved_model"
    if traced:
        tracemalloc.start()
    start, outcome, named = time.process_time(), "right", None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            targets.TARGETS[name][0](random.Random(f"{seed} {number}"))
    except TfcompError as error:
        named = error
        outcome = type(error).__name__
    finally:
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
    seconds = time.process_time() - start
    if named is not None:
        assert not isinstance(named.__cause__, MemoryError), "memory ran out"
        assert "\n" not in str(named), "more than a line"
    assert seconds < SECONDS, f"{seconds:.1f} CPU seconds"
    assert peak < TRACED_BYTES, f"{peak:,} bytes"
    return f"{name}: {outcome}"


def _work(numbers: list[int], seed: int, limited: bool, pipe: Any) -> None:
    if limited:
        import resource  # which Windows has not

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    for name in {target_of(number, seed) for number in numbers[:1]}:
        if name != "saved_model":  # so that no case pays for what is read once
            for kind in targets.KINDS:
                _ = targets.subject(kind).payloads
    for number in numbers:
        pipe.send((number, None))
        try:
            outcome = run(number, seed)
        except BaseException as error:
            outcome = f"WRONG {type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc()[-1500:]}"
        pipe.send((number, outcome))
    pipe.close()


def fuzz(cases: int, seed: int, processes: int) -> tuple[Counter[str], dict[int, str]]:
    """Runs cases in processes; a process that ends goes on with another after the case that ended it.

    Returns:
        How often each outcome came, and what is wrong, by number.
    """
    groups: dict[bool, list[int]] = {False: [], True: []}
    for number in range(cases):
        groups[target_of(number, seed) == "saved_model"].append(number)
    queues = [groups[False][i::processes] for i in range(processes)] + [groups[True]]
    context = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    running: dict[Any, tuple[Any, list[int], bool, int]] = {}
    heard: dict[Any, float] = {}

    def start(numbers: list[int], limited: bool) -> None:
        if numbers:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(numbers, seed, limited, writer))
            process.start()
            writer.close()
            running[reader] = (process, numbers, limited, -1)
            heard[reader] = time.monotonic()

    for queue in queues:
        start(queue, queue is not groups[True])
    begun = told = time.monotonic()
    while running:
        for reader in multiprocessing.connection.wait(list(running), timeout=60):
            process, numbers, limited, current = running[reader]
            try:
                number, outcome = reader.recv()
            except EOFError:
                process.join()
                del running[reader]
                if process.exitcode:
                    wrong[current] = f"the process ended with {process.exitcode} ({target_of(current, seed)})"
                    start(numbers[numbers.index(current) + 1 :] if current in numbers else [], limited)
                continue
            running[reader] = (process, numbers, limited, number)
            heard[reader] = time.monotonic()
            if outcome is None:
                continue
            if "WRONG" in outcome:
                wrong[number] = f"{target_of(number, seed)}: {outcome}"
                print(f"case {number}: {wrong[number]}", flush=True)
            else:
                outcomes[outcome] += 1
        for reader, (process, *_) in running.items():
            if time.monotonic() - heard[reader] > HANGS:
                process.kill()  # its pipe then ends, and the case is wrong
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{outcomes.total() + len(wrong)} of {cases} cases, {told - begun:.0f} s", flush=True)
    if (done := outcomes.total() + len(wrong)) != cases:
        wrong[-1] = f"{done} of {cases} cases were run"
    return outcomes, wrong


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", type=int, help="this one alone")
    args = parser.parse_args()
    if args.case is not None:
        print(target_of(args.case, args.seed), run(args.case, args.seed))
        return 0
    outcomes, wrong = fuzz(args.cases, args.seed, args.processes)
    print(json.dumps(dict(sorted(outcomes.items())), indent=2))
    for number, said in sorted(wrong.items()):
        print(f"case {number}: {said}")
    print(f"{args.cases} cases, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(_main())
