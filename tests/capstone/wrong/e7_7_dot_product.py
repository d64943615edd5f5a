"""Likeness is the dot product of raw vectors: long ones, the popular, are like everything."""

from capstone.diversity import *


def mmr(relevance, vectors, k, weight):
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    rows, penalty = np.empty(k, dtype=np.intp), np.empty(k)
    price = weight / (1 - weight)
    left = np.array(relevance, dtype=np.float64)
    nearest = np.zeros(len(left))
    for step in range(k):
        row = int((left - price * nearest).argmax())
        rows[step], penalty[step] = row, price * nearest[row]
        left[row] = -np.inf
        nearest = np.maximum(nearest, vectors @ vectors[row])
    return Picks(rows, penalty)
