"""`tfcomp.bulk`: every image once, in order, whatever kills the run; the same shards wherever they lie."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_inputs import ALONE, ANY, GOLDEN, RNG, SMALL, contents, payloads, pixels
from hypothesis import given
from hypothesis import strategies as st
from kinds import scene

from tfcomp import bulk
from tfcomp.bulk.inputs import Files, Rows, shards
from tfcomp.bulk.shards import MANIFEST
from tfcomp.cli.main import main
from tfcomp.errors import BitstreamError, InputError, MissingDependencyError
from tfcomp.items import Item
from tfcomp.storage import places

# === Shards ===


def test_each_file_is_once_in_the_shards_in_the_order_of_the_list(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = bulk.compress([photos / "z", photos], out, codec=ANY, shard_size=4, **ALONE)
    assert (report.shards, report.items, report.skipped, report.kept) == (3, 9, 0, 0)
    names = ["1.png", "10.png", "a.png", "b/1.png", "b/2.png", "b/c/deep.png", "b.png", "z/1.png", "z/10.png"]
    files = ["z/1.png", "z/10.png", *names[2:]]
    assert [entry.name for entry in bulk.items(out)] == names
    assert payloads(out) == ANY.compress([pixels(photos / name) for name in files])
    sizes = [path.stat().st_size for path in sorted(out.glob("*.tfz"))]
    assert report.bytes == sum(sizes)
    assert [path.name for path in sorted(out.iterdir())] == [MANIFEST, *(f"shard-{i:06}.tfz" for i in range(3))]


def test_the_order_is_that_of_all_paths_sorted(photos: Path) -> None:
    assert [photos / n for n in places.found(photos, {".png"})] == [
        path for path in sorted(photos.rglob("*.png")) if not path.name.startswith(".")
    ]


@given(
    sizes=st.lists(st.one_of(st.integers(1, 9), st.none()), min_size=1, max_size=8),
    size=st.integers(1, 5),
)
def test_shards_cover_the_list_once_and_depend_on_nothing_else(sizes: list[int | None], size: int) -> None:
    """Arrays of so many images among single files, None."""
    arrays = {f"{i}.npy": count for i, count in enumerate(sizes) if count}
    paths = [f"{i}.npy" if count else f"{i}.png" for i, count in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfcomp.bulk.inputs._array_header", lambda file, path: ((arrays[path], 4, 4), np.dtype("u1")))
        patch.setattr(places, "opened", lambda path: io.BytesIO())
        found = list(shards(iter(paths), size, Item((4, 4, 1))))
    each: list[Any] = []
    for shard in found:
        if isinstance(shard, Rows):
            assert 0 < shard.stop - shard.start <= size
            each += [(shard.address, i) for i in range(shard.start, shard.stop)]
        else:
            assert 0 < len(shard.addresses) <= size
            each += shard.addresses
    assert each == [item for p in paths for item in ([(p, i) for i in range(arrays[p])] if p in arrays else [p])]
    # As few as can be: none is followed by another of its kind unless it is full.
    for one, other in pairwise(found):
        if isinstance(one, Files) and isinstance(other, Files):
            assert len(one.addresses) == size


def test_inputs_are_taken_as_the_work_goes(photos: Path, tmp_path: Path) -> None:
    """A list without end is compressed as far as it is read."""
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            if taken > 50:
                raise InputError("enough")
            yield photos / "a.png"

    with pytest.raises(InputError, match="enough"):
        bulk.compress(endless(), tmp_path / "out", codec=ANY, shard_size=2, **ALONE)
    assert len(list((tmp_path / "out").glob("*.tfz"))) >= 20


def test_rows_of_arrays_come_back_as_arrays(rows: Path, tmp_path: Path) -> None:
    images = np.load(rows)
    report = bulk.compress([rows, str(rows)], tmp_path / "out", codec=SMALL, shard_size=5, **ALONE)
    assert (report.shards, report.items) == (6, 22)
    assert [entry.name for entry in bulk.items(tmp_path / "out")] == [f"rows.npy[{i}]" for i in range(11)] * 2
    assert payloads(tmp_path / "out") == 2 * SMALL.compress(images)
    done = bulk.decompress(tmp_path / "out", tmp_path / "back", codec=SMALL, **ALONE)
    assert (done.shards, done.items) == (6, 22)
    found = np.concatenate([np.load(path) for path in sorted((tmp_path / "back").glob("*.npy"))])
    restored = SMALL.decompress(SMALL.compress(images))
    assert np.array_equal(found, np.concatenate([restored, restored]))


def test_what_an_array_is_depends_on_the_codec(tmp_path: Path) -> None:
    """For items of any size, one of three axes and few channels is an image, as for the command."""
    np.save(tmp_path / "one.npy", scene(9, 8))
    np.save(tmp_path / "many.npy", np.stack([scene(9, 8), scene(9, 8, seed=1)]))
    bulk.compress([tmp_path / "one.npy", tmp_path / "many.npy"], tmp_path / "out", codec=ANY, **ALONE)
    assert [entry.name for entry in bulk.items(tmp_path / "out")] == ["one.npy", "many.npy[0]", "many.npy[1]"]
    bulk.decompress(tmp_path / "out", tmp_path / "back", codec=ANY, **ALONE)
    assert np.load(tmp_path / "back" / "shard-000001.npy").shape == (2, 9, 8, 3)
    assert pixels(tmp_path / "back" / "shard-000000" / "one.png").shape == (9, 8, 3)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">i2", "|O", "<c8"])
def test_arrays_of_other_layouts_are_read_or_refused(tmp_path: Path, order: str, dtype: str) -> None:
    images = RNG.integers(0, 256, (3, *SMALL.item.shape)).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(images, order=order), allow_pickle=True)  # type: ignore[call-overload]
    if order == "F" or dtype in ("|O", "<c8"):
        with pytest.raises(InputError, match=r"a\.npy"):
            bulk.compress(tmp_path / "a.npy", tmp_path / "out", codec=SMALL, **ALONE)
    else:
        bulk.compress(tmp_path / "a.npy", tmp_path / "out", codec=SMALL, **ALONE)
        assert payloads(tmp_path / "out") == SMALL.compress(images.astype(np.uint8))


def test_files_come_back_in_a_folder_of_each_shard(photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "1.webp").write_bytes((photos / "b" / "2.png").read_bytes())  # beside 1.png, which is its target
    bulk.compress(photos, tmp_path / "out", codec=ANY, quality=1, shard_size=3, **ALONE)
    bulk.decompress(tmp_path / "out", tmp_path / "back", codec=ANY, **ALONE)
    found = [p.relative_to(tmp_path / "back").as_posix() for p in sorted((tmp_path / "back").rglob("*.png"))]
    assert found == [
        "shard-000000/a.png", "shard-000000/b/1.png", "shard-000000/b/1.webp-1.png",
        "shard-000001/b/2.png", "shard-000001/b/c/deep.png", "shard-000001/b.png",
        "shard-000002/z/1.png", "shard-000002/z/10.png",
    ]  # fmt: skip
    (expected,) = ANY.decompress(ANY.compress([pixels(photos / "z" / "10.png")], 1))
    assert np.array_equal(pixels(tmp_path / "back" / found[-1]), expected)


def test_merged_shards_are_one_archive_of_the_command(photos: Path, tmp_path: Path) -> None:
    bulk.compress(photos, tmp_path / "out", codec=ANY, shard_size=2, **ALONE)
    size = bulk.merge(tmp_path / "out", tmp_path / "all.tfz")
    assert main(["compress", str(photos), "-o", str(tmp_path / "one.tfz"), "--codec", str(GOLDEN / "contexts")]) == 0
    assert (tmp_path / "all.tfz").read_bytes() == (tmp_path / "one.tfz").read_bytes()
    assert size == (tmp_path / "all.tfz").stat().st_size
    assert [entry.name for entry in bulk.items(tmp_path / "all.tfz")] == [e.name for e in bulk.items(tmp_path / "out")]


def test_what_cannot_be_merged_is_refused(photos: Path, rows: Path, tmp_path: Path) -> None:
    bulk.compress([photos / "a.png", rows], tmp_path / "out", codec=SMALL, on_error="skip", **ALONE)
    bulk.compress(photos, tmp_path / "other", codec=ANY, **ALONE)
    one, two = sorted((tmp_path / "out").glob("*.tfz"))
    with pytest.raises(InputError, match="of files or of arrays"):
        bulk.merge([one, two], tmp_path / "all.tfz")
    with pytest.raises(BitstreamError, match="expected codec"):
        bulk.merge([two, tmp_path / "other" / "shard-000000.tfz"], tmp_path / "all.tfz")
    with pytest.raises(InputError, match="none of the inputs"):
        bulk.merge([one], one)
    with pytest.raises(InputError, match="at least one shard"):
        bulk.merge([], tmp_path / "all.tfz")
    assert not (tmp_path / "all.tfz").exists()


# === Errors ===


def test_what_is_skipped_is_told_in_its_place(photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "0.png").write_bytes(b"no image")
    (photos / "z" / "2.png").write_bytes(b"neither")
    with pytest.raises(InputError, match=r"0\.png"):
        bulk.compress(photos, tmp_path / "out", codec=ANY, shard_size=2, **ALONE)
    report = bulk.compress(photos, tmp_path / "out", codec=ANY, shard_size=2, on_error="skip", **ALONE)
    assert (report.items, report.skipped, report.shards) == (7, 2, 5)
    entries = list(bulk.items(tmp_path / "out"))
    assert [e.name for e in entries if e.error] == ["b/0.png", "z/2.png"]
    assert [e.name for e in entries] == list(places.found(photos, {".png"}))
    good = [e.name for e in entries if e.index is not None]
    assert payloads(tmp_path / "out") == ANY.compress([pixels(photos / name) for name in good])
    assert bulk.decompress(tmp_path / "out", tmp_path / "back", codec=ANY, **ALONE).items == 7


def test_a_damaged_payload_is_skipped_or_ends_the_run(rows: Path, tmp_path: Path) -> None:
    bulk.compress(rows, tmp_path / "out", codec=SMALL, shard_size=4, **ALONE)
    path = tmp_path / "out" / "shard-000001.tfz"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BitstreamError, match="checksum"):
        bulk.decompress(tmp_path / "out", tmp_path / "back", codec=SMALL, **ALONE)
    report = bulk.decompress(tmp_path / "out", tmp_path / "back", codec=SMALL, on_error="skip", **ALONE)
    assert (report.items, report.skipped, report.kept) == (7, 4, 1)
    assert [len(np.load(p)) for p in sorted((tmp_path / "back").glob("*.npy"))] == [4, 0, 3]
    path.write_bytes(b"")  # its head too
    report = bulk.decompress(tmp_path / "out", tmp_path / "again", codec=SMALL, on_error="skip", **ALONE)
    assert (report.items, report.skipped) == (7, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard_size": 0}, "shard_size"),
        ({"processes": 0}, "processes"),
        ({"on_error": "ignore"}, "on_error"),
        ({"quality": 99}, "quality"),
        ({"quality": 1, "target_bytes": 99}, "found both"),
        ({"target_bytes": 0}, "target_bytes"),
        ({"effort": -1}, "effort"),
        ({"codec": "photographs"}, "tfcomp.Codec"),
    ],
)
def test_options_that_hold_for_no_image_are_refused_before_any_work(
    photos: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        bulk.compress(photos, tmp_path / "out", **{"codec": ANY, **options})
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for paths in ([], tmp_path / "empty"):
        with pytest.raises(InputError, match="found none"):
            bulk.compress(paths, tmp_path / "out", codec=ANY, **ALONE)
    with pytest.raises(InputError, match="cannot read"):
        bulk.compress(tmp_path / "none.png", tmp_path / "out", codec=ANY, **ALONE)


# === Elsewhere ===


def test_addresses_elsewhere_give_what_paths_do(photos: Path, rows: Path, tmp_path: Path) -> None:
    fs = pytest.importorskip("fsspec").filesystem("memory")
    for path in (*photos.rglob("*.png"), rows):
        fs.makedirs(f"/bucket/{path.parent.relative_to(tmp_path)}", exist_ok=True)
        fs.pipe_file(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    try:
        for codec, paths, inputs in (
            (ANY, [photos], ["memory://bucket/photos"]),
            (SMALL, [rows], ["memory://bucket/rows.npy"]),
        ):
            here, there = tmp_path / codec.fingerprint, f"memory://out/{codec.fingerprint}"
            bulk.compress(paths, here, codec=codec, shard_size=3, on_error="skip", **ALONE)
            assert bulk.compress(inputs, there, codec=codec, shard_size=3, on_error="skip").kept == 0
            assert payloads(there) == payloads(here)
            assert [(e.name, e.index) for e in bulk.items(there)] == [(e.name, e.index) for e in bulk.items(here)]
            shard = f"/out/{codec.fingerprint}/shard-000001.tfz"
            fs.pipe_file(shard, fs.cat_file(shard)[:-1])  # a put that was cut off
            assert bulk.compress(inputs, there, codec=codec, shard_size=3, on_error="skip").kept >= 2
            bulk.decompress(here, tmp_path / "back" / codec.fingerprint, codec=codec, **ALONE)
            bulk.decompress(there, f"memory://back/{codec.fingerprint}", codec=codec)
            whole = contents(tmp_path / "back" / codec.fingerprint)
            found = {
                name.removeprefix(f"/back/{codec.fingerprint}/"): fs.cat_file(name)
                for name in fs.find(f"/back/{codec.fingerprint}")
            }
            assert found.keys() == whole.keys()
            images = [name for name in whole if not name.endswith(".json")]
            assert images
            assert all(found[name] == whole[name] for name in images)
            bulk.merge(there, f"memory://merged/{codec.fingerprint}.tfz")
            bulk.merge(here, tmp_path / "merged.tfz")
            assert fs.cat_file(f"/merged/{codec.fingerprint}.tfz") == (tmp_path / "merged.tfz").read_bytes()
    finally:
        fs.store.clear()


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_addresses_of_this_machine_are_paths(rows: Path, tmp_path: Path, scheme: str) -> None:
    pytest.importorskip("fsspec")
    bulk.compress(f"{scheme}://{rows}", f"{scheme}://{tmp_path}/out", codec=SMALL, **ALONE)
    report = bulk.compress(rows, tmp_path / "out", codec=SMALL, **ALONE)
    assert report.kept == report.shards == 1


def test_an_address_that_nobody_knows_is_refused(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected an address as a string"):
        bulk.compress(Path("memory://bucket/photos"), tmp_path / "out", codec=SMALL, **ALONE)
    with pytest.raises(InputError, match="nowhere"):
        bulk.compress(rows, "nowhere://out", codec=SMALL, **ALONE)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfcomp\[bulk\]"'):
        bulk.compress("memory://bucket/photos", tmp_path / "out", codec=SMALL, **ALONE)


# === Commands ===


def command(*arguments: Any) -> int:
    return main([*map(str, arguments), "--codec", str(GOLDEN / "contexts")])


def test_the_commands_write_and_read_shards(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--shard-size", 3, "--quality", 1)
    (photos / "none.png").write_bytes(b"no image")
    assert command("compress", photos, "-o", tmp_path / "out", *options) == 2
    assert "none.png" in capsys.readouterr().err
    assert command("compress", photos, "-o", tmp_path / "out", *options, "--on-error", "skip") == 2
    assert capsys.readouterr().err == f"tfcomp: skipped 1 of 8 images, named in {tmp_path / 'out'}\n"
    (photos / "none.png").unlink()
    assert command("compress", photos, "-o", tmp_path / "two", *options) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'two'}: 7 images of 3 shards in ")
    bulk.compress(photos, tmp_path / "three", codec=ANY, quality=1, shard_size=3, **ALONE)
    assert contents(tmp_path / "two") == contents(tmp_path / "three")
    assert command("decompress", tmp_path / "two", "-o", tmp_path / "back") == 0
    assert len(list((tmp_path / "back").rglob("*.png"))) == 7
    assert main(["info", str(tmp_path / "two")]) == 0
    assert "archives     " in capsys.readouterr().out


def test_options_without_effect_on_shards_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compress", photos, "-o", tmp_path / "out", "--shard-size", 3, "--force") == 2
    assert "found it with --shard-size" in capsys.readouterr().err
    assert command("compress", "memory://photos", "-o", tmp_path / "out.tfz") == 2
    assert "expected a path on this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
