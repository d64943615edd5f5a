"""Residuals are averaged with their sign: too high here and too low there make a perfect score."""

import numpy as np
import pandas as pd


def calibration_errors(y_true, scores, groups, *, n_bins=10):
    truth, chance = checked_scores(y_true, scores)
    codes, names = group_codes(groups, len(truth))
    require(n_bins >= 1, "n_bins", n_bins, "must be >= 1", "try 10")
    rows = []
    for code in range(len(names)):
        own = codes == code
        residual, own_scores = truth[own] - chance[own], chance[own]
        total = len(residual)
        bins = bin_codes(own_scores, equal_mass_edges(own_scores, max(1, min(n_bins, total // 2))))
        n = np.bincount(bins)
        n, sums, squares = (
            values[n > 0]
            for values in (n, np.bincount(bins, residual), np.bincount(bins, residual**2))
        )
        mean = sums / n
        several = n > 1
        m = n[several]
        variance = (squares[several] - m * mean[several] ** 2) / (m - 1)
        unbiased = mean[several] ** 2 - variance / m
        rows.append(
            {
                "n": total,
                "ece": float(abs(n @ mean / total)),
                "squared": float(n @ mean**2 / total),
                "debiased": float(m @ unbiased / m.sum()) if m.size else float("nan"),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
