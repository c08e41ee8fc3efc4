"""Contracts of freezing: what calibration is, which steps are found, and that whatever was trained becomes a codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from kinds import scene
from numpy.typing import NDArray

import tfcomp
from tfcomp import AutoEncoder, Codec
from tfcomp.entropy.context import MAX_WEIGHT, ContextModel
from tfcomp.errors import InputError
from tfcomp.freezing import calibration, context_fit
from tfcomp.geometry import Grid
from tfcomp.items import Item
from tfcomp.measure.evaluate import psnr_db
from tfcomp.storage.image_files import write_image

Images = NDArray[np.uint8]


@pytest.fixture(autouse=True, scope="module")
def few_turns() -> Iterator[None]:
    """Contexts that are trained on for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_fit, "TURNS", 20)
        yield


def pictures(count: int = 6, channels: int = 2) -> list[Images]:
    """Images of sizes of their own, no multiples of a stride."""
    return [scene(50 + 5 * i, 83 - 7 * i, channels, seed=i) for i in range(count)]


def lapped(beta: Any = (0.02, 0.002), seed: int = 1) -> AutoEncoder:
    """The smallest model with contexts, of images with two channels."""
    keras.utils.set_random_seed(seed)
    return AutoEncoder.lapped(
        (None, None, 2), beta=beta, stride=4, coefficients=(5, 3), hidden=(4, 4), blocks=1, ranks=None, groups=(0, 1, 2)
    )


def own(kind: type = AutoEncoder, **options: Any) -> Any:
    """A user's own pair: an orthonormal transform of blocks of 2x2 pixels and two channels, half of it left out."""
    basis, _ = np.linalg.qr(np.hstack([np.ones((8, 1)), np.random.default_rng(0).normal(size=(8, 7))]))
    kernel = basis[:, :4].reshape(2, 2, 2, 4).astype(np.float32)
    image, latent = keras.Input((None, None, 2), dtype="uint8"), keras.Input((None, None, 4))
    forward = keras.layers.Conv2D(4, 2, strides=2, use_bias=False, name="mean")
    back = keras.layers.Conv2DTranspose(2, 2, strides=2, use_bias=False)
    scaled = keras.layers.Rescaling(20 / 255)(image)
    encoder = keras.Model(image, forward(scaled))
    decoder = keras.Model(latent, back(keras.layers.Rescaling(1 / 20)(latent)))
    for layer in (forward, back):
        layer.set_weights([kernel])
    return kind(encoder, decoder, **options)


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], Any]:
    """A model by its name, made when it is first asked for; not to be changed."""
    makers = {
        "plain": own,
        "rate": lambda: own(beta=0.01),
        "rates": lambda: own(beta=(0.1, 0.01)),
        "vae": lambda: own(tfcomp.VAE, beta=0.01, scale="shared"),
        "contexts": lambda: lapped(beta=0.002),
    }
    return cache(lambda name: makers[name]())


def bytes_and_psnr(codec: Codec, images: Sequence[Images], quality: int | None = None) -> tuple[float, float]:
    """Mean bytes of an image, and the PSNR of all pixels."""
    payloads = codec.compress(images, quality)
    return sum(map(len, payloads)) / len(images), psnr_db(images, codec.decompress(payloads, quality))


@pytest.fixture(scope="module", autouse=True)
def short_refinement() -> Any:
    """Contexts are refined for a few turns alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_fit, "TURNS", 8)
        yield


# === Calibration ===


def test_calibration_of_any_size_is_cropped_to_whole_positions_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    item, grid = Item((None, None, 2)), Grid(stride=4, margin=3, tile=64)
    found = calibration.of_any_size(item, grid, pictures())
    for image, source in zip(found, pictures(), strict=True):
        assert image.shape[:2] == tuple(n // 4 * 4 for n in source.shape[:2])
        assert image.base is None or image.base.shape == image.shape, "a view keeps the whole image in memory"
    # A small image is mirrored as a codec mirrors it.
    (small,) = calibration.of_any_size(item, grid, [scene(3, 17, 2)])
    assert small.shape == (12, 20, 2)
    monkeypatch.setattr(calibration, "MAX_PIXELS", 6 * 400)
    limited = calibration.of_any_size(item, grid, pictures())
    assert len(limited) == 6
    assert sum(image.shape[0] * image.shape[1] for image in limited) <= 6 * 400
    monkeypatch.setattr(calibration, "MAX_ITEMS", 3)
    assert len(calibration.of_any_size(item, grid, np.zeros((50, 16, 16, 2), np.uint8))) == 3


def test_folders_files_arrays_and_data_sets_are_the_same_calibration(tmp_path: Path) -> None:
    import tensorflow as tf

    images = [scene(24, 30 + i, 3, seed=i) for i in range(5)]
    for i, image in enumerate(images):
        write_image(tmp_path / f"{i}.png", image)
    files = sorted(tmp_path.iterdir())
    endless = tf.data.Dataset.from_generator(
        lambda: (images[i] for i in range(5)), output_signature=tf.TensorSpec((None, None, 3), tf.uint8)
    )
    item, grid = Item((None, None, 3)), Grid(stride=2, margin=3, tile=64)
    sources = (images, tmp_path, str(tmp_path), files, iter(images), endless)
    found = [calibration.of_any_size(item, grid, source) for source in sources]
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)
    batched = tf.data.Dataset.from_tensor_slices(np.stack([image[:, :30] for image in images])).batch(2)
    assert len(calibration.of_any_size(item, grid, batched.repeat())) > 100, "a stream without end is read in part"
    # Grey files for a codec of colours.
    write_image(tmp_path / "grey.png", images[0][..., :1])
    assert calibration.of_any_size(item, grid, [tmp_path / "grey.png"])[0].shape == (24, 30, 3)


def test_a_folder_calibrates_items_of_one_shape(tmp_path: Path, glyphs: Images) -> None:
    images = glyphs[:40]
    for i, image in enumerate(images):
        write_image(tmp_path / f"{i:02}.png", image)
    model = AutoEncoder.dense((28, 28, 1), 4, hidden=(8,), beta=0.1)
    assert Codec.freeze(model, tmp_path).fingerprint == Codec.freeze(model, images).fingerprint
    write_image(tmp_path / "99.png", scene(28, 29, 1))
    with pytest.raises(InputError, match=r"images of shape \(28, 28, 1\), found \(28, 29, 1\) in .*99\.png"):
        Codec.freeze(model, tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "expected calibration images .*, found none"),
        (iter([]), "expected calibration images .*, found none"),
        (scene(20, 20, 2), "wrap it in a list"),
        ([scene(20, 20, 3)], r"expected an image as uint8 \[H, W, 2\], found uint8 \[20, 20, 3\]"),
        ("no/such/folder", "found no no/such/folder"),
        (5, "found int"),
    ],
)
def test_calibration_that_is_none_is_named(bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibration.of_any_size(Item((None, None, 2)), Grid(4, 3, 64), bad)


# === Items of one shape ===


@pytest.fixture(scope="module")
def glyphs() -> Images:
    return tfcomp.datasets.load_arrays("glyphs")[0][:300]


def test_several_steps_code_as_codecs_of_each_step_alone(glyphs: Images) -> None:
    keras.utils.set_random_seed(1)
    model = AutoEncoder.dense((28, 28, 1), 6, hidden=(16,), beta=0.1)
    codec = Codec.freeze(model, glyphs, step=(0.8, 0.2))
    low, high = codec.parts.qualities
    assert low.entropy.tables is high.entropy.tables
    np.testing.assert_array_equal([high.step, high.offset], [np.ones(6), np.zeros(6)])
    np.testing.assert_allclose(low.step, 4)
    for quality, step in ((1, 0.8), (2, 0.2)):
        alone = Codec.freeze(model, glyphs, step=step)
        assert codec.compress(glyphs, quality) == alone.compress(glyphs)
        found = codec.decompress(codec.compress(glyphs, quality), quality).astype(int)
        assert np.abs(found - alone.decompress(alone.compress(glyphs))).max() <= 1


def test_offsets_stay_where_they_are_at_every_quality(glyphs: Images) -> None:
    keras.utils.set_random_seed(1)
    model = tfcomp.VAE.dense((28, 28, 1), 4, hidden=(16,))
    codec = Codec.freeze(model, glyphs, step=(0.5, 0.25))
    middle = np.median(model.latents(glyphs), axis=0)
    for quality in codec.parts.qualities:
        np.testing.assert_allclose(quality.offset * codec.parts.unit + codec.parts.zero, middle, atol=1e-5)


def test_prices_make_qualities_of_their_trained_steps(glyphs: Images) -> None:
    keras.utils.set_random_seed(1)
    model = AutoEncoder.dense((28, 28, 1), 6, hidden=(16,), beta=(0.5, 0.1, 0.02))
    codec = Codec.freeze(model, glyphs)
    assert (codec.qualities, codec.default_quality) == (3, 3)
    for quality, steps in zip(codec.parts.qualities, model.steps, strict=True):
        np.testing.assert_allclose(quality.step * codec.parts.unit, steps, rtol=1e-6)
        assert quality.curvature is None


def test_a_channel_that_always_rounds_to_zero_costs_nothing(glyphs: Images) -> None:
    model = AutoEncoder.dense((28, 28, 1), 4, hidden=(8,), beta=0.1)
    codec = Codec.freeze(model, glyphs, step=(1e9, 1e6, 0.1))
    assert codec.compress(glyphs, 1) == codec.compress(glyphs, 2) == [b""] * len(glyphs)
    assert min(map(len, codec.compress(glyphs, 3))) > 0


# === Contexts ===


def test_a_model_with_contexts_freezes_to_qualities_in_order() -> None:
    codec = Codec.freeze(lapped(), pictures())
    images = [scene(41, 30, 2, seed=9), scene(9, 70, 2, seed=10)]
    assert (codec.qualities, codec.default_quality) == (2, 2)
    np.testing.assert_array_equal(codec.parts.qualities[-1].step, 1)
    points = [bytes_and_psnr(codec, images, quality) for quality in (1, 2)]
    assert points[0][0] < points[1][0]
    assert points[0][1] + 1 < points[1][1]
    for quality in (1, 2):
        payloads = codec.compress(images, quality)
        for found, made in zip(codec.decode(payloads), codec.encode(images, quality), strict=True):
            np.testing.assert_array_equal(found, made)
    # A unit of error is worth so many bits as the price says, and a step of each channel makes the error that it makes.
    low, high = codec.parts.qualities
    assert low.lagrangian == pytest.approx(high.lagrangian / 10)
    squared_steps = np.square(low.step, dtype=np.float64)
    np.testing.assert_allclose(low.curvature, high.curvature * squared_steps, rtol=0.2)


def test_the_same_model_and_images_freeze_to_the_same_codec_and_leave_the_model_alone() -> None:
    model = lapped(beta=0.002)
    before = model.get_weights()
    first, again = (Codec.freeze(model, pictures()) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [1e3, -1e3, 1e20])
def test_contexts_of_any_size_become_integers_within_the_limits(value: float) -> None:
    model = lapped(beta=0.002)
    for weight in (*model.prior.means, *model.prior.scale_roots):
        weight.assign(np.full(weight.shape, value, np.float32))
    model.prior.base.assign(np.full(model.prior.base.shape, abs(value), np.float32))
    codec = Codec.freeze(model, pictures(2))
    frozen = codec.entropy_model
    assert isinstance(frozen, ContextModel)
    for weights in (*frozen.scales, *frozen.means):
        assert np.abs(weights).max() <= MAX_WEIGHT
    images = pictures(2)
    for found, made in zip(codec.decode(codec.compress(images)), codec.encode(images), strict=True):
        np.testing.assert_array_equal(found, made)


def test_contexts_that_diverged_are_refused() -> None:
    model = lapped(beta=0.002)
    model.prior.means[0].assign(np.full(model.prior.means[0].shape, np.nan, np.float32))
    with pytest.raises(InputError, match="expected finite contexts"):
        Codec.freeze(model, pictures(2))


@pytest.mark.slow
def test_refined_contexts_save_bytes() -> None:
    images = pictures(12)
    codecs = []
    for turns in (1, 60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(context_fit, "TURNS", turns)
            codecs.append(Codec.freeze(lapped(beta=0.002), images))
    few, many = (bytes_and_psnr(codec, images) for codec in codecs)
    assert many[0] < 0.98 * few[0]
    assert many[1] > few[1] - 0.2


# === Static tables of any size ===


@pytest.mark.parametrize("name", ["plain", "vae"])
def test_steps_of_any_size_make_qualities(model_of: Any, name: str) -> None:
    images = pictures()
    codec = Codec.freeze(model_of(name), images, step=(0.4, 0.2, 0.1))
    assert (codec.qualities, codec.default_quality) == (3, 2)
    points = [bytes_and_psnr(codec, images, quality) for quality in (1, 2, 3)]
    assert points[0][0] < points[1][0] < points[2][0]
    for quality in codec.parts.qualities:
        # Integers are the nearest ones.
        latents = [codec.parts.transform.analyse(image[None, :48, :32])[0] for image in images]
        assert quality.lagrangian is None
        made = codec.encode([image[:48, :32] for image in images], quality.number)
        for latent, integers in zip(latents, made, strict=True):
            nearest = np.rint((latent - quality.offset) / quality.step)
            assert np.mean(nearest != integers) < 0.01


@pytest.mark.parametrize("name", ["rate", "rates"])
def test_a_factorized_prior_of_any_size_is_in_the_tables(model_of: Any, name: str) -> None:
    model = model_of(name)
    codec = Codec.freeze(model, pictures())
    assert codec.qualities == model.qualities
    np.testing.assert_allclose(codec.parts.qualities[0].step * codec.parts.unit, model.steps[0])
    payloads = codec.compress(pictures())
    for found, made in zip(codec.decode(payloads), codec.encode(pictures()), strict=True):
        np.testing.assert_array_equal(found, made)


def test_a_channel_that_is_always_zero_costs_nothing(model_of: Any) -> None:
    codec = Codec.freeze(model_of("plain"), pictures(), step=1e9)
    assert {len(payload) for payload in codec.compress(pictures())} <= {4, 5}
    np.testing.assert_array_equal(codec.entropy_model.reaches, 0)


# === Targets ===


@pytest.mark.parametrize("name", ["plain", pytest.param("contexts", marks=pytest.mark.slow)])
def test_targets_are_met_on_calibration_images_of_any_size(
    model_of: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfcomp.freezing.steps.TOLERANCE", 1.02)
    images = [image[:48, :48] for image in pictures(3)]
    step = {"plain": 0.15, "contexts": 1.5}[name]
    reached = bytes_and_psnr(Codec.freeze(model_of(name), images, step=step), images)
    sized = bytes_and_psnr(Codec.freeze(model_of(name), images, target_bytes=reached[0]), images)
    assert sized[0] == pytest.approx(reached[0], rel=0.05)
    if name == "contexts":  # which take their time
        return
    good = bytes_and_psnr(Codec.freeze(model_of(name), images, target_psnr_db=reached[1]), images)
    assert good[1] == pytest.approx(reached[1], abs=0.15)


# === Snapshots ===


def test_the_model_that_goes_with_a_codec_is_as_it_was_when_it_was_frozen(tmp_path: Path) -> None:
    model = lapped(beta=0.002)
    before = model.get_weights()
    codec = Codec.freeze(model, pictures(2))
    restored = codec.decompress(codec.compress(pictures(2)))
    model.set_weights([weight + np.float32(0.01) for weight in before])
    transform: Any = codec.parts.transform
    transform.model.save(tmp_path / "model.keras")
    for one, other in zip(before, tfcomp.load_model(tmp_path / "model.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(restored, codec.decompress(codec.compress(pictures(2))), strict=True):
        np.testing.assert_array_equal(one, other)


# === Refusals ===


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": 2}, "1 set of tables and latents='mean' for items of any size, found 2 for the mean"),
        ({"latents": "sample"}, "found 1 for the sample"),
        ({"precision": 7}, "a precision of 8 to 14 bits, found 7"),
        ({"precision": 15}, "a precision of 8 to 14 bits, found 15"),
        ({"step": 1, "target_psnr_db": 30}, "at most one of"),
        ({"step": ()}, "one step or several"),
        ({"step": np.inf}, "a positive step, found inf"),
    ],
)
def test_options_that_items_of_any_size_do_not_have(model_of: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Codec.freeze(model_of("rate"), pictures(1), **options)


def test_prices_fix_the_steps() -> None:
    for options in ({"step": 1}, {"target_bytes": 5}, {"target_psnr_db": 10}):
        with pytest.raises(InputError, match="for a model of 2 qualities"):
            Codec.freeze(lapped(), pictures(1), **options)
