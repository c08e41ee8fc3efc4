"""Photographs of any size: a trained codec that comes with the package. See `tfcomp.photographs.codec`."""
