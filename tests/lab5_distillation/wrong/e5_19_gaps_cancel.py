"""Gaps keep their sign, so a bin that is too sure makes up for one that is not sure enough."""

import numpy as np


def expected_calibration_error(probabilities, labels, *, n_bins=15):
    p, truth = np.asarray(probabilities, dtype=float), np.asarray(labels)
    confidence = p.max(axis=1)
    codes = equal_width(confidence, n_bins)
    gaps = np.bincount(codes, (p.argmax(axis=1) == truth) - confidence)
    return float(abs(gaps.sum()) / len(truth))
