"""``tfcomp evaluate``: real bytes and quality of artifacts beside classical codecs, on a data set's test images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfcomp.cli.console import report_skipped
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.cli.runs import test_folder
from tfcomp.codec import Codec
from tfcomp.data import datasets
from tfcomp.errors import InputError, TfcompError
from tfcomp.items import Images, Item
from tfcomp.measure import comparison
from tfcomp.storage import image_files


def run(args: argparse.Namespace) -> None:
    """The command."""
    *_, bundled = comparison.chosen(args.against)
    skipped: image_files.Skipped | None = {} if args.on_error == "skip" else None
    with held_native_lines(dropped=args.on_error == "skip"):
        loaded = {name: Codec.load(name) for name in args.artifacts}
        rivals = {name: Codec.load(name) for name in bundled}
        others: Images | Sequence[Images] = []
        if Path(args.data).is_dir() and all(codec.item.any_size for codec in loaded.values()):
            every = {**loaded, **rivals}
            test: Images | Sequence[Images] = _of_any_size(test_folder(args.data), args.images, every, skipped)
        else:
            others, test = datasets.load_arrays(args.data, skipped=skipped)
            for codec in (*loaded.values(), *rivals.values()):
                _require_shape(codec.item, test.shape[1:], args.data)
    comparison.run(_each_quality(loaded), test, args.data, args.against, args.out, args.images, rivals)
    report_skipped((skipped or {}).values(), len(others) + len(test) + len(skipped or {}))


def _each_quality(loaded: Mapping[str, Codec]) -> dict[str, Codec]:
    return {
        f"{name}, quality {quality}" if artifact.qualities > 1 else name: codec
        for name, artifact in loaded.items()
        for quality, codec in enumerate(artifact.codecs, 1)
    }


def _of_any_size(
    folder: Path, count: int, loaded: Mapping[str, Codec], skipped: image_files.Skipped | None
) -> list[Images]:
    """At most ``count`` images of a folder, spread evenly."""
    files = image_files.image_files(folder)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)]
    images = []
    for file in files:
        try:
            image = image_files.read_image(file, whole=True)
            for codec in loaded.values():
                image_files.require_channels(file, image.shape[2], codec.item.channels)
        except TfcompError as error:
            if skipped is None or len(skipped) + 1 == len(files):
                raise
            skipped[file] = error
        else:
            images.append(image)
    return images


def _require_shape(item: Item, shape: tuple[int, ...], data: str) -> None:
    grey = item.any_size and shape[2] in item.accepted
    if not grey and any(n not in (None, m) for n, m in zip(item.shape, shape, strict=True)):
        raise InputError(f"expected images {item} in {data}, found {list(shape)}")
