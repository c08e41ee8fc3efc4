"""Where the two networks of a codec run."""
