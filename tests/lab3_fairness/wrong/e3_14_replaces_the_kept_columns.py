"""The mask is applied the wrong way round: the other columns are replaced."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, ~replaced)
    promised = (replaced * values).sum(axis=-1)
    return np.asarray(((promised - lost) ** 2).mean(axis=0))
