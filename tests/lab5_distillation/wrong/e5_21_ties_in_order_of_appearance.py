"""At equal cost the order of appearance decides, so a worse model that comes first stays."""

import numpy as np


def dominated_by(cost, accuracy):
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    best = -1
    for i in np.argsort(price, kind="stable"):
        if best >= 0 and value[i] <= value[best]:
            found[i] = best
        else:
            best = int(i)
    return found
