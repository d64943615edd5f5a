"""The mean absolute error, in other units and kinder to large errors."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    return np.asarray((np.abs(promised - lost)).mean(axis=0))
