"""Fixtures shared by all tests: data that may or may not be present, and the switch that rewrites golden files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tfcomp

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parent.parent

# The contracts in it are asserted, and a failure shows their values as a test's own.
pytest.register_assert_rewrite("commands", "payload_model")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers ``--rewrite-golden``."""
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/golden/ anew instead of comparing")


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
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, NDArray[np.uint8]]:
    """A codec trained for seconds on glyphs, the artifact that it exports, and uint8 [100, 28, 28, 1] unseen images."""
    pytest.importorskip("tensorflow")
    train, test = tfcomp.datasets.load_arrays("glyphs")
    model = tfcomp.AutoEncoder.dense(train.shape[1:], latent_dim=16, hidden=(64,))
    model.compile(optimizer="adam")
    model.fit(train[:4096], epochs=5, batch_size=64, verbose=0)
    codec = tfcomp.Codec.freeze(model, calibration=train[:500])
    folder = tmp_path_factory.mktemp("exported") / "artifact"
    codec.export(folder)
    return codec, folder, test[:100]
