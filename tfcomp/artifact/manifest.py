"""The artifact folder: what is in it, and its manifest, which one class reads, checks and writes.

    manifest.json          `Manifest` as JSON: format, fingerprint, shapes, sha256 and size of every other file
    tables.npz             quantization steps and entropy models of all qualities (no pickle); see `arrays`
    encoder/1/, decoder/1/ SavedModels
    encoder.tflite         items to payloads, the range coder inside
    decoder.tflite         and back
    encoder_latent.tflite  image uint8 [1, H, W, C] -> latent float32 [1, *latent_shape], in units: the network alone
    decoder_latent.tflite  latent float32 [1, *latent_shape] -> image uint8 [1, H, W, C]
    encoder_slope.tflite   image, latent -> error, gradient; absent where an operator has none in LiteRT
    model.keras            the trained model, where `Codec.export` was asked for it

Items of one shape. SavedModels take any batch of N::

    encoder  serving_default  image uint8 [N, H, W, C] -> payload_bytes string [N]
             file             file_bytes string [N], a JPEG, PNG, GIF, BMP or WebP file each -> payload_bytes string [N]
             latent           image -> latent float32 [N, *latent_shape]
             slope            image, latent -> error float32 [N], gradient float32 [N, *latent_shape]
    decoder  serving_default  payload_bytes string [N] -> image uint8 [N, H, W, C]
             integers         payload_bytes string [N] -> integers int32 [N, *latent_shape]
             latent           latent -> image
    encoder.tflite            image uint8 [1, H, W, C] -> payload uint8 [MAX], zero after its length; length int32 [1]
    decoder.tflite            payload uint8 [MAX], length int32 [1] -> image uint8 [1, H, W, C]

Samples of a posterior (the format ``sample-1``) have no ``slope``, and ``latent`` of their encoder has two heads, mean
and deviation: float32 [N, 2, *latent_shape].

With several qualities, what makes or reads payloads has one more input, ``quality`` int32 [N], from 1 for the lowest; a
number beyond the ends is taken for the end. So has ``latent`` of the decoder, and ``slope``, where the decoder network
knows the quality.

Items of any size. One item a request, whose payload says its quality::

    encoder  serving_default  image uint8 [H, W, C], quality int32 [] -> payload_bytes string []
             file             file_bytes string [], quality int32 [] -> payload_bytes string []
    decoder  serving_default  payload_bytes string [] -> image uint8 [H, W, C], [H, W, 1] of a grey one
             integers         payload_bytes string [] -> integers int32 [rows, columns, K]
    encoder.tflite            image uint8 [1, H, W, C], quality int32 [1] -> payload uint8 [bytes]
    decoder.tflite            payload uint8 [1, bytes] -> image uint8 [H, W, C] or [H, W, 1]

and ``latent``, ``slope`` as above, of windows whose sides are multiples of the grid's stride. With ``side``, for
runtimes that cannot resize a tensor, the two files of payloads have fixed shapes::

    encoder.tflite            image uint8 [1, SIDE, SIDE, C], of which the first rows and columns count;
                              size_and_quality int32 [3], height, width, quality
                              -> payload uint8 [MAX], zero after its length; length int32 [1], 0 if it did not fit
    decoder.tflite            payload uint8 [MAX], length int32 [1]
                              -> image uint8 [SIDE, SIDE, C], zero beyond its size; size int32 [3], height, width,
                              channels. A larger item comes out as one pixel

The manifest is written last and the folder renamed into place, so that a folder with a manifest is whole. Nothing is
loaded before its digest has been compared with the manifest's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfcomp.entropy.base import FORMATS
from tfcomp.errors import BitstreamError, InputError, everything_as
from tfcomp.geometry import Grid
from tfcomp.items import Item
from tfcomp.storage import names

ARTIFACT_VERSION = 1
MANIFEST = "manifest.json"
TABLES = "tables.npz"
MODEL = "model.keras"
ENCODER, DECODER = "encoder/1", "decoder/1"
ENCODER_LITERT, DECODER_LITERT = "encoder.tflite", "decoder.tflite"
ENCODER_LATENT, DECODER_LATENT = "encoder_latent.tflite", "decoder_latent.tflite"
ENCODER_SLOPE = "encoder_slope.tflite"
RUNTIMES = {
    "litert": [ENCODER_LATENT, DECODER_LATENT],
    "tensorflow": [f"{ENCODER}/saved_model.pb", f"{DECODER}/saved_model.pb"],
    "keras": [MODEL],
}
"""Files that each runtime needs; an artifact need not have those of all runtimes."""
_LITERT = (ENCODER_LITERT, DECODER_LITERT, ENCODER_LATENT, DECODER_LATENT, ENCODER_SLOPE)
OWN = (TABLES, MODEL, "encoder", "decoder", *_LITERT)
"""All that an artifact folder may hold beside its manifest."""
QUANTIZATIONS = ("float32", "float16", "int8-weights", "dynamic", "int8")
"""Types of the networks in the ``.tflite`` files; see `Codec.export`."""


@dataclass(frozen=True)
class Manifest:
    """Formats, shapes, fingerprints and files of an artifact.

    Examples:
        >>> from tfcomp import bundled
        >>> manifest = Manifest.read(bundled.folders()["photographs"])
        >>> manifest.format, manifest.image_shape
        ('context-1', (None, None, 3))

    Attributes:
        format: key of `entropy.base.FORMATS`; it alone decides how payloads and tables are read.
        fingerprint: hexadecimal name of payload format and tables, of all qualities.
        fingerprints: likewise for each quality alone, the lowest first.
        image_shape: (height, width, channels), uint8; height and width are None where they are free.
        latent_shape: shape of one item's latent, None where free.
        qualities: number of each quality, the lowest first.
        default_quality: taken where no quality is named.
        files: path inside the folder -> {"bytes": size, "sha256": hexadecimal digest}.
        grid: of items of any size, (stride, margin, tile).
        max_payload_bytes: ``MAX``, the size of a payload buffer in the ``.tflite`` files; None where they take any.
        side: ``SIDE``; None where they take any.
        quantize: one of `QUANTIZATIONS`.
        compute: multiply-accumulates of each network for a pixel.
        measured: ``"images"``, how many calibration images, or crops of these for items of any size; and for
            ``"float32"`` (any size: ``"float16"``) and ``quantize``, and each quality where there are several, what
            their ``.tflite`` files need for them: ``bytes_per_image``, ``psnr_db``, ``encoder_bytes``,
            ``decoder_bytes`` (any size: of the networks alone).
        tfcomp: version of the package that wrote it.
        artifact_version: version of this layout.
        unknown: keys that this version does not know; they are written again.
    """

    format: str
    fingerprint: str
    fingerprints: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    latent_shape: tuple[int | None, ...]
    qualities: tuple[int, ...]
    default_quality: int
    files: dict[str, dict[str, Any]]
    grid: tuple[int, int, int] | None = None
    max_payload_bytes: int | None = None
    side: int | None = None
    quantize: str = "float32"
    compute: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    tfcomp: str = ""
    artifact_version: int = ARTIFACT_VERSION
    unknown: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The keys of the JSON object."""
        fields = dataclasses.asdict(self)
        return fields | fields.pop("unknown")

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest alone.

        Raises:
            InputError: if ``folder`` is not an artifact.
            BitstreamError: if its manifest is damaged or of another version or format.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise InputError(f"expected an artifact folder with a {MANIFEST}, found none at {Path(folder)}")
        try:
            with everything_as(BitstreamError, "expected the manifest of an artifact"):
                return cls.from_dict(json.loads(path.read_text()))
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Manifest:
        """The inverse of `as_dict`; raises `BitstreamError`, or what Python raises, on anything else."""
        for name, supported in (("artifact_version", [ARTIFACT_VERSION]), ("format", list(FORMATS))):
            if fields[name] not in supported:
                raise BitstreamError(f"expected {name} {' or '.join(map(str, supported))}, found {fields[name]!r}")
        known = {f.name for f in dataclasses.fields(cls)} - {"unknown"}
        unknown = {name: value for name, value in fields.items() if name not in known}
        fields = {name: value for name, value in fields.items() if name in known}
        for name in ("image_shape", "latent_shape", "qualities", "grid"):
            if fields.get(name) is not None:
                fields[name] = tuple(None if n is None else int(n) for n in fields[name])
        fields["fingerprints"] = tuple(map(str, fields["fingerprints"]))
        manifest = cls(**fields, unknown=unknown)
        if manifest.item.any_size != (manifest.grid is not None):
            raise BitstreamError(
                f"expected a grid for items of any size, and for these alone, found {manifest.grid} for {manifest.item}"
            )
        if manifest.grid is not None:
            Grid(*manifest.grid)
        if len(manifest.fingerprints) != len(manifest.qualities) or manifest.quantize not in QUANTIZATIONS:
            found = f"{len(manifest.fingerprints)} of {len(manifest.qualities)} and {manifest.quantize!r}"
            raise BitstreamError(f"expected a fingerprint of each quality, and one of {QUANTIZATIONS}, found {found}")
        for name, file in manifest.files.items():
            if not isinstance(file["sha256"], str) or not isinstance(file["bytes"], int):
                raise TypeError(f"no digest and size of {name}")
            names.checked(name, "the manifest")
        whole = (manifest.side, manifest.max_payload_bytes)
        numbers = (*whole, manifest.default_quality, *manifest.qualities, *manifest.compute.values())
        if any(n is not None and (isinstance(n, bool) or not isinstance(n, int | float)) for n in numbers):
            raise TypeError("a size, a quality or a number of operations that is no number")
        if not all(isinstance(text, str) for text in (manifest.tfcomp, manifest.fingerprint, *manifest.compute)):
            raise TypeError("a version, a fingerprint or a name that is no text")
        manifest.table()
        return manifest

    @property
    def item(self) -> Item:
        return Item(self.image_shape)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that find their files here."""
        return tuple(name for name, files in RUNTIMES.items() if all(file in self.files for file in files))

    def table(self) -> str:
        """The measurements at export, as a Markdown table."""
        rows = [
            "| .tflite | bytes per image | PSNR dB | encoder, bytes | decoder, bytes |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, m in self.measured.items():
            if isinstance(m, dict):
                sizes = f"{m['encoder_bytes']:,} | {m['decoder_bytes']:,}"
                rows.append(f"| {name} | {m['bytes_per_image']:.2f} | {m['psnr_db']:.2f} | {sizes} |")
        return "\n".join(rows) if len(rows) > 2 else ""


# === Files ===


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the manifest records them."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_checked(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The content of one file of an artifact, after comparing it with the manifest."""
    expected, path = files.get(name), folder / name
    if expected is None or not path.is_file():
        raise BitstreamError(f"expected {name} in the artifact {folder}, found none")
    size = path.stat().st_size
    content = path.read_bytes() if size == expected["bytes"] else b""
    if size != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise BitstreamError(
            f"{path}: expected {expected['bytes']} bytes with the manifest's digest, found {size} others"
        )
    return content


def verify(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every file of an artifact with the manifest's ``files``; loading compares those that it loads."""
    for name in files:
        read_checked(folder, name, files)


def verify_saved_model(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> Path:
    """The folder of a SavedModel, whose files are those of the manifest: no more, no others, no linked folder."""
    inside = (path for path in (folder / name).rglob("*") if path.is_symlink() or not path.is_dir())
    there = {path.relative_to(folder).as_posix() for path in inside}
    listed = [file for file in files if file.startswith(f"{name}/")]
    if not listed or there - {*listed}:
        found = min(there - {*listed}, default="none")
        raise BitstreamError(f"expected the SavedModel {name} that the manifest describes in {folder}, found {found}")
    for file in listed:
        read_checked(folder, file, files)
    return folder / name
