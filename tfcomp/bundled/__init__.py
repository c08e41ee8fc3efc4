"""Artifacts that come with the package, a folder each; `artifact.reading` finds them."""
