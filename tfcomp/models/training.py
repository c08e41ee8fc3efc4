"""Training and evaluation with Keras: data in, one step under each backend, metrics out.

The objective is the model's own (`Objective.objective`) under all backends. Under TensorFlow the steps are written out.
Under JAX a step has no side effects, which Keras's own steps take care of: they ask for the loss, and for the metrics,
inside a stateless scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.models.objective import LN2, PeakSignalToNoise, Terms


class Objective(keras.Model):
    """A model that says what it minimises, in ``objective``, and of which images: ``image_shape`` and ``stride``."""

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

        Raises:
            InputError: on what the models do not use, class and sample weights, and on wrong images.
        """
        self._check_data(x, y, class_weight, sample_weight)
        alone = isinstance(x, np.ndarray) and x.dtype == np.uint8 and len(x) and y is None and not validation_split
        if alone and keras.backend.backend() == "tensorflow":
            x = datasets.batches(x, batch_size or 32, shuffle=shuffle)
        if hasattr(x, "element_spec"):
            shuffle = False  # with its default, True, Keras warns that it cannot shuffle a data set
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
        """Keras's `evaluate`, with its arguments; raises `InputError` on weights and on wrong images."""
        self._check_data(x, y, sample_weight)
        return super().evaluate(x, y, batch_size, verbose, None, steps, callbacks, return_dict, **kwargs)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> NDArray[np.float32]:
        """Keras's `predict`: pixels float32 [N, *image_shape] on [0, 1]; raises `InputError` on wrong images."""
        self._check_data(x, None)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def _check_data(self, x: Any, y: Any, *weights: Any) -> None:
        """Raises `InputError` on what is known to be wrong before TensorFlow sees it, whose own errors take pages."""
        if any(weight is not None for weight in weights):
            raise InputError("expected images alone, found class or sample weights; tfcomp's models do not use them")
        if getattr(self, "_compile_loss", None) is not None or getattr(self, "_compile_metrics", None) is not None:
            raise InputError("expected no loss and no metrics in compile: the model has its own objective and metrics")
        if hasattr(x, "element_spec"):
            spec = x.element_spec
            x, y = (*spec, None)[:2] if isinstance(spec, tuple) else (spec, None)
        for name, value in (("images", x), ("targets", y)):
            if hasattr(value, "shape") and hasattr(value, "dtype"):
                self.check_tensor(name, value)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_metric, self.distortion_metric, self.rate_metric, self.psnr_metric]

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Images, uint8, and targets, float32 on [0, 1], of a batch as Keras gives it; raises `InputError`."""
        images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise InputError("expected images alone, found sample weights; tfcomp's models do not use them")
        targets = images if targets is None else targets
        for name, value in (("images", images), ("targets", targets)):
            self.check_tensor(name, value)
        return images, ops.cast(targets, "float32") / 255

    def check_tensor(self, name: str, value: Any) -> None:
        """Raises `InputError` unless a tensor is uint8 [N, *image_shape], as far as its shape is known."""
        dtype = getattr(value, "dtype", type(value).__name__)
        found = getattr(dtype, "name", str(dtype))
        if found != "uint8":
            raise InputError(f"expected {name} as uint8 with values 0 to 255, found {found}")
        try:
            shape = tuple(value.shape)
        except ValueError:  # TensorFlow leaves the rank open once it has seen two
            shape = ()
        if not fits(shape[1:], self.image_shape, self.stride):
            raise InputError(
                f"expected {name} of shape [N, *{self.image_shape}]{self.multiples}, found {shape or 'any'}; "
                "a data set must be batched and hold no labels"
            )

    def log(self, targets: Any, terms: Terms, penalty: Any) -> dict[str, Any]:
        """Updates the metrics by one pass and the networks' own penalty in it, and returns their values."""
        self.loss_metric.update_state(self.loss_of(terms) + penalty)
        self.distortion_metric.update_state(terms.distortion)
        self.rate_metric.update_state(terms.rate / LN2)
        self.psnr_metric.update_state(targets, terms.pixels)
        return self.get_metrics_result()

    @property
    def multiples(self) -> str:
        return f", of sides that are multiples of {self.stride}" if None in self.image_shape else ""


class TensorFlowTraining(Objective):
    """Steps with `tf.GradientTape`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Forward pass, loss, gradients, one step of the optimizer."""
        import tensorflow as tf

        images, targets = self.unpack(data)
        with tf.GradientTape() as tape:
            terms = self.objective(images, targets, training=True)
            penalty = sum(self.losses)
            loss = ops.mean(self.loss_of(terms)) + penalty
            # Replicas sum their gradients: each contributes its share of the mean over the whole batch.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
            share = self.optimizer.scale_loss(share)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.log(targets, terms, penalty)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Forward pass and metrics of the same objective, without noise where the model can do without."""
        images, targets = self.unpack(data)
        return self.log(targets, self.objective(images, targets, training=False), sum(self.losses))


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
        images, targets = self.unpack((x, y, sample_weight))
        terms = self.objective(images, targets, training=training)
        penalty = sum(self.losses)
        self.log(targets, terms, penalty)
        return ops.mean(self.loss_of(terms)) + penalty

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """The metrics that `compute_loss` updated."""
        return self.get_metrics_result()


def fits(shape: Sequence[int | None], expected: Sequence[int | None], stride: int = 1) -> bool:
    """Whether a shape is what is expected; where that is None, any multiple of the stride, or unknown."""
    return len(shape) == len(expected) and all(
        n == wanted if wanted is not None else n is None or (n > 0 and n % stride == 0)
        for n, wanted in zip(shape, expected, strict=True)
    )


if TYPE_CHECKING:
    Training = TensorFlowTraining
else:
    Training = TensorFlowTraining if keras.backend.backend() == "tensorflow" else KerasTraining
