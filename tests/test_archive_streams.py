"""The .tfz archive as a stream: written without being held, read by many threads."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcomp.errors import InputError
from tfcomp.storage import container
from tfcomp.storage.container import BLOCK, Archive

FINGERPRINT = bytes(range(16))


def test_payloads_of_a_generator_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "SPOOL_BYTES", 1 << 16)
    names: list[str] = []

    def made() -> Iterator[bytes]:
        for i in range(200):
            names.append(f"{i}.png")
            yield random.Random(i).randbytes(100_000)

    tracemalloc.start()
    written = container.write(
        tmp_path / "a.tfz", made(), fingerprint=FINGERPRINT, item_shape=(0, 0, 3), metadata={"names": names}
    )
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    tracemalloc.stop()
    assert written == (tmp_path / "a.tfz").stat().st_size
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tfz"]
    with Archive.open(tmp_path / "a.tfz", eager_bytes=0) as archive:
        assert archive.metadata["names"] == names
        for i in (0, 77, 199):
            assert archive[i] == random.Random(i).randbytes(100_000)
        archive.verify()


def test_a_generator_that_fails_leaves_the_old_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tfz"
    container.write(path, [b"old"], fingerprint=FINGERPRINT, item_shape=())
    old = path.read_bytes()

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        container.write(path, failing(), fingerprint=FINGERPRINT, item_shape=())
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 200) | st.integers(BLOCK - 2, BLOCK + 2), max_size=12),
    names=st.none() | st.lists(st.text(max_size=9), max_size=9),
)
def test_the_size_is_known_before_the_bytes_are(tmp_path: Path, lengths: list[int], names: list[str] | None) -> None:
    metadata = None if names is None else {"names": names}
    found = container.size(lengths, item_shape=(28, 28, 1), metadata=metadata)
    written = container.write(
        tmp_path / "a.tfz", map(bytes, lengths), fingerprint=FINGERPRINT, item_shape=(28, 28, 1), metadata=metadata
    )
    assert found == written


def test_threads_share_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "large.tfz"
    payloads = [bytes([i % 251]) * 1500 for i in range(2000)]
    container.write(path, payloads, fingerprint=FINGERPRINT, item_shape=(0, 0, 3))
    with Archive.open(path, eager_bytes=0) as archive, ThreadPoolExecutor(8) as pool:
        rng = random.Random(7)
        order = [rng.randrange(2000) for _ in range(4000)]
        assert list(pool.map(archive.__getitem__, order)) == [payloads[i] for i in order]


@pytest.mark.parametrize(
    "name", ["gs://bucket/a.tfz", "memory://a.tfz", "s3://b/a.tfz", Path("file:///archives/a.tfz")]
)
def test_what_lies_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="on this machine"):
        container.write(name, [b"x"], fingerprint=FINGERPRINT, item_shape=())
    with pytest.raises(InputError, match="on this machine"):
        Archive.open(name)
    assert list(tmp_path.iterdir()) == []
