"""Stores the weights of a ``.tflite`` file in 8 bits instead of 16; computing stays float32.

The converter keeps a float16 weight as a constant and an operator `DEQUANTIZE` that makes it float32. Here the
constant becomes int8 and gets a scale for each output channel, ``max |weight| / 127``, and the operator stays:

    |weight - scale * integer| <= scale / 2

Layers whose names begin with `KEPT_PREFIX` keep 16 bits. Such a layer is a transform whose output is the image or the
latent itself, with nothing after it to hide its error: in 8 bits those of `lapped` cost 0.2 dB at 40 dB
(``benchmarks/smaller_networks.py --linear-too``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

KEPT_PREFIX = "linear"
"""The beginning of the names of layers whose weights keep 16 bits."""
_OPERATOR = schema.BuiltinOperator
_OUTPUT_AXIS = {
    _OPERATOR.CONV_2D: 0,
    _OPERATOR.DEPTHWISE_CONV_2D: 3,
    _OPERATOR.FULLY_CONNECTED: 0,
    _OPERATOR.TRANSPOSE_CONV: 0,
}
"""The axis of the output channels in an operator's weights, its second input."""


def in_8_bits(content: bytes) -> bytes:
    """The model with its layers' float16 weights in int8.

    Args:
        content: a ``.tflite`` file whose weights are float16.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    for graph in model.subgraphs:
        stored = {
            operator.outputs[0]: graph.tensors[operator.inputs[0]]
            for operator in graph.operators
            if codes[operator.opcodeIndex] == _OPERATOR.DEQUANTIZE
        }
        for operator in graph.operators:
            axis = _OUTPUT_AXIS.get(codes[operator.opcodeIndex], -1)
            weight = stored.get(operator.inputs[1]) if axis >= 0 else None
            # Names are those of layers, "network/layer/operation", of all that the converter made one operator of.
            names = weight.name.decode() + graph.tensors[operator.outputs[0]].name.decode() if weight else ""
            if weight is not None and weight.type == schema.TensorType.FLOAT16 and f"/{KEPT_PREFIX}" not in names:
                _quantize(weight, model.buffers[weight.buffer], axis)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _quantize(tensor: Any, buffer: Any, axis: int) -> None:
    weights = np.frombuffer(bytes(buffer.data), np.float16).astype(np.float32).reshape(tensor.shape)
    largest = np.abs(weights).max(axis=tuple(i for i in range(weights.ndim) if i != axis), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = scale.ravel()
    tensor.quantization.zeroPoint = np.zeros(scale.size, np.int64)
    tensor.quantization.quantizedDimension = axis
    tensor.type = schema.TensorType.INT8
    buffer.data = np.frombuffer(np.rint(weights / scale).astype(np.int8).tobytes(), np.uint8)
