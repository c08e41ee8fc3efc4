"""The autoencoder: one latent, rounded, at one price of rate or at several.

With several prices each example of a batch is trained at one of them, an equal share of the batch at each, for

    loss_q = w_q * (distortion + beta_q * rate),        w_q proportional to 1 / sqrt(beta_q)

Quality ``q`` quantizes each channel of the latent in steps of its own, learned with everything else (the gains of Cui
et al. 2021, "Asymmetric Gained Deep Image Compression with Continuous Rate Adaptation", as steps), and has a prior of
its own; the networks are shared. Unweighted, the lowest quality, whose losses are largest, would have them for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfcomp.errors import InputError
from tfcomp.items import Item
from tfcomp.layout import CHESSBOARD, MEAN_PHASES, Layout, Pattern
from tfcomp.models import lapped, networks, sampling
from tfcomp.models.context_prior import ContextPrior
from tfcomp.models.latent_model import Float32, LatentModel
from tfcomp.models.networks import InputShape
from tfcomp.models.objective import Distortion, Terms, sum_per_example
from tfcomp.models.priors import FactorizedPrior, Prior
from tfcomp.models.replicas import Seeds, place

Prices = float | Sequence[float]


@keras.saving.register_keras_serializable("tfcomp")
class AutoEncoder(LatentModel):
    """Encoder and decoder trained end to end by gradient descent; with ``beta > 0``, for rate as well.

    Examples:
        >>> model = AutoEncoder.dense((28, 28, 1), latent_dim=32, beta=0.06)
        >>> model.compile(optimizer="adam")
        >>> history = model.fit(np.zeros((64, 28, 28, 1), np.uint8), epochs=1, verbose=0)

    With ``beta = 0`` it is the plain reconstruction autoencoder. With ``beta > 0`` the latent is trained under uniform
    noise of width 1, the stand-in for rounding, and pays for its rate under a learned prior (Balle, Laparra and
    Simoncelli 2017, section 3); in evaluation it is rounded. ``beta = elements / (lambda * ln 2)`` with squared error
    is a paper's ``bits + lambda * mean squared error``.

    Several prices, falling, make a model of as many qualities: 1 has the fewest bytes, the last the best picture. The
    latent wants the size that suits the last. Logged numbers are means over all qualities, and ``loss`` is weighted, as
    the module's docstring says. A batch smaller than the number of qualities trains or evaluates some of them alone.

    Args:
        encoder: a built Keras model; see `networks` for what goes in and out.
        decoder: a built Keras model. With several prices it may have a second input, the quality: float32
            [N, qualities], a one and zeros.
        beta: price of one nat of rate in units of distortion; 0 trains for reconstruction alone. A sequence is from
            the largest to the smallest, above 0.
        distortion: ``"squared_error"``, ``"binary_cross_entropy"``, or a function of (target, pixels), float32
            [N, ...] on [0, 1], that returns float32 [N] (registered with Keras if the model is to be saved).
        components: logistics per channel of the `FactorizedPrior` that the model makes by default.
        prior: another prior: a `FactorizedPrior` or a `ContextPrior` of as many qualities.
        stride: of networks for items of any size: pixels a side that become one position of the latent; by default
            measured.
        reach: positions that such networks see beyond their own; by default measured.
        name: the model's.

    Attributes:
        item: what is compressed.
        prior: the learned density of the latent in steps; None for ``beta = 0``.
        qualities: number of prices.

    Raises:
        InputError: if networks, prices and prior do not fit each other.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: Prices = 0.0,
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        prior: Prior | None = None,
        stride: int | None = None,
        reach: int | None = None,
        name: str | None = None,
    ) -> None:
        betas = _prices(beta)
        super().__init__(encoder, decoder, beta=betas[-1], distortion=distortion, stride=stride, reach=reach, name=name)
        self.qualities, self._initial_betas = len(betas), betas
        self.components = components
        self._own_prior = prior is None
        # Fixed at construction: a plain autoencoder has no prior, and raising beta later cannot give it one.
        if prior is None and betas[-1] > 0:
            prior = FactorizedPrior(components, self.qualities, name="prior")
        self.prior = prior
        self.noise = Seeds()
        if prior is not None:
            self._build_prior(prior)
        relative = np.array(betas) / betas[-1] if betas[-1] > 0 else np.ones(1)
        self._relative = relative.astype(np.float32)
        self.weigh_qualities(relative**-0.5)
        if self.qualities > 1:
            self._add_steps()
        self._complete(heads=1)

    def weigh_qualities(self, weights: Sequence[float] | NDArray[np.floating]) -> None:
        """Weighs the qualities' losses anew, from the next `compile` on: where some gain at others' cost. Not saved.

        Args:
            weights: of each quality, above 0; only their ratios count. `InputError` is raised on others.

        Examples:
            >>> model = AutoEncoder.dense((28, 28, 1), latent_dim=32, beta=(0.5, 0.05))
            >>> model.weigh_qualities((1, 8))
        """
        found = np.asarray(weights, np.float64)
        if found.shape != (self.qualities,) or not np.all((found > 0) & np.isfinite(found)):
            raise InputError(f"expected {self.qualities} weights above 0, one for each quality, found {weights!r}")
        self._weights = (found / found.mean()).astype(np.float32)

    def _build_prior(self, prior: Any) -> None:
        if self.initial_beta == 0:
            raise InputError("expected a beta > 0 for a model with a prior, found 0")
        if prior.qualities != self.qualities:
            raise InputError(f"expected a prior of {self.qualities} qualities, found one of {prior.qualities}")
        channels = self.latent_shape[-1]
        if isinstance(prior, ContextPrior) and (len(self.latent_shape) != 3 or prior.layout.channels != channels):
            raise InputError(
                f"expected a latent (rows, columns, {prior.layout.channels}), as the prior's layout has it, found "
                f"{self.latent_shape}"
            )
        if not prior.built:
            prior.build((None, *self.latent_shape))

    def _add_steps(self) -> None:
        """Adds the steps of each quality, and the number of the one whose turn it is in training."""
        # Where distortion grows with the square of the step, the best step grows with the square root of the price.
        # The highest quality starts at 1, the step of a model of one price, so that its networks can be trained on.
        first = np.repeat(np.log(self._relative)[:, None] / 2, self.latent_shape[-1], axis=1)
        self.log_steps = self.add_weight(
            shape=first.shape,
            initializer=lambda _, dtype=None: ops.convert_to_tensor(first, dtype),
            name="log_steps",
            dtype="float32",
        )
        self.turn = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="turn", dtype="int", aggregation="only_first_replica"
        )

    # === Builders ===

    @classmethod
    def dense(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (512, 256),
        beta: Prices = 0.0,
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        name: str | None = None,
    ) -> Self:
        """A model of multilayer perceptrons.

        Args:
            input_shape: (height, width, channels).
            latent_dim: numbers of the latent.
            hidden: widths of the hidden layers, from the image inwards.
            beta: price of a nat, or several; see `AutoEncoder`.
            distortion: see `AutoEncoder`.
            components: logistics of the prior for each channel; see `AutoEncoder`.
            name: the model's.
        """
        encoder = networks.dense_encoder(input_shape, latent_dim, hidden=hidden)
        decoder = networks.dense_decoder(input_shape, latent_dim, hidden=hidden)
        return cls(encoder, decoder, beta=beta, distortion=distortion, components=components, name=name)

    @classmethod
    def conv(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        filters: Sequence[int] = (32, 64),
        hidden: int = 500,
        beta: Prices = 0.0,
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        name: str | None = None,
    ) -> Self:
        """A model of strided convolutions around dense layers.

        Args:
            input_shape: (height, width, channels).
            latent_dim: numbers of the latent.
            filters: widths of the convolutions, from the image inwards; each halves height and width.
            hidden: width of the dense layer.
            beta: price of a nat, or several; see `AutoEncoder`.
            distortion: see `AutoEncoder`.
            components: logistics of the prior for each channel; see `AutoEncoder`.
            name: the model's.
        """
        encoder = networks.conv_encoder(input_shape, latent_dim, filters=filters, hidden=hidden)
        decoder = networks.conv_decoder(input_shape, latent_dim, filters=filters, hidden=hidden)
        return cls(encoder, decoder, beta=beta, distortion=distortion, components=components, name=name)

    @classmethod
    def spatial(
        cls,
        input_shape: InputShape,
        latent_dim: int,
        *,
        filters: Sequence[int] = (32, 64),
        beta: Prices = 0.0,
        distortion: str | Distortion = "squared_error",
        components: int = 3,
        name: str | None = None,
    ) -> Self:
        """A model of convolutions alone, for high rates, and for images of any size.

        Args:
            input_shape: (height, width, channels), or (None, None, channels) for any size.
            latent_dim: numbers of the latent for each cell of ``2**len(filters)`` pixels a side.
            filters: widths of the convolutions, from the image inwards; each halves height and width.
            distortion: not binary cross-entropy: the pixels have no bounds.
            beta: price of a nat, or several; see `AutoEncoder`.
            components: logistics of the prior for each channel; see `AutoEncoder`.
            name: the model's.
        """
        networks.check_unbounded(distortion)
        encoder = networks.spatial_encoder(input_shape, latent_dim, filters=filters)
        decoder = networks.spatial_decoder(input_shape, latent_dim, filters=filters)
        return cls(encoder, decoder, beta=beta, distortion=distortion, components=components, name=name)

    @classmethod
    def lapped(
        cls,
        input_shape: InputShape,
        *,
        beta: Prices = lapped.BETAS,
        stride: int = 8,
        coefficients: tuple[int, int] | None = None,
        hidden: tuple[int, int] = (96, 128),
        blocks: int = 3,
        ranks: tuple[int, int] | None = (80, 24),
        groups: Sequence[int] | None = None,
        mean_phases: Pattern = MEAN_PHASES,
        phases: Pattern = CHESSBOARD,
        reach: int = 2,
        name: str | None = None,
    ) -> Self:
        """A model for photographs of any size: a lapped transform, small residual networks, and a `ContextPrior`.

        Args:
            input_shape: (None, None, channels), 1 to 8 channels.
            beta: one price or several, above 0; by default the eight of the bundled codec. A squared error of pixels
                on [0, 1] is minimised.
            stride: pixels a side that become one position of the latent.
            coefficients: channels of the latent, at most ``stride**2``: of the first colour, and of each other; by
                default 64 and 16, or as many as there are.
            hidden: width of the hidden layers of the encoder, and of the decoder.
            blocks: number of residual blocks of the decoder.
            ranks: of the decoder's first residual layer and of its last, which are then products of two and smaller;
                None for whole ones.
            groups: the first diagonal, a sum of two frequencies, of each group of channels that is coded at once,
                rising from 0; by default `lapped.DIAGONALS`.
            mean_phases: order in which the first group's positions are coded; see `layout`.
            phases: order of all other groups' positions.
            reach: how far the first group looks for neighbours, in positions.
            name: the model's.
        """
        lapped.check_options(
            {
                "stride": stride, "coefficients": coefficients, "hidden": hidden, "blocks": blocks, "ranks": ranks,
                "groups": groups, "mean_phases": mean_phases, "phases": phases, "reach": reach,
            }
        )  # fmt: skip
        shape = Item(networks.shape_of(input_shape)).shape
        betas = _prices(beta)
        if shape[0] is not None:
            raise InputError(f"expected (None, None, channels), as the networks take any size, found {shape}")
        if betas[-1] == 0:
            raise InputError("expected a beta > 0, found 0")
        networks.require_supported_keras()
        coefficients = coefficients or (min(64, stride**2), min(16, stride**2))
        frequencies = lapped.Frequencies(stride, shape[2], coefficients, tuple(groups or lapped.DIAGONALS))
        unit = lapped.unit_of(betas[-1])
        prior = ContextPrior(
            Layout(frequencies.groups, mean_phases, phases, reach),
            qualities=len(betas),
            kinds=frequencies.kinds,
            first_scale=lapped.FIRST_SCALE_LEVELS / unit,
            name="prior",
        )
        encoder = lapped.encoder(frequencies, hidden=hidden[0], unit=unit)
        decoder = lapped.decoder(
            frequencies, hidden=hidden[1], blocks=blocks, ranks=ranks, unit=unit, qualities=len(betas)
        )
        seen = lapped.reach_of(blocks)
        return cls(encoder, decoder, beta=beta, prior=prior, stride=stride, reach=seen, name=name)

    # === What a codec is made of ===

    @property
    def latent_network(self) -> keras.Model:
        return self.encoder

    @property
    def has_rate(self) -> bool:
        return self.prior is not None

    @property
    def betas(self) -> tuple[float, ...]:
        return tuple(float(self.beta * relative) for relative in self._relative)

    @property
    def steps(self) -> Float32 | None:
        if self.prior is None:
            return None
        if self.qualities == 1:
            return np.ones((1, self.latent_shape[-1]), np.float32)
        return np.exp(np.asarray(ops.convert_to_numpy(self.log_steps), np.float32))

    def draw_noise(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.prior is None or self.qualities > 1 or self.item.any_size or isinstance(self.prior, ContextPrior):
            raise InputError(
                "expected a model with a posterior to sample, found an AutoEncoder of beta=0, of several qualities or "
                "of items of any size; give it one beta > 0 and items of one shape"
            )
        return sampling.uniform(np.ones(self.latent_shape), seed)

    # === The objective ===

    def objective(self, images: Any, targets: Any, training: bool) -> Terms:
        latent = self.encoder(images, training=training)
        quality = self._assigned(latent, training) if self.qualities > 1 else None
        if self.prior is None:
            rate = ops.zeros_like(latent)
        else:
            latent = ops.cast(latent, "float32")
            step = None
            if quality is not None:
                aside = (-1, *[1] * (len(self.latent_shape) - 1), self.latent_shape[-1])
                step = ops.reshape(ops.take(ops.exp(self.log_steps), quality, axis=0), aside)
            scaled = latent if step is None else latent / step
            latent, rate = self.prior.transmit(scaled, step, quality, self.noise, training)
            latent = latent if step is None else latent * step
        pixels = self.decode(latent, quality, training)
        rate = ops.cast(sum_per_example(rate), "float32")
        return Terms(self.distortion_function(targets, pixels), rate, pixels, quality)

    def _assigned(self, batch: Any, training: bool) -> Any:
        """The quality, from 0, of each example of a batch: int32 [N], in equal blocks.

        In training the first block's quality moves on from step to step, so that the next batch has those that a small
        one left out. Blocks are those of the whole batch, of which a replica may have a part.
        """
        count = ops.shape(batch)[0]
        first, examples = place(count)
        quality = (ops.arange(count, dtype="int32") + first) * self.qualities // examples
        if training:
            quality = (quality + ops.cast(self.turn, "int32")) % self.qualities
            self.turn.assign((self.turn + 1) % self.qualities)
        return quality

    def loss_of(self, terms: Terms) -> Any:
        if terms.quality is None:
            return super().loss_of(terms)
        price = self.beta_variable * ops.take(self._relative, terms.quality)
        return ops.take(self._weights, terms.quality) * (terms.distortion + price * terms.rate)

    # === Config ===

    def get_config(self) -> dict[str, Any]:
        prior = None if self._own_prior else keras.saving.serialize_keras_object(self.prior)
        beta = self.initial_beta if self.qualities == 1 else list(self._initial_betas)
        return {**super().get_config(), "beta": beta, "components": self.components, "prior": prior}


def _prices(beta: Prices) -> tuple[float, ...]:
    """The prices as a tuple; raises `InputError` unless they are one >= 0, or several that fall and stay above 0."""
    try:
        betas = tuple(float(price) for price in np.atleast_1d(np.asarray(beta, np.float64)))
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a beta as a number, or several, found {beta!r}") from error
    if len(betas) == 1:
        if not (math.isfinite(betas[0]) and betas[0] >= 0):
            raise InputError(f"expected a finite beta >= 0, found {betas[0]}")
        return betas
    falling = all(a > b for a, b in pairwise(betas))
    if not (betas and falling and math.isfinite(betas[0]) and betas[-1] > 0):
        raise InputError(f"expected betas above 0, from the largest to the smallest, found {list(betas)}")
    return betas
