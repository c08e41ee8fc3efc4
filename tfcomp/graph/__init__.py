"""The range coder and the entropy models once more, in stock TensorFlow operators.

`messages.GraphCoder` codes latents of one shape, `sample_coder.SampleCoder` samples of a posterior, and
`any_size.AnySizeGraph` items of any size.
"""
