"""Measures of codecs, other formats to compare with, and plots."""
