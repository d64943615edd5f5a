"""The weight multiplies relevance and not likeness: more diversity asked for, less delivered."""

from capstone.diversity import *


def mmr(relevance, vectors, k, weight):
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    rows, directions = np.empty(k, dtype=np.intp), unit(vectors)
    penalty = np.empty(k)
    price = weight / (1 - weight)
    left = weight * np.array(relevance, dtype=np.float64)
    nearest = np.zeros(len(left))
    for step in range(k):
        row = int((left - (1 - weight) * nearest).argmax())
        rows[step], penalty[step] = row, price * nearest[row]
        left[row] = -np.inf
        np.maximum(nearest, directions @ directions[row], out=nearest)
    return Picks(rows, penalty)
