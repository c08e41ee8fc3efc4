"""The networks of photographs in LiteRT, at whatever size an image has."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import MissingDependencyError
from tfcomp.photographs.codec import Float32, Images


class LiteRTNetworks:
    """Two interpreters, each of which is set up anew when the size of the image changes.

    Args:
        analysis, synthesis: contents of the two ``.tflite`` files.
        threads: of each; by default as many as there are processors.
    """

    def __init__(self, analysis: bytes, synthesis: bytes, threads: int | None = None) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise MissingDependencyError("photographs need ai-edge-litert: pip install ai-edge-litert") from error
        count = threads or os.cpu_count() or 1
        self._networks = [Interpreter(model_content=content, num_threads=count) for content in (analysis, synthesis)]
        self._shapes: dict[Any, dict[str, tuple[int, ...]]] = {}  # that an interpreter is set up for
        self._lock = threading.Lock()  # an interpreter holds one image at a time

    def analyse(self, image: Images) -> Float32:
        return self._run(self._networks[0], image=image[None])

    def synthesise(self, latent: Float32, steps: Float32, quality: Float32) -> Images:
        return self._run(self._networks[1], latent=latent[None], steps=steps[None, None, None], quality=quality[None])

    def _run(self, network: Any, **inputs: NDArray[Any]) -> NDArray[Any]:
        with self._lock:
            details = network.get_signature_runner().get_input_details()
            shapes = {name: value.shape for name, value in inputs.items()}
            if self._shapes.get(network) != shapes:
                for name, shape in shapes.items():
                    network.resize_tensor_input(details[name]["index"], shape)
                network.allocate_tensors()
                self._shapes[network] = shapes
            for name, value in inputs.items():
                network.set_tensor(details[name]["index"], np.ascontiguousarray(value))
            network.invoke()
            return network.get_tensor(network.get_output_details()[0]["index"])[0]
