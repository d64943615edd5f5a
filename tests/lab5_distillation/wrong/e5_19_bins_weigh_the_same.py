"""Every occupied bin counts the same, however few texts it holds."""

import numpy as np


def expected_calibration_error(probabilities, labels, *, n_bins=15):
    p, truth = np.asarray(probabilities, dtype=float), np.asarray(labels)
    confidence = p.max(axis=1)
    codes = equal_width(confidence, n_bins)
    gaps = np.bincount(codes, (p.argmax(axis=1) == truth) - confidence)
    n = np.bincount(codes)
    return float(np.abs(gaps[n > 0] / n[n > 0]).mean())
