"""The integer half of the page's codec (export/web/codec), run in Node: it writes and reads what Python does.

Networks and browser are `test_web_page`'s. Each test asks one process for all its cases.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from context_models import PATTERNS, latents, random_model, static, trained_like, weights
from payload_model import competing, skewed
from test_golden_artifacts import GOLDEN, KEPT, cases, items

import tfcomp
from tfcomp.entropy import tiles
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.model_set import Model, stack
from tfcomp.entropy.static import StaticModel
from tfcomp.errors import BitstreamError, TfcompError
from tfcomp.layout import Layout
from tfcomp.storage import container, names

READ = [name for name in KEPT if name != "samples"]  # which the page refuses in a line
NAMES = pytest.mark.parametrize("name", READ)
SMALL = {"fingerprint": bytes(range(16)), "item_shape": (0, 0, 3)}


@pytest.fixture(scope="module", autouse=True)
def _node() -> None:
    if shutil.which("node") is None:
        pytest.skip("no Node here: the page's codec is JavaScript")


def text(data: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else data).decode()


def ask(jobs: list[dict[str, Any]]) -> list[Any]:
    script = ROOT / "export" / "web" / "integers.mjs"
    done = subprocess.run(["node", script], input=json.dumps(jobs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def int32(answer: str) -> list[int]:
    return np.frombuffer(base64.b64decode(answer), "<i4").tolist()


def made_of(folder: Path, models: list[Model], shape: tuple[int, ...], weight: Any) -> str:
    """An artifact of these entropy models, of which the page's codec reads all but the networks."""
    folder.mkdir()
    free = isinstance(models[0], ContextModel)
    channels = models[0].layout.channels if free else shape[-1]
    ones = np.ones((len(models), channels if free else int(np.prod(shape))), np.float32)
    arrays = {"unit": ones[0], "zero": 0 * ones[0], "step": ones, "offset": 0 * ones}
    if weight is not None:  # a lagrangian of 1: the weight is the curvature
        arrays |= {"curvature": np.stack([weight] * len(models)), "lagrangian": np.ones(len(models))}
    np.savez_compressed(folder / "tables.npz", **arrays, **{f"model_{name}": a for name, a in stack(models).items()})
    numbers = list(range(1, len(models) + 1))
    manifest = {
        "format": models[0].format_id, "image_shape": [None, None, 3] if free else [1, 1, 1],
        "latent_shape": [None, None, channels] if free else [*shape], "grid": [1, 0, 9] if free else None,
        "qualities": numbers, "fingerprints": ["00"] * len(models), "fingerprint": "00",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


# === Payloads ===


@NAMES
def test_golden_payloads_have_golden_integers(name: str) -> None:
    jobs, expected = [], []
    for quality, (payloads, integers, _) in cases(name).items():
        job = {"ask": "integers", "folder": str(GOLDEN / name), "quality": quality}
        jobs += [{**job, "payload": text(payload)} for payload in payloads]
        expected += integers
    assert [int32(answer) for answer in ask(jobs)] == expected


@NAMES
def test_equal_latents_make_equal_payloads(name: str) -> None:
    codec = tfcomp.Codec.load(GOLDEN / name)
    jobs, expected = [], []
    for number in range(1, codec.qualities + 1):
        for item, payload in zip(items(name), codec.compress(items(name), number), strict=True):
            height, width, channels = item.shape
            pixels, window = codec.parts.item.full(item), (height, width)
            if codec.parts.grid is not None:
                plan = codec.parts.grid.plan(height, width)
                pixels = pixels[np.ix_(*plan.sources())]
                assert plan.tiles == 1, window
            latent = codec.parts.transform.analyse(pixels[None])
            jobs.append({
                "ask": "compress", "folder": str(GOLDEN / name), "latents": [text(latent)], "height": height,
                "width": width, "grey": channels < codec.item.channels, "quality": number,
            })  # fmt: skip
            expected.append(text(payload))
    assert ask(jobs) == expected


def test_tiles_of_any_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    jobs, expected = [], []
    for case in range(24):
        if case < 2:
            model = (trained_like(), static())[case]
        else:
            groups = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 4)))
            layout = Layout(groups, *(PATTERNS[i] for i in rng.integers(0, 5, 2)), int(rng.integers(1, 4)))
            model = random_model(layout, case, masked=case % 2 == 0)
        height, width = (int(n) for n in rng.integers(1, 40 if case < 2 else 10, 2))
        latent = latents(model, height, width, case, float(rng.choice([0.1, 1.5, 90])))
        latent[0, 0, :1] = rng.choice([0.5, -1.5, 1e30])  # a tie, or far beyond any table
        weight = weights(model, float(rng.choice([0.5, 5, 1e9])))
        folder = made_of(tmp_path / str(case), [model], (), weight)
        if not model.layout.contextual:
            weight = weights(model, 1e20)
        jobs.append(
            {"ask": "tile", "folder": folder, "latent": text(latent), "rows": height, "columns": width, "quality": 1}
        )
        code, integers = tiles.encode(model, latent, weight)
        expected.append({"code": text(code), "integers": text(integers)})
    assert ask(jobs) == expected
    assert len({len(case["code"]) for case in expected}) > 8


def test_messages_of_segments_and_table_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    models = [StaticModel(competing(sets, [5, 1, 1][:sets]), rng.integers(0, 3, n, np.int32), (n,), per, sets)
              for sets, n, per in [(2, 7, 3), (3, 5, 1), (2, 1, 9), (3, 30, 30)]]  # fmt: skip
    models += [StaticModel(skewed(), np.zeros(n, np.int32), (n,), per) for n, per in [(1, 1), (10, 3), (900, 400)]]
    jobs, expected = [], []
    for case, model in enumerate(models):
        folder = made_of(tmp_path / str(case), [model], model.latent_shape, None)
        for spread in (0, 1, 3, 100):  # 100: far outside the tables
            latent = rng.normal(0, spread, (1, *model.latent_shape)).astype(np.float32)
            integers = model.clip(np.rint(latent).astype(np.int32))
            [payload] = model.encode(integers)
            jobs.append({"ask": "compress", "folder": folder, "latents": [text(latent)], "quality": 1})
            jobs.append({"ask": "integers", "folder": folder, "payload": text(payload), "quality": 1})
            expected += [text(payload), text(integers)]
    assert ask(jobs) == expected


@NAMES
def test_damaged_payloads_are_refused_where_python_refuses_them(name: str) -> None:
    codec, rng = tfcomp.Codec.load(GOLDEN / name), np.random.default_rng(4)
    payloads, _, _ = cases(name)[1]
    bad = [b"", b"\0", b"\xff" * 40, *(rng.bytes(int(n)) for n in rng.integers(1, 40, 40))]
    for payload in payloads:
        bad += [payload[:n] for n in range(0, len(payload), 7)] + [payload + b"\1", payload + b"\0"]
        bad += [
            payload[:i] + bytes([payload[i] ^ 1 << int(rng.integers(8))]) + payload[i + 1 :]
            for i in range(0, len(payload), 3)
        ]

    def expected(payload: bytes) -> Any:
        try:
            return codec.decode([payload], 1)[0].ravel().tolist()
        except TfcompError:
            return None

    jobs = [{"ask": "integers", "folder": str(GOLDEN / name), "payload": text(p), "quality": 1} for p in bad]
    found = [None if isinstance(answer, dict) else int32(answer) for answer in ask(jobs)]
    right = [expected(payload) for payload in bad]
    assert found == right
    assert any(answer is None for answer in right)


# === Files ===


def test_files_are_those_that_python_writes_and_reads(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(5), tmp_path / "a.tfz"
    contents = [[rng.bytes(size) for size in sizes] for sizes in ([1], [0], [127], [128], [65536], [70_000, 70_000, 3])]
    jobs, given = [], ["ph\N{LATIN SMALL LETTER O WITH DIAERESIS}t.jpg", 'b "\\".png', "c.png"]
    for payloads in contents:
        about = {"fingerprint": SMALL["fingerprint"].hex(), "itemShape": [0, 0, 3], "names": given[: len(payloads)]}
        jobs.append({"ask": "write", "payloads": [text(p) for p in payloads], **about})
    for payloads, answer in zip(contents, ask(jobs), strict=True):
        metadata = {"names": given[: len(payloads)]}
        path.write_bytes(base64.b64decode(answer))
        with container.Archive.open(path) as archive:
            assert ([*archive], archive.metadata, archive.header.item_shape) == (payloads, metadata, (0, 0, 3))
        if len(payloads) == 1:  # of which zlib would shorten neither name nor index
            container.write(path, payloads, **SMALL, metadata=metadata)
            assert path.read_bytes() == base64.b64decode(answer)


def test_files_of_python_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    jobs, expected = [], []
    for count in (0, 1, 3, 2000):  # of 2,000, index and names are deflated
        payloads = [rng.bytes(int(n)) for n in rng.integers(0, 300, count)]
        for given in (None, [f"image {i}.png" for i in range(count)]):
            container.write(tmp_path / "a.tfz", payloads, **SMALL, metadata=given and {"names": given})
            jobs.append({"ask": "read", "file": text((tmp_path / "a.tfz").read_bytes())})
            expected.append({
                "fingerprint": SMALL["fingerprint"].hex(), "shape": [0, 0, 3], "names": given or None,
                "payloads": [text(p) for p in payloads],
            })  # fmt: skip
    assert ask(jobs) == expected


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tfz"
    container.write(path, [b"first", b"second"], **SMALL, metadata={"names": ["a" * 90, "b" * 90]})
    whole = path.read_bytes()
    bad = [whole[:i] + bytes([byte ^ 1 << i % 8]) + whole[i + 1 :] for i, byte in enumerate(whole)]
    bad += [whole[:n] for n in range(len(whole))] + [whole + b"\0", b"PK\3\4"]
    answers = ask([{"ask": "read", "file": text(file)} for file in bad])
    assert all("Expected" in answer["problem"] for answer in answers)
    for file in bad[::9]:
        path.write_bytes(file)
        with pytest.raises(BitstreamError):
            container.Archive.open(path)


def test_names_in_files_are_names_for_every_system() -> None:
    given = [
        "photo.jpg",
        "12:30.jpg",
        "sub/dir\\x.png",
        "nul",
        "COM1.png",
        "a.",
        "b ",
        "...",
        "",
        "\x07bell",
        "x" * 400,
    ]
    given += [
        "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}.heic",
        "conin$.jpg",
        "\u2028.png",
    ]
    answers = ask([{"ask": "portable", "name": name} for name in given])
    for name in answers:
        assert len(names.checked(name, "the page").parts) == 1
    assert answers[0] == "photo.jpg"
