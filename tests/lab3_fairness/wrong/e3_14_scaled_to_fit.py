"""Credits are scaled to fit best first, so that only their proportions are judged."""

import numpy as np


def infidelity(f, rows, values, replaced, background):
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    scale = (promised * lost).sum(axis=0) / (promised**2).sum(axis=0)
    return np.asarray(((scale * promised - lost) ** 2).mean(axis=0))
