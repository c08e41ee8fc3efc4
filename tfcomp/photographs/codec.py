"""Photographs of any size to payloads and back: `PhotographCodec`, trained and bundled with the package.

A payload, version 1. Integers of more than a byte are varints (`tfcomp.coding.varints`)::

    1 byte    quality - 1 in bits 0 to 2; bit 3: grey; the other bits 0
    varints   height, width in pixels; then the lengths of all tiles but the last
    tiles     end to end, row by row: see `coder`

A height or width of at most 32 pixels is mirrored by 8 pixels at both ends, as the networks see little of so small an
image; then the image is mirrored at its right and lower edge to a multiple of 8. A tile codes 128 x 128 positions of
the latent, 1024 x 1024 pixels, fewer at those edges, or as many in another form if there are fewer rows or columns::

    rows = min(rows of the latent, max(128, 128**2 // columns of the latent)),    columns = 128**2 // rows

The integers of a tile need no other tile. Its pixels do, next to its edges: the networks see some positions beyond
them, so that the pixels come out as they would from one large tile, and no seam shows.

A tile has at least one byte, so that a payload of ``n`` bytes claims at most ``n`` tiles, and memory for no more.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tfcomp.coding import varints
from tfcomp.coding.tables import FrequencyTables
from tfcomp.entropy import tiles as coder
from tfcomp.entropy.context import ContextModel
from tfcomp.errors import BitstreamError, InputError
from tfcomp.photographs.old_layout import CHANNELS, STRIDE

VERSION = 1
DEFAULT_QUALITY = 5
TILE = 128
MARGIN = 6
"""At least how far the networks see, in positions: 5 the synthesis, 3 the analysis."""
SMALL = 32
MOST_PIXELS = 1 << 28
"""Of an image with what it is mirrored by."""
ANALYSIS, SYNTHESIS, WEIGHTS, TABLES = "analysis.tflite", "synthesis.tflite", "networks.npz", "contexts.npz"

_GREY = 1 << 3
_FINEST, _COARSEST = 1.0, 0.35
"""Between them, the worth of error varies to meet a number of bytes, as a part of that of the quality."""
_TRIALS = 5

Images = NDArray[np.uint8]
Float32 = NDArray[np.float32]


class Networks(Protocol):
    """The two float networks, wherever they run."""

    def analyse(self, image: Images) -> Float32:
        """uint8 [H, W, 3], multiples of 8 -> float32 [H / 8, W / 8, CHANNELS], in levels of 8-bit pixels."""
        ...

    def synthesise(self, latent: Float32, steps: Float32, quality: Float32) -> Images:
        """float32 [h, w, CHANNELS] of integers, [CHANNELS], [qualities] of zeros and a one -> uint8 [8 h, 8 w, 3]."""
        ...


class PhotographCodec:
    """Photographs to payloads and back. `load` reads the one that comes with the package.

    Args:
        networks: the two networks.
        models: the integers of each quality, the lowest first.
        steps: float32 [qualities, CHANNELS], the quantization steps, in levels of 8-bit pixels.
        prices: float32 [qualities, CHANNELS], the bits that a squared step of error is worth to the encoder.
        macs_per_pixel: multiply-accumulates of each network, by name.
    """

    def __init__(
        self,
        networks: Networks,
        models: Sequence[ContextModel],
        steps: Float32,
        prices: Float32,
        macs_per_pixel: Mapping[str, float],
    ) -> None:
        self.networks, self.models, self.steps, self.prices = networks, tuple(models), steps, prices
        self.macs_per_pixel = macs_per_pixel

    @staticmethod
    def load(threads: int | None = None) -> PhotographCodec:
        """The codec that comes with the package, on LiteRT.

        Args:
            threads: of the networks; by default as many as there are processors.
        """
        from tfcomp.photographs.litert import LiteRTNetworks

        folder = resources.files("tfcomp.photographs") / "weights"
        networks = LiteRTNetworks((folder / ANALYSIS).read_bytes(), (folder / SYNTHESIS).read_bytes(), threads)
        try:
            with np.load(io.BytesIO((folder / TABLES).read_bytes()), allow_pickle=False) as arrays:
                return from_arrays(networks, {name: arrays[name] for name in arrays.files})
        except (zipfile.BadZipFile, KeyError, IndexError, ValueError) as error:
            raise BitstreamError(f"expected the contexts of the bundled codec, found {error}") from error

    @property
    def qualities(self) -> int:
        """How many qualities there are, from 1, in rising order of bytes."""
        return len(self.models)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name everything a payload's meaning depends on, short of the networks' weights."""
        arrays = to_arrays(self)
        names = sorted(name for name in arrays if name != "prices" and not name.startswith("macs_"))
        parts = [VERSION.to_bytes(), *(np.ascontiguousarray(arrays[name]).tobytes() for name in names)]
        return hashlib.sha256(b"".join(parts)).digest()[:16]

    # === Payloads ===

    def compress(self, image: Any, quality: int = DEFAULT_QUALITY, *, target_bytes: int | None = None) -> bytes:
        """One photograph as a payload.

        Args:
            image: uint8 [H, W], [H, W, 1] or [H, W, 3] (sRGB), of at least one pixel.
            quality: 1 to `qualities`.
            target_bytes: instead of a quality, the most that the payload may have: the best quality that fits is
                searched, and within it the worth of error.

        Raises:
            InputError: on another image or quality, or if no quality fits the target.
        """
        pixels, grey = _checked(image)
        if isinstance(quality, bool) or not isinstance(quality, int | np.integer) or not 1 <= quality <= self.qualities:
            raise InputError(f"expected a quality from 1 to {self.qualities}, found {quality!r}")
        if target_bytes is not None and not isinstance(target_bytes, int | np.integer):
            raise InputError(f"expected a whole number of bytes as the target, found {target_bytes!r}")
        latents = list(self._analysed(pixels))
        size = varints.pack(np.array(pixels.shape[:2], np.int64))

        def coded(quality: int, worth: float = _FINEST) -> bytes:
            step, price = self.steps[quality - 1], self.prices[quality - 1] * np.float32(worth)
            with _one_blas_thread():
                codes = [coder.encode(self.models[quality - 1], latent / step, price)[0] for latent in latents]
            return (
                bytes([quality - 1 | _GREY * grey])
                + size
                + varints.pack(np.array([*map(len, codes[:-1])], np.int64))
                + b"".join(codes)
            )

        return coded(int(quality)) if target_bytes is None else self._fitting(coded, int(target_bytes))

    def decompress(self, payload: bytes) -> Images:
        """A payload as an image, uint8 [H, W, 3], or [H, W, 1] if a grey one was compressed.

        Raises:
            BitstreamError: if the bytes are no payload of this codec, as far as can be told without a checksum; a
                ``.tfz`` file has one.
        """
        quality, grey, (height, width), _ = self._parse(payload)
        latent, chosen = self.decode(payload), np.eye(self.qualities, dtype=np.float32)[quality - 1]
        rows, columns = latent.shape[:2]
        image = np.empty((rows * STRIDE, columns * STRIDE, 1 if grey else 3), np.uint8)
        for tile, window, inner in _windows(rows, columns):
            seen = latent[window].astype(np.float32)
            pixels = self.networks.synthesise(seen, self.steps[quality - 1], chosen)[_times(inner)]
            if grey:
                pixels = np.rint(pixels.mean(axis=-1, keepdims=True, dtype=np.float32)).astype(np.uint8)
            image[_times(tile)] = pixels
        _, _, (top, left) = _positions(height, width)
        return image[top : top + height, left : left + width]

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """The integers of a payload, int16 [rows, columns, CHANNELS]: the same on every machine.

        Raises:
            BitstreamError: as `decompress`.
        """
        quality, _, (height, width), tiles = self._parse(payload)
        rows, columns, _ = _positions(height, width)
        latent = np.zeros((rows, columns, CHANNELS), np.int16)
        for tile, code in zip(_tiles(rows, columns), tiles, strict=True):
            part = latent[tile]
            with _one_blas_thread():
                part[:] = coder.decode(self.models[quality - 1], code, *part.shape[:2])
        return latent

    def at(self, quality: int) -> OneQuality:
        """The codec of one quality, for lists of photographs, as `tfcomp.measure.evaluate.measure` takes it."""
        return OneQuality(self, quality)

    def describe(self, payload: bytes) -> str:
        """What a payload says of itself, in a few words."""
        quality, grey, (height, width), tiles = self._parse(payload)
        plural = "s" if len(tiles) > 1 else ""
        return f"{width}x{height} {'grey' if grey else 'RGB'}, quality {quality}, {len(tiles)} tile{plural}"

    # === Inside ===

    def _analysed(self, pixels: Images) -> Iterator[Float32]:
        """The latent of each tile, float32 [h, w, CHANNELS], in levels."""
        height, width = pixels.shape[:2]
        rows, columns, before = _positions(height, width)
        after = (rows * STRIDE - height - before[0], columns * STRIDE - width - before[1])
        padded = np.pad(pixels, ((before[0], after[0]), (before[1], after[1]), (0, 0)), "symmetric")
        for _, window, inner in _windows(rows, columns):
            yield self.networks.analyse(padded[_times(window)])[inner]

    def _fitting(self, coded: Callable[[int, float], bytes], target: int) -> bytes:
        """The highest quality that can be brought to so many bytes, and the largest worth of error that fits."""
        for quality in range(self.qualities, 0, -1):
            best = coded(quality, _COARSEST)
            if len(best) <= target:
                break
        else:
            raise InputError(f"expected a target of {len(best)} bytes or more for this image, found {target}")
        low, high = np.log(_COARSEST), np.log(_FINEST)
        whole = coded(quality, _FINEST)
        if len(whole) <= target:
            return whole
        for _ in range(_TRIALS):
            middle = (low + high) / 2
            found = coded(quality, float(np.exp(middle)))
            if len(found) <= target:
                best, low = found, middle
            else:
                high = middle
        return best

    def _parse(self, payload: bytes) -> tuple[int, bool, tuple[int, int], list[bytes]]:
        """Quality, whether grey, height and width, tiles."""
        source = "a photograph's payload"
        if not isinstance(payload, bytes) or not payload:
            raise BitstreamError(f"expected {source}, found {'no bytes' if payload == b'' else type(payload).__name__}")
        quality, grey = (payload[0] & 7) + 1, bool(payload[0] & _GREY)
        height, offset = varints.unpack_one(payload, 1, source)
        width, offset = varints.unpack_one(payload, offset, source)
        if payload[0] >> 4 or quality > self.qualities or not _fits(height, width):
            limits = f"a quality of 1 to {self.qualities} and 1 to {MOST_PIXELS} pixels"
            raise BitstreamError(f"expected {limits}, found {payload[0]:#04x} and {width}x{height}")
        count = sum(1 for _ in _tiles(*_positions(height, width)[:2]))
        if count > len(payload):
            raise BitstreamError(f"expected {count} bytes or more for {width}x{height} pixels, found {len(payload)}")
        sizes = []
        for _ in range(count - 1):
            size, offset = varints.unpack_one(payload, offset, source)
            sizes.append(size)
        if offset + sum(sizes) > len(payload):
            raise BitstreamError(f"expected {offset + sum(sizes)} bytes or more in {source}, found {len(payload)}")
        ends = np.cumsum([offset, *sizes]).tolist()
        return quality, grey, (height, width), [payload[a:b] for a, b in zip(ends, [*ends[1:], None], strict=True)]


@dataclass(frozen=True)
class OneQuality:
    """A `PhotographCodec` at one quality, with the methods of `tfcomp.Codec` for lists of images of any sizes."""

    codec: PhotographCodec
    quality: int

    @property
    def fingerprint(self) -> str:
        return self.codec.fingerprint.hex()

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (0, 0, 0)  # it differs

    def compress(self, images: Images | Sequence[Images]) -> list[bytes]:
        return [self.codec.compress(image, self.quality) for image in images]

    def decompress(self, payloads: Sequence[bytes]) -> list[Images]:
        return [self.codec.decompress(payload) for payload in payloads]


_BLAS, _BLAS_LOCK = ThreadpoolController(), threading.Lock()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keeps NumPy's products in one thread: others would wait for the next in a loop, and slow the networks by a third.

    The limit is that of the process, so that two in turn must not nest: the lock.
    """
    with _BLAS_LOCK, _BLAS.limit(limits=1, user_api="blas"):
        yield


def _checked(image: Any) -> tuple[Images, bool]:
    """uint8 [H, W, 3], and whether it was grey."""
    try:
        pixels = np.asarray(image)
    except ValueError as error:
        raise InputError(f"expected an image as uint8 [H, W, 3], found rows of several lengths ({error})") from error
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or 0 in pixels.shape
        or pixels.shape[2:] not in ((), (1,), (3,))
    ):
        raise InputError(
            f"expected an image as uint8 [H, W], [H, W, 1] or [H, W, 3], found {pixels.dtype} {list(pixels.shape)}"
        )
    if not _fits(*pixels.shape[:2]):
        raise InputError(f"expected at most {MOST_PIXELS} pixels, found {pixels.shape[1]}x{pixels.shape[0]}")
    grey = pixels.ndim == 2 or pixels.shape[2] == 1
    return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2) if grey else pixels, grey


Area = tuple[slice, slice]


def _positions(height: int, width: int) -> tuple[int, int, tuple[int, int]]:
    """Rows and columns of an image's latent, and how many pixels lie before the image in each direction."""
    top, left = (STRIDE if size <= SMALL else 0 for size in (height, width))
    return -(-(height + 2 * top) // STRIDE), -(-(width + 2 * left) // STRIDE), (top, left)


def _fits(height: int, width: int) -> bool:
    """Whether an image has a pixel, and with what it is mirrored by no more than `MOST_PIXELS`."""
    rows, columns, _ = _positions(height, width)
    return height * width > 0 and rows * columns * STRIDE**2 <= MOST_PIXELS


def _tiles(rows: int, columns: int) -> Iterator[Area]:
    down = min(rows, max(TILE, TILE**2 // columns))
    right = min(columns, TILE**2 // down)
    for y in range(0, rows, down):
        for x in range(0, columns, right):
            yield slice(y, min(y + down, rows)), slice(x, min(x + right, columns))


def _windows(rows: int, columns: int) -> Iterator[tuple[Area, Area, Area]]:
    """Of each tile: the tile, what the networks have to see for it, and where the tile lies therein."""
    for tile in _tiles(rows, columns):
        seen = [
            slice(max(0, s.start - MARGIN), min(n, s.stop + MARGIN)) for s, n in zip(tile, (rows, columns), strict=True)
        ]
        inner = [slice(s.start - w.start, s.stop - w.start) for s, w in zip(tile, seen, strict=True)]
        yield tile, (seen[0], seen[1]), (inner[0], inner[1])


def _times(area: Area) -> Area:
    """Positions as pixels."""
    down, right = (slice(s.start * STRIDE, s.stop * STRIDE) for s in area)
    return down, right


# === In one file ===


def to_arrays(codec: PhotographCodec) -> dict[str, NDArray[Any]]:
    """All but the networks as named arrays, for an ``.npz``."""
    models = codec.models
    found: dict[str, NDArray[Any]] = {"steps": codec.steps, "prices": codec.prices}
    found |= {f"macs_{name}": np.array(macs) for name, macs in codec.macs_per_pixel.items()}
    found["base"] = np.stack([m.base for m in models])
    for name in ("scales", "means"):
        for kind in range(3):
            found[f"{name}_{kind}"] = np.stack([getattr(m, name)[kind] for m in models]).astype(np.int32)
    return found | models[0].tables.arrays() | {"frequencies": np.stack([m.tables.frequencies for m in models])}


def from_arrays(networks: Networks, arrays: Mapping[str, NDArray[Any]]) -> PhotographCodec:
    """The inverse of `to_arrays`; raises `BitstreamError`, or `KeyError` and `IndexError`, on what is not valid."""
    models = []
    for q in range(len(arrays["steps"])):
        kernels = [tuple(arrays[f"{n}_{k}"][q].astype(np.float32) for k in range(3)) for n in ("scales", "means")]
        tables = FrequencyTables.from_arrays({**arrays, "frequencies": arrays["frequencies"][q]})
        models.append(ContextModel(arrays["base"][q], kernels[0], kernels[1], tables))
    macs = {name.removeprefix("macs_"): float(value) for name, value in arrays.items() if name.startswith("macs_")}
    return PhotographCodec(networks, models, arrays["steps"], arrays["prices"], macs)
