"""Only selection rates are bounded: equal selection, while the odds may become unequal."""

import numpy as np


def relaxed_odds_program(positives, negatives, *, dp_bound, eo_bound):
    n_groups, n_bins = positives.shape
    everybody = float(positives.sum() + negatives.sum())
    gain = ((positives - negatives) / everybody).ravel()
    constant = float(negatives.sum()) / everybody
    selected = positives + negatives
    shares = selected / selected.sum(axis=1, keepdims=True)
    rows, limits = [], []
    for high in range(n_groups):
        for low in range(n_groups):
            if high != low:
                row = np.zeros((n_groups, n_bins))
                row[high], row[low] = shares[high], -shares[low]
                rows.append(row.ravel())
                limits.append(dp_bound)
    return LinearProgram(constant, gain, np.array(rows), np.array(limits))
