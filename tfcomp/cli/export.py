"""``tfcomp export``: a run, or a bundled model, as an artifact."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from tfcomp import bundled
from tfcomp.artifact.manifest import QUANTIZATIONS, Manifest
from tfcomp.cli.console import say
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.cli.runs import Run, is_run, training_folder
from tfcomp.codec import Codec
from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.freezing.calibration import MAX_PIXELS
from tfcomp.items import Images

FREEZING = ("data", "step", "target_psnr_db", "target_bytes", "sets")
"""Options of freezing, which only a run takes."""


def run(args: argparse.Namespace) -> None:
    """The command."""
    if args.quantize not in QUANTIZATIONS:
        raise InputError(f"expected --quantize to be one of {', '.join(QUANTIZATIONS)}, found {args.quantize}")
    named = not is_run(args.run) and args.run in bundled.folders()
    codec = _bundled(args) if named else _frozen(args)
    manifest = Manifest.from_dict(
        codec.export(args.artifact, quantize=args.quantize, side=args.side, with_model=args.with_model)
    )
    size = sum(file["bytes"] for file in manifest.files.values())
    say(f"{args.artifact}: codec {codec.fingerprint}, {len(manifest.files)} files, {size:,} bytes")
    if table := manifest.table():
        say(table)


def _frozen(args: argparse.Namespace) -> Codec:
    from tfcomp.models.loading import load_model

    trained = Run.read(args.run)
    model: Any = load_model(trained.model)
    data = args.data or trained.settings["data"]
    targets = {name: getattr(args, name) for name in ("step", "target_psnr_db", "target_bytes")}
    calibration = training_folder(data) if model.item.any_size else _of_one_shape(data)
    return Codec.freeze(model, calibration, sets=args.sets or 1, **targets)


def _of_one_shape(data: str) -> Images:
    """The training images; of a large folder as many, spread evenly, as calibration on a folder takes."""
    images = datasets.opened(data)[0]
    if not isinstance(images, datasets.ImageFiles):
        return images
    count = min(len(images), max(1, MAX_PIXELS // (images.shape[1] * images.shape[2])))
    return images[np.arange(count) * len(images) // count]


def _bundled(args: argparse.Namespace) -> Codec:
    for name in FREEZING:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"expected a run for {option}, found {args.run}, which is frozen")
    with held_native_lines():
        return Codec.load(args.run, runtime="keras")
