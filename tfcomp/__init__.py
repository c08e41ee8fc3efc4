"""tfcomp: learned data compression with Keras 3 and TensorFlow.

The names below load what they need when they are first touched: ``import tfcomp`` itself imports no TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tfcomp.errors import BitstreamError, InputError, MissingDependencyError, TfcompError, missing_dependency

if TYPE_CHECKING:
    from tfcomp.codec import Codec
    from tfcomp.coding.lanes import use_numba
    from tfcomp.data import datasets
    from tfcomp.measure import classical, evaluate, plots
    from tfcomp.models.autoencoder import VAE, AutoEncoder, VariableRateAutoEncoder, load_model
    from tfcomp.photographs.codec import PhotographCodec

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "AutoEncoder",
    "BitstreamError",
    "Codec",
    "InputError",
    "MissingDependencyError",
    "PhotographCodec",
    "TfcompError",
    "VariableRateAutoEncoder",
    "__version__",
    "load_model",
    "classical",
    "datasets",
    "evaluate",
    "plots",
    "use_numba",
]

_HOME = {
    "AutoEncoder": "tfcomp.models.autoencoder",
    "Codec": "tfcomp.codec",
    "PhotographCodec": "tfcomp.photographs.codec",
    "VAE": "tfcomp.models.vae",
    "VariableRateAutoEncoder": "tfcomp.models.variable_rate",
    "load_model": "tfcomp.models.autoencoder",
    "use_numba": "tfcomp.coding.lanes",
}
_MODULES = {
    "callbacks": "tfcomp.models.callbacks",
    "classical": "tfcomp.measure.classical",
    "container": "tfcomp.storage.container",
    "datasets": "tfcomp.data.datasets",
    "evaluate": "tfcomp.measure.evaluate",
    "networks": "tfcomp.models.networks",
    "plots": "tfcomp.measure.plots",
    "serving": "tfcomp.artifact.serving",
}


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
