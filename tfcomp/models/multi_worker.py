"""Training by several processes, on one machine or on many, under TensorFlow: the loop that Keras's own `fit` lacks.

Keras 3 does not train under `tf.distribute.MultiWorkerMirroredStrategy`. Here every worker runs the same loop around
the model's `train_step`, on its part of each batch, and TensorFlow adds up the gradients.

A worker that is lost ends the step of all others with an error. Start all of them again, and they go on from the last
epoch that was kept in ``checkpoint``.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfcomp.errors import InputError, WorkerLostError, everything_as
from tfcomp.models.replicas import replica
from tfcomp.models.training import Objective
from tfcomp.storage.writing import replacing_folder
from tfcomp.version import __version__

if TYPE_CHECKING:
    import tensorflow as tf

_LOST = re.compile("unhealthy|heartbeat|Collective ops is aborted")
"""Words of TensorFlow's errors, of several classes, when a worker is lost."""
MODEL, PROGRESS = "model.keras", "training.json"
"""Files of a checkpoint: weights and the optimizer's state, and what was logged."""


def fit_workers(
    model: Any,
    data: Any,
    *,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 1,
) -> keras.callbacks.History:
    """Train a model that was made and compiled under a `tf.distribute` strategy, in every one of its workers.

    Args:
        model: made, or loaded, and compiled within ``strategy.scope()``.
        data: a `tf.data.Dataset` of batches, uint8 [N, *image_shape], which gives every worker the same batches in the
            same order (a shuffle needs its seed); each worker takes its part of each. Or a function of (worker number,
            count of workers) that gives the batches of one worker, for which ``steps_per_epoch`` is needed.
        epochs: number of epochs in all, those before a restart included.
        steps_per_epoch: number of batches in an epoch; data that end are repeated. By default once through the data.
        validation_data: as ``data``, of a known end; measured after each epoch.
        callbacks: Keras's, in every worker. One that writes files belongs to worker 0 alone.
        checkpoint: a folder on a disk that all workers see. Each epoch's end is kept in it, by worker 0, and training
            goes on from what it holds; ``load_model(FOLDER / "model.keras")`` loads the model.
        verbose: 0 for silence, 1 or 2 as in Keras, at worker 0 alone.

    Returns:
        Keras's `History`, of all epochs, the same in every worker. Logged numbers are means over whole batches.

    Raises:
        InputError: on wrong data or options, under another backend than TensorFlow, or if workers differ in what they
            have in ``checkpoint``.
        WorkerLostError: if another worker is gone.

    Examples:
        >>> import numpy as np, tensorflow as tf
        >>> from tfcomp.models.autoencoder import AutoEncoder
        >>> strategy = tf.distribute.get_strategy()  # tf.distribute.MultiWorkerMirroredStrategy() where TF_CONFIG is
        >>> with strategy.scope():
        ...     model = AutoEncoder.dense((4, 4, 1), latent_dim=2, hidden=(8,), beta=0.5)
        ...     model.compile(optimizer="adam")
        >>> batches = tf.data.Dataset.from_tensor_slices(np.zeros((9, 4, 4, 1), np.uint8)).batch(4)
        >>> len(fit_workers(model, batches, epochs=2, verbose=0).history["loss"])
        2
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"expected Keras's backend to be tensorflow, found {keras.backend.backend()}; use fit")
    if not isinstance(model, Objective) or getattr(model, "optimizer", None) is None:
        found = "one that is not" if isinstance(model, Objective) else type(model).__name__
        raise InputError(f"expected a model of tfcomp that is compiled, found {found}")
    if model.steps_per_execution != 1 or model.jit_compile is True:
        raise InputError("expected compile without steps_per_execution and jit_compile, which have no effect here")
    strategy = model.distribute_strategy
    number = _context(strategy).input_pipeline_id
    train_data, steps = _distributed(model, strategy, data, "data", steps_per_epoch)
    validation = None if validation_data is None else _distributed(model, strategy, validation_data, "validation_data")
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    history: dict[str, list[float]] = {}
    if checkpoint is not None and (Path(checkpoint) / PROGRESS).is_file():
        history = _resumed(model, Path(checkpoint))
    epochs_done = len(next(iter(history.values()), ()))
    if len(counts := set(_gathered(strategy, epochs_done))) > 1:
        raise InputError(f"expected all workers to see one checkpoint, found {sorted(counts)} epochs in {checkpoint}")
    train, test = (_compiled(model, step) for step in (model.train_step, model.test_step))

    callback_list = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, add_progbar=verbose > 0 and number == 0, model=model,
        epochs=epochs, steps=steps, verbose=verbose,
    )  # fmt: skip
    model.stop_training = False
    callback_list.on_train_begin()
    if history:
        model.history.epoch, model.history.history = list(range(epochs_done)), history
    with _others_present(checkpoint):
        iterator = iter(train_data(epochs_done * steps if steps_per_epoch else 0))
        for epoch in range(epochs_done, epochs):
            if not steps_per_epoch and epoch > epochs_done:
                iterator = iter(train_data(0))
            model.reset_metrics()
            callback_list.on_epoch_begin(epoch)
            for step in range(steps):
                callback_list.on_train_batch_begin(step)
                logs = train(iterator)
                callback_list.on_train_batch_end(step, logs)
                if model.stop_training:
                    break
            logs = _logged(model)
            if validation is not None:
                model.reset_metrics()
                others = iter(validation[0](0))
                for _ in range(validation[1]):
                    test(others)
                logs |= {f"val_{name}": value for name, value in _logged(model).items()}
            callback_list.on_epoch_end(epoch, logs)
            if checkpoint is not None and number == 0:
                _keep(model, Path(checkpoint), model.history.history)
            if model.stop_training:
                break
    callback_list.on_train_end()
    return model.history


# === Data ===


def _distributed(
    model: Any, strategy: Any, data: Any, name: str, steps: int | None = None
) -> tuple[Callable[[int], Any], int]:
    """A function that gives this worker's part of the data from a batch on, and the number of steps."""
    import tensorflow as tf

    context = _context(strategy)
    per_worker = callable(data)
    batches = data(context.input_pipeline_id, context.num_input_pipelines) if per_worker else data
    if not isinstance(batches, tf.data.Dataset):
        found = type(batches).__name__
        raise InputError(f"expected {name} as a tf.data.Dataset of batches or a function that gives one, found {found}")
    model.check_data(batches)
    end = int(batches.cardinality())
    if steps is None and (per_worker or end < 0):
        raise InputError(f"expected {name} whose number of batches is known{', and no function' if per_worker else ''}")
    if not per_worker and context.num_input_pipelines > 1:
        firsts = _gathered(strategy, _checksum(batches))
        if len(set(firsts)) > 1:
            raise InputError(
                f"expected {name} to give every worker the same batches, found others; does a shuffle lack its seed?"
            )
    local = context.num_replicas_in_sync // context.num_input_pipelines
    parts, first = (local, 0) if per_worker else (context.num_replicas_in_sync, local * context.input_pipeline_id)

    def parted(*batch: Any) -> Any:
        whole = batch if len(batch) > 1 else batch[0]

        def part(number: Any) -> Any:
            def cut(x: Any) -> Any:
                examples = tf.shape(x, tf.int64)[0]
                return x[examples * number // parts : examples * (number + 1) // parts]

            return tf.nest.map_structure(cut, whole)

        return tf.data.Dataset.range(first, first + local).map(part)

    def from_batch(number: int) -> Any:
        dataset = batches.repeat() if steps else batches
        dataset = dataset.skip(number) if number else dataset
        dataset = dataset.flat_map(parted) if parts > 1 else dataset
        return strategy.distribute_datasets_from_function(lambda _: dataset.prefetch(2))

    return from_batch, steps or end


def _context(strategy: Any) -> tf.distribute.InputContext:
    """The number of this worker, and how many workers and replicas there are."""
    import tensorflow as tf

    seen = [tf.distribute.InputContext()]  # the only one where nothing is distributed

    def note(context: Any) -> Any:
        seen.append(context)
        return tf.data.Dataset.range(1)

    strategy.distribute_datasets_from_function(note)
    return seen[-1]


def _checksum(batches: Any) -> int:
    import tensorflow as tf

    checksum = 0
    for batch in batches.take(1).as_numpy_iterator():
        for array in tf.nest.flatten(batch):
            checksum = zlib.crc32(array.tobytes(), checksum)
    return checksum


# === Workers ===


def _gathered(strategy: Any, value: int) -> list[int]:
    """A number of every worker, once for each of its replicas."""
    import tensorflow as tf

    def gather() -> Any:
        number, replicas = replica()
        share = tf.one_hot(number, replicas, dtype=tf.int64) * value
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, share)

    gathered = strategy.run(tf.function(gather))
    return [int(n) for n in strategy.experimental_local_results(gathered)[0]]


def _compiled(model: Any, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tensorflow as tf

    strategy = model.distribute_strategy

    def run(iterator: Any) -> Any:
        return strategy.run(step, args=(iterator.get_next(),))

    compiled = run if model.run_eagerly else tf.function(run, reduce_retracing=True)

    def first(iterator: Any) -> dict[str, Any]:
        """The logs of this worker's first replica."""
        return {name: strategy.experimental_local_results(value)[0] for name, value in compiled(iterator).items()}

    return first


def _logged(model: Any) -> dict[str, float]:
    return {name: float(value) for name, value in model.get_metrics_result().items()}


@contextmanager
def _others_present(checkpoint: Any) -> Iterator[None]:
    """Makes TensorFlow's errors of a lost worker a `WorkerLostError` of one line."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, tf.errors.UnavailableError) and not _LOST.search(str(error.message)):
            raise
        lost = sorted(set(re.findall(r"(?m)^/job:\w+/replica:\d+/task:(\d+)$", str(error.message))))
        then = "training begins again" if checkpoint is None else f"training goes on from {checkpoint}"
        raise WorkerLostError(
            f"expected all workers to answer, lost {' and '.join(lost) or 'one'}; start all of them again, and {then}"
        ) from error


# === Checkpoints ===


def _keep(model: Any, folder: Path, history: dict[str, list[float]]) -> None:
    with replacing_folder(folder, PROGRESS, own=[MODEL]) as temporary:
        model.save(temporary / MODEL)
        seeds = [keras.ops.convert_to_numpy(state).tolist() for state in _seeds(model)]
        progress = {"tfcomp": __version__, "history": history, "seeds": seeds}
        (temporary / PROGRESS).write_text(json.dumps(progress, indent=2) + "\n")


def _seeds(model: Any) -> list[Any]:
    """The states of the model's random generators, which Keras does not save."""
    saved = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in saved]


def _resumed(model: Any, folder: Path) -> dict[str, list[float]]:
    """The history of a checkpoint, whose weights and optimizer the model has from now on."""
    with everything_as(InputError, f"expected a checkpoint of fit_workers in {folder}, of this very model"):
        progress = json.loads((folder / PROGRESS).read_text())
        keras.saving.load_weights(model, folder / MODEL)
        for state, value in zip(_seeds(model), progress["seeds"], strict=True):
            state.assign(value)
        return dict(progress["history"])
