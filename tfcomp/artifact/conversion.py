"""The one module that converts: TensorFlow functions to SavedModels and to ``.tflite`` files of builtin operators.

SavedModels keep the networks' variables. For LiteRT a function is traced for one item and frozen, so that every
weight is a constant and every shape static that the item fixes, and goes through a SavedModel with one signature, so
that its inputs and outputs keep their names. Only float tensors are ever quantized, and these are the networks': the
range coder computes in int32, so that a quantized encoder makes payloads that every decoder with the same tables
reads exactly.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfcomp.artifact.eight_bit_weights import in_8_bits
from tfcomp.errors import InputError
from tfcomp.silence import no_warnings

FORBIDDEN = {"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "MULTINOMIAL"}
FORBIDDEN |= {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "STABLEHLO_RNG_BIT_GENERATOR"}
"""Operators that LiteRT has and an artifact must not: they keep a state between calls, or draw at random."""

Samples = Mapping[str, NDArray[Any]]
"""Example inputs of a function by name, the items stacked along a first axis."""


def function(python: Any, *signature: tf.TensorSpec) -> Any:
    """A ``tf.function`` of one signature."""
    return tf.function(python, input_signature=signature, autograph=False)


def save(folder: Path, signatures: Mapping[str, Any]) -> None:
    """Write a SavedModel with these signatures: graphs and the variables that they use, no Python."""
    traced = {name: graph.get_concrete_function() for name, graph in signatures.items()}
    module = tf.Module()
    module.weights = list({id(v): v for function in traced.values() for v in function.graph.variables}.values())
    tf.saved_model.save(module, str(folder), traced)


def to_litert(graph: Any, quantize: str = "float32", samples: Samples | None = None) -> bytes:
    """Convert a function with named inputs and results to a ``.tflite`` with one signature, of builtin operators alone.

    Args:
        graph: ``tf.function`` with an input signature; a first dimension of None becomes 1.
        quantize: one of `manifest.QUANTIZATIONS`.
        samples: inputs to calibrate ``"int8"`` with.

    Raises:
        InputError: if an operator is not built into LiteRT, or is random or keeps a state; the message names it.
    """
    specs = [
        tf.TensorSpec([1 if n is None and not axis else n for axis, n in enumerate(spec.shape)], spec.dtype, spec.name)
        for spec in graph.input_signature
    ]
    # Traced anew: by its own signature a function would keep the items' axis open, which loops over a list cannot have.
    concrete = tf.function(graph.python_function, autograph=False).get_concrete_function(*specs)
    definition = concrete.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    if assigning := {node.op for node in nodes if "Assign" in node.op}:
        raise _refusal(assigning)
    # Variables become constants first: converted as they are, they leave READ_VARIABLE operators without the weights.
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    if len(frozen.inputs) > len(specs):  # tables of a look-up, say, which are no weights
        raise _refusal({node.op for node in nodes if "Table" in node.op})
    results = sorted(concrete.structured_outputs)

    @tf.function(input_signature=specs)
    def named(*inputs: Any) -> dict[str, Any]:
        return dict(zip(results, frozen(*inputs), strict=True))

    # Calibration runs in an interpreter that announces its successor.
    with tempfile.TemporaryDirectory() as folder, no_warnings(), _quiet_loader():
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(tf.Module(), folder, named.get_concrete_function(), options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        # To add metadata of the conversion, which nothing reads, would parse the whole file once more.
        converter.exclude_conversion_metadata = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize in ("float16", "int8-weights"):
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":

            def calibration() -> Iterator[dict[str, NDArray[Any]]]:
                for item in zip(*(samples or {}).values(), strict=True):
                    yield dict(zip(samples or {}, item, strict=True))

            converter.representative_dataset = calibration
        try:
            content = bytes(converter.convert())
        except ConverterError as error:
            named_by_it = {found.operator.name.removeprefix("tf.") for found in error.errors if found.operator.name}
            names = named_by_it or set(re.findall(r"\btf\.(\w+) ?[({]", str(error)))
            raise _refusal(names) from error
    refused = {name for name in operators(content) if name in FORBIDDEN or name.startswith("CUSTOM ")}
    if refused:
        raise _refusal(refused)
    return in_8_bits(content) if quantize == "int8-weights" else content


@contextmanager
def _quiet_loader() -> Iterator[None]:
    """Holds back the loader's warning of missing gradients; a converted graph needs none."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refusal(names: set[str]) -> InputError:
    listed = ", ".join(sorted(names)) or "one that the converter does not name"
    return InputError(
        f"expected networks of operators that are built into LiteRT, not random and without a state, found {listed}"
    )


def operators(litert: bytes) -> set[str]:
    """Names of the operators of a ``.tflite``, as the LiteRT schema spells them; others as ``"CUSTOM name"``."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAs(litert)
    spelled = set()
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        # Codes below 127 are in the field of the first schema as well.
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        spelled.add(f"CUSTOM {(code.CustomCode() or b'?').decode()}" if name == "CUSTOM" else name)
    return spelled
