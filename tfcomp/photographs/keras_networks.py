"""The networks of photographs in TensorFlow: what is converted for LiteRT, and what an exported graph has inside."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcomp.models.lapped import RANKS, STEPS, Analysis, Synthesis
from tfcomp.photographs import old_layout as layout
from tfcomp.photographs.codec import ANALYSIS, SYNTHESIS, WEIGHTS, Float32
from tfcomp.photographs.old_layout import CHANNELS


class KerasNetworks:
    """The trained networks, as `codec.Networks`.

    Their weights are rounded to float16, as which the package carries them.

    Args:
        analysis, synthesis: built; their weights are rounded in place.

    Attributes:
        networks: the two by name.
        graphs: tf.functions, by the names of the ``.tflite`` files that they become.
    """

    def __init__(self, analysis: Analysis, synthesis: Synthesis) -> None:
        self.networks: dict[str, keras.Model] = {"analysis": analysis, "synthesis": synthesis}
        for network in self.networks.values():
            network.set_weights([np.float32(np.float16(w)) for w in network.get_weights()])

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, "image")])
        def analyse(image: Any) -> dict[str, Any]:
            blocks = tf.nn.space_to_depth(tf.cast(image, tf.float32) - 127.5, layout.STRIDE)
            return {"latent": analysis(blocks)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([1, None, None, CHANNELS], tf.float32, "latent"),
                tf.TensorSpec([1, 1, 1, CHANNELS], tf.float32, "steps"),
                tf.TensorSpec([1, len(STEPS)], tf.float32, "quality"),
            ]
        )
        def synthesise(latent: Any, steps: Any, quality: Any) -> dict[str, Any]:
            pixels = tf.nn.depth_to_space(synthesis(latent, steps, quality), layout.STRIDE)
            return {"image": tf.cast(tf.round(tf.clip_by_value(pixels + 127.5, 0.0, 255.0)), tf.uint8)}

        self.graphs = {ANALYSIS: analyse, SYNTHESIS: synthesise}

    def analyse(self, image: NDArray[np.uint8]) -> Float32:
        return np.asarray(self.graphs[ANALYSIS](tf.constant(image[None]))["latent"][0])

    def synthesise(self, latent: Float32, steps: Float32, quality: Float32) -> NDArray[np.uint8]:
        found = self.graphs[SYNTHESIS](latent[None], steps[None, None, None], quality[None])
        return np.asarray(found["image"][0])

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates of each network, per pixel: every weight of a convolution is used once a position."""
        return {
            name: sum(float(np.prod(w.shape)) for w in network.get_weights() if w.ndim == 4) / layout.STRIDE**2
            for name, network in self.networks.items()
        }

    def write(self, path: Path) -> None:
        """The weights as an ``.npz``, for `bundled` and for whoever trains on from them."""
        arrays = {
            f"{name}_{i:02}": np.float16(weights)
            for name, network in self.networks.items()
            for i, weights in enumerate(network.get_weights())
        }
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def bundled(cls) -> KerasNetworks:
        """Those that come with the package."""
        analysis, synthesis = Analysis(), Synthesis(RANKS).built_on_zeros()
        analysis(np.zeros((1, 1, 1, 3 * layout.STRIDE**2), np.float32))
        path = resources.files("tfcomp.photographs") / "weights" / WEIGHTS
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name, network in (("analysis", analysis), ("synthesis", synthesis)):
                network.set_weights([arrays[key] for key in sorted(arrays.files) if key.startswith(name)])
        return cls(analysis, synthesis)
