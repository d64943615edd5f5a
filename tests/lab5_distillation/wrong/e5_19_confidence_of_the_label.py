"""The confidence is the probability of the label, not that of the answer."""

import numpy as np


def expected_calibration_error(probabilities, labels, *, n_bins=15):
    p, truth = np.asarray(probabilities, dtype=float), np.asarray(labels)
    confidence = p[np.arange(len(truth)), truth]
    codes = equal_width(confidence, n_bins)
    gaps = np.bincount(codes, (p.argmax(axis=1) == truth) - confidence)
    return float(np.abs(gaps).sum() / len(truth))
