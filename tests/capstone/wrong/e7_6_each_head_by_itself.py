"""Corrects each head by its own score, as if all its negatives were sampled; a hide is not."""

import numpy as np


def corrected_heads(probabilities, share):
    check_share(share)
    if ANY not in probabilities:
        raise InputError(f"heads {sorted(probabilities)} lack {ANY!r}, by which rows were kept")
    return {head: np.minimum(corrected(p, share), 1.0) for head, p in probabilities.items()}
