"""Colours that a file declares, however it does so: converted to sRGB as published matrices say, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tfcomp.errors import InputError, MissingDependencyError
from tfcomp.storage import colours, image_files

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 300, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
# Linear light to that of sRGB's primaries, as published (CSS Color 4; Lindbloom; ITU-R BT.2087).
SAME = np.eye(3)
P3 = np.array([[1.2249, -0.2249, 0], [-0.0421, 1.0421, 0], [-0.0196, -0.0786, 1.0983]])
ADOBE = np.array([[1.3982, -0.3982, 0], [0, 1, 0], [0, -0.0429, 1.0429]])
BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def expected(matrix: NDArray[np.float64], linear: Any, pixels: NDArray[np.uint8] = PIXELS) -> NDArray[np.float64]:
    light = np.clip(linear(pixels / 255) @ matrix.T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def srgb(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def power(exponent: float) -> Any:
    return lambda value: value**exponent


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: tuple[bytes, bytes], image: Image.Image = PICTURE, **options: Any) -> bytes:
    image.save(file := io.BytesIO(), "PNG", **options)
    data = file.getvalue()
    return data[:33] + b"".join(chunk(*c) for c in chunks) + data[33:]


def jpeg(*segments: tuple[int, bytes], late: bool = False, image: Image.Image = PICTURE) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", quality=100, subsampling=0)
    data = file.getvalue()
    at = data.index(b"\xff\xda") if late else 2
    return data[:at] + b"".join(struct.pack(">HH", 0xFF00 + m, len(c) + 2) + c for m, c in segments) + data[at:]


def avif(primaries: int, transfer: int) -> bytes:
    PICTURE.save(file := io.BytesIO(), "AVIF", quality=100, subsampling="4:4:4")
    data = bytearray(file.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


def read(tmp_path: Path, data: bytes, name: str = "a.png") -> NDArray[np.int64]:
    (tmp_path / name).write_bytes(data)
    found = image_files.read_image(tmp_path / name, whole=True).astype(np.int64)
    assert found.shape == image_files.image_shape(tmp_path / name)
    return found


def refused(tmp_path: Path, data: bytes, name: str = "a.png") -> str:
    with pytest.raises(InputError) as raised:
        read(tmp_path, data, name)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)
    return str(raised.value)


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def chrm(*points: float) -> tuple[bytes, bytes]:
    """White, red, green, blue."""
    return b"cHRM", struct.pack(">8I", *(round(p * 100_000) for p in points))


SRGB_CHRM = chrm(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_CHRM = chrm(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def linear_profile(space: bytes = b"RGB ") -> bytes:
    """The profile of sRGB's primaries, or of grey, and linear light."""
    if space == b"GRAY":
        white = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * n) for n in (0.9642, 1, 0.8249)))
        tags, offset = [(b"wtpt", white), (b"kTRC", b"curv" + bytes(8))], 132 + 24
        table, content = struct.pack(">I", len(tags)), b""
        for name, value in tags:
            table += struct.pack(">4sII", name, offset + len(content), len(value))
            content += value
        head = b"lcms\x02\x10\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:] + bytes(48)
        return struct.pack(">I", 4 + len(head) + len(table + content)) + head + table + content
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(data)


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"a\0\0" + zlib.compress(profile)


# === PNG ===


@pytest.mark.parametrize(
    ("chunks", "matrix", "linear"),
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], P3, srgb),
        ([(b"cICP", bytes([1, 13, 0, 1]))], SAME, srgb),
        ([(b"cICP", bytes([9, 13, 0, 1]))], BT2020, srgb),
        ([(b"cICP", bytes([1, 8, 0, 1]))], SAME, power(1)),
        ([(b"cICP", bytes([1, 4, 0, 1]))], SAME, power(2.2)),
        ([(b"cICP", bytes([2, 2, 0, 1]))], SAME, srgb),
        ([gama(1)], SAME, power(1)),
        ([gama(1 / 1.8)], SAME, power(1.8)),
        ([gama(0.45455), SRGB_CHRM], SAME, srgb),
        ([P3_CHRM], P3, srgb),
        ([gama(1), P3_CHRM], P3, power(1)),
        ([(b"sRGB", b"\0"), gama(1), P3_CHRM], SAME, srgb),
        ([(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0"), gama(1)], P3, srgb),
        ([(b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", b"a\0\0damaged")], P3, srgb),
        ([iccp(linear_profile()), (b"sRGB", b"\0")], SAME, power(1)),
        ([iccp(linear_profile()), gama(0.2), P3_CHRM], SAME, power(1)),
    ],
)
def test_png_declares_colours_in_this_order(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], matrix: NDArray[np.float64], linear: Any
) -> None:
    error = np.abs(read(tmp_path, png(*chunks)) - expected(matrix, linear))
    assert error.mean() < 0.5
    assert error.max() <= 4  # steep near black
    plain = image_files.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(plain, PIXELS)


def test_grey_png_keeps_its_channel(tmp_path: Path) -> None:
    grey = PICTURE.convert("L")
    found = read(tmp_path, png(gama(1), P3_CHRM, image=grey))
    light = np.asarray(grey)[..., None] / 255
    bright = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found - bright).max() <= 0.51


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(b"cICP", bytes([9, 16, 0, 1]))], "found PQ"),
        ([(b"cICP", bytes([9, 18, 0, 1]))], "found HLG"),
        ([(b"cICP", bytes([10, 13, 0, 1]))], "found primaries 10"),
        ([(b"cICP", bytes([1, 200, 0, 1]))], "transfer 200"),
        ([(b"cICP", bytes([1, 13, 1, 1]))], "full range"),
        ([(b"cICP", bytes([1, 13, 0, 0]))], "full range"),
        ([(b"cICP", b"")], "full range"),
        ([gama(0)], "gAMA that can be used"),
        ([(b"gAMA", b"\1")], "gAMA that can be used"),
        ([chrm(0.3, 0.3, *[0.3] * 6)], "primaries that span"),
        ([chrm(0.3127, 0.329, 0.64, 0, 0.3, 0.6, 0.15, 0.06)], "primaries that span"),
        ([(b"cHRM", b"\1\2\3\4")], "cHRM"),
        ([(b"iCCP", b"a\0\0damaged")], "profile"),
        ([(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 500)[:-5])], "profile"),
        ([(b"iCCP", b"a\0\1" + zlib.compress(b"x" * 500))], "profile"),
        ([iccp(b"x" * 500)], "profile"),
        ([iccp(linear_profile()), iccp(linear_profile()[:-1])], "found two"),
    ],
)
def test_png_of_colours_that_cannot_be_kept(tmp_path: Path, chunks: list[tuple[bytes, bytes]], message: str) -> None:
    assert message in refused(tmp_path, png(*chunks))


# === JPEG ===


def parts_of(profile: bytes, count: int) -> list[tuple[int, bytes]]:
    size = -(-len(profile) // count)
    return [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, count]) + profile[i * size : (i + 1) * size]) for i in range(count)]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "arrange", [lambda p: p, lambda p: p[::-1], lambda p: p + p, lambda p: [p[1], p[0], p[1], p[2]]]
)
def test_a_profile_in_parts_wherever_they_are(tmp_path: Path, late: bool, arrange: Any) -> None:
    found = read(tmp_path, jpeg(*arrange(parts_of(linear_profile(), 3)), late=late), "a.jpg")
    plain = image_files.read_image(tmp_path / "a.jpg") / 255
    bright = 255 * np.where(plain <= 0.0031308, 12.92 * plain, 1.055 * plain ** (1 / 2.4) - 0.055)
    assert np.abs(found - bright).mean() < 1


def test_a_profile_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    parts = parts_of(linear_profile(), 3)
    other = parts_of(linear_profile()[::-1], 3)
    assert "parts 1, 3 of 3" in refused(tmp_path, jpeg(parts[0], parts[2]), "a.jpg")
    assert "found two" in refused(tmp_path, jpeg(*parts, other[1]), "a.jpg")
    assert "3 or 4" in refused(tmp_path, jpeg(*parts, parts_of(linear_profile(), 4)[3]), "a.jpg")
    assert "profile" in refused(tmp_path, jpeg(*parts_of(linear_profile()[:300], 1)), "a.jpg")


def test_a_profile_of_other_colours_is_converted_or_refused(tmp_path: Path) -> None:
    grey, rgb = linear_profile(b"GRAY"), linear_profile()
    assert "profile (ICC) of RGB" in refused(tmp_path, jpeg(*parts_of(grey, 1)), "a.jpg")
    plain = PICTURE.convert("L")
    for image, profile, channels in ((plain, grey, 1), (plain, rgb, 1), (plain.convert("RGB"), grey, 3)):
        data = png(iccp(profile), image=image)
        found = read(tmp_path, data)
        assert found.shape[2] == channels
        light = np.asarray(plain)[..., None] / 255
        bright = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(found - bright).max() <= 8  # littleCMS, of linear light near black
        assert np.abs(found - bright).mean() < 0.6
    changed = bytearray(rgb)
    changed[16:20] = b"CMYK"
    assert "profile" in refused(tmp_path, png(iccp(bytes(changed))))
    assert "found PQ" in refused(tmp_path, png(iccp(with_code_points(rgb, 9, 16))))


def with_code_points(profile: bytes, primaries: int, transfer: int) -> bytes:
    """The profile with a tag cicp in place of its first."""
    content = b"cicp" + bytes(4) + bytes([primaries, transfer, 0, 1])
    table = profile[:132] + struct.pack(">4sII", b"cicp", len(profile), len(content)) + profile[144:]
    return table + content


def exif(**tags: Any) -> bytes:
    made = Image.Exif()
    if "space" in tags:
        made.get_ifd(0x8769)[0xA001] = tags["space"]
    if "index" in tags:
        made.get_ifd(0x8769)[0xA005] = {1: tags["index"]}
    if "orientation" in tags:
        made[0x0112] = tags["orientation"]
    return made.tobytes()


@pytest.mark.parametrize(
    ("tags", "matrix", "linear"),
    [
        ({"space": 1}, SAME, srgb),
        ({"space": 0xFFFF}, SAME, srgb),
        ({"space": 0xFFFF, "index": "R98"}, SAME, srgb),
        ({"space": 0xFFFF, "index": "R03"}, ADOBE, power(2.2)),
        ({"index": "R03"}, ADOBE, power(2.2)),
        ({"space": 2}, ADOBE, power(2.2)),
    ],
)
def test_exif_declares_colours_where_nothing_else_does(
    tmp_path: Path, tags: dict[str, Any], matrix: NDArray[np.float64], linear: Any
) -> None:
    found = read(tmp_path, png(exif=exif(**tags)))
    assert np.abs(found - expected(matrix, linear)).mean() < 0.5
    declared = read(tmp_path, png((b"sRGB", b"\0"), exif=exif(**tags)))
    np.testing.assert_array_equal(declared, PIXELS)


def test_colour_spaces_of_exif_that_are_unknown_are_refused(tmp_path: Path) -> None:
    assert "found colour space 0xfffd" in refused(tmp_path, png(exif=exif(space=0xFFFD)))


# === Others ===


@pytest.mark.parametrize(
    ("points", "matrix", "linear"),
    [
        ((12, 13), P3, srgb),
        ((1, 13), SAME, srgb),
        ((1, 8), SAME, power(1)),
        ((9, 4), BT2020, power(2.2)),
        ((2, 2), SAME, srgb),
    ],
)
def test_avif_declares_code_points(
    tmp_path: Path, points: tuple[int, int], matrix: NDArray[np.float64], linear: Any
) -> None:
    found = read(tmp_path, avif(*points), "a.avif")
    plain = image_files.read_image(tmp_path / "a.avif") / 255
    light = np.clip(linear(plain) @ matrix.T, 0, 1)
    wanted = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found - wanted).mean() < 0.5
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        assert name in refused(tmp_path, avif(9, transfer), "a.avif")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "TIFF", "JPEG2000"])
def test_profiles_of_other_formats(tmp_path: Path, kind: str) -> None:
    name = f"a.{kind.lower()}".replace("jpeg2000", "jp2")
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    PICTURE.save(file := io.BytesIO(), kind, icc_profile=linear_profile(), **options)
    data = file.getvalue()
    if kind == "JPEG2000":  # Pillow writes no profile
        at = data.index(b"colr") - 4
        size = int.from_bytes(data[at : at + 4])
        content = b"colr\2\0\0" + linear_profile()
        head = data.index(b"jp2h") - 4
        grown = int.from_bytes(data[head : head + 4]) - size + len(content) + 4
        data = (
            data[:head] + struct.pack(">I", grown) + data[head + 4 : at]
            + struct.pack(">I", len(content) + 4) + content + data[at + size :]
        )  # fmt: skip
    found = read(tmp_path, data, name)
    plain = image_files.read_image(tmp_path / name) / 255
    bright = 255 * np.where(plain <= 0.0031308, 12.92 * plain, 1.055 * plain ** (1 / 2.4) - 0.055)
    assert np.abs(found - bright).mean() < 0.6


def test_jpeg_xl_is_read_or_its_extra_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_jxl")
    PICTURE.save(tmp_path / "a.jxl", lossless=True)
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "a.jxl", whole=True), PIXELS)
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfcomp\[evaluate\]"'):
        image_files.read_image(tmp_path / "a.jxl")


# === EXIF of odd types ===


@settings(max_examples=60)
@given(
    tag=st.integers(0, 0xFFFF).filter(lambda tag: tag != 0x0112),
    kind=st.integers(0, 20),
    count=st.integers(0, 3),
    value=st.binary(min_size=4, max_size=4),
    little=st.booleans(),
)
def test_other_tags_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, tag: int, kind: int, count: int, value: bytes, little: bool
) -> None:
    order = "<" if little else ">"
    entries = [(tag, kind, count, value), (0x0112, 3, 1, struct.pack(order + "HH", 6, 0))]
    ifd = b"".join(struct.pack(order + "HHI", t, k, n) + v for t, k, n, v in sorted(entries))
    data = b"Exif\0\0" + (b"II" if little else b"MM") + struct.pack(order + "HIH", 42, 8, 2) + ifd + bytes(4)
    path = tmp_path_factory.getbasetemp() / "odd.jpg"
    path.write_bytes(jpeg((0xE1, data), image=Image.fromarray(PIXELS[:, :12])))
    assert image_files.read_image(path, whole=True).shape == image_files.image_shape(path) == (12, 9, 3)


# === Arithmetic ===


def test_white_stays_white_whatever_the_primaries() -> None:
    for primaries in (*colours.PRIMARIES.values(), colours.ADOBE_RGB):
        np.testing.assert_allclose(colours.matrix(primaries, "here").sum(axis=1), 1, atol=1e-9)
    for primaries, published in (
        (colours.PRIMARIES[12], P3),
        (colours.ADOBE_RGB, ADOBE),
        (colours.PRIMARIES[9], BT2020),
    ):
        np.testing.assert_allclose(colours.matrix(primaries, "here"), published, atol=2e-4)


def test_curves_go_from_black_to_white_and_join() -> None:
    for curve in {*colours.TRANSFERS.values()}:
        values = curve(np.arange(256) / 255)
        assert values[0] == pytest.approx(0, abs=1e-9)
        assert values[255] == pytest.approx(1)
        assert np.all(np.diff(values) > 0)


def test_the_small_inputs_that_came_up(shared_data: Path) -> None:
    cases = shared_data.parent / "cases"
    if not cases.is_dir():
        pytest.skip(f"no {cases}")
    adobe = [
        image_files.read_image(cases / f"{name}.jpg", whole=True).astype(int)
        for name in ("icc_twice", "adobe_rgb_by_exif")
    ]
    assert np.abs(adobe[0] - adobe[1]).mean() < 0.5
    for name in ("exif_make_as_rational", "exif_imagewidth_rational"):
        assert image_files.read_image(cases / f"{name}.jpg", whole=True).shape == (64, 48, 3)
    for name, matrix, linear in (("gama_1", SAME, power(1)), ("cicp_display_p3", P3, srgb)):
        plain = image_files.read_image(cases / f"{name}.png")
        found = image_files.read_image(cases / f"{name}.png", whole=True)
        assert np.abs(found - expected(matrix, linear, plain)).mean() < 0.5
    late = [image_files.read_image(cases / "icc_after_sof.jpg", whole=whole).astype(int) for whole in (True, False)]
    assert np.abs(late[0] - late[1]).mean() > 5
    with suppress(MissingDependencyError):
        assert image_files.read_image(cases / "grey_or_colour.jxl", whole=True).ndim == 3
    with pytest.raises(InputError, match=r"iCCP in .*iccp_damaged\.png"):
        image_files.read_image(cases / "iccp_damaged.png", whole=True)
