"""Training and evaluation with Keras: data in, one step under each backend, metrics out.

The objective is the model's own (`Objective.objective`) under all backends. Under TensorFlow the steps are written out.
Under JAX a step has no side effects, which Keras's own steps take care of: they ask for the loss, and for the metrics,
inside a stateless scope.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models.objective import LN2, PeakSignalToNoise, Terms
from tfcomp.models.replicas import place, replica


class Objective(keras.Model):
    """A model with an ``objective`` to minimise, for images of ``image_shape`` and sides divided by ``stride``."""

    beta_variable: Any

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.distortion_metric = keras.metrics.Mean(name="distortion")
        self.rate_metric = keras.metrics.Mean(name="rate_bits")
        self.psnr_metric = PeakSignalToNoise()

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Shape of an item; height and width are None for items of any size."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Number whose multiples the sides of items of any size are."""
        raise NotImplementedError

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        """One pass: distortion and rate of each example."""
        raise NotImplementedError

    def loss_of(self, terms: Terms) -> Any:
        """The loss of each example, float32 [N]."""
        return terms.distortion + self.beta_variable * terms.rate

    def penalty(self) -> Any:
        """The networks' own regularisation, float32: under mixed precision some of it is of 16 bits."""
        return sum((ops.cast(ops.sum(loss), "float32") for loss in self.losses), 0.0)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Keras's `compile`, with its arguments; raises `InputError` on those of a loss or of metrics.

        The model has its own objective and metrics; another `distortion` is an argument of the model.
        """
        options = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        if refused := [name for name, value in options.items() if value is not None]:
            raise InputError(
                f"expected no loss and no metrics in compile, as the model has its own, found {', '.join(refused)}; "
                "another distortion is an argument of the model"
            )
        if optimizer is None:
            raise InputError("expected an optimizer in compile, found None")
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as it was saved; Keras leaves that to a class with a `compile` of its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    # === Data ===

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Keras's `fit`, with its arguments.

        Under TensorFlow an array of images alone is read by `datasets.batches`, so that no epoch ends in a wait.
        ``sample_weight`` weighs the loss of each image, and its part in the metrics. Callbacks with ``mode="auto"``
        that monitor one of the model's metrics are told its direction, which Keras does not know.

        Raises:
            InputError: on class weights, of which images have no use, and on wrong images.
        """
        _check_class_weight(class_weight)
        self._check_workers()
        self.check_data(x, y)
        if validation_data is not None:  # now, and not after the first epoch
            self.check_data(*(validation_data if isinstance(validation_data, tuple) else (validation_data,))[:2])
        _tell_directions(callbacks)
        y = x if y is None and sample_weight is not None else y  # Keras passes over weights without targets
        alone = isinstance(x, np.ndarray) and y is None and sample_weight is None and not validation_split
        if alone and keras.backend.backend() == "tensorflow":
            x = datasets.batches(x, batch_size or 32, shuffle=shuffle)
        if hasattr(x, "element_spec") or getattr(x, "ordered", False):
            shuffle = False  # with its default, True, Keras warns that it cannot shuffle a data set
        with _divided():
            return super().fit(
                x,
                y,
                batch_size,
                epochs,
                verbose,
                callbacks,
                validation_split,
                validation_data,
                shuffle,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Keras's `evaluate`, with its arguments; raises `InputError` on wrong images."""
        self.check_data(x, y)
        y = x if y is None and sample_weight is not None else y
        with _divided():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict, **kwargs)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> NDArray[np.float32]:
        """Keras's `predict`: pixels float32 [N, *image_shape] on [0, 1]; raises `InputError` on wrong images."""
        self.check_data(x, paired=False)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Keras's `train_on_batch`, with its arguments; raises `InputError` on class weights and on wrong images."""
        _check_class_weight(class_weight)
        self.check_data(x, y)
        y = x if y is None and sample_weight is not None else y
        return super().train_on_batch(x, y, sample_weight, None, return_dict)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self.check_tensor("images", images)  # here, as Keras makes pages of what `call` raises
        return super().__call__(images, *args, **kwargs)

    def _check_workers(self) -> None:
        """Raises `InputError` if `fit` is to train in several processes and cannot."""

    def check_data(self, x: Any, y: Any = None, *, paired: bool = True) -> None:
        """Raises `InputError` on data that are known to be wrong; TensorFlow's own errors take pages.

        Args:
            x, y: as Keras takes them.
            paired: whether the second of a pair in a data set is a target.
        """
        if hasattr(x, "element_spec"):
            spec = x.element_spec
            x, y = (*spec, None)[:2] if isinstance(spec, tuple) else (spec, None)
            y = y if paired else None
        elif x is None or isinstance(x, (str, bytes, os.PathLike, list, tuple, Mapping)):
            raise InputError(
                f"expected uint8 images [N, *{self.image_shape}] in an array or a batched data set, found "
                f"{'nothing' if x is None else type(x).__name__}"
            )
        elif isinstance(x, np.ndarray) and x.ndim and not len(x):
            raise InputError("expected images, found an array of none")
        for name, value in (("images", x), ("targets", y)):
            if isinstance(value, Mapping) or (hasattr(value, "shape") and hasattr(value, "dtype")):
                self.check_tensor(name, value)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_metric, self.distortion_metric, self.rate_metric, self.psnr_metric]

    def unpack(self, data: Any) -> tuple[Any, Any, Any]:
        """A batch as Keras gives it: images, uint8; targets, float32 on [0, 1]; weights, float32 [N], or None.

        Raises:
            InputError: if the data are something else.
        """
        images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        targets = images if targets is None else targets
        for name, value in (("images", images), ("targets", targets)):
            self.check_tensor(name, value)
        if weights is not None and len(weights.shape) != 1:
            raise InputError(f"expected a sample weight for each image, found weights of shape {tuple(weights.shape)}")
        weights = None if weights is None else ops.cast(weights, "float32")
        return images, ops.cast(targets, "float32") / 255, weights

    def check_tensor(self, name: str, value: Any) -> None:
        """Raises `InputError` unless a tensor is uint8 [N, *image_shape], as far as its shape is known."""
        dtype = getattr(value, "dtype", type(value).__name__)
        found = getattr(dtype, "name", str(dtype))
        try:
            shape = tuple(value.shape)
        except (AttributeError, ValueError):  # TensorFlow leaves the rank open once it has seen two
            shape = ()
        more = ""
        if name == "targets":
            more = "; of pairs (image, label) take the images: data.map(lambda image, label: image)"
        if found != "uint8":
            raise InputError(f"expected {name} as uint8 with values 0 to 255, found {found}{more}")
        if not fits(shape[1:], self.image_shape, self.stride):
            raise InputError(
                f"expected {name} of shape [N, *{self.image_shape}]{self.multiples}, found {shape or 'any'}; "
                f"a data set must be batched and hold no labels{more}"
            )

    def mean_loss(self, terms: Terms, weights: Any, penalty: Any) -> Any:
        """The minimised mean over the batch of each example's loss times its weight, and the penalty.

        Each of several replicas has its share of that; the shares add up, whatever part of the batch each has.
        """
        losses = self.loss_of(terms)
        losses = losses if weights is None else weights * losses
        _, replicas = replica()
        if replicas == 1:
            return ops.mean(losses) + penalty
        _, examples = place(ops.shape(losses)[0])
        return ops.sum(losses) / ops.cast(examples, losses.dtype) + penalty / replicas

    def log(self, targets: Any, terms: Terms, penalty: Any, weights: Any) -> dict[str, Any]:
        """Updates the metrics by one pass and the networks' own penalty in it, and returns their values."""
        self.loss_metric.update_state(self.loss_of(terms) + penalty, weights)
        self.distortion_metric.update_state(terms.distortion, weights)
        self.rate_metric.update_state(terms.rate / LN2, weights)
        self.psnr_metric.update_state(targets, terms.pixels, weights)
        return self.get_metrics_result()

    @property
    def multiples(self) -> str:
        return f", of sides that are multiples of {self.stride}" if None in self.image_shape else ""


class TensorFlowTraining(Objective):
    """Steps with `tf.GradientTape`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Forward pass, loss, gradients, one step of the optimizer."""
        import tensorflow as tf

        images, targets, weights = self.unpack(data)
        with tf.GradientTape() as tape:
            terms = self.objective(images, targets, training=True)
            penalty = self.penalty()
            loss = self.optimizer.scale_loss(self.mean_loss(terms, weights, penalty))
        gradients = tape.gradient(loss, self.trainable_variables)  # which replicas add up
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.log(targets, terms, penalty, weights)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Forward pass and metrics of the same objective, without noise where the model can do without."""
        images, targets, weights = self.unpack(data)
        return self.log(targets, self.objective(images, targets, training=False), self.penalty(), weights)

    def _check_workers(self) -> None:
        strategy = self.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if replicas > 1 and replicas > len(strategy.extended.worker_devices):
            raise InputError(
                "expected tfcomp.fit_workers to train in several workers, found fit, which Keras has for one"
            )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:  # noqa: ARG002
        """Keras's own adds up the replicas' parts of a first batch, of one size alone, to build what is built here."""
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)


class KerasTraining(Objective):
    """The objective as Keras's own steps ask for it, under JAX and any other backend."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,  # noqa: ARG002 - the plain reconstruction, which the compiler leaves out
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Mean loss of a batch, and the metrics' update."""
        images, targets, weights = self.unpack((x, y, sample_weight))
        terms = self.objective(images, targets, training=training)
        penalty = self.penalty()
        self.log(targets, terms, penalty, weights)
        return self.mean_loss(terms, weights, penalty)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """The metrics that `compute_loss` updated."""
        return self.get_metrics_result()


DIRECTIONS = {"loss": "min", "distortion": "min", "rate_bits": "min", "psnr_db": "max"}
"""Direction in which each metric gets better."""


@contextmanager
def _divided() -> Iterator[None]:
    """Makes JAX's error of a batch that its devices cannot divide an `InputError`."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "IndivisibleError":
            raise
        raise InputError(
            "expected batches whose number of images the devices divide, found another; "
            "batch(..., drop_remainder=True) leaves out a last one that is smaller"
        ) from error


def _tell_directions(callbacks: Any) -> None:
    """Gives callbacks that monitor one of the model's metrics in mode ``"auto"`` the mode that suits it."""
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        monitored = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if monitored in DIRECTIONS and getattr(callback, "mode", None) == "auto":
            callback.mode = DIRECTIONS[monitored]


def _check_class_weight(weight: Any) -> None:
    if weight is not None:
        raise InputError("expected no class_weight, as images have no classes here; sample_weight weighs each image")


def fits(shape: Sequence[int | None], expected: Sequence[int | None], stride: int = 1) -> bool:
    """Whether a shape fits another; where that one is None, any multiple of the stride fits, or None."""
    return len(shape) == len(expected) and all(
        n == wanted if wanted is not None else n is None or (n > 0 and n % stride == 0)
        for n, wanted in zip(shape, expected, strict=True)
    )


if TYPE_CHECKING:
    Training = TensorFlowTraining
else:
    Training = TensorFlowTraining if keras.backend.backend() == "tensorflow" else KerasTraining
