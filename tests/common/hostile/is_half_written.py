"""Stops in the middle of a line."""

def mean(values):
    return float(values.sum() /
