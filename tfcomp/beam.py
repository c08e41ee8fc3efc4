"""Compression on Apache Beam: `Compress` and `Decompress` in a pipeline, wherever it runs.

Payloads equal those of `tfcomp.bulk`: both modules call `tfcomp.outcomes`. A worker process has one codec, which its
threads share. Only the pipeline writes, so that retries and resumption are the runner's.

This module needs the extra ``beam``, and no TensorFlow; ``import tfcomp`` does not import it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcomp import outcomes
from tfcomp.codec import Codec
from tfcomp.errors import InputError, TfcompError, optional_import
from tfcomp.outcomes import Source
from tfcomp.refinement import checked_effort
from tfcomp.storage import container
from tfcomp.storage import names as rule

with optional_import():
    import apache_beam
    from apache_beam.io import fileio
    from apache_beam.metrics import Metrics
    from apache_beam.utils.shared import Shared

__all__ = ["ERRORS", "ArchiveSink", "Compress", "Decompress"]

ERRORS = "errors"
"""Tag of the output of elements that failed: pairs of key and message."""
BATCH = 256
"""Largest number of elements in a batch."""


class Compress(apache_beam.PTransform):  # type: ignore[misc, unused-ignore]
    """Images to payloads.

    The input is files as ``fileio.ReadMatches`` gives them, or pairs of a key and an image: a file's content as bytes,
    an array [H, W, C] of whole numbers 0 to 255, or a ``ReadableFile``. The outputs are, by name: ``payloads``, pairs
    of key and payload, where the key of a file is its path; ``errors``, pairs of key and message for images that cannot
    be used. A file that cannot be reached raises, and the runner tries again.

    Counters of the namespace ``tfcomp``: ``items``, ``payload_bytes`` and ``errors``.

    Args:
        codec: a loaded codec, which is sent with the pipeline; or an artifact's folder, or the name of a bundled one,
            which each worker loads for itself. Default: ``"photographs"``.
        quality: 1 to the codec's `qualities`. Default: the codec's default.
        effort: see `tfcomp.Codec.compress`.
        target_bytes: instead of a quality, the largest payload in bytes, for images of any size.

    Raises:
        InputError: on an effort or a codec of another type; a worker raises it for other options.

    Examples:
        >>> import apache_beam, numpy
        >>> with apache_beam.Pipeline() as pipeline:
        ...     images = pipeline | apache_beam.Create([("grey", numpy.full((40, 60, 3), 128, numpy.uint8))])
        ...     restored = (images | Compress()).payloads | Decompress()
        ...     _ = restored.images | apache_beam.Map(lambda pair: print(pair[0], pair[1].shape))
        grey (40, 60, 3)
    """

    def __init__(
        self,
        codec: Codec | str | None = None,
        *,
        quality: int | None = None,
        effort: int = 0,
        target_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._codec = _sent(codec)
        self._options = {"quality": quality, "effort": checked_effort(effort), "target_bytes": target_bytes}

    def expand(self, images: Any) -> Any:
        compressing = apache_beam.ParDo(_Compressing(self._codec, self._options))
        return _batches(images) | compressing.with_outputs(ERRORS, main="payloads")


class Decompress(apache_beam.PTransform):  # type: ignore[misc, unused-ignore]
    """Pairs of key and payload to images; see `Compress` for an example.

    The outputs are, by name: ``images``, pairs of key and uint8 [H, W, C]; ``errors``, pairs of key and message for
    payloads that the codec cannot have made. The counters are those of `Compress`.

    Args:
        codec: as `Compress` takes it.
        quality: the quality of `Compress`, for items of one shape; payloads of items of any size name theirs.
    """

    def __init__(self, codec: Codec | str | None = None, *, quality: int | None = None) -> None:
        super().__init__()
        self._codec, self._quality = _sent(codec), quality

    def expand(self, payloads: Any) -> Any:
        decompressing = apache_beam.ParDo(_Decompressing(self._codec, {"quality": self._quality}))
        return _batches(payloads) | decompressing.with_outputs(ERRORS, main="images")


class ArchiveSink(fileio.FileSink):  # type: ignore[misc, unused-ignore]
    """Payloads to ``.tfz`` files, for ``fileio.WriteToFiles``: ``sink=lambda destination: ArchiveSink(...)``.

    The records are pairs of key and payload, as `Compress` gives them. The files hold names only if keys are text.

    Args:
        codec: the codec that made the payloads, as `Compress` takes it.
        quality: the quality of `Compress`, for items of one shape.
    """

    def __init__(self, codec: Codec | str | None = None, *, quality: int | None = None) -> None:
        self._codec, self._quality = _sent(codec), quality
        self._shared = Shared()

    def open(self, file: Any) -> None:
        self._file, self._records = file, list[tuple[Any, bytes]]()

    def write(self, record: tuple[Any, bytes]) -> None:
        self._records.append(record)

    def flush(self) -> None:
        codec = _of_quality(_acquired(self._shared, self._codec), self._quality)
        keys = [key for key, _ in self._records]
        with tempfile.TemporaryDirectory(prefix="tfcomp-") as folder:
            path = Path(folder) / "shard.tfz"
            container.write_as_it_goes(
                path,
                (payload for _, payload in self._records),
                fingerprint=bytes.fromhex(codec.fingerprint),
                item_shape=tuple(n or 0 for n in codec.item.shape),
                metadata={"names": [rule.portable(k) for k in keys]} if all(isinstance(k, str) for k in keys) else None,
            )
            self._file.write(path.read_bytes())


# === In a worker ===


class _Worker(apache_beam.DoFn):  # type: ignore[misc, unused-ignore]
    """A step with the codec of its process."""

    def __init__(self, codec: Codec | str | None, options: dict[str, int | None]) -> None:
        self._sent, self._options, self._shared = codec, options, Shared()
        self._counted = {name: Metrics.counter("tfcomp", name) for name in ("items", "payload_bytes", "errors")}

    def setup(self) -> None:
        codec = _acquired(self._shared, self._sent)
        self.codec, self.quality = codec, self._options["quality"]
        codec.parts.quality(self.quality)  # raises if there is no such quality
        if not codec.item.any_size:
            self.codec, self.quality = _of_quality(codec, self.quality), None

    def _done(self, key: Any, value: Any, payload_bytes: int) -> Any:
        self._counted["items"].inc()
        self._counted["payload_bytes"].inc(payload_bytes)
        return key, value

    def _failed(self, key: Any, error: TfcompError) -> Any:
        self._counted["errors"].inc()
        return apache_beam.pvalue.TaggedOutput(ERRORS, (key, str(error)))


class _Compressing(_Worker):
    def process(self, batch: list[Any]) -> Iterator[Any]:
        keys: list[Any] = []
        made = outcomes.compress(
            self.codec,
            self._sources(batch, keys),
            self.quality,
            effort=self._options["effort"] or 0,
            target_bytes=self._options["target_bytes"],
        )
        for i, outcome in enumerate(made):
            if isinstance(outcome, TfcompError):
                yield self._failed(keys[i], outcome)
            else:
                yield self._done(keys[i], outcome[0], len(outcome[0]))

    def _sources(self, batch: list[Any], keys: list[Any]) -> Iterator[Source]:
        """The elements as sources, and their keys; files are read as they are needed."""
        for element in batch:
            key, image = element if isinstance(element, tuple) else (element.metadata.path, element)
            source = str(key)
            if isinstance(image, fileio.ReadableFile):
                with image.open() as file:  # `ReadableFile.read` would leave it open
                    source, image = image.metadata.path, file.read()
            if not isinstance(image, (bytes, np.ndarray)):
                found = f"found {type(image).__name__} of {key!r}"
                raise InputError(f"expected a key with bytes, an array or a ReadableFile, {found}")
            if isinstance(image, np.ndarray) and image.ndim == 2:
                image = image[..., None]
            keys.append(key)
            yield Source(None, image, source)


class _Decompressing(_Worker):
    def process(self, batch: list[tuple[Any, bytes]]) -> Iterator[Any]:
        images = outcomes.decompress(self.codec, (payload for _, payload in batch))
        for (key, payload), image in zip(batch, images, strict=True):
            if isinstance(image, TfcompError):
                yield self._failed(key, image)
            else:
                yield self._done(key, image, len(payload))


def _batches(elements: Any) -> Any:
    """Lists of elements; the networks take one item at a time, the range coder many."""
    return elements | apache_beam.BatchElements(min_batch_size=1, max_batch_size=BATCH)


def _sent(codec: Any) -> Codec | str | None:
    if codec is not None and not isinstance(codec, (Codec, str)):
        raise InputError(f"expected a tfcomp.Codec or an artifact's folder, found {type(codec).__name__}")
    return codec


def _acquired(shared: Shared, codec: Codec | str | None) -> Codec:
    """The codec of this process, one for all its threads."""

    def loaded() -> Codec:
        return codec.with_threads(1) if isinstance(codec, Codec) else Codec.load(codec, threads=1)

    acquired: Codec = shared.acquire(loaded)
    return acquired


def _of_quality(codec: Codec, quality: int | None) -> Codec:
    """The codec of one quality; for items of any size one codec has all qualities."""
    return codec if codec.item.any_size or quality is None else codec.at(quality)
