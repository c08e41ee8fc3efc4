"""Names in an archive: one rule, one place for each item, in linear time, and nothing replaced unseen."""

from __future__ import annotations

import cProfile
import os
import pstats
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from commands import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcomp.errors import BitstreamError, InputError
from tfcomp.storage import archives, container, image_files, names

parts = st.text(st.characters(codec=None) | st.sampled_from("abAB.:\\ é1\0\n"), min_size=1, max_size=300)
paths = st.lists(parts, min_size=1, max_size=5).map("/".join)
plain = st.lists(st.sampled_from(["a", "A", "a-1", "é", "e\u0301", "b.png", "B.jpg", "nu"]), min_size=1, max_size=3)

# === The rule ===


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:/a",
        "c:a",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\x85",
        "a\u2028b",
        "\ud800.png",
        "a\udcff",
        "CON",
        "nul.png",
        "sub/Lpt1.x.y",
        "com¹",
        "aux .txt",
        "a.",
        "a /b",
        "x" * 256,
        "é" * 128,
        "a/" * 64 + "a",
        "/".join(["x" * 250] * 17),
        "gs://b/o",
    ],
)
def test_names_that_no_file_may_have(name: str) -> None:
    with pytest.raises(BitstreamError, match="names inside the output folder in here, found '") as raised:
        names.checked(name, "here")
    assert str(raised.value).isascii()
    assert "\n" not in str(raised.value)
    assert names.checked(names.portable(name), "here")


@pytest.mark.parametrize(
    "name", ["a", "a.png", "sub/a b.png", ".hidden", "console", "com10", "x" * 255, "日本/é.png", "a'?*"]
)
def test_names_that_stay_what_they_are(name: str) -> None:
    assert names.checked(name, "here") == PurePosixPath(name)
    assert names.portable(name) == name


@settings(max_examples=300)
@given(paths)
def test_a_portable_name_obeys_the_rule_and_stays(name: str) -> None:
    found = names.portable(name)
    assert str(names.checked(found, "here")) == found
    assert names.portable(found) == found


@settings(max_examples=300)
@given(paths)
def test_what_is_taken_stays_in_its_folder(name: str) -> None:
    try:
        path = names.checked(name, "here")
    except BitstreamError:
        return
    assert os.path.normpath(f"/out/{path}") == f"/out/{name}"
    assert name.encode().decode() == name


@given(st.text(max_size=20))
def test_keys_ignore_case_and_composition(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert names.key(unicodedata.normalize(form, text)) == names.key(text)
    assert names.key(names.key(text)) == names.key(text)
    for other in (text.upper(), text.lower()):
        if other.casefold() == text.casefold():
            assert names.key(other) == names.key(text)


# === Where items come out ===


@settings(max_examples=200)
@given(st.lists(plain.map("/".join), max_size=30), st.sampled_from([".png", ".npy"]))
def test_every_item_has_a_place_of_its_own_on_every_file_system(given_names: list[str], suffix: str) -> None:
    found = archives.targets(given_names, len(given_names), "here", suffix)
    assert len({names.key(str(target)) for target in found}) == len(given_names)
    folders = {names.key(str(parent)) for target in found for parent in target.parents}
    for name, target in zip(given_names, found, strict=True):
        assert target.suffix == suffix
        assert names.key(str(target)) not in folders
        assert target.parent == PurePosixPath(name).parent
        names.checked(str(target), "here")


def test_places_are_as_the_names_say() -> None:
    given_names = ["a.jpg", "a.bmp", "A.png", "b/c.d", "b", "x" * 255, "x" * 255, "v1.é"]
    found = [str(target) for target in archives.targets(given_names, 8, "here", ".png")]
    assert found[:5] == ["a.png", "a.bmp-1.png", "A.png-1.png", "b/c.png", "b.png"]
    assert found[5:7] == ["x" * 251 + ".png", "x" * 239 + "-1.png"]
    assert found[7] == "v1.é.png"
    assert [str(t) for t in archives.targets(None, 11, "here", ".npy")][::10] == ["00.npy", "10.npy"]
    for wrong in (5, ["a"], ["a", 5], [["a"], "b"]):
        with pytest.raises(BitstreamError, match="expected 2 names in here"):
            archives.targets(wrong, 2, "here", ".png")


@pytest.mark.parametrize(
    "make",
    [
        lambda n: ["a"] * n,
        lambda n: ["a"] * (n // 2) + [f"a-{i}" for i in range(n // 2)],
        lambda n: [f"a-{i}" for i in range(n // 2)] + ["a"] * (n // 2),
        lambda n: ["x" * 247 + f"{i:08}" for i in range(n // 2)] * 2,
        lambda n: ["x" * 240 + f"{i // 2:08}" for i in range(n)],
        lambda n: ["/".join(["a"] * 60)] * n,
    ],
)
def test_equal_names_take_a_linear_number_of_calls(make: Callable[[int], list[str]]) -> None:
    calls = []
    for count in (400, 1600):
        profile = cProfile.Profile()
        found = profile.runcall(archives.targets, make(count), count, "here", ".png")
        assert len(set(found)) == count
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[1] < 5 * calls[0]  # a look at each pair would be 16 times as many


# === Files ===


def test_names_of_files_are_portable(tmp_path: Path) -> None:
    for name in ("12:30.png", "sub/a\\b.png", "sub/c.png"):
        picture(tmp_path / name)
    assert archives.named_files([tmp_path, tmp_path / "12:30.png"])[0] == [
        "12_30.png",
        "sub/a_b.png",
        "sub/c.png",
        "12_30.png",
    ]
    with pytest.raises(InputError, match="on this machine"):
        archives.named_files(["gs://bucket/a.png"])


def test_an_output_is_none_of_the_inputs(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    inputs = [tmp_path / "a.png", tmp_path / "absent.png"]
    (tmp_path / "soft.tfz").symlink_to(tmp_path / "a.png")
    (tmp_path / "hard.tfz").hardlink_to(tmp_path / "a.png")
    for name in ("a.png", "soft.tfz", "hard.tfz", "../" + tmp_path.name + "/a.png"):
        with pytest.raises(InputError, match="none of the inputs"):
            archives.check_output(tmp_path / name, inputs, force=True)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"another file .*thesis\.txt; --force"):
        archives.check_output(tmp_path / "thesis.txt", inputs, force=False)
    archives.check_output(tmp_path / "thesis.txt", inputs, force=True)
    container.write(tmp_path / "old.tfz", [], fingerprint=bytes(16), item_shape=())
    (tmp_path / "empty").write_bytes(b"")
    for name in ("old.tfz", "empty", "new.tfz", "new/new.tfz"):
        archives.check_output(tmp_path / name, inputs, force=False)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    with pytest.raises(InputError, match="sub is a link"):
        archives.check_targets(out, [PurePosixPath("sub/a.png")], [], force=True)
    (elsewhere / "dear.png").write_text("precious")
    (out / "a.png").symlink_to(elsewhere / "dear.png")
    (out / "b.png").symlink_to(elsewhere / "absent.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError, match=f"found {name}; --force"):
            archives.check_targets(out, [PurePosixPath(name)], [], force=False)
        (path,) = archives.check_targets(out, [PurePosixPath(name)], [], force=True)
        image_files.write_image(path, np.zeros((2, 3, 1), np.uint8))
        assert not path.is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["dear.png"]
    assert (elsewhere / "dear.png").read_text() == "precious"
    (out / "c.png").hardlink_to(elsewhere / "dear.png")
    with pytest.raises(InputError, match="none of the inputs"):
        archives.check_targets(out, [PurePosixPath("c.png")], [elsewhere / "dear.png"], force=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_images_come_back_from_their_files(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    path = tmp_path / f"a{archives.suffix_for(channels)}"
    image_files.write_image(path, image)
    np.testing.assert_array_equal(image_files.read_image(path, whole=True), image)
    assert image_files.image_shape(path) == image.shape


def test_arrays_that_are_no_image_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (np.zeros(5), np.zeros((5, 7, 9)), np.zeros((0, 7)), np.zeros((2, 5, 7, 3)), np.zeros((5, 7), bool)):
        np.save(path, array)
        with pytest.raises(InputError, match=r"one image .* in .*a\.npy, found"):
            image_files.read_image(path)
    np.save(path, np.full((5, 7), 0.5))
    with pytest.raises(InputError, match=r"the image of .*a\.npy as whole numbers"):
        image_files.read_image(path)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"cannot read the image .*a\.npy"):
        image_files.image_shape(path)


def test_a_name_of_248_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 122 + ".png")
    assert len(os.fsencode(path.name)) == 248
    image_files.write_image(path, np.zeros((2, 3, 1), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
