"""Training on many devices is training on one: replicas, workers, backends, and a worker that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import keras
import many_devices
import numpy as np
import pytest
import tensorflow as tf
import training_options
from jax_process import run_under_jax

from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.callbacks import BetaSchedule
from tfcomp.models.loading import load_model
from tfcomp.models.multi_worker import MODEL, PROGRESS, fit_workers

SHAPE = (8, 6, 1)
SCRIPT = Path(many_devices.__file__)


def images(count: int = 14) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def batches(count: int = 14, size: int = 4) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(images(count)).batch(size)


def small(**options: Any) -> AutoEncoder:
    keras.utils.set_random_seed(1)
    model = AutoEncoder.dense(SHAPE, 3, hidden=(8,), beta=(2.0, 0.5, 0.1))
    model.compile(keras.optimizers.Adam(1e-3), **options)
    return model


def alike(one: AutoEncoder, other: AutoEncoder) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.allclose(a, b, atol=1e-6) for a, b in pairs)


# === Replicas ===


@pytest.mark.further
def test_two_replicas_train_as_one_device_does_whatever_part_of_a_batch_they_have(tmp_path: Path) -> None:
    """Replicas of one example or of none, more qualities than examples, a penalty, and a floor of the batch's mean."""
    script = """
        import sys
        import keras, numpy as np, tensorflow as tf
        import many_devices
        from tfcomp.models.autoencoder import AutoEncoder
        from tfcomp.models.replicas import Seeds
        from tfcomp.models.vae import VAE

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        noise = {}
        for mirrored in (two, tf.distribute.get_strategy()):
            with mirrored.scope():
                seeds = Seeds(3)
            found = mirrored.run(tf.function(lambda: keras.random.uniform((4,), seed=seeds)))
            noise[mirrored] = np.stack([part.numpy() for part in mirrored.experimental_local_results(found)])
        assert len(np.unique(noise[two])) == 8, noise
        assert np.array_equal(noise[two][:1], noise[tf.distribute.get_strategy()]), noise

        many_devices.noise_by_place()

        def penalised():
            image = keras.Input((4, 4, 1), dtype="uint8")
            x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
            encoder = keras.Model(image, keras.layers.Dense(2, kernel_regularizer="l2")(x))
            decoder = AutoEncoder.dense((4, 4, 1), 2, hidden=(8,)).decoder
            return AutoEncoder(encoder, decoder, beta=(2.0, 0.5, 0.1))

        def floored():
            return VAE.dense((4, 4, 1), 3, hidden=(8,), free_bits=0.02)

        for make, count, size in ((penalised, 7, 3), (floored, 9, 4)):
            x = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), np.uint8)
            results = []
            for strategy in (two, tf.distribute.get_strategy()):
                keras.utils.set_random_seed(0)
                with strategy.scope():
                    model = make()
                    model.compile(keras.optimizers.SGD(0.01), run_eagerly=strategy is not two)
                watched = x if make is penalised else None
                logs = model.fit(x, None, size, 3, 0, validation_data=watched, shuffle=False).history
                weights = [np.ravel(v.numpy()) for v in model.trainable_variables]
                results.append((np.concatenate(weights), {k: np.array(v) for k, v in logs.items()}))
            (weights, logs), (expected, expected_logs) = results
            np.testing.assert_allclose(weights, expected, atol=1e-5)
            for key, value in expected_logs.items():
                np.testing.assert_allclose(logs[key], value, rtol=1e-4, err_msg=key)
        print("same")
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("same")


# === Workers ===


@pytest.mark.further
def test_the_loop_of_workers_is_that_of_fit() -> None:
    one, other = small(), small()
    told = [BetaSchedule(0.1, ramp=5), BetaSchedule(0.1, ramp=5)]
    expected = one.fit(batches(), validation_data=batches(7), epochs=3, verbose=0, callbacks=told[:1])
    found = fit_workers(other, batches(), validation_data=batches(7), epochs=3, verbose=0, callbacks=told[1:])
    assert alike(one, other)
    assert found.epoch == expected.epoch
    assert found.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5), name


@pytest.mark.further
@pytest.mark.parametrize("steps", [None, 3])
def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(steps: int | None, tmp_path: Path) -> None:
    """Once through the data, or along data that begin again in the middle of an epoch."""
    options: Any = {"steps_per_epoch": steps, "validation_data": batches(5), "verbose": 0}
    whole, first, then = (small(run_eagerly=True) for _ in range(3))
    expected = fit_workers(whole, batches(), epochs=4, **options).history
    fit_workers(first, batches(), epochs=2, checkpoint=tmp_path / "kept", **options)
    then.set_weights([np.zeros_like(weight) for weight in then.get_weights()])
    found = fit_workers(then, batches(), epochs=4, checkpoint=tmp_path / "kept", **options)
    assert alike(then, whole)
    assert int(then.optimizer.iterations.numpy()) == 4 * (steps or 4)
    assert found.epoch == [0, 1, 2, 3]
    for name, values in expected.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5), name
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {MODEL, PROGRESS}
    assert alike(load_model(tmp_path / "kept" / MODEL), whole)
    again = fit_workers(small(run_eagerly=True), batches(), epochs=4, checkpoint=tmp_path / "kept", **options)
    assert again.history == found.history


def test_a_function_gives_a_worker_its_own_batches() -> None:
    asked = []

    def own(worker: int, workers: int) -> tf.data.Dataset:
        asked.append((worker, workers))
        return batches().repeat()

    one, other = small(run_eagerly=True), small(run_eagerly=True)
    fit_workers(one, own, steps_per_epoch=5, verbose=0)
    other.fit(batches().repeat(), steps_per_epoch=5, verbose=0)
    assert set(asked) == {(0, 1)}
    assert alike(one, other)


@pytest.mark.further
def test_early_stopping_ends_training() -> None:
    stopping = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=0, min_delta=1e9)
    options: Any = {"validation_data": batches(4), "epochs": 9, "verbose": 0, "callbacks": [stopping]}
    assert fit_workers(small(run_eagerly=True), batches(), **options).epoch == [0, 1]


def test_what_workers_cannot_train_on_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    (tmp_path / PROGRESS).write_text('{"history": {"loss": [1.0]}, "seeds": []}')
    AutoEncoder.dense(SHAPE, 2, hidden=(4,)).save(tmp_path / MODEL)
    for use, message in (
        (lambda: fit_workers(model, images()), "expected data as a tf.data.Dataset of batches"),
        (lambda: fit_workers(model, tf.data.Dataset.from_tensor_slices(images())), "must be batched"),
        (lambda: fit_workers(model, batches(), validation_data=images()), "expected validation_data as a tf.data"),
        (lambda: fit_workers(model, batches().repeat()), "expected data whose number of batches is known"),
        (lambda: fit_workers(model, lambda *_: batches()), "number of batches is known, and no function"),
        (lambda: fit_workers(AutoEncoder.dense(SHAPE, 2), batches()), "a model of tfcomp that is compiled"),
        (lambda: fit_workers(model.encoder, batches()), "a model of tfcomp that is compiled"),
        (lambda: fit_workers(small(jit_compile=True), batches()), "without steps_per_execution and jit_compile"),
        (lambda: fit_workers(small(steps_per_execution=2), batches()), "without steps_per_execution and jit_compile"),
        (lambda: fit_workers(model, batches(), checkpoint=tmp_path), "of this very model, found something else"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            use()
        assert "\n" not in str(raised.value)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="backend to be tensorflow, found jax"):
        fit_workers(model, batches())


def run_script(*arguments: str) -> str:
    environment = {**os.environ, "TFCOMP_REDUCED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.further
def test_two_workers_and_jax_train_as_one_device_does(tmp_path: Path) -> None:
    """The script that does so for every model, small; its bounds are its own."""
    name, ways = "conv, 3 prices", ["two workers", "JAX, one device"]
    out = tmp_path / "report.json"
    run_script("--models", name, "--ways", *ways, "--no-export", "--out", str(out))
    assert [(row["model"], row["way"]) for row in json.loads(out.read_text())["rows"]] == [(name, way) for way in ways]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_model_trains_alike_on_all_devices_and_is_exported_from_jax(tmp_path: Path) -> None:
    said = run_script("--out", str(tmp_path / "report.json"))
    for name in many_devices.MODELS:
        assert f"{name}: frozen and exported" in said


WORKER = """
    import sys, time
    from pathlib import Path
    import keras, numpy as np, tensorflow as tf
    from tfcomp import AutoEncoder, WorkerLostError, fit_workers

    class Slow(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(float(sys.argv[2]))

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = AutoEncoder.dense((8, 6, 1), 3, hidden=(8,), beta=(2.0, 0.5, 0.1))
        model.compile(keras.optimizers.Adam(1e-3))
    data = tf.data.Dataset.from_tensor_slices(np.load("images.npy")).shuffle(14, seed=1, reshuffle_each_iteration=False)
    if sys.argv[3] == "unlike":
        data = data.shuffle(14, seed=1 + strategy.cluster_resolver.task_id)
    try:
        model.fit(data.batch(4))
    except ValueError as error:
        assert str(error).startswith("expected tfcomp.fit_workers to train in several workers"), error
    try:
        history = fit_workers(model, data.batch(4), epochs=6, checkpoint=sys.argv[1], verbose=0, callbacks=[Slow()])
    except ValueError as error:
        sys.exit(str(error))
    except WorkerLostError as error:
        sys.exit(f"lost: {error}")
    print(history.history["loss"])
"""


def workers(tmp_path: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
    np.save(tmp_path / "images.npy", images())
    addresses = [f"localhost:{port}" for port in many_devices.free_ports(2)]
    started = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "worker.py", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
    return started


@pytest.mark.slow
def test_training_goes_on_after_a_worker_was_killed(tmp_path: Path) -> None:
    whole = [process.communicate(timeout=240) for process in workers(tmp_path, "whole", "0", "alike")]
    assert whole[0][0] == whole[1][0] != "", whole
    one, other = workers(tmp_path, "kept", "0.5", "alike")
    progress = tmp_path / "kept" / PROGRESS
    while not progress.exists():
        assert one.poll() is None, one.communicate()
        time.sleep(0.1)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    _, said = one.communicate(timeout=240)
    assert one.returncode == 1
    lost = "lost: expected all workers to answer, lost (1|one); start all of them again, and training goes on from kept"
    assert re.fullmatch(lost, said.splitlines()[-1]), said
    kept = len(json.loads(progress.read_text())["history"]["loss"])
    assert 0 < kept < 6
    again = [process.communicate(timeout=240) for process in workers(tmp_path, "kept", "0", "alike")]
    np.testing.assert_allclose(json.loads(again[0][0]), json.loads(whole[0][0]), rtol=1e-4)
    assert again[0][0] == again[1][0]


@pytest.mark.slow
def test_workers_that_see_other_data_are_told(tmp_path: Path) -> None:
    for process, (_, said) in [(p, p.communicate(timeout=240)) for p in workers(tmp_path, "kept", "0", "unlike")]:
        assert process.returncode == 1, said
        assert said.splitlines()[-1].startswith("expected data to give every worker the same batches, found others")


# === Options ===

FEW = [("dense", "mixed_bfloat16"), ("VAE", "mixed_float16"), ("conv, 3 prices", "accumulation")]
"""Those that are no slow tests; `test_keras_models` has other options."""
ALL = [(name, option) for name in many_devices.MODELS for option in training_options.BOUNDS]


@pytest.mark.further
@pytest.mark.parametrize(
    ("name", "option"), [pytest.param(*pair, marks=() if pair in FEW else pytest.mark.slow) for pair in ALL]
)
def test_an_option_gives_what_the_plain_run_gives_within_its_bounds(name: str, option: str) -> None:
    for found, bound in zip(training_options.difference(name, option), training_options.BOUNDS[option], strict=True):
        assert found <= bound


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_does_every_option_under_jax() -> None:
    run_under_jax(training_options.__file__, timeout=900)
