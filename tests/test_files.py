"""Files and folders are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tfcomp.errors import InputError
from tfcomp.storage import writing
from tfcomp.storage.writing import replacing_file, replacing_folder


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    with replacing_file(path) as temporary:
        temporary.write_bytes(b"complete")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert not path.exists()
    assert path.read_bytes() == b"complete"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.tfz"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing_file(path) as temporary:
        temporary.write_bytes(b"ha")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tfz"
    with pytest.raises(InputError, match=r"cannot write .*a\.tfz: No space"), replacing_file(path) as temporary:
        temporary.write_bytes(b"ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_errors_about_other_files_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing_file(tmp_path / "a") as temporary:
        temporary.write_bytes((tmp_path / "elsewhere").read_bytes())


def test_folders_and_devices_are_not_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"), replacing_file(tmp_path):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match="is a device"), replacing_file(os.devnull):
        pytest.fail("the block must not run")


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot create the folder .*file"), replacing_file(tmp_path / "file" / "a"):
        pytest.fail("the block must not run")


def test_a_folder_is_replaced_only_if_it_is_an_earlier_result(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    for content in ("one", "two"):
        with replacing_folder(path, "manifest.json", own=("one", "two")) as temporary:
            (temporary / "manifest.json").write_text(content)
            (temporary / content).write_text("")
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "two"]
    assert list(tmp_path.iterdir()) == [path]

    own = tmp_path / "photographs"
    own.mkdir()
    (own / "dear.jpg").write_text("irreplaceable")
    with pytest.raises(InputError, match=r"found other files and no manifest\.json"):
        replacing_folder(own, "manifest.json").__enter__()
    assert (own / "dear.jpg").read_text() == "irreplaceable"

    with pytest.raises(InputError, match="is a file"):
        replacing_folder(own / "dear.jpg", "manifest.json").__enter__()


def test_an_interrupted_folder_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    with replacing_folder(path, "manifest.json") as temporary:
        (temporary / "manifest.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(path, "manifest.json") as temporary:
        (temporary / "manifest.json").write_text("new")
        raise KeyboardInterrupt
    assert (path / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_between_the_two_renames_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "made"
    with replacing_folder(target, marker="mark") as folder:
        (folder / "mark").write_text("old")
    monkeypatch.setattr(writing, "_exchanged", lambda *_: False)  # as where the system cannot
    rename, calls = Path.rename, []

    def interrupted(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(target, marker="mark") as folder:
        (folder / "mark").write_text("new")
    assert (target / "mark").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_a_file_of_the_user_s_is_not_replaced_even_if_it_came_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with replacing_folder(target, "mark", own=("more",)) as folder:
        (folder / "mark").write_text("old")
        (folder / "more").write_text("")
    refused = pytest.raises(InputError, match="found 'artifact' in it as well")
    with refused, replacing_folder(target, "mark", own=("more",)) as folder:
        (folder / "mark").write_text("new")
        (target / "artifact").mkdir()
    assert (target / "mark").read_text() == "old"
    assert (target / "artifact").is_dir()
    assert list(tmp_path.iterdir()) == [target]
