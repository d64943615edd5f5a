"""Applies the sampling a second time instead of undoing it: p / (p + r (1 - p)) raises scores."""

import numpy as np


def corrected_heads(probabilities, share):
    check_share(share)
    if ANY not in probabilities:
        raise InputError(f"heads {sorted(probabilities)} lack {ANY!r}, by which rows were kept")
    anything = np.asarray(probabilities[ANY], dtype=np.float64)
    part = 1 / (anything + share * (1 - anything))
    return {
        head: np.minimum(np.asarray(p, dtype=np.float64) * part, 1.0)
        for head, p in probabilities.items()
    }
