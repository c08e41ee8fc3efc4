"""Settings, model and last line of ``tfcomp train``, for images of one shape and for crops."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from tfcomp.cli.console import say
from tfcomp.data.crops import SIDE
from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.vae import VAE

MODELS = {"autoencoder": AutoEncoder, "vae": VAE}
NETWORK = "conv"

COMMON = ("data", "model", "network", "beta", "distortion", "seed", "latent_dim", "batch_size", "learning_rate")
"""Options of every run."""
ONE_SHAPE = {"epochs": 10}
"""Options of training on images of one shape alone, with their defaults."""
CROPS = {"start": None, "steps": None, "minutes": None, "side": SIDE, "validation": None}
"""Options of training on crops alone, with their defaults."""


def settled(
    args: argparse.Namespace, options: Mapping[str, Any], others: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a run, without those that are None.

    Args:
        args: the command's arguments, None where an option was not named.
        options: options of this training alone, with their defaults: `ONE_SHAPE` or `CROPS`.
        others: options of the other training, which would have no effect.
        defaults: defaults of common options.

    Raises:
        InputError: if one of ``others`` was named.
    """
    for name in others:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            other = "crops of photographs" if others is CROPS else "images of one shape"
            raise InputError(
                f"expected {option} to train on {other} alone, found --network {args.network or NETWORK} {args.data}"
            )
    settings, names = {**options, **defaults}, (*COMMON, *options)
    settings |= {name: value for name in names if (value := getattr(args, name)) is not None}
    return {name: settings[name] for name in names if settings.get(name) is not None}


def new_model(args: argparse.Namespace, shape: tuple[int | None, ...], latent_dim: int) -> Any:
    """The model that the command names; options that it does not name keep the networks' defaults."""
    options: dict[str, Any] = {"distortion": args.distortion} if args.distortion else {}
    if args.model == "vae" and len(args.beta) > 1:
        raise InputError(f"expected one beta for a {args.model}, found {len(args.beta)}")
    if args.beta:
        options["beta"] = args.beta[0] if len(args.beta) == 1 else tuple(args.beta)
    if args.network != "lapped":
        return getattr(MODELS[args.model], args.network or NETWORK)(shape, args.latent_dim or latent_dim, **options)
    if args.model != "autoencoder" or args.distortion not in (None, "squared_error") or args.latent_dim is not None:
        raise InputError(
            "expected lapped networks in an autoencoder of squared_error without --latent-dim, found others"
        )
    return AutoEncoder.lapped(shape, **({"beta": options["beta"]} if args.beta else {}))


def verbosity() -> str | int:
    """Verbosity of `fit`: a bar on a terminal, a line for each epoch elsewhere."""
    return "auto" if sys.stderr is not None and sys.stderr.isatty() else 2


def report(out: str, watched: str, history: Mapping[str, list[float]]) -> None:
    """Prints the last line: the metrics of the last epoch on held-out images."""
    names = [name for name in history if name.startswith("val_")]
    metrics = ", ".join(f"{name.removeprefix('val_')} {history[name][-1]:.4g}" for name in names)
    say(f"{out}: on {watched}: {metrics}")
