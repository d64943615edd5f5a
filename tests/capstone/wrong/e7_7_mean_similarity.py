"""Likeness is the average over the picks: a copy of one of them hardly counts in a long list."""

from capstone.diversity import *


def mmr(relevance, vectors, k, weight):
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    rows, directions = np.empty(k, dtype=np.intp), unit(vectors)
    penalty = np.empty(k)
    price = weight / (1 - weight)
    left = np.array(relevance, dtype=np.float64)
    total = np.zeros(len(left))
    for step in range(k):
        mean = np.maximum(total / max(step, 1), 0)
        row = int((left - price * mean).argmax())
        rows[step], penalty[step] = row, price * mean[row]
        left[row] = -np.inf
        total += directions @ directions[row]
    return Picks(rows, penalty)
