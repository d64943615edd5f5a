"""All cells weigh the same: independent, but groups of equal size and half of them positive."""

import numpy as np


def reweighing_weights(labels, groups):
    truth, codes, counts = cell_counts(labels, groups)
    return (counts.sum() / counts.size / counts)[codes, truth]
