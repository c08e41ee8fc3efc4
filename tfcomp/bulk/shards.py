"""The folder of a run: numbered shards, and ``bulk.json``, which says how they were made and whether all are there.

::

    bulk.json             format, kind, settings; when all shards are there, complete: true and their totals
    shard-000000.tfz      a ``.tfz`` file like any other; its metadata have a key, and what was left out
    shard-000001.tfz      ...

A shard is there when it is whole, and its key, made of the settings and of the shard's inputs, tells that it is this
run's. A run that is done again keeps such shards and makes the others; nothing else records what was done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from tfcomp.errors import InputError
from tfcomp.storage.places import Address, Place

FORMAT = "tfcomp-bulk-1"
MANIFEST = "bulk.json"
ARCHIVES, IMAGES = "archives", "images"
"""Kinds of run: what `compress` writes, and what `decompress` does."""
_SHARD = re.compile(r"shard-(\d{6,18})\.(tfz|json)")


@dataclass(frozen=True)
class Report:
    """What a run has made, with the shards that were there before.

    Attributes:
        shards: number of shards.
        items: number of images that are in them.
        skipped: number of images that were left out; `items` lists them.
        bytes: size of the ``.tfz`` files.
        kept: number of shards that an earlier run had made.
    """

    shards: int = 0
    items: int = 0
    skipped: int = 0
    bytes: int = 0
    kept: int = 0

    def __add__(self, other: Report) -> Report:
        return Report(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def shard_name(number: int, suffix: str = ".tfz") -> str:
    """The name of a shard, or of what else has its number."""
    return f"shard-{number:06}{suffix}"


def key_of(*what: object) -> str:
    """A name for settings and inputs: equal things have equal ones."""
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:32]


def read_manifest(place: Place) -> dict[str, Any]:
    """What ``bulk.json`` says; raises `InputError` if there is none, or it is not one."""
    try:
        found = json.loads(place.read(MANIFEST))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("settings"), dict):
        raise InputError(f"expected {FORMAT} in {place.path(MANIFEST)}, found something else")
    return found


def is_run(address: Address) -> bool:
    """Whether there is a folder of a run."""
    return MANIFEST in Place(address).names()


class Run:
    """A run that writes into a folder: begun anew, or gone on with.

    Args:
        place: the folder.
        kind: `ARCHIVES` or `IMAGES`.
        settings: what decides the shards' content, besides their inputs.

    Attributes:
        there: numbers of the shards that an earlier run has left; each has still to be looked at.

    Raises:
        InputError: if the folder holds anything but an earlier run with these settings.
    """

    def __init__(self, place: Place, kind: str, settings: Mapping[str, Any]) -> None:
        place.sweep()
        names = [name for name in place.names() if not name.startswith(".")]
        own = {"format": FORMAT, "kind": kind, "settings": dict(settings)}
        matched = [_SHARD.fullmatch(name) for name in names]
        self.place, self._own, self._earlier = place, own, dict[str, Any]()
        self.there = {int(found[1]) for found in matched if found}
        if MANIFEST in names:
            self._earlier = read_manifest(place)
            if self.there or self._earlier.get("complete"):
                _require_same(place, own, self._earlier)
        elif names:
            raise InputError(f"expected {place} to be new, empty or an earlier run, found {names[0]!a} in it")
        if not self.there:  # nor is anything lost if an earlier one was begun otherwise
            place.write(MANIFEST, _text({**own, "complete": False}))

    def finish(self, total: Report, inputs: str) -> None:
        """All shards are there; raises `InputError` if there are more than these."""
        beyond = max(self.there, default=-1)
        if beyond >= total.shards:
            name = shard_name(beyond, ".*")
            raise InputError(f"expected {total.shards} shards in {self.place}, found {name}, of a longer list")
        totals = {name: value for name, value in asdict(total).items() if name != "kept"}
        ended = {**self._own, "complete": True, **totals, "inputs": inputs}
        self.place.flush()
        if ended != self._earlier:
            self.place.write(MANIFEST, _text(ended))
            self.place.flush()


def shards_of(address: Address) -> list[str]:
    """Names of the archives in the folder of a run that has ended, in order.

    Raises:
        InputError: if it is no such folder, or one of its shards is missing.
    """
    place = Place(address)
    names = set(place.names())
    if MANIFEST not in names:
        raise InputError(f"expected a folder that tfcomp.bulk.compress has written, found no {MANIFEST} in {place}")
    found = read_manifest(place)
    if found["kind"] != ARCHIVES or not found.get("complete"):
        said = "one that has not ended: do it again" if found["kind"] == ARCHIVES else "images"
        raise InputError(f"expected the shards of a whole run in {place}, found {said}")
    shards = [shard_name(number) for number in range(int(found["shards"]))]
    if missing := [name for name in shards if name not in names]:
        raise InputError(f"expected {len(shards)} shards in {place}, found no {missing[0]}")
    return shards


# === Inside ===


def _require_same(place: Place, own: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    if earlier["kind"] != own["kind"]:
        raise InputError(f"expected a folder of {own['kind']}, found one of {earlier['kind']}: {place}")
    for name, value in own["settings"].items():
        found = earlier["settings"].get(name)
        if found != value:
            begun = f"{place} was begun with {name} {found}"
            raise InputError(f"expected {name} {found} to go on, found {value}: {begun}; choose another folder")


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def parsed(content: bytes) -> dict[str, Any]:
    """A JSON object; an empty one of what is none, as a put that was killed may leave."""
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}
