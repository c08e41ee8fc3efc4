"""The pipelines of a codec: items of one shape in batches, rounded or sampled; items of any size in tiles."""

from __future__ import annotations

from tfcomp.entropy.sample import SampleModel
from tfcomp.parts import Parts
from tfcomp.sampled import SampledPipeline
from tfcomp.tiled import TiledPipeline
from tfcomp.uniform import UniformPipeline

Pipeline = TiledPipeline | UniformPipeline
"""From items to payloads and back; arrays for items of one shape, lists for items of any size."""


def pipeline_of(parts: Parts) -> Pipeline:
    """The pipeline for a codec's items."""
    if parts.item.any_size:
        return TiledPipeline(parts)
    return SampledPipeline(parts) if isinstance(parts.quality().entropy, SampleModel) else UniformPipeline(parts)
