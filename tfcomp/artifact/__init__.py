"""The artifact folder: what it holds, how it is written, read and served."""
