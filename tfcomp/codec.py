"""The codec: encoder + integer tables + decoder. It turns arrays into payloads and back.

    uint8 images [N, H, W, C] --networks.encode--> int32 latents [N, *latent_shape] --EntropyModel--> N payloads

A codec has nothing trainable left. It does not know where its networks run: in Keras after `Codec.freeze`, in LiteRT
or TensorFlow after `Codec.load`. The latents are what must be exact, and they are: integers on both sides of the bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tfcomp.coding import range_coder
from tfcomp.coding.tables import FrequencyTables, Int32
from tfcomp.errors import BitstreamError, InputError

if TYPE_CHECKING:
    from tfcomp.entropy.refinement import Refiner
    from tfcomp.models.autoencoder import LatentModel

Images = NDArray[np.uint8]

FINGERPRINT_BYTES = 16


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """Integer latents <-> payloads: which table codes each position, in how many segments, and what an integer means.

    Attributes:
        tables: the integer tables, in any number; with several sets, all of them and the selector (see `range_coder`).
        index: int32 [symbols]: the table of each position of a message within its set, in C order of the latent.
        step, offset: float32 [*latent_shape]; integer ``q`` at a position stands for ``q * step + offset`` there. The
            networks apply them; they are here because the meaning of a payload, hence the fingerprint, depends on them.
        symbols_per_segment: a message of more symbols than this is coded in parallel segments. 2,048 symbols of 3 bits
            cost 0.3 % in segments and let LiteRT code 10 million symbols a second (`benchmarks/graph_coder_speed.py`).
        sets: how many sets of tables compete for each segment.
    """

    tables: FrequencyTables
    index: Int32
    step: NDArray[np.float32]
    offset: NDArray[np.float32]
    symbols_per_segment: int = 2048
    sets: int = 1

    def __post_init__(self) -> None:
        for name, array in (("step", self.step), ("offset", self.offset)):
            if array.dtype != np.float32 or array.shape != self.step.shape or not np.all(np.isfinite(array)):
                found = f"{array.dtype} {array.shape}"
                raise BitstreamError(f"expected a finite float32 {name} of the latent's shape, found {found}")
        if self.step.ndim < 1 or self.step.size < 1 or self.symbols_per_segment < 1:
            raise BitstreamError(
                f"expected a latent of one position or more and at least one symbol per segment, "
                f"found {self.step.shape} and {self.symbols_per_segment}"
            )
        if self.index.dtype != np.int32 or self.index.shape != (self.symbols,):
            found = f"{self.index.dtype} {self.index.shape}"
            raise BitstreamError(f"expected a table index as int32 ({self.symbols},), found {found}")
        if self.index.min() < 0 or self.index.max() >= len(self.tables):
            raise BitstreamError(f"expected table indices below {len(self.tables)}, found up to {self.index.max()}")
        try:
            range_coder.max_payload_bytes(self.tables, self.index, self.segments, self.sets)
        except InputError as error:
            raise BitstreamError(str(error)) from error

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one item's latent."""
        return self.step.shape

    @property
    def symbols(self) -> int:
        """Symbols in one message."""
        return math.prod(self.latent_shape)

    @property
    def segments(self) -> int:
        return range_coder.segment_count(self.symbols, self.symbols_per_segment)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name everything a payload's meaning depends on, short of the decoder's weights."""
        layout = [range_coder.FORMAT_VERSION, self.segments, self.sets, *self.latent_shape]
        parts = [self.tables.digest(), np.array(layout, "<i4").tobytes()]
        parts += [self.index.astype("<i4").tobytes(), *(a.astype("<f4").tobytes() for a in (self.step, self.offset))]
        return hashlib.sha256(b"".join(parts)).digest()[:FINGERPRINT_BYTES]

    def flat(self, latents: NDArray[np.integer]) -> NDArray[np.integer]:
        """[N, *latent_shape] -> [N, symbols]."""
        if latents.shape[1:] != self.latent_shape or not np.issubdtype(latents.dtype, np.integer):
            raise InputError(
                f"expected integer latents [N, *{self.latent_shape}], found {latents.dtype} {latents.shape}"
            )
        return latents.reshape(len(latents), self.symbols)

    def clip(self, latents: Int32) -> Int32:
        """int32 [N, *latent_shape], each value moved to the nearest one that its table holds."""
        return self.tables.clip(self.flat(latents), self.index).reshape(latents.shape)

    def encode(self, latents: Int32) -> list[bytes]:
        """int32 [N, *latent_shape], inside the tables' supports -> N payloads."""
        flat = self.flat(latents).astype(np.int32)
        return range_coder.encode(flat, self.tables, self.index, self.segments, self.sets)

    def decode(self, payloads: Sequence[bytes]) -> Int32:
        """N payloads -> int32 [N, *latent_shape]. Raises `BitstreamError` on what cannot be a payload of this model."""
        latents = range_coder.decode(payloads, self.tables, self.index, self.segments, self.sets)
        return latents.reshape(len(latents), *self.latent_shape)

    def ideal_bits(self, latents: Int32) -> NDArray[np.float64]:
        """float64 [N]: the ideal code length of each item under the integer tables, in bits, selectors included."""
        selectors, table = self.tables_of(latents)
        return selectors + self.tables.ideal_bits(self.flat(latents).astype(np.int32), table).sum(axis=1)

    def tables_of(self, latents: NDArray[np.integer]) -> tuple[NDArray[np.float64], Int32]:
        """Bits of each item's selectors, float64 [N], and the table that codes each symbol, int32 [N, symbols]."""
        flat = self.flat(latents).astype(np.int32)
        if self.sets == 1:
            return np.zeros(len(flat)), np.broadcast_to(self.index, flat.shape)
        chosen = range_coder.choose_sets(flat, self.tables, self.index, self.segments, self.sets)
        per_segment = -(-self.symbols // self.segments)
        in_use = -(-self.symbols // per_segment)
        selectors = self.tables.ideal_bits(chosen[:, :in_use], np.array([len(self.tables) - 1], np.int32))
        of_set = np.repeat(chosen, per_segment, axis=1)[:, : self.symbols] * np.int32(len(self.tables) // self.sets)
        return selectors.sum(axis=1), of_set + self.index

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything above as named arrays, for ``tables.npz``."""
        return {
            **self.tables.arrays(),
            "index": self.index,
            "step": self.step,
            "offset": self.offset,
            "symbols_per_segment": np.array(self.symbols_per_segment, np.int32),
            "sets": np.array(self.sets, np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> EntropyModel:
        """The inverse of `arrays`; raises `BitstreamError` on anything that is not a valid model."""
        missing = {"index", "step", "offset", "symbols_per_segment", "sets"} - set(arrays)
        if missing:
            raise BitstreamError(f"expected the arrays of an entropy model, found none named {sorted(missing)}")
        tables = FrequencyTables.from_arrays(arrays)
        segment, sets = int(arrays["symbols_per_segment"]), int(arrays["sets"])
        return cls(tables, arrays["index"], arrays["step"], arrays["offset"], segment, sets)


class Networks(Protocol):
    """The two float networks with quantization at their inner edge, wherever they run. Both are deterministic."""

    def encode(self, images: Images) -> Int32:
        """uint8 [N, *image_shape] -> int32 latents [N, *latent_shape], rounded, not yet clipped."""
        ...

    def decode(self, latents: Int32) -> Images:
        """int32 [N, *latent_shape] -> uint8 [N, *image_shape]."""
        ...


class DifferentiableNetworks(Networks, Protocol):
    """Networks that can say how the error of a picture follows the integers: those of a codec that was just frozen."""

    @property
    def calibration(self) -> Images:
        """Some of the images that the codec was fitted to, uint8 [N, *image_shape]."""
        ...

    def slope(self, images: Images, latents: Int32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Squared error of each image, of pixels on [0, 1], and its gradient: float32 [N] and [N, *latent_shape]."""
        ...

    def curvature(self, latents: Int32) -> NDArray[np.float64]:
        """Half its second derivatives, each integer's alone, mean over images: float64 [*latent_shape]."""
        ...


def differentiable(networks: Networks) -> DifferentiableNetworks:
    """The same; raises `InputError` if they are of a codec that was loaded."""
    if not hasattr(networks, "slope"):
        raise InputError(
            "expected effort=0 with a codec that was loaded, as its networks have no gradients; freeze one"
        )
    return networks  # type: ignore[return-value]


@dataclass(frozen=True)
class CompressionReport:
    """What `Codec.compress` did.

    Attributes:
        images: how many images.
        payload_bytes: total length of the payloads.
        ideal_bits: what an ideal entropy coder would have needed under the same tables.
        clipped: latents that the encoder found outside their table's support, and took the nearest value inside.
        latents: how many latents there were in all.
    """

    images: int
    payload_bytes: int
    ideal_bits: float
    clipped: int
    latents: int


class Codec:
    """Images to payloads and back. Make one with `Codec.freeze` or `Codec.load`.

    Attributes:
        networks: the two networks; see `Networks`.
        entropy_model: the latents' integer tables.
        image_shape: (height, width, channels) of the uint8 images.
    """

    BATCH = 256

    def __init__(self, networks: Networks, entropy_model: EntropyModel, image_shape: tuple[int, ...]) -> None:
        self.networks = networks
        self.entropy_model = entropy_model
        self.image_shape = tuple(image_shape)

    @classmethod
    def freeze(cls, model: LatentModel, calibration: Any, **options: Any) -> Codec:
        """Fix quantization steps and tables of a trained model; see `tfcomp.freezing.freeze.freeze` for the options."""
        from tfcomp.freezing import freeze as freezing

        return freezing.freeze(model, calibration, **options)

    @classmethod
    def load(cls, folder: str | Path, *, runtime: str = "litert") -> Codec:
        """Read an artifact that `export` wrote; see `tfcomp.artifact.manifest.load`."""
        from tfcomp.artifact import manifest as artifacts

        return artifacts.load(folder, runtime=runtime)

    def export(self, folder: str | Path, **options: Any) -> dict[str, Any]:
        """Write the artifact folder; see `tfcomp.artifact.exporting.export`. Returns its manifest."""
        from tfcomp.artifact import exporting

        return exporting.export(self, folder, **options)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal name of the payload format and tables; equal for every runtime of one artifact."""
        return self.entropy_model.fingerprint.hex()

    # === Qualities ===

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codec of each quality, the lowest first: itself, or those of a `qualities.VariableRateCodec`."""
        return (self,)

    @property
    def qualities(self) -> int:
        """How many qualities there are to choose from."""
        return len(self.codecs)

    def at(self, quality: int) -> Codec:
        """The codec of one quality, from 1 to `qualities`."""
        if quality not in range(1, self.qualities + 1):
            raise InputError(f"expected a quality from 1 to {self.qualities}, found {quality!r}")
        return self.codecs[int(quality) - 1]

    def that_made(self, fingerprint: bytes) -> Codec:
        """The codec, among those of all qualities, whose 16-byte fingerprint a ``.tfz`` file names.

        Raises:
            BitstreamError: if it is none of them.
        """
        for codec in self.codecs:
            if codec.entropy_model.fingerprint == fingerprint:
                return codec
        expected = " or ".join(codec.fingerprint for codec in self.codecs)
        raise BitstreamError(f"expected payloads of the codec {expected}, found those of {fingerprint.hex()}")

    # === Latent level ===

    def encode(self, images: Any, effort: int = 0) -> Int32:
        """uint8 [N, *image_shape] -> the int32 latents [N, *latent_shape] that `compress` codes."""
        return self._encoded(images, effort)[0]

    def decode(self, latents: Int32) -> Images:
        """int32 latents [N, *latent_shape] -> uint8 [N, *image_shape]."""
        self.entropy_model.flat(latents)
        return self._run(self.networks.decode, latents, "decode")

    # === Payload level ===

    def compress(self, images: Any, quality: int | None = None, effort: int = 0) -> list[bytes]:
        """uint8 images [N, *image_shape] -> N payloads.

        Args:
            images: an array or a data set; integers and floats are accepted where every value is a whole number in
                0..255, so that nothing is rounded away unseen.
            quality: 1 to `qualities`, in rising order of bytes. Default: the highest.
            effort: how many times at most to look through the decoder for integers that make fewer bytes or a better
                picture than rounding; see `refinement`. 16 is nearly all there is to gain. Any decoder reads the bytes.

        Raises:
            InputError: if the arguments are not as above, or for an effort with a codec that was loaded.
        """
        return (self if quality is None else self.at(quality)).compress_with_report(images, effort)[0]

    def compress_with_report(self, images: Any, effort: int = 0) -> tuple[list[bytes], CompressionReport]:
        """`compress`, and what it cost and clipped."""
        latents, clipped = self._encoded(images, effort)
        payloads = self.entropy_model.encode(latents)
        report = CompressionReport(
            images=len(payloads),
            payload_bytes=sum(map(len, payloads)),
            ideal_bits=float(self.entropy_model.ideal_bits(latents).sum()),
            clipped=clipped,
            latents=int(latents.size),
        )
        return payloads, report

    def decompress(self, payloads: Sequence[bytes], quality: int | None = None) -> Images:
        """N payloads -> uint8 [N, *image_shape].

        Args:
            payloads: what `compress` made.
            quality: that which `compress` was given; the payloads do not say it.

        Raises:
            BitstreamError: if a payload cannot have been made by this codec. A bare payload carries no checksum: bytes
                of the right kind but of another model decode to some image; a ``.tfz`` file can tell.
        """
        if isinstance(payloads, (bytes, bytearray, memoryview)):
            raise InputError("expected a list of payloads, found one bytes object; wrap it in a list")
        if quality is not None:
            return self.at(quality).decompress(payloads)
        return self._run(self.networks.decode, self.entropy_model.decode(payloads), "decode")

    # === Inside ===

    @cached_property
    def _refiner(self) -> Refiner:
        from tfcomp.entropy.refinement import Refiner

        return Refiner(self)

    def _encoded(self, images: Any, effort: int) -> tuple[Int32, int]:
        """The latents to code, and how many of them the encoder found outside their table's support."""
        pixels = self._images(images)
        found = self._run(self.networks.encode, pixels, "encode")
        latents = self.entropy_model.clip(found)
        clipped = int(np.count_nonzero(found != latents))
        return (self._refiner.refine(pixels, latents, effort) if effort else latents), clipped

    def _images(self, images: Any) -> Images:
        from tfcomp.data.datasets import as_images

        found = as_images(images)
        if found.shape[1:] != self.image_shape:
            raise InputError(f"expected images of shape [N, *{self.image_shape}], found {found.shape}")
        return found

    def _run(self, network: Any, items: NDArray[Any], label: str) -> NDArray[Any]:
        starts = range(0, len(items), self.BATCH)
        bar = tqdm(starts, desc=label, unit="batch", delay=1.0, leave=False, disable=None)
        parts = [network(items[i : i + self.BATCH]) for i in bar]
        return np.concatenate(parts) if parts else network(items)
