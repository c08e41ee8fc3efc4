"""Compresses a folder of images with Ray, a shard at a time.

    python examples/ray_bulk.py PHOTOS SHARDS [ARTIFACT]

The codec lies once in Ray's object store, and goes from there to each worker. Each task is `tfcomp.bulk.compress` of
some of the files into a folder of its own, by one process: done again after a kill, it goes on from there, and so does
the whole; a task whose worker is lost is tried again by Ray. On a cluster, ``ray.init("auto")``, and folders that all
its machines see, such as ``s3://bucket/photos``.
"""

from __future__ import annotations

import sys

import ray

import tfcomp
from tfcomp import bulk

FILES = 1000
"""Number of files of a task."""


@ray.remote(num_cpus=1, max_retries=3)
def compress(paths: list[str], out: str, codec: tfcomp.Codec) -> bulk.Report:
    """One task: some files into shards."""
    return bulk.compress(paths, out, codec=codec, shard_size=100, on_error="skip", processes=1)


def main(photos: str, shards: str, artifact: str | None = None) -> bulk.Report:
    """Compresses all images of a folder; returns what the shards hold."""
    codec = ray.put(tfcomp.Codec.load(artifact, threads=1))
    files = list(bulk.files(photos))
    tasks = [
        compress.remote(files[start : start + FILES], f"{shards}/part-{start // FILES:06}", codec)
        for start in range(0, len(files), FILES)
    ]
    return sum(ray.get(tasks), bulk.Report())


if __name__ == "__main__":
    ray.init()
    print(main(*sys.argv[1:]))
