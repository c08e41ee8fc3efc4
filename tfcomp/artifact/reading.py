"""Reading an artifact folder: the parts of its codec, on LiteRT without TensorFlow, or on TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfcomp import bundled
from tfcomp.artifact import arrays
from tfcomp.artifact.manifest import (
    DECODER,
    DECODER_LATENT,
    ENCODER,
    ENCODER_LATENT,
    ENCODER_SLOPE,
    MANIFEST,
    MODEL,
    RUNTIMES,
    TABLES,
    Manifest,
    read_checked,
    verify_saved_model,
)
from tfcomp.entropy.base import SAMPLE
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.model_set import Model
from tfcomp.errors import BitstreamError, InputError, everything_as
from tfcomp.geometry import Grid
from tfcomp.parts import Parts
from tfcomp.runtimes.litert import LiteRTTransform
from tfcomp.runtimes.saved_models import SavedModelTransform


def find(fingerprint: bytes) -> Path | None:
    """The bundled artifact whose codec, or that of one of its qualities, has this 16-byte fingerprint."""
    for folder in bundled.folders().values():
        manifest = Manifest.read(folder)
        if fingerprint.hex() in (manifest.fingerprint, *manifest.fingerprints):
            return folder
    return None


def load(folder: str | Path | None = None, *, runtime: str = "litert", threads: int | None = None) -> Parts:
    """The parts of an artifact's codec; see `tfcomp.Codec.load`."""
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise InputError(f"expected runtime to be one of {tuple(RUNTIMES)}, found {runtime!r}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"expected a number of threads of 1 or more, found {threads!r}")
    if threads is not None and runtime != "litert":
        raise InputError(f"expected threads with runtime='litert' alone, found them with {runtime!r}")
    path = bundled.resolve(bundled.DEFAULT if folder is None else folder, MANIFEST)
    manifest = Manifest.read(path)
    if runtime == "keras" and MODEL not in manifest.files:
        raise InputError(f"expected an artifact that keeps its trained model ({MODEL}), found none in {path}")
    with everything_as(BitstreamError, f"{path}: expected the files of an artifact"):
        return _parts(path, manifest, runtime, threads)


def _parts(path: Path, manifest: Manifest, runtime: str, threads: int | None) -> Parts:
    files = manifest.files
    numbers = arrays.read(read_checked(path, TABLES, files), str(path / TABLES))
    qualities = arrays.qualities(manifest.format, manifest.qualities, numbers)
    transform: Any
    if runtime == "litert":
        slope = read_checked(path, ENCODER_SLOPE, files) if ENCODER_SLOPE in files else None
        analysis, synthesis = (read_checked(path, name, files) for name in (ENCODER_LATENT, DECODER_LATENT))
        transform = LiteRTTransform(analysis, synthesis, slope, threads)
    elif runtime == "tensorflow":
        transform = SavedModelTransform(*(verify_saved_model(path, name, files) for name in (ENCODER, DECODER)))
    else:
        transform = _trained(path, manifest, numbers)
    image_shape = tuple(transform.item_shape)
    if image_shape != manifest.image_shape:
        raise BitstreamError(f"{path}: expected an encoder of images {manifest.image_shape}, found {image_shape}")
    latents = {_latent_shape(quality.entropy) for quality in qualities}
    if latents != {manifest.latent_shape}:
        raise BitstreamError(f"{path}: expected latents of shape {manifest.latent_shape}, found tables of {latents}")
    missing = {"unit", "zero"} - set(numbers)
    if missing:
        raise BitstreamError(f"{path}: expected the arrays unit and zero, found none named {sorted(missing)}")
    parts = Parts(
        transform=transform,
        item=manifest.item,
        qualities=qualities,
        unit=numbers["unit"],
        zero=numbers["zero"],
        grid=Grid(*manifest.grid) if manifest.grid else None,
        default_quality=manifest.default_quality,
        compute=manifest.compute,
    )
    each = tuple(parts.at(number).fingerprint.hex() for number in manifest.qualities)
    if (parts.fingerprint.hex(), each) != (manifest.fingerprint, manifest.fingerprints):
        raise BitstreamError(f"{path}: expected tables {manifest.fingerprint}, found {parts.fingerprint.hex()}")
    return parts


def _latent_shape(model: Model) -> tuple[int | None, ...]:
    return (None, None, model.layout.channels) if isinstance(model, ContextModel) else model.latent_shape


def _trained(folder: Path, manifest: Manifest, numbers: arrays.Arrays) -> Any:
    """The networks of the trained model that the artifact keeps, in Keras."""
    read_checked(folder, MODEL, manifest.files)
    from tfcomp.models.loading import load_model
    from tfcomp.runtimes.frozen_network import FrozenNetwork
    from tfcomp.runtimes.keras_networks import KerasTransform

    model = load_model(folder / MODEL)
    half = manifest.item.any_size
    encoder = model.posterior_network if manifest.format == SAMPLE else model.latent_network
    if encoder is None:
        raise BitstreamError(f"expected a model with a posterior in {folder / MODEL}, found one without")
    return KerasTransform(
        FrozenNetwork(encoder, half=half),
        FrozenNetwork(model.decoder, half=half),
        numbers["unit"],
        numbers["zero"],
        len(manifest.qualities),
        takes_quality=model.takes_quality,
        model=model,
    )
