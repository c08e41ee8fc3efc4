"""Held-out crops, by which training on crops is judged at every quality, and the choice of the weights to keep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from tqdm import tqdm

from tfcomp.cli.console import say
from tfcomp.cli.training_plan import Plan
from tfcomp.items import Images
from tfcomp.models.objective import LN2

SHARES = (0.5, 0.25, 0.125)
"""Shares of the way from the first weights to the last ones that are tried if the last are worse at some quality."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Means over held-out crops at each quality.

    Attributes:
        loss: float64 [qualities], distortion + beta * rate.
        distortion: float64 [qualities].
        bits_per_pixel: float64 [qualities], by the trained density.
        psnr_db: float64 [qualities], of the error pooled over all crops.
    """

    loss: Float64
    distortion: Float64
    bits_per_pixel: Float64
    psnr_db: Float64

    def summary(self) -> str:
        """Bits per pixel and PSNR of the lowest quality, a middle one, and the highest."""
        last = len(self.loss) - 1
        shown = sorted({0, (last + 1) // 2, last})
        names = [f"quality {i + 1}: " if last else "" for i in shown]
        pairs = [f"{self.bits_per_pixel[i]:.3g} bpp {self.psnr_db[i]:.2f} dB" for i in shown]
        return ", ".join(f"{name}{pair}" for name, pair in zip(names, pairs, strict=True))

    def logs(self, pixels: int) -> dict[str, float]:
        """Means over the qualities under Keras's names; the rate is that of a crop of ``pixels`` pixels."""
        return {
            "val_loss": float(self.loss.mean()),
            "val_distortion": float(self.distortion.mean()),
            "val_rate_bits": float(self.bits_per_pixel.mean() * pixels),
            "val_psnr_db": float(self.psnr_db.mean()),
        }


class Watch:
    """Measurements of a model in training on the same crops, uint8 [N, side, side, C]."""

    def __init__(self, model: Any, crops: Images) -> None:
        self.model, self.crops = model, crops
        self._pass = _compiled(model, self._terms)

    def measure(self) -> Measured:
        qualities, (side, other, _) = self.model.qualities, self.crops.shape[1:]
        sums = np.zeros((3, qualities))
        for crop in self.crops:
            # The model splits a batch into equal blocks, one for each quality: here of one example.
            batch = np.repeat(crop[None], qualities, axis=0)
            sums += np.stack([np.asarray(ops.convert_to_numpy(part), np.float64) for part in self._pass(batch)])
        distortion, rate, error = sums / len(self.crops)
        loss = distortion + np.array(self.model.betas) * rate
        psnr = -10 * np.log10(np.maximum(error, 1e-12))
        return Measured(loss, distortion, rate / LN2 / (side * other), psnr)

    def _terms(self, batch: Any) -> tuple[Any, Any, Any]:
        images = ops.convert_to_tensor(batch, "uint8")
        targets = ops.cast(images, "float32") / 255
        terms = self.model.objective(images, targets, training=False)
        pixels = ops.clip(ops.cast(terms.pixels, "float32"), 0, 1)
        return terms.distortion, terms.rate, ops.mean(ops.square(pixels - targets), axis=(1, 2, 3))


def _compiled(model: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a batch that reads the model's variables, compiled under TensorFlow and JAX, else as it is."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() != "jax":
        return function
    import jax

    @jax.jit
    def stateless(values: list[Any], batch: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            return function(batch)

    return lambda batch: stateless([variable.value for variable in model.variables], batch)


@dataclass
class Choice:
    """The best weights until now.

    The best weights have the lowest mean logarithm of the losses, in which every quality counts alike. If training
    began with a trained model, they must also be no worse than its weights at any quality.

    Attributes:
        first: losses of the first weights, float64 [qualities]; None for training from nothing.
        epoch: epoch of the best weights, from 1; 0 for the first weights.
        score: mean logarithm of their losses.
        weights: the best weights, as Keras gives them.
    """

    first: Float64 | None = None
    epoch: int = 0
    score: float = float("inf")
    weights: list[Any] = field(default_factory=list)

    def offer(self, measured: Measured, epoch: int, weights: Callable[[], list[Any]]) -> bool:
        """Keeps the weights if they are the best; returns whether they are."""
        score = float(np.log(np.maximum(measured.loss, 1e-12)).mean())
        worse = self.first is not None and bool((measured.loss > self.first).any())
        if worse or not score < self.score:
            return False
        self.epoch, self.score, self.weights = epoch, score, [np.array(part) for part in weights()]
        return True


class Watching(keras.callbacks.Callback):
    """A callback that measures after each epoch, prints the progress, and keeps the best weights.

    Args:
        watch: measurements on held-out crops.
        choice: the best weights.
        plan: the plan of the steps, a callback that must come before this one.
        after: function that is called after each epoch with its number and the history.
        history: history of a stopped run that goes on.
    """

    def __init__(
        self,
        watch: Watch,
        choice: Choice,
        plan: Plan,
        after: Callable[[int, Mapping[str, list[float]]], None],
        history: Mapping[str, list[float]],
    ) -> None:
        super().__init__()
        self.watch, self.choice, self.plan, self.after = watch, choice, plan, after
        self.history = {name: list(values) for name, values in history.items()}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        start = time.perf_counter()
        measured = self.watch.measure()
        best = self.choice.offer(measured, epoch + 1, self.model.get_weights)
        side, other, _ = self.watch.crops.shape[1:]
        for name, value in {**(logs or {}), **measured.logs(side * other)}.items():
            self.history.setdefault(name, []).append(float(value))
        progress = [f"epoch {epoch + 1}", f"{self.plan.done} of {self.plan.steps} steps"]
        if (expected := self.plan.expected) is not None:
            progress.append(f"{self.plan.spent / 60:.0f} of about {expected / 60:.0f} minutes")
        tell(f"{', '.join(progress)}: {measured.summary()}{', the best so far' if best else ''}")
        self.after(epoch + 1, self.history)
        self.plan.watching = time.perf_counter() - start


def tell(line: str) -> None:
    """Prints a line at once, also if stdout is a file."""
    with tqdm.external_write_mode():
        say(line)
        if sys.stdout is not None:
            with suppress(OSError):  # `finish_stdout` reports it
                sys.stdout.flush()


def mixtures(
    first: Sequence[Any], last: Sequence[Any], shares: Sequence[float] = SHARES
) -> Iterator[tuple[float, list[Any]]]:
    """Shares, and so weighted means of weights (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""
    for share in shares:
        yield (
            share,
            [
                a + np.asarray(share, a.dtype) * (b - a) if np.issubdtype(a.dtype, np.floating) else b
                for a, b in zip(map(np.asarray, first), map(np.asarray, last), strict=True)
            ],
        )
