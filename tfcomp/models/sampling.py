"""Samples of a posterior that cost the divergence and are the same on every machine: subtractive dither.

Sender and receiver share one random number ``u``, uniform on [-1/2, 1/2). The sender transmits an integer ``q``, the
receiver forms ``z``:

    offset = u * width        q = round((mean - offset) / width)        z = q * width + offset

            z      the only point of this lattice within width / 2 of the mean
    --|-----x-----|-----------|-----------|--    lattice: multiples of width, moved by offset
         |-----mean-----|

Whatever the mean, ``z - mean`` is uniform on [-width/2, width/2] over the draws of ``u`` (Schuchman 1964; as a way to
communicate a sample: Agustsson and Theis 2020, "Universally Quantized Neural Compression", section 3).

A Gaussian is a mixture of uniforms: if ``N(0, sigma^2)`` is to be ``U(-width/2, width/2)`` with a random width, the
density ``f`` of ``a = width / 2`` must satisfy ``phi(x) = integral_{|x|}^inf f(a) / (2 a) da``; differentiated,
``f(a) = -2 a phi'(a) = 2 a^2 phi(a) / sigma^2``, the Maxwell density: ``width = 2 * sigma * V`` where ``V`` has the chi
distribution of three degrees of freedom. Drawing the width first, from shared randomness too, gives exact Gaussian
samples (the direct layered quantizer of Hegazy and Li 2022, "Randomized Quantization with Exact Error Distribution").

The price. Given width and dither, ``q`` is coded by a table of its own, ``P(q) = P(mean within width / 2 of z)``. For a
mean that varies over many widths, this costs ``h(mean) - E[log2 width]`` bits, against a divergence of
``h(mean) - log2(sigma * sqrt(2 pi e))``: no gap for the uniform posterior, and 0.521 bit for the Gaussian, as
``E[log2 V] = (psi(3/2) + ln 2) / (2 ln 2) = 0.526``. A table averaged over the dither would cost more where a dimension
carries little: there ``q`` is nearly known from ``u``.

Invariants:

- Every draw is a function of the integers (seed, position) by `tfcomp.words`, a 32-bit hash. A codec stores the drawn
  steps and offsets, so that no runtime computes them anew.
- A step has 12 significant bits: ``q * step`` is exact in float32 for ``|q| <= 2**12``, and ``q * step + offset`` is
  the same number whether a runtime fuses the two operations or not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfcomp.words import words

Float32 = NDArray[np.float32]

STEP_BITS = 12
GAUSSIAN_GAP_BITS = 0.5208
"""Cost of the layered quantizer above the divergence for each informative dimension, at high rate; see above."""


def _unit(seed: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """float64 [*shape]: strictly between 0 and 1, the centres of 2**24 equal intervals."""
    drawn = words(seed, stream, int(np.prod(shape))) >> np.uint32(8)
    return ((drawn + 0.5) / 2**24).reshape(shape)


def uniform(width: NDArray[np.floating], seed: int) -> tuple[Float32, Float32]:
    """Steps and offsets for one sample of ``U(mean - width / 2, mean + width / 2)`` at each position.

    Args:
        width: float [*latent_shape], positive.
        seed: which sample; 0 to 2**32 - 1.

    Returns:
        ``step`` and ``offset``, float32 [*latent_shape]; see the module's docstring.
    """
    fraction, exponent = np.frexp(np.asarray(width, np.float64))
    step = np.ldexp(np.rint(fraction * 2**STEP_BITS) / 2**STEP_BITS, exponent).astype(np.float32)
    return step, ((_unit(seed, 0, step.shape) - 0.5) * step).astype(np.float32)


def gaussian(sigma: NDArray[np.floating], seed: int) -> tuple[Float32, Float32]:
    """Steps and offsets for one sample of ``N(mean, sigma^2)`` at each position.

    Args:
        sigma: float [*latent_shape], standard deviations, positive.
        seed: which sample; 0 to 2**32 - 1.

    Returns:
        ``step`` and ``offset``, float32 [*latent_shape]; see the module's docstring.
    """
    a, b, angle = (_unit(seed, stream, np.shape(sigma)) for stream in (1, 2, 3))
    # The squares of three normal variables: two have the sum -2 ln a, the third is one of a Box-Muller pair.
    chi = np.sqrt(-2 * np.log(a) - 2 * np.log(b) * np.square(np.cos(2 * np.pi * angle)))
    return uniform(2 * np.asarray(sigma, np.float64) * chi, seed)
