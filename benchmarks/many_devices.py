"""Equal training on one device, two devices and two processes, under TensorFlow and under JAX.

    python benchmarks/many_devices.py [--models NAME ...] [--ways NAME ...]

Small models of every kind go on from the same weights, with the same batches, each way in a process of its own: one
device; two logical devices under `MirroredStrategy`; two workers under `MultiWorkerMirroredStrategy` through
`tfcomp.fit_workers`; one and two devices (`DataParallel`) under JAX. Sums are added up in other orders, and nothing
else may differ. The noise of training would: a device draws its own, and so does a backend. It is replaced by a fixed
function of an example's place in the whole batch. What is printed is, against TensorFlow on one device, the largest
relative difference of a logged loss of any epoch, on training and validation batches, and of a model's weights, in
multiples of how far training moved them (norms). What JAX trained is then frozen and exported under TensorFlow, and
loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _settings
import numpy as np
from numpy.typing import NDArray

RESULTS = _settings.RESULTS / "many_devices.json"
BATCH, EXAMPLES, LAST = 8, 26, 2
"""Of a batch, of an epoch, and of its last batch, which is smaller."""
EPOCHS = _settings.full_or(6, 2)
LOSS_BOUND, WEIGHT_BOUND = 1e-4, 1e-3
"""Largest differences; see above. A value that falls on the other side of a rounding weighs more than a sum's order."""
FIRST = "one device"
WAYS = {
    FIRST: ("tensorflow", 1),
    "two logical devices": ("tensorflow", 2),
    "two workers": ("tensorflow", 1),
    "JAX, one device": ("jax", 1),
    "JAX, two devices": ("jax", 2),
}
"""Keras's backend and the number of devices of a process."""


# === Models ===


def _own() -> Any:
    import keras

    from tfcomp.models.autoencoder import AutoEncoder

    image, latent = keras.Input((None, None, 3), dtype="uint8"), keras.Input((None, None, 4))
    x = keras.layers.Conv2D(6, 5, strides=2, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    y = keras.layers.Conv2DTranspose(3, 5, strides=2, padding="same")(latent)
    encoder = keras.Model(image, keras.layers.Conv2D(4, 3, padding="same")(x))
    return AutoEncoder(encoder, keras.Model(latent, y), beta=0.01)


def _lapped() -> Any:
    from tfcomp.models.autoencoder import AutoEncoder

    return AutoEncoder.lapped(
        (None, None, 3), beta=(0.02, 0.002), stride=4, coefficients=(8, 3), hidden=(8, 8), blocks=1, ranks=(4, 4),
        groups=(0, 1),
    )  # fmt: skip


def _front(owner: str, builder: str, *args: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import tfcomp

        return getattr(getattr(tfcomp, owner), builder)(*args, **options)

    return make


SHAPE = (8, 8, 1)
MODELS: dict[str, Callable[[], Any]] = {
    "dense": _front("AutoEncoder", "dense", SHAPE, 3, hidden=(16,), beta=0.5),
    "plain": _front("AutoEncoder", "dense", SHAPE, 3, hidden=(16,)),
    "conv, 3 prices": _front("AutoEncoder", "conv", SHAPE, 4, filters=(4,), hidden=16, beta=(2.0, 0.5, 0.1)),
    "spatial": _front("AutoEncoder", "spatial", (None, None, 3), 4, filters=(4, 6), beta=0.01),
    "lapped, 2 prices": _lapped,
    "own pair": _own,
    "VAE": _front("VAE", "dense", SHAPE, 3, hidden=(16,), free_bits=0.05),
    "VAE, shared scale": _front("VAE", "dense", SHAPE, 3, hidden=(16,), scale="shared"),
}
"""A small model of each kind."""


def images_for(model: Any, count: int = EXAMPLES) -> NDArray[np.uint8]:
    """Waves and a little noise: uint8 [count, 8, 8, C] of one shape, [count, 16, 16, C] for a model of any."""
    rng = np.random.default_rng(0)
    channels = model.image_shape[2]
    height, width = (16, 16) if model.item.any_size else model.image_shape[:2]
    y, x = np.mgrid[:height, :width]
    turns = rng.uniform(0.1, 0.6, (2, count, 1, 1, channels))
    waves = np.sin(turns[0] * x[..., None] + turns[1] * y[..., None] + rng.uniform(0, 6, (count, 1, 1, channels)))
    return np.clip(128 + 90 * waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def noise_by_place(alike: bool = False) -> None:
    """Makes the noise of training a function of the example's place in the whole batch, or alike for all examples."""
    import keras
    from keras import ops

    from tfcomp.models.replicas import place

    def unit(shape: Any) -> Any:
        own, columns = shape[0], 1
        for side in shape[1:]:
            columns = columns * side
        first, _ = place(own)
        rows = ((ops.arange(own, dtype="int32") + first) * (not alike))[:, None]
        numbers = (rows * 7919 + ops.arange(columns, dtype="int32")[None] * 104_729) % 10_007
        return ops.reshape((ops.cast(numbers, "float32") + 0.5) / 10_007, shape)

    def uniform(shape: Any, low: float, high: float, seed: Any = None) -> Any:  # noqa: ARG001
        return low + (high - low) * unit(shape)

    def normal(shape: Any, seed: Any = None) -> Any:  # noqa: ARG001
        return 2**0.5 * ops.erfinv(2 * unit(shape) - 1)

    keras.random.uniform, keras.random.normal = uniform, normal


# === One way, in a process of its own ===


def _strategy(way: str) -> Any:
    """The `tf.distribute` strategy, or None; under JAX two devices are Keras's own affair."""
    import keras

    backend, devices = WAYS[way]
    if backend == "jax":
        import jax

        assert len(jax.devices()) == devices, jax.devices()
        if devices > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        return None
    import tensorflow as tf

    if way == "two workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if devices == 1:
        return None
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])


def _weights(model: Any) -> NDArray[np.float32]:
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def train(way: str, folder: Path, names: list[str], worker: int) -> None:
    """Trains the models of a folder and writes losses, weights and, where JAX did it, the models."""
    strategy = _strategy(way)
    import keras

    from tfcomp.data import datasets

    noise_by_place()
    for name in names:
        start = folder / f"{name}.keras"
        if way == FIRST:
            keras.utils.set_random_seed(len(name))
            MODELS[name]().save(start)

        def loaded(start: Path = start) -> Any:
            model = keras.saving.load_model(start)
            model.compile(keras.optimizers.Adam(1e-3))
            return model

        if strategy is None:
            model = loaded()
        else:
            with strategy.scope():
                model = loaded()
        before, images = _weights(model), images_for(model)
        if way == "two workers":
            import tensorflow as tf

            from tfcomp.models.multi_worker import fit_workers

            data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH)
            logs = fit_workers(model, data, epochs=EPOCHS, validation_data=data, verbose=0).history
        else:
            data, watched = (datasets.batches(images, BATCH, shuffle=False) for _ in range(2))
            logs = model.fit(data, validation_data=watched, epochs=EPOCHS, verbose=0).history
        if worker == 0:
            after = _weights(model)
            np.savez(folder / f"{name}, {way}.npz", before=before, after=after, **logs)
            if way == "JAX, one device":
                assert name != names[0] or "tensorflow" not in sys.modules  # which Keras loads when it saves
                model.save(folder / f"{name}, {way}.keras")


def freeze(folder: Path, names: list[str]) -> None:
    """What JAX trained measures alike under TensorFlow; frozen and exported, LiteRT decodes it as Keras does."""
    import tfcomp

    noise_by_place()  # which a VAE draws to be measured, too
    for name in names:
        model = tfcomp.load_model(folder / f"{name}, JAX, one device.keras")
        images = images_for(model)
        with np.load(folder / f"{name}, JAX, one device.npz") as logs:
            expected = float(logs["val_loss"][-1])
        measured = model.evaluate(images, batch_size=BATCH, verbose=0, return_dict=True)["loss"]
        assert abs(measured / expected - 1) < LOSS_BOUND, (name, measured, expected)
        codec = tfcomp.Codec.freeze(model, list(images) if model.item.any_size else images)
        codec.export(folder / name)
        loaded = tfcomp.Codec.load(folder / name, runtime="litert")
        payloads = codec.compress(images)
        pairs = zip(codec.decompress(payloads), loaded.decompress(payloads), strict=True)
        assert max(np.abs(a.astype(int) - b).max() for a, b in pairs) <= 1, name
        print(f"{name}: frozen and exported, {sum(map(len, payloads)) / len(payloads):.1f} bytes an image", flush=True)


# === All ways ===


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(way: str, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """The processes of one way."""
    backend, devices = WAYS.get(way, ("tensorflow", 1))
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, __file__, "--way", way, *arguments]
    if way != "two workers":
        return [subprocess.Popen(command, env=environment, text=True)]
    workers = [f"localhost:{port}" for port in free_ports(2)]
    processes = []
    for worker in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": worker}}
        own = [*command, "--worker", str(worker)]
        processes.append(subprocess.Popen(own, env={**environment, "TF_CONFIG": json.dumps(config)}, text=True))
    return processes


def run(way: str, arguments: list[str]) -> None:
    """Runs one way to its end; whatever fails ends all of its processes."""
    processes = start(way, arguments)
    try:
        for process in processes:
            if process.wait(timeout=600):
                raise SystemExit(f"{way}: a process ended with status {process.returncode}")
    finally:
        for process in processes:
            process.kill()


def compared(folder: Path, name: str, way: str) -> dict[str, Any]:
    """The largest difference of losses and of weights."""
    with np.load(folder / f"{name}, {FIRST}.npz") as expected, np.load(folder / f"{name}, {way}.npz") as found:
        losses = max(float(np.max(np.abs(found[key] / expected[key] - 1))) for key in ("loss", "val_loss", "psnr_db"))
        moved = float(np.linalg.norm(expected["after"] - expected["before"]))
        assert np.array_equal(found["before"], expected["before"]), f"{name}: other weights at the start"
        weights = float(np.linalg.norm(found["after"] - expected["after"])) / moved
    return {"model": name, "way": way, "loss_difference": losses, "weight_difference": weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS)[1:], default=list(WAYS)[1:])
    parser.add_argument("--no-export", action="store_true", help="do not freeze and export what JAX trained")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for hidden in ("--way", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way == "freeze":
        freeze(Path(args.folder), args.models)
        return
    if args.way:
        train(args.way, Path(args.folder), args.models, args.worker)
        return

    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--folder", folder, "--models", *args.models]
        rows = []
        for way in (FIRST, *args.ways):
            run(way, arguments)
            for name in args.models if way != FIRST else ():
                row = compared(Path(folder), name, way)
                rows.append(row)
                print(
                    f"{name:20}{way:22}loss {row['loss_difference']:.1e}  weights {row['weight_difference']:.1e}",
                    flush=True,
                )
        if "JAX, one device" in args.ways and not args.no_export:
            run("freeze", arguments)
    worst = {key: max(row[f"{key}_difference"] for row in rows) for key in ("loss", "weight")}
    print(f"largest: loss {worst['loss']:.1e} (at most {LOSS_BOUND}), weights {worst['weight']:.1e} ({WEIGHT_BOUND})")
    from tfcomp.measure import evaluate

    report = {
        "benchmark": "many_devices",
        **evaluate.provenance(["tfcomp", "tensorflow", "jax", "keras", "numpy"]),
        "epochs": EPOCHS,
        "bounds": {"loss": LOSS_BOUND, "weight": WEIGHT_BOUND},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    if worst["loss"] > LOSS_BOUND or worst["weight"] > WEIGHT_BOUND:
        raise SystemExit("expected differences within the bounds, found larger ones")


if __name__ == "__main__":
    main()
