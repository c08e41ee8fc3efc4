"""The runtimes of a codec's two networks."""
