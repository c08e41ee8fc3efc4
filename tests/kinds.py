"""One codec of each kind, trained for moments, with its artifact: what the contracts of all codecs run over."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
from numpy.typing import NDArray

import tfcomp
from tfcomp.freezing import context_fit, posterior_blocks
from tfcomp.layout import CHESSBOARD

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("dense", "conv_qualities", "vae_sample", "spatial_any", "lapped", "own_any")
ANY_SIZE = ("spatial_any", "lapped", "own_any")
SIZES = [(1, 1), (1, 60), (33, 8), (40, 50), (97, 61), (300, 301)]


@dataclass
class Kind:
    """A frozen codec, its artifact, and items that it was not fitted to."""

    codec: tfcomp.Codec
    folder: Path
    items: Any
    loaded: dict[str, tfcomp.Codec] = field(default_factory=dict)

    def load(self, runtime: str) -> tfcomp.Codec:
        """The codec of the artifact, loaded once."""
        if runtime not in self.loaded:
            self.loaded[runtime] = tfcomp.Codec.load(self.folder, runtime=runtime)
        return self.loaded[runtime]


def scene(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """An image of slopes, waves, edges and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = []
    for _ in range(channels):
        wave = np.sin(x / rng.uniform(4, 30) + y / rng.uniform(4, 30) + rng.uniform(0, 6))
        edge = (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1) > rng.uniform(0, max(height, width) / 2)) * 60
        planes.append(100 + 50 * wave + edge + rng.normal(0, 3, (height, width)))
    mixed = np.stack(planes, -1) * 0.5 + planes[0][..., None] * 0.5
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _trained(model: Any, items: NDArray[np.uint8], steps: int = 6, batch: int = 8) -> Any:
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(tfcomp.datasets.batches(items, batch, shuffle=True).repeat(), steps_per_epoch=steps, epochs=1, verbose=0)
    return model


def own_pair() -> tuple[keras.Model, keras.Model]:
    """A user's own convolutional networks, of stride 4."""
    image = keras.Input((None, None, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(12, 5, strides=2, padding="same", activation="relu")(x)
    encoder = keras.Model(image, keras.layers.Conv2D(6, 5, strides=2, padding="same")(x))
    latent = keras.Input((None, None, 6))
    x = keras.layers.Conv2DTranspose(12, 5, strides=2, padding="same", activation="relu")(latent)
    decoder = keras.Model(latent, keras.layers.Conv2DTranspose(3, 5, strides=2, padding="same")(x))
    return encoder, decoder


@cache
def crops() -> NDArray[np.uint8]:
    return np.stack([scene(64, 64, seed=seed) for seed in range(24)])


def _model(name: str) -> tuple[Any, Any]:
    """A trained model and its calibration."""
    keras.utils.set_random_seed(5)
    glyphs = tfcomp.datasets.load_arrays("glyphs")[0][:600]
    if name == "dense":
        model = tfcomp.AutoEncoder.dense((28, 28, 1), latent_dim=8, hidden=(32,), beta=0.05)
        return _trained(model, glyphs, 40, 32), glyphs[:300]
    if name == "conv_qualities":
        model = tfcomp.AutoEncoder.conv((28, 28, 1), 8, filters=(8,), hidden=32, beta=(2.0, 0.2, 0.02))
        return _trained(model, glyphs, 80, 32), glyphs[:300]
    if name == "vae_sample":
        model = tfcomp.VAE.dense((28, 28, 1), 6, hidden=(32,), beta=3.0)
        return _trained(model, glyphs, 80, 32), glyphs[:300]
    calibration = [scene(120, 150, seed=seed) for seed in range(40, 44)]
    if name == "spatial_any":
        model = tfcomp.AutoEncoder.spatial((None, None, 3), 4, filters=(8, 8), beta=0.002)
    elif name == "lapped":
        model = tfcomp.AutoEncoder.lapped(
            (None, None, 3), beta=(0.02, 0.002), stride=4, coefficients=(8, 3), hidden=(12, 16), blocks=1, ranks=(8, 6),
            groups=(0, 1), mean_phases=CHESSBOARD,
        )  # fmt: skip
    else:
        model = tfcomp.AutoEncoder(*own_pair(), beta=0.004)
    return _trained(model, crops()), calibration


def make(name: str, folder: Path) -> Kind:
    """The kind of this name, exported into a folder."""
    model, calibration = _model(name)
    few = patch.multiple(posterior_blocks, BLOCK_BITS=5.0, MARGIN=2)  # few candidates: searches are quick
    with few, patch.object(context_fit, "TURNS", 20):
        codec = tfcomp.Codec.freeze(model, calibration, latents="sample" if name == "vae_sample" else "mean")
    codec.export(folder, with_model=name == "lapped")
    if codec.item.any_size:
        return Kind(codec, folder, [scene(h, w, seed=7) for h, w in SIZES])
    return Kind(codec, folder, tfcomp.datasets.load_arrays("glyphs")[1][:30])


# === Comparisons ===


def off(one: Any, other: Any) -> int:
    """By how many levels lists of images differ at most."""
    worst = 0
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.uint8
        worst = max(worst, int(np.abs(a.astype(int) - b).max()))
    return worst


# === Payloads by whole graphs ===


def interpreter_of(content: bytes) -> Any:
    """The signature of a ``.tflite`` as a function."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    runner.owner = interpreter  # a runner does not keep its interpreter
    return runner


class WholeLiteRT:
    """The example for Python, which needs no tfcomp."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("litert_codec", ROOT / "export" / "python" / "litert_codec.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._codec = module.Codec(folder)

    def compress(self, items: Any, quality: int) -> list[bytes]:
        return [self._codec.compress(item, quality) for item in items]

    def decompress(self, payloads: list[bytes], quality: int) -> list[NDArray[np.uint8]]:
        return [self._codec.decompress(payload, quality) for payload in payloads]


class WholeSavedModels:
    """The signatures that a server answers."""

    def __init__(self, folder: Path, several: bool, any_size: bool) -> None:
        import tensorflow as tf

        self._tf, self._several, self._any_size = tf, several, any_size
        self._models = {name: tf.saved_model.load(str(folder / name / "1")) for name in ("encoder", "decoder")}

    def run(self, model: str, signature: str, *, quality: int | None = None, **inputs: Any) -> Any:
        """One output of a signature; the quality goes with it where it asks for one."""
        function = self._models[model].signatures[signature]
        named = function.structured_input_signature[1]
        if "quality" in named:
            rank = named["quality"].shape.rank
            count = len(next(iter(inputs.values())))
            inputs["quality"] = np.int32(quality) if rank == 0 else np.full(count, quality, np.int32)
        found = function(**{name: self._tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    def compress(self, items: Any, quality: int) -> list[bytes]:
        if self._any_size:
            each = (self.run("encoder", "serving_default", quality=quality, image=item) for item in items)
            return [bytes(found["payload_bytes"]) for found in each]
        found = self.run("encoder", "serving_default", quality=quality, image=items)["payload_bytes"]
        return [bytes(payload) for payload in found]

    def decompress(self, payloads: list[bytes], quality: int) -> list[NDArray[np.uint8]]:
        if self._any_size:
            return [self.run("decoder", "serving_default", payload_bytes=p)["image"] for p in payloads]
        found = self.run("decoder", "serving_default", quality=quality, payload_bytes=np.array(payloads, object))
        return list(found["image"])

    def integers(self, payloads: list[bytes], quality: int) -> list[NDArray[np.int32]]:
        if self._any_size:
            return [self.run("decoder", "integers", payload_bytes=p)["integers"] for p in payloads]
        found = self.run("decoder", "integers", quality=quality, payload_bytes=np.array(payloads, object))
        return list(found["integers"])
