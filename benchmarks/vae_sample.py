"""The VAE's own sample as bytes: price and distribution of coded samples, beside the dithered codec and the mean.

    python benchmarks/vae_sample.py [--data-dir FOLDER] [--parts PART ...]

MNIST, grey values as probabilities of a Bernoulli likelihood; dense networks 784-512-256-K and their mirror image.
Parts, each of which keeps its rows in the results and leaves out those that are there:

- ``models``: for each number of latents and beta, on 2,000 test images: the payload of the posterior's sample
  (``Codec.freeze(vae, train, latents="sample")``) beside the divergence, the negative evidence lower bound of decoded
  samples, over several seeds of the candidates, beside that of true ones, Kolmogorov-Smirnov tests of every active
  dimension with and without the margin, milliseconds an image, and the mean coded to the same PSNR.
- ``shared``: a VAE of a shared scale likewise, one posterior coded by dither and by candidates.
- ``methods``: importance sampling (Havasi et al. 2019) and ordered random coding (Theis and Yosri 2022) for several
  block sizes and margins, on 500 training images: what was chosen, was chosen here.

Trained models are kept in ``runs/vae_sample``. They see the 60,000 training images, and codecs are fitted to every
twentieth of these; of the test images, only the step that brings the mean to the sample's PSNR is found on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _settings
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import stats

from tfcomp import VAE, Codec, load_model
from tfcomp.entropy.candidate_search import divergence_bits, draws, search
from tfcomp.entropy.sample import UNIT, SampleModel
from tfcomp.errors import InputError
from tfcomp.freezing import posterior_blocks
from tfcomp.items import Images
from tfcomp.models.objective import LN2

RESULTS = _settings.RESULTS / "vae_sample.json"
RUNS = _settings.RUNS / "vae_sample"
SHAPE = (28, 28, 1)
BETAS = _settings.full_or((1.0, 4.0, 0.5), (1.0,))
LATENTS = _settings.full_or((32, 16, 64), (16,))
EPOCHS = _settings.full_or({1.0: 20, 4.0: 10, 0.5: 5}, {1.0: 2})
BATCH = 128
HELD_OUT = _settings.full_or(500, 200)
IMAGES = _settings.full_or(2000, 200)
TRUE_SAMPLES = 6
SEEDS = _settings.full_or(6, 2)
"""How many codecs, which differ by the seed of their candidates alone, the evidence is estimated with."""
METHODS = _settings.full_or([(bits, margin) for bits in (7.0, 14.0) for margin in (0, 3, 5)], [(9.0, 0), (9.0, 3)])
PARTS = ("methods", "models", "shared")

Array = NDArray[Any]


def kept(latents: int, beta: float, scale: str) -> Path:
    return RUNS / f"{scale}-{latents}-{beta:g}-{EPOCHS[beta]}.keras"


def trained(latents: int, beta: float, scale: str, images: Images) -> VAE:
    """The model of this setting; trained and kept if there is none."""
    path = kept(latents, beta, scale)
    if path.exists():
        return load_model(path)
    keras.utils.set_random_seed(0)
    model = VAE.dense(SHAPE, latents, beta=beta, scale=scale)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS[beta] * -(-len(images) // BATCH), alpha=0.01)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=0).batch(BATCH)
    start = time.perf_counter()
    logs: dict[str, Any] = model.fit(data.prefetch(8), epochs=EPOCHS[beta], verbose=0).history
    print(f"trained {path.name} in {time.perf_counter() - start:.0f} s: loss {logs['loss'][-1]:.2f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


# === Measures ===


def posterior_of(model: VAE, images: Images) -> tuple[Array, Array]:
    """Mean and deviation, float64 [N, latents]."""
    parts = [model.posterior(images[i : i + 500]) for i in range(0, len(images), 500)]
    mean, log_variance = (
        np.concatenate([np.asarray(p, np.float64) for p in heads]) for heads in zip(*parts, strict=True)
    )
    return mean, np.exp(log_variance / 2)


def in_whole_numbers(mean: Array, deviation: Array) -> NDArray[np.float32]:
    return (np.stack([mean, deviation], axis=1) * UNIT).astype(np.float32)


def distortion(model: VAE, images: Images, latents: Array) -> Array:
    """Binary cross-entropy of each image in nats, float64 [N]."""
    found = []
    for i in range(0, len(images), 500):
        pixels = model.decode(latents[i : i + 500].astype(np.float32))
        found.append(np.asarray(model.distortion_function(images[i : i + 500].astype(np.float32) / 255, pixels)))
    return np.concatenate(found).astype(np.float64)


def psnr_db(a: Images, b: Images) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(a.astype(np.float64) - b))))


def mean_bytes(payloads: list[bytes]) -> float:
    return sum(map(len, payloads)) / len(payloads)


def kolmogorov_smirnov(standardised: Array) -> dict[str, Any]:
    """Tests of each column against N(0, 1), and how many fail at 1 % as one of so many (Holm 1979)."""
    found = sorted(float(stats.kstest(column, "norm").pvalue) for column in standardised.T)
    holm = np.maximum.accumulate([(len(found) - rank) * p for rank, p in enumerate(found)])
    return {
        "dimensions": len(found),
        "below_1_percent": sum(p < 0.01 for p in found),
        "below_1_percent_holm": int(np.sum(holm < 0.01)),
        "least_p": found[0],
    }


def milliseconds(function: Callable[[], Any], count: int) -> float:
    """Processor time of one of so many images, in one run; with one thread, the time on one core."""
    start = time.process_time()
    function()
    return (time.process_time() - start) / count * 1e3


def at_psnr(model: VAE, train: Images, test: Images, target: float) -> float | None:
    """Mean bytes of the mean coded to a PSNR of the test images; None where no step reaches it."""
    try:
        codec = Codec.freeze(model, train, target_psnr_db=target)
        # The step is fitted to training images; one correction brings the test images to the target.
        found = psnr_db(test, codec.decompress(codec.compress(test)))
        codec = Codec.freeze(model, train, target_psnr_db=2 * target - found)
    except InputError as error:
        print(f"no mean at {target:.2f} dB: {error}")
        return None
    payloads = codec.compress(test)
    print(f"mean at {psnr_db(test, codec.decompress(payloads)):.2f} dB for {target:.2f}", flush=True)
    return mean_bytes(payloads)


# === Models ===


def of_input_scale(model: VAE, train: Images, test: Images) -> dict[str, Any]:
    codec = Codec.freeze(model, train, latents="sample")
    payloads = codec.compress(test)
    integers = codec.decode(payloads)
    mean, deviation = posterior_of(model, test)
    kl = divergence_bits(mean, deviation).sum(axis=1)
    of = codec.parts.quality().entropy
    assert isinstance(of, SampleModel)
    posterior, drawn = in_whole_numbers(mean, deviation), draws(of, test)

    def samples_of(other: SampleModel) -> Array:
        return other.integers(search(other, posterior, drawn)) / UNIT

    samples = [integers / UNIT, *(samples_of(replace(of, seed=seed)) for seed in range(1, SEEDS))]
    coded = np.mean([distortion(model, test, each) for each in samples], axis=0)
    rng = np.random.default_rng(0)
    true = [distortion(model, test, mean + deviation * rng.standard_normal(mean.shape)) for _ in range(TRUE_SAMPLES)]
    difference = coded - np.mean(true, axis=0)
    bound, bound_coded = (np.mean(d) + kl.mean() * LN2 for d in (true, coded))
    active = np.flatnonzero(model.active_dimensions(test))
    without = samples_of(replace(of, margin=0))
    reached = psnr_db(test, codec.decompress(payloads))
    rng = np.random.default_rng(1)
    return {
        "blocks": of.blocks,
        "kl_bits": kl.mean(),
        "sample_bits": 8 * mean_bytes(payloads),
        "limit_bits": 1.3 * kl.mean() + 8,
        "negative_elbo_nats": bound,
        "coded_negative_elbo_nats": bound_coded,
        "elbo_off_percent": 100 * (bound_coded / bound - 1),
        "distortion_off_nats": difference.mean(),
        "distortion_off_error_nats": difference.std() / np.sqrt(len(test)),
        "ks": kolmogorov_smirnov(((integers / UNIT - mean) / deviation)[:, active]),
        "ks_true": kolmogorov_smirnov(rng.standard_normal((len(test), len(active)))),
        "ks_without_margin": kolmogorov_smirnov(((without - mean) / deviation)[:, active]),
        "encode_ms": milliseconds(partial(codec.compress, test), len(test)),
        "sample_bytes": mean_bytes(payloads),
        "psnr_db": reached,
        "mean_bytes": at_psnr(model, train, test, reached),
    }


def of_shared_scale(model: VAE, train: Images, test: Images) -> dict[str, Any]:
    codec = Codec.freeze(model, train, latents="sample")
    payloads = codec.compress(test)
    reached = psnr_db(test, codec.decompress(payloads))
    kl = divergence_bits(*posterior_of(model, test)).sum(axis=1)
    of = posterior_blocks.fit(in_whole_numbers(*posterior_of(model, train)), train, 12, 0)
    candidates = of.encode(search(of, in_whole_numbers(*posterior_of(model, test)), draws(of, test)))
    # Decoding: one decoder, fed by either code, in turns.
    by_dither = codec.parts.quality().entropy
    turns = [
        [
            milliseconds(partial(coder.decode, made), len(test))
            for coder, made in ((of, candidates), (by_dither, payloads))
        ]
        for _ in range(7)
    ]
    return {
        "candidates_decode_us": 1e3 * float(np.median(turns, axis=0)[0]),
        "dithered_decode_us": 1e3 * float(np.median(turns, axis=0)[1]),
        "kl_bits": kl.mean(),
        "dithered_bytes": mean_bytes(payloads),
        "candidates_bytes": mean_bytes(candidates),
        "psnr_db": reached,
        "mean_bytes": at_psnr(model, train, test, reached),
    }


# === Methods ===


def entropy_bits(values: Array) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())


def importance_sampled(of: SampleModel, mean: Array, deviation: Array) -> tuple[float, Array]:
    """Bits, number of candidates under a table and index as it is, and the samples: one list, private randomness."""
    rng = np.random.default_rng(2)
    z, bits = np.zeros_like(mean), 0.0
    for block in range(of.blocks):
        at = np.flatnonzero((of.block == block) & (of.scored == 1))
        m, d = mean[:, at], deviation[:, at]
        counts_bits = np.clip(np.ceil(divergence_bits(m, d).sum(axis=1) + of.margin), 0, 20).astype(int)
        bits += counts_bits.mean() + entropy_bits(counts_bits)
        best, factors = np.full(len(m), -np.inf), np.concatenate([m / d**2, (1 - d**-2.0) / 2], axis=1)
        for begin in range(0, 1 << int(counts_bits.max()), 4096):
            own = np.flatnonzero(1 << counts_bits > begin)
            numbers = np.arange(begin, begin + 4096)
            c = of.integers_at(of.begins(np.uint32(0), numbers)[:, None], at[None]) / UNIT
            scores = factors[own] @ np.concatenate([c, c**2], axis=1).T + rng.gumbel(size=(len(own), 4096))
            scores[numbers >= 1 << counts_bits[own][:, None]] = -np.inf
            place = scores.argmax(axis=1)
            found = scores[np.arange(len(own)), place]
            better = found > best[own]
            best[own[better]] = found[better]
            z[np.ix_(own[better], at)] = c[place[better]]
    return bits, z


def methods(train: Images) -> list[dict[str, Any]]:
    """One model, several block sizes and margins."""
    latents, beta = LATENTS[0], 1.0
    model = trained(latents, beta, "input", train)
    held_out, some = train[-HELD_OUT:], train[:-HELD_OUT:20]
    mean, deviation = posterior_of(model, held_out)
    active = np.flatnonzero(model.active_dimensions(held_out))
    kl = divergence_bits(mean, deviation).sum(axis=1).mean()
    rows = []
    for block_bits, margin in METHODS:
        with patch.multiple(posterior_blocks, BLOCK_BITS=block_bits, MARGIN=margin):
            of = posterior_blocks.fit(in_whole_numbers(*posterior_of(model, some)), some, 12, 0)
        row: dict[str, Any] = {"block_bits": block_bits, "blocks": of.blocks, "margin": margin, "kl_bits": kl}
        start = time.process_time()
        names = search(of, in_whole_numbers(mean, deviation), draws(of, held_out))
        row["ordered_ms"] = (time.process_time() - start) / len(held_out) * 1e3
        row["ordered_bits"] = float(of.ideal_bits(names).mean())
        bits, z = importance_sampled(of, mean, deviation)
        row["importance_bits"] = bits
        for name, samples in (("ordered", of.integers(names) / UNIT), ("importance", z)):
            standardised = ((samples - mean) / deviation)[:, active]
            row[f"{name}_mean_square"] = float(np.mean(np.square(standardised)))
            row[f"{name}_ks"] = kolmogorov_smirnov(standardised)
        print(row, flush=True)
        rows.append(row)
    return rows


# === Tables ===


def table(results: dict[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [
        (
            "| latents, beta | blocks | KL, bits | sample, bits | 1.3 KL + 8 | bound off, % | distortion off, nats "
            "| KS below 1 % (Holm): coded, true, no margin | encode, ms | sample: bytes, dB | mean at that dB |"
        ),
        "|---|" + 10 * "---:|",
    ]
    for name, r in results.get("models", {}).items():
        kinds = [r[k] for k in ("ks", "ks_true", "ks_without_margin")]
        tests = ", ".join(f"{k['below_1_percent']} ({k['below_1_percent_holm']})" for k in kinds)
        lines.append(
            f"| {name} | {r['blocks']} | {r['kl_bits']:.1f} | {r['sample_bits']:.1f} | {r['limit_bits']:.1f} | "
            f"{r['elbo_off_percent']:.2f} | {r['distortion_off_nats']:.2f} ± {r['distortion_off_error_nats']:.2f} | "
            f"{tests} of {r['ks']['dimensions']} | {r['encode_ms']:.1f} | "
            f"{r['sample_bytes']:.2f}, {r['psnr_db']:.2f} | {shown(r['mean_bytes'])} |"
        )
    lines += [
        "",
        (
            "| shared scale: latents, beta | KL, bits | dithered: bytes, dB | by candidates | mean at that dB "
            "| decode: dithered, candidates, us |"
        ),
        "|---|" + 5 * "---:|",
    ]
    for name, r in results.get("shared", {}).items():
        lines.append(
            f"| {name} | {r['kl_bits']:.1f} | {r['dithered_bytes']:.2f}, {r['psnr_db']:.2f} | "
            f"{r['candidates_bytes']:.2f} | {shown(r['mean_bytes'])} | "
            f"{r['dithered_decode_us']:.1f}, {r['candidates_decode_us']:.1f} |"
        )
    lines += [
        "",
        "| block, bits | margin | ordered: bits, mean square, KS below 1 % | importance: the same | ordered, ms |",
        "|---:|---:|---:|---:|---:|",
    ]
    for r in results.get("methods", []):
        found = []
        for method in ("ordered", "importance"):
            tests = r[f"{method}_ks"]
            failed = f"{tests['below_1_percent']} of {tests['dimensions']}"
            found.append(f"{r[f'{method}_bits']:.1f}, {r[f'{method}_mean_square']:.3f}, {failed}")
        lines.append(f"| {r['block_bits']:g} | {r['margin']} | {' | '.join(found)} | {r['ordered_ms']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("TFDS_DATA_DIR"), help="of tensorflow-datasets")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="which to measure")
    parser.add_argument("--latents", nargs="*", type=int, default=LATENTS, help="which numbers of latents")
    parser.add_argument("--trained-only", action="store_true", help="leave out settings whose models are not trained")
    args = parser.parse_args()
    train, test = _settings.mnist(args.data_dir)
    test = test[:IMAGES]
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["setting"] = {
        "images": {"train": len(train), "test": len(test), "methods": HELD_OUT},
        "epochs": {f"beta {beta:g}": epochs for beta, epochs in EPOCHS.items()},
        "block_bits": posterior_blocks.BLOCK_BITS,
        "margin": posterior_blocks.MARGIN,
        "draw_bits": posterior_blocks.DRAW_BITS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }

    def save() -> None:
        RESULTS.write_text(json.dumps(results, indent=2, default=float) + "\n")

    if "methods" in args.parts and "methods" not in results:
        results["methods"] = methods(train)
        save()
    for part, scale, measure in (("models", "input", of_input_scale), ("shared", "shared", of_shared_scale)):
        rows: dict[str, Any] = results.setdefault(part, {})
        for beta, latents in itertools.product(BETAS, args.latents):
            name = f"{latents}, {beta:g}"
            if (
                part not in args.parts
                or name in rows
                or (args.trained_only and not kept(latents, beta, scale).exists())
            ):
                continue
            rows[name] = measure(trained(latents, beta, scale, train), train[::20], test)
            print(name, rows[name], flush=True)
            save()
    print(table(results))


if __name__ == "__main__":
    main()
