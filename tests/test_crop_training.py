"""Training on crops: its learning rate, its end, the scale of a loss, what is kept, and how a stopped run goes on."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras")
import keras
from jax_process import run_under_jax

from tfcomp import AutoEncoder, load_model
from tfcomp.cli import crop_training
from tfcomp.cli.crop_training import clip_norm
from tfcomp.cli.main import main
from tfcomp.cli.runs import Run
from tfcomp.cli.training_plan import PER_EPOCH, WARM_UP, Plan
from tfcomp.cli.watching import Choice, Measured, Watch, Watching, mixtures


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
        now[0] += 5
        plan.watching = 5.0
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


# === What is kept ===


def measured(*losses: float) -> Measured:
    one = np.array(losses)
    return Measured(one, one, one, one)


def test_no_quality_is_given_up_for_another() -> None:
    choice = Choice(np.array([1.0, 1.0]))
    assert choice.offer(measured(1, 1), 0, lambda: [np.zeros(2)])
    assert not choice.offer(measured(0.1, 1.001), 1, lambda: pytest.fail("kept"))
    assert choice.offer(measured(0.99, 1), 2, lambda: [np.ones(2)])
    assert not choice.offer(measured(0.995, 0.999), 3, lambda: pytest.fail("kept"))
    assert not choice.offer(measured(float("nan"), 0.5), 4, lambda: pytest.fail("kept"))
    assert choice.epoch == 2
    np.testing.assert_array_equal(choice.weights[0], np.ones(2))
    # From nothing, there is nothing to lose: every quality counts alike, whatever its price.
    choice = Choice()
    assert choice.offer(measured(1000, 1), 1, list)
    assert choice.offer(measured(1001, 0.9), 2, list)


def test_the_way_from_the_first_weights_to_the_last() -> None:
    first, last = [np.zeros(3, np.float32), np.array(4)], [np.ones(3, np.float32), np.array(6)]
    found = dict(mixtures(first, last))
    assert set(found) == {0.5, 0.25, 0.125}
    for share, (one, turn) in found.items():
        np.testing.assert_allclose(one, np.full(3, share, np.float32))
        assert one.dtype == np.float32
        assert turn == 6


def test_every_crop_is_measured_at_every_quality() -> None:
    """Against the model's own evaluation of a batch that is one quality's, in which there is no noise."""
    keras.utils.set_random_seed(0)
    model = AutoEncoder.spatial((None, None, 1), 3, filters=(4,), beta=(0.1, 0.01))
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    found = Watch(model, crops).measure()
    for quality in range(2):
        errors, losses = [], []
        for crop in crops:
            targets = crop[None] / np.float32(255)
            terms = model.objective(np.repeat(crop[None], 2, axis=0), np.repeat(targets, 2, axis=0), training=False)
            errors.append(np.square(np.clip(terms.pixels[quality], 0, 1) - targets[0]).mean())
            losses.append(float(terms.distortion[quality]) + model.betas[quality] * float(terms.rate[quality]))
        assert found.psnr_db[quality] == pytest.approx(-10 * np.log10(np.mean(errors)), rel=1e-4)
        assert found.loss[quality] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found.bits_per_pixel[1] > found.bits_per_pixel[0] > 0


UNDER_JAX = """
import keras, numpy as np
from tfcomp import AutoEncoder
from tfcomp.cli.training_plan import Plan
from tfcomp.cli.watching import Watch

keras.utils.set_random_seed(0)
model = AutoEncoder.spatial((None, None, 1), 3, filters=(4,), beta=(0.1, 0.01))
crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
watch = Watch(model, crops)
before, weights = watch.measure(), model.get_weights()
model.compile(keras.optimizers.Adam(0.0))
model.fit(((crops[:2],) for _ in range(20)), steps_per_epoch=20, verbose=0, callbacks=[Plan(0.5, 20, None)])
assert float(model.optimizer.learning_rate) > 0.09  # of the last step that changed it, not the first, which has 0
assert max(np.abs(a - b).max() for a, b in zip(weights, model.get_weights())) > 0.1
after = watch.measure()
assert not np.allclose(before.loss, after.loss)
"""


@pytest.mark.further
def test_under_jax_the_rate_changes_within_an_epoch_and_measurements_see_the_weights_of_now() -> None:
    run_under_jax("-c", UNDER_JAX)


# === The command ===


def command(folder: Path, *more: str) -> list[str]:
    sizes = ["--side", "16", "--batch-size", "2", "--network", "spatial", "--latent-dim", "2"]
    return ["train", str(folder / "data"), "--out", str(folder / "run"), *sizes, *more]


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(crop_training, "PER_EPOCH", 2)
    monkeypatch.setattr(crop_training, "WATCHED", 2)
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (24 + i, 30, 3)).astype(np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        np.save(tmp_path / "data" / f"{i}.npy", image)
    return tmp_path


@pytest.mark.further
def test_a_run_that_was_stopped_goes_on(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = command(photographs, "--beta", "0.1", "0.01", "--steps", "7")
    whole = Watching.on_epoch_end

    def stopped(self: Watching, epoch: int, logs: Any = None) -> None:
        whole(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watching, "on_epoch_end", stopped)
    assert main(train) == 130
    kept = photographs / ".run.unfinished"
    assert {path.name for path in photographs.iterdir()} == {"data", kept.name}
    capsys.readouterr()
    assert main([*train[:-1], "9"]) == 2
    assert "expected steps 7 to go on with the run that was stopped, found 9; remove" in capsys.readouterr().err
    iterations = int(keras.saving.load_model(kept / "model.keras").optimizer.iterations)
    assert iterations == 4
    monkeypatch.setattr(Watching, "on_epoch_end", whole)
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "goes on after 4 steps" in said
    assert said.count("epoch ") == 3  # the third, the fourth, and which was kept
    assert not kept.exists()
    run = Run.read(photographs / "run")
    assert run.settings["steps"] == 7
    assert len(run.history["val_loss"]) == 4
    assert all(np.isfinite(run.history["val_psnr_db"]))


@pytest.mark.further
def test_no_quality_ends_worse_than_it_began(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = command(photographs, "--beta", "0.1", "0.01", "--steps", "3")
    assert main(train) == 0
    first = load_model(photographs / "run" / "model.keras")
    start = ["--start", str(photographs / "run"), "--learning-rate", "300", "--steps", "8"]
    more = ["train", str(photographs / "data"), "--out", str(photographs / "more"), "--side", "16", *start]
    assert main(more) == 0
    assert "no others were at least as good" in capsys.readouterr().out
    last = load_model(photographs / "more" / "model.keras")
    for before, after in zip(first.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.further
def test_training_on_from_a_model_is_gentle_and_weighs_the_higher_qualities_more(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, weights, really = [], [], AutoEncoder.weigh_qualities

    def plan(rate: float, *_: object, **__: object) -> Plan:
        rates.append(rate)
        return Plan(rate, 1, None)

    def weigh(model: AutoEncoder, given: np.ndarray) -> None:
        weights.append(given)
        really(model, given)

    monkeypatch.setattr(crop_training, "Plan", plan)
    monkeypatch.setattr(AutoEncoder, "weigh_qualities", weigh)
    assert main(command(photographs, "--beta", "0.1", "0.01", "--steps", "1")) == 0
    weights.clear()
    start = ["--start", str(photographs / "run"), "--steps", "1", "--side", "16", "--batch-size", "2"]
    assert main(["train", str(photographs / "data"), "--out", str(photographs / "more"), *start]) == 0
    assert rates == [6e-4, 3e-4]
    [given] = weights[1:]  # after those that the model begins with
    assert given.shape == (2,)
    assert given[1] > given[0] > 0
