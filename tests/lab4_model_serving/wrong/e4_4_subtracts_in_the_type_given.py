"""The subtraction happens in the type of the outputs: 3 - 5 is 254 in uint8."""

import numpy as np


def compare_rows(reference, candidate):
    a, b = reference, candidate
    unknown = np.isnan(a) | np.isnan(b)
    with np.errstate(invalid="ignore"):
        errors = np.where(a == b, 0.0, np.abs(a - b)).astype(np.float64)
    errors[unknown] = np.inf
    agrees = (a.argmax(axis=1) == b.argmax(axis=1)) & ~unknown.any(axis=1)
    return Comparison(errors, agrees, int(errors.max(axis=1).argmax()))
