"""Structured mutations: of bytes, of JSON, of names, of NumPy files. Each takes a `random.Random`, and nothing else."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

import numpy as np

NUMBERS = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 2**20, 2**24, 2**28 - 1, 2**28, 2**31 - 1]
NUMBERS += [2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1]
"""Where sizes and counts tend to go wrong."""
NAMES = ["", ".", "..", "/", "a/../b", "../a", "/etc/passwd", "//a", "a//b", "C:/a", "c:a", "a\\b", "nul", "con.png"]
NAMES += ["com¹.x", "a.", "a ", "\0", "a\nb", "\x1b[2J", "\ud800", "\u2028", "x" * 255, "x" * 256, "é" * 128, "a/" * 80]
NAMES += ["a.png", "A.PNG", "a.jpg", "á.png", "a\u0301.png", "a", "a/b", "encoder/1//abs", "~", "-rf", "gs://b/o", " a"]


def number(rng: random.Random) -> int:
    """A number that a size may claim."""
    return (
        min(max(0, rng.choice(NUMBERS) + rng.choice([0, 0, -1, 1])), 2**63 - 1)
        if rng.random() < 0.7
        else rng.randrange(1 << 16)
    )


def of_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Some bytes changed, cut, doubled, inserted, or joined with those of another input."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at, size = rng.randrange(len(found) + 1), rng.choice([1, 1, 2, 3, 8, 64])
        match rng.randrange(9):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1 if found:
                found[at % len(found)] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])
            case 2:
                del found[at:]
            case 3:
                found += rng.randbytes(size)
            case 4:
                found[at:at] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, b"\x80" * size])
            case 5:
                del found[at : at + size]
            case 6:
                found[at:at] = found[at : at + size]
            case 7 if other:
                found[at:] = other[rng.randrange(len(other)) :]
            case _:
                found[at : at + size] = rng.randbytes(size)
    return bytes(found[:40_000])


def name(rng: random.Random) -> str:
    """A name that no file may have, or one that many have."""
    parts = rng.choices(NAMES, k=rng.choice([1, 1, 1, 2, 3]))
    return rng.choice(["", "/", "-1", ""]).join(parts)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can hold."""
    match rng.randrange(11 if depth < 3 else 8):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice([-1, 1]) * number(rng)
        case 3:
            return rng.choice([float("nan"), float("inf"), -0.5, 1e308, 0.0, 2**70, -(2**200)])
        case 4 | 5:
            return name(rng)
        case 6:
            return []
        case 7:
            return {}
        case 8 | 9:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {name(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def of_json(rng: random.Random, tree: Any) -> Any:
    """A copy of a JSON value with some nodes replaced, left out, doubled or renamed."""
    copy = json.loads(json.dumps(tree))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        parents = [node for node in _nodes(copy) if node]
        if not parents:
            return value(rng)
        node = rng.choice(parents)
        key: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[name(rng)] = node.pop(key)
            case 2 if isinstance(node, dict):
                node[name(rng)] = node[key]
            case 3 if isinstance(node, list):
                node.insert(key, node[key])
            case 4 if isinstance(node[key], int):
                node[key] = rng.choice([-node[key], node[key] + 1, float(node[key]), str(node[key]), number(rng)])
            case _:
                node[key] = value(rng)
    return copy


def _nodes(tree: Any) -> list[Any]:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return ([tree] if isinstance(tree, dict | list) else []) + [node for part in inner for node in _nodes(part)]


def json_bytes(rng: random.Random, tree: Any) -> bytes:
    """A JSON value as text, which may be damaged too."""
    text = json.dumps(of_json(rng, tree), indent=rng.choice([None, 2])).encode(errors="surrogatepass")
    match rng.randrange(12):
        case 0:
            return of_bytes(rng, text)
        case 1:
            return b"[" * rng.choice([10, 1000, 100_000]) + text
        case 2:
            return text.replace(b"1", b"1" * rng.choice([20, 5000]))
        case _:
            return text


def array(rng: random.Random, given: np.ndarray) -> Any:
    """An array of another dtype, shape or value."""
    found = np.array(given)
    match rng.randrange(9):
        case 0:
            return found.astype(rng.choice(["i8", "f8", "f4", "u1", "?", "U5", "c8", ">i4"]))
        case 1:
            return found.reshape(-1)[: rng.randrange(found.size + 1)]
        case 2:
            return found[None]
        case 3:
            return np.repeat(found.reshape(-1), rng.choice([2, 3]))
        case 4:
            return np.array(value(rng), dtype=object) if rng.random() < 0.3 else np.zeros(rng.randrange(5), found.dtype)
        case 5:
            return np.array(
                rng.choice([-1, 0, 1, 2**31 - 1, -(2**31)]), found.dtype if found.dtype.kind == "i" else "i4"
            )
        case _:
            flat = found.reshape(-1)
            for _ in range(rng.choice([1, 1, 2, 5])):
                if flat.size:
                    odd = [-1, 0, 1, 7, 2**24, 2**31 - 1] if flat.dtype.kind in "iu" else [0, -1, np.nan, np.inf, 1e38]
                    flat[rng.randrange(flat.size)] = np.array(rng.choice(odd)).astype(flat.dtype)  # of 8 bits, too
            return found


def npz(rng: random.Random, arrays: dict[str, np.ndarray]) -> bytes:
    """A NumPy archive of some arrays changed, left out or added, and at times damaged as a file."""
    members = {key: np.asarray(a) for key, a in arrays.items()}
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        key = rng.choice(sorted(members))
        match rng.randrange(6):
            case 0:
                del members[key]
            case 1:
                members[rng.choice(["model_1/" + key, "x", "model_" + key, "1/x", "model_scales_9"])] = members[key]
            case _:
                members[key] = array(rng, members[key])
        if not members:
            break
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as packed:
        for key, content in members.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, content, allow_pickle=True)
            data = one.getvalue()
            if rng.random() < 0.03:  # a header that claims what is not there
                data = data.replace(b"'shape': (", b"'shape': (%d, " % number(rng), 1)
            if rng.random() < 0.03:
                data = of_bytes(rng, data)
            packed.writestr(f"{key}.npy", data)
        if rng.random() < 0.02:
            packed.writestr(rng.choice(["../x.npy", "big.npy", "x.txt"]), bytes(rng.choice([10, 1 << 22])))
    content = file.getvalue()
    return of_bytes(rng, content) if rng.random() < 0.15 else content
