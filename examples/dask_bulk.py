"""Compresses a folder of images with Dask, a shard at a time.

    python examples/dask_bulk.py PHOTOS SHARDS [ARTIFACT]

The codec goes to the workers by pickle. Each task is `tfcomp.bulk.compress` of some of the files into a folder of its
own, by one process: done again after a kill, it goes on from there, and so does the whole. On a cluster, begin with
``dask.distributed.Client(address)``, and give folders that all its machines see, such as ``s3://bucket/photos``.
"""

from __future__ import annotations

import sys

import dask

import tfcomp
from tfcomp import bulk

FILES = 1000
"""Number of files of a task."""


def compress(paths: list[str], out: str, codec: tfcomp.Codec) -> bulk.Report:
    """One task: some files into shards."""
    return bulk.compress(paths, out, codec=codec, shard_size=100, on_error="skip", processes=1)


def main(photos: str, shards: str, artifact: str | None = None) -> bulk.Report:
    """Compresses all images of a folder; returns what the shards hold."""
    codec = dask.delayed(tfcomp.Codec.load(artifact, threads=1))  # sent once to each worker
    files = list(bulk.files(photos))
    tasks = [
        dask.delayed(compress)(files[start : start + FILES], f"{shards}/part-{start // FILES:06}", codec)
        for start in range(0, len(files), FILES)
    ]
    return sum(dask.compute(*tasks, scheduler="processes"), bulk.Report())


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
