"""What the command line takes: the commands' options, and one line for what is wrong with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

import tfcomp
from tfcomp.errors import InputError

PHOTOGRAPHS = "photographs"
"""In place of an artifact: the codec that comes with the package."""

Command = Callable[[argparse.Namespace], None]


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return value


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does; argparse prints the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parser(*functions: Command) -> argparse.ArgumentParser:
    """The whole command line, of the functions that are its commands; the one chosen is ``command``."""
    root = _Parser(prog="tfcomp", description="Learned data compression: train, freeze, compress.")
    root.add_argument("--version", action="version", version=f"tfcomp {tfcomp.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    made = {}
    for function in functions:
        summary = function.__doc__
        made[function.__name__] = commands.add_parser(function.__name__, help=summary, description=summary)
        made[function.__name__].set_defaults(command=function)

    data = "mnist | glyphs | tfds:NAME | FOLDER | FILE.npy | FILE.npz"

    command = made["demo"]
    command.add_argument("--data", default="glyphs", help=f"{data} (default: %(default)s)")
    command.add_argument("--out", default="demo", help="folder for the results (default: %(default)s)")
    command.add_argument("--epochs", type=_positive, default=None, help="default: what takes about two minutes")

    command = made["train"]
    command.add_argument("data", metavar="DATA", help=data)
    command.add_argument("--out", required=True, metavar="RUN", help="folder to write")
    command.add_argument("--model", choices=["autoencoder", "vae"], default="autoencoder")
    command.add_argument("--network", choices=["dense", "conv"], default="conv")
    command.add_argument("--latent-dim", type=_positive, default=64)
    command.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[],
        help="price of a nat of rate, if not the model's own; several, falling: one autoencoder of as many qualities",
    )
    command.add_argument("--distortion", choices=["squared_error", "binary_cross_entropy"])
    command.add_argument("--epochs", type=_positive, default=10)
    command.add_argument("--batch-size", type=_positive, default=128)
    command.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam, with a cosine schedule to zero")
    command.add_argument("--seed", type=int, default=0)

    command = made["export"]
    command.add_argument("run", metavar="RUN", help=f"what train wrote; {PHOTOGRAPHS}: the bundled codec")
    command.add_argument("artifact", metavar="ARTIFACT", help="folder to write")
    command.add_argument("--data", help=f"calibration images, if not the run's own: {data}")
    command.add_argument(
        "--quantize",
        default="float32",
        metavar="TYPE",
        help="networks of the .tflite files: float32, float16 or dynamic (8 bits) weights, or int8 throughout",
    )
    command.add_argument(
        "--sets", type=_positive, default=1, help="sets of tables that compete for each message; 64 suit small images"
    )
    command.add_argument(
        "--side",
        type=_positive,
        metavar="PIXELS",
        help="of photographs: .tflite files of fixed shapes, up to this side",
    )
    target = command.add_mutually_exclusive_group()
    step = "quantization step, as a multiple of each latent's unit; several, falling, make as many qualities"
    target.add_argument("--step", type=float, nargs="+", help=step)
    target.add_argument("--target-psnr-db", type=float, metavar="DB")
    target.add_argument("--target-bytes", type=float, metavar="BYTES", help="mean payload length")

    command = made["compress"]
    own = "default: the codec of photographs that comes with the package"
    command.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders, or (with --codec) one .npy")
    command.add_argument("-o", "--output", required=True, metavar="OUT.tfz")
    command.add_argument("--codec", metavar="ARTIFACT", help=own)
    quality = "of photographs 1 to 8, default 5; of an ARTIFACT from 1, if it has several, default the highest"
    command.add_argument("--quality", type=int, metavar="Q", help=quality)
    command.add_argument(
        "--target-bytes", type=_positive, metavar="N", help="of photographs: the most for each, instead of a quality"
    )

    command = made["decompress"]
    command.add_argument("input", metavar="IN.tfz")
    command.add_argument("-o", "--output", required=True, metavar="FOLDER")
    command.add_argument("--codec", metavar="ARTIFACT", help=own)
    command.add_argument("--force", action="store_true", help="replace images that are already there")

    command = made["evaluate"]
    command.add_argument(
        "artifacts",
        nargs="+",
        metavar="ARTIFACT",
        help=f"several make one curve; {PHOTOGRAPHS}: the bundled codec, on a FOLDER",
    )
    command.add_argument("data", metavar="DATA", help=f"its test images are used: {data}")
    command.add_argument(
        "--against",
        default="webp,jpeg,avif,jxl,png",
        metavar="NAMES",
        help="of jpeg, jpeg2000, webp, avif, jxl, png, zstd, brotli, lzma, with commas (default: %(default)s)",
    )
    command.add_argument("--images", type=_positive, default=1000, metavar="N", help="at most (default: %(default)s)")
    command.add_argument("--out", metavar="FOLDER", help="folder to write: a JSON, and plots as PNG and PDF")

    command = made["info"]
    command.add_argument("file", metavar="FILE", help="a .tfz, a payload, a run or an artifact")
    command.add_argument("--codec", metavar="ARTIFACT", help="try a bare payload with this codec")
    return root
