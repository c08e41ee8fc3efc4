"""Contracts of models as Keras models: signatures, subclasses, files, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import subprocess
import sys
import textwrap
import zipfile
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


@pytest.mark.further
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


def test_what_has_no_effect_is_refused_by_name() -> None:
    model = small()
    for option in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        with pytest.raises(InputError, match=f"no loss and no metrics in compile, .* found {option};"):
            model.compile("adam", **{option: ["mae"]})
    with pytest.raises(InputError, match="expected an optimizer in compile, found None"):
        model.compile(None)
    model.compile("adam")
    for use in (model.fit, model.train_on_batch):
        with pytest.raises(InputError, match="expected no class_weight"):
            use(images(), class_weight={0: 1.0})


OPTIMIZERS: dict[str, dict[str, object]] = {
    "weight_decay": {"weight_decay": 0.1},
    "moving average": {"use_ema": True, "ema_overwrite_frequency": 1, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipnorm": {"clipnorm": 1e-3},
    "clipvalue": {"clipvalue": 1e-4},
    "global_clipnorm": {"global_clipnorm": 1e-3},
    "loss_scale_factor": {"loss_scale_factor": 64.0},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_of_optimizers_do_what_they_do_in_keras(name: str) -> None:
    """The same two steps, by hand and by Keras's own rule, from gradients of the stated objective."""
    x, options = images(8), {"learning_rate": 0.01, **OPTIMIZERS[name]}
    model, twin = small(), small()
    model.compile(optimizer=keras.optimizers.SGD(**options), run_eagerly=True)
    optimizer = keras.optimizers.SGD(**options)
    optimizer.build(twin.trainable_variables)
    for _ in range(2):
        model.train_on_batch(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(twin.objective(x, x.astype(np.float32) / 255, True).distortion)
            loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, [v.value for v in twin.trainable_variables])
        optimizer.apply(gradients, twin.trainable_variables)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert any(np.any(a != b) for a, b in zip(model.get_weights(), small().get_weights(), strict=True))


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"steps_per_execution": 2}, {"jit_compile": True}, {"auto_scale_loss": False}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_compile_change_no_result(options: dict[str, object]) -> None:
    model, plain = small(), small()
    model.compile(keras.optimizers.SGD(1e-3), **options)
    plain.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    found, expected = (m.fit(images(), batch_size=8, shuffle=False, verbose=0).history for m in (model, plain))
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4)


def test_a_loss_is_scaled_for_16_bits_and_the_steps_are_those_without() -> None:
    model, plain = small(), small()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=64.0), run_eagerly=True)
    plain.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    model.train_on_batch(images())
    plain.train_on_batch(images())
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_sample_weight_weighs_loss_gradient_and_metrics() -> None:
    x, weight = images(8), np.array([0, 0, 0, 1, 3, 0, 0, 0], np.float32)
    model = small(beta=0.5)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    found = model.evaluate(x, sample_weight=weight, verbose=0, return_dict=True)
    repeated = model.evaluate(x[[3, 4, 4, 4]], verbose=0, return_dict=True)
    assert found == pytest.approx(repeated, rel=1e-4)
    assert found["loss"] == pytest.approx(found["distortion"] + 0.5 * np.log(2) * found["rate_bits"], rel=1e-5)
    before = model.get_weights()
    data = tf.data.Dataset.from_tensors((x, x, np.zeros(8)))
    for use in (
        lambda: model.fit(x, sample_weight=np.zeros(8), verbose=0),
        lambda: model.fit(data, verbose=0),
        lambda: model.train_on_batch(x, sample_weight=np.zeros(8)),
    ):
        use()
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    plain = small()
    plain.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    weighted = small()
    weighted.compile(keras.optimizers.SGD(2e-3), run_eagerly=True)
    plain.train_on_batch(x[3:5])
    weighted.train_on_batch(x[2:6], sample_weight=np.array([0.0, 1.0, 1.0, 0.0]))
    for a, b in zip(weighted.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(InputError, match=r"a sample weight for each image, found weights of shape \(8, 8, 6, 1\)"):
        model.train_on_batch(x, sample_weight=np.ones((8, *SHAPE)))


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_callbacks_know_which_way_a_metric_gets_better(prefix: str) -> None:
    model = small()
    model.compile("sgd")
    callbacks = [
        (
            keras.callbacks.EarlyStopping(prefix + name),
            keras.callbacks.ReduceLROnPlateau(prefix + name),
            keras.callbacks.ModelCheckpoint("unused.keras", prefix + name, save_best_only=True, save_freq=10**9),
        )
        for name in ("psnr_db", "loss", "distortion", "rate_bits")
    ]
    model.fit(images(), validation_data=images(8), verbose=0, callbacks=[c for row in callbacks for c in row])
    for row, better in zip(callbacks, ("greater", "less", "less", "less"), strict=True):
        for callback in row:
            if callback.monitor_op is None:
                callback._set_monitor_op()
            assert callback.monitor_op.__name__ == better, callback.monitor
    chosen = keras.callbacks.EarlyStopping("val_psnr_db", mode="min")
    model.fit(images(), validation_data=images(8), verbose=0, callbacks=chosen)
    assert chosen.mode == "min"


def test_what_holds_no_images_is_refused_in_a_line() -> None:
    model, x = small(), images(8)
    model.compile("sgd")
    labels = np.zeros(8, np.int64)
    pairs = tf.data.Dataset.from_tensors((x, labels))
    told = r"targets .*of pairs \(image, label\) take the images: data.map\(lambda image, label: image\)"
    for use, message in (
        (lambda: model.fit(pairs, verbose=0), told),
        (lambda: model.fit(x, labels, verbose=0), told),
        (lambda: model.fit(x, np.zeros((8, 10), np.float32), verbose=0), told),
        (lambda: model.fit(x, labels.astype(np.uint8), verbose=0), told),
        (lambda: model.fit(x, validation_data=(x, labels), verbose=0), told),
        (lambda: model.fit((pair for pair in [(x, labels)]), shuffle=False, verbose=0), told),
        (lambda: model.evaluate(pairs, verbose=0), told),
        (lambda: model.train_on_batch(x, labels), told),
        (lambda: model.fit((x, labels), verbose=0), "found tuple"),
        (lambda: model.fit(list(x), verbose=0), "found list"),
        (lambda: model.fit("photos/", verbose=0), "found str"),
        (lambda: model.fit(verbose=0), "found nothing"),
        (lambda: model.fit(x[:0], verbose=0), "found an array of none"),
        (lambda: model.fit(x, validation_data=x / 255, verbose=0), "found float64"),
        (lambda: model.predict([x], verbose=0), "found list"),
        (lambda: model(x[0]), r"found \(8, 6, 1\)"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            use()
        assert "\n" not in str(raised.value)
    assert model.predict(pairs, verbose=0).shape == x.shape, "predict has no use for labels"


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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "bool"])
def test_images_that_are_not_uint8_are_never_reconstructed(dtype: str) -> None:
    model, scaled = small(), (images(2) / 255).astype(dtype)
    calls = (model, model.predict, model.predict_on_batch, model.reconstruct, model.latents)
    data = tf.data.Dataset.from_tensors(scaled)
    for call in (*calls, lambda x: model(tf.constant(x)), lambda x: model.predict(data)):
        with pytest.raises(InputError, match=rf"uint8.*found {dtype}") as raised:
            call(scaled)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="uint8.*found float32"):
        model(keras.Input(SHAPE))


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
    (tmp_path / "empty.keras").write_bytes(b"")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("a", "b")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    for name, message in (
        ("none.keras", "saved model of tfcomp"),
        ("wrong.keras", "found a file that is no Keras archive"),
        ("empty.keras", "found a file that is no Keras archive"),
        ("image.png", "found a file that is no Keras archive"),
        ("zip.keras", "saved model of tfcomp .*config.json"),
        ("other.keras", "Sequential"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match="saved model of tfcomp at nothing"):
        load_model("nothing")
    for wrong in (None, 5):
        with pytest.raises(InputError, match="expected the path or the name of a saved model"):
            load_model(wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("stride", "8"), ("stride", 8.0), ("stride", 0), ("coefficients", 3), ("coefficients", ("a", 3)),
        ("hidden", 5), ("hidden", (5,)), ("blocks", "x"), ("blocks", -1), ("ranks", 3), ("ranks", (1,)),
        ("groups", 5), ("groups", ("a",)), ("groups", (1, 2)), ("mean_phases", 3), ("phases", "ab"),
        ("phases", ((1,),)), ("reach", "a"), ("reach", -1), ("reach", True), ("beta", "x"), ("beta", None),
        ("input_shape", (None, None, "3")), ("input_shape", 3), ("input_shape", "abc"), ("input_shape", None),
    ],
)  # fmt: skip
def test_wrong_options_of_lapped_are_one_clear_line(option: str, value: object) -> None:
    with pytest.raises(InputError, match="^expected .*found") as raised:
        AutoEncoder.lapped(**{"input_shape": (None, None, 3), option: value})
    assert "\n" not in str(raised.value)


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
