"""Every row counts as an independent unit, so what a unit has in common is not added up."""

import numpy as np


def did_with_clustered_error(outcome, treated, after, unit):
    cell = 2 * treated.astype(np.int64) + after
    count = np.bincount(cell, minlength=4)
    mean = np.bincount(cell, outcome, minlength=4) / count
    weight = np.array([1.0, -1.0, -1.0, 1.0]) / count
    effect = (mean[3] - mean[2]) - (mean[1] - mean[0])
    terms = weight[cell] * (outcome - mean[cell])
    n = len(outcome)
    return float(effect), float(np.sqrt(n / (n - 4) * (terms @ terms)))
