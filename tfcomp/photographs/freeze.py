"""From the trained model to integers: the weights of the contexts, and tables counted on training photographs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.artifact import exporting
from tfcomp.coding.tables import Int32
from tfcomp.entropy import tiles as coder
from tfcomp.entropy.context import UNIT, ContextModel
from tfcomp.errors import InputError
from tfcomp.models.lapped import PRICE, RANKS, STEPS, Contexts, PhotographModel, Synthesis, laplace_bits
from tfcomp.photographs import counting
from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.codec import TABLES, WEIGHTS, PhotographCodec, to_arrays
from tfcomp.photographs.keras_networks import KerasNetworks
from tfcomp.photographs.old_layout import CHANNELS, GROUPS
from tfcomp.photographs.train import load, read

EVERY = 3
"""Of the training photographs, one in so many is counted."""
TURNS, BATCH = 100, 6
"""Of refining the contexts of a quality."""
WORTH = 1.6
"""Of error, beyond the price that the networks were trained at: chosen on BSDS500's ``val``."""

Float32 = NDArray[np.float32]


def steps(model: PhotographModel) -> Float32:
    """The quantization steps, float32 [qualities, CHANNELS], in levels of 8-bit pixels."""
    return np.exp(np.asarray(model.log_steps, np.float64)).astype(np.float32)


def prices(model: PhotographModel) -> Float32:
    """The bits that a squared step of error is worth, float32 [qualities, CHANNELS], by the synthesis's linear part."""
    energy = np.square(np.asarray(model.synthesis.linear.kernel, np.float64)).sum(axis=(0, 1, 3))
    return (WORTH * PRICE * np.square(steps(model) / np.array(STEPS)[:, None]) * energy).astype(np.float32)


def context_model(contexts: Contexts, step: Float32, quality: int) -> ContextModel:
    """The contexts of a quality as integers, with tables of Laplace densities to begin with.

    Args:
        contexts: trained.
        step: float32 [CHANNELS], the quantization steps.
        quality: from 0.
    """
    weights = []
    for kernels, squared in ((contexts.scale_roots, True), (contexts.means, False)):
        rounded = []
        for kind, (kernel, mask) in enumerate(zip(kernels, contexts.masks, strict=True)):
            own = GROUPS[0] if kind == 0 else slice(0, CHANNELS)
            outputs = np.tile(step[own].astype(np.float64), kernel.shape[-1] // (own.stop - own.start))
            value = np.asarray(kernel, np.float64) * mask
            value = np.square(value) if squared else value
            rounded.append(np.round(UNIT * value * step[own, None] / outputs).astype(np.float32))
        weights.append(tuple(rounded))
    base = np.round(UNIT * np.exp(10 * np.asarray(contexts.base, np.float64)[quality])).astype(np.int32)
    return ContextModel(base, weights[0], weights[1], counting.tables(list(counting.densities())))


def refined(contexts: Contexts, step: Float32, quality: int, latents: Sequence[Int32]) -> Contexts:
    """The contexts trained on for one quality alone, on the integers that the encoder chose, int32 [h, w, CHANNELS]."""
    made = Contexts()
    made.build()
    made.set_weights(contexts.get_weights())
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, TURNS))
    optimizer.build(made.trainable_variables)
    steps, chosen = tf.constant(step[None, None, None]), tf.one_hot([quality], len(STEPS))

    @tf.function
    def turn(latent: Any) -> None:
        with tf.GradientTape() as tape:
            mean, scale = made(latent, steps, chosen)
            bits = tf.reduce_mean(laplace_bits(latent - mean, scale))
        gradients = tape.gradient(bits, made.trainable_variables)
        optimizer.apply_gradients(zip(gradients, made.trainable_variables, strict=True))

    rng = np.random.default_rng(quality)
    side = min(min(latent.shape[:2]) for latent in latents)
    for _ in range(TURNS):
        crops = []
        for i in rng.integers(len(latents), size=BATCH):
            # From where the pattern of the phases begins anew.
            y, x = (4 * rng.integers((n - side) // 4 + 1) for n in latents[i].shape[:2])
            crops.append(latents[i][y : y + side, x : x + side])
        turn(tf.constant(np.stack(crops), tf.float32))
    return made


def narrowed(synthesis: Synthesis) -> Synthesis:
    """The synthesis with its first layer and its last as products of two, by singular values: a fifth smaller.

    On BSDS500's ``val`` it loses less than 0.01 dB at qualities 2 and 5, and 0.07 dB at quality 8.
    """
    made = Synthesis(RANKS).built_on_zeros()
    assert made.narrow_first is not None
    assert made.narrow_last is not None
    for name in ("linear", "blocks", "scales"):
        of_made, own = getattr(made, name), getattr(synthesis, name)
        for new, old in zip(of_made, own, strict=True) if isinstance(own, list) else [(of_made, own)]:
            new.set_weights(old.get_weights())
    kernel, bias = synthesis.first.get_weights()
    inputs, outputs = kernel.shape[2:]
    left, right = _factors(kernel.transpose(2, 0, 1, 3).reshape(inputs, -1), RANKS[0])
    made.narrow_first.set_weights([left[None, None]])
    made.first.set_weights([right.reshape(-1, 3, 3, outputs).transpose(1, 2, 0, 3), bias])
    kernel, bias = synthesis.last.get_weights()
    left, right = _factors(kernel.reshape(-1, kernel.shape[3]), RANKS[1])
    made.narrow_last.set_weights([left.reshape(*kernel.shape[:3], -1)])
    made.last.set_weights([right[None, None], bias])
    return made


def _factors(matrix: Float32, rank: int) -> tuple[Float32, Float32]:
    """The nearest product of two matrices of a rank; each has the square roots of the singular values."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    return (left[:, :rank] * root).astype(np.float32), (root[:, None] * right[:rank]).astype(np.float32)


def freeze(model: PhotographModel, photographs: Sequence[NDArray[np.uint8]]) -> PhotographCodec:
    """The codec of a trained model.

    Args:
        model: trained; the weights of its analysis are rounded to float16, in place.
        photographs: to count tables on and refine contexts, uint8 [H, W, 3]: of those it was trained on.
    """
    networks = KerasNetworks(model.analysis, narrowed(model.synthesis))
    exact = []
    for photograph in photographs:
        height, width = (n - n % layout.STRIDE for n in photograph.shape[:2])
        exact.append(networks.analyse(photograph[:height, :width]))
    models = []
    for quality, (step, price) in enumerate(zip(steps(model), prices(model), strict=True)):
        latents = [latent / step for latent in exact]
        first = counting.fit(context_model(model.contexts, step, quality), latents, price)
        chosen = [coder.choose(first, latent, price)[1] for latent in latents]
        contexts = refined(model.contexts, step, quality, chosen)
        models.append(counting.fit(context_model(contexts, step, quality), latents, price))
    return PhotographCodec(networks, models, steps(model), prices(model), networks.macs_per_pixel())


def write(codec: PhotographCodec, folder: Path) -> None:
    """The files that `PhotographCodec.load` reads, in a folder that exists."""
    if not isinstance(codec.networks, KerasNetworks):
        raise InputError("expected a codec from freeze, found one that was loaded")
    for name, graph in codec.networks.graphs.items():
        (folder / name).write_bytes(exporting.to_litert(graph, "float16"))
    codec.networks.write(folder / WEIGHTS)
    np.savez_compressed(folder / TABLES, allow_pickle=False, **to_arrays(codec))


def main() -> None:
    """Freezes a run of `train` into the files that come with the package."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photographs", type=Path, help="the folder that was trained on")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    codec = freeze(load(args.run), read(args.photographs / "train")[::EVERY])
    args.out.mkdir(exist_ok=True)
    write(codec, args.out)
    print(f"{args.out}: codec {codec.fingerprint.hex()}")


if __name__ == "__main__":
    main()
