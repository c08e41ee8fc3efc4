"""The networks in the LiteRT interpreter: no TensorFlow, items of one shape or of whatever size comes."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcomp.errors import BitstreamError, InputError, MissingDependencyError, everything_as
from tfcomp.items import Images
from tfcomp.runtimes.transform import Float32

Arrays = dict[str, NDArray[Any]]


class LiteRTTransform:
    """Analysis and synthesis of two ``.tflite`` files, and the slope where there is a third.

    Args:
        analysis: content of ``encoder_latent.tflite``: image -> latent.
        synthesis: content of ``decoder_latent.tflite``: latent [, quality] -> image.
        slope: content of ``encoder_slope.tflite``: image, latent [, quality] -> error, gradient.
        threads: number for each interpreter. Default: one for items of one shape, whose networks are small; for items
            of any size as many as there are processors. Python threads that call at once each get an interpreter.

    Attributes:
        threads: number of each interpreter's threads; None for the default.

    Raises:
        MissingDependencyError: without ai-edge-litert.
        BitstreamError: if LiteRT cannot run a file.
    """

    def __init__(
        self, analysis: bytes, synthesis: bytes, slope: bytes | None = None, threads: int | None = None
    ) -> None:
        self._analysis = _Network(analysis, threads, ("latent",))
        self._synthesis = _Network(synthesis, threads, ("image",))
        self._slope = _Network(slope, threads, ("error", "gradient")) if slope else None
        self.threads = threads

    def with_threads(self, threads: int) -> LiteRTTransform:
        """The same networks with another number of threads each."""
        slope = self._slope.content if self._slope else None
        return LiteRTTransform(self._analysis.content, self._synthesis.content, slope, threads)

    @property
    def item_shape(self) -> tuple[int | None, ...]:
        """(height, width, channels) of the items, None where free."""
        return self._analysis.inputs["image"][1:]

    @property
    def refines(self) -> bool:
        """Whether there is a slope."""
        return self._slope is not None

    def analyse(self, items: Images) -> Float32:
        return self._analysis(image=items)["latent"]

    def synthesise(self, latents: Float32, quality: int) -> Images:
        return self._synthesis(latent=latents, **self._synthesis.quality_input(len(latents), quality))["image"]

    def slope(self, items: Images, latents: Float32, quality: int) -> tuple[Float32, Float32]:
        if self._slope is None:
            raise InputError("expected effort=0 with an artifact whose encoder has no gradient for LiteRT")
        outputs = self._slope(image=items, latent=latents, **self._slope.quality_input(len(items), quality))
        return outputs["error"], outputs["gradient"]


class _Network:
    """One ``.tflite`` of named inputs and outputs, each [1, ...], as a function of batches."""

    def __init__(self, content: bytes, threads: int | None, results: tuple[str, ...]) -> None:
        self.content, self._threads, self._results = content, threads, results
        self._lock = threading.Lock()
        first = _Interpreter(content, threads)
        self.inputs = first.inputs
        if missing := set(results) - first.results.keys():
            raise BitstreamError(f"expected a .tflite with the output {min(missing)!r}, found {sorted(first.results)}")
        self._idle = [first]
        self._process, self._left_behind = os.getpid(), self._idle

    def __getstate__(self) -> dict[str, Any]:
        return {"content": self.content, "threads": self._threads, "results": self._results}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # interpreters are made anew in another process

    def quality_input(self, count: int, quality: int) -> Arrays:
        """The input of the quality, if the network has one."""
        return {"quality": np.full(count, quality, np.int32)} if "quality" in self.inputs else {}

    def __call__(self, **inputs: NDArray[Any]) -> Arrays:
        if self._process != os.getpid():
            # After a fork the interpreters' threads are not here, and a lock may be held for ever. To delete the
            # interpreters would wait for their threads.
            self._lock, self._idle, self._process = threading.Lock(), [], os.getpid()
        with self._lock:
            free = self._idle.pop() if self._idle else None
        interpreter = free or _Interpreter(self.content, self._threads)
        count = len(next(iter(inputs.values())))
        if not count:  # one item of zeros gives the shape of the result
            inputs = {name: np.zeros((1, *values.shape[1:]), values.dtype) for name, values in inputs.items()}
        shapes = {name: list(values.shape) for name, values in inputs.items()}
        # An interpreter that failed is not used again.
        with everything_as(InputError, f"expected LiteRT to run an item of {shapes}"):
            items = [interpreter.run({name: v[i : i + 1] for name, v in inputs.items()}) for i in range(max(count, 1))]
        with self._lock:
            self._idle.append(interpreter)
        if count == 1:
            return items[0]
        return {name: np.concatenate([item[name] for item in items])[:count] for name in items[0]}


class _Interpreter:
    """A LiteRT interpreter, set up anew when the shape of an input changes.

    Attributes:
        inputs: shape of each input by name, None where free.
        results: number of each output's tensor, by name.
    """

    def __init__(self, content: bytes, threads: int | None) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            message = "running an artifact needs ai-edge-litert: pip install ai-edge-litert"
            raise MissingDependencyError(message) from error
        with everything_as(BitstreamError, "expected a .tflite that LiteRT can run"):
            interpreter = Interpreter(model_content=content, num_threads=threads or 1)
            self.inputs = _shapes(interpreter)
            if threads is None and any(None in shape for shape in self.inputs.values()):
                interpreter = Interpreter(model_content=content, num_threads=os.cpu_count() or 1)
            self._interpreter, self._made_for = interpreter, {}
            runner = interpreter.get_signature_runner()
            self._sources = {name: detail["index"] for name, detail in runner.get_input_details().items()}
            self.results = {name: detail["index"] for name, detail in runner.get_output_details().items()}

    _made_for: dict[str, tuple[int, ...]]

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs of one item."""
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._made_for:
            for name, shape in shapes.items():
                if None in self.inputs[name]:
                    self._interpreter.resize_tensor_input(self._sources[name], shape)
            self._interpreter.allocate_tensors()
            self._made_for = shapes
        for name, value in inputs.items():
            self._interpreter.set_tensor(self._sources[name], np.ascontiguousarray(value))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self.results.items()}


def _shapes(interpreter: Any) -> dict[str, tuple[int | None, ...]]:
    details = interpreter.get_signature_runner().get_input_details()
    return {
        name: tuple(None if n < 0 else int(n) for n in detail["shape_signature"]) for name, detail in details.items()
    }
