"""From a trained model to a codec: quantization steps and integer tables."""
