"""Leaves the function out."""

def average(values):
    return sum(values) / len(values)
