"""The credits are not multiplied by the perturbation: all of them are promised for any set."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (np.ones_like(replaced) * values).sum(axis=-1)
    return np.asarray(((promised - lost) ** 2).mean(axis=0))
