"""The folder of a run: numbered shards, and ``bulk.json``, their manifest.

::

    bulk.json             format, kind, settings; when all shards are there, complete: true and their totals
    shard-000000.tfz      a ``.tfz`` file like any other; its metadata have a key, and the images that were left out
    shard-000001.tfz      ...

The key of a shard is made of the settings and of the shard's inputs. A run that is resumed keeps the whole shards whose
keys are its own, and makes the others; there is no other record of progress.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from tfcomp.errors import InputError
from tfcomp.storage.places import Address, Place

FORMAT = "tfcomp-bulk-1"
MANIFEST = "bulk.json"
ARCHIVES, IMAGES = "archives", "images"
"""Kinds of runs: those of `compress`, and those of `decompress`."""
_SHARD = re.compile(r"shard-(\d{6,18})\.(tfz|json)")


@dataclass(frozen=True)
class Report:
    """Counts of a run's shards, those of an earlier run included.

    Attributes:
        shards: number of shards.
        items: number of images in them.
        skipped: number of images that were left out; `items` lists them.
        bytes: size of the ``.tfz`` files.
        kept: number of shards that an earlier run had made.

    Examples:
        >>> (Report(1, 5, 0, 900) + Report(1, 4, 1, 800)).items
        9
    """

    shards: int = 0
    items: int = 0
    skipped: int = 0
    bytes: int = 0
    kept: int = 0

    def __add__(self, other: Report) -> Report:
        return Report(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def shard_name(number: int, suffix: str = ".tfz") -> str:
    """The name of a shard, or of another file or folder with its number."""
    return f"shard-{number:06}{suffix}"


def key_of(*what: object) -> str:
    """A hash of settings and inputs, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:32]


def read_manifest(place: Place) -> dict[str, Any]:
    """The content of ``bulk.json``; raises `InputError` if there is no such manifest."""
    manifest = parsed(place.read(MANIFEST))
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("settings"), dict):
        raise InputError(f"expected {FORMAT} in {place.path(MANIFEST)}, found something else")
    return manifest


def is_run(address: Address) -> bool:
    """Whether the address is the folder of a run."""
    return MANIFEST in Place(address).names()


class Run:
    """A run that writes into a folder, new or resumed.

    Args:
        place: the folder.
        output: `ARCHIVES` or `IMAGES`.
        settings: everything that the shards depend on besides their inputs.

    Attributes:
        there: numbers of the shards that an earlier run has left, which are still to be checked.

    Raises:
        InputError: if the folder holds anything but an earlier run with these settings.
    """

    def __init__(self, place: Place, output: str, settings: Mapping[str, Any]) -> None:
        place.sweep()
        names = [name for name in place.names() if not name.startswith(".")]
        manifest = {"format": FORMAT, "kind": output, "settings": dict(settings)}
        self.place, self._manifest, self._earlier = place, manifest, dict[str, Any]()
        self.there = {int(match[1]) for match in map(_SHARD.fullmatch, names) if match}
        if MANIFEST in names:
            self._earlier = read_manifest(place)
            if self.there or self._earlier.get("complete"):
                _require_same(place, manifest, self._earlier)
        elif names:
            raise InputError(f"expected {place} to be new, empty or an earlier run, found {names[0]!a} in it")
        if not self.there:  # an earlier run without shards has nothing to lose
            place.write(MANIFEST, _text({**manifest, "complete": False}))

    def processes(self, wanted: int | None, *inputs: Place) -> int | None:
        """The number of processes: one if no other process sees the folder or an input, else as wanted."""
        return 1 if any(place.of_this_process for place in (self.place, *inputs)) else wanted

    def finished(self, shards: Iterable[tuple[Report, str]]) -> Report:
        """Adds the counts of all shards, and completes the manifest; raises `InputError` if there are more shards."""
        total, inputs = Report(), ""
        for report, key in shards:
            total, inputs = total + report, key_of(inputs, key)
        beyond = max(self.there, default=-1)
        if beyond >= total.shards:
            name = shard_name(beyond, ".*")
            raise InputError(f"expected {total.shards} shards in {self.place}, found {name}, of a longer list")
        totals = {name: value for name, value in asdict(total).items() if name != "kept"}
        ended = {**self._manifest, "complete": True, **totals, "inputs": inputs}
        self.place.flush()
        if ended != self._earlier:
            self.place.write(MANIFEST, _text(ended))
            self.place.flush()
        return total


def shards_of(address: Address) -> list[str]:
    """Names of the archives of a run of `compress`, in order; raises `InputError` unless it is complete."""
    place = Place(address)
    names = set(place.names())
    if MANIFEST not in names:
        raise InputError(f"expected a folder that tfcomp.bulk.compress has written, found no {MANIFEST} in {place}")
    manifest = read_manifest(place)
    if manifest["kind"] != ARCHIVES or not manifest.get("complete"):
        found = "one that has not ended: run it again" if manifest["kind"] == ARCHIVES else "images"
        raise InputError(f"expected the shards of a whole run in {place}, found {found}")
    shards = [shard_name(number) for number in range(int(manifest["shards"]))]
    if missing := [name for name in shards if name not in names]:
        raise InputError(f"expected {len(shards)} shards in {place}, found no {missing[0]}")
    return shards


# === Inside ===


def _require_same(place: Place, manifest: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    if earlier["kind"] != manifest["kind"]:
        raise InputError(f"expected a folder of {manifest['kind']}, found one of {earlier['kind']}: {place}")
    for name, value in manifest["settings"].items():
        before = earlier["settings"].get(name)
        if before != value:
            begun = f"{place} was begun with {name} {before}"
            raise InputError(f"expected {name} {before} to go on, found {value}: {begun}; choose another folder")


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object of some bytes, empty if they are none: a put that was killed may leave a part."""
    with suppress(ValueError):
        value = json.loads(content)
        if isinstance(value, dict):
            return value
    return {}
