"""What training with one of Keras's options has to give: what the plain run gives, within stated bounds.

`difference` is run by tests under TensorFlow; ``python training_options.py`` runs everything, under any backend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import many_devices

MODELS = many_devices.MODELS
BOUNDS = {
    "jit_compile": (1e-5, 1e-4),
    "steps_per_execution": (1e-5, 1e-4),
    "accumulation": (1e-5, 1e-4),
    "mixed_float16": (1e-3, 0.1),
    "mixed_bfloat16": (5e-3, 0.2),
}
"""Largest relative difference of an epoch's loss, and of the weights in multiples of how far training moved them."""
SCALE = 64.0
"""Of a loss in float16. Keras begins at 2**15, and passes over the first steps of a sum over pixels until it has halved
that often enough."""


@contextmanager
def _policy(name: str) -> Iterator[None]:
    keras.mixed_precision.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


@contextmanager
def _noise(alike: bool) -> Iterator[None]:
    with patch.multiple(keras.random, uniform=keras.random.uniform, normal=keras.random.normal):
        many_devices.noise_by_place(alike)
        yield


def difference(model_name: str, option: str) -> tuple[float, float]:
    """Of the losses and of the weights, as `BOUNDS` has them."""
    make = MODELS[model_name]
    plain = make()
    policy = option if option.startswith("mixed") else "float32"
    with _policy(policy):
        model = make()
    if model_name != "own pair":  # whose networks are what their user made them
        assert {output.dtype for output in (*model.encoder.outputs, *model.decoder.outputs)} == {"float32"}
    model.set_weights(plain.get_weights())
    start = _flat(plain)
    images = many_devices.images_for(plain, 24)
    if option == "accumulation":  # of two equal steps; as all examples are alike, whose turn it is does not matter
        images = np.repeat(images[:1], 24, axis=0)
    compiled: dict[str, Any] = {"jit_compile": option == "jit_compile"}
    if option == "steps_per_execution":
        compiled["steps_per_execution"] = 3
    repeated = 2 if option == "accumulation" else 1
    plain.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    optimizer = keras.optimizers.Adam(1e-3, gradient_accumulation_steps=repeated if repeated > 1 else None)
    if option == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=SCALE)
    model.compile(optimizer, **compiled)
    fitting: Any = {"batch_size": 12, "epochs": 4, "shuffle": False, "verbose": 0}
    with _noise(option == "accumulation"):
        expected = np.array(plain.fit(images, **fitting).history["loss"])
        found = np.array(model.fit(np.concatenate([images] * repeated), **fitting).history["loss"])
    moved = np.linalg.norm(_flat(plain) - start)
    return float(np.max(np.abs(found / expected - 1))), float(np.linalg.norm(_flat(model) - _flat(plain)) / moved)


def _flat(model: Any) -> Any:
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(weight)) for weight in model.trainable_variables])


def main() -> None:
    beyond = []
    for name in sys.argv[1:] or MODELS:
        for option, bounds in BOUNDS.items():
            found = difference(name, option)
            sys.stdout.write(f"{name:20}{option:22}loss {found[0]:.1e}  weights {found[1]:.1e}\n")
            if not all(a <= b for a, b in zip(found, bounds, strict=True)):
                beyond.append((name, option, found))
    assert not beyond, beyond


if __name__ == "__main__":
    main()
