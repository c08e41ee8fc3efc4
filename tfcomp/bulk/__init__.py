"""Any number of images to numbered ``.tfz`` files and back: resumed after a kill, here or in a bucket.

`compress` writes shards, `decompress` reads them, `items` lists their images, `merge` makes one file of them, and
`files` lists the image files of a folder. On an existing engine `tfcomp.beam` makes the same payloads.
"""

from __future__ import annotations

from tfcomp.bulk.compressing import compress
from tfcomp.bulk.decompressing import decompress
from tfcomp.bulk.inputs import files
from tfcomp.bulk.listing import Entry, items, merge
from tfcomp.bulk.shards import Report

__all__ = ["Entry", "Report", "compress", "decompress", "files", "items", "merge"]
