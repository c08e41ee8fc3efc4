"""The whole command over folders of any images, beside independent readers: what is done, refused, or wrong.

    python benchmarks/any_images.py [FOLDER ...] [--codec ARTIFACT] [--quality Q] [--files]

Every file below the folders whose ending `tfcomp compress` looks for is read as the command reads it, and by others:

    Pillow    upright by `ImageOps.exif_transpose`; colours by littleCMS, from the file's own ICC profile, or from a
              profile made here of what cICP, gAMA and cHRM, nclx or EXIF data say
    libvips   (where pyvips is installed) upright by `autorot`, ICC profiles by `icc_transform`; it knows no other
              declaration of colours, so that of these files only the size is compared

Then ``tfcomp compress FOLDER --on-error skip`` and ``tfcomp decompress`` take each folder whole. A file is

    done      if the size is that of each reader, the pixels are those of one of them, to a mean difference of `MEAN`
              levels, and what decompresses is of the same size and within `PSNR_DB` of them. Readers that differ are
              named: Pillow does not see every profile that libvips sees
    refused   if the command leaves it out, in one line; of those that another reader reads the line says why
    wrong     otherwise

Without a folder the test images in the source packages of `SUITES` are taken from the Python package index. Prints
tables, and writes ``benchmarks/results/any_images.json``, where a suite that was not run this time stays as it was;
``--files`` names every file that was refused.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from tfcomp.cli.main import main as tfcomp_command
from tfcomp.errors import TfcompError
from tfcomp.storage import archives, container, image_files

try:
    import pyvips
except (ImportError, OSError):
    pyvips = None

RESULTS = _settings.RESULTS / "any_images.json"
SUITES = _settings.full_or(("imagesize", "piexif", "pillow", "pillow-heif", "wand"), ("piexif",))
"""Packages of the Python package index whose sources hold images to test readers with."""
MEAN = 2.0
"""Largest mean difference of two readers, in levels of 8 bits: decoders differ in rounding and in smoothing colours."""
PSNR_DB = 11.0
"""Lowest PSNR of a decompressed picture at the highest quality. Lines of one pixel in two full colours have the lowest;
two pictures that have nothing to do with one another have 5 to 9."""

Pixels = NDArray[np.uint8]
Primaries = tuple[float, ...]


@dataclass
class Row:
    """What became of a file.

    Attributes:
        name: the suite or folder, and the path below it.
        verdict: ``done``, ``refused`` or ``wrong``.
        why: the line of a refusal, or what is wrong.
        readers: by reader, the mean difference in levels, or why there is none.
        psnr_db: of the decompressed picture.
    """

    name: str
    verdict: str
    why: str
    readers: dict[str, float | str]
    psnr_db: float | None = None


# === Independent readers ===


def by_pillow(path: Path) -> Pixels:
    """uint8 [H, W, 3], upright, in sRGB."""
    with Image.open(path) as image:
        image.load()
        profile = declared_profile(image, path)
        shown = ImageOps.exif_transpose(image)
        grey = shown.mode in ("1", "L", "LA")
        shown = shown.convert("L" if grey else "RGB")
        if profile:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = opened.profile.xcolor_space.strip()
            shown = shown.convert("L" if space == "GRAY" else "RGB")
            shown = ImageCms.profileToProfile(shown, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.asarray(shown.convert("L").convert("RGB") if grey else shown.convert("RGB"))


def by_libvips(path: Path) -> Pixels:
    """uint8 [H, W, 3], upright, in sRGB by the ICC profile alone."""
    image = pyvips.Image.new_from_file(str(path), fail=True).autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", intent="perceptual")
    elif image.interpretation != "multiband":
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image[: image.bands - 1] if image.bands > 1 else image
    pixels = image.cast("uchar").numpy()
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


READERS: dict[str, Callable[[Path], Pixels]] = {"Pillow": by_pillow, **({"libvips": by_libvips} if pyvips else {})}


def declared_profile(image: Any, path: Path) -> bytes | None:
    """An ICC profile of the colours that a file declares; None for sRGB."""
    data = path.read_bytes()
    if image.format == "PNG":
        header = data[: data.find(b"IDAT")]
        if (at := header.find(b"cICP")) >= 0:
            return of_code_points(*header[at + 4 : at + 6])
        if "icc_profile" in image.info or "srgb" in image.info:
            return image.info.get("icc_profile")
        if "gamma" in image.info or "chromaticity" in image.info:
            white, colours = np.split(np.array(image.info.get("chromaticity", SRGB_CHRM)), [2])
            gamma = image.info.get("gamma")
            srgb_like = gamma is None or abs(gamma / 0.45455 - 1) < 0.01
            return made_profile((*colours, *white), None if srgb_like else 1 / gamma)
    if profile := image.info.get("icc_profile"):
        return bytes(profile)
    if image.format == "AVIF" and (at := data.find(b"colrnclx")) >= 0:
        return of_code_points(*struct.unpack_from(">HH", data, at + 8))
    with contextlib.suppress(Exception):
        inner = image.getexif().get_ifd(0x8769)
        if inner.get(0xA001) == 2 or image.getexif().get_ifd(0xA005).get(1) == "R03":
            return made_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329), 563 / 256)
    return None


SRGB_CHRM = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
POINTS = {
    1: SRGB_CHRM[2:] + SRGB_CHRM[:2],
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.329),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.329),
}
POINTS |= {5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.329)}
POINTS |= dict.fromkeys((6, 7), (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.329))
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
BT709 = (1, 6, 14, 15)


def of_code_points(primaries: int, transfer: int) -> bytes | None:
    """A profile of code points of ITU-T H.273."""
    if (primaries, transfer) in ((1, 13), (2, 2), (1, 2), (2, 13)):
        return None
    curve = "709" if transfer in BT709 else GAMMAS.get(transfer)
    return made_profile(POINTS.get(primaries, POINTS[1]), curve)


def made_profile(primaries: Primaries, curve: float | str | None) -> bytes:
    """An ICC profile, version 4, of chromaticities (red, green, blue, white) and a gamma, "709", or None for sRGB's."""
    points = np.array(primaries).reshape(4, 2)
    columns = np.stack([points[:, 0], points[:, 1], 1 - points.sum(1)]) / points[:, 1]
    matrix = columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    matrix = np.linalg.inv(cone) @ np.diag(cone @ d50 / (cone @ columns[:, 3])) @ cone @ matrix
    match curve:
        case None:
            kind, numbers = 3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        case "709":
            kind, numbers = 3, (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
        case _:
            kind, numbers = 0, (float(curve),)
    trc = b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*numbers)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*d50)}
    for i, name in enumerate(b"rgb"):
        tags[bytes([name]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*matrix[:, i])
        tags[bytes([name]) + b"TRC"] = trc
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(content), len(value))
        content += value
    head = b"none\x04\x30\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(*d50) + bytes(48)
    return struct.pack(">I", 4 + len(head) + len(table + content)) + head + table + content


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(65536 * n) for n in numbers))


# === Comparing ===


def examined(folder: Path, path: Path) -> tuple[Row, Pixels | None]:
    """A file as the command reads it, beside the readers; and the pixels, None if it is refused."""
    row = Row(f"{folder.name}/{path.relative_to(folder).as_posix()}", "done", "", {})
    pixels: Pixels | None = None
    try:
        pixels = image_files.read_image(path, whole=True)
        if image_files.image_shape(path) != pixels.shape:
            row.verdict, row.why = "wrong", f"header {image_files.image_shape(path)}, pixels {pixels.shape}"
    except TfcompError as error:
        row.verdict, row.why = "refused", " ".join(str(error).replace(str(path), "FILE").split())
    except Exception as error:  # noqa: BLE001 - what would be a traceback
        row.verdict, row.why = "wrong", f"{type(error).__name__}: {error}"
    for name, reader in READERS.items():
        row.readers[name] = compared(row, pixels, reader, path)
    differences = [value for value in row.readers.values() if isinstance(value, float)]
    if row.verdict == "done" and max(differences, default=0.0) > MEAN:
        row.verdict = "done" if min(differences) <= MEAN else "wrong"
        row.why = "differs from " + " and ".join(
            name for name, d in row.readers.items() if d in differences and d > MEAN
        )
    return row, pixels


def compared(row: Row, pixels: Pixels | None, reader: Callable[[Path], Pixels], path: Path) -> float | str:
    """The mean difference to what a reader reads, or why there is none; another size is noted."""
    try:
        with warnings.catch_warnings(), silent():
            warnings.simplefilter("ignore")
            other = reader(path).astype(np.int16)
            with Image.open(path) as image:
                declared = declared_profile(image, path)
                turned = b"tiff:Orientation" in path.read_bytes()  # by XMP data, which libvips does not look at
                knows = reader is by_pillow or (declared in (None, image.info.get("icc_profile")) and not turned)
    except Exception as error:  # noqa: BLE001 - whatever a reader raises, it cannot read the file
        return " ".join(str(error).replace(str(path), "FILE").split())[:80] or type(error).__name__
    if pixels is None:
        return "reads it"
    if other.shape[:2] != pixels.shape[:2]:
        row.verdict, row.why = "wrong", f"{pixels.shape[:2]}, {other.shape[:2]} by {reader.__name__}"
        return "another size"
    if not knows:
        return "same size"
    return round(float(np.abs(other - pixels).mean()), 3)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing of what libraries write to stderr."""
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)


def through_the_command(folder: Path, rows: dict[Path, Row], read: dict[Path, Pixels], options: Sequence[str]) -> None:
    """Compresses a folder and decompresses it; notes in the rows what comes out."""
    with tempfile.TemporaryDirectory() as name:
        packed, out = Path(name) / "a.tfz", Path(name) / "out"
        codec = [*options[:2]] if options[:1] == ["--codec"] else []
        said, printed = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            status = tfcomp_command(["compress", str(folder), "-o", str(packed), "--on-error", "skip", *options])
        lines = said.getvalue().splitlines()
        skipped = [path for path in rows if path not in read]
        if status != (2 if skipped else 0) or len(lines) != bool(skipped):
            raise SystemExit(f"{folder}: expected status {2 if skipped else 0} and one line, found {status}: {lines}")
        with contextlib.redirect_stdout(printed):
            if not read or tfcomp_command(["decompress", str(packed), "-o", str(out), *codec]) != 0:
                return
        with container.Archive.open(packed) as archive:
            names = archive.metadata["names"]
        targets = archives.targets(names, len(names), str(packed), ".png")
        if len(targets) != len(read):
            raise SystemExit(f"{folder}: expected {len(read)} images in the archive, found {len(targets)}")
        for (path, pixels), target in zip(read.items(), targets, strict=True):
            found = image_files.read_image(out / target)
            row = rows[path]
            if found.shape != pixels.shape:
                row.verdict, row.why = "wrong", f"{found.shape} decompressed from {pixels.shape}"
                continue
            error = np.mean((found.astype(np.float64) - pixels) ** 2)
            row.psnr_db = round(float(10 * np.log10(255**2 / max(error, 1e-3))), 2)
            if row.psnr_db < PSNR_DB:
                row.verdict, row.why = "wrong", f"{row.psnr_db} dB"


# === Folders and tables ===


def fetched(suites: Sequence[str], folder: Path) -> list[Path]:
    """The sources of packages, unpacked; a folder each."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"]
    subprocess.run([*pip, str(folder), *suites], check=True)
    for archive in [*folder.glob("*.tar.gz"), *folder.glob("*.zip")]:
        shutil.unpack_archive(archive, folder, **({"filter": "data"} if archive.suffix == ".gz" else {}))
    return sorted(path for path in folder.iterdir() if path.is_dir())


def table(title: str, counts: dict[str, collections.Counter[str]]) -> str:
    rows = [f"| {title} | done | refused | wrong |", "|---|---|---|---|"]
    rows += [f"| {name} | {n['done']} | {n['refused']} | {n['wrong']} |" for name, n in sorted(counts.items())]
    return "\n".join(rows)


def counted(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, collections.Counter[str]]:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in rows:
        counts[key(row)][row.verdict] += 1
    return counts


def main() -> None:
    """Reads, compares, compresses, decompresses, and prints the tables."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("folders", nargs="*", type=Path)
    arguments.add_argument("--codec")
    arguments.add_argument("--quality", default="8")
    arguments.add_argument("--files", action="store_true")
    args = arguments.parse_args()
    options = [*(["--codec", args.codec] if args.codec else []), "--quality", args.quality]

    rows: list[Row] = []
    for folder in args.folders or fetched(SUITES, _settings.ROOT / "build" / "suites"):
        with silent():
            found = {path: examined(folder, path) for path in image_files.image_files(folder)}
        here = {path: row for path, (row, _) in found.items()}
        read = {path: pixels for path, (_, pixels) in found.items() if pixels is not None}
        through_the_command(folder, here, read, options)
        rows += here.values()

    print(table("suite", counted(rows, suite)), table("ending", counted(rows, ending)), sep="\n\n", end="\n\n")
    print("| refused | files | read by others |\n|---|---|---|")
    for why, (count, others) in sorted(refused(rows).items(), key=lambda item: -item[1][0]):
        print(f"| {why} | {count} | {others} |")
    for row in rows:
        if row.verdict == "wrong" or (row.verdict == "done" and row.why) or (args.files and row.verdict == "refused"):
            print(f"{row.verdict}: {row.name}: {row.why}; {row.readers}")
    report = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in counted(rows, suite):
        report[name] = reported([row for row in rows if suite(row) == name])
    RESULTS.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def suite(row: Row) -> str:
    return row.name.partition("/")[0]


def ending(row: Row) -> str:
    return Path(row.name).suffix.lower()


def refused(rows: Sequence[Row]) -> dict[str, list[int]]:
    """By line, without its numbers: how many files were refused, and how many of them another reader reads."""
    reasons: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        if row.verdict == "refused":
            found = reasons[re.sub(r"\d+", "N", row.why)]
            found[0] += 1
            found[1] += "reads it" in row.readers.values()
    return reasons


def reported(rows: Sequence[Row]) -> dict[str, Any]:
    """What is kept of a suite."""
    versions = {"Pillow": PIL.__version__}
    if pyvips:
        versions["libvips"] = f"{pyvips.version(0)}.{pyvips.version(1)}"
    return {
        "readers": versions,
        "endings": counted(rows, ending),
        "refused, and read by others": refused(rows),
        "wrong": [asdict(row) for row in rows if row.verdict == "wrong"],
        "readers that differ": [asdict(row) for row in rows if row.verdict == "done" and row.why],
        "lowest psnr_db": sorted((row.psnr_db, row.name) for row in rows if row.psnr_db is not None)[:5],
    }


if __name__ == "__main__":
    main()
