"""Entropy models: from integer latents to bytes and back, in NumPy alone.

`static.StaticModel` codes latents of one shape, `sample.SampleModel` samples of a posterior, which the encoder finds by
`candidate_search`. `context.ContextModel` and `tiles` code those of any size, and
`payloads` puts the tiles of an item together. `model_set` reads and writes the models of all qualities.
"""
