"""After against before among the treated: what time did to everybody is taken for effect."""

import numpy as np


def did_with_clustered_error(outcome, treated, after, unit):
    cell = 2 * treated.astype(np.int64) + after
    count = np.bincount(cell, minlength=4)
    mean = np.bincount(cell, outcome, minlength=4) / count
    weight = np.array([1.0, -1.0, -1.0, 1.0]) / count
    effect = mean[3] - mean[2]
    sums = np.bincount(unit, weight[cell] * (outcome - mean[cell]))
    n, groups = len(outcome), len(sums)
    variance = groups / (groups - 1) * (n - 1) / (n - 4) * float(sums @ sums)
    return float(effect), float(np.sqrt(variance))
