"""tfcomp: learned data compression with Keras 3 and TensorFlow."""
