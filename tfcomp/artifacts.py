"""The artifact folder: what is in it, how it is checked, and how a codec is loaded from it without TensorFlow.

    manifest.json          `Manifest` as JSON: versions, fingerprint, shapes, sha256 and size of every other file
    tables.npz             the entropy model: integer tables, quantization steps (no pickle)
    encoder_latent.tflite  image uint8 [1, H, W, C] -> latent int32 [1, *latent_shape]
    decoder_latent.tflite  latent int32 [1, *latent_shape] -> image uint8 [1, H, W, C]

`exporting` writes it. The manifest is written last and the folder renamed into place, so that a folder with a manifest
is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.codec import Codec, EntropyModel, Images, Networks
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError
from tfcomp.tables import Int32

ARTIFACT_VERSION = 1
MANIFEST = "manifest.json"
TABLES = "tables.npz"
ENCODER_LATENT = "encoder_latent.tflite"
DECODER_LATENT = "decoder_latent.tflite"


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself; this class alone reads, writes and checks it.

    Attributes:
        fingerprint: hexadecimal name of payload format and tables.
        image_shape: (height, width, channels), uint8.
        latent_shape: shape of one item's int32 latent.
        files: path inside the folder -> {"bytes": size, "sha256": hexadecimal digest}.
        measured: figures taken at export on calibration images, e.g. {"bytes_per_image": ..., "psnr_db": ...}.
        artifact_version: version of this layout.
    """

    fingerprint: str
    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    files: dict[str, dict[str, Any]]
    measured: dict[str, Any] = field(default_factory=dict)
    artifact_version: int = ARTIFACT_VERSION

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest alone.

        Raises:
            InputError: if ``folder`` is not an artifact.
            BitstreamError: if its manifest is damaged or of another version.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise InputError(f"expected an artifact folder with a {MANIFEST}, found none at {Path(folder)}")
        try:
            fields = json.loads(path.read_text())
            version = fields.get("artifact_version")
            if version != ARTIFACT_VERSION:
                raise BitstreamError(f"{path}: expected artifact version {ARTIFACT_VERSION}, found {version!r}")
            for name in ("image_shape", "latent_shape"):
                fields[name] = tuple(int(n) for n in fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BitstreamError):
                raise
            raise BitstreamError(
                f"{path}: expected the manifest of an artifact, found something else: {error}"
            ) from error


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the manifest records them."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    """The content of one file of an artifact, after comparing it with the manifest."""
    expected = manifest.files.get(name)
    path = folder / name
    if expected is None or not path.is_file():
        raise BitstreamError(f"expected {name} in the artifact {folder}, found none")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
        raise BitstreamError(f"{path}: expected the file that the manifest describes, found {len(content)} other bytes")
    return content


def read_entropy_model(folder: Path, manifest: Manifest) -> EntropyModel:
    """The artifact's entropy model; its fingerprint is recomputed and compared with the manifest's."""
    read_checked(folder, TABLES, manifest)
    try:
        with np.load(folder / TABLES, allow_pickle=False) as arrays:
            model = EntropyModel.from_arrays({name: arrays[name] for name in arrays.files})
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        if isinstance(error, BitstreamError):
            raise
        raise BitstreamError(f"{folder / TABLES}: expected frequency tables, found something else: {error}") from error
    if model.fingerprint.hex() != manifest.fingerprint:
        raise BitstreamError(f"{folder}: expected tables {manifest.fingerprint}, found {model.fingerprint.hex()}")
    return model


def load(folder: str | Path, *, runtime: str = "litert") -> Codec:
    """Load a codec from an artifact.

    Args:
        folder: what `Codec.export` wrote.
        runtime: ``"litert"`` runs the networks with ai-edge-litert, without TensorFlow.

    Raises:
        InputError: if the folder is no artifact or the runtime is unknown.
        BitstreamError: if a file is missing or is not what the manifest describes.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    entropy_model = read_entropy_model(folder, manifest)
    if runtime != "litert":
        raise InputError(f"expected runtime 'litert', found {runtime!r}")
    networks: Networks = LiteRTNetworks(
        read_checked(folder, ENCODER_LATENT, manifest), read_checked(folder, DECODER_LATENT, manifest)
    )
    return Codec(networks, entropy_model, manifest.image_shape)


class LiteRTNetworks:
    """The latent-level networks in the LiteRT interpreter, one item at a time.

    Args:
        encoder, decoder: contents of the two ``.tflite`` files.
        threads: for each interpreter; small networks are fastest with one.
    """

    def __init__(self, encoder: bytes, decoder: bytes, threads: int = 1) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "running an artifact needs ai-edge-litert: pip install ai-edge-litert"
            ) from error
        self._interpreters = []
        for content in (encoder, decoder):
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            self._interpreters.append(interpreter)

    def encode(self, images: Images) -> Int32:
        return self._run(self._interpreters[0], images)

    def decode(self, latents: Int32) -> Images:
        return self._run(self._interpreters[1], latents)

    @staticmethod
    def _run(interpreter: Any, items: NDArray[Any]) -> NDArray[Any]:
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        outputs = np.empty((len(items), *result["shape"][1:]), result["dtype"])
        for i, item in enumerate(items):
            interpreter.set_tensor(source["index"], item[None].astype(source["dtype"], copy=False))
            interpreter.invoke()
            outputs[i] = interpreter.get_tensor(result["index"])[0]
        return outputs
