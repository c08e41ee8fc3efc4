"""The command line. Exit status: 0 done, 2 the user's input is wrong (one line on stderr), 1 a defect (a traceback)."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import tfcomp
from tfcomp.cli.arguments import PHOTOGRAPHS, parser
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError, TfcompError, missing_dependency

if TYPE_CHECKING:
    from tfcomp.codec import Images

RUN = "run.json"
MODEL = "model.keras"


# === Commands ===


def demo(args: argparse.Namespace) -> None:
    """Train on small images, compress held-out ones, compare and draw; needs no network."""
    from tfcomp.cli import demo

    demo.run(Path(args.out), data=args.data, epochs=args.epochs)


def train(args: argparse.Namespace) -> None:
    """Train a model by gradient descent and keep it as a run."""
    import keras

    from tfcomp.data import datasets
    from tfcomp.models import autoencoder as models
    from tfcomp.storage.writing import replacing_folder

    with held_native_lines():
        images, held_out = datasets.load_arrays(args.data)
    keras.utils.set_random_seed(args.seed)
    kind: type[models.LatentModel] = {"autoencoder": models.AutoEncoder, "vae": models.VAE}[args.model]
    options = {"distortion": args.distortion} if args.distortion else {}
    if len(args.beta) > 1:
        if args.model != "autoencoder":
            raise InputError(f"expected one beta for a {args.model}, found {len(args.beta)}")
        kind, options["betas"] = models.VariableRateAutoEncoder, args.beta
    elif args.beta:
        (options["beta"],) = args.beta
    model = getattr(kind, args.network)(images.shape[1:], args.latent_dim, **options)
    steps = args.epochs * -(-len(images) // args.batch_size)
    model.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)))
    with replacing_folder(args.out, marker=RUN) as folder:
        history = model.fit(
            images,
            validation_data=held_out,
            batch_size=args.batch_size,
            epochs=args.epochs,
            verbose="auto" if sys.stderr.isatty() else 2,
        ).history
        model.save(folder / MODEL)
        settings = {name: value for name, value in vars(args).items() if name not in ("command", "out")}
        log = {"tfcomp": tfcomp.__version__, "settings": settings, "history": history}
        (folder / RUN).write_text(json.dumps(log, indent=2, default=float) + "\n")
    final = ", ".join(f"{name.removeprefix('val_')} {history[name][-1]:.4g}" for name in history if "val_" in name)
    print(f"{args.out}: on {len(held_out)} held-out images: {final}")


def export(args: argparse.Namespace) -> None:
    """Freeze a run and write it as an artifact."""
    from tfcomp.artifact.manifest import Manifest
    from tfcomp.codec import Codec
    from tfcomp.data import datasets
    from tfcomp.models import autoencoder as models

    if args.run == PHOTOGRAPHS:
        _export_photographs(args)
        return
    if args.side is not None:
        raise InputError(f"expected --side with {PHOTOGRAPHS} alone, found {args.run}")
    run = _read_run(Path(args.run))
    model = models.load_model(Path(args.run) / MODEL)
    images, _ = datasets.load_arrays(args.data or run["settings"]["data"])
    targets = {name: getattr(args, name) for name in ("step", "target_psnr_db", "target_bytes")}
    codec = Codec.freeze(model, images, sets=args.sets, **targets)
    manifest = Manifest(**codec.export(args.artifact, quantize=args.quantize))
    size = sum(file["bytes"] for file in manifest.files.values())
    print(f"{args.artifact}: codec {codec.fingerprint}, {len(manifest.files)} files, {size:,} bytes")
    print(manifest.table())


def _export_photographs(args: argparse.Namespace) -> None:
    from tfcomp.photographs import exporting

    given = [name for name in ("data", "step", "target_psnr_db", "target_bytes") if getattr(args, name) is not None]
    if given or args.quantize != "float32" or args.sets != 1:
        raise InputError(f"expected no option but --side to export {PHOTOGRAPHS}, found others")
    manifest = exporting.export(args.artifact, side=args.side)
    size = sum(file["bytes"] for file in manifest["files"].values())
    print(f"{args.artifact}: codec {manifest['fingerprint']}, {len(manifest['files'])} files, {size:,} bytes")


def compress(args: argparse.Namespace) -> None:
    """Images into one .tfz file."""
    from tfcomp.storage import container

    inputs = [Path(path) for path in args.inputs]
    if args.codec is None:
        _compress_photographs(inputs, args)
        return
    if args.target_bytes is not None:
        raise InputError("expected --target-bytes for photographs, without --codec, found both")
    codec = _codec(args.codec)
    if args.quality is not None:
        codec = codec.at(args.quality)
    with held_native_lines():
        names, images = _read_inputs(inputs)
    payloads, report = codec.compress_with_report(images)
    size = container.write(
        args.output,
        payloads,
        fingerprint=codec.entropy_model.fingerprint,
        item_shape=codec.image_shape,
        metadata={"names": names} if names else None,
    )
    ratio = images.size / size
    print(f"{args.output}: {len(payloads)} images in {size:,} bytes, {size / len(payloads):.2f} each, {ratio:.1f}:1")
    if report.clipped:
        share = 100 * report.clipped / report.latents
        print(f"note: {report.clipped} latents ({share:.3g} %) lay outside their tables and were clipped")


def _compress_photographs(inputs: Sequence[Path], args: argparse.Namespace) -> None:
    from tfcomp.photographs import files as photographs

    if args.quality is not None and args.target_bytes is not None:
        raise InputError("expected --quality or --target-bytes, found both")
    if any(path.suffix == ".npy" for path in inputs):
        raise InputError("expected image files and folders without --codec, found an .npy")
    names, files = _named_files(inputs)
    with held_native_lines():
        size, pixels = photographs.compress(files, names, args.output, args.quality, args.target_bytes)
    rate = f"{8 * size / pixels:.3f} bits per pixel, {3 * pixels / size:.1f}:1"
    plural = "s" if len(files) > 1 else ""
    print(f"{args.output}: {len(files)} photograph{plural} in {size:,} bytes, {rate}")


def decompress(args: argparse.Namespace) -> None:
    """A .tfz file into PNG images."""
    from tfcomp.photographs import files as photographs
    from tfcomp.storage import image_files
    from tfcomp.storage.container import Archive

    found = _codec(args.codec) if args.codec else None
    with Archive.open(args.input) as archive:
        if found is None:
            with held_native_lines():
                photographs.check(archive)
        else:
            try:
                codec = found.that_made(archive.header.fingerprint)
            except BitstreamError as error:
                raise BitstreamError(f"{args.input}: {error}; --codec is {args.codec}") from error
        folder = Path(args.output)
        names = list(_targets(archive.metadata.get("names"), len(archive), args.input))
        there = [name for name in names if (folder / name).exists()]
        if there and not args.force:
            raise InputError(f"expected none of the images in {folder} yet, found {there[0]}; --force replaces them")
        targets = [folder / name for name in names]
        images = None if found is None else codec.decompress(list(archive))
        for target in targets:
            _make_folder(target.parent)
        if images is None:
            with held_native_lines():
                photographs.decompress(archive, targets)
        else:
            for target, image in zip(targets, images, strict=True):
                image_files.write_png(target, image)
    print(f"{folder}: {len(targets)} images")


def evaluate(args: argparse.Namespace) -> None:
    """Real bytes and quality of an artifact beside classical codecs, on a data set's test images."""
    from tfcomp.data import datasets
    from tfcomp.measure import comparison

    comparison.chosen(args.against)
    if args.artifacts == [PHOTOGRAPHS]:
        _evaluate_photographs(args)
        return
    codecs = {
        f"{folder}, quality {quality}" if found.qualities > 1 else folder: codec
        for folder, found in [(folder, _codec(folder)) for folder in args.artifacts]
        for quality, codec in enumerate(found.codecs, 1)
    }
    with held_native_lines():
        _, test = datasets.load_arrays(args.data)
    comparison.run(codecs, test, args.data, args.against, args.out, args.images)


def _evaluate_photographs(args: argparse.Namespace) -> None:
    from tfcomp.measure import comparison
    from tfcomp.photographs.codec import PhotographCodec
    from tfcomp.storage import image_files

    folder = Path(args.data) / "test"
    with held_native_lines():
        codec = PhotographCodec.load()
        files = image_files.image_files(folder if folder.is_dir() else folder.parent)
        files = [files[i] for i in range(0, len(files), -(-len(files) // args.images))]
        images = [image_files.read_image(file, whole=True) for file in files]
    qualities = range(1, codec.qualities + 1)
    codecs = {f"{PHOTOGRAPHS}, quality {quality}": codec.at(quality) for quality in qualities}
    comparison.run(codecs, images, args.data, args.against, args.out, args.images)


def info(args: argparse.Namespace) -> None:
    """What a file or folder is."""
    from tfcomp.artifact.manifest import MANIFEST, Manifest, photographs, verify
    from tfcomp.storage import container

    path = Path(args.file)
    if said := photographs(path):
        verify(path, said["files"])
        sides = f"up to {said['side']} pixels a side in .tflite" if said["side"] else "of any size"
        print(f"artifact     {path}: photographs, {said['qualities']} qualities, {sides}")
        print(f"codec        {said['fingerprint']}")
        for name, file in said["files"].items():
            print(f"{file['bytes']:>12,} bytes  {name}")
    elif (path / MANIFEST).is_file():
        manifest = Manifest.read(path)
        verify(path, manifest.files)
        print(f"artifact     {path}")
        for quality, fingerprint in enumerate(manifest.fingerprints, 1):
            print(f"codec        {fingerprint}" + (f", quality {quality}" if len(manifest.fingerprints) > 1 else ""))
        print(f"image        uint8 {manifest.image_shape}\nlatent       int32 {manifest.latent_shape}")
        print(f"payload      at most {manifest.max_payload_bytes} bytes\n{manifest.table()}")
        for name, file in manifest.files.items():
            print(f"{file['bytes']:>12,} bytes  {name}")
    elif (path / RUN).is_file():
        run = _read_run(path)
        print(f"run          {path}")
        for name, value in {**run["settings"], **{k: v[-1] for k, v in run["history"].items() if v}}.items():
            print(f"{name:<16} {value}")
    elif path.is_file():
        with path.open("rb") as opened:
            magic = opened.read(len(container.MAGIC))
        if magic == container.MAGIC:
            with container.Archive.open(path) as archive:
                print(archive.header)
                _describe_photographs(archive)
        elif args.codec:
            codec = _codec(args.codec)
            codec.entropy_model.decode([path.read_bytes()])
            print(f"payload      {path.stat().st_size} bytes, decodes under codec {codec.fingerprint}")
        else:
            size = path.stat().st_size
            print(f"not a .tfz: {size} bytes; a bare payload names no codec (give --codec to try one)")
    else:
        raise InputError(f"expected a .tfz, a payload, a run or an artifact, found none of them at {path}")


def _describe_photographs(archive: Any) -> None:
    """If the bundled codec made the archive: what the photographs are, and what it costs to decode them."""
    from tfcomp.photographs.codec import PhotographCodec

    try:
        with held_native_lines():
            codec = PhotographCodec.load()
    except MissingDependencyError:
        return
    if archive.header.fingerprint != codec.fingerprint:
        return
    names = archive.metadata.get("names")
    names = names if isinstance(names, list) and len(names) == len(archive) else range(len(archive))
    for name, payload in zip(names, archive, strict=True):
        print(f"photograph   {name!a}: {codec.describe(payload)}, {len(payload)} bytes")
    for name, macs in codec.macs_per_pixel.items():
        print(f"network      {name}: {macs / 1000:.1f} thousand multiply-accumulates a pixel")


# === Reading and naming ===


def _codec(folder: str) -> Any:
    from tfcomp.codec import Codec

    with held_native_lines():
        return Codec.load(folder)


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        run = dict(json.loads((folder / RUN).read_text()))
        return {"settings": {"data": run["settings"]["data"], **run["settings"]}, "history": dict(run["history"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"expected a run of `tfcomp train` with a {RUN} in it, found none at {folder}") from error


def _read_inputs(paths: Sequence[Path]) -> tuple[list[str], Images]:
    """Names and images of files, folders, or one ``.npy`` file (whose images have no names)."""
    from tfcomp.data import datasets
    from tfcomp.storage import image_files

    if len(paths) == 1 and paths[0].suffix == ".npy":
        return [], datasets.read_array(paths[0])
    names, files = _named_files(paths)
    return names, image_files.read_images(files)


def _named_files(paths: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """The image files that paths of files and folders name, and the name of each."""
    from tfcomp.storage import image_files

    files, names = [], []
    for path in paths:
        if path.is_dir():
            found = image_files.image_files(path)
            files += found
            names += [file.relative_to(path).as_posix() for file in found]
        else:
            files.append(path)
            names.append(path.name)
    list(_targets(names, len(names), "the input"))  # what could not come out again does not go in
    return names, files


def _targets(names: Any, count: int, source: str) -> Iterator[Path]:
    """Where each item goes, below the output folder; a name from a file is not trusted to stay there."""
    if names is None:
        names = [f"{i:0{len(str(max(count - 1, 0)))}}" for i in range(count)]
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise BitstreamError(f"expected {count} names in {source}, found {str(names)[:60]}")
    taken: set[Path] = set()
    for name in names:
        given = PurePosixPath(name)
        if given.is_absolute() or ".." in given.parts or not given.name or "\0" in name or "\\" in name:
            raise BitstreamError(f"expected names inside the output folder in {source}, found {name!r}")
        target = Path(given.with_suffix(".png") if given.suffix.isascii() else f"{name}.png")
        serial = 1
        while target in taken:
            target, serial = Path(f"{given}-{serial}.png"), serial + 1
        taken.add(target)
        yield target


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from error


# === Running ===


def _refuse(error: Exception) -> int:
    print(f"tfcomp: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python prints its errors beside ours
    try:
        args = parser(demo, train, export, compress, decompress, evaluate, info).parse_args(arguments)
        args.command(args)
    except (TfcompError, OSError) as error:
        return _refuse(error)
    except ModuleNotFoundError as error:
        missing = missing_dependency(error)
        if missing is None:
            raise
        return _refuse(missing)
    except KeyboardInterrupt:
        print("tfcomp: interrupted; no file was left half-written", file=sys.stderr)
        return 130
    return 0
