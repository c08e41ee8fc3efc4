"""Fixtures shared by all tests: codecs, data that may or may not be present, and the switch that rewrites golden files.

In parallel (``make test``) the tests that share something trained or exported run in one process: those of one of
`kinds.KINDS` wherever they stand, others file by file.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_inputs import photos, rows  # noqa: F401 - fixtures
from hypothesis import settings
from kinds import KINDS, Kind, make
from numpy.typing import NDArray

import tfcomp

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the processors: one thread each
    for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(threads, "1")

# How long an example takes says nothing on a busy machine.
settings.register_profile("tfcomp", deadline=None)
settings.load_profile("tfcomp")

# Graphs are millions of objects that stay: the collector, with its own thresholds, takes an eighth of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

ROOT = Path(__file__).resolve().parent.parent

# The contracts in it are asserted, and a failure shows their values as a test's own.
pytest.register_assert_rewrite("commands", "payload_model")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers ``--rewrite-golden``."""
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/golden/ anew instead of comparing")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names the group of each test that has none."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            fixtures = getattr(item, "fixturenames", ())
            file = "doctests" if isinstance(item, pytest.DoctestItem) else item.path.stem
            item.add_marker(pytest.mark.xdist_group("dense" if "exported" in fixtures else file))


@pytest.fixture
def rewrite_golden(request: pytest.FixtureRequest) -> bool:
    """Whether a golden test should write its file instead of comparing with it."""
    return bool(request.config.getoption("--rewrite-golden"))


@pytest.fixture(scope="module", params=["NumPy", "Numba"])
def either_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs a module's tests with the loops of `lanes` in NumPy, then with those of `compiled`."""
    if request.param == "Numba":
        pytest.importorskip("numba")
    tfcomp.use_numba(request.param == "Numba")
    yield
    tfcomp.use_numba(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of ``tensorflow_datasets/`` and ``bsds500/``: ``data`` in ``TFCOMP_SHARED``, or beside the clone."""
    data = Path(os.environ.get("TFCOMP_SHARED", ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"no shared data in {data}; set TFCOMP_SHARED to the folder that holds data/")
    return data


@pytest.fixture(scope="session")
def mnist(shared_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All of MNIST in its original order: uint8 [60000, 28, 28, 1] and [10000, 28, 28, 1]."""
    folder = shared_data / "tensorflow_datasets"
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no prepared MNIST in {folder}")
    return tfcomp.datasets.load_arrays("mnist", data_dir=folder)


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """A codec of each kind by its name, trained and exported when it is first asked for."""
    made: dict[str, Kind] = {}

    def get(name: str) -> Kind:
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp("kinds") / name)
            gc.collect()
            gc.freeze()  # the graphs of the kind stay, and each conversion to LiteRT collects garbage
        return made[name]

    return get


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in KINDS])
def kind(request: pytest.FixtureRequest, kinds: Callable[[str], Kind]) -> Kind:
    """Each kind in turn."""
    return kinds(request.param)


@pytest.fixture(scope="session")
def exported(kinds: Callable[[str], Kind]) -> tuple[Any, Path, NDArray[np.uint8]]:
    """The codec of the kind ``dense``, its artifact, and uint8 [100, 28, 28, 1] unseen images."""
    pytest.importorskip("tensorflow")
    kind = kinds("dense")
    return kind.codec, kind.folder, tfcomp.datasets.load_arrays("glyphs")[1][:100]
