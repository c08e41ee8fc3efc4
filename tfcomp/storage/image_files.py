"""Image files in and out, by Pillow and as ``.npy``: always uint8 [H, W, C].

Two kinds of metadata matter, orientation and declarations of colours; an odd tag among others changes nothing.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from tfcomp.errors import InputError, MissingDependencyError, TfcompError, optional_import
from tfcomp.geometry import RAISED_BY, too_many_pixels
from tfcomp.items import MAX_CHANNELS, Images, accepted_channels, whole_numbers
from tfcomp.progress import progress
from tfcomp.silence import no_warnings
from tfcomp.storage import colours, declarations, exif, jpeg_xl, places
from tfcomp.storage.bare_files import without_metadata
from tfcomp.storage.colours import Rgb
from tfcomp.storage.declarations import Declared
from tfcomp.storage.writing import replacing_file

SUFFIXES = frozenset(
    [".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".jxl", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)
ARRAY = ".npy"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operations that make an image upright, by its EXIF orientation; from 5 on, height and width change places."""

_GREY = ("1", "L", "LA")
_SIGNED = 2
"""The sample format of a TIFF file with signed values."""
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
MAX_JPEG_XL_BITS = 12
"""Largest number of bits a channel of a JPEG XL file; its decoder gives 8 of them."""

Result = TypeVar("Result")
Skipped = dict[Path, TfcompError]
"""Error of each file that was left out."""


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and its subfolders, sorted, without names that begin with a dot; without any, its
    ``.npy`` files of one image each. Raises `InputError` if there are none either.
    """
    root = Path(folder)
    for suffixes in (SUFFIXES, {ARRAY}):
        if paths := [root / name for name in places.found(root, suffixes)]:
            return paths
    raise InputError(f"expected image files in {root}, found none (looked for {' '.join(sorted(SUFFIXES | {ARRAY}))})")


def image_shape(path: str | os.PathLike[str], *, whole: bool = True) -> tuple[int, int, int]:
    """(height, width, channels) of the image of `read_image`, from the file's header; arguments and errors as of that.

    For a PNG file with EXIF data behind its pixels, height and width may be exchanged.
    """
    if Path(path).suffix.lower() == ARRAY:
        height, width, channels = _array(path).shape
        return height, width, channels
    return _read(path, _shape, whole=whole)


def image_shapes(
    paths: Sequence[str | os.PathLike[str]],
    *,
    to_the_end: bool = False,
    skipped: Skipped | None = None,
    whole: bool = True,
) -> dict[Path, tuple[int, int, int]]:
    """`image_shape` of each file; errors as of `read_image`.

    Args:
        paths, whole: the files, and how to read them.
        to_the_end: read whole files, so that damage is found before long work begins.
        skipped: gets the errors of files that cannot be read, which are then left out.
    """

    def shape(path: str | os.PathLike[str]) -> tuple[int, int, int] | TfcompError:
        try:
            return image_shape(path, whole=whole) if not to_the_end else read_image(path, whole=whole).shape
        except TfcompError as error:
            if skipped is None:
                raise
            return error

    shapes = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = progress(pool.map(shape, paths), "check images" if to_the_end else "read headers", len(paths))
        for path, result in zip(map(Path, paths), results, strict=True):
            if not isinstance(result, TfcompError):
                shapes[path] = result
            elif skipped is not None:
                skipped[path] = result
    return shapes


def require_channels(path: str | os.PathLike[str], channels: int, expected: int) -> None:
    """Raises `InputError` unless a file has the expected number of channels, or is grey where three are expected."""
    if channels not in accepted_channels(expected):
        raise InputError(f"expected images of {expected} channels, found {channels} in {path}")


def read_image(path: str | os.PathLike[str], *, whole: bool = False) -> Images:
    """One image file as uint8 [H, W, C], upright by its EXIF orientation; C is 1 for grey and 3 for RGB.

    Transparency is dropped, palettes and other colour models become RGB, and an animation is read as its first picture.
    AVIF and JPEG XL of 10 or 12 bits are read as the 8 bits that their decoders give. A ``.npy`` file holds an image
    [H, W] or [H, W, C] of 1 to 8 channels as it is.

    Args:
        path: the file.
        whole: refuse files that would lose a part of the picture: used transparency, an animation, a colour model
            other than grey and RGB. Declared colours (see `declarations`) are converted to sRGB, or refused.

    Raises:
        InputError: if the file cannot be read as an image with at most 8 bits a channel, or has more pixels than
            `pixel_limit` allows (by default 89 million).
        MissingDependencyError: for JPEG XL, if its plugin is not installed.
    """
    if Path(path).suffix.lower() == ARRAY:
        return whole_numbers(np.array(_array(path)), f"the image of {path}")

    def pixels(image: ImageFile.ImageFile) -> Images:
        if whole:
            _refuse_transparency(image, path)
        image.load()  # a PNG file's EXIF data may follow its pixels
        declared = declarations.declared(image, path) if whole else Rgb()
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        shown = upright.convert("L" if upright.mode in _GREY else "RGB")
        array = np.array(_in_srgb(shown, declared, path))
        return array[..., None] if array.ndim == 2 else array

    return _read(path, pixels, whole=whole)


def _read(path: str | os.PathLike[str], function: Callable[[ImageFile.ImageFile], Result], *, whole: bool) -> Result:
    """The result of a function of an opened image file; a file that Pillow refuses is tried again without metadata."""
    try:
        with _opened(path, path, whole) as image:
            return function(image)
    except _UnreadableError as error:
        try:
            bare = without_metadata(Path(path).read_bytes())
        except OSError:
            bare = None
        if bare is None:
            raise InputError(str(error)) from error.__cause__
        with suppress(_UnreadableError), _opened(path, io.BytesIO(bare), whole) as image:
            return function(image)
        raise InputError(str(error)) from error.__cause__


class _UnreadableError(InputError):
    """The error of a file that Pillow cannot read, or not to its end."""


def _shape(image: ImageFile.ImageFile) -> tuple[int, int, int]:
    width, height = image.size
    if image.format == "TIFF":  # versions of Pillow turn the size at different times
        width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    if _orientation(image) in range(5, 9):  # any other number says nothing
        height, width = width, height
    return height, width, 1 if image.mode in _GREY else 3


@contextmanager
def _opened(
    path: str | os.PathLike[str], source: str | os.PathLike[str] | BinaryIO, whole: bool
) -> Iterator[ImageFile.ImageFile]:
    """A context of an image file, or of its content, with a checked header; all errors in it become one line."""
    try:
        with no_warnings():  # Pillow warns of damaged metadata
            if Path(path).suffix.lower() == ".jxl":
                register_jpeg_xl()
            with Image.open(source) as image:
                _refuse_too_large(image, path)
                if image.format == "JXL":
                    _read_jpeg_xl_header(image, path, whole)
                if _deep(image, path):
                    depth = f"mode {image.mode} with 16 bits or more"
                    raise InputError(f"expected an image with 8 bits a channel, found {depth} in {path}")
                if whole:
                    _refuse_what_would_be_lost(image, path)
                yield image
    except (InputError, MissingDependencyError):
        raise
    except Exception as error:
        line = reason(error).replace(repr(source), "it")  # the source may be no path
        hint = f"; {RAISED_BY}" if isinstance(error, Image.DecompressionBombError) else ""
        raise _UnreadableError(f"cannot read the image {path}: {line}{hint}") from error


def _refuse_too_large(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> None:
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:  # Pillow only warns, which threads may miss
        raise InputError(too_many_pixels(limit, height, width, str(path)))


def _orientation(image: ImageFile.ImageFile) -> int:
    """The orientation in EXIF data, or else in XMP data; 1 without either. Pillow turns TIFF files itself."""
    if image.format == "TIFF":
        tag = image.tag_v2.get(exif.ORIENTATION)  # type: ignore[attr-defined]
        return tag if isinstance(tag, int) else 1
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    named = _XMP_ORIENTATION.search(xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp))
    return exif.parse(exif.data_of(image.info)).orientation or (int(named[1]) if named else 1)


def _array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a ``.npy`` file, [H, W, C], mapped into memory."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        array = stored[..., None] if stored.ndim == 2 else stored
        if array.ndim == 3 and array.size and array.shape[2] <= MAX_CHANNELS and array.dtype.kind in "uif":
            return array
        found = f"{stored.dtype} {list(stored.shape)}"
    except Exception as error:
        raise InputError(f"cannot read the image {path}: {reason(error)}") from error
    raise InputError(
        f"expected one image [H, W] or [H, W, 1 to {MAX_CHANNELS}] of whole numbers in {path}, found {found}"
    )


def register_jpeg_xl() -> None:
    """Registers JPEG XL with Pillow; raises `MissingDependencyError` without its plugin."""
    with optional_import():
        import pillow_jxl  # noqa: F401  (registers the format)


def _read_jpeg_xl_header(image: ImageFile.ImageFile, path: str | os.PathLike[str], whole: bool) -> None:
    """Refuses animations and many bits, which the plugin does not report; drops the EXIF data of a turned picture."""
    header = jpeg_xl.header(Path(path).read_bytes())
    if whole and header.animated:
        raise InputError(f"expected one picture in {path}, found an animation or series")
    if header.bits > MAX_JPEG_XL_BITS:
        raise InputError(f"expected an image with 8 bits a channel, found {header.bits} bits in {path}")
    if header.orientation != 1 and not getattr(image, "jpeg", False):  # a recompressed JPEG keeps its EXIF data
        image.info.pop("exif", None)


def _refuse_what_would_be_lost(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> None:
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":  # an MPO is a photograph with a preview, or of two lenses
        raise InputError(f"expected one picture in {path}, found an animation or series of {pictures}")
    if image.format == "TIFF" and _SIGNED in (image.tag_v2.get(339) or ()):  # type: ignore[attr-defined]
        raise InputError(f"expected values from 0 in {path}, found signed ones")
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise InputError(f"expected an image in grey or RGB, found {image.mode} in {path}; convert it first")


def _refuse_transparency(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> None:
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
        raise InputError(f"expected an image without transparency, found some in {path}; flatten it first")


def _in_srgb(image: Image.Image, declared: Declared, path: str | os.PathLike[str]) -> Image.Image:
    """A picture of mode L or RGB, of the declared colours, in sRGB."""
    if isinstance(declared, bytes):
        return colours.from_profile(image, declared, str(path))
    return colours.from_rgb(image, declared, str(path))


def _deep(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> bool:
    """Whether an opened file has more than 8 bits a channel, which Pillow would cut to 8 unless it is grey."""
    if image.mode.startswith(("I", "F")):
        return True
    for codec, _, _, options in image.tile:
        raw, *rest = options if isinstance(options, tuple) else (options,)
        if codec.startswith("ppm"):
            return rest[0] > 255  # the largest value of a channel
        if codec == "jpeg2k":
            return _jpeg2000_bits(Path(path).read_bytes()) > 8
        if ";16" in str(raw) and raw != "BGR;16":  # BGR;16 has 5, 6 and 5 bits
            return True
    return False


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of the first channel, by the marker segment SIZ that begins the code stream (ISO/IEC 15444-1, A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51")
    depth = data[start + 42 : start + 43] if start >= 0 else b""
    return 1 + (depth[0] & 127) if depth else 0


def write_image(path: str | os.PathLike[str], image: Images) -> None:
    """Writes an image, uint8 [H, W, C], as a ``.npy`` or PNG file, one of many; a link is replaced, not followed."""
    with replacing_file(path, follow_links=False, one_of_many=True) as temporary:
        save_image(temporary, image)


def save_image(path: Path, image: Images) -> None:
    """`write_image` to a temporary path."""
    if path.suffix == ARRAY:
        with path.open("wb") as file:
            np.lib.format.write_array(file, image, allow_pickle=False)
    else:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            path,
            "PNG",
            compress_level=3,  # for photographs as small as 6, the default, in half the time
        )


# === Messages ===


def reason(error: Exception) -> str:
    """The reason why a file cannot be read, in one line; parsers of damaged files raise errors of any class."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text.replace("decoder error", "its data are damaged or of a kind that is not supported, decoder error")
    return " ".join(text.split()) or type(error).__name__
