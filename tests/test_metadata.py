"""Metadata of image files: which way up, wherever that is said; no other tag keeps a sound picture from being read."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin
from test_colours import ADOBE, chunk, exif, expected, jpeg, png, power, read

from tfcomp.errors import InputError
from tfcomp.storage import image_files, jpeg_xl
from tfcomp.storage.bare_files import without_metadata

TALL = Image.fromarray(np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)).resize((24, 16), 0)
UPRIGHT = np.asarray(TALL.transpose(Image.Transpose.ROTATE_270)).astype(np.int64)
LOSSLESS: dict[str, dict[str, Any]] = {
    "png": {},
    "webp": {"lossless": True},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
    "tiff": {},
    "jpeg": {"quality": 100, "subsampling": 0},
}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>'
)


def saved(kind: str, **options: Any) -> bytes:
    TALL.save(file := io.BytesIO(), kind.upper(), **LOSSLESS[kind], **options)
    return file.getvalue()


def after_the_pixels(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with chunks before its last."""
    return data[:-12] + b"".join(chunk(*c) for c in chunks) + data[-12:]


def is_upright(found: NDArray[np.int64]) -> bool:
    return found.shape == UPRIGHT.shape and bool(np.abs(found - UPRIGHT).mean() < 4)


# === Which way up ===


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_orientation_of_every_format(tmp_path: Path, kind: str) -> None:
    for orientation in (*range(1, 9), 0, 9, 65535):
        made = Image.Exif()
        made[0x0112] = orientation
        data = saved(kind, exif=made)
        found = read(tmp_path, data, f"a.{kind}")
        turned = TALL.copy()
        turned.getexif()[0x0112] = orientation
        wanted = ImageOps.exif_transpose(turned)
        assert np.abs(found - np.asarray(wanted).astype(np.int64)).mean() < 4, orientation
        assert image_files.image_shape(tmp_path / f"a.{kind}")[:2] == found.shape[:2], orientation


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("kind", ["png", "webp", "avif", "jpeg"])
def test_xmp_says_it_where_exif_does_not(tmp_path: Path, kind: str, other: bool) -> None:
    options: dict[str, Any] = {"xmp": XMP}
    if kind == "png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if other:
        options["exif"] = Image.Exif()
        options["exif"][0x010F] = "maker"
    assert is_upright(read(tmp_path, saved(kind, **options), f"a.{kind}"))
    options["exif"] = Image.Exif()
    options["exif"][0x0112] = 3
    assert read(tmp_path, saved(kind, **options), f"a.{kind}").shape == (16, 24, 3)


def test_png_says_it_after_its_pixels_or_in_text(tmp_path: Path) -> None:
    data = exif(orientation=6)
    (tmp_path / "a.png").write_bytes(after_the_pixels(saved("png"), (b"eXIf", data.removeprefix(b"Exif\0\0"))))
    assert is_upright(image_files.read_image(tmp_path / "a.png", whole=True).astype(np.int64))
    for kind in ("exif", "APP1"):
        text = f"\n{kind}\n{len(data):8}\n{data.hex()}\n".encode()
        (tmp_path / "a.png").write_bytes(after_the_pixels(saved("png"), (b"tEXt", b"Raw profile type exif\0" + text)))
        assert is_upright(image_files.read_image(tmp_path / "a.png", whole=True).astype(np.int64))
    adobe = exif(space=0xFFFF, index="R03").removeprefix(b"Exif\0\0")
    found = read(tmp_path, after_the_pixels(png(), (b"eXIf", adobe)))
    assert np.abs(found - expected(ADOBE, power(2.2))).mean() < 0.5


# === Nothing else matters ===

VALUES = st.sampled_from([bytes(4), b"\0\0\0\x26", b"\xff" * 4, b"\0\0\0\x08"]) | st.binary(min_size=4, max_size=4)
NEEDED = {*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, *range(317, 348), 34675}
READERS_LOOK_AT = [*range(254, 320), 0x8769, 0x8825, 33723, 34377, 700, 530, 531, 532]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tag=st.sampled_from([tag for tag in READERS_LOOK_AT if tag not in NEEDED]),
    kind=st.integers(0, 16),
    count=st.sampled_from([0, 1, 2, 5, 9999]),
    value=VALUES,
)
def test_odd_tags_of_a_tiff_file_change_nothing(tmp_path: Path, tag: int, kind: int, count: int, value: bytes) -> None:
    pixels = np.asarray(TALL).tobytes()
    fields = {256: (3, 24), 257: (3, 16), 258: (3, None), 259: (3, 1), 262: (3, 2), 273: (4, 8), 274: (3, 6)}
    fields |= {277: (3, 3), 278: (3, 16), 279: (4, len(pixels))}
    at = 8 + len(pixels)
    bits = at + 2 + 12 * (len(fields) + 1) + 4
    entries = [
        (t, k, 3 if v is None else 1, struct.pack("<I" if v is None or k == 4 else "<H2x", bits if v is None else v))
        for t, (k, v) in fields.items()
    ]
    entries = sorted([*entries, (tag, kind, count, value)])
    table = b"".join(struct.pack("<HHI", t, k, n) + v for t, k, n, v in entries)
    head = struct.pack("<2sHI", b"II", 42, at) + pixels + struct.pack("<H", len(entries))
    assert is_upright(read(tmp_path, head + table + bytes(4) + struct.pack("<3H", 8, 8, 8), "a.tiff"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tag=st.integers(1, 0xFFFF).filter(lambda tag: tag not in (0x0112, 0x8769, 0xA001, 0xA005)),
    kind=st.integers(0, 16),
    count=st.sampled_from([0, 1, 2, 5, 9999]),
    value=VALUES,
)
def test_odd_tags_of_exif_data_in_avif_change_nothing(
    tmp_path: Path, tag: int, kind: int, count: int, value: bytes
) -> None:
    plain = b"MM" + struct.pack(">HIHHHI", 42, 8, 1, 0x010F, 2, 4) + b"abc\0" + bytes(4)
    made = Image.Exif()
    made.load(plain)
    made[0x0112] = 6
    data = saved("avif", exif=made)
    assert data.count(plain[10:22]) == 1
    odd = struct.pack(">HHI", tag, kind, count) + value
    assert is_upright(read(tmp_path, data.replace(plain[10:22], odd), "a.avif"))


ODD_CHUNKS = [
    (b"pHYs", b"\0\1"),
    (b"tIME", b""),
    (b"zTXt", b"key\0\7damaged"),
    (b"zTXt", b"key\0\0damaged"),
    (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0damaged"),
    (b"tEXt", b"Raw profile type exif\0\nexif\n   4\nzz\n"),
    (b"sPLT", b"x"),
    (b"bKGD", b""),
]


@pytest.mark.parametrize("odd", ODD_CHUNKS)
def test_odd_chunks_of_a_png_file_change_nothing(tmp_path: Path, odd: tuple[bytes, bytes]) -> None:
    data = exif(orientation=6).removeprefix(b"Exif\0\0")
    for file in (png(odd, (b"eXIf", data), image=TALL), after_the_pixels(png((b"eXIf", data), image=TALL), odd)):
        assert is_upright(read(tmp_path, file))


@pytest.mark.parametrize(
    "odd",
    [
        (0xE0, b"JFIF\0"),
        (0xE2, b"MPF\0"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\3\xb0\0\0\7\0\0\0\x040100"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0"),
        (0xFE, b"\xff" * 9),
    ],
)
def test_odd_segments_of_a_jpeg_file_change_nothing(tmp_path: Path, odd: tuple[int, bytes]) -> None:
    found = read(tmp_path, jpeg(odd, (0xE1, exif(orientation=6)), image=TALL), "a.jpg")
    assert is_upright(found)


def test_what_is_damaged_otherwise_is_still_refused(tmp_path: Path) -> None:
    cut = {"a.png": png(image=TALL)[:-60], "a.jpg": jpeg(image=TALL)[:-200], "a.avif": b"\0\0\0 ftyp"}
    for name, data in cut.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"^cannot read the image .*{name}: [^\n]+$"):
            image_files.read_image(tmp_path / name, whole=True)


@settings(max_examples=200)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"\0\0\0 ftyp", b""]), st.binary())
def test_any_bytes_can_be_bared(head: bytes, rest: bytes) -> None:
    without_metadata(head + rest)


# === JPEG XL ===

ANIMATED = (
    "ff0a08404100161497040808a002000034004b188b15c249411e000000fa030808a04200003c004b188b15c24902e601080400607f00"
)
OF_16_BITS = (
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a0000001e6a786c63ff0a0840fc00"
    "141702080201001c004b188b15820300"
)
OF_10_BITS = "ff0a084014505c08080201001c004b188b15820300"
TURNED = (
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000236a786c63ff0a08400b041497040802010030004b"
    "188b1542a9d00350000000"
)
"""Files of 3 x 2 pixels that libjxl's encoder wrote; the last was to be turned by a quarter."""


def test_the_header_of_jpeg_xl_tells_what_its_reader_does_not(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    assert jpeg_xl.header(bytes.fromhex(TURNED)).orientation == 6
    assert jpeg_xl.header(bytes.fromhex(OF_10_BITS)).bits == 10
    path = tmp_path / "a.jxl"
    path.write_bytes(bytes.fromhex(ANIMATED))
    assert image_files.read_image(path).shape == (2, 3, 3)
    for data, message in ((ANIMATED, "one picture"), (OF_16_BITS, "8 bits a channel, found 16 bits")):
        path.write_bytes(bytes.fromhex(data))
        with pytest.raises(InputError, match=message):
            image_files.read_image(path, whole=True)
    path.write_bytes(bytes.fromhex(OF_10_BITS))
    assert image_files.read_image(path, whole=True).shape == (2, 3, 3)
    path.write_bytes(bytes.fromhex(TURNED))
    assert image_files.read_image(path, whole=True).shape == image_files.image_shape(path) == (3, 2, 3)
    TALL.save(path, lossless=True, exif=exif(orientation=6).removeprefix(b"Exif\0\0"))
    assert is_upright(image_files.read_image(path, whole=True).astype(np.int64))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.tuples(*[st.integers(1, 40) | st.sampled_from([64, 256, 257, 513, 3000])] * 2), boxed=st.booleans())
def test_the_header_is_found_whatever_the_size(tmp_path: Path, size: tuple[int, int], boxed: bool) -> None:
    pytest.importorskip("pillow_jxl")
    Image.new("RGB", size).save(file := io.BytesIO(), "JXL", effort=1, use_container=boxed)
    assert jpeg_xl.header(file.getvalue()) == jpeg_xl.Header()


@settings(max_examples=200)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_header_or_none(data: bytes, boxed: bool) -> None:
    head = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\0jxlc\xff\x0a" if boxed else b"\xff\x0a"
    with suppress(ValueError):
        assert 1 <= jpeg_xl.header(head + data).orientation <= 8
