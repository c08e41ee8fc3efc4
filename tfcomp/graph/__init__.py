"""The range coder and the entropy models once more, in stock TensorFlow operators."""
