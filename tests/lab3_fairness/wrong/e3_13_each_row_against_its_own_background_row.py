"""Row i is mixed with background row i alone, not with all of them."""

from math import factorial

import numpy as np


def exact_shapley(f, rows, background):
    explained, others = checked_rows(rows, background)
    n, d = explained.shape
    inside = coalitions(d)
    size = inside.sum(axis=1)
    weight = np.array([factorial(s) * factorial(d - s - 1) / factorial(d) for s in range(d)])
    values = np.empty((n, d))
    for number, row in enumerate(explained):
        mixed = np.where(inside, row, others[number % len(others)])
        earned = evaluate(f, mixed)
        for j in range(d):
            without = np.flatnonzero(~inside[:, j])
            values[number, j] = weight[size[without]] @ (earned[without + 2**j] - earned[without])
    return values
