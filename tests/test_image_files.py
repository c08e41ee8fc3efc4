"""Image files of every kind: read as they should be, or refused in one clear line."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import picture
from PIL import Image, ImageCms

from tfcomp.data import datasets
from tfcomp.errors import InputError
from tfcomp.storage import image_files
from tfcomp.storage.pixel_limit import pixel_limit

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new("RGB", (5, 6), (200, 100, 50)).convert(mode).save(tmp_path / "a.png")
    assert image_files.read_image(tmp_path / "a.png").shape == (6, 5, channels)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (5, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert image_files.read_image(tmp_path / "a.jpg").shape == (5, 6, 1)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "whole.jpg", (64, 64))
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    for name in ("cut.jpg", "empty.png", "text.png", "missing.png"):
        with pytest.raises(InputError, match=f"cannot read the image .*{name}: "):
            image_files.read_image(tmp_path / name)
    with pytest.raises(InputError, match=r"8 bits a channel, found mode I;16 with 16 bits or more in .*deep\.png"):
        image_files.read_image(tmp_path / "deep.png")


def png_of_16_bits(colour_type: int) -> bytes:
    """Black, 5 x 6; Pillow writes no such file itself. Colour types as in the PNG specification, section 11.2.2."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 5, 6, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(6 * (1 + 5 * 2 * channels))),
        b"IEND": b"",
    }
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_16_bits_are_not_cut_to_8_unseen(tmp_path: Path, colour_type: int) -> None:
    (tmp_path / "deep.png").write_bytes(png_of_16_bits(colour_type))
    with pytest.raises(InputError, match=r"8 bits a channel, found mode .* with 16 bits or more in .*deep\.png"):
        image_files.read_image(tmp_path / "deep.png")


def test_other_formats_of_16_bits_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "deep.ppm"
    for head, shape in ((b"P6 5 6 65535\n", bytes(5 * 6 * 6)), (b"P3 5 6 65535\n", b"0 " * 5 * 6 * 3)):
        path.write_bytes(head + shape)
        with pytest.raises(InputError, match="8 bits a channel"):
            image_files.read_image(path)
    path.write_bytes(b"P6 5 6 255\n" + bytes(5 * 6 * 3))
    assert image_files.read_image(path).shape == (6, 5, 3)
    path = tmp_path / "deep.jp2"
    Image.new("RGB", (5, 6)).save(path)
    assert image_files.read_image(path).shape == (6, 5, 3)
    data = path.read_bytes()
    depths = data.index(b"\xff\x4f\xff\x51") + 42  # of three channels, each with two bytes of subsampling
    path.write_bytes(data[:depths] + b"\x0f\x01\x01" * 3 + data[depths + 9 :])
    with pytest.raises(InputError, match="8 bits a channel"):
        image_files.read_image(path)


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (20, 20))
    # Pillow warns above its limit and refuses above twice as much.
    for limit, said in ((399, "at most 399 pixels, found 20x20 in"), (199, r"Image size \(400 pixels\) exceeds")):
        for read in (image_files.read_image, image_files.image_shape):
            with pixel_limit(limit), pytest.raises(InputError, match=rf"{said}.*; --max-pixels or"):
                read(tmp_path / "a.png")
    with pixel_limit(400):
        assert image_files.read_image(tmp_path / "a.png").shape == (20, 20, 1)


def whole_files() -> dict[str, bytes]:
    """A small sound file of every kind that is read, by suffix; of some kinds several."""
    pytest.importorskip("pillow_jxl")
    grey = np.add.outer(np.arange(24) * 5, np.arange(20) * 4).astype(np.uint8)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    variants: dict[str, list[dict[str, Any]]] = {
        ".tif": [{}, *({"compression": c} for c in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits"))],
        ".jpg": [{}, {"progressive": True, "exif": orientation}],
        ".png": [{}, {"exif": orientation}],
    }
    files = {}
    for suffix in sorted(image_files.SUFFIXES):
        for i, options in enumerate(variants.get(suffix, [{}])):
            file = io.BytesIO()
            colours = Image.fromarray(
                grey if suffix == ".pgm" else np.stack([grey, grey.T[::-1].reshape(24, 20), grey], -1)
            )
            colours.save(file, Image.registered_extensions()[suffix], **options)
            files[f"{i}{suffix}"] = file.getvalue()
    arrays = np.repeat(grey[None], 3, axis=0)
    for name, save in {
        "0.npy": lambda file: np.save(file, arrays),
        "0.npz": lambda file: np.savez(file, x_train=arrays, x_test=arrays),
        "1.npz": lambda file: np.savez_compressed(file, arrays),
    }.items():
        save(file := io.BytesIO())
        files[name] = file.getvalue()
    return files


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Truncated, or with bits flipped, bytes set, removed or inserted, half of the time near the beginning."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        i = rng.randrange(min(len(changed), rng.choice([16, 64, 200, len(changed)])))
        match rng.randrange(4):
            case 0:
                changed[i] ^= 1 << rng.randrange(8)
            case 1:
                changed[i] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
            case 2 if len(changed) > 1:
                del changed[i]
            case _:
                changed.insert(i, rng.randrange(256))
    return bytes(changed)


def test_damaged_files_of_every_kind_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = random.Random(4)
    for name, whole in whole_files().items():
        path = tmp_path / name
        readers = {".npy": (datasets.read_array, datasets.load_arrays), ".npz": (datasets.load_arrays,)}
        said = []
        for reader in readers.get(path.suffix, (image_files.read_image,)):
            path.write_bytes(whole)
            reader(path)
            for _ in range(200):
                path.write_bytes(damaged(whole, rng))
                try:
                    reader(path)
                except InputError as error:
                    said.append(str(error))
        assert [line for line in said if "\n" in line or name not in line] == []
        assert len(said) > 20, name


# === Nothing lost unseen ===


def test_what_a_photograph_would_lose_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 6), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    Image.new("CMYK", (5, 6), (10, 20, 30, 40)).save(tmp_path / "print.jpg")
    clear = Image.new("RGBA", (5, 6), (10, 20, 30, 255))
    clear.save(tmp_path / "opaque.png")
    clear.putpixel((2, 2), (10, 20, 30, 254))
    clear.save(tmp_path / "clear.png")
    refused = {
        "moving.gif": "one picture in .*, found an animation or series of",
        "print.jpg": "grey or RGB, found CMYK in",
        "clear.png": "without transparency, found some in",
    }
    for name, message in refused.items():
        assert image_files.read_image(tmp_path / name).shape == (6, 5, 3)
        with pytest.raises(InputError, match=message):
            image_files.read_image(tmp_path / name, whole=True)
    assert image_files.read_image(tmp_path / "opaque.png", whole=True).shape == (6, 5, 3)


def test_colours_of_a_profile_become_srgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 6), (200, 100, 50))
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "same.png", icc_profile=same)
    assert np.abs(image_files.read_image(tmp_path / "same.png", whole=True) - np.array([200.0, 100, 50])).max() <= 1
    swapped = image.convert("RGBA")
    swapped.save(tmp_path / "alpha.png", icc_profile=same)
    assert np.abs(image_files.read_image(tmp_path / "alpha.png", whole=True) - np.array([200.0, 100, 50])).max() <= 1
    image.convert("L").save(tmp_path / "grey.png", icc_profile=same)
    assert image_files.read_image(tmp_path / "grey.png", whole=True).shape == (6, 5, 1)
    image.save(tmp_path / "broken.png", icc_profile=same[:200])
    with pytest.raises(InputError, match=r"colour profile \(ICC\) that can be used in .*broken\.png"):
        image_files.read_image(tmp_path / "broken.png", whole=True)
    # A profile of linear light: the curves of sRGB's own, of kind "curv" or "para", replaced by the identity.
    data = bytearray(same)
    count = struct.unpack_from(">I", data, 128)[0]
    for i in range(count):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)
    image.save(tmp_path / "linear.png", icc_profile=bytes(data))
    swapped.save(tmp_path / "linear alpha.png", icc_profile=bytes(data))
    brighter = image_files.read_image(tmp_path / "linear.png", whole=True)[0, 0]
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "linear alpha.png", whole=True)[0, 0], brighter)
    np.testing.assert_allclose(brighter, 255 * (np.array([200, 100, 50]) / 255) ** (1 / 2.2), atol=4)


def test_threads_that_read_files_warn_of_nothing_and_leave_warnings_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns of images above its limit, before this package refuses them; here a warning is an error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1900)
    Image.new("RGB", (48, 40)).save(tmp_path / "large.png")

    def refused(_: int) -> str:
        with pytest.raises(InputError) as caught:
            image_files.image_shape(tmp_path / "large.png")
        return str(caught.value)

    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        lines = set(pool.map(refused, range(400)))
    assert len(lines) == 1
    assert "at most 1900 pixels, found 48x40" in lines.pop()
    assert warnings.filters == filters
