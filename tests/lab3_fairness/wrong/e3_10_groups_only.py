"""The groups are balanced and the labels in them are not: the dependence is untouched."""

import numpy as np


def reweighing_weights(labels, groups):
    truth, codes, counts = cell_counts(labels, groups)
    return (counts.sum() / len(counts) / counts.sum(axis=1))[codes]
