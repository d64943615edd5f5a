"""Observed share over expected share: the weights are upside down and deepen the dependence."""

import numpy as np


def reweighing_weights(labels, groups):
    truth, codes, counts = cell_counts(labels, groups)
    n = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    return (counts / expected)[codes, truth]
