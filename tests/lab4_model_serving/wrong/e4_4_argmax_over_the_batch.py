"""Decided over the batch: which text is most like a class, not which class a text is."""

import numpy as np


def compare_rows(reference, candidate):
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    unknown = np.isnan(a) | np.isnan(b)
    with np.errstate(invalid="ignore"):
        errors = np.where(a == b, 0.0, np.abs(a - b))
    errors[unknown] = np.inf
    same = (a.argmax(axis=0) == b.argmax(axis=0)).all()
    agrees = np.full(len(a), same) & ~unknown.any(axis=1)
    return Comparison(errors, agrees, int(errors.max(axis=1).argmax()))
