"""The artifact folder: what is in it, how it is checked, and how a codec is loaded from it without TensorFlow.

    manifest.json          `Manifest` as JSON: versions, fingerprint, shapes, sha256 and size of every other file
    tables.npz             the entropy model: integer tables, quantization steps (no pickle)
    encoder/1/, decoder/1/ SavedModels of any batch size N; each has two signatures
        serving_default    image uint8 [N, H, W, C] -> payload_bytes string [N], and back
        latent             image uint8 [N, H, W, C] -> latent int32 [N, *latent_shape], and back
    encoder.tflite         image uint8 [1, H, W, C] -> payload uint8 [MAX], zero after its length; length int32 [1]
    decoder.tflite         payload uint8 [MAX], length int32 [1] -> image uint8 [1, H, W, C]
    encoder_latent.tflite  image uint8 [1, H, W, C] -> latent int32 [1, *latent_shape], the network alone
    decoder_latent.tflite  latent int32 [1, *latent_shape] -> image uint8 [1, H, W, C], the network alone

Where the codec has several qualities, those that make or read payloads have one more input, ``quality``: int32 [N] in
the SavedModels, [1] in the ``.tflite`` files, from 1 for the lowest; a number beyond the ends is taken for the end. The
latent is then that of all qualities, see `qualities`.

`exporting` writes it. The manifest is written last and the folder renamed into place, so that a folder with a manifest
is whole. Nothing is loaded before its digest has been compared with the manifest's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.codec import Codec, EntropyModel, Images, Networks
from tfcomp.coding.range_coder import FORMAT_VERSION
from tfcomp.coding.tables import Int32
from tfcomp.entropy import qualities
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError, missing_dependency

ARTIFACT_VERSION = 1
MANIFEST = "manifest.json"
TABLES = "tables.npz"
ENCODER, DECODER = "encoder/1", "decoder/1"
ENCODER_LITERT, DECODER_LITERT = "encoder.tflite", "decoder.tflite"
ENCODER_LATENT, DECODER_LATENT = "encoder_latent.tflite", "decoder_latent.tflite"
RUNTIMES = {
    "tensorflow": [ENCODER, DECODER],
    "litert": [ENCODER_LITERT, DECODER_LITERT, ENCODER_LATENT, DECODER_LATENT],
}
QUANTIZATIONS = ("float32", "float16", "dynamic", "int8")
"""Of the networks in the ``.tflite`` files; see `exporting.export`."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself; this class alone reads, writes and checks it.

    Attributes:
        fingerprint: hexadecimal name of payload format and tables, of the highest quality.
        image_shape: (height, width, channels), uint8.
        latent_shape: shape of one item's int32 latent.
        max_payload_bytes: ``MAX``, the size of a payload buffer in the ``.tflite`` files.
        quantize: one of `QUANTIZATIONS`.
        files: path inside the folder -> {"bytes": size, "sha256": hexadecimal digest}.
        measured: ``"images"``, how many calibration images, and for ``"float32"`` and ``quantize`` what their
            ``.tflite`` files need for them: ``bytes_per_image``, ``psnr_db``, ``encoder_bytes``, ``decoder_bytes``.
        runtimes: what runs which files.
        payload_version: version of the payload format, see `range_coder`.
        artifact_version: version of this layout.
        fingerprints: of each quality, the lowest first; an ordinary codec has one.
    """

    fingerprint: str
    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    max_payload_bytes: int
    quantize: str
    files: dict[str, dict[str, Any]]
    measured: dict[str, Any] = field(default_factory=dict)
    runtimes: dict[str, list[str]] = field(default_factory=lambda: dict(RUNTIMES))
    payload_version: int = FORMAT_VERSION
    artifact_version: int = ARTIFACT_VERSION
    fingerprints: tuple[str, ...] = ()

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
            if "kind" in fields:
                raise BitstreamError(f"{path}: expected a codec of one image size, found one of {fields['kind']}")
            for name, supported in (("artifact_version", ARTIFACT_VERSION), ("payload_version", FORMAT_VERSION)):
                if fields[name] != supported:
                    raise BitstreamError(f"{path}: expected {name} {supported}, found {fields[name]!r}")
            for name in ("image_shape", "latent_shape"):
                fields[name] = tuple(int(n) for n in fields[name])
            fields["fingerprints"] = tuple(map(str, fields.get("fingerprints", [fields["fingerprint"]])))
            manifest = cls(**fields)
            for name, file in manifest.files.items():
                if not isinstance(file["sha256"], str) or not isinstance(file["bytes"], int):
                    raise TypeError(f"no digest and size of {name}")
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise ValueError(f"{name} lies outside the artifact")
            manifest.table()
            return manifest
        except BitstreamError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BitstreamError(
                f"{path}: expected the manifest of an artifact, found something else ({type(error).__name__}: {error})"
            ) from error

    def table(self) -> str:
        """What was measured at export, as a Markdown table."""
        rows = [
            "| .tflite | bytes per image | PSNR dB | encoder, bytes | decoder, bytes |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, m in self.measured.items():
            if isinstance(m, dict):
                sizes = f"{m['encoder_bytes']:,} | {m['decoder_bytes']:,}"
                rows.append(f"| {name} | {m['bytes_per_image']:.2f} | {m['psnr_db']:.2f} | {sizes} |")
        return "\n".join(rows)


def photographs(folder: Path) -> dict[str, Any] | None:
    """The manifest that `tfcomp.photographs.exporting` wrote, or None if it is another's."""
    try:
        fields = json.loads((folder / MANIFEST).read_text())
        names = "fingerprint", "qualities", "side", "files"
        return {name: fields[name] for name in names} if fields["kind"] == "photographs" else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the manifest records them."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_checked(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The content of one file of an artifact, after comparing it with the manifest."""
    expected, path = files.get(name), folder / name
    if expected is None or not path.is_file():
        raise BitstreamError(f"expected {name} in the artifact {folder}, found none")
    content = path.read_bytes()
    if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise BitstreamError(
            f"{path}: expected {expected['bytes']} bytes that the manifest describes, found {len(content)} others"
        )
    return content


def verify(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every file of an artifact with the manifest's ``files``; `load` compares those that it loads."""
    for name in files:
        read_checked(folder, name, files)


def read_entropy_models(folder: Path, manifest: Manifest) -> tuple[EntropyModel, ...]:
    """The entropy model of each quality; their fingerprints are recomputed and compared with the manifest's."""
    content = read_checked(folder, TABLES, manifest.files)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            models = qualities.from_arrays({name: arrays[name] for name in arrays.files})
    except BitstreamError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, OSError, EOFError) as error:
        raise BitstreamError(f"{folder / TABLES}: expected frequency tables, found something else: {error}") from error
    for expected, model in zip_longest((*manifest.fingerprints, manifest.fingerprint), (*models, models[-1])):
        found = (model.fingerprint.hex(), model.latent_shape) if model else ("none", ())
        if found != (expected, manifest.latent_shape):
            raise BitstreamError(f"{folder}: expected tables {expected}, found {found[0]} of shape {found[1]}")
    return models


def load(folder: str | Path, *, runtime: str = "litert") -> Codec:
    """Load a codec from an artifact.

    Args:
        folder: what `Codec.export` wrote.
        runtime: what runs the networks: ``"litert"``, without TensorFlow, the ``.tflite`` files; ``"tensorflow"`` the
            SavedModels, in batches. The range coder runs in NumPy under both.

    Raises:
        InputError: if the folder is no artifact or the runtime is unknown.
        BitstreamError: if a file is missing or is not what the manifest describes.
        MissingDependencyError: if the runtime is not installed.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"expected runtime to be one of {tuple(RUNTIMES)}, found {runtime!r}")
    folder = Path(folder)
    manifest = Manifest.read(folder)
    models = read_entropy_models(folder, manifest)
    networks: LiteRTNetworks | TensorFlowNetworks
    if runtime == "litert":
        networks = LiteRTNetworks(
            read_checked(folder, ENCODER_LATENT, manifest.files), read_checked(folder, DECODER_LATENT, manifest.files)
        )
    else:
        for name in manifest.files:
            if name.startswith((f"{ENCODER}/", f"{DECODER}/")):
                read_checked(folder, name, manifest.files)
        networks = TensorFlowNetworks(folder / ENCODER, folder / DECODER)
    if networks.image_shape != manifest.image_shape:
        raise BitstreamError(
            f"{folder}: expected an encoder of images {manifest.image_shape}, found one of {networks.image_shape}"
        )
    return codec_of(networks, models, manifest.image_shape)


def codec_of(networks: Networks, models: Sequence[EntropyModel], image_shape: tuple[int, ...]) -> Codec:
    """The codec of an artifact's networks and of the entropy model of each of its qualities."""
    if len(models) == 1:
        return Codec(networks, models[0], image_shape)
    return qualities.VariableRateCodec(networks, models, image_shape)


class LiteRTNetworks:
    """The latent-level networks in the LiteRT interpreter, one item at a time.

    Args:
        encoder, decoder: contents of the two ``.tflite`` files.
        threads: for each interpreter; small networks are fastest with one.

    Attributes:
        image_shape: (height, width, channels) of the encoder's images.
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
            try:
                interpreter = Interpreter(model_content=content, num_threads=threads)
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise BitstreamError(f"expected a .tflite that LiteRT can run, found one it cannot: {error}") from error
            self._interpreters.append((interpreter, threading.Lock()))
        self.image_shape = tuple(map(int, self._interpreters[0][0].get_input_details()[0]["shape"][1:]))

    def encode(self, images: Images) -> Int32:
        return self._run(*self._interpreters[0], images)

    def decode(self, latents: Int32) -> Images:
        return self._run(*self._interpreters[1], latents)

    @staticmethod
    def _run(interpreter: Any, lock: threading.Lock, items: NDArray[Any]) -> NDArray[Any]:
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        outputs = np.empty((len(items), *result["shape"][1:]), result["dtype"])
        for i, item in enumerate(items):
            # An interpreter holds one item at a time; threads take turns.
            with lock:
                interpreter.set_tensor(source["index"], item[None].astype(source["dtype"], copy=False))
                interpreter.invoke()
                outputs[i] = interpreter.get_tensor(result["index"])[0]
        return outputs


class TensorFlowNetworks:
    """The latent-level signatures of two SavedModels, a batch at a time.

    Attributes:
        image_shape: (height, width, channels) of the encoder's images.
    """

    def __init__(self, encoder: Path, decoder: Path) -> None:
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise missing_dependency(error) or error from error
        try:
            # The signatures do not keep alive what they use; the loaded models do.
            self._models = [tf.saved_model.load(str(folder)) for folder in (encoder, decoder)]
            self._encode, self._decode = (model.signatures["latent"] for model in self._models)
        except (OSError, KeyError) as error:
            raise BitstreamError(f"expected SavedModels with a signature 'latent', found none: {error}") from error
        self._constant = tf.constant
        self.image_shape = tuple(self._encode.structured_input_signature[1]["image"].shape[1:])

    def encode(self, images: Images) -> Int32:
        return np.asarray(self._encode(image=self._constant(images))["latent"])

    def decode(self, latents: Int32) -> Images:
        return np.asarray(self._decode(latent=self._constant(latents))["image"])
