"""The networks of an artifact's SavedModels in TensorFlow, in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfcomp.errors import BitstreamError, InputError, everything_as, optional_import
from tfcomp.items import Images
from tfcomp.runtimes.transform import Float32

LATENT, SLOPE = "latent", "slope"
CANNOT_RUN = "expected a SavedModel that can run such an item"


class SavedModelTransform:
    """The signatures ``latent`` of two SavedModels, and ``slope`` of the encoder's where it has one.

    Args:
        encoder, decoder: the folders of the SavedModels.

    Raises:
        MissingDependencyError: without TensorFlow.
        BitstreamError: if a folder holds no such SavedModel.
    """

    def __init__(self, encoder: Path, decoder: Path) -> None:
        with optional_import():
            import tensorflow as tf
        self._folders = encoder, decoder
        with everything_as(BitstreamError, f"expected SavedModels with a signature {LATENT!r}"):
            # Signatures do not keep their variables alive; the loaded models do.
            self._models = [tf.saved_model.load(str(folder)) for folder in (encoder, decoder)]
            self._analysis, self._synthesis = (model.signatures[LATENT] for model in self._models)
            self._slope = self._models[0].signatures.get(SLOPE)
        self._constant, self._fill = tf.constant, tf.fill

    def __reduce__(self) -> tuple[Any, ...]:
        return SavedModelTransform, self._folders

    @property
    def item_shape(self) -> tuple[int | None, ...]:
        """(height, width, channels) of the items, None where free."""
        return tuple(self._analysis.structured_input_signature[1]["image"].shape[1:])

    @property
    def refines(self) -> bool:
        """Whether there is a slope."""
        return self._slope is not None

    def _quality_input(self, function: Any, count: int, quality: int) -> dict[str, Any]:
        named = function.structured_input_signature[1]
        return {"quality": self._fill([count], quality)} if "quality" in named else {}

    def analyse(self, items: Images) -> Float32:
        with everything_as(InputError, CANNOT_RUN):
            return np.asarray(self._analysis(image=self._constant(items))["latent"])

    def synthesise(self, latents: Float32, quality: int) -> Images:
        with everything_as(InputError, CANNOT_RUN):
            quality_input = self._quality_input(self._synthesis, len(latents), quality)
            return np.asarray(self._synthesis(latent=self._constant(latents), **quality_input)["image"])

    def slope(self, items: Images, latents: Float32, quality: int) -> tuple[Float32, Float32]:
        if self._slope is None:
            raise InputError("expected effort=0 with an artifact whose encoder has no gradient")
        with everything_as(InputError, CANNOT_RUN):
            quality_input = self._quality_input(self._slope, len(items), quality)
            outputs = self._slope(image=self._constant(items), latent=self._constant(latents), **quality_input)
            return np.asarray(outputs["error"]), np.asarray(outputs["gradient"])
