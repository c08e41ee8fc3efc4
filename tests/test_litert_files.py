"""The ``.tflite`` files of an artifact: names, shapes, operators that every LiteRT has, and the gradient if it can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from kinds import Kind, WholeLiteRT, WholeSavedModels, interpreter_of, scene

from tfcomp.artifact import conversion
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.tiled_graphs import TiledGraphs
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.entropy.base import SAMPLE
from tfcomp.errors import BitstreamError, InputError
from tfcomp.models.autoencoder import AutoEncoder
from tfcomp.runtimes.litert import LiteRTTransform

SHAPE = (28, 28, 1)
NETWORKS = artifacts.ENCODER_LATENT, artifacts.DECODER_LATENT


def edges_of(kind: Kind, folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and outputs of each ``.tflite`` file, as the docstring of `manifest` states them; -1 is free."""
    manifest, transform = artifacts.Manifest.read(folder), kind.codec.parts.transform
    latent = np.float32, (1, *(-1 if n is None else n for n in manifest.latent_shape))
    image = np.uint8, (1, *(-1 if n is None else n for n in manifest.image_shape))
    samples = kind.codec.entropy_model.format_id == SAMPLE  # of mean and deviation; they are not refined
    encoded = (np.float32, (1, 2, *latent[1][1:])) if samples else latent
    quality = {"quality": (np.int32, (1,))}
    if manifest.grid:
        asked, payload = quality, {"payload": (np.uint8, (1, -1))}
        made, restored = {"payload": (np.uint8, (-1,))}, (np.uint8, (-1, -1, -1))
    else:
        asked, restored = quality if len(manifest.qualities) > 1 else {}, image
        made = {"payload": (np.uint8, (manifest.max_payload_bytes,)), "length": (np.int32, (1,))}
        payload = {**made, **asked}
    told = quality if getattr(transform, "takes_quality", False) else {}
    edges = {
        artifacts.ENCODER_LITERT: ({"image": image, **asked}, made),
        artifacts.DECODER_LITERT: (payload, {"image": restored}),
        artifacts.ENCODER_LATENT: ({"image": image}, {"latent": encoded}),
        artifacts.DECODER_LATENT: ({"latent": latent, **told}, {"image": image}),
    }
    if not samples:
        edges[artifacts.ENCODER_SLOPE] = (
            {"image": image, "latent": latent, **told},
            {"error": (np.float32, (1,)), "gradient": latent},
        )
    return edges


def test_litert_files_bind_by_name_with_the_stated_shapes_and_builtin_operators(kind: Kind) -> None:
    edges = edges_of(kind, kind.folder)
    assert {path.name for path in kind.folder.glob("*.tflite")} == set(edges)
    for name, expected in edges.items():
        content = (kind.folder / name).read_bytes()
        operators = conversion.operators(content)
        assert operators
        assert not operators & conversion.FORBIDDEN
        assert not [operator for operator in operators if operator.startswith("CUSTOM")]
        runner = interpreter_of(content)
        found = runner.get_input_details(), runner.get_output_details()
        for details, tensors in zip(found, expected, strict=True):
            assert set(details) == set(tensors), name
            for key, (dtype, shape) in tensors.items():
                assert details[key]["dtype"] == dtype, (name, key)
                signature = tuple(details[key]["shape_signature"])
                # An output's free sides are known to nobody before the graph runs.
                assert signature == shape or (-1 in shape and details is found[1]), (name, key, signature)


def test_a_quality_beyond_the_ends_is_the_end(kind: Kind) -> None:
    if kind.codec.qualities == 1 and not kind.codec.item.any_size:
        pytest.skip("its files take no quality")
    last = kind.codec.qualities
    graph = WholeSavedModels(kind.folder, last > 1, kind.codec.item.any_size)
    lite = WholeLiteRT(kind.folder)
    for whole in (graph, lite):
        assert whole.compress(kind.items[:1], 99) == whole.compress(kind.items[:1], last)
        assert whole.compress(kind.items[:1], -1) == whole.compress(kind.items[:1], 1)


@pytest.mark.slow
@pytest.mark.xdist_group("own_any")
def test_files_of_a_fixed_side_take_smaller_images_and_say_what_does_not_fit(kinds: Callable[[str], Kind]) -> None:
    codec, side = kinds("own_any").codec, 40
    transform: Any = codec.parts.transform
    graphs = TiledGraphs(codec.parts, transform, side)
    assert graphs.capacity == 3 * side**2
    files = graphs.litert("float32")
    encoder, decoder = (interpreter_of(files[n]) for n in (artifacts.ENCODER_LITERT, artifacts.DECODER_LITERT))
    for height, width in ((1, 1), (40, 40), (17, 33)):
        image = scene(height, width)
        whole = np.full((1, side, side, 3), 77, np.uint8)  # what lies beyond the size does not count
        whole[0, :height, :width] = image
        made = encoder(image=whole, size_and_quality=np.int32([height, width, 1]))
        payload = made["payload"][: made["length"][0]].tobytes()
        assert not made["payload"][made["length"][0] :].any()
        assert payload == codec.compress([image])[0]
        found = decoder(payload=made["payload"], length=made["length"])
        assert found["size"].tolist() == [height, width, 3]
        restored = found["image"][:height, :width]
        assert np.abs(restored.astype(int) - codec.decompress([payload])[0]).max() <= 1
        assert found["image"].sum() == restored.sum(dtype=int)
    [large] = codec.compress([scene(41, 40)])
    buffer = np.frombuffer(large.ljust(graphs.capacity, b"\0"), np.uint8)
    assert decoder(payload=buffer, length=np.int32([len(large)]))["size"].tolist() == [1, 1, 3]
    for wrong in (7, 4097):
        with pytest.raises(InputError, match=f"a side of 8 to 4096 pixels, found {wrong}"):
            TiledGraphs(codec.parts, transform, wrong)


STATE = tf.Variable([1.0, 2.0])


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x + tf.random.normal([2]), "RANDOM_STANDARD_NORMAL"),
        (lambda x: x + tf.random.stateless_normal([2], [1, 2]), "StatelessRandomNormalV2"),
        (lambda x: tf.numpy_function(np.sin, [x], tf.float32), "PyFunc"),
        (lambda x: tf.linalg.inv(tf.linalg.diag(x[0]))[None, 0], "MatrixInverse"),
        (lambda x: STATE.assign_add(x[0])[None], "AssignAddVariableOp"),
    ],
    ids=["random", "stateless random", "Python", "no builtin", "variable"],
)
def test_an_operator_that_cannot_be_everywhere_is_refused_by_name(function: Callable[..., Any], named: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")], autograph=False)
    def graph(x: Any) -> dict[str, Any]:
        return {"y": function(x)}

    with pytest.raises(InputError, match=f"built into LiteRT.*found .*{named}"):
        conversion.to_litert(graph)


@pytest.mark.xdist_group("dense")
def test_networks_that_give_something_else_are_refused(kinds: Callable[[str], Kind]) -> None:
    folder = kinds("dense").folder
    contents = [(folder / name).read_bytes() for name in NETWORKS]
    for wrong, output in ((contents[::-1], "latent"), (contents[:1] * 2, "image"), ([*contents, contents[0]], "error")):
        with pytest.raises(BitstreamError, match=f"a .tflite with the output '{output}', found"):
            LiteRTTransform(*wrong)


def test_variables_become_constants() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def graph(x: Any) -> dict[str, Any]:
        return {"y": x * STATE}

    np.testing.assert_array_equal(interpreter_of(conversion.to_litert(graph))(x=np.float32([[3, 4]]))["y"], [[3, 8]])


# === The gradient ===


@keras.saving.register_keras_serializable("tests")
class OddGradient(keras.layers.Layer):
    """An operator whose gradient LiteRT lacks."""

    def call(self, x: Any) -> Any:
        return keras.ops.elu(x)


@pytest.mark.slow
def test_a_gradient_that_litert_cannot_compute_is_left_out(tmp_path: Path) -> None:
    images = glyphs.render(50, seed=7)
    model = AutoEncoder.dense(SHAPE, 4, hidden=(8,), beta=0.1)
    latent = keras.Input((4,))
    own = AutoEncoder(model.encoder, keras.Model(latent, model.decoder(OddGradient()(latent))), beta=0.1)
    codec = Codec.freeze(own, images[:50])
    codec.export(tmp_path / "artifact")
    assert not (tmp_path / "artifact" / artifacts.ENCODER_SLOPE).exists()
    plain = Codec.load(tmp_path / "artifact")
    assert plain.compress(images[:3]) == codec.compress(images[:3])
    with pytest.raises(InputError, match="expected effort=0 with an artifact whose encoder was exported without"):
        plain.compress(images[:3], effort=1)
    assert Codec.load(tmp_path / "artifact", runtime="tensorflow").compress(images[:3], effort=3) == codec.compress(
        images[:3], effort=3
    )
