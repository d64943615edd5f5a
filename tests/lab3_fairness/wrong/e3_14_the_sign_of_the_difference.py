"""The output's change is taken as "after minus before", while credits say what was there."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    return np.asarray(((promised + lost) ** 2).mean(axis=0))
