"""Likeness is to the candidates and not to the picks: one penalty for all steps, outliers win."""

from capstone.diversity import *


def mmr(relevance, vectors, k, weight):
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    directions = unit(vectors)
    price = weight / (1 - weight)
    likeness = directions @ directions.T
    np.fill_diagonal(likeness, 0)
    nearest = np.maximum(likeness.max(axis=1), 0)
    rows = np.argsort(price * nearest - relevance, kind="stable")[:k]
    return Picks(rows, price * nearest[rows])
