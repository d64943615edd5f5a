"""Only a model that is both cheaper and more accurate dominates."""

import numpy as np


def dominated_by(cost, accuracy):
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    for i in range(len(price)):
        over = np.flatnonzero((price < price[i]) & (value > value[i]))
        if len(over):
            found[i] = min(over, key=lambda j: (-value[j], price[j], j))
    return found
