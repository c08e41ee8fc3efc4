"""``tfcomp train`` on crops of a folder of photographs: with ``--network lapped``, or ``spatial`` of any size."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfcomp.artifact.manifest import MODEL
from tfcomp.cli import fitting, runs
from tfcomp.cli.console import report_skipped, say
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.data import crops as streams
from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models.context_prior import ContextPrior
from tfcomp.models.lapped import unit_of
from tfcomp.models.loading import load_model
from tfcomp.storage.image_files import Skipped, image_files, image_shapes
from tfcomp.storage.writing import replacing_folder

DEFAULTS = {"batch_size": 8, "learning_rate": 6e-4}
LATENT_DIM = 64
"""Channels of a spatial latent, where the command does not say."""
STEPS = 6000
"""Number of steps, where neither steps nor minutes are given."""
PER_EPOCH = 250
WARM_UP = 100
"""Number of steps in which the learning rate rises to its largest; then it falls, by a cosine, to `LAST_RATE` of it."""
LAST_RATE = 0.01
WATCHED = 64
"""Number of crops, always the same, that are measured after each epoch."""
HELD_OUT = 0.05
"""Share of the photographs that these are cut from, if no folder of others is named."""


def suits(args: argparse.Namespace) -> bool:
    """Whether the command is to train on crops: by its options, or because a folder's images differ in size."""
    if args.network == "lapped" or args.side is not None or args.start is not None:
        return True
    if args.network != "spatial" or not Path(args.data).is_dir():
        return False
    with held_native_lines(dropped=args.on_error == "skip"):
        return len({shape[:2] for shape in _shapes(args.data, {} if args.on_error == "skip" else None).values()}) > 1


def run(args: argparse.Namespace) -> None:
    """Trains, and keeps the weights of the epoch that was best on the watched crops."""
    settings = fitting.settled(args, fitting.CROPS, fitting.ONE_SHAPE, DEFAULTS)
    if args.network not in ("lapped", "spatial") and args.start is None:
        raise InputError(f"expected --network lapped or spatial to train on crops, found {args.network}")
    if args.steps is not None and args.minutes is not None:
        raise InputError("expected --steps or --minutes, found both")
    if not Path(args.data).is_dir():
        raise InputError(f"expected a folder of photographs to cut crops from, found {args.data}")
    if args.start is not None and Path(args.start).exists() and Path(args.out).resolve() == Path(args.start).resolve():
        raise InputError(f"expected --out to be another folder than --start, found {args.out} for both")
    skipped: Skipped | None = {} if args.on_error == "skip" else None
    with replacing_folder(args.out, runs.RUN, own=[MODEL]) as folder, datasets.reading_errors():
        with held_native_lines(dropped=args.on_error == "skip"):
            shapes = _shapes(args.data, skipped, to_the_end=skipped is None)
            if (others := _others(args)) is not None:
                shapes |= image_shapes(image_files(others), to_the_end=skipped is None, skipped=skipped)
            model = _model(args, settings["side"], max(shape[2] for shape in shapes.values()))
            learnt, watched = _streams(args, settings["side"], model.item.channels, skipped)
        plan = Plan(settings["learning_rate"], args.steps, args.minutes)
        clip = clip_norm(model.betas, settings["side"])
        # XLA takes long to compile under TensorFlow; without it JAX runs a step operator by operator.
        compiled = False if keras.backend.backend() == "tensorflow" else "auto"
        model.compile(optimizer=keras.optimizers.Adam(0.0, global_clipnorm=clip), jit_compile=compiled)
        best = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=10**9, restore_best_weights=True)
        history = model.fit(
            learnt.batch(settings["batch_size"]).prefetch(1),
            steps_per_epoch=PER_EPOCH,
            epochs=10**6,  # the plan says when it is over
            validation_data=watched.batch(settings["batch_size"]).cache(),
            verbose=0,
            callbacks=[plan, best],
        ).history
        model.optimizer.learning_rate = settings["learning_rate"]  # for who trains on
        model.save(folder / MODEL)
        runs.Run.write(folder, {**settings, "steps": plan.done}, history)
    fitting.report(args.out, f"{WATCHED} held-out crops", history, int(np.argmin(history["val_loss"])))
    report_skipped((skipped or {}).values(), len({*shapes, *(skipped or {})}))


def clip_norm(betas: tuple[float, ...], side: int) -> float | None:
    """The largest norm of a gradient: 5 for a loss in bits a pixel, whatever a model's prices and crops are.

    Training was tuned on the mean, over qualities of steps ``s`` in levels of 8-bit pixels, of

        (bits + weight * squared error in levels / s**2) / pixels * s / s_middle

    with ``weight = s**2 / (255**2 * ln(2) * beta)``, the same for all. Squared error in levels is ``255**2`` times that
    of pixels on [0, 1], and bits are nats over ln 2, so that this is

        (squared error + beta * nats) * weight * 255**2 / (pixels * s * s_middle)

    Models minimise the bracket times ``1 / (s * mean(1 / s))``: qualities weigh alike relative to one another, and 1 in
    the mean. Their loss, and its gradient, are larger by ``pixels * s_middle / (weight * 255**2 * mean(1 / s))``.

    Args:
        betas: price of a nat, of each quality.
        side: pixels a side of a crop.

    Returns:
        None, no limit, if a price is 0.
    """
    if min(betas) <= 0:
        return None
    steps = np.array([unit_of(beta) for beta in betas])
    weight = steps[0] ** 2 / (255**2 * math.log(2) * betas[0])
    return float(5 * side**2 * steps[len(steps) // 2] / (weight * 255**2 * np.mean(1 / steps)))


def _shapes(data: str, skipped: Skipped | None, *, to_the_end: bool = False) -> dict[Path, tuple[int, int, int]]:
    files = image_files(runs.training_folder(data))
    found = image_shapes(files, to_the_end=to_the_end, skipped=skipped)
    if not found and skipped:
        raise skipped[files[0]]
    return found


def _others(args: argparse.Namespace) -> Path | None:
    """The folder of photographs to watch; None if some of those to learn from are held out."""
    return Path(args.validation) if args.validation else runs.validation_folder(args.data)


def _model(args: argparse.Namespace, side: int, channels: int) -> Any:
    if args.start is None:
        model: Any = fitting.new_model(args, (None, None, channels), LATENT_DIM)
    else:
        if args.beta or args.distortion or args.latent_dim:
            raise InputError(
                f"expected the prices and networks of {args.start} to stay, found options that change them"
            )
        model = load_model(runs.Run.read(args.start).model if runs.is_run(args.start) else args.start)
        network = "lapped" if isinstance(model.prior, ContextPrior) else "spatial"
        if args.network not in (None, network):
            raise InputError(f"expected --network {network}, as {args.start} has, found --network {args.network}")
    if not model.item.any_size:
        raise InputError(f"expected a model of images of any size, found one of {model.item} in {args.start}")
    if side % model.stride:
        raise InputError(f"expected a --side that is a multiple of {model.stride}, found {side}")
    return model


def _streams(args: argparse.Namespace, side: int, channels: int, skipped: Skipped | None) -> tuple[Any, Any]:
    """Crops to learn from, without end, and those that are watched, at the photographs' own scale."""
    options: Any = {"channels": channels, "skipped": skipped}
    files = runs.training_folder(args.data)
    others = _others(args)
    if others is None:
        learnt = streams.crops(files, side, seed=args.seed, validation_split=HELD_OUT, subset="training", **options)
        watched = streams.crops(
            files, side, scales=(1.0,), seed=1, validation_split=HELD_OUT, subset="validation", **options
        )
    else:
        learnt = streams.crops(files, side, seed=args.seed, **options)
        watched = streams.crops(others, side, scales=(1.0,), seed=1, **options)
    return learnt, watched.take(WATCHED)


class Plan(keras.callbacks.Callback):
    """The learning rate of each step, the last step, and a line for each epoch.

    Args:
        rate: the largest learning rate.
        steps: number of steps; None for `STEPS`, or for as many as ``minutes`` give time for.
        minutes: time, the first step's tracing and all validation included. The first steps say how many there will
            be, and every epoch corrects that.
    """

    MEASURED = 10, 30
    """The steps between which time is first taken; those before are slower."""

    def __init__(self, rate: float, steps: int | None, minutes: float | None) -> None:
        super().__init__()
        self.rate, self.done = rate, 0
        self.steps = steps or STEPS
        self.seconds = None if minutes is None else 60 * minutes
        self._start = self._measured = self._validated = time.perf_counter()
        self._validation: float | None = None  # seconds that the last one took
        self._bar: Any = None

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step < WARM_UP:
            return self.rate * step / WARM_UP
        share = min(1.0, (step - WARM_UP) / max(1, self.steps - WARM_UP))
        return self.rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        if self.done > self.MEASURED[1]:
            self._plan(self.MEASURED[0])
        left = min(PER_EPOCH, self.steps - self.done)
        self._bar = tqdm(desc=f"epoch {epoch + 1}", total=left, delay=1.0, leave=False, disable=None)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.model.optimizer.learning_rate = self.rate_at(self.done)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.done += 1
        self._bar.update()
        first, last = self.MEASURED
        if self.done == first:
            self._measured = time.perf_counter()
        elif self.done == last:
            self._plan(first)
        if self.done >= self.steps:
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._validated = time.perf_counter()

    def on_test_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._validation = time.perf_counter() - self._validated

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._bar.close()
        said = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        say(f"epoch {epoch + 1}, {self.done} of {self.steps} steps: {said}")

    def _plan(self, first: int) -> None:
        """How many steps there is time for before a last validation, by what those since the ``first`` have taken."""
        if self.seconds is None:
            return
        now = time.perf_counter()
        seconds_a_step = (now - self._measured) / (self.done - first)
        first_steps = self._measured - self._start  # with their tracing; the first validation is traced too
        last = first_steps if self._validation is None else self._validation
        left = self._start + self.seconds - last - now
        self.steps = max(self.done + 1, self.done + int(left / seconds_a_step))
