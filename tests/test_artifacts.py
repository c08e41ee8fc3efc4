"""An artifact is loaded whole or refused in one sentence; on the base install it needs no TensorFlow."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcomp.artifact import arrays
from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.manifest import MANIFEST, TABLES, Manifest
from tfcomp.cli.main import main
from tfcomp.codec import Codec
from tfcomp.errors import BitstreamError, InputError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def codec(exported: Any) -> Codec:
    return exported[0]


@pytest.fixture
def folder(exported: Any) -> Path:
    """Not to be changed."""
    return exported[1]


@pytest.fixture
def images(exported: Any) -> np.ndarray:
    return exported[2][:20]


@pytest.fixture
def artifact(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "artifact"))


def edit(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest."""
    fields = json.loads((artifact / MANIFEST).read_text())
    change(fields)
    (artifact / MANIFEST).write_text(json.dumps(fields))


def admit(artifact: Path, name: str, content: bytes) -> None:
    """Replace a file, and its size and digest in the manifest."""
    (artifact / name).write_bytes(content)
    edit(artifact, lambda fields: fields["files"].update({name: artifacts.describe(artifact / name)}))


# === What is loaded ===


WITHOUT_TENSORFLOW = """
import json, sys, time
for name in ("tensorflow", "keras", "tensorflow_datasets"):
    sys.modules[name] = None
start = time.perf_counter()
import tfcomp
codec = tfcomp.Codec.load(sys.argv[1])
seconds = time.perf_counter() - start
payloads = [bytes.fromhex(line) for line in sys.stdin]
restored = codec.decompress(payloads)
status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0"
peak = int(status.partition("VmHWM:")[2].split()[0])
again = codec.compress(restored)
loaded = [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras") and sys.modules[name]]
print(json.dumps({"sum": int(restored.astype(int).sum()), "loaded": loaded, "again": [p.hex() for p in again],
                  "peak_kib": peak, "load_seconds": seconds}))
"""


def without_tensorflow(python: Path | str, artifact: Path, payloads: list[bytes], **options: Any) -> dict[str, Any]:
    """What the program above prints, run by an interpreter."""
    done = subprocess.run(
        [python, "-c", WITHOUT_TENSORFLOW, artifact],
        input="\n".join(payload.hex() for payload in payloads),
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_base_install_needs_no_tensorflow_and_little_memory(folder: Path, images: np.ndarray) -> None:
    here = Codec.load(folder)
    payloads = here.compress(images)
    restored = here.decompress(payloads)
    found = without_tensorflow(sys.executable, folder, payloads)
    assert found["sum"] == restored.astype(int).sum()
    assert [bytes.fromhex(payload) for payload in found["again"]] == here.compress(restored)
    assert found["loaded"] == []
    assert found["peak_kib"] < 100 * 1024


@pytest.mark.slow
def test_the_base_install_is_small(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "base"], check=True)
    python = tmp_path / "base" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
    size = sum(
        path.stat().st_size for path in (tmp_path / "base").rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert size < 200e6
    payloads = Codec.load(folder).compress(images)
    found = without_tensorflow(python, folder, payloads, cwd=tmp_path)
    assert found["peak_kib"] < 100 * 1024
    print(f"{size / 1e6:.0f} MB, {found['load_seconds']:.2f} s to import and load, {found['peak_kib'] / 1024:.0f} MiB")  # noqa: T201


# === What is refused ===

USED = {
    "litert": [TABLES, "encoder_latent.tflite", "decoder_latent.tflite"],
    "tensorflow": [TABLES, "encoder/1/saved_model.pb", "decoder/1/variables/variables.index"],
}


@pytest.mark.parametrize(("runtime", "name"), [(runtime, name) for runtime in USED for name in USED[runtime]])
def test_a_missing_or_changed_file_is_refused(runtime: str, name: str, artifact: Path) -> None:
    path = artifact / name
    content = path.read_bytes()
    middle = len(content) // 2
    for changed in (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        content[:-1],
        content + b"\0",
        b"",
    ):
        path.write_bytes(changed)
        with pytest.raises(BitstreamError, match=f"{path}: expected {len(content)} bytes .* found {len(changed)}"):
            Codec.load(artifact, runtime=runtime)
    path.unlink()
    with pytest.raises(BitstreamError, match=f"expected {name} in the artifact"):
        Codec.load(artifact, runtime=runtime)


def test_a_part_of_an_artifact_is_enough_for_its_runtime(artifact: Path, images: np.ndarray) -> None:
    payloads = Codec.load(artifact).compress(images)
    shutil.rmtree(artifact / "encoder")
    for name in ("encoder.tflite", "decoder.tflite", "encoder_slope.tflite"):
        (artifact / name).unlink()
    edit(artifact, lambda f: [f["files"].pop(n) for n in list(f["files"]) if not (artifact / n).exists()])
    assert Manifest.read(artifact).runtimes == ("litert",)
    assert Codec.load(artifact).compress(images) == payloads
    with pytest.raises(InputError, match="expected effort=0 with an artifact whose encoder was exported without"):
        Codec.load(artifact).compress(images, effort=1)
    with pytest.raises(BitstreamError, match="expected the SavedModel encoder/1"):
        Codec.load(artifact, runtime="tensorflow")


def test_info_checks_every_file(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(artifact)]) == 0
    shown = capsys.readouterr().out
    manifest = Manifest.read(artifact)
    assert manifest.table() in shown
    assert manifest.fingerprint in shown
    for name in manifest.files:
        assert name in shown
        content = (artifact / name).read_bytes()
        (artifact / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert main(["info", str(artifact)]) == 2
        assert name in capsys.readouterr().err
        (artifact / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(artifact_version=2), "expected artifact_version 1, found 2"),
        (lambda f: f.update(format="static-9"), "expected format .*static-1.*, found 'static-9'"),
        (lambda f: f.update(format="context-1"), "expected the arrays of an entropy model"),
        (lambda f: f.update(image_shape=[28, 28, 3]), r"expected an encoder of images \(28, 28, 3\), found"),
        (lambda f: f.update(image_shape=[None, 28, 1]), "expected the manifest of an artifact: expected an item"),
        (lambda f: f.update(image_shape=[None, None, 1]), "expected a grid for items of any size"),
        (lambda f: f.update(grid=[8, 2, 64]), "expected a grid for items of any size, and for these alone"),
        (lambda f: f.update(latent_shape=[13]), r"expected latents of shape \(13,\), found tables of {\(8,\)}"),
        (lambda f: f.update(fingerprint="00" * 16), "expected tables 0000"),
        (lambda f: f.update(fingerprints=[]), "a fingerprint of each quality"),
        (lambda f: f.update(qualities=[2]), "expected"),
        (lambda f: f.update(qualities=[1, 2], fingerprints=["", ""]), "expected steps and tables of 2 qualities"),
        (lambda f: f.update(default_quality=2), "a default among them"),
        (lambda f: f.update(files=[]), "expected the manifest of an artifact"),
        (lambda f: f["files"].update({"../outside": f["files"][TABLES]}), "expected names inside"),
        (lambda f: f["files"].update({"/outside": f["files"][TABLES]}), "expected names inside"),
        (lambda f: f["files"][TABLES].pop("sha256"), "KeyError"),
        (lambda f: f["measured"]["float32"].pop("psnr_db"), "expected the manifest"),
        (lambda f: f.update(quantize="int4"), "one of .*'int8'.*, found 1 of 1 and 'int4'"),
        (lambda f: f.pop("artifact_version"), "artifact_version"),
        (lambda f: f.pop("default_quality"), "default_quality"),
    ],
)
def test_a_manifest_that_is_not_this_artifacts(change: Any, message: str, artifact: Path) -> None:
    edit(artifact, change)
    with pytest.raises(BitstreamError, match=message):
        Codec.load(artifact)


def test_keys_that_this_version_does_not_know_survive(artifact: Path, images: np.ndarray) -> None:
    payloads = Codec.load(artifact).compress(images)
    later = {"colour_space": "bt709", "nested": {"a": [1, None]}}
    edit(artifact, lambda fields: fields.update(later))
    manifest = Manifest.read(artifact)
    assert manifest.unknown == later
    manifest.write(artifact)
    fields = json.loads((artifact / MANIFEST).read_text())
    assert {name: fields[name] for name in later} == later
    assert Manifest.read(artifact) == manifest
    assert Codec.load(artifact).compress(images) == payloads


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_for_a_manifest_are_refused(data: st.DataObject, folder: Path, tmp_path: Path) -> None:
    text = (folder / MANIFEST).read_bytes()
    kind = data.draw(st.sampled_from(["bytes", "json", "cut"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=200))
    elif kind == "json":
        scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(float("nan"))
        value = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x))
        fields = json.loads(text)
        # Fields that a load does not depend on may hold anything of their type.
        free = {"measured", "max_payload_bytes", "side", "compute", "tfcomp"}
        name = data.draw(st.sampled_from(sorted(set(fields) - free)))
        wrong = data.draw(value.filter(lambda x: x != fields[name] and x is not True))
        content = json.dumps({**fields, name: wrong}).encode()
    else:
        content = text[: data.draw(st.integers(0, len(text) - 3))]
    artifact = tmp_path / "artifact"
    if not artifact.exists():
        shutil.copytree(folder, artifact)
    (artifact / MANIFEST).write_bytes(content)
    with pytest.raises(BitstreamError, match="expected"):
        Codec.load(artifact)


def tables_of(codec: Codec, **changes: Any) -> bytes:
    """A ``tables.npz`` of a codec with arrays changed, or left out where a change is None."""
    file, found = io.BytesIO(), {**arrays.to_arrays(codec.parts), **changes}
    np.savez_compressed(file, allow_pickle=True, **{name: a for name, a in found.items() if a is not None})
    return file.getvalue()


def test_files_of_the_right_digest_and_the_wrong_kind(codec: Codec, artifact: Path) -> None:
    tables = (artifact / TABLES).read_bytes()
    for content in (b"", b"PK\x03\x04" + bytes(50), tables[:100], tables[:-30], tables[:200] + tables[220:]):
        admit(artifact, TABLES, content)
        with pytest.raises(BitstreamError, match="expected frequency tables"):
            Codec.load(artifact)
    step = codec.parts.quality().step
    for change, message in (
        ({"step": np.stack([step * np.float32(2)])}, f"expected tables {codec.fingerprint}, found"),
        ({"step": np.stack([step.astype(np.float64)])}, "expected a finite float32 step, found float64"),
        ({"step": np.stack([step * np.float32(0)])}, "expected positive steps, found 0"),
        ({"offset": None}, "expected steps and tables of 1 qualities"),
        ({"unit": None}, r"expected the arrays unit and zero, found none named \['unit'\]"),
        ({"model_index": None}, "found none named index"),
        ({"model_qualities": np.array(65, np.int32)}, "expected 1 to 64 qualities, found 65"),
        ({"model_precision": np.array([{}])}, "expected frequency tables"),
    ):
        admit(artifact, TABLES, tables_of(codec, **change))
        with pytest.raises(BitstreamError, match=message):
            Codec.load(artifact)
    admit(artifact, TABLES, tables)
    admit(artifact, "encoder_latent.tflite", b"not a model" * 10)
    with pytest.raises(BitstreamError, match=r"expected a \.tflite that LiteRT can run"):
        Codec.load(artifact)


def test_tables_that_claim_more_than_memory_are_refused_unread(codec: Codec, artifact: Path) -> None:
    def packed(members: dict[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()

    def header(shape: tuple[int, ...]) -> bytes:
        text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    zeros = bytes(arrays.MAX_BYTES // 2)
    for content, message in (
        (packed({"a.npy": zeros, "b.npy": zeros, "c.npy": b"."}), "expected at most 4096 arrays of 268435456 bytes"),
        (packed({f"{i}.npy": b"" for i in range(arrays.MAX_MEMBERS + 1)}), "found 4097 of 0"),
        (packed({"step.npy": header((1 << 40,)) + bytes(64)}), "expected frequency tables"),  # 4 TiB in a header
        (packed({"step.npy": header((1 << 33,)) + bytes(64)}), "expected frequency tables"),
    ):
        admit(artifact, TABLES, content)
        tracemalloc.start()
        with pytest.raises(BitstreamError, match=message):
            Codec.load(artifact)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20  # of which the test's own inputs are most
        tracemalloc.stop()
    # What no codec has is not read, be it damaged.
    whole = {f"{name}.npy": npy(a) for name, a in arrays.to_arrays(codec.parts).items()}
    more = {"other.npy": b"no array", "model.npy": npy(np.zeros(1 << 20)), "x.txt": b"", "../step.npy": b""}
    admit(artifact, TABLES, packed({**whole, **more}))
    assert Codec.load(artifact).fingerprint == codec.fingerprint


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize("name", ["encoder/1/assets.extra/requests", "decoder/1/variables/more", "decoder/1/x.so"])
def test_files_in_a_saved_model_that_the_manifest_does_not_list_are_refused(name: str, artifact: Path) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_bytes(b"")
    with pytest.raises(BitstreamError, match=f"expected the SavedModel {name[:9]} that the manifest .*, found {name}"):
        Codec.load(artifact, runtime="tensorflow")
    Codec.load(artifact)  # which looks at none of them


def test_a_linked_folder_in_a_saved_model_is_refused(artifact: Path, tmp_path: Path) -> None:
    """Its files would be loaded, and no list of files shows them all."""
    variables = artifact / "decoder" / "1" / "variables"
    elsewhere = variables.rename(tmp_path / "variables")
    variables.symlink_to(elsewhere)
    with pytest.raises(BitstreamError, match=r"expected the SavedModel decoder/1 .*, found decoder/1/variables"):
        Codec.load(artifact, runtime="tensorflow")


def test_what_is_measured_survives_only_where_it_is(artifact: Path) -> None:
    """A codec of one shape whose artifact has neither curvature nor lagrangian has no effort."""
    loaded = Codec.load(artifact)
    assert loaded.parts.quality().lagrangian is not None
    admit(artifact, TABLES, tables_of(loaded, curvature=None, lagrangian=None))
    with pytest.raises(InputError, match="expected effort=0 with a codec that was exported without"):
        Codec.load(artifact).compress(np.zeros((1, 28, 28, 1), np.uint8), effort=1)


def test_what_is_no_artifact_or_no_runtime(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "absent", folder / TABLES):
        with pytest.raises(InputError, match=r"expected an artifact folder with a manifest\.json, found none at"):
            Codec.load(wrong)
    with pytest.raises(InputError, match=r"one of \('litert', 'tensorflow', 'keras'\), found 'onnx'"):
        Codec.load(folder, runtime="onnx")
    with pytest.raises(InputError, match=r"expected an artifact that keeps its trained model \(model\.keras\)"):
        Codec.load(folder, runtime="keras")
    with pytest.raises(InputError, match=r"found none at nobody$"):
        Codec.load("nobody")
