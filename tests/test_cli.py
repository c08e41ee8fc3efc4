"""The command line as a user meets it: the whole path, exit statuses, one line for each wrong input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import failure
from PIL import Image

from tfcomp.cli.main import main
from tfcomp.data import glyphs


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and an artifact, made by the commands."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "images.npy", glyphs.render(200, seed=2))
    run, made = folder / "run", folder / "artifact"
    settings = ["--network", "dense", "--beta", "0.3", "--latent-dim", "8", "--epochs", "1"]
    assert main(["train", str(folder / "images.npy"), "--out", str(run), *settings]) == 0
    assert main(["export", str(run), str(made)]) == 0
    return made


def save_images(folder: Path, count: int = 3) -> Path:
    for i, image in enumerate(glyphs.render(count, seed=3)):
        path = folder / ("sub" if i % 2 else ".") / f"image {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return folder


def test_folders_go_into_a_file_and_come_out_under_their_names(artifact: Path, tmp_path: Path) -> None:
    source = save_images(tmp_path / "in")
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    assert main(["compress", str(source), "-o", str(packed), "--codec", str(artifact)]) == 0
    assert main(["decompress", str(packed), "-o", str(out), "--codec", str(artifact)]) == 0
    assert sorted(p.relative_to(out) for p in out.rglob("*.png")) == sorted(
        p.relative_to(source) for p in source.rglob("*.png")
    )
    with Image.open(out / "sub" / "image 1.png") as image:
        assert image.size == (28, 28)


@pytest.mark.slow
def test_one_run_of_several_prices_compresses_at_several_qualities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", glyphs.render(60, seed=2))
    run, made = tmp_path / "run", tmp_path / "artifact"
    settings = ["--network", "dense", "--beta", "3", "0.1", "--latent-dim", "8", "--epochs", "3", "--batch-size", "20"]
    assert main(["train", str(tmp_path / "x.npy"), "--out", str(run), *settings]) == 0
    assert main(["export", str(run), str(made)]) == 0
    sizes = []
    for quality in ("1", "2"):
        packed = tmp_path / f"{quality}.tfz"
        arguments = ["-o", str(packed), "--codec", str(made)]
        assert main(["compress", str(tmp_path / "x.npy"), *arguments, "--quality", quality]) == 0
        assert main(["decompress", str(packed), "-o", str(tmp_path / quality), "--codec", str(made)]) == 0
        sizes.append(packed.stat().st_size)
    assert sizes[0] < sizes[1]
    arguments = ["-o", str(tmp_path / "no.tfz"), "--codec", str(made), "--quality", "3"]
    assert "a quality of 1 to 2, found 3" in failure(capsys, "compress", tmp_path / "x.npy", *arguments)


def test_arrays_come_out_numbered(artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", glyphs.render(11, seed=4))
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    assert main(["compress", str(tmp_path / "x.npy"), "-o", str(packed), "--codec", str(artifact)]) == 0
    assert main(["decompress", str(packed), "-o", str(out), "--codec", str(artifact)]) == 0
    assert [p.name for p in sorted(out.iterdir())] == [f"{i:02}.png" for i in range(11)]


def test_images_that_are_there_are_not_replaced_unasked(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, packed = save_images(tmp_path / "in"), tmp_path / "a.tfz"
    before = (source / "image 0.png").read_bytes()
    assert main(["compress", str(source), "-o", str(packed), "--codec", str(artifact)]) == 0
    assert "--force" in failure(capsys, "decompress", packed, "-o", source, "--codec", artifact)
    assert (source / "image 0.png").read_bytes() == before
    assert main(["decompress", str(packed), "-o", str(source), "--codec", str(artifact), "--force"]) == 0
    assert (source / "image 0.png").read_bytes() != before


def test_equal_stems_do_not_overwrite_each_other(artifact: Path, tmp_path: Path) -> None:
    source = save_images(tmp_path / "in", 1)
    Image.fromarray(glyphs.render(1, seed=9)[0, ..., 0]).save(source / "image 0.bmp")
    packed, out = tmp_path / "a.tfz", tmp_path / "out"
    assert main(["compress", str(source), "-o", str(packed), "--codec", str(artifact)]) == 0
    assert main(["decompress", str(packed), "-o", str(out), "--codec", str(artifact)]) == 0
    assert len(list(out.rglob("*.png"))) == 2


def test_info_names_every_kind(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, payload = tmp_path / "a.tfz", tmp_path / "payload"
    source = save_images(tmp_path / "in")
    assert main(["compress", str(source), "-o", str(packed), "--codec", str(artifact)]) == 0
    payload.write_bytes(b"\x80")
    said = []
    for arguments in ([artifact], [artifact.parent / "run"], [packed], [payload], [payload, "--codec", artifact]):
        capsys.readouterr()
        assert main(["info", *map(str, arguments)]) == 0
        said.append(capsys.readouterr().out)
    kinds = ("tables.npz", "val_loss", "3 of 28x28x1", "names no codec", "decodes under codec")
    for text, expected in zip(said, kinds, strict=True):
        assert expected in text


def test_wrong_input_gets_status_2_and_one_line(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tfz"
    compress = ("-o", out, "--codec", artifact)
    (tmp_path / "empty").mkdir()
    assert "found none" in failure(capsys, "compress", tmp_path / "empty", *compress)
    assert "no such file" in failure(capsys, "compress", tmp_path / "absent.png", *compress).lower()
    (tmp_path / "text.png").write_text("not an image")
    assert "cannot read the image" in failure(capsys, "compress", tmp_path / "text.png", *compress)
    Image.new("L", (30, 28)).save(tmp_path / "wide.png")
    assert "expected images [28, 28, 1], found [28, 30, 1] in" in failure(
        capsys, "compress", tmp_path / "wide.png", *compress
    )
    Image.new("RGB", (28, 28)).save(tmp_path / "colour.png")
    assert "1 channels, found 3 in" in failure(capsys, "compress", tmp_path / "colour.png", *compress)
    assert "of any size" in failure(capsys, "compress", save_images(tmp_path / "in"), *compress, "--target-bytes", "9")
    assert not out.exists()
    assert "artifact folder" in failure(capsys, "compress", tmp_path, "-o", out, "--codec", tmp_path)
    assert "run.json" in failure(capsys, "export", tmp_path, tmp_path / "made")
    assert "found none of them" in failure(capsys, "info", tmp_path / "absent")
    assert "no such file" in failure(capsys, "train", tmp_path / "absent", "--out", tmp_path / "run")
    prices = ("--model", "vae", "--beta", "2", "1")
    assert "one beta for a vae, found 2" in failure(capsys, "train", "glyphs", "--out", tmp_path / "run", *prices)
    assert "known to tensorflow-datasets" in failure(capsys, "train", "tfds:no_such_set", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND (see tfcomp --help)"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["compress"], "required: INPUT, -o/--output (see tfcomp compress --help)"),
        (["train", "glyphs", "--out", "run", "--epochs", "0"], "expected a whole number of at least 1, found 0"),
        (["export", "run", "made", "--step", "1", "--target-bytes", "3"], "not allowed with"),
        (["train", "glyphs", "--out", "run", "--steps", "3", "--minutes", "1"], "not allowed with"),
        (["train", "glyphs", "--out", "run", "--minutes", "nan"], "expected a number above 0, found nan"),
        (["compress", "a.png", "-o", "gs://b/o.tfz"], "on this machine, found 'gs://b/o.tfz'"),
        (["decompress", "s3://b/a.tfz", "-o", "out"], "on this machine, found 's3://b/a.tfz'"),
    ],
)
def test_wrong_arguments_get_status_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(capsys, *arguments)


def test_nothing_but_the_one_line_reaches_the_stderr_of_the_process(artifact: Path, tmp_path: Path) -> None:
    """LiteRT's C++ announces its delegate there, once in a process, and libtiff complains."""
    Image.fromarray(glyphs.render(1, seed=3)[0, ..., 0]).save(tmp_path / "a.tif", compression="packbits")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:8] + b"\x7f" * 40 + whole[48:])
    for name in ("absent.png", "a.tif"):
        command = [sys.executable, "-m", "tfcomp", "compress", name, "-o", "a.tfz", "--codec", artifact]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"tfcomp: cannot read the image {name}")
        assert done.stderr.count("\n") == 1
    save_images(tmp_path / "in", 1)
    command[4] = "in"
    closed = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], cwd=tmp_path, timeout=120, check=False)
    assert closed.returncode == 0
    assert (tmp_path / "a.tfz").is_file()


def test_a_file_of_another_codec_and_a_damaged_one_are_named(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "a.tfz"
    assert main(["compress", str(save_images(tmp_path / "in")), "-o", str(packed), "--codec", str(artifact)]) == 0
    other = Path(shutil.copytree(Path(__file__).parent / "golden" / "artifacts" / "static", tmp_path / "other"))
    line = failure(capsys, "decompress", packed, "-o", tmp_path / "out", "--codec", other)
    assert "expected" in line
    assert "expected payloads of the codec" in line
    packed.write_bytes(packed.read_bytes()[:-1])
    assert "truncated" in failure(capsys, "decompress", packed, "-o", tmp_path / "out", "--codec", artifact)
    tables = other / "tables.npz"
    tables.write_bytes(tables.read_bytes()[:-7])
    assert "tables.npz" in failure(capsys, "compress", tmp_path / "in", "-o", packed, "--codec", other)
    assert not (tmp_path / "out").exists()


def test_names_in_a_file_cannot_leave_the_folder(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tfcomp.codec import Codec
    from tfcomp.storage import container

    codec = Codec.load(artifact)
    payloads = codec.compress(glyphs.render(1, seed=0))
    for name in ("../evil", "/evil", "a/../../evil", "a\\..\\evil"):
        container.write(
            tmp_path / "a.tfz",
            payloads,
            fingerprint=bytes.fromhex(codec.fingerprint),
            item_shape=(28, 28, 1),
            metadata={"names": [name]},
        )
        assert "names inside" in failure(
            capsys, "decompress", tmp_path / "a.tfz", "-o", tmp_path / "out", "--codec", artifact
        )


def test_help_and_the_device_path_load_no_tensorflow(artifact: Path, tmp_path: Path) -> None:
    script = f"""
import sys
for name in ("tensorflow", "keras", "tensorflow_datasets"):
    sys.modules[name] = None  # importing it raises
import tfcomp
from tfcomp.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert main(["compress", {str(save_images(tmp_path / "in"))!r}, "-o", "a.tfz", "--codec", {str(artifact)!r}]) == 0
assert main(["decompress", "a.tfz", "-o", "out", "--codec", {str(artifact)!r}]) == 0
try:
    tfcomp.VAE
except tfcomp.MissingDependencyError as error:
    assert "tfcomp[train]" in str(error)
else:
    raise AssertionError("expected an error that names the extra")
assert main(["train", "glyphs", "--out", "run"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "tfcomp[train]" in done.stderr
