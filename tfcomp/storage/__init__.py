"""Files: the ``.tfz`` container, image files, and writing whole or not at all."""
