"""Cost is sorted the wrong way: the largest model dominates."""

import numpy as np


def dominated_by(cost, accuracy):
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    best = -1
    for i in np.lexsort((-value, -price)):
        if best >= 0 and value[i] <= value[best]:
            found[i] = best
        else:
            best = int(i)
    return found
