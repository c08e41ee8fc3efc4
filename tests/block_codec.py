"""A codec of items of any size whose transform is exact everywhere, in NumPy, TensorFlow and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from context_models import random_model, static
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.entropy import payloads, tiles
from tfcomp.entropy.context import ContextModel
from tfcomp.geometry import Grid
from tfcomp.graph.any_size import AnySizeGraph
from tfcomp.layout import CHESSBOARD, Layout

Images = NDArray[np.uint8]


class Blocks:
    """A codec whose transform are blocks of pixels, which are exact in every runtime; in NumPy, and in the graph.

    Args:
        qualities: models of ``channels * stride**2`` channels.
        channels: of the items.
        stride: pixels a side of a block.
        tile: positions a side of a tile.
        options: of the graph.
    """

    def __init__(
        self, qualities: list[ContextModel], channels: int, stride: int, tile: int = 9, **options: Any
    ) -> None:
        self.models, self.channels, self.grid = qualities, channels, Grid(stride, 1, tile)
        self.k, count = channels * stride**2, len(qualities)
        self.steps = np.outer(np.geomspace(16, 5, count), np.linspace(1, 1.5, self.k)).astype(np.float32)
        self.offsets = np.outer(np.ones(count), np.linspace(-3, 3, self.k)).astype(np.float32)
        self.weights = np.full((count, self.k), 4, np.float32)
        self.graph = AnySizeGraph(
            qualities,
            self.steps,
            self.offsets,
            self.weights,
            grid=self.grid,
            channels=channels,
            analyse=lambda image: tf.nn.space_to_depth(tf.cast(image, tf.float32) - 128.0, stride),
            synthesise=self._synthesise,
            **options,
        )

    def _synthesise(self, latent: Any, quality: Any) -> Any:
        pixels = tf.nn.depth_to_space(latent, self.grid.stride) + 128.0
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)

    def compress(self, image: Images, quality: int, grey: bool = False) -> bytes:
        plan, s = self.grid.plan(*image.shape[:2]), self.grid.stride
        rows, columns = plan.sources()
        blocks = image[rows][:, columns].reshape(int(plan.rows), s, int(plan.columns), s, -1).transpose(0, 2, 1, 3, 4)
        latent = blocks.reshape(int(plan.rows), int(plan.columns), -1).astype(np.float32) - 128
        latent = (latent - self.offsets[quality - 1]) / self.steps[quality - 1]
        model, weight = self.models[quality - 1], self.weights[quality - 1]
        codes = [tiles.encode(model, latent[area], weight)[0] for area in plan.areas()]
        return payloads.pack(payloads.Header(quality, grey, *image.shape[:2]), codes)

    def decode(self, payload: bytes) -> Int32:
        qualities = range(1, len(self.models) + 1)
        header, plan, codes = payloads.parse(payload, self.grid, qualities, grey_allowed=self.channels == 3)
        latent = np.zeros((int(plan.rows), int(plan.columns), self.k), np.int32)
        for area, code in zip(plan.areas(), codes, strict=True):
            part = latent[area]
            part[:] = tiles.decode(self.models[header.quality - 1], code, *part.shape[:2])
        return latent

    def decompress(self, payload: bytes) -> Images:
        qualities = range(1, len(self.models) + 1)
        header, plan, _ = payloads.parse(payload, self.grid, qualities, grey_allowed=self.channels == 3)
        quality, s = header.quality - 1, self.grid.stride
        units = self.decode(payload).astype(np.float32) * self.steps[quality] + self.offsets[quality]
        blocks = units.reshape(*units.shape[:2], s, s, self.channels).transpose(0, 2, 1, 3, 4)
        whole = blocks.reshape(units.shape[0] * s, units.shape[1] * s, self.channels) + 128
        image = np.rint(np.clip(whole, 0, 255)).astype(np.uint8)
        image = image[int(plan.top) :][: header.height, int(plan.left) :][:, : header.width]
        return np.rint(image.mean(axis=-1, keepdims=True)).astype(np.uint8) if header.grey else image


@cache
def blocks(name: str) -> Blocks:
    numbers = {"levels": 6, "parts_log2": 1, "kinds": 2, "overflow_tables": 2}
    if name == "contexts":
        qualities = [
            random_model(Layout((3, 9), CHESSBOARD), seed, masked=True, not_coded=[0, seed], **numbers)
            for seed in (0, 1)
        ]
        return Blocks(qualities, channels=3, stride=2)
    return Blocks([static(9, 3)], channels=1, stride=3)


def scene(height: int, width: int, channels: int) -> Images:
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    image = 120 + 50 * np.sin(x / 7 + y / 5)[..., None] + rng.normal(0, 6, (height, width, channels))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


Runtime = dict[str, Callable[..., NDArray[Any]]]


@cache
def functions(name: str) -> dict[str, Any]:
    graph = blocks(name).graph
    image = tf.TensorSpec([1, None, None, graph.channels], tf.uint8, "image")
    quality, payload = tf.TensorSpec([1], tf.int32, "quality"), tf.TensorSpec([1, None], tf.uint8, "payload")

    def traced(function: Callable[..., Any], *signature: Any) -> Any:
        return tf.function(function, input_signature=signature, autograph=False)

    latent = traced(graph.decode, tf.TensorSpec([None], tf.uint8))

    def decompress(payload: Any) -> dict[str, Any]:
        return {"image": graph.decompress(payload[0], latent(payload[0]))}

    return {
        "compress": traced(lambda image, quality: {"payload": graph.compress(image[0], quality[0])}, image, quality),
        "decode": traced(lambda payload: {"latent": latent(payload[0])}, payload),
        "decompress": traced(decompress, payload),
    }


@cache
def in_tensorflow(name: str) -> Runtime:
    def call(function: Any) -> Callable[..., NDArray[Any]]:
        return lambda **inputs: next(iter(function(**inputs).values())).numpy()

    return {key: call(function) for key, function in functions(name).items()}


@cache
def in_litert(name: str) -> Runtime:
    """Converted with builtin operators alone, and floats halved: nothing that matters may be one."""

    def convert(function: Any) -> Callable[..., NDArray[Any]]:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        interpreter = Interpreter(model_content=converter.convert(), num_threads=1)

        def run(**inputs: NDArray[Any]) -> NDArray[Any]:
            details = {key: index_of(interpreter, key) for key in inputs}
            for key, value in inputs.items():
                interpreter.resize_tensor_input(details[key], value.shape)
            interpreter.allocate_tensors()
            for key, value in inputs.items():
                interpreter.set_tensor(details[key], value)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

        return run

    return {key: convert(functions(name)[key]) for key in ("compress", "decompress")}


def index_of(interpreter: Interpreter, key: str) -> int:
    (index,) = [detail["index"] for detail in interpreter.get_input_details() if key in detail["name"]]
    return index


def octets(payload: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(payload, np.uint8)[None]
