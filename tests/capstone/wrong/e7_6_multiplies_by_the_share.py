"""Multiplies by the share: nearly right for rare events, half of the truth for likely ones."""

import numpy as np


def corrected_heads(probabilities, share):
    check_share(share)
    if ANY not in probabilities:
        raise InputError(f"heads {sorted(probabilities)} lack {ANY!r}, by which rows were kept")
    return {head: share * np.asarray(p, dtype=np.float64) for head, p in probabilities.items()}
