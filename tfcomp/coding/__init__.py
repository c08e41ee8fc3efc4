"""Integers to bytes and back, in NumPy alone: frequency tables, the range coder, variable-length integers."""
