"""The boundary to what others wrote: whatever a parser raises, one named error comes of it."""

from __future__ import annotations

import tokenize
import zlib

import pytest

from tfcomp.errors import (
    BitstreamError,
    InputError,
    MissingDependencyError,
    ServerError,
    TfcompError,
    everything_as,
    optional_import,
)

ODD = [MemoryError(), RecursionError("deep"), OverflowError("large\nnumber"), zlib.error("-3"), NotImplementedError()]
ODD += [RuntimeError("password"), IndexError(), AttributeError("x"), tokenize.TokenError("EOF"), StopIteration()]
ODD += [
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
    OSError(5, "Input/output error"),
    EOFError("é" * 999),
]


@pytest.mark.parametrize("found", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("named", [BitstreamError, InputError, ServerError])
def test_whatever_a_parser_raises_becomes_one_named_error(found: Exception, named: type[TfcompError]) -> None:
    with (
        pytest.raises(named, match=f"^expected a file, found something else .{type(found).__name__}: ") as raised,
        everything_as(named, "expected a file"),
    ):
        raise found
    assert raised.value.__cause__ is found
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("found", [BitstreamError("as it is"), MissingDependencyError("x"), ModuleNotFoundError("x")])
def test_what_is_named_already_and_what_is_not_installed_pass(found: Exception) -> None:
    with pytest.raises(type(found)) as raised, everything_as(BitstreamError, "expected a file"):
        raise found
    assert raised.value is found


@pytest.mark.parametrize("found", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_is_no_error_passes(found: BaseException) -> None:
    with pytest.raises(type(found)), everything_as(BitstreamError, "expected a file"):
        raise found


def test_another_named_error_becomes_that_of_the_boundary() -> None:
    with (
        pytest.raises(BitstreamError, match="expected tables: expected a grid"),
        everything_as(BitstreamError, "expected tables"),
    ):
        raise InputError("expected a grid")


@pytest.mark.parametrize(
    ("package", "extra"), [("scipy.interpolate", "evaluate"), ("fsspec", "bulk"), ("grpc", "serving")]
)
def test_a_missing_optional_package_is_named_with_its_extra(package: str, extra: str) -> None:
    found = ModuleNotFoundError("gone", name=package)
    with pytest.raises(MissingDependencyError, match=rf"tfcomp\[{extra}\]") as raised, optional_import():
        raise found
    assert raised.value.__cause__ is found


@pytest.mark.parametrize("found", [ModuleNotFoundError("x", name="unknown"), ImportError("broken"), ValueError("x")])
def test_other_errors_of_an_import_pass(found: Exception) -> None:
    with pytest.raises(type(found)) as raised, optional_import():
        raise found
    assert raised.value is found
