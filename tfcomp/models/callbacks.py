"""Callbacks for training. Steps are those of the optimizer, so that a schedule goes on after an interruption."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfcomp.errors import InputError


class BetaSchedule(keras.callbacks.Callback):
    """Raises beta from 0 in a line, once (warm-up) or again and again (cyclic), and logs it as ``beta``.

    Examples:
        >>> schedule = BetaSchedule(beta=2.0, ramp=10)
        >>> [schedule.at(step) for step in (0, 5, 10, 1000)]
        [0.0, 1.0, 2.0, 2.0]

    At step ``t`` of the optimizer beta is

        beta(t) = beta * min(1, (t mod period) / ramp)

    Without a period it is the warm-up of Bowman et al. 2016 and Sonderby et al. 2016; with one, the cyclic schedule of
    Fu et al. 2019, "Cyclical Annealing Schedule". Losses of epochs at different betas do not compare: stop or save by
    the loss only once beta stands still.

    Args:
        beta: the final price of one nat of rate, which the model keeps after training.
        ramp: steps from 0 to ``beta``, at least 1.
        period: steps from one start at 0 to the next, at least ``ramp``; none for a single one.
    """

    def __init__(self, beta: float, ramp: int, period: int | None = None) -> None:
        super().__init__()
        if not (math.isfinite(beta) and beta >= 0):
            raise InputError(f"expected a finite beta >= 0, found {beta}")
        if ramp < 1 or (period is not None and period < ramp):
            raise InputError(f"expected a ramp of at least 1 step and a period no shorter, found {ramp} and {period}")
        self.beta, self.ramp, self.period = float(beta), ramp, period

    def at(self, step: int) -> float:
        """Beta at a step, counted from 0."""
        within = step if self.period is None else step % self.period
        return self.beta * min(1.0, within / self.ramp)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.model.beta = self.at(int(self.model.optimizer.iterations.numpy()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        if logs is not None:
            logs["beta"] = self.model.beta

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.model.beta = self.beta
