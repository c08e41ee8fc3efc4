"""Image files in and out, by Pillow: always uint8 [H, W, C]."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps
from tqdm import tqdm

from tfcomp.errors import InputError
from tfcomp.storage.writing import replacing_file

Images = NDArray[np.uint8]

SUFFIXES = frozenset(
    [".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".jxl", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and its subfolders, by suffix, sorted; names that begin with a dot are left out.

    Raises:
        InputError: if there is none.
    """
    root = Path(folder)
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise InputError(f"expected image files in {root}, found none (looked for {' '.join(sorted(SUFFIXES))})")
    return found


def read_image(path: str | os.PathLike[str], *, whole: bool = False) -> Images:
    """One image file as uint8 [H, W, C], upright by its EXIF orientation; C is 1 for grey, 3 for everything else.

    Transparency is dropped, palettes and other colour models become RGB, and of an animation the first picture counts.
    AVIF and JPEG XL of 10 or 12 bits are read as the 8 bits that their decoders give.

    Args:
        path: the file.
        whole: refuse what would lose something of the picture instead: transparency that is used, an animation, a
            colour model other than grey and RGB. Colours with a profile (ICC) are converted to sRGB.

    Raises:
        InputError: if the file cannot be read as an image with at most 8 bits a channel, or has more pixels than
            Pillow lets pass (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if _deep(image, path):
                    depth = f"mode {image.mode} with 16 bits or more"
                    raise InputError(f"expected an image with 8 bits a channel, found {depth} in {path}")
                if whole:
                    _refuse_what_would_be_lost(image, path)
                upright = ImageOps.exif_transpose(image)
                shown = upright.convert("L" if upright.mode in ("1", "L", "LA") else "RGB")
                pixels = np.array(_in_srgb(shown, image.info.get("icc_profile"), path) if whole else shown)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read the image {path}: {reason(error)}") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _refuse_what_would_be_lost(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> None:
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":  # a photograph with a preview, or of two lenses
        raise InputError(f"expected one picture in {path}, found an animation or series of {pictures}")
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise InputError(f"expected an image in grey or RGB, found {image.mode} in {path}; convert it first")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
        raise InputError(f"expected an image without transparency, found some in {path}; flatten it first")


def _in_srgb(image: Image.Image, profile: bytes | None, path: str | os.PathLike[str]) -> Image.Image:
    """An image of mode L or RGB in the colours that files without a profile are taken to have."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY", "RGB": "RGB"}[image.mode]:
            return image  # of other colours than it has
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise InputError(f"expected a colour profile (ICC) that can be used in {path}, found: {error}") from error
    assert converted is not None
    return converted.convert(image.mode)


def _deep(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> bool:
    """Whether a file just opened has more than 8 bits a channel, which Pillow would cut to 8 unless they are grey."""
    if image.mode.startswith(("I", "F")):
        return True
    for codec, _, _, options in image.tile:
        raw, *rest = options if isinstance(options, tuple) else (options,)
        if codec.startswith("ppm"):
            return rest[0] > 255  # the largest value of a channel
        if codec == "jpeg2k":
            return _jpeg2000_bits(Path(path).read_bytes()) > 8
        if ";16" in str(raw) and raw != "BGR;16":  # which is 5, 6 and 5 bits
            return True
    return False


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of the first channel, in the marker segment SIZ that begins the code stream (ISO/IEC 15444-1, A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51")
    depth = data[start + 42 : start + 43] if start >= 0 else b""
    return 1 + (depth[0] & 127) if depth else 0


def read_images(paths: Sequence[str | os.PathLike[str]]) -> Images:
    """Image files of one size as uint8 [N, H, W, C]; if any has colours, the grey ones become RGB too.

    Raises:
        InputError: if a file cannot be read, or two differ in size; the message names both.
    """
    images: list[Images] = []
    for path in progress(paths, "read images", total=len(paths)):
        image = read_image(path)
        if images and image.shape[:2] != images[0].shape[:2]:
            size, first = ("x".join(map(str, reversed(i.shape[:2]))) for i in (image, images[0]))
            raise InputError(f"expected images of one size, found {paths[0]} of {first} and {path} of {size} pixels")
        images.append(image)
    channels = max((image.shape[2] for image in images), default=1)
    if not images:
        raise InputError("expected at least one image file, found none")
    return np.stack([np.repeat(image, channels // image.shape[2], axis=2) for image in images])


def write_png(path: str | os.PathLike[str], image: Images) -> None:
    """An image, uint8 [H, W, 1 or 3], as a PNG file, whole or not at all."""
    with replacing_file(path) as temporary:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            temporary,
            "PNG",
            compress_level=3,  # as small as 6, the default, for what was a photograph, in half the time
        )


# === Telling ===


def reason(error: Exception) -> str:
    """One line of why a file cannot be read. What a damaged file makes its parser raise can be of any class."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def progress(items: Any, label: str, total: int | None) -> Any:
    """A progress bar for work of more than a second; silent where the output is not a terminal."""
    return tqdm(items, desc=label, total=total, delay=1.0, leave=False, disable=None)
