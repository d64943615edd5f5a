"""TPR and FPR of a group are divided by the positives and negatives of everybody."""

import numpy as np


def relaxed_odds_program(positives, negatives, *, dp_bound, eo_bound):
    n_groups, n_bins = positives.shape
    everybody = float(positives.sum() + negatives.sum())
    gain = ((positives - negatives) / everybody).ravel()
    constant = float(negatives.sum()) / everybody
    selected = positives + negatives
    rates = (
        (selected / selected.sum(axis=1, keepdims=True), dp_bound),
        (positives / positives.sum(), eo_bound),
        (negatives / negatives.sum(), eo_bound),
    )
    rows, limits = [], []
    for shares, bound in rates:
        for high in range(n_groups):
            for low in range(n_groups):
                if high != low:
                    row = np.zeros((n_groups, n_bins))
                    row[high], row[low] = shares[high], -shares[low]
                    rows.append(row.ravel())
                    limits.append(bound)
    return LinearProgram(constant, gain, np.array(rows), np.array(limits))
