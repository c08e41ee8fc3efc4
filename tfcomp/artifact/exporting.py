"""Writing the artifact folder; see `manifest` for what is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfcomp.artifact import arrays
from tfcomp.artifact.conversion import Samples, save, to_litert
from tfcomp.artifact.manifest import (
    DECODER_LATENT,
    DECODER_LITERT,
    ENCODER,
    ENCODER_LATENT,
    ENCODER_LITERT,
    ENCODER_SLOPE,
    MANIFEST,
    MODEL,
    OWN,
    QUANTIZATIONS,
    TABLES,
    Manifest,
    describe,
)
from tfcomp.artifact.tiled_graphs import TiledGraphs
from tfcomp.artifact.uniform_graphs import UniformGraphs
from tfcomp.errors import InputError
from tfcomp.items import Images
from tfcomp.parts import Parts
from tfcomp.pipelines import pipeline_of
from tfcomp.runtimes.keras_networks import KerasTransform
from tfcomp.runtimes.litert import LiteRTTransform
from tfcomp.storage.writing import replacing_folder
from tfcomp.version import __version__


def export(
    parts: Parts, folder: str | Path, *, quantize: str = "float32", side: int | None = None, with_model: bool = False
) -> dict[str, Any]:
    """Write the parts of a codec as an artifact folder; see `tfcomp.Codec.export`."""
    transform = parts.transform
    if quantize not in QUANTIZATIONS:
        raise InputError(f"expected quantize to be one of {QUANTIZATIONS}, found {quantize!r}")
    if not isinstance(transform, KerasTransform):
        raise InputError(
            "expected a codec from Codec.freeze, or one that was loaded with runtime='keras', "
            "found one that was loaded without its trained networks"
        )
    if len(parts.qualities) < transform.qualities:
        raise InputError("expected a codec of all its qualities to export, found one of them")
    if side is not None and not parts.item.any_size:
        raise InputError(f"expected a side for items of any size alone, found one for {parts.item}")
    if parts.item.any_size and quantize in ("dynamic", "int8"):
        raise InputError(
            f"expected float32, float16 or int8-weights for items of any size, found quantize={quantize!r}"
        )
    if quantize == "int8" and transform.calibration is None:
        raise InputError("expected quantize='int8' with calibration items, found a codec without them")
    if with_model and transform.model is None:
        raise InputError("expected a codec that was frozen in this process to keep its model, found another")
    if not with_model and (Path(folder) / MODEL).is_file():
        raise InputError(
            f"expected with_model=True to replace {folder}, found a trained model in it that would be lost"
        )
    pipeline = pipeline_of(parts)
    if transform.calibration is not None:  # what effort needs goes with the artifact
        parts = replace(parts, qualities=tuple(pipeline.measured(quality) for quality in parts.qualities))
    graphs = TiledGraphs(parts, transform, side) if parts.item.any_size else UniformGraphs(parts, transform)
    with replacing_folder(folder, MANIFEST, own=OWN) as partial:
        arrays.write(partial / TABLES, parts)
        files = _litert_files(parts, transform, graphs, quantize)
        slope = {}
        if "slope" in graphs.saved_models[ENCODER]:
            kept = "float16" if quantize in ("float16", "int8-weights") else "float32"
            slope = _slope(parts, transform, files, kept)
        for name, content in {**files, **slope}.items():
            (partial / name).write_bytes(content)
        for name, signatures in graphs.saved_models.items():
            save(partial / name, signatures)
        if with_model and transform.model is not None:
            transform.model.save(partial / MODEL)
        measured: dict[str, Any] = {}
        if transform.calibration is not None:
            plain = "float16" if parts.item.any_size else "float32"
            variants = {plain: files}
            if quantize not in (plain, "float32"):
                # The plain whole graphs are not measured where items have any size, and they take minutes.
                whole = None if parts.item.any_size else graphs
                variants = {plain: _litert_files(parts, transform, whole, plain), quantize: files}
            measured = {"images": len(transform.calibration)}
            for name, variant in variants.items():
                measured |= _measure(parts, transform.calibration, name, variant)
        manifest = Manifest(
            format=parts.format_id,
            fingerprint=parts.fingerprint.hex(),
            fingerprints=tuple(parts.at(quality.number).fingerprint.hex() for quality in parts.qualities),
            image_shape=parts.item.shape,
            latent_shape=transform.latent_shape,
            qualities=tuple(quality.number for quality in parts.qualities),
            default_quality=parts.default_quality,
            files={
                path.relative_to(partial).as_posix(): describe(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
            grid=(parts.grid.stride, parts.grid.margin, parts.grid.tile) if parts.grid else None,
            max_payload_bytes=graphs.capacity,
            side=side,
            quantize=quantize,
            compute={name: round(macs, 1) for name, macs in (parts.compute or transform.macs_per_pixel()).items()},
            measured=measured,
            tfcomp=__version__,
        )
        manifest.write(partial)
    return manifest.as_dict()


def _litert_files(
    parts: Parts, transform: KerasTransform, graphs: TiledGraphs | UniformGraphs | None, quantize: str
) -> dict[str, bytes]:
    """The ``.tflite`` files of the networks alone and of whole graphs, by name."""
    images: Samples = {}
    latents: Samples = {}
    if quantize == "int8":
        items = transform.calibration
        assert items is not None
        turns = [parts.qualities[i % len(parts.qualities)] for i in range(len(items))]
        pipeline = pipeline_of(parts)
        values = [q.to_units(np.asarray(pipeline.encode(items[i : i + 1], q)[0])) for i, q in enumerate(turns)]
        quality_input = {"quality": np.array([[q.number] for q in turns], np.int32)} if transform.takes_quality else {}
        images, latents = {"image": items[:, None]}, {"latent": np.stack(values), **quality_input}
    kept = "float16" if quantize == "float32" and parts.item.any_size else quantize
    return {
        **(graphs.litert(quantize) if graphs else {}),
        ENCODER_LATENT: to_litert(transform.analyse_graph, kept, images),
        DECODER_LATENT: to_litert(transform.synthesise_graph, kept, latents),
    }


def _slope(parts: Parts, transform: KerasTransform, networks: Mapping[str, bytes], kept: str) -> dict[str, bytes]:
    """The error's gradient as a ``.tflite``, by name; none where LiteRT lacks an operator or computes another one."""
    try:
        content = to_litert(transform.plain_slope_graph, kept)
    except (InputError, LookupError, TypeError, ValueError):  # TensorFlow has no such gradient, or LiteRT no operator
        return {}
    side = 8 * parts.grid.stride if parts.grid else 0
    rng, quality = np.random.default_rng(0), parts.quality()
    images = rng.integers(0, 256, [1, *(n or side for n in parts.item.shape)], np.uint8)
    latents, number = transform.analyse(images), quality.number
    # Half a step away from where the error is least, so that there is a gradient to compare.
    latents = latents + (rng.choice([-0.5, 0.5], latents.shape) * quality.step).astype(np.float32)
    on_litert = LiteRTTransform(networks[ENCODER_LATENT], networks[DECODER_LATENT], content)
    slopes = (runtime.slope(images, latents, number) for runtime in (transform, on_litert))
    same = all(np.abs(a - b).max() <= 1e-2 * np.abs(a).max() for a, b in zip(*slopes, strict=True))
    return {ENCODER_SLOPE: content} if same else {}


def _measure(parts: Parts, images: Images, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Payload bytes and PSNR of ``.tflite`` files on images, uint8 [N, H, W, C], and the files' sizes."""
    on_litert = replace(parts, transform=LiteRTTransform(files[ENCODER_LATENT], files[DECODER_LATENT]))
    pipeline, rows = pipeline_of(on_litert), {}
    # Whole graphs of any size keep 16 bits.
    sized = (ENCODER_LATENT, DECODER_LATENT) if parts.item.any_size else (ENCODER_LITERT, DECODER_LITERT)
    encoder_bytes, decoder_bytes = (len(files[file]) for file in sized)
    for quality in parts.qualities:
        payloads, _ = pipeline.compress(images, quality, 0, None)
        restored = pipeline.decompress(payloads, quality)
        error = float(np.mean(np.square(images.astype(np.float64) - np.asarray(restored))))
        rows[name if len(parts.qualities) == 1 else f"{name}, quality {quality.number}"] = {
            "bytes_per_image": sum(map(len, payloads)) / len(payloads),
            "psnr_db": 10 * math.log10(255**2 / max(error, 1e-10)),
            "encoder_bytes": encoder_bytes,
            "decoder_bytes": decoder_bytes,
        }
    return rows
