"""The .tfz archive: round trips, random access, and a named error for every kind of damage."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tfcomp.coding import varints
from tfcomp.errors import BitstreamError, InputError
from tfcomp.storage import container
from tfcomp.storage.container import BLOCK, MAX_ELEMENTS, Archive, Header

FINGERPRINT = bytes(range(16))
GOLDEN = Path(__file__).parent / "golden" / "archive_v1.tfz"
GOLDEN_PAYLOADS = [bytes([i, 255 - i]) * (i % 7) for i in range(40)]
GOLDEN_METADATA = {"names": [f"{i:02}.png" for i in range(40)], "made by": "tfcomp, π"}


def small_archive(path: Path) -> bytes:
    payloads = [b"\x01\x02\x03", b"", b"\xff" * 11]
    container.write(
        path, payloads, fingerprint=FINGERPRINT, item_shape=(28, 28, 1), metadata={"names": ["a", "b", "c"]}
    )
    return path.read_bytes()


def forge(path: Path, rest: bytes = b"", *, payload: bytes = b"", **claims: Any) -> None:
    """Writes a file whose checksums are right and whose header claims whatever is asked."""
    honest = Header(FINGERPRINT, "uint8", (28, 28, 1), 1, len(payload), 0, 0, 1, 1)
    blocks = [zlib.crc32(payload[i : i + BLOCK]) for i in range(0, len(payload), BLOCK)]
    head = dataclasses.replace(honest, **claims).pack() + rest + struct.pack(f"<{len(blocks)}I", *blocks)
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + payload)


# === Round trip ===


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payloads=st.lists(st.binary(max_size=300), max_size=40),
    fingerprint=st.binary(min_size=16, max_size=16),
    shape=st.lists(st.integers(0, 60), max_size=4).map(tuple),
    metadata=st.none() | st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.booleans()), max_size=5),
)
@example([], bytes(16), (), {"": "\x1e\x07\x90\u0d90\x1f\U000105d1\x1d\U000247d0", "0": ""})  # zlib saves nothing
def test_round_trip(
    tmp_path: Path, payloads: list[bytes], fingerprint: bytes, shape: tuple[int, ...], metadata: dict[str, Any] | None
) -> None:
    path = tmp_path / "a.tfz"
    written = container.write(path, iter(payloads), fingerprint=fingerprint, item_shape=shape, metadata=metadata)
    with Archive.open(path) as archive:
        assert written == archive.file_bytes == path.stat().st_size
        assert list(archive) == payloads == archive[:]
        assert archive[::-2] == payloads[::-2]
        assert len(archive) == len(payloads)
        assert archive.metadata == (metadata or {})
        assert (archive.header.fingerprint, archive.header.item_shape) == (fingerprint, shape)
        assert str(len(payloads)) in str(archive.header)
        archive.verify()


@pytest.mark.further
@pytest.mark.parametrize(
    ("payloads", "metadata", "most_bytes"),
    [
        (
            [b"\x80"] * 100_000,
            {"names": [f"{i:060}.png" for i in range(100_000)]},
            500_000,
        ),  # zlib is let do its work
        ([b""] * (2**12 + 1), None, 2**12 + 100),
        ([b""] * (2**20 + 1), None, 2**20 + 100),
        ([], {"a": "a" * 2**21}, 2**21 + 100),
        ([b""] * (2**20 + 1), {"a": "a" * 2**26}, 2**20 + 2**26 + 100),
    ],
)
def test_what_zlib_shortens_most_can_be_written_and_read(
    tmp_path: Path, payloads: list[bytes], metadata: dict[str, Any] | None, most_bytes: int
) -> None:
    path = tmp_path / "a.tfz"
    written = container.write(path, payloads, fingerprint=FINGERPRINT, item_shape=(28, 28, 1), metadata=metadata)
    assert written <= most_bytes
    with Archive.open(path) as archive:
        assert archive[:] == payloads
        assert archive.metadata == (metadata or {})


@given(
    st.lists(st.integers(0, 2**63 - 1) | st.sampled_from([2**k - d for k in range(63) for d in (0, 1)]), max_size=50)
)
def test_varints_round_trip(values: list[int]) -> None:
    data = varints.pack(np.array(values, np.int64))
    assert varints.unpack(data, "test").tolist() == values
    assert len(data) == sum(max(1, -(-value.bit_length() // 7)) for value in values)


@pytest.mark.parametrize("data", [b"\x80", b"\x01\x80", b"\x80\x00", b"\x01\x81\x80\x00", b"\x80" * 9 + b"\x01"])
def test_varints_have_one_form(data: bytes) -> None:
    with pytest.raises(BitstreamError, match="in test"):
        varints.unpack(data, "test")


def test_an_item_costs_its_payload_and_at_most_one_byte(tmp_path: Path) -> None:
    rng = random.Random(0)
    payloads = [rng.randbytes(rng.randint(5, 25)) for _ in range(10_000)]
    written = container.write(tmp_path / "a.tfz", payloads, fingerprint=FINGERPRINT, item_shape=(28, 28, 1))
    size = sum(map(len, payloads))
    assert size + 10_000 * 0.5 < written <= size + 10_000 + 60


def test_indexing_is_a_sequence_s(tmp_path: Path) -> None:
    small_archive(tmp_path / "a.tfz")
    with Archive.open(tmp_path / "a.tfz") as archive:
        assert archive[-1] == b"\xff" * 11
        for i in (3, -4):
            with pytest.raises(IndexError, match=f"found {i}"):
                archive[i]


def test_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo\xff.png")
    container.write(tmp_path / "a.tfz", [b"x"], fingerprint=FINGERPRINT, item_shape=(), metadata={"names": [name]})
    with Archive.open(tmp_path / "a.tfz") as archive:
        assert archive.metadata == {"names": [name]}


def test_golden_archive_still_opens(rewrite_golden: bool) -> None:
    if rewrite_golden:
        container.write(
            GOLDEN, GOLDEN_PAYLOADS, fingerprint=FINGERPRINT, item_shape=(28, 28, 1), metadata=GOLDEN_METADATA
        )
    with Archive.open(GOLDEN) as archive:
        assert list(archive) == GOLDEN_PAYLOADS
        assert archive.metadata == GOLDEN_METADATA
        assert (archive.header.fingerprint, archive.header.item_shape) == (FINGERPRINT, (28, 28, 1))
        assert archive.header.metadata_stored < archive.header.metadata_bytes


# === Damage ===


def check_every(damage: Callable[[bytes], list[bytes]], tmp_path: Path) -> None:
    data = small_archive(tmp_path / "whole.tfz")
    path = tmp_path / "damaged.tfz"
    for damaged in damage(data):
        path.write_bytes(damaged)
        with pytest.raises(BitstreamError, match=r"(?s)expected .*damaged\.tfz.*found "):
            Archive.open(path)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    check_every(lambda data: [data[:n] for n in range(len(data))], tmp_path)


def test_every_flip_is_found(tmp_path: Path) -> None:
    masks = [1 << bit for bit in range(8)] + [0xFF, 0x55]
    check_every(
        lambda data: [data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :] for i in range(len(data)) for mask in masks],
        tmp_path,
    )


def test_every_extension_and_deletion_is_found(tmp_path: Path) -> None:
    check_every(
        lambda data: [data[:i] + bytes([b]) + data[i:] for i in range(len(data) + 1) for b in (0, 171)], tmp_path
    )
    check_every(lambda data: [data[:i] + data[i + 1 :] for i in range(len(data))], tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), magic=st.booleans())
def test_foreign_bytes_are_refused(tmp_path: Path, data: bytes, magic: bool) -> None:
    path = tmp_path / "foreign.tfz"
    path.write_bytes((container.MAGIC + b"\x01\x01" if magic else b"") + data)
    with pytest.raises(BitstreamError, match="foreign"):
        Archive.open(path)


def test_damage_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tfz"
    data = small_archive(path)
    for damaged, message in {
        data[:-1]: f"expected {len(data)} bytes in .*found {len(data) - 1}: the file was truncated",
        data + b"\0": f"expected {len(data)} bytes in .*found {len(data) + 1}: the file was extended",
        data[:-1] + b"\0": "expected checksum .* of block 0 of the payloads",
        data[:4] + b"\x02" + data[5:]: "expected .tfz format version 1 .*found version 2",
        b"\x89PNG" + data[4:]: "expected a .tfz archive in .* first bytes 89 50 4e 47",
        b"": r"expected a .tfz archive in .* \(none\)",
        data[:40] + bytes([data[40] ^ 1]) + data[41:]: "checksum .* of the head",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(BitstreamError, match=message):
            Archive.open(path)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"count": 2**31}, "expected at most 4096 items"),
        ({"count": 2**31, "index_bytes": 2**31}, "expected at most 4096 items"),
        ({"count": 2**12 + 1, "index_bytes": 2**12 + 1}, "expected at most 4096 items"),
        ({"count": 2**12, "index_bytes": 2**12}, "4096 bytes for the index"),
        ({"item_shape": (2**16, 2**15, 1)}, f"at most {MAX_ELEMENTS} elements"),
        ({"item_shape": (2**62, 2**62)}, f"at most {MAX_ELEMENTS} elements"),
        ({"payload_bytes": 2**40}, "truncated"),
        ({"index_stored": 2**62}, "truncated"),
        ({"metadata_bytes": 2**31}, "at most 1048576 bytes of metadata"),
        ({"metadata_bytes": 7}, "7 bytes for the metadata"),
        ({"count": 0}, "lengths"),
        ({"count": 0, "index_bytes": 0}, "the index"),
    ],
)
def test_no_claimed_size_is_trusted(tmp_path: Path, claims: dict[str, Any], message: str) -> None:
    path = tmp_path / "forged.tfz"
    forge(path, b"\x00", **claims)
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=message):
        Archive.open(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_zlib_bomb_is_cut_off(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 28), 9)
    path = tmp_path / "forged.tfz"
    forge(path, bomb + b"\x00", metadata_stored=len(bomb), metadata_bytes=1 << 19)
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="expected 524288 bytes for the metadata"):
        Archive.open(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("rest", "claims", "message"),
    [
        (b"\x03", {}, "sum to 5"),
        (b"\x85\x00", {"index_stored": 2, "index_bytes": 2}, "lengths"),
        (b"\xff" * 8 + b"\x7f" + b"\xff" * 8 + b"\x7f", {"count": 2, "index_stored": 18, "index_bytes": 18}, "lengths"),
        (b"[]\x05", {"metadata_stored": 2, "metadata_bytes": 2}, "as a JSON object, found list"),
        (b"{]\x05", {"metadata_stored": 2, "metadata_bytes": 2}, "as JSON"),
        (b"[" * 90_000 + b"\x05", {"metadata_stored": 90_000, "metadata_bytes": 90_000}, "as JSON"),
        (b"\xff\xff\x05", {"metadata_stored": 2, "metadata_bytes": 2}, "as JSON"),
    ],
)
def test_content_is_checked_even_when_checksums_are_right(
    tmp_path: Path, rest: bytes, claims: dict[str, Any], message: str
) -> None:
    forge(tmp_path / "forged.tfz", rest, payload=b"12345", **claims)
    with pytest.raises(BitstreamError, match=message):
        Archive.open(tmp_path / "forged.tfz")


@pytest.mark.parametrize("at", [5, 6, 7])
def test_unknown_codes_are_refused_even_when_checksums_are_right(tmp_path: Path, at: int) -> None:
    forge(tmp_path / "forged.tfz", b"\x05", payload=b"12345")
    data = bytearray((tmp_path / "forged.tfz").read_bytes())
    data[at] = 200
    head = data[:-9]
    (tmp_path / "forged.tfz").write_bytes(head + struct.pack("<I", zlib.crc32(head)) + data[-5:])
    with pytest.raises(BitstreamError, match="expected dtype 1, a rank of 0 to 8 and a reserved 0 .* found .*200"):
        Archive.open(tmp_path / "forged.tfz")


def test_more_lengths_than_items_are_refused(tmp_path: Path) -> None:
    forge(tmp_path / "forged.tfz", b"\x40\x40", payload=bytes(128), index_stored=2, index_bytes=2)
    with pytest.raises(BitstreamError, match="expected 1 payload lengths .* found 2"):
        Archive.open(tmp_path / "forged.tfz")


@pytest.mark.parametrize("spoil", [lambda data: data + b"\0", lambda data: data[:-1]])
def test_zlib_data_must_end_where_it_is_said_to(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    text = b'{"names": [' + b" " * 200 + b"]}"
    for stored, sound in ((zlib.compress(text), True), (spoil(zlib.compress(text)), False)):
        claims = {"metadata_stored": len(stored), "metadata_bytes": len(text)}
        forge(tmp_path / "forged.tfz", stored + b"\x05", payload=b"12345", **claims)
        if sound:
            Archive.open(tmp_path / "forged.tfz").close()
        else:
            with pytest.raises(BitstreamError, match="for the metadata"):
                Archive.open(tmp_path / "forged.tfz")


def test_the_forgery_itself_is_sound(tmp_path: Path) -> None:
    forge(tmp_path / "forged.tfz", b"\x05", payload=b"12345")
    with Archive.open(tmp_path / "forged.tfz") as archive:
        assert list(archive) == [b"12345"]


def test_another_codec_is_named(tmp_path: Path) -> None:
    small_archive(tmp_path / "a.tfz")
    with Archive.open(tmp_path / "a.tfz") as archive:
        archive.require(FINGERPRINT)
        with pytest.raises(
            BitstreamError, match=f"expected codec {FINGERPRINT.hex()}, .* fingerprint {bytes(16).hex()}"
        ):
            archive.require(bytes(16))


# === Random access ===


def test_an_item_is_read_and_checked_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "large.tfz"
    payloads = [bytes([i % 251]) * 1000 for i in range(1000)]
    container.write(path, payloads, fingerprint=FINGERPRINT, item_shape=(0, 0, 3))
    data = bytearray(path.read_bytes())
    start = len(data) - 1_000_000
    data[start + 7 * BLOCK + 5] ^= 1
    path.write_bytes(data)

    with pytest.raises(BitstreamError, match="block 7 of"):
        Archive.open(path)
    with Archive.open(path, eager_bytes=0) as archive:
        touched = [i for i in range(1000) if i * 1000 < 8 * BLOCK and (i + 1) * 1000 > 7 * BLOCK]
        for i in (0, 999, touched[0] - 1, touched[-1] + 1):
            assert archive[i] == payloads[i]
        for i in (touched[0], touched[-1], 500 if 500 in touched else touched[1]):
            with pytest.raises(BitstreamError, match="block 7 of"):
                archive[i]
        with pytest.raises(BitstreamError, match="block 7 of"):
            archive.verify()


def test_items_may_span_blocks_and_be_empty_between_them(tmp_path: Path) -> None:
    path = tmp_path / "large.tfz"
    payloads = [b"a" * BLOCK, b"", b"b" * (3 * BLOCK + 1), b"c", b"d" * (BLOCK - 2), b"", b"e"]
    container.write(path, payloads, fingerprint=FINGERPRINT, item_shape=())
    with Archive.open(path, eager_bytes=0) as archive:
        assert list(archive) == payloads
        assert [archive[i] for i in (6, 2, 0, 3, 1)] == [payloads[i] for i in (6, 2, 0, 3, 1)]


# === Input ===


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fingerprint": b"short"}, "16 bytes, found 5"),
        ({"dtype": "float64"}, "dtype of uint8, found float64"),
        ({"item_shape": (1,) * 9}, "at most 8 dimensions"),
        ({"item_shape": (-1,)}, "item shape"),
        ({"item_shape": (2**16, 2**16)}, "elements"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.tfz"
    with pytest.raises(InputError, match=message):
        container.write(
            path, **({"payloads": [b"x"], "fingerprint": FINGERPRINT, "item_shape": (28, 28, 1)} | arguments)
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tfz"
    old = small_archive(path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        container.write(path, [b"new"], fingerprint=FINGERPRINT, item_shape=())
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_the_user_s(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tfz", tmp_path):
        with pytest.raises(InputError, match=f"cannot read {path}"):
            Archive.open(path)
