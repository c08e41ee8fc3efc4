"""Contracts of models as Keras models: signatures, subclasses, files, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcomp import bundled
from tfcomp.errors import InputError
from tfcomp.models import autoencoder, callbacks, context_prior, lapped, objective, priors, vae
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.loading import load_model
from tfcomp.models.vae import VAE

SHAPE = (8, 6, 1)


def images(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def small(**options: object) -> AutoEncoder:
    keras.utils.set_random_seed(1)
    return AutoEncoder.dense(SHAPE, 3, hidden=(16,), **options)


def test_plain_keras_loads_saved_models_in_a_new_process(tmp_path: Path) -> None:
    """In safe mode, whether Keras is imported before the classes are registered or after."""
    x = images()
    np.save(tmp_path / "x.npy", x)
    models = {"rate": small(beta=0.5), "prices": small(beta=(0.5, 0.1)), "vae": VAE.dense(SHAPE, 3, hidden=(16,))}
    for name, model in models.items():
        model.compile(optimizer="adam")
        model.train_on_batch(x)
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", model.predict_on_batch(x))
    script = f"""
        import sys
        import numpy as np
        from tfcomp.models import registration
        registration.register_with_keras()
        assert "keras" not in sys.modules
        import keras
        x = np.load("x.npy")
        for name in {list(models)}:
            model = keras.saving.load_model(f"{{name}}.keras")
            np.testing.assert_allclose(model.predict_on_batch(x), np.load(f"{{name}}.npy"), atol=1e-6)
            model.train_on_batch(x)
        registration.register_with_keras()
        print("loaded")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("loaded")


def test_fit_takes_its_options_by_position_as_keras_does() -> None:
    model = small()
    model.compile(optimizer="sgd")
    seen: list[int] = []
    step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    history = model.fit(images(10), None, 4, 3, 0, [step], 0.2, None, True, None, None, 1)
    assert seen == [0, 1] * 2
    assert "val_loss" in history.history
    for weights in ({"class_weight": {0: 1.0}}, {"sample_weight": np.zeros(10)}):
        with pytest.raises(InputError, match="class or sample weights"):
            model.fit(images(10), verbose=0, **weights)


@pytest.mark.parametrize("option", ["loss", "metrics", "weighted_metrics"])
def test_what_has_no_effect_in_compile_is_refused(option: str) -> None:
    model = small()
    model.compile(optimizer="adam", **{option: ["mae"]})
    for use in (model.fit, model.evaluate):
        with pytest.raises(InputError, match="expected no loss and no metrics in compile"):
            use(images(), verbose=0)


def test_a_subclass_may_add_layers_and_variables_after_the_constructor() -> None:
    class Own(AutoEncoder):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            self.names = ["kept"]
            self.extra = keras.layers.Dense(3)
            self.counter = self.add_weight(shape=(), name="counter", trainable=False)

    model = Own.dense(SHAPE, 3, hidden=(4,), beta=0.5)
    model.more = keras.metrics.Mean()
    model.compile(optimizer="sgd")
    model.fit(images(), verbose=0)


def test_keras_exports_a_model_without_being_told_its_signature(tmp_path: Path) -> None:
    model = small(beta=0.5)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(images(2)), model.predict(images(2), verbose=0), atol=1e-6)


def test_images_that_are_not_uint8_are_never_reconstructed() -> None:
    model, scaled = small(), images(2).astype("float32") / 255
    for call in (model, model.predict, model.reconstruct):
        with pytest.raises(InputError, match=r"uint8.*found float32"):
            call(scaled)


def test_models_are_loaded_from_files_artifacts_and_what_comes_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(beta=0.5)
    folder = tmp_path / "bundled" / "glyphs"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"expected model.keras in the artifact .* with_model=True"):
        load_model(folder)
    model.save(folder / "model.keras")
    monkeypatch.setattr(bundled, "_ROOT", folder.parent)
    for path in (folder / "model.keras", folder, "glyphs"):
        assert np.array_equal(load_model(path).latents(images(4)), model.latents(images(4)))
    (tmp_path / "wrong.keras").write_bytes(b"no model")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    for name, message in (
        ("none.keras", "saved model of tfcomp"),
        ("wrong.keras", "saved"),
        ("other.keras", "Sequential"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match="saved model of tfcomp at nothing"):
        load_model("nothing")


# The package's modules, whose examples are those of the public classes.
EXAMPLES = [autoencoder, callbacks, context_prior, lapped, objective, priors, vae]


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module: ModuleType) -> None:
    done = doctest.testmod(module, raise_on_error=False)
    assert done.attempted > 0
    assert done.failed == 0


def test_every_public_class_begins_with_an_example() -> None:
    for module in EXAMPLES:
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_"):
                assert ">>>" in (value.__doc__ or "") or getattr(value, "_is_protocol", False), name
