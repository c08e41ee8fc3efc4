"""The plan of training on crops: its learning rate, its end, and the scale of a loss."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("keras")
import keras

from tfcomp.cli.crop_training import PER_EPOCH, WARM_UP, Plan, clip_norm


def test_the_limit_of_gradients_is_that_of_the_loss_in_bits_a_pixel() -> None:
    """The loss that it was tuned for, and the one that models minimise, of the same numbers."""
    rng = np.random.default_rng(0)
    side, levels = 48, 128 * (9 / 128) ** (np.arange(8) / 7)
    betas = levels**2 / (5 * 255**2 * np.log(2))
    bits, error = rng.uniform(1e3, 1e4, 8), rng.uniform(1, 90, 8)  # of a crop of each quality; pixels on [0, 1]
    tuned = np.mean((bits + 5 * 255**2 * error / levels**2) / side**2 * levels / levels[4])
    weights = betas**-0.5 / np.mean(betas**-0.5)
    minimised = np.mean(weights * (error + betas * np.log(2) * bits))
    assert clip_norm(tuple(betas), side) == pytest.approx(5 * minimised / tuned)
    assert clip_norm(tuple(betas), side) == pytest.approx(
        5 * side**2 * 28.1 / (255**2 * 5 * np.mean(1 / levels)), rel=1e-3
    )
    assert clip_norm((0.0,), side) is None


def test_the_learning_rate_rises_and_falls_as_keras_says() -> None:
    plan = Plan(6e-4, 6000, None)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 6000 - WARM_UP, alpha=0.01, warmup_target=6e-4, warmup_steps=WARM_UP
    )
    for step in (0, 1, 50, 99, 100, 101, 3000, 5999):
        assert plan.rate_at(step) == pytest.approx(float(schedule(step)), rel=1e-4, abs=1e-12)


def test_as_many_steps_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    plan = Plan(1e-3, None, minutes=10)
    plan.set_model(SimpleNamespace(optimizer=SimpleNamespace(), stop_training=False))
    now[0] += 20  # tracing
    epoch = 0
    while not plan.model.stop_training:
        plan.on_epoch_begin(epoch)
        for batch in range(PER_EPOCH):
            plan.on_train_batch_begin(batch)
            now[0] += 0.3 if epoch < 2 else 0.45  # the machine gets slower
            plan.on_train_batch_end(batch)
            if plan.model.stop_training:
                break
        plan.on_test_begin()
        now[0] += 5
        plan.on_test_end()
        plan.on_epoch_end(epoch, {"loss": 1.0})
        epoch += 1
    assert 540 < now[0] < 612
    assert plan.done == plan.steps
    assert plan.rate_at(plan.done) == pytest.approx(1e-5)


def test_a_minute_too_short_for_anything_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    plan = Plan(1e-3, None, minutes=0.1)
    plan.set_model(SimpleNamespace(optimizer=SimpleNamespace(), stop_training=False))
    plan.on_epoch_begin(0)
    for batch in range(PER_EPOCH):
        plan.on_train_batch_begin(batch)
        now[0] += 2
        plan.on_train_batch_end(batch)
        if plan.model.stop_training:
            break
    assert plan.done <= Plan.MEASURED[1] + 1
