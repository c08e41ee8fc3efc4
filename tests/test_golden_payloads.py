"""Payloads that every later version must read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from payload_model import check_coder, skewed

from tfcomp.coding import range_coder
from tfcomp.coding.range_coder import decode, encode
from tfcomp.coding.tables import FrequencyTables, Int32

GOLDEN = Path(__file__).parent / "golden" / "payloads.json"

pytestmark = pytest.mark.usefixtures("either_loop")


def golden_cases() -> list[dict[str, object]]:
    """Messages made by integer arithmetic alone, so that they are the same everywhere."""
    tables = FrequencyTables.from_arrays(
        {
            "precision": np.int32(8),
            "lower": np.int32([-2, 9, 0, -1]),
            "sizes": np.int32([5, 1, 2, 3]),
            "frequencies": np.int32([5, 60, 130, 60, 1, 256, 255, 1, 64, 128, 64]),
        }
    )
    draw = [pow(48271, k + 1, 2**31 - 1) >> 9 for k in range(400)]
    mixed = np.int32([k % 7 % 4 for k in range(400)])
    cases = []
    for name, index, segments in [
        ("one message of few symbols", mixed[:9], 1),
        ("one message of 400 symbols", mixed, 1),
        ("seven segments", mixed, 7),
        ("more segments than symbols", mixed[:5], 8),
        ("one-symbol tables alone", np.full(20, 1, np.int32), 3),
        ("no symbols", mixed[:0], 1),
    ]:
        latents = tables.lower[index] + np.int32(draw[: index.size]) % tables.sizes[index]
        cases.append((name, tables, index, segments, latents, 1))
    cases.append(("a carry through 50 digits", skewed(), *_carried(skewed()), 1))
    tables = _golden_sets()
    for name, index, segments in [
        ("three sets, one message", mixed[:40] % 2, 1),
        ("three sets, four segments, the last one empty", mixed[:9] % 2, 4),
        ("three sets, one-symbol tables alone", np.ones(6, np.int32), 2),
    ]:
        latents = tables.lower[index] + np.int32(draw[: index.size]) % tables.sizes[index]
        cases.append((name, tables, index, segments, latents, 3))
    return [
        {
            "name": name,
            "precision": used.precision,
            **{key: getattr(used, key).tolist() for key in ("lower", "sizes", "frequencies")},
            "index": index.tolist(),
            "segments": segments,
            **({"sets": sets} if sets > 1 else {}),
            "latents": latents.tolist(),
            "payload": encode(latents[np.newaxis], used, index, segments, sets)[0].hex(),
        }
        for name, used, index, segments, latents, sets in cases
    ]


def _golden_sets() -> FrequencyTables:
    frequencies = [
        [150, 40, 30, 26, 10],
        [256],
        [20, 50, 116, 50, 20],
        [256],
        [10, 10, 30, 70, 136],
        [256],
        [6, 50, 200],
    ]
    return FrequencyTables.from_arrays(
        {
            "precision": np.int32(8),
            "lower": np.int32([-2, 9, -2, 9, -2, 9, 0]),
            "sizes": np.int32([len(part) for part in frequencies]),
            "frequencies": np.concatenate(frequencies).astype(np.int32),
        }
    )


def _carried(tables: FrequencyTables) -> tuple[Int32, int, Int32]:
    index = np.zeros(250, np.int32)
    latents = decode([b"\x05"], tables, index)[0]
    latents[-8:] = 4
    return index, 1, latents


def test_golden_payloads(rewrite_golden: bool) -> None:
    if rewrite_golden:
        lines = ",\n".join(json.dumps(case) for case in golden_cases())
        GOLDEN.write_text(f'{{"format_version": {range_coder.FORMAT_VERSION}, "cases": [\n{lines}\n]}}\n')
    golden = json.loads(GOLDEN.read_text())
    assert golden["format_version"] == range_coder.FORMAT_VERSION
    assert len(golden["cases"]) == 10
    for case in golden["cases"]:
        arrays = {key: np.array(case[key], np.int32) for key in ("precision", "lower", "sizes", "frequencies")}
        tables, index = FrequencyTables.from_arrays(arrays), np.array(case["index"], np.int32)
        latents = np.array([case["latents"]], np.int32).reshape(1, -1)
        payloads = [bytes.fromhex(case["payload"])]
        how = case["segments"], case.get("sets", 1)
        np.testing.assert_array_equal(decode(payloads, tables, index, *how), latents, case["name"])
        assert check_coder(tables, latents, index, *how) == payloads, case["name"]
