"""Models that are equal in both stay on the frontier together."""

import numpy as np


def dominated_by(cost, accuracy):
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    best = -1
    for i in np.lexsort((-value, price)):
        equal = best >= 0 and value[i] == value[best] and price[i] == price[best]
        if best >= 0 and value[i] <= value[best] and not equal:
            found[i] = best
        elif not equal:
            best = int(i)
    return found
