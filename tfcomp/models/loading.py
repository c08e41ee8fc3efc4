"""Models from files: a ``.keras`` file, an artifact that has one, or a bundled artifact."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import keras

from tfcomp import bundled
from tfcomp.errors import InputError, everything_as
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.vae import VAE

MODEL = "model.keras"
"""Name of the model's file in a folder, be it an artifact or a run."""


def load_model(path: str | os.PathLike[str]) -> AutoEncoder | VAE:
    """Load one of tfcomp's models, with Keras's safe mode on, ready for more training.

    Examples:
        >>> load_model("photographs").qualities
        8

    Args:
        path: a ``.keras`` file, an artifact folder with a ``model.keras`` in it, or else the name of a bundled
            artifact, such as ``"photographs"``.

    Raises:
        InputError: if there is no such model, or the file is no Keras model or holds another kind of model.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"expected the path or the name of a saved model, found {type(path).__name__}")
    file = _file(path)
    if file.is_file() and file.suffix not in (".h5", ".hdf5") and not zipfile.is_zipfile(file):
        raise InputError(f"expected a saved model of tfcomp at {path}: found a file that is no Keras archive")
    with everything_as(InputError, f"expected a saved model of tfcomp at {path}"):
        model = keras.saving.load_model(file, safe_mode=True)
    if not isinstance(model, LatentModel):
        raise InputError(f"expected a model of tfcomp in {path}, found {type(model).__name__}")
    assert isinstance(model, (AutoEncoder, VAE))
    return model


def _file(path: str | os.PathLike[str]) -> Path:
    if Path(path).is_file():
        return Path(path)
    folder = bundled.resolve(path, MODEL)
    if folder.is_dir() and not (folder / MODEL).is_file():
        raise InputError(f"expected {MODEL} in the artifact {path}, found none; export with with_model=True stores it")
    return folder / MODEL if folder.is_dir() else folder
