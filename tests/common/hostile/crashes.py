"""Overflows the C stack: a segmentation fault."""

import sys

sys.setrecursionlimit(10**9)


def mean(values):
    deep = []
    for _ in range(10**6):
        deep = [deep]
    return hash(repr(deep)) + eval("(" * 10 + "mean(values)" + ")" * 10)
