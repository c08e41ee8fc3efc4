"""tfcomp: learned data compression with Keras 3 and TensorFlow.

The names below load what they need when they are first touched: ``import tfcomp`` itself imports no TensorFlow.
"""

from __future__ import annotations

from importlib import import_module

from tfcomp import forks as forks
from tfcomp.errors import (
    BitstreamError,
    InputError,
    MissingDependencyError,
    ServerError,
    TfcompError,
    WorkerLostError,
    missing_dependency,
)
from tfcomp.models.registration import register_with_keras
from tfcomp.version import __version__

TYPE_CHECKING = False  # to import `typing` takes longer than all else here, and an interrupt finds no handler yet
if TYPE_CHECKING:
    from typing import Any

    from tfcomp import bulk
    from tfcomp.artifact import serving
    from tfcomp.codec import Codec
    from tfcomp.coding.lanes import use_numba
    from tfcomp.data import datasets
    from tfcomp.measure import classical, evaluate, plots
    from tfcomp.models import callbacks, networks
    from tfcomp.models.autoencoder import AutoEncoder
    from tfcomp.models.loading import load_model
    from tfcomp.models.multi_worker import fit_workers
    from tfcomp.models.vae import VAE
    from tfcomp.storage import container

__all__ = [
    "VAE",
    "AutoEncoder",
    "BitstreamError",
    "Codec",
    "InputError",
    "MissingDependencyError",
    "ServerError",
    "TfcompError",
    "WorkerLostError",
    "__version__",
    "bulk",
    "callbacks",
    "classical",
    "container",
    "datasets",
    "evaluate",
    "fit_workers",
    "load_model",
    "networks",
    "plots",
    "serving",
    "use_numba",
]

_HOME = {
    "AutoEncoder": "tfcomp.models.autoencoder",
    "Codec": "tfcomp.codec",
    "VAE": "tfcomp.models.vae",
    "fit_workers": "tfcomp.models.multi_worker",
    "load_model": "tfcomp.models.loading",
    "use_numba": "tfcomp.coding.lanes",
}
"""Module of each class and function."""
_MODULES = {
    "bulk": "tfcomp.bulk",
    "callbacks": "tfcomp.models.callbacks",
    "classical": "tfcomp.measure.classical",
    "container": "tfcomp.storage.container",
    "datasets": "tfcomp.data.datasets",
    "evaluate": "tfcomp.measure.evaluate",
    "networks": "tfcomp.models.networks",
    "plots": "tfcomp.measure.plots",
    "serving": "tfcomp.artifact.serving",
}
"""Modules that are part of the front page."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOME:
        raise AttributeError(f"module 'tfcomp' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise missing_dependency(error) or error from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_keras()
