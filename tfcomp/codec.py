"""`Codec`, the front page after training: items to payloads and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcomp import refinement
from tfcomp.entropy.model_set import Model
from tfcomp.errors import BitstreamError, InputError
from tfcomp.items import Item
from tfcomp.parts import Parts, Tally
from tfcomp.pipelines import Pipeline, pipeline_of
from tfcomp.runtimes.litert import LiteRTTransform
from tfcomp.uniform import UniformPipeline

if TYPE_CHECKING:
    from tfcomp.models.latent_model import LatentModel


@dataclass(frozen=True)
class CompressionReport:
    """Counts of one call of `Codec.compress_with_report`.

    Attributes:
        images: number of items.
        payload_bytes: total length of the payloads.
        ideal_bits: ideal code length of all integers under the same tables.
        clipped: number of integers that lay outside their table's support and became the nearest value inside.
        latents: number of integers.
    """

    images: int
    payload_bytes: int
    ideal_bits: float
    clipped: int
    latents: int


class Codec:
    """Items to payloads and back. Make one with `Codec.freeze` or `Codec.load`.

    Args:
        parts: networks, items and qualities.

    Examples:
        >>> import numpy as np
        >>> codec = Codec.load()  # the bundled one, for photographs of any size
        >>> photograph = np.full((40, 60, 3), 128, np.uint8)
        >>> [restored] = codec.decompress(codec.compress([photograph], quality=5))
        >>> restored.shape
        (40, 60, 3)

    A codec that was loaded for LiteRT or TensorFlow can be sent to another process, by pickle.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    # === Making ===

    @classmethod
    def freeze(
        cls,
        model: LatentModel,
        calibration: Any,
        *,
        step: float | Sequence[float] | None = None,
        target_psnr_db: float | None = None,
        target_bytes: float | None = None,
        precision: int = 12,
        sets: int = 1,
        latents: str = "mean",
        seed: int = 0,
    ) -> Codec:
        """Fix the quantization steps and the integer tables of a trained model. Nothing trainable is left.

        Args:
            model: an `AutoEncoder` or a `VAE`. Training it further does not change the codec.
            calibration: items like those to be compressed, to which steps and tables are fitted; use training images.
                uint8 [N, H, W, C] in an array or a data set, a folder or a list of image files; for items of any
                size also a list of arrays [H, W, C]. See `tfcomp.freezing.calibration`.
            step: multiple of each latent's unit (see `tfcomp.freezing.steps`). Default: 1 for an `AutoEncoder` trained
                with ``beta > 0``; otherwise what costs 0.5 dB against no quantization. Several, from the largest to
                the smallest, make a codec of as many qualities. A model trained for several prices has its own.
            target_psnr_db: instead of a step, the PSNR in dB that the calibration items are to have.
            target_bytes: instead of a step, the mean payload in bytes that they are to have.
            precision: bits of the tables' frequencies, 1 to 14.
            sets: number of sets of tables that compete for each message, for items of one shape. On MNIST, 64 save 5 to
                8 % of the bytes (``benchmarks/mnist_rate_distortion.py``); they ask for thousands of calibration
                images, and their size is in every artifact.
            latents: ``"mean"``, or ``"sample"`` for a sample of the posterior, of a `VAE` or an `AutoEncoder` with
                ``beta > 0``, for items of one shape; see `tfcomp.freezing.freeze`. The mean needs fewer bytes for the
                same picture.
            seed: of the sample's shared randomness, 0 to 2**32 - 1.

        Returns:
            A codec that runs on the model's networks in TensorFlow.

        Raises:
            InputError: on options that exclude one another, a target out of reach, wrong or too few calibration items,
                latents that are not finite, or ``latents="sample"`` with a model that has no posterior.

        Examples:
            >>> import tfcomp
            >>> images = tfcomp.datasets.load_arrays("glyphs")[0][:64]
            >>> model = tfcomp.AutoEncoder.dense((28, 28, 1), latent_dim=8, hidden=(32,))
            >>> codec = Codec.freeze(model, calibration=images, step=1.0)
            >>> len(codec.compress(images))
            64
        """
        from tfcomp.freezing.freeze import freeze

        return cls(freeze(
            model, calibration, step=step, target_psnr_db=target_psnr_db, target_bytes=target_bytes,
            precision=precision, sets=sets, latents=latents, seed=seed,
        ))  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path | None = None, *, runtime: str = "litert", threads: int | None = None) -> Codec:
        """Read an artifact that `export` wrote.

        Args:
            folder: the artifact, or the name of a bundled one. Default: ``"photographs"``.
            runtime: runtime of the networks: ``"litert"``, without TensorFlow; ``"tensorflow"``, the SavedModels, in
                batches; ``"keras"``, the trained model where the artifact keeps it, for another export.
            threads: number of LiteRT's threads. Default: 1 for items of one shape; for items of any size the number of
                processors.

        Returns:
            The codec of all qualities of the artifact.

        Raises:
            InputError: if the folder is no artifact or the runtime is unknown.
            BitstreamError: if a file is missing or differs from its description in the manifest.
            MissingDependencyError: if the runtime is not installed.
        """
        from tfcomp.artifact.reading import load

        return cls(load(folder, runtime=runtime, threads=threads))

    def export(
        self, folder: str | Path, *, quantize: str = "float32", side: int | None = None, with_model: bool = False
    ) -> dict[str, Any]:
        """Write the artifact folder, whole or not at all; an earlier artifact there is replaced in one step.

        Args:
            folder: the folder to write.
            quantize: type of the networks in ``.tflite`` files: ``"float32"``; ``"float16"`` or ``"int8-weights"``
                weights, computing in float32; ``"dynamic"`` weights of 8 bits, computing in them where LiteRT can;
                ``"int8"`` weights and activations, calibrated. The last two are for items of one shape. The SavedModels
                are always float32.
            side: for items of any size and runtimes that cannot resize tensors, such as LiteRT.js: side in pixels, 8 to
                4096, of the images of ``encoder.tflite`` and ``decoder.tflite``, which have fixed shapes then.
            with_model: keep the trained model too, so that `tfcomp.load_model` of the folder can train on.

        Returns:
            The manifest.

        Raises:
            InputError: on a codec without its trained networks, an unknown quantization, or networks with an operator
                that LiteRT does not have built in; the message names it.
        """
        from tfcomp.artifact.exporting import export

        return export(self.parts, folder, quantize=quantize, side=side, with_model=with_model)

    # === What it is ===

    @property
    def item(self) -> Item:
        """Shape of the items."""
        return self.parts.item

    @property
    def fingerprint(self) -> str:
        """Hexadecimal name, 32 digits, of payload format and tables; equal for every runtime of one artifact."""
        return self.parts.fingerprint.hex()

    @property
    def qualities(self) -> int:
        """Number of qualities; they are numbered from 1, in rising order of bytes."""
        return len(self.parts.qualities)

    @property
    def default_quality(self) -> int:
        """Number of the quality that `compress` takes by default."""
        return self.parts.default_quality

    @property
    def entropy_model(self) -> Model:
        """The entropy model of the default quality."""
        return self.parts.quality().entropy

    @property
    def compute(self) -> Mapping[str, float]:
        """Multiply-accumulates of each network for a pixel, by name; empty if unknown."""
        return self.parts.compute

    @property
    def max_pixels(self) -> int:
        """Most pixels of an item of any size, to compress or to decompress; see `with_max_pixels`."""
        return self.parts.max_pixels

    def with_max_pixels(self, max_pixels: int) -> Codec:
        """The codec with another limit of pixels for each item of any size; the default is 89 million, Pillow's.

        A payload of some bytes may claim any number of pixels, and time and memory for them. Beyond the limit it is
        refused first; ``SECURITY.md`` says what decoding takes below it. Image files beyond it are refused by their
        headers. The graphs of an export have the limit of the codec. No format goes beyond 268 million.

        Args:
            max_pixels: the limit, 1 or more, for the pixels of an item and those that mirroring adds at its edges.

        Raises:
            InputError: on any other limit.

        Examples:
            >>> import numpy as np
            >>> careful = Codec.load().with_max_pixels(1000)
            >>> careful.compress([np.zeros((40, 60, 3), np.uint8)])
            Traceback (most recent call last):
                ...
            tfcomp.errors.InputError: expected at most 1000 pixels, found 60x40; ...
        """
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise InputError(f"expected a limit of 1 pixel or more, found {max_pixels!r}")
        return Codec(replace(self.parts, max_pixels=max_pixels))

    def with_threads(self, threads: int) -> Codec:
        """The codec with another number of LiteRT's threads; a codec of another runtime is returned as it is.

        They are the networks' alone. An item of several tiles is coded in one more thread meanwhile.
        Where several processes share the processors, one thread in each is right.

        Args:
            threads: 1 or more.

        Raises:
            InputError: on any other number.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise InputError(f"expected a number of threads of 1 or more, found {threads!r}")
        transform = self.parts.transform
        if not isinstance(transform, LiteRTTransform):
            return self
        return Codec(replace(self.parts, transform=transform.with_threads(threads)))

    def at(self, quality: int) -> Codec:
        """The codec of one quality, 1 to `qualities`; raises `InputError` on any other number."""
        return Codec(self.parts.at(quality))

    @cached_property
    def codecs(self) -> tuple[Codec, ...]:
        """The codec of each quality, the lowest first."""
        if self.qualities == 1:
            return (self,)
        return tuple(self.at(quality.number) for quality in self.parts.qualities)

    def that_made(self, fingerprint: bytes) -> Codec:
        """This codec or that of one of its qualities, whichever has the fingerprint, 16 bytes, of a ``.tfz`` file.

        Raises:
            BitstreamError: if none has it.
        """
        if not isinstance(fingerprint, bytes):
            raise InputError(f"expected a fingerprint as 16 bytes, found {type(fingerprint).__name__}")
        for codec in (self, *self.codecs):
            if codec.parts.fingerprint == fingerprint:
                return codec
        raise BitstreamError(f"expected payloads of the codec {self.fingerprint}, found those of {fingerprint.hex()}")

    # === Payloads ===

    def compress(
        self, items: Any, quality: int | None = None, *, effort: int = 0, target_bytes: int | None = None
    ) -> list[bytes]:
        """Items to payloads, one bytes object each.

        Args:
            items: of one shape: an array [N, H, W, C] or a data set. Of any size: a sequence of arrays [H, W, C], or
                [H, W] where the codec has one channel or three. Values are whole numbers of 0 to 255.
            quality: 1 to `qualities`. Default: `default_quality`.
            effort: largest number of looks through the decoder for integers of fewer bytes or a better picture than
                rounding gives; see `tfcomp.refinement`. 16 gains nearly everything. Any decoder reads the bytes.
            target_bytes: instead of a quality, the largest payload in bytes, for items of any size.

        Returns:
            A payload for each item.

        Raises:
            InputError: on other arguments, if no quality fits the target, or on an effort with an artifact whose
                encoder was exported without a gradient.

        Examples:
            >>> import numpy as np
            >>> [payload] = Codec.load().compress([np.zeros((40, 60, 3), np.uint8)], target_bytes=100)
            >>> len(payload) <= 100
            True
        """
        return self._compressed(items, quality, effort, target_bytes)[0]

    def compress_with_report(
        self, items: Any, quality: int | None = None, *, effort: int = 0, target_bytes: int | None = None
    ) -> tuple[list[bytes], CompressionReport]:
        """The payloads of `compress`, and their `CompressionReport`; arguments and errors as of `compress`.

        Examples:
            >>> import numpy as np
            >>> payloads, report = Codec.load().compress_with_report([np.zeros((40, 60, 3), np.uint8)])
            >>> report.payload_bytes == len(payloads[0]), report.clipped
            (True, 0)
        """
        payloads, tally = self._compressed(items, quality, effort, target_bytes)
        ideal_bits = self._pipeline.ideal_bits(payloads, self.parts.quality(quality))
        size = sum(map(len, payloads))
        return payloads, CompressionReport(len(payloads), size, ideal_bits, tally.clipped, tally.integers)

    def _compressed(
        self, items: Any, quality: int | None, effort: int, target_bytes: int | None
    ) -> tuple[list[bytes], Tally]:
        if quality is not None and target_bytes is not None:
            raise InputError("expected a quality or target_bytes, found both")
        looks = refinement.checked_effort(effort)
        return self._pipeline.compress(items, self.parts.quality(quality), looks, target_bytes)

    def decompress(self, payloads: Sequence[bytes], quality: int | None = None) -> Any:
        """Payloads to items.

        Args:
            payloads: payloads of `compress`.
            quality: the quality of `compress`, for items of one shape; payloads of items of any size name theirs.

        Returns:
            uint8 [N, H, W, C] for items of one shape; a list of uint8 [H, W, C] for items of any size.

        Raises:
            BitstreamError: if a payload cannot have been made by this codec. A bare payload carries no checksum: bytes
                of the right kind but of another model decode to some image; a ``.tfz`` file can tell.
        """
        return self._pipeline.decompress(_listed(payloads), self.parts.quality(quality))

    def describe(self, payload: bytes) -> str:
        """Size and bytes of a payload, in a few words; raises `BitstreamError` if this codec cannot have made it."""
        return self._pipeline.describe(payload, self.parts.quality())

    def claimed_pixels(self, payload: bytes) -> int:
        """Number of pixels that decoding a payload takes, by its first bytes; raises `BitstreamError` as `describe`."""
        return self._pipeline.claimed_pixels(payload)

    # === Integers ===

    def encode(self, items: Any, quality: int | None = None, *, effort: int = 0) -> Any:
        """The integers that `compress` codes; arguments and errors as of `compress`.

        Returns:
            int32 [N, *latent_shape] for items of one shape; a list of int32 [rows, columns, channels] for any size.
        """
        return self._pipeline.encode(items, self.parts.quality(quality), refinement.checked_effort(effort))[0]

    def decode(self, payloads: Sequence[bytes], quality: int | None = None) -> Any:
        """The integers of payloads, as `encode` gives them and the same on every machine; errors as of `decompress`."""
        return self._pipeline.decode(_listed(payloads), self.parts.quality(quality))

    def reconstruct(self, integers: Any, quality: int | None = None) -> Any:
        """Items of one shape from their integers, as `encode` gives them: uint8 [N, H, W, C].

        Raises:
            InputError: for items of any size, whose integers do not say their size.
        """
        if not isinstance(self._pipeline, UniformPipeline):
            raise InputError("expected integers of items of one shape; those of any size do not say their size")
        return self._pipeline.reconstruct(integers, self.parts.quality(quality))

    @cached_property
    def _pipeline(self) -> Pipeline:
        return pipeline_of(self.parts)

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts}

    def __deepcopy__(self, memo: dict[int, Any]) -> Codec:
        return self  # a codec never changes


def _listed(payloads: Sequence[bytes]) -> Sequence[bytes]:
    if isinstance(payloads, (bytes, bytearray, memoryview)):
        raise InputError("expected a list of payloads, found one bytes object; wrap it in a list")
    if not isinstance(payloads, Iterable):
        raise InputError(f"expected a list of payloads, found {type(payloads).__name__}")
    listed = [bytes(p) if isinstance(p, (bytearray, memoryview)) else p for p in payloads]
    for payload in listed:
        if not isinstance(payload, bytes):
            raise BitstreamError(f"expected payloads as bytes, found {type(payload).__name__}")
    return listed
