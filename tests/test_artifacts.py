"""An artifact is loaded whole or refused in one sentence; on the base install it needs no TensorFlow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcomp.artifact import manifest as artifacts
from tfcomp.artifact.manifest import MANIFEST, TABLES, Manifest
from tfcomp.cli import main as cli
from tfcomp.codec import Codec
from tfcomp.data import glyphs
from tfcomp.errors import BitstreamError, InputError
from tfcomp.models.autoencoder import AutoEncoder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return glyphs.render(520, seed=11)


@pytest.fixture(scope="module")
def codec(images: np.ndarray) -> Codec:
    keras.utils.set_random_seed(0)
    model = AutoEncoder.dense((28, 28, 1), 12, hidden=(48,), beta=0.1)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    model.fit(images[:500], batch_size=50, epochs=8, verbose=0)
    return Codec.freeze(model, images[:500])


@pytest.fixture(scope="module")
def exported(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "artifact"
    codec.export(folder)
    return folder


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "artifact"))


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


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_a_loaded_codec_is_the_one_that_was_exported(
    runtime: str, codec: Codec, exported: Path, images: np.ndarray
) -> None:
    loaded = Codec.load(exported, runtime=runtime)
    assert loaded.fingerprint == codec.fingerprint
    assert loaded.image_shape == codec.image_shape
    test = images[500:]
    payloads = loaded.compress(test)
    assert payloads == codec.compress(test)
    assert min(map(len, payloads)) > 0
    assert np.abs(loaded.decompress(payloads).astype(int) - codec.decompress(payloads)).max() <= 1
    assert loaded.decompress([]).shape == (0, 28, 28, 1)
    assert loaded.compress(test[:0]) == []


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_corrupt_payloads_are_refused_or_decode_to_some_image(runtime: str, exported: Path, images: np.ndarray) -> None:
    loaded = Codec.load(exported, runtime=runtime)
    payloads = loaded.compress(images[500:])
    rng = np.random.default_rng(2)
    outcomes = {"refused": 0, "decoded": 0}
    for i in range(200):
        payload = payloads[i % len(payloads)]
        bad = [rng.bytes(rng.integers(0, 40)), payload[: rng.integers(0, len(payload))], payload + rng.bytes(30)][i % 3]
        try:
            restored = loaded.decompress([bad])
        except BitstreamError:
            outcomes["refused"] += 1
        else:
            assert restored.shape == (1, 28, 28, 1)
            outcomes["decoded"] += 1
    assert min(outcomes.values()) > 20


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


def test_the_base_install_needs_no_tensorflow_and_little_memory(exported: Path, images: np.ndarray) -> None:
    here = Codec.load(exported)
    payloads = here.compress(images[500:])
    restored = here.decompress(payloads)
    found = without_tensorflow(sys.executable, exported, payloads)
    assert found["sum"] == restored.astype(int).sum()
    assert [bytes.fromhex(payload) for payload in found["again"]] == here.compress(restored)
    assert found["loaded"] == []
    assert found["peak_kib"] < 100 * 1024


@pytest.mark.slow
def test_the_base_install_is_small(exported: Path, images: np.ndarray, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "base"], check=True)
    python = tmp_path / "base" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
    size = sum(
        path.stat().st_size for path in (tmp_path / "base").rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert size < 200e6
    payloads = Codec.load(exported).compress(images)
    found = without_tensorflow(python, exported, payloads, cwd=tmp_path)
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


def test_info_checks_every_file(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(artifact)]) == 0
    shown = capsys.readouterr().out
    manifest = Manifest.read(artifact)
    assert manifest.table() in shown
    assert manifest.fingerprint in shown
    for name in manifest.files:
        assert name in shown
        content = (artifact / name).read_bytes()
        (artifact / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert cli.main(["info", str(artifact)]) == 2
        assert name in capsys.readouterr().err
        (artifact / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(artifact_version=2), "expected artifact_version 1, found 2"),
        (lambda f: f.update(payload_version="1"), "expected payload_version 1, found '1'"),
        (lambda f: f.update(image_shape=[28, 28, 3]), r"expected an encoder of images \(28, 28, 3\), found one of"),
        (lambda f: f.update(latent_shape=[13]), r"of shape \(12,\)"),
        (lambda f: f.update(fingerprint="00" * 16), "expected tables 0000"),
        (lambda f: f.update(files=[]), "expected the manifest of an artifact"),
        (lambda f: f["files"].update({"../outside": f["files"][TABLES]}), "outside the artifact"),
        (lambda f: f["files"].update({"/outside": f["files"][TABLES]}), "outside the artifact"),
        (lambda f: f["files"][TABLES].pop("sha256"), "KeyError"),
        (lambda f: f["measured"]["float32"].pop("psnr_db"), "expected the manifest"),
        (lambda f: f.pop("quantize"), "quantize"),
        (lambda f: f.update(extra=1), "extra"),
        (lambda f: f.pop("artifact_version"), "artifact_version"),
    ],
)
def test_a_manifest_that_is_not_this_artifacts(change: Any, message: str, artifact: Path) -> None:
    edit(artifact, change)
    with pytest.raises(BitstreamError, match=message):
        Codec.load(artifact)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_for_a_manifest_are_refused(data: st.DataObject, exported: Path, tmp_path: Path) -> None:
    text = (exported / MANIFEST).read_bytes()
    kind = data.draw(st.sampled_from(["bytes", "json", "cut"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=200))
    elif kind == "json":
        scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(float("nan"))
        value = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x))
        fields = json.loads(text)
        # Fields that a load does not depend on may hold anything of their type.
        name = data.draw(
            st.sampled_from(sorted(set(fields) - {"quantize", "runtimes", "measured", "max_payload_bytes"}))
        )
        wrong = data.draw(value.filter(lambda x: x != fields[name] and x is not True))
        content = json.dumps({**fields, name: wrong}).encode()
    else:
        content = text[: data.draw(st.integers(0, len(text) - 3))]
    folder = tmp_path / "artifact"
    if not folder.exists():
        shutil.copytree(exported, folder)
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BitstreamError, match="expected"):
        Codec.load(folder)


def test_files_of_the_right_digest_and_the_wrong_kind(codec: Codec, artifact: Path, tmp_path: Path) -> None:
    tables = (artifact / TABLES).read_bytes()
    other = tmp_path / "other.npz"
    arrays = codec.entropy_model.arrays()
    np.savez_compressed(other, allow_pickle=False, **{**arrays, "step": arrays["step"] * np.float32(2)})
    for content in (b"", b"PK\x03\x04" + bytes(50), tables[:100], tables[:-30], tables[:200] + tables[220:]):
        admit(artifact, TABLES, content)
        with pytest.raises(BitstreamError, match="expected frequency tables"):
            Codec.load(artifact)
    admit(artifact, TABLES, other.read_bytes())
    with pytest.raises(BitstreamError, match=f"expected tables {codec.fingerprint}, found"):
        Codec.load(artifact)
    np.savez_compressed(other, allow_pickle=False, **{k: v for k, v in arrays.items() if k != "index"})
    admit(artifact, TABLES, other.read_bytes())
    with pytest.raises(BitstreamError, match=r"found none named \['index'\]"):
        Codec.load(artifact)
    np.savez_compressed(other, allow_pickle=True, **{**arrays, "precision": np.array([{}])})
    admit(artifact, TABLES, other.read_bytes())
    with pytest.raises(BitstreamError, match="expected frequency tables"):
        Codec.load(artifact)
    admit(artifact, TABLES, tables)
    admit(artifact, "encoder_latent.tflite", b"not a model" * 10)
    with pytest.raises(BitstreamError, match=r"expected a \.tflite that LiteRT can run"):
        Codec.load(artifact)


def test_what_is_no_artifact_or_no_runtime(exported: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", exported / TABLES):
        with pytest.raises(InputError, match=r"expected an artifact folder with a manifest\.json, found none at"):
            Codec.load(folder)
    with pytest.raises(InputError, match=r"expected runtime to be one of \('tensorflow', 'litert'\), found 'onnx'"):
        Codec.load(exported, runtime="onnx")
