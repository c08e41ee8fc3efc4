"""What is fuzzed, and what is right: each target makes a case of a random number and judges what comes of it.

Right is a named error, or a result that holds what is promised: names stay inside, payloads come back, two loops that
decode agree, an image has the size that was claimed, tables code and decode. Anything else raises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import mutations
import numpy as np

import tfcomp
from tfcomp.artifact import arrays
from tfcomp.artifact.manifest import DECODER, ENCODER, MANIFEST, TABLES, Manifest, verify_saved_model
from tfcomp.cli.main import main
from tfcomp.coding import varints
from tfcomp.entropy import tiles
from tfcomp.entropy.context import ContextModel
from tfcomp.entropy.sample import SampleModel
from tfcomp.errors import TfcompError
from tfcomp.outcomes import sound_items
from tfcomp.storage import archives, names
from tfcomp.storage.container import BLOCK, Archive
from tfcomp.storage.container_format import Header
from tfcomp.storage.image_files import read_image
from tfcomp.tiled import NEAREST
from tfcomp.workers import FEW

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "artifacts"
KINDS = ("static", "qualities", "samples", "contexts", "channels", "photographs")
"""Artifacts of every kind: items of one shape, of one quality, several, and samples of a posterior; of any size, with
contexts and without."""
MAX_PIXELS = 1 << 16
"""The limit of pixels under which cases run."""


@dataclasses.dataclass
class Subject:
    """A codec, and payloads of it for each quality."""

    name: str

    @cached_property
    def folder(self) -> str:
        return self.name if self.name == "photographs" else str(GOLDEN / self.name)

    @cached_property
    def codec(self) -> tfcomp.Codec:
        return tfcomp.Codec.load(self.folder, threads=1).with_max_pixels(MAX_PIXELS)

    @cached_property
    def payloads(self) -> list[tuple[int, bytes]]:
        rng, item = np.random.default_rng(0), self.codec.item
        sizes = [(1, 1), (9, 13), (40, 33)] if item.any_size else [item.shape[:2]] * 3
        shades = [rng.integers(0, 256, (h, w, item.channels)) * contrast for h, w in sizes for contrast in (1.0, 0.1)]
        items: Any = [shade.astype(np.uint8) for shade in shades]
        items = items if item.any_size else np.stack(items)
        qualities = range(1, self.codec.qualities + 1)
        return [(quality, payload) for quality in qualities for payload in self.codec.compress(items, quality)]


@cache
def subject(name: str) -> Subject:
    return Subject(name)


# === Payloads ===


def payload(rng: random.Random) -> None:
    """A payload of one of the kinds, changed; both loops decode it, and what they find codes and decodes again."""
    of = subject(rng.choice(KINDS))
    quality, whole = rng.choice(of.payloads)
    data = mutations.of_bytes(rng, whole, rng.choice(of.payloads)[1])
    if of.codec.item.any_size and rng.random() < 0.3:  # another size before the same tiles
        size = [rng.choice([1, 8, 9, 33, 300, mutations.number(rng)]) for _ in range(2)]
        data = data[:1] + varints.pack(np.array(size, np.int64)) + whole[3:]
    found = []
    for numba in (False, True):
        tfcomp.use_numba(numba)
        try:
            found.append(of.codec.decode([data], quality)[0])
        except TfcompError as error:
            found.append(error)
    tfcomp.use_numba(False)
    if isinstance(found[0], TfcompError):
        assert str(found[0]) == str(found[1]), found
        raise found[0]
    np.testing.assert_array_equal(*found)
    _codes_again(of.codec, data, quality, found[0])
    if rng.random() < 0.25:
        (image,) = of.codec.decompress([data], quality)
        assert image.dtype == np.uint8
        if of.codec.item.any_size:
            width, height = map(int, of.codec.describe(data).split()[0].split("x"))
            assert image.shape[:2] == (height, width)
            assert height * width <= of.codec.claimed_pixels(data) <= MAX_PIXELS


def _codes_again(codec: tfcomp.Codec, data: bytes, quality: int, integers: Any) -> None:
    if not codec.item.any_size:
        model = codec.parts.quality(quality).entropy
        again = model.encode(integers[None])
        np.testing.assert_array_equal(model.decode(again)[0], integers)
        return
    model = codec.parts.quality((data[0] & 63) + 1).entropy
    part = integers[:16, :16]
    weight = np.full(part.shape[2], NEAREST, np.float32)
    code, coded = tiles.encode(model, part.astype(np.float32), weight)
    np.testing.assert_array_equal(tiles.decode(model, code, *part.shape[:2]), coded)


# === Archives ===


def archive(rng: random.Random) -> None:
    """A ``.tfz`` of one of the kinds, changed inside, its checksums made anew; in some cases damaged without that."""
    of = subject(rng.choice(KINDS))
    quality = rng.randrange(of.codec.qualities) + 1
    own = [p for q, p in of.payloads if q == quality]
    payloads = rng.choices(own, k=rng.choice([0, 1, 2, 5]))
    content, kept = _archive_bytes(rng, of, quality, payloads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.tfz"
        path.write_bytes(content)
        if rng.random() < 0.1 and len(payloads) <= FEW:
            _command(of, path, Path(folder) / "out")
            return
        with Archive.open(path) as opened:
            codec = of.codec.that_made(opened.header.fingerprint)
            suffix = archives.suffix_for(codec.item.channels)
            targets = archives.targets(opened.metadata.get("names"), len(opened), "here", suffix)
            assert len({names.key(str(target)) for target in targets}) == len(opened)
            for target in targets:
                assert os.path.normpath(f"/out/{target}") == f"/out/{target}"
            sound_items(codec, opened, None)
            if kept is not None:
                assert list(opened) == kept
            if sum(map(codec.claimed_pixels, opened)) <= MAX_PIXELS:
                images = codec.decompress(opened[:])
                assert len(images) == len(opened)


def _archive_bytes(
    rng: random.Random, of: Subject, quality: int, payloads: list[bytes]
) -> tuple[bytes, list[bytes] | None]:
    """The file, and the payloads that it has to give back if it opens."""
    codec = of.codec if of.codec.item.any_size else of.codec.at(quality)
    given: Any = [f"{i}.png" for i in range(len(payloads))]
    if rng.random() < 0.3:
        given = rng.choice([[mutations.name(rng) for _ in payloads], ["a"] * len(payloads), mutations.value(rng)])
    metadata: Any = {"names": given}
    if rng.random() < 0.2:
        metadata = mutations.of_json(rng, {**metadata, "more": [1, {"a": None}]})
    if rng.random() < 0.4:
        payloads = [mutations.of_bytes(rng, p) if rng.random() < 0.5 else p for p in payloads]
    lengths, kept = [len(p) for p in payloads], list(payloads)
    text = json.dumps(metadata, ensure_ascii=False).encode(errors="surrogatepass")
    text = mutations.of_bytes(rng, text) if rng.random() < 0.05 else text
    index, body = varints.pack(np.array(lengths, np.int64)), b"".join(payloads)
    sound = True
    if rng.random() < 0.15:
        index, sound = mutations.of_bytes(rng, index), False
    if rng.random() < 0.05:
        text = b'{"names": ["' + b"a" * rng.choice([1 << 16, 1 << 21]) + b'"]}'
    stored = [zlib.compress(part, 9) if rng.random() < 0.5 else part for part in (text, index)]
    if rng.random() < 0.05:
        stored[rng.randrange(2)] = mutations.of_bytes(rng, stored[0])
        sound = False
    shape = tuple(n or 0 for n in codec.item.shape)
    fingerprint = bytes.fromhex(codec.fingerprint)
    sizes = (len(stored[0]), len(text), len(stored[1]), len(index))
    header = Header(fingerprint, "uint8", shape, len(lengths), len(body), *sizes)
    if rng.random() < 0.3:
        field = rng.choice([f.name for f in dataclasses.fields(Header)])
        odd: Any = mutations.number(rng)
        if field == "item_shape":
            odd = tuple(mutations.number(rng) for _ in range(rng.randrange(9)))
        elif field == "fingerprint":
            odd = rng.randbytes(16)
        if field != "dtype":
            header, sound = dataclasses.replace(header, **{field: odd}), False
    checksums = [zlib.crc32(body[i : i + BLOCK]) for i in range(0, len(body), BLOCK)]
    head = header.pack() + stored[0] + stored[1] + struct.pack(f"<{len(checksums)}I", *checksums)
    if rng.random() < 0.1:
        head, sound = head[:4] + mutations.of_bytes(rng, head[4:]), False
    content = head + struct.pack("<I", zlib.crc32(head)) + body
    if rng.random() < 0.1:
        content, sound = mutations.of_bytes(rng, content), False
    return content, kept if sound else None


def _command(of: Subject, path: Path, out: Path) -> None:
    """The command: all images of the archive, each what the codec gives, or status 2."""
    status = main(["decompress", str(path), "-o", str(out), "--codec", of.folder, "--max-pixels", str(MAX_PIXELS)])
    written = sorted(p for p in out.rglob("*") if p.is_file())
    assert not [p for p in path.parent.iterdir() if p not in (path, out)]
    if status == 2:
        raise TfcompError("the command's line")
    assert status == 0
    with Archive.open(path) as opened:
        codec = of.codec.that_made(opened.header.fingerprint)
        images = list(codec.decompress(opened[:]))
    assert len(written) == len(images)
    expected = sorted(image.tobytes() for image in images)
    assert sorted(read_image(p).tobytes() for p in written) == expected


# === Manifests and tables ===


def _artifact(of: Subject, folder: Path, **changed: bytes) -> Path:
    """An artifact folder of links, short of the files that changed."""
    source = Path(of.folder)
    folder.mkdir()
    for path in source.iterdir():
        if path.name not in changed:
            (folder / path.name).symlink_to(path)
    for name, content in changed.items():
        (folder / name).write_bytes(content)
    return folder


def manifest(rng: random.Random) -> None:
    """A manifest, changed; one that is read is written again as it was, and its artifact decodes as it should."""
    of = subject(rng.choice(KINDS[:-1]))
    fields = json.loads((Path(of.folder) / MANIFEST).read_text())
    if rng.random() < 0.2:
        moved = mutations.name(rng)
        fields["files"][moved] = fields["files"].pop(rng.choice(sorted(fields["files"])))
    with tempfile.TemporaryDirectory() as temporary:
        content = mutations.json_bytes(rng, fields)
        folder = _artifact(of, Path(temporary) / "artifact", **{MANIFEST: content})
        found = Manifest.read(folder)
        for name in found.files:
            names.checked(name, "here")
        assert found.table() is not None
        again = Manifest.from_dict(json.loads(json.dumps(found.as_dict())))
        assert repr(again) == repr(found)  # which has NaN equal itself
        codec = tfcomp.Codec.load(folder, threads=1)
        _decodes_as(of, codec)


def _decodes_as(of: Subject, codec: tfcomp.Codec) -> None:
    if codec.fingerprint == of.codec.fingerprint:
        quality, whole = of.payloads[0]
        np.testing.assert_array_equal(codec.decode([whole], quality)[0], of.codec.decode([whole], quality)[0])


@cache
def _tables(name: str) -> dict[str, Any]:
    return dict(arrays.to_arrays(subject(name).codec.parts))


def tables(rng: random.Random) -> None:
    """Tables, changed, under a manifest that names their digest; those that are read code and decode."""
    of = subject(rng.choice(KINDS[:-1]))
    content = mutations.npz(rng, _tables(of.name))
    fields = json.loads((Path(of.folder) / MANIFEST).read_text())
    found = arrays.read(content, "here")
    for quality in arrays.qualities(fields["format"], tuple(fields["qualities"]), found):
        model, draw = quality.entropy, np.random.default_rng(0)
        if isinstance(model, ContextModel):
            part = draw.normal(0, 3, (5, 6, model.layout.channels)).astype(np.float32)
            code, coded = tiles.encode(model, part, np.full(part.shape[2], NEAREST, np.float32))
            np.testing.assert_array_equal(tiles.decode(model, code, 5, 6), coded)
        elif isinstance(model, SampleModel):
            chosen = model.decode_names([b"", b"\1"])
            np.testing.assert_array_equal(model.decode_names(model.encode(chosen)), chosen)
        else:
            some = model.clip(draw.integers(-9, 10, (2, *model.latent_shape)))
            np.testing.assert_array_equal(model.decode(model.encode(some)), some)
    if rng.random() < 0.3:
        digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps({**fields, "files": {**fields["files"], TABLES: digest}}).encode()
        with tempfile.TemporaryDirectory() as temporary:
            folder = _artifact(of, Path(temporary) / "artifact", **{MANIFEST: text, TABLES: content})
            _decodes_as(of, tfcomp.Codec.load(folder, threads=1))


# === SavedModels ===


def saved_model(rng: random.Random) -> None:
    """The folder of a SavedModel, changed; digests are made anew in some cases, and TensorFlow loads what passes."""
    of = subject("static")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "artifact"
        shutil.copytree(of.folder, folder)
        of_model = rng.choice([ENCODER, DECODER])
        files = sorted(p for p in (folder / of_model).rglob("*") if p.is_file())
        path = rng.choice(files)
        anew = changed = False
        match rng.randrange(8):
            case 0:
                path.unlink()
            case 1:
                path.rename(path.with_name(rng.choice(["x", path.name + ".bak", "saved_model.pbtxt"])))
            case 2:
                odd = rng.choice(
                    ["assets/x", "assets.extra/x", "variables/more", "x.so", "saved_model.pbtxt", "keras.pb"]
                )
                (folder / of_model / odd).parent.mkdir(exist_ok=True)
                (folder / of_model / odd).write_bytes(path.read_bytes())
            case 3:
                path.unlink()
                path.symlink_to(rng.choice(["/etc/passwd", "/nowhere", str(folder / MANIFEST), "."]))
            case 4:
                path.unlink()
                path.mkdir()
            case _:
                content = path.read_bytes()
                damaged = mutations.of_bytes(rng, content)
                changed, anew = damaged != content, rng.random() < 0.5
                path.write_bytes(damaged)
        if anew:
            fields = json.loads((folder / MANIFEST).read_text())
            content = path.read_bytes()
            digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            fields["files"][path.relative_to(folder).as_posix()] = digest
            (folder / MANIFEST).write_text(json.dumps(fields))
        read = Manifest.read(folder)
        verify_saved_model(folder, of_model, read.files)
        assert anew or not changed, "a file that is not the manifest's was taken"
        codec = tfcomp.Codec.load(folder, runtime="tensorflow")
        quality, whole = of.payloads[0]
        images = codec.decompress([whole], quality)
        assert images.dtype == np.uint8
        codec.compress(images, quality)


TARGETS: dict[str, tuple[Callable[[random.Random], None], int]] = {
    "archive": (archive, 40),
    "payload": (payload, 35),
    "manifest": (manifest, 12),
    "tables": (tables, 12),
    "saved_model": (saved_model, 1),
}
"""Each target, and its share of the cases in percent."""
