"""The errors that tfcomp raises on purpose. Each message says what was expected and what was found."""

from __future__ import annotations


class TfcompError(Exception):
    """Base of every error that the user's input, not a defect, is the cause of."""


class InputError(TfcompError, ValueError):
    """Something given by the user cannot be used: a wrong shape, dtype, range, path or option."""


class BitstreamError(TfcompError, ValueError):
    """Bytes that are not what they should be: truncated, extended, changed, or made by another codec."""


class MissingDependencyError(TfcompError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class ServerError(TfcompError, ConnectionError):
    """A server could not be reached, refused a request or answered what nobody can read."""


class WorkerLostError(TfcompError, ConnectionError):
    """A process of several that train one model is gone, and with it the step that it was needed for."""


class everything_as:  # noqa: N801 - a context, and not by `contextlib`, whose import an interrupt would find unhandled
    """The boundary to what others wrote: whatever a file or a server makes a parser raise becomes one named error.

    Args:
        error: the error to raise.
        expected: what was expected, the beginning of its message.
    """

    def __init__(self, error: type[TfcompError], expected: str) -> None:
        self.error, self.expected = error, expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, found: BaseException | None, _: object) -> None:
        if isinstance(found, TfcompError) and not isinstance(found, (self.error, ImportError)):
            raise self.error(f"{self.expected}: {found}") from found
        # A package that is missing or broken is no fault of the file's.
        if isinstance(found, Exception) and not isinstance(found, (TfcompError, ImportError)):
            said = " ".join(str(found).split())[:300]
            raise self.error(f"{self.expected}, found something else ({type(found).__name__}: {said})") from found


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
"""Extra that installs each package that not every installation has."""

BACKENDS = ("jax", "openvino", "torch")
"""Packages that Keras imports first of all where it is told to."""


def missing_dependency(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """What to say of a failed import, or None if the package is not one of an extra (then it is a defect)."""
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
