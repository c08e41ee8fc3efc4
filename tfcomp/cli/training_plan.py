"""The plan of training on crops: the learning rate of each step, and how many steps there are."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
from tqdm import tqdm

STEPS = 6000
"""Default number of steps, without a number of steps or minutes."""
PER_EPOCH = 250
"""Number of steps of an epoch, after which held-out crops are measured."""
WARM_UP = 100
"""Number of steps in which the learning rate rises; then it falls, by a cosine, to `LAST_RATE` of its largest."""
LAST_RATE = 0.01
SMALLEST_CHANGE = 0.01
"""Relative change of the learning rate below which it is not set again within an epoch: each change makes JAX wait."""


class Plan(keras.callbacks.Callback):
    """The learning rate of each step, the last step, and a bar that says how long it will take.

    Within an epoch the rate is set again where it has changed by `SMALLEST_CHANGE`.

    Args:
        rate: the largest learning rate.
        steps: number of steps; None for `STEPS`, or for the number that ``minutes`` leave time for.
        minutes: time of training, the first step's tracing and all measuring included. The number of steps is estimated
            from the first ones and again at every epoch.
        done: number of steps of a stopped run that goes on.
        seconds: time that these steps took.

    Attributes:
        done: number of steps until now.
        watching: seconds of the last measurement of held-out crops; None before the first.
    """

    MEASURED = 10, 30
    """The steps between which the first time is taken; earlier ones are slower."""

    def __init__(
        self, rate: float, steps: int | None, minutes: float | None, *, done: int = 0, seconds: float = 0.0
    ) -> None:
        super().__init__()
        self.rate, self.done, self._begun = rate, done, done
        self.steps = steps or STEPS
        self.seconds = None if minutes is None else 60 * minutes
        self._start = self._measured = time.perf_counter()
        self._before = seconds
        self.watching: float | None = None
        self._set = 0.0
        self._bar: Any = None

    @property
    def spent(self) -> float:
        """Seconds since the beginning, those of a run that was stopped included."""
        return self._before + time.perf_counter() - self._start

    @property
    def expected(self) -> float | None:
        """Seconds from beginning to end, estimated from the steps until now; None before that can be."""
        return self.spent + (self.steps - self.done) * self._a_step if self._counted > self.MEASURED[0] else None

    @property
    def _counted(self) -> int:
        """Number of steps of this process."""
        return self.done - self._begun

    @property
    def _a_step(self) -> float:
        """Mean seconds of a step, measurements of held-out crops included."""
        return (time.perf_counter() - self._measured) / max(1, self._counted - self.MEASURED[0])

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step < WARM_UP:
            return self.rate * step / WARM_UP
        share = min(1.0, (step - WARM_UP) / max(1, self.steps - WARM_UP))
        return self.rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        if self._counted > self.MEASURED[1]:
            self._plan()
        if self._bar is None:
            self._bar = tqdm(desc="train", total=self.steps, initial=self.done, unit="step", delay=1.0, disable=None)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        rate = self.rate_at(self.done)
        if batch and abs(rate - self._set) <= SMALLEST_CHANGE * self._set:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # without it, all steps of an epoch have the learning rate of its first
        self.model.optimizer.learning_rate = self._set = rate

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.done += 1
        first, last = self.MEASURED
        if self._counted == first:
            self._measured = time.perf_counter()
        elif self._counted == last:
            self._plan()
        self._bar.total = self.steps
        self._bar.update()
        if self.done >= self.steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._bar.close()

    def _plan(self) -> None:
        """Sets the number of steps that there is time for before the last measurement of held-out crops."""
        if self.seconds is None:
            return
        now = time.perf_counter()
        first_steps = self._measured - self._start  # with their tracing; the first look is traced too
        last = first_steps if self.watching is None else self.watching
        left = self.seconds - self._before - (now - self._start) - last
        self.steps = max(self.done + 1, self.done + int(left / self._a_step))
