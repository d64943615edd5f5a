"""The first model that dominates is named, which may itself be dominated."""

import numpy as np


def dominated_by(cost, accuracy):
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    for i in range(len(price)):
        for j in range(len(price)):
            better = value[j] > value[i] or price[j] < price[i] or j < i
            if price[j] <= price[i] and value[j] >= value[i] and better:
                found[i] = j
                break
    return found
