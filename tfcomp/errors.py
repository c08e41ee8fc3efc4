"""The errors that tfcomp raises on purpose. Each message says what was expected and what was found."""

from __future__ import annotations


class TfcompError(Exception):
    """Base of the errors that tfcomp raises on purpose: their cause is the user's input, not a defect."""


class InputError(TfcompError, ValueError):
    """An argument, option or file that cannot be used: a wrong shape, dtype, range or path."""


class BitstreamError(TfcompError, ValueError):
    """Bytes that are not what they should be: truncated, extended, changed, or made by another codec."""


class MissingDependencyError(TfcompError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class ServerError(TfcompError, ConnectionError):
    """A server could not be reached, refused a request or sent an answer that cannot be read."""


class WorkerLostError(TfcompError, ConnectionError):
    """One of the processes that train a model together has ended, and the step that they computed is lost."""


class everything_as:  # noqa: N801 - a context, and not by `contextlib`, whose import an interrupt would find unhandled
    """The boundary to foreign bytes: errors in it become one class of errors, which begin with ``expected``."""

    def __init__(self, error: type[TfcompError], expected: str) -> None:
        self.error, self.expected = error, expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, raised: BaseException | None, __: object) -> None:
        if isinstance(raised, TfcompError) and not isinstance(raised, (self.error, ImportError)):
            raise self.error(f"{self.expected}: {raised}") from raised
        # A package that is missing or broken is no fault of the file's.
        if isinstance(raised, Exception) and not isinstance(raised, (TfcompError, ImportError)):
            reason = " ".join(str(raised).split())[:300]
            raise self.error(f"{self.expected}, found something else ({type(raised).__name__}: {reason})") from raised


class optional_import:  # noqa: N801 - as `everything_as`
    """The context of an import: a missing package becomes a `MissingDependencyError` that names its extra."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, raised: BaseException | None, __: object) -> None:
        if isinstance(raised, ModuleNotFoundError) and (missing := missing_dependency(raised)):
            raise missing from raised


EXTRAS = {
    "keras": "train",
    "tensorflow": "train",
    "tensorflow_datasets": "train",
    "brotli": "evaluate",
    "matplotlib": "evaluate",
    "pillow_jxl": "evaluate",
    "scipy": "evaluate",
    "zstandard": "evaluate",
    "numba": "fast",
    "fsspec": "bulk",
    "apache_beam": "beam",
    "grpc": "serving",
    "tensorflow_serving": "serving",
}
"""The extra of each optional package."""

BACKENDS = ("jax", "openvino", "torch")
"""Backends of Keras other than TensorFlow: it imports the one that its configuration names before anything else."""


def missing_dependency(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """The error that a failed import becomes; None if the package belongs to no extra, which is a defect."""
    package = (error.name or "").partition(".")[0]
    if package in BACKENDS:
        return MissingDependencyError(
            f"expected Keras's backend to be tensorflow, found {package}, by KERAS_BACKEND or keras.json, which is not "
            "installed"
        )
    if package not in EXTRAS:
        return None
    return MissingDependencyError(
        f'this needs {package}, which is not installed: pip install "tfcomp[{EXTRAS[package]}]"'
    )
