"""``tfcomp train``: a model trained by gradient descent, and kept as a run; see `runs`."""

from __future__ import annotations

import argparse

import keras

from tfcomp.artifact.manifest import MODEL
from tfcomp.cli import crop_training, fitting
from tfcomp.cli.console import report_skipped
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.cli.runs import RUN, Run
from tfcomp.data import datasets
from tfcomp.storage.image_files import Skipped
from tfcomp.storage.writing import replacing_folder

DEFAULTS = {"latent_dim": 64, "batch_size": 128, "learning_rate": 1e-3}


def run(args: argparse.Namespace) -> None:
    """The command."""
    keras.utils.set_random_seed(args.seed)
    if crop_training.suits(args):
        crop_training.run(args)
    else:
        _one_shape(args)


def _one_shape(args: argparse.Namespace) -> None:
    """Trains on arrays in memory, or on the files of a large folder."""
    skipped: Skipped | None = {} if args.on_error == "skip" else None
    settings = fitting.settled(args, fitting.ONE_SHAPE, fitting.CROPS, DEFAULTS)
    with held_native_lines(dropped=args.on_error == "skip"):
        images, held_out = datasets.opened(args.data, skipped=skipped, to_the_end=True)
    model = fitting.new_model(args, images.shape[1:], DEFAULTS["latent_dim"])  # type: ignore[arg-type]
    steps = settings["epochs"] * -(-len(images) // settings["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(settings["learning_rate"], steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    with replacing_folder(args.out, RUN, own=[MODEL]) as folder, datasets.reading_errors():
        size: int | None = settings["batch_size"]
        learnt, watched = images, held_out
        if isinstance(images, datasets.ImageFiles):
            learnt = datasets.batches(images, settings["batch_size"], shuffle=True, seed=args.seed)
            watched = datasets.batches(held_out, settings["batch_size"], shuffle=False)
            size = None
        history = model.fit(
            learnt,
            validation_data=watched,
            batch_size=size,
            epochs=settings["epochs"],
            verbose=fitting.verbosity(),
        ).history
        model.save(folder / MODEL)
        Run.write(folder, settings, history)
    fitting.report(args.out, f"{len(held_out)} held-out images", history)
    report_skipped((skipped or {}).values(), len(images) + len(held_out) + len(skipped or {}))
