"""Contracts of freezing and of the codec, on small trained models: exact latents, honest costs, clear refusals."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcomp
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.measure import evaluate
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.models.latent_model import LatentModel
from tfcomp.models.vae import VAE


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(1200, seed=5)


@pytest.fixture(scope="module")
def models(images: np.ndarray) -> dict[str, LatentModel]:
    keras.utils.set_random_seed(0)
    shape = (28, 28, 1)
    made = {
        "plain": AutoEncoder.dense(shape, 16, hidden=(64,)),
        "rate": AutoEncoder.dense(shape, 16, hidden=(64,), beta=0.2),
        # A small data set and a high beta: most of the 16 dimensions collapse.
        "vae": VAE.dense(shape, 16, hidden=(64,), beta=0.5, distortion="squared_error"),
    }
    for model in made.values():
        model.compile(optimizer=keras.optimizers.Adam(3e-3))
        model.fit(images[:1000], batch_size=50, epochs=8, verbose=0)
    return made


KINDS = ("plain", "rate", "vae")


@pytest.mark.parametrize("kind", KINDS)
def test_payloads_decode_exactly_to_the_latents_that_were_coded(kind: str, models: dict, images: np.ndarray) -> None:
    codec = Codec.freeze(models[kind], images[:1000])
    test = images[1000:]
    latents = codec.encode(test)
    payloads, report = codec.compress_with_report(test)
    np.testing.assert_array_equal(codec.entropy_model.decode(payloads), latents)
    restored = codec.decompress(payloads)
    np.testing.assert_array_equal(restored, codec.reconstruct(latents))
    assert restored.dtype == np.uint8
    assert restored.shape == test.shape
    # ideal <= actual on average, and at most the stated 0.45 byte more
    assert report.ideal_bits / 8 < report.payload_bytes < report.ideal_bits / 8 + 0.45 * len(test)
    assert evaluate.psnr_db(test, restored) > evaluate.psnr_db(test, np.broadcast_to(test.mean(), test.shape))


def test_sets_of_tables_save_bytes_of_images_that_differ_in_kind(models: dict, images: np.ndarray) -> None:
    train, test = images[:1000], images[1000:]
    one, several = (Codec.freeze(models["rate"], train, sets=sets) for sets in (1, 6))
    latents = several.encode(test)
    payloads, report = several.compress_with_report(test)
    np.testing.assert_array_equal(several.entropy_model.decode(payloads), latents)
    np.testing.assert_array_equal(several.decompress(payloads), several.reconstruct(latents))
    np.testing.assert_array_equal(latents, one.encode(test))  # what is coded does not change, only its price
    assert report.ideal_bits / 8 < report.payload_bytes < report.ideal_bits / 8 + 0.45 * len(test)
    assert report.payload_bytes < 0.99 * sum(map(len, one.compress(test)))
    # The ideal is that of the cheapest set, its selector included; any of the sets alone costs as much or more.
    entropy_model = several.entropy_model
    within = len(entropy_model.tables) // 6
    selector = entropy_model.tables.ideal_bits(np.arange(6, dtype=np.int32)[:, None], np.int32([6 * within]))
    alone = [
        selector[m, 0] + entropy_model.tables.ideal_bits(latents, entropy_model.index + np.int32(m * within)).sum(1)
        for m in range(6)
    ]
    np.testing.assert_allclose(entropy_model.ideal_bits(latents), np.min(alone, axis=0), rtol=1e-3)
    target = Codec.freeze(models["plain"], train, sets=3, target_bytes=6.0)
    assert evaluate.measure(target, train).bytes_per_image == pytest.approx(6.0, rel=0.03)


def test_segments_choose_their_sets_one_by_one(models: dict, images: np.ndarray) -> None:
    whole = Codec.freeze(models["rate"], images[:1000], sets=4).entropy_model
    parts = replace(whole, symbols_per_segment=5)
    latents = whole.clip(np.rint(models["rate"].encoder(images[1000:])).astype(np.int32))
    np.testing.assert_array_equal(parts.decode(parts.encode(latents)), latents)
    sizes = [sum(map(len, model.encode(latents))) for model in (whole, parts)]
    bits = [model.ideal_bits(latents).sum() for model in (whole, parts)]
    overhead = sizes[1] - bits[1] / 8
    assert sizes[0] < sizes[1]
    assert 0 < overhead < len(latents) * (2 * (parts.segments - 1) + 0.5 * parts.segments)


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_gives_a_curve(kind: str, models: dict, images: np.ndarray) -> None:
    points = [
        evaluate.measure(Codec.freeze(models[kind], images[:1000], step=step), images[1000:]) for step in (0.5, 1, 2)
    ]
    sizes, quality = zip(*((point.bytes_per_image, point.psnr_db) for point in points), strict=True)
    assert sizes[0] > sizes[1] > sizes[2]
    assert quality[0] >= quality[1] > quality[2]


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_met_on_the_calibration_images(kind: str, models: dict, images: np.ndarray) -> None:
    train = images[:1000]
    sized = Codec.freeze(models[kind], train, target_bytes=6.0)
    assert evaluate.measure(sized, train).bytes_per_image == pytest.approx(6.0, rel=0.02)
    finest = evaluate.psnr_db(train, np.rint(255 * models[kind].predict(train, verbose=0)).astype(np.uint8))
    good = Codec.freeze(models[kind], train, target_psnr_db=finest - 1)
    assert evaluate.measure(good, train).psnr_db == pytest.approx(finest - 1, abs=0.05)


def test_dimensions_that_carry_nothing_cost_nothing(models: dict, images: np.ndarray) -> None:
    model = keras.models.clone_model(models["vae"])
    model.set_weights(models["vae"].get_weights())
    # What collapse leaves behind: a decoder that no longer reads the dimension, whatever the encoder says.
    kernel = model.decoder.layers[1].kernel.numpy()
    kernel[:5] = 0
    model.decoder.layers[1].kernel.assign(kernel)
    codec = Codec.freeze(model, images[:1000])
    assert (codec.entropy_model.tables.sizes[:5] == 1).all()
    assert (codec.entropy_model.tables.sizes[5:] > 1).all()
    assert (codec.encode(images[1000:])[:, :5] == 0).all()


def test_tables_cost_at_most_half_a_percent_over_the_float_prior(models: dict, images: np.ndarray) -> None:
    entropy_model = Codec.freeze(models["rate"], images[:1000]).entropy_model
    latents = entropy_model.clip(np.rint(models["rate"].encoder(images[:1000])).astype(np.int32))
    prior_bits = np.sum(models["rate"].prior(latents.astype(np.float32)), dtype=np.float64) / np.log(2)
    assert entropy_model.ideal_bits(latents).sum() <= 1.005 * prior_bits


def test_few_calibration_images_still_make_a_codec_for_others(models: dict, images: np.ndarray) -> None:
    codec = Codec.freeze(models["rate"], images[:5])
    payloads, report = codec.compress_with_report(images[1000:])
    assert codec.decompress(payloads).shape == (200, 28, 28, 1)
    assert 0 < report.clipped < report.latents / 2, "images that five others do not cover are clipped, and reported"


def test_datasets_and_arrays_calibrate_alike(models: dict, images: np.ndarray) -> None:
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images[:300])
    fingerprints = {Codec.freeze(models["rate"], x).fingerprint for x in (images[:300], data, data.batch(64))}
    assert len(fingerprints) == 1


def test_the_fingerprint_tells_codecs_apart(models: dict, images: np.ndarray) -> None:
    one = Codec.freeze(models["rate"], images[:300]).entropy_model
    assert StaticModel.from_arrays(one.arrays()).fingerprint == one.fingerprint
    others = [
        Codec.freeze(models["rate"], images[:300], step=1.5).entropy_model,
        Codec.freeze(models["plain"], images[:300]).entropy_model,
        replace(one, symbols_per_segment=3),
        replace(one, symbols_per_segment=4),
        replace(one, index=one.index[::-1].copy()),
        Codec.freeze(models["rate"], images[:300], sets=2).entropy_model,
    ]
    assert len({model.fingerprint for model in (one, *others)}) == 1 + len(others)


def test_a_single_image_an_empty_batch_and_images_without_channels(models: dict, images: np.ndarray) -> None:
    codec = Codec.freeze(models["rate"], images[:300])
    assert codec.decompress(codec.compress(images[:1])).shape == (1, 28, 28, 1)
    assert codec.compress(images[:0]) == []
    assert codec.decompress([]).shape == (0, 28, 28, 1)
    np.testing.assert_array_equal(
        codec.decompress(codec.compress(images[..., 0][:3])), codec.decompress(codec.compress(images[:3]))
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 28, 27, 1), np.uint8), r"\[N, \*\(28, 28, 1\)\], found \(2, 28, 27, 1\)"),
        (np.full((2, 28, 28, 1), 300.0), "0..255, found values from 300 to 300"),
        (np.full((2, 28, 28, 1), 0.5), "whole numbers 0..255, found fractions"),
        (np.full((2, 28, 28, 1), np.nan), "found NaN"),
        (np.zeros(784, np.uint8), "shape"),
        (np.array(["x"]), "dtype"),
    ],
)
def test_images_that_cannot_be_compressed(bad: np.ndarray, message: str, models: dict, images: np.ndarray) -> None:
    with pytest.raises(InputError, match=message):
        Codec.freeze(models["rate"], images[:50]).compress(bad)


def test_freeze_refuses_what_cannot_be(models: dict, images: np.ndarray) -> None:
    model = models["plain"]
    with pytest.raises(InputError, match="at most one of"):
        Codec.freeze(model, images, step=1, target_bytes=3)
    with pytest.raises(InputError, match="positive step, found -1"):
        Codec.freeze(model, images, step=-1)
    with pytest.raises(InputError, match=r"target_psnr_db between 0 and .*, found 99"):
        Codec.freeze(model, images, target_psnr_db=99)
    with pytest.raises(InputError, match="larger step"):
        Codec.freeze(model, images, target_bytes=1e6)
    with pytest.raises(InputError, match=r"1 set of tables, or for the mean up to 4096, found 0 for the mean"):
        Codec.freeze(model, images, sets=0)
    with pytest.raises(InputError, match="found 2 for the sample"):
        Codec.freeze(models["rate"], images, sets=2, latents="sample")
    with pytest.raises(InputError, match="calibration images of shape"):
        Codec.freeze(model, images[:, :20])
    diverged = AutoEncoder.dense((28, 28, 1), 2, hidden=(4,))
    diverged.encoder.layers[-1].bias.assign([np.nan, 0.0])
    with pytest.raises(InputError, match="finite latents"):
        Codec.freeze(diverged, images[:10])


def test_a_frozen_codec_does_not_change_when_its_model_trains_on(images: np.ndarray) -> None:
    model = AutoEncoder.dense((28, 28, 1), 4, hidden=(8,), beta=0.1)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(images[:200], verbose=0)
    codec = Codec.freeze(model, images[:200])
    payloads = codec.compress(images[:20])
    restored = codec.decompress(payloads)
    model.fit(images[:200], verbose=0)
    assert codec.compress(images[:20]) == payloads
    np.testing.assert_array_equal(codec.decompress(payloads), restored)


@pytest.mark.slow
def test_a_model_of_mixed_precision_is_exported_and_read_by_many_threads(images: np.ndarray, tmp_path: Path) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = AutoEncoder.conv((28, 28, 1), 4, filters=(4,), hidden=8, beta=0.1)
        model.compile(optimizer="adam")
        model.fit(images[:200], verbose=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    codec = Codec.freeze(model, images[:200])
    codec.export(tmp_path / "artifact")
    loaded = Codec.load(tmp_path / "artifact")
    latents = codec.encode(images[:20])
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(loaded.reconstruct, [latents] * 12))
    for pixels in many:
        np.testing.assert_array_equal(pixels, many[0])
    assert np.abs(many[0].astype(int) - codec.reconstruct(latents)).max() <= 1


def test_payloads_that_cannot_be_decoded(models: dict, images: np.ndarray) -> None:
    codec = Codec.freeze(models["rate"], images[:300])
    with pytest.raises(InputError, match="wrap it in a list"):
        codec.decompress(b"abc")
    with pytest.raises(BitstreamError, match="expected"):
        codec.decompress([b"\xff" * 500])


def test_names_of_the_front_page() -> None:
    for name in ("AutoEncoder", "VAE", "Codec", "load_model", "datasets", "plots", "InputError", "BitstreamError"):
        assert name in dir(tfcomp)
        assert getattr(tfcomp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = tfcomp.Nonsense


def test_public_classes_show_themselves_first() -> None:
    """Each has an example, which runs as a doctest."""
    found = []
    for name in tfcomp.__all__:
        public = getattr(tfcomp, name)
        parts = vars(public).values() if inspect.ismodule(public) else [public]
        home = public.__name__ if inspect.ismodule(public) else None
        found += [p for p in parts if inspect.isclass(p) and home in (None, p.__module__) and p.__name__[0] != "_"]
    assert {tfcomp.Codec, tfcomp.VAE, tfcomp.AutoEncoder, evaluate.Point} < {*found}
    for part in {*found, tfcomp.serving.Client}:
        assert issubclass(part, Exception) or ">>> " in (part.__doc__ or ""), part


def test_public_methods_name_their_arguments() -> None:
    for part in (tfcomp.AutoEncoder, tfcomp.VAE, tfcomp.Codec):
        own = [method for name, method in inspect.getmembers(part, callable) if name in vars(part) and name[0] != "_"]
        assert own
        for method in own:
            parameters = inspect.signature(method).parameters.values()
            assert not [p for p in parameters if p.kind is p.VAR_KEYWORD], method


def test_the_number_of_threads_changes_no_byte() -> None:
    codec = tfcomp.Codec.load(threads=1)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert codec.with_threads(2).compress([image]) == codec.compress([image])
    for wrong in (0, True, 1.5):
        with pytest.raises(InputError, match="expected a number of threads of 1 or more"):
            codec.with_threads(wrong)
