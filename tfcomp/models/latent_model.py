"""The base of AutoEncoder and VAE: the objective, passes through the networks, checks and metrics.

Per example, with sums over the example's elements,

    loss = distortion + beta * rate

    distortion  squared error ||x - x_hat||^2, or binary cross-entropy in nats, of pixels scaled to [0, 1]
    rate        nats that the latent costs under the prior

and every logged number is a mean over examples, except ``psnr_db``, which pools the squared error of all pixels.
The identity holds for the logged numbers too, as ``loss == distortion + beta * ln(2) * rate_bits``, when the networks
have no regularisation losses of their own (these are added to ``loss``). `objective` has the parts, `training`
the steps that minimise it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.geometry import Grid
from tfcomp.items import Item
from tfcomp.models import networks, receptive_field
from tfcomp.models.admission import admitted, check_graph
from tfcomp.models.objective import DISTORTIONS, Distortion
from tfcomp.models.priors import Prior
from tfcomp.models.training import Training, fits

Float32 = NDArray[np.float32]

BATCH_ITEMS, BATCH_PIXELS = 512, 1 << 22
"""Largest number of items that go through a network at once, and of pixels where items have any size."""


class LatentModel(Training):
    """The base class of `AutoEncoder` and `VAE`; not for use by itself.

    Args:
        encoder: built Keras model; see `networks` for the contract of both networks. A network that cannot be frozen is
            refused here. A subclass of `keras.Model` that was called once becomes part of a functional model.
        decoder: built Keras model.
        beta: price of one nat of rate in units of distortion, >= 0.
        distortion: ``"squared_error"``, ``"binary_cross_entropy"``, or a function of (target, pixels), float32
            [N, ...] on [0, 1], that returns float32 [N] (registered with Keras if the model is to be saved).
        stride, reach: of networks for items of any size, pixels a side that become one position of the latent, and
            positions that the networks see beyond their own; by default measured.
        name: the model's.

    ``fit``, ``evaluate`` and ``predict`` take uint8 images [N, *image_shape], in arrays or a batched data set; a pair
    ``(images, targets)`` trains towards other images of the same shape, e.g. clean ones; a third member weighs each
    image. ``docs/keras.md`` says which of Keras's options work. Networks for items of any size take batches of crops of
    one size, whose sides are multiples of the stride.

    Attributes:
        encoder, decoder, distortion: as given.
        item: what is compressed; height and width are None for items of any size.
        prior: the learned density of the latent in steps, or None.
    """

    prior: Prior | None = None
    qualities = 1

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: float,
        distortion: str | Distortion,
        stride: int | None = None,
        reach: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        networks.require_supported_keras()
        encoder, decoder = admitted(encoder, "encoder", "uint8"), admitted(decoder, "decoder", "float32")
        if not (math.isfinite(beta) and beta >= 0):
            raise InputError(f"expected a finite beta >= 0, found {beta}")
        if isinstance(distortion, str) and distortion not in DISTORTIONS:
            raise InputError(
                f"expected distortion to be one of {sorted(DISTORTIONS)} or a function, found {distortion!r}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.distortion = distortion
        self.distortion_function = DISTORTIONS[distortion] if isinstance(distortion, str) else distortion
        self.initial_beta = float(beta)
        self.item = Item(self.image_shape)
        self._grid_options = {"stride": stride, "reach": reach}

    def _complete(self, heads: int) -> None:
        """The end of a constructor: checks that both networks fit each other, and makes beta a variable.

        Not `build`: Keras refuses a subclass any further layer or variable after that.

        Args:
            heads: number of outputs that the encoder must have.
        """
        check_shapes(self.encoder, self.decoder, heads, self.qualities)
        for role, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            check_graph(network, role, always=self.item.any_size)
        if not self.item.any_size and any(self._grid_options.values()):
            raise InputError(f"expected a stride and a reach for items of any size alone, found {self.item}")
        if self.item.any_size:
            assert self.grid is not None  # measured now: training steps are traced, and freezing comes late
        # A variable, so that a change reaches a training step that is already traced.
        self.beta_variable = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_beta),
            trainable=False,
            name="beta",
            dtype="float32",
        )
        self.built = True

    # === What the two models differ in ===

    @property
    def latent_network(self) -> keras.Model:
        """Keras model: uint8 images -> the float latent [N, *latent_shape] that a codec quantizes."""
        raise NotImplementedError

    @property
    def posterior_network(self) -> keras.Model | None:
        """Keras model: uint8 images -> the posterior's mean and deviation, float [N, 2, *latent_shape].

        None unless the deviation depends on the input; where it does not, `draw_noise` has samples.
        """
        return None

    def draw_noise(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Step and offset of each latent, float32 [*latent_shape], that give one sample of the posterior.

        The integer ``q = round((mean - offset) / step)`` stands for the sample ``q * step + offset``; see `sampling`.

        Raises:
            InputError: if the model has no posterior, or one that the decoder cannot know.
        """
        raise NotImplementedError

    @property
    def steps(self) -> Float32 | None:
        """Trained steps, float32 [qualities, channels of the latent]; None if the model leaves them open."""
        return None

    @property
    def has_rate(self) -> bool:
        """Whether a beta can have an effect."""
        return True

    # === Shapes ===

    @property
    def image_shape(self) -> tuple[Any, ...]:
        """Shape of an item; height and width are None for items of any size."""
        return tuple(self.encoder.inputs[0].shape[1:])

    @property
    def latent_shape(self) -> tuple[Any, ...]:
        """Shape of an item's latent; rows and columns are None for items of any size."""
        return tuple(self.decoder.inputs[0].shape[1:])

    @property
    def takes_quality(self) -> bool:
        """Whether the decoder has a second input, the quality: float32 [N, qualities], a one and zeros."""
        return len(self.decoder.inputs) > 1

    @property
    def stride(self) -> int:
        """Pixels a side that become one position of the latent; 1 for items of one shape, which have no positions."""
        return self._stride

    @cached_property
    def _stride(self) -> int:
        if not self.item.any_size:
            return 1
        measured = receptive_field.stride_of(self.latent_network, self.decoder)
        if self._grid_options["stride"] not in (None, measured):
            stride = self._grid_options["stride"]
            raise InputError(f"expected the networks' stride, {measured}, found stride={stride!r}")
        return measured

    @cached_property
    def grid(self) -> Grid | None:
        """The tiles that items of any size are cut into; None for items of one shape."""
        if not self.item.any_size:
            return None
        reach = self._grid_options["reach"]
        if reach is None:
            reach = receptive_field.reach_of(self.latent_network, self.decoder, self.stride)
        return Grid.of(self.stride, reach, self.latent_shape[-1])

    # === Prices ===

    @property
    def beta(self) -> float:
        """The price of rate, at the highest quality; assign to change it, in the middle of training too."""
        return float(ops.convert_to_numpy(self.beta_variable))

    @beta.setter
    def beta(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"expected a finite beta >= 0, found {value}")
        if value > 0 and not self.has_rate:
            raise InputError(f"expected beta = 0, as the model was made without a prior, found {value}")
        self.beta_variable.assign(value)

    @property
    def betas(self) -> tuple[float, ...]:
        """The price at each quality, from the lowest quality to the highest."""
        return (self.beta,)

    # === Passes ===

    def decode(self, latent: Any, quality: Any = None, training: bool = False) -> Any:
        """Pixels float32 [N, *image_shape] on [0, 1] of a latent, float32 [N, *latent_shape].

        Args:
            latent: as the encoder gives it.
            quality: int32 [N], from 0, for a decoder that takes it; None for the highest of all.
            training: whether layers such as dropout act.
        """
        if not self.takes_quality:
            return ops.cast(self.decoder(latent, training=training), "float32")
        if quality is None:
            quality = ops.full((ops.shape(latent)[0],), self.qualities - 1, "int32")
        inputs = [ops.convert_to_tensor(latent), ops.one_hot(quality, self.qualities)]
        return ops.cast(self.decoder(inputs, training=training), "float32")

    def call(self, images: Any, training: bool = False) -> Any:
        """Reconstruct: uint8 [N, *image_shape] -> float32 pixels [N, *image_shape] on [0, 1], without quantization."""
        return self.decode(self.latent_network(images, training=training), training=training)

    def render(self, latents: Any, quality: int | None = None) -> NDArray[np.uint8]:
        """Decode: float latents [N, *latent_shape] -> uint8 images [N, *image_shape].

        Args:
            latents: as `latents` gives them.
            quality: of a model of several, whose decoder takes it: from 1 to ``qualities``, by default the highest.
        """
        latents = np.asarray(latents, np.float32)
        if not fits(latents.shape[1:], self.latent_shape):
            raise InputError(f"expected latents of shape [N, *{self.latent_shape}], found {latents.shape}")
        if not 1 <= (number := self.qualities if quality is None else quality) <= self.qualities:
            raise InputError(f"expected a quality of 1 to {self.qualities}, found {quality}")
        size = self._batch_size(math.prod(latents.shape[1:3]) * self.stride**2)
        pixels = _batched(lambda z: self.decode(z, np.full(len(z), number - 1, np.int32)), latents, size)
        return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)

    def latents(self, images: Any) -> Float32:
        """Encode: uint8 images [N, *image_shape] -> float32 latents [N, *latent_shape], the means for a VAE."""
        images = self.check_images(images)
        size = self._batch_size(math.prod(images.shape[1:3]))
        return _batched(lambda x: self.latent_network(x, training=False), images, size).astype(np.float32)

    def _batch_size(self, pixels: int) -> int:
        return max(1, min(BATCH_ITEMS, BATCH_PIXELS // pixels)) if self.item.any_size else BATCH_ITEMS

    def reconstruct(self, images: Any) -> NDArray[np.uint8]:
        """uint8 images [N, *image_shape] -> uint8 [N, *image_shape], through both networks without quantization."""
        return self.render(self.latents(images))

    def interpolate(self, a: Any, b: Any, steps: int) -> NDArray[np.uint8]:
        """Images on the straight line between the latents of two.

        Args:
            a, b: uint8 images [*image_shape].
            steps: how many, at least 2; the first is the reconstruction of ``a`` and the last that of ``b``.

        Returns:
            uint8 [steps, *image_shape].
        """
        if steps < 2:
            raise InputError(f"expected at least 2 steps, found {steps}")
        start, end = self.latents(np.stack([a, b]))
        share = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *[1] * start.ndim)
        return self.render((1 - share) * start + share * end)

    def check_images(self, images: Any) -> NDArray[np.uint8]:
        """The images as an array; raises `InputError` unless they are uint8 [N, *image_shape], N > 0."""
        array = np.asarray(images)
        if array.dtype != np.uint8 or not fits(array.shape[1:], self.image_shape, self.stride) or not len(array):
            raise InputError(
                f"expected uint8 images [N, *{self.image_shape}], N > 0{self.multiples}, found "
                f"{array.dtype} {array.shape}"
            )
        return array

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",  # noqa: A002 - Keras's name
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Keras's `export` of the reconstructing model, without a codec; `Codec.export` writes an artifact."""
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=(None, *self.image_shape), dtype="uint8")]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    # === Config ===

    def get_config(self) -> dict[str, Any]:
        distortion = self.distortion
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "beta": self.initial_beta,
            **self._grid_options,
            "distortion": distortion
            if isinstance(distortion, str)
            else keras.saving.serialize_keras_object(distortion),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config = dict(config)
        for name in ("encoder", "decoder", "distortion", "prior"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(**config)


def check_shapes(encoder: keras.Model, decoder: keras.Model, heads: int, qualities: int) -> None:
    """Raise `InputError` unless encoder and decoder fit each other."""
    image, latent = (tuple(network.inputs[0].shape[1:]) for network in (encoder, decoder))
    found = [tuple(output.shape[1:]) for output in encoder.outputs]
    expected = [latent] * heads
    if found != expected:
        raise InputError(f"expected an encoder with outputs {expected}, as the decoder takes, found {found}")
    if tuple(decoder.outputs[0].shape[1:]) != image:
        raise InputError(
            f"expected a decoder that returns the encoder's input shape {image}, found "
            f"{tuple(decoder.outputs[0].shape[1:])}"
        )
    if None in (*image, *latent) and not (image[:2] == latent[:2] == (None, None) and len(latent) == 3):
        raise InputError(
            f"expected a latent (None, None, channels) of images (None, None, channels), found {latent} of {image}"
        )
    others = [tuple(more.shape[1:]) for more in decoder.inputs[1:]]
    if len(encoder.inputs) != 1 or others not in ([], [(qualities,)]):
        raise InputError(
            f"expected an encoder of one input, and a decoder of a latent or of a latent and one of {qualities} "
            f"qualities, found {len(encoder.inputs)} and further inputs {others}"
        )


def _batched(network: Callable[[Any], Any], items: NDArray[Any], size: int) -> NDArray[Any]:
    parts = [ops.convert_to_numpy(network(items[i : i + size])) for i in range(0, max(len(items), 1), size)]
    return np.concatenate(parts)
