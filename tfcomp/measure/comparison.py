"""``tfcomp evaluate``: exported codecs beside classical ones on the same images; a table, a JSON and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfcomp import bundled
from tfcomp.errors import InputError, optional_import
from tfcomp.items import Images
from tfcomp.measure import classical, evaluate
from tfcomp.measure.evaluate import Point
from tfcomp.storage.writing import replacing_folder

if TYPE_CHECKING:
    from tfcomp.codec import Codec

REPORT = "evaluation.json"
PLOTS = [f"{name}.{suffix}" for name in ("rate_distortion", "ms_ssim") for suffix in ("png", "pdf")]
OURS = "tfcomp"
PACKAGES = (
    "tfcomp", "numpy", "tensorflow", "ai-edge-litert", "pillow", "pillow-jxl-plugin", "scipy", "zstandard", "brotli"
)  # fmt: skip


def chosen(against: str) -> tuple[list[str], list[str], list[str]]:
    """The image formats, general compressors and bundled codecs of a list with commas.

    Raises:
        InputError: if the list is empty or has an unknown name.
        MissingDependencyError: if this installation cannot write one of the formats.
    """
    names = list(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    every = [*classical.FORMATS, *classical.COMPRESSORS, *bundled.folders()]
    unknown = [name for name in names if name not in every]
    if unknown or not names:
        known = ", ".join(every)
        raise InputError(f"expected some of {known} to compare with, found {repr(unknown[0]) if unknown else 'none'}")
    formats = [name for name in names if name in classical.FORMATS]
    for name in formats:
        classical.require(name)
    return formats, [n for n in names if n in classical.COMPRESSORS], [n for n in names if n in bundled.folders()]


def run(
    codecs: Mapping[str, Codec],
    test: Images | Sequence[Images],
    data: str,
    against: str,
    out: str | None,
    count: int,
    rivals: Mapping[str, Codec],
) -> None:
    """Measure and print; with ``out`` also write ``evaluation.json`` and plots as PNG and PDF.

    Args:
        codecs: codecs by name; several make one curve.
        test: uint8 [N, H, W, C], or, for codecs of any size, a list of [H, W, C] whose shapes may differ.
        data: name of the images in the report.
        against: see `chosen`.
        out: folder to write; None for the table alone.
        count: largest number of images, which are spread evenly over ``test``.
        rivals: the bundled codecs in ``against``, by name.
    """
    formats, compressors, _ = chosen(against)
    if out:
        with optional_import():
            import_module("matplotlib")  # if it is missing, fail before the work
    some = [test[i] for i in np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)]
    shapes = sorted({image.shape for image in some})
    images = np.stack(some) if len(shapes) == 1 else some
    sizes = str(shapes[0]) if len(shapes) == 1 else f"{len(shapes)} sizes"
    print(f"{len(images)} of the {len(test)} test images of {data}, {sizes}, uint8")

    curves, lossless = measure(codecs, images, formats, compressors, rivals)
    ours = curves[OURS]
    rates = bd_rates(curves)
    for point in ours:
        print(f"\n{evaluate.table([point, *equals(curves, point), *lossless])}")
    for title, percent in rates.items():
        print(f"\nBD-rate against {title}: {percent}" + (" %" if isinstance(percent, float) else ""))
    if not out:
        return
    report = {
        **evaluate.provenance(PACKAGES),
        "codecs": {name: codec.fingerprint for name, codec in codecs.items()},
        "data": data,
        "images": len(images),
        "image_shapes": shapes,
        "curves": {title: [point.as_dict() for point in points] for title, points in curves.items()},
        "at_equal_psnr": {p.codec: [q.as_dict() for q in equals(curves, p)] for p in ours},
        "bd_rate_percent_tfcomp_against": rates,
        "lossless": [point.as_dict() for point in lossless],
    }
    with replacing_folder(out, REPORT, own=PLOTS) as folder:
        (folder / REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        draw(curves, folder)
    print(f"\n{out}: {REPORT} and plots")


def measure(
    codecs: Mapping[str, Codec],
    images: Images | Sequence[Images],
    formats: Sequence[str],
    compressors: Sequence[str],
    rivals: Mapping[str, Codec],
) -> tuple[dict[str, list[Point]], list[Point]]:
    """The lossy curves by title, tfcomp's first, and the lossless points; with MS-SSIM if all images are large."""
    large = min(min(image.shape[:2]) for image in images) >= evaluate.MS_SSIM_SIDE
    structural = large and find_spec("tensorflow") is not None
    ours = [
        evaluate.measure(
            codec, images, OURS if len(codecs) == 1 else f"{OURS}, {Path(name).name}", structural=structural
        )
        for name, codec in codecs.items()
    ]
    curves = {OURS: ours}
    for name, rival in rivals.items():
        numbers = range(1, rival.qualities + 1)
        points = [evaluate.measure(rival, images, name, structural=structural, quality=n) for n in numbers]
        curves[f"the bundled codec {name}"] = points
    for name in formats:
        points = classical.curve(images, name, structural=structural)
        if points:
            curves[classical.FORMATS[name].title] = points
    return curves, [*classical.lossless(images, formats), *classical.general_compressors(images, compressors)]


def equals(curves: dict[str, list[Point]], ours: Point) -> list[Point]:
    """Each other curve at the PSNR of a point of tfcomp, or, out of its reach, its smallest or best point."""
    matches = []
    for title, curve in curves.items():
        points = evaluate.frontier(curve) if title != OURS else []
        if not points:
            continue
        if ours.psnr_db < points[0].psnr_db:
            matches.append(Point(f"{title}, its smallest", points[0].bytes_per_image, points[0].psnr_db))
        elif ours.psnr_db > points[-1].psnr_db:
            matches.append(Point(f"{title}, its best", points[-1].bytes_per_image, points[-1].psnr_db))
        else:
            needed = evaluate.bytes_at(points, ours.psnr_db)
            matches.append(Point(f"{title}, at this PSNR", needed, ours.psnr_db))
    return matches


def bd_rates(curves: dict[str, list[Point]]) -> dict[str, float | str]:
    """Bjontegaard rate difference in percent against each other curve, or why there is none; {} for few points."""
    if len(evaluate.frontier(curves[OURS])) < evaluate.POINTS:
        return {}
    rates: dict[str, float | str] = {}
    for title, points in curves.items():
        if title != OURS:
            try:
                rates[title] = round(evaluate.bd_rate(points, curves[OURS]), 2)
            except InputError as error:
                rates[title] = str(error)
    return rates


def draw(curves: dict[str, list[Point]], folder: Path) -> None:
    """Plots the curves as PNG and PDF; MS-SSIM, if it was measured, in decibels, as papers show it."""
    from tfcomp.measure import plots

    figures = {
        "rate_distortion": ("PSNR in dB", {t: [(p.bytes_per_image, p.psnr_db) for p in c] for t, c in curves.items()})
    }
    if all(point.ms_ssim is not None for curve in curves.values() for point in curve):

        def decibels(similarity: float | None) -> float:
            return -10 * math.log10(max(1e-6, 1 - (similarity or 0.0)))

        figures["ms_ssim"] = (
            "MS-SSIM in dB, -10 log10(1 - MS-SSIM)",
            {t: [(p.bytes_per_image, decibels(p.ms_ssim)) for p in c] for t, c in curves.items()},
        )
    for name, (quality, lines) in figures.items():
        figure = plots.rate_distortion(lines, quality=quality, logarithmic=True)
        figure.savefig(folder / f"{name}.png", dpi=200)
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
