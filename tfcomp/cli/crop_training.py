"""``tfcomp train`` on crops of a folder of photographs: with ``--network lapped``, or ``spatial`` of any size."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcomp.artifact.manifest import MODEL
from tfcomp.cli import fitting, runs, unfinished
from tfcomp.cli.console import report_skipped
from tfcomp.cli.native_lines import held_native_lines
from tfcomp.cli.training_plan import PER_EPOCH, Plan
from tfcomp.cli.watching import Choice, Watch, Watching, mixtures, tell
from tfcomp.data import crops as streams
from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models.context_prior import ContextPrior
from tfcomp.models.lapped import unit_of
from tfcomp.models.loading import load_model
from tfcomp.storage.image_files import Skipped, image_files, image_shapes
from tfcomp.storage.writing import replacing_folder

DEFAULTS = {"batch_size": 8, "learning_rate": 6e-4}
DEFAULTS_WITH_START = {**DEFAULTS, "learning_rate": 3e-4}
"""At 6e-4 the highest qualities of a trained model lost up to 10 dB until the rate fell, for no gain."""
HIGHER_QUALITIES = 0.4
"""Power of the price by which the higher qualities weigh more in training from a trained model, beyond equal shares of
the loss. Without it the lowest quality took the networks over: 500 steps from a trained model on microscope pictures
changed the losses of `val` by -21 % to +0 %, from the lowest quality to the highest, and with it by -19 % to -13 %."""
LATENT_DIM = 64
"""Default number of channels of a spatial latent."""
WATCHED = 32
"""Number of held-out crops, always the same, that are measured at every quality after each epoch."""
HELD_OUT = 0.1
"""Share of the photographs that held-out crops are cut from, if no folder of other photographs is named."""


def suits(args: argparse.Namespace) -> bool:
    """Whether the command is to train on crops: by its options, or because a folder's images differ in size."""
    if args.network == "lapped" or args.side is not None or args.start is not None:
        return True
    if args.network != "spatial" or not Path(args.data).is_dir():
        return False
    with held_native_lines(dropped=args.on_error == "skip"):
        return len({shape[:2] for shape in _shapes(args.data, {} if args.on_error == "skip" else None).values()}) > 1


def run(args: argparse.Namespace) -> None:
    """Trains, and keeps the weights that are best on held-out crops; a run that was stopped goes on."""
    defaults = DEFAULTS if args.start is None else DEFAULTS_WITH_START
    settings = fitting.settled(args, fitting.CROPS, fitting.ONE_SHAPE, defaults)
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
            before = unfinished.read(args.out, settings)
            model = before[1] if before else _model(args, settings["side"], max(shape[2] for shape in shapes.values()))
            epochs = before[0].epochs if before else 0
            learnt, watched = _streams(args, settings["side"], model.item.channels, skipped, epochs)
            watch = Watch(model, np.stack(list(watched.as_numpy_iterator())))
        watching = _fit(args, settings, model, learnt.batch(settings["batch_size"]).prefetch(1), watch, before)
        model.save(folder / MODEL)
        runs.Run.write(folder, {**settings, "steps": watching.plan.done}, watching.history)
    unfinished.remove(args.out)
    report_skipped((skipped or {}).values(), len({*shapes, *(skipped or {})}))


def _fit(
    args: argparse.Namespace, settings: Mapping[str, Any], model: Any, learnt: Any, watch: Watch, before: Any
) -> Watching:
    """Trains the model, and gives it the best weights."""
    state, _, choice = before or (None, None, Choice())
    if state is None:
        clip = clip_norm(model.betas, settings["side"])
        # XLA takes long to compile under TensorFlow; without it JAX runs a step operator by operator.
        compiled = False if keras.backend.backend() == "tensorflow" else "auto"
        model.compile(optimizer=keras.optimizers.Adam(0.0, global_clipnorm=clip), jit_compile=compiled)
        if args.start is not None:
            at_first = watch.measure()
            choice.first = at_first.loss
            choice.offer(at_first, 0, model.get_weights)
            tell(f"{args.start}, on {len(watch.crops)} held-out crops: {at_first.summary()}")
    else:
        tell(f"{args.out}: goes on after {state.done} steps, {state.seconds / 60:.0f} minutes")
    done, seconds, history = (state.done, state.seconds, state.history) if state else (0, 0.0, {})
    plan = Plan(settings["learning_rate"], args.steps, args.minutes, done=done, seconds=seconds)

    def keep(epochs: int, history: Mapping[str, list[float]]) -> None:
        first = None if choice.first is None else choice.first.tolist()
        state = unfinished.State(settings, plan.done, plan.spent, epochs, history, first, choice.epoch, choice.score)
        unfinished.write(args.out, state, model, choice)

    watching = Watching(watch, choice, plan, keep, history)
    if choice.first is not None:
        weigh(model, choice.first)
    if state is None or done < plan.steps:
        model.fit(
            learnt,
            steps_per_epoch=PER_EPOCH,
            initial_epoch=state.epochs if state else 0,
            epochs=10**6,  # the plan ends training
            verbose=0,
            callbacks=[plan, watching],
        )
    _settle(args, model, choice, watch)
    model.optimizer.learning_rate = settings["learning_rate"]  # for further training
    return watching


def _settle(args: argparse.Namespace, model: Any, choice: Choice, watch: Watch) -> None:
    """Gives the model the best weights; if no epoch was better than the first weights, tries mixtures with them."""
    kept = f"the weights of epoch {choice.epoch}"
    if choice.first is not None and choice.epoch == 0:
        last = model.get_weights()
        kept = f"the weights of {args.start}, as no others were at least as good at every quality"
        for share, weights in mixtures(choice.weights, last):
            model.set_weights(weights)
            if choice.offer(watch.measure(), 0, model.get_weights):
                kept = f"the weights of {args.start} and {share:.0%} of the way to the last ones"
                break
    if not choice.weights:
        raise InputError("expected training to reach a finite loss, found none; try a lower --learning-rate")
    model.set_weights(choice.weights)
    measured = watch.measure()
    gain = "" if choice.first is None else f"; loss {_gains(choice.first, measured.loss)}"
    tell(f"{args.out}: {kept}; on {len(watch.crops)} held-out crops: {measured.summary()}{gain}")


def _gains(before: Any, after: Any) -> str:
    """The change of each quality's loss."""
    return ", ".join(f"{100 * change:+.1f} %" for change in after / before - 1)


def weigh(model: Any, losses: Any) -> None:
    """Weighs the qualities of a trained model, of losses float64 [qualities], so that all of them gain."""
    if model.qualities > 1:
        model.weigh_qualities(np.array(model.betas) ** -HIGHER_QUALITIES / losses)


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
    shapes = image_shapes(files, to_the_end=to_the_end, skipped=skipped)
    if not shapes and skipped:
        raise skipped[files[0]]
    return shapes


def _others(args: argparse.Namespace) -> Path | None:
    """The folder of held-out photographs; None if a share of the training photographs is held out."""
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


def _streams(
    args: argparse.Namespace, side: int, channels: int, skipped: Skipped | None, epochs: int
) -> tuple[Any, Any]:
    """Training crops without end, new ones for a run that goes on, and held-out crops, which are not scaled."""
    options: Any = {"channels": channels, "skipped": skipped}
    seed = args.seed + epochs
    files = runs.training_folder(args.data)
    others = _others(args)
    if others is None:
        learnt = streams.crops(files, side, seed=seed, validation_split=HELD_OUT, subset="training", **options)
        watched = streams.crops(
            files, side, scales=(1.0,), seed=1, validation_split=HELD_OUT, subset="validation", **options
        )
    else:
        learnt = streams.crops(files, side, seed=seed, **options)
        watched = streams.crops(others, side, scales=(1.0,), seed=1, **options)
    return learnt, watched.take(WATCHED)
