"""Samples of a posterior in every runtime, in files, and behind a server: identical latents everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import litert_js
import numpy as np
import pytest
from kinds import Kind, WholeSavedModels, interpreter_of
from numpy.typing import NDArray
from PIL import Image
from sample_models import model, names_of

from tfcomp.cli.main import main
from tfcomp.entropy.sample import SampleModel
from tfcomp.errors import BitstreamError, InputError

pytestmark = pytest.mark.xdist_group("vae_sample")


@pytest.fixture(scope="module")
def kind(kinds: Callable[[str], Kind]) -> Kind:
    return kinds("vae_sample")


def latents_of_all_runtimes(kind: Kind, payloads: list[bytes]) -> dict[str, Any]:
    """What each runtime makes of payloads before its network, int32 [N, *latent_shape]."""
    codec = kind.codec
    whole = WholeSavedModels(kind.folder, several=False, any_size=False)
    return {
        "frozen": codec.decode(payloads),
        "LiteRT and NumPy": kind.load("litert").decode(payloads),
        "TensorFlow and NumPy": kind.load("tensorflow").decode(payloads),
        "SavedModel": np.array(whole.integers(payloads, 1)),
    }


def litert_decoder(of: SampleModel) -> bytes:
    """The graph's decoder as a ``.tflite``, the network left out: a payload's buffer and length -> integers."""
    tf = pytest.importorskip("tensorflow")
    from tfcomp.artifact.conversion import to_litert
    from tfcomp.graph.sample_coder import SampleCoder

    coder = SampleCoder(of)

    def integers(payload: Any, length: Any) -> dict[str, Any]:
        return {"integers": coder.decode(tf.reshape(payload, [1, coder.capacity]), length)}

    specs = [tf.TensorSpec([coder.capacity], tf.uint8, "payload"), tf.TensorSpec([1], tf.int32, "length")]
    return to_litert(tf.function(integers, input_signature=specs, autograph=False))


def rows_of(of: SampleModel, payloads: list[bytes]) -> list[dict[str, Any]]:
    """The inputs of `litert_decoder`."""
    size = of.max_payload_bytes
    return [{"payload": np.frombuffer(p.ljust(size, b"\0"), np.uint8), "length": np.int32([len(p)])} for p in payloads]


def decoded_by_litert(of: SampleModel, payloads: list[bytes]) -> NDArray[np.int32]:
    """int32 [N, symbols]."""
    run = interpreter_of(litert_decoder(of))
    return np.array([run(**row)["integers"][0] for row in rows_of(of, payloads)])


def decoded_in_a_browser(of: SampleModel, payloads: list[bytes]) -> NDArray[np.int32] | None:
    """int32 [N, symbols] by LiteRT.js; None where there is no browser."""
    if litert_js.absent():
        return None
    with litert_js.Browser() as browser:
        run = browser.load({"decoder": litert_decoder(of)})
        return np.array([row["integers"][0] for row in run("decoder", rows_of(of, payloads))])


def check_every_runtime(kind: Kind, count: int) -> None:
    of = kind.codec.entropy_model
    assert isinstance(of, SampleModel)
    names = names_of(of, count)
    payloads = of.encode(names)
    for runtime, found in latents_of_all_runtimes(kind, payloads).items():
        np.testing.assert_array_equal(found, of.integers(names), err_msg=runtime)
    np.testing.assert_array_equal(decoded_by_litert(of, payloads).reshape(count, -1), of.flat(of.integers(names)))
    if (found := decoded_in_a_browser(of, payloads)) is not None:
        np.testing.assert_array_equal(found.reshape(count, -1), of.flat(of.integers(names)), err_msg="LiteRT.js")


@pytest.mark.slow
def test_payloads_are_the_same_latents_in_every_runtime(kind: Kind) -> None:
    check_every_runtime(kind, 300)


@pytest.mark.slow
def test_ten_thousand_payloads_are_the_same_latents_in_every_runtime(kind: Kind) -> None:
    check_every_runtime(kind, 10_000)


@pytest.mark.further
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_graph_reads_any_bytes_as_numpy_does(blocks: int) -> None:
    of = model(blocks)
    rng = np.random.default_rng(1)
    payloads = [rng.bytes(n) for n in rng.integers(0, of.max_payload_bytes + 1, 60)]
    found = decoded_by_litert(of, payloads)
    for payload, row in zip(payloads, found, strict=True):
        assert np.all(np.isin(row, of.quantiles))
        try:
            np.testing.assert_array_equal(of.decode([payload]).ravel(), row)
        except BitstreamError:
            continue


def test_what_has_no_place_with_samples_is_refused(kind: Kind) -> None:
    for options in ({"effort": 1}, {"target_bytes": 9}):
        with pytest.raises(InputError, match=r"samples of a posterior"):
            kind.codec.compress(kind.items, **options)
    assert kind.codec.parts.format_id == "sample-1"
    assert "encoder_slope.tflite" not in {path.name for path in kind.folder.iterdir()}


def test_its_files_are_files_like_any_other(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "items.npy", kind.items)
    archive, folder = str(tmp_path / "items.tfz"), str(kind.folder)
    assert main(["compress", str(tmp_path / "items.npy"), "-o", archive, "--codec", folder]) == 0
    assert main(["decompress", archive, "-o", str(tmp_path / "out"), "--codec", folder]) == 0
    loaded = kind.load("litert")
    found = np.array([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())])
    expected = loaded.decompress(loaded.compress(kind.items))[..., 0]
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)
    capsys.readouterr()
    for name in (archive, folder):
        assert main(["info", name]) == 0
    assert loaded.fingerprint in capsys.readouterr().out


def test_a_server_is_given_both_models(kind: Kind, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_serving")
    from tfcomp.artifact import serving

    assert serving.export(kind.folder, tmp_path / "served", warm_up=kind.items[:2]) == 1
    assert (tmp_path / "served" / "decoder" / "1" / serving.WARM_UP).is_file()
