"""``tfcomp info``: a description of a file or folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfcomp import bundled
from tfcomp.artifact import reading
from tfcomp.artifact.manifest import MANIFEST, Manifest, verify
from tfcomp.bulk.shards import is_run as is_bulk
from tfcomp.bulk.shards import read_manifest
from tfcomp.cli.console import say
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.cli.runs import Run, is_run
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError
from tfcomp.geometry import MAX_PIXELS
from tfcomp.storage.container import MAGIC, Archive
from tfcomp.storage.places import Place


def run(args: argparse.Namespace) -> None:
    """The command."""
    path = Path(args.file)
    folder = bundled.resolve(args.file, MANIFEST)
    if (folder / MANIFEST).is_file():
        _artifact(folder)
    elif is_run(path):
        _run(path)
    elif is_bulk(path):
        _shards(path)
    elif path.is_file():
        with path.open("rb") as opened:
            magic = opened.read(len(MAGIC))
        if magic == MAGIC:
            _archive(path, args.codec)
        else:
            _payload(path, args.codec)
    else:
        raise InputError(f"expected a .tfz, shards, a payload, a run or an artifact, found none of them at {path}")


def _artifact(path: Path) -> None:
    manifest = Manifest.read(path)
    verify(path, manifest.files)
    say(f"artifact     {path}", f"codec        {manifest.fingerprint}")
    if len(manifest.qualities) > 1:
        for quality, fingerprint in zip(manifest.qualities, manifest.fingerprints, strict=True):
            default = ", the default" if quality == manifest.default_quality else ""
            say(f"codec        {fingerprint}, quality {quality}{default}")
    say(f"image        uint8 {manifest.item}", f"latent       {_shape(manifest.latent_shape)}")
    say(f"runtimes     {', '.join(manifest.runtimes)}; networks in .tflite files {manifest.quantize}")
    if manifest.max_payload_bytes is not None:
        say(f"payload      at most {manifest.max_payload_bytes} bytes")
    if manifest.side is not None:
        say(f"side         at most {manifest.side} pixels in encoder.tflite and decoder.tflite")
    for name, macs in manifest.compute.items():
        say(_network(name, macs))
    if table := manifest.table():
        say(table)
    for name, file in manifest.files.items():
        say(f"{file['bytes']:>12,} bytes  {name}")


def _shape(latent: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in latent)}]"


def _network(name: str, macs: float) -> str:
    return f"network      {name}: {macs / 1000:.1f} thousand multiply-accumulates a pixel"


def _run(path: Path) -> None:
    trained = Run.read(path)
    say(f"run          {path}")
    for name, value in {**trained.settings, **{k: v[-1] for k, v in trained.history.items() if v}}.items():
        say(f"{name:<16} {value}")


def _shards(path: Path) -> None:
    manifest = read_manifest(Place(path))
    state = "complete" if manifest.get("complete") else "not complete: run the command again to resume it"
    say(f"{manifest['kind']:<13}{path}, {state}")
    for name, value in manifest.items():
        if name not in ("format", "kind", "complete", "settings"):
            say(f"{name:<13}{value}")
    for name, value in manifest["settings"].items():
        say(f"{name:<13}{value}")


def _archive(path: Path, artifact: str | None) -> None:
    with Archive.open(path) as archive:
        say(archive.header)
        codec = _codec_of(archive, artifact)
        if codec is None or not codec.item.any_size:
            return
        names = archive.metadata.get("names")
        names = names if isinstance(names, list) and len(names) == len(archive) else range(len(archive))
        for name, payload in zip(names, archive, strict=True):
            say(f"image        {name!a}: {codec.describe(payload)}")
        for network, macs in codec.compute.items():
            say(_network(network, macs))


def _codec_of(archive: Archive, artifact: str | None) -> Codec | None:
    """The codec of an archive, if its artifact is named, or is bundled and can run here; else None."""
    folder = artifact or reading.find(archive.header.fingerprint)
    if folder is None:
        return None
    try:
        with held_native_lines():
            codec = Codec.load(folder).that_made(archive.header.fingerprint)
            return codec.with_max_pixels(MAX_PIXELS)  # nothing is decoded here
    except MissingDependencyError:
        return None


def _payload(path: Path, artifact: str | None) -> None:
    size = path.stat().st_size
    if artifact is None:
        say(f"not a .tfz: {size} bytes; a bare payload names no codec (give --codec to try one)")
        return
    with held_native_lines():
        codec = Codec.load(artifact)
    payload = path.read_bytes()
    try:
        description = codec.describe(payload)
        codec.decode([payload])
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error
    say(f"payload      {size} bytes, decodes under codec {codec.fingerprint}: {description}")
