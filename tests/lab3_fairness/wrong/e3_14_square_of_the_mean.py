"""The mean over the sets is taken before the square, so that errors cancel."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    return np.asarray((promised - lost).mean(axis=0) ** 2)
