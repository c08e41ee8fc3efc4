"""What was made in one process works in another: after a fork while threads code, and by copies and pickles."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from kinds import Kind

from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.vae import VAE
from tfcomp.storage.container import Archive, write

WAYS = (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)))
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.mark.further
@forking
def test_a_fork_while_threads_code_does_not_hang(tmp_path: Path) -> None:
    """The child's codec has interpreters whose threads stayed behind, and locks that a thread may have held."""
    script = """
        import threading, sys
        from multiprocessing import get_context
        import numpy as np
        import tfcomp
        codec, done = tfcomp.Codec.load(), threading.Event()
        image = np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8)
        expected = codec.compress([image], quality=2)
        def work():
            while not done.is_set():
                codec.decompress(codec.compress([image], quality=2))
        def child():
            sys.exit(0 if codec.compress([image], quality=2) == expected else 3)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        found = []
        for _ in range(4):
            process = get_context("fork").Process(target=child)
            process.start()
            process.join(60)
            found.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                break
        done.set()
        for thread in threads:
            thread.join()
        print(found)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.stdout.strip().endswith("[0, 0, 0, 0]"), done.stdout + done.stderr


@forking
def test_no_lock_that_another_thread_held_is_left_after_a_fork() -> None:
    script = """
        import os, sys, threading
        from functools import cached_property
        import tfcomp.codec, tfcomp.tiled, tfcomp.entropy.blas as blas, tfcomp.storage.pixel_limit as pixels
        import tfcomp.silence as silence
        locks = lambda: [blas._LOCK, pixels._limit._lock, silence._off._lock] + [
            value.lock
            for name, module in sorted(sys.modules.items()) if name.startswith("tfcomp")
            for owner in vars(module).values() if isinstance(owner, type)
            for value in vars(owner).values() if isinstance(value, cached_property) and hasattr(value, "lock")
        ]
        held, over = threading.Event(), threading.Event()
        def hold():
            for lock in locks():
                lock.acquire(blocking=False)
            held.set()
            over.wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if not child:
            os._exit(0 if all(lock.acquire(blocking=False) for lock in locks()) else 3)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        over.set()
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "child 0", done.stdout + done.stderr


def read(archive: Archive) -> list[bytes]:
    return list(archive)


@pytest.mark.further
def test_archives_are_copied_pickled_and_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [bytes([i]) * 70_000 for i in range(6)]
    write(tmp_path / "a.tfz", payloads, fingerprint=bytes(16), item_shape=(1,))
    monkeypatch.chdir(tmp_path)
    with Archive.open("a.tfz", eager_bytes=0) as archive:
        copies = [way(archive) for way in WAYS]
        assert archive[5] == payloads[5]
        for other in copies:
            with other:
                assert read(other) == payloads
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(read, (archive,)) == payloads
        if hasattr(os, "pread"):  # a forked process shares the file's position, which reading leaves where it is
            before = archive._file.tell()
            assert read(archive) == payloads
            assert archive._file.tell() == before


@pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle"])
def test_codecs_and_models_are_copied(way: Callable[[Any], Any], kinds: Callable[[str], Kind]) -> None:
    kind = kinds("dense")
    payloads = kind.codec.compress(kind.items)
    copies = [way(kind.load("litert")), way(kind.load("litert").at(1))]
    if way is not WAYS[-1]:
        copies.append(way(kind.codec))
    for codec in copies:
        assert codec.fingerprint == kind.codec.fingerprint
        assert codec.compress(kind.items) == payloads
    keras.utils.set_random_seed(2)
    for model in (
        AutoEncoder.dense((28, 28, 1), 3, hidden=(4,), beta=(0.5, 0.1)),
        VAE.dense((28, 28, 1), 3, hidden=(4,)),
    ):
        other = way(model)
        assert type(other) is type(model)
        np.testing.assert_array_equal(other.latents(kind.items), model.latents(kind.items))
