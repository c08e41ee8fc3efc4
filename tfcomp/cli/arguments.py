"""The options of all commands, and one line about any that is wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from tfcomp.errors import InputError
from tfcomp.geometry import DEFAULT_MAX_PIXELS
from tfcomp.storage.writing import local
from tfcomp.version import __version__

DATA = "mnist | glyphs | tfds:NAME | FOLDER | FILE.npy | FILE.npz"
BUNDLED = "photographs: the codec that comes with the package"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; its result's ``module`` is the module of the chosen command."""
    root = _Parser(prog="tfcomp", description="Learned data compression: train, freeze, compress.")
    root.add_argument("--version", action="version", version=f"tfcomp {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, summary, add_options) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(module=module)
        add_options(command)
    return root


# === Values ===


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _path(text: str) -> str:
    try:
        return str(local(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(least: int) -> Callable[[str], int]:
    def value(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text}")
        return number

    return value


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return number


def _add_max_pixels(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-pixels",
        type=_whole(1),
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="refuse images of more pixels before any work, and archives that claim many more than their size allows "
        "(default: %(default)s)",
    )


# === Commands ===


def _on_error(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="for images that cannot be read. stop: all images are read before the work begins, and a bad one ends the "
        "command; skip: bad images are left out, and the last line names them (status 2)",
    )


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=_path, default="glyphs", help=f"{DATA} (default: %(default)s)")
    command.add_argument("--out", type=_path, default="demo", help="folder for the results (default: %(default)s)")
    command.add_argument("--epochs", type=_whole(1), default=None, help="default: about two minutes of them")


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", type=_path, metavar="DATA", help=f"{DATA}; for crops, a FOLDER of photographs")
    resumed = "folder to write; training on crops that was stopped goes on there"
    command.add_argument("--out", type=_path, required=True, metavar="RUN", help=resumed)
    command.add_argument("--model", choices=["autoencoder", "vae"], default="autoencoder")
    command.add_argument(
        "--network",
        choices=["dense", "conv", "spatial", "lapped"],
        help="dense, conv (the default): for images of one shape; spatial: also for any size, if the folder's images "
        "differ in size or --side is named; lapped: for any size",
    )
    command.add_argument("--latent-dim", type=_whole(1), metavar="N", help="default: 64; not for lapped networks")
    command.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[],
        help="price of a nat of rate; default: the model's; several, falling: one autoencoder of as many qualities",
    )
    command.add_argument("--distortion", choices=["squared_error", "binary_cross_entropy"])
    command.add_argument("--batch-size", type=_whole(1), metavar="N", help="default: 128; for crops 8")
    command.add_argument(
        "--learning-rate",
        type=_positive,
        metavar="RATE",
        help="Adam's largest learning rate, from which it falls; default: 1e-3, for crops 6e-4, with --start 3e-4",
    )
    command.add_argument("--seed", type=_whole(0), default=0)
    _on_error(command)

    images = command.add_argument_group("images of one shape")
    images.add_argument("--epochs", type=_whole(1), metavar="N", help="default: 10")

    crops = command.add_argument_group("crops of photographs of any size")
    crops.add_argument("--start", type=_path, metavar="RUN", help=f"a run or an artifact to train on from; {BUNDLED}")
    length = crops.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_whole(1), metavar="N", help="default: 6000")
    length.add_argument("--minutes", type=_positive, metavar="M", help="train for as long as this")
    crops.add_argument("--side", type=_whole(1), metavar="PIXELS", help="side of a crop; default: 192")
    crops.add_argument(
        "--validation",
        type=_path,
        metavar="FOLDER",
        help="photographs to measure on while training; default: FOLDER/val beside FOLDER/train, else one in ten",
    )


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=_path, metavar="RUN", help=f"a folder that train wrote; {BUNDLED}")
    command.add_argument("artifact", type=_path, metavar="ARTIFACT", help="folder to write")
    command.add_argument("--data", type=_path, help=f"calibration images; default: the run's training images: {DATA}")
    command.add_argument(
        "--quantize",
        default="float32",
        metavar="TYPE",
        help="type of the .tflite files' networks: float32, float16, int8-weights; for one shape also dynamic, int8",
    )
    command.add_argument(
        "--sets",
        type=_whole(1),
        help="sets of tables that compete for each message; 64 suit small images (default: 1)",
    )
    command.add_argument(
        "--side",
        type=_whole(1),
        metavar="PIXELS",
        help="for images of any size: .tflite files of fixed shapes, for images of up to this side",
    )
    command.add_argument("--with-model", action="store_true", help="keep the trained model, to train on from it")
    target = command.add_mutually_exclusive_group()
    step = "quantization step, as a multiple of each latent's unit; several, falling, make as many qualities"
    target.add_argument("--step", type=float, nargs="+", help=step)
    target.add_argument("--target-psnr-db", type=float, metavar="DB")
    target.add_argument("--target-bytes", type=float, metavar="BYTES", help="mean payload length")


def _compress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image files, folders, or one .npy of one image or many"
    )
    command.add_argument(
        "-o", "--output", required=True, metavar="OUT.tfz", help="file to write; with --shard-size a folder, resumed"
    )
    command.add_argument(
        "--shard-size",
        type=_whole(1),
        metavar="N",
        help="write numbered .tfz files of at most N images, from inputs larger than memory and several .npy; "
        'inputs and folder may be addresses such as s3://bucket/photos (pip install "tfcomp[bulk]")',
    )
    command.add_argument("--codec", type=_path, metavar="ARTIFACT", help=f"default: {BUNDLED}")
    command.add_argument("--quality", type=int, metavar="Q", help="from 1; default: the codec's default")
    command.add_argument(
        "--target-bytes",
        type=_whole(1),
        metavar="N",
        help="instead of a quality, for images of any size: most bytes for each image",
    )
    command.add_argument(
        "--effort",
        type=_whole(0),
        default=0,
        metavar="E",
        help="largest number of looks through the decoder for better integers; 16 gains nearly everything (default: "
        "%(default)s)",
    )
    _on_error(command)
    command.add_argument("--force", action="store_true", help="replace OUT.tfz though it is no .tfz")
    _add_max_pixels(command)


def _decompress(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", metavar="IN.tfz", help="or the folder that compress --shard-size has written")
    command.add_argument("-o", "--output", required=True, metavar="FOLDER")
    command.add_argument("--codec", type=_path, metavar="ARTIFACT", help="default: the bundled codec that made IN.tfz")
    _on_error(command)
    command.add_argument("--force", action="store_true", help="replace images that are already there")
    _add_max_pixels(command)


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "artifacts", type=_path, nargs="+", metavar="ARTIFACT", help=f"several make one curve; {BUNDLED}"
    )
    command.add_argument(
        "data", type=_path, metavar="DATA", help=f"test images: {DATA}; for a codec of any size a FOLDER"
    )
    command.add_argument(
        "--against",
        default="webp,jpeg,avif,jxl,png",
        metavar="NAMES",
        help="any of jpeg, jpeg2000, webp, avif, avif-psnr, jxl, png, zstd, brotli, lzma, and photographs, the bundled "
        "codec, with commas (default: %(default)s)",
    )
    command.add_argument(
        "--images", type=_whole(1), default=1000, metavar="N", help="most images (default: %(default)s)"
    )
    command.add_argument(
        "--out", type=_path, metavar="FOLDER", help="folder to write: a JSON file, and plots as PNG and PDF"
    )
    _on_error(command)


def _info(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=_path, metavar="FILE", help="a .tfz, a payload, a run or an artifact")
    command.add_argument("--codec", type=_path, metavar="ARTIFACT", help="the codec to try a bare payload with")


_COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("demo", "Train on small images, compress held-out ones, compare and draw; needs no network.", _demo),
    "train": ("train", "Train a model by gradient descent and keep it as a run.", _train),
    "export": ("export", "Freeze a run and write it as an artifact.", _export),
    "compress": ("compress", "Compress images into one .tfz file, or into many.", _compress),
    "decompress": ("decompress", "Decompress one .tfz file, or many, into images.", _decompress),
    "evaluate": (
        "evaluation",
        "Measure bytes and quality of artifacts and of classical codecs on a data set's test images.",
        _evaluate,
    ),
    "info": ("info", "Describe a file or folder.", _info),
}
"""Module, summary and options of each command."""
