"""The middle of the bin stands for the mean confidence in it."""

import numpy as np


def expected_calibration_error(probabilities, labels, *, n_bins=15):
    p, truth = np.asarray(probabilities, dtype=float), np.asarray(labels)
    codes = equal_width(p.max(axis=1), n_bins)
    middle = (codes + 0.5) / n_bins
    gaps = np.bincount(codes, (p.argmax(axis=1) == truth) - middle)
    return float(np.abs(gaps).sum() / len(truth))
